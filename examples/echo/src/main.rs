//! `echo`: the one program of the demo image.
//!
//! `echo serve` answers HTTP and UDP on port 8080 with the pod and node it runs on; `echo request` sends requests
//! and prints, as one line of JSON, who answered how often; `echo exit` only ends. Static, so that the image is one file.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line")]

mod drain;
mod request;
mod serve;

use std::process::ExitCode;

const USAGE: &str = "usage: echo serve [--port 8080]
       echo request --target ADDRESS:PORT [--count 1000] [--concurrency 4] [--timeout-ms 5000] [--udp]
                    [--rate PER-SECOND] [--until-eof]
       echo exit [CODE]";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next();
    let flags: Vec<String> = words.collect();
    let outcome = match command.as_deref() {
        Some("serve") => parse(&flags, "--port", 8080).and_then(serve::run),
        Some("request") => request::Request::parse(&flags).and_then(|request| request.run()),
        Some("exit") => {
            let code = flags.first().map_or(Ok(0), |code| code.parse().map_err(|_| USAGE.to_owned()));
            code.map(ExitCode::from)
        }
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(code) => code,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// The value after `flag`, or `default` where the flag is absent.
fn parse<T: std::str::FromStr>(flags: &[String], flag: &str, default: T) -> Result<T, String> {
    let Some(at) = flags.iter().position(|word| word == flag) else { return Ok(default) };
    let value = flags.get(at + 1).ok_or_else(|| format!("{flag} wants a value\n{USAGE}"))?;
    value.parse().map_err(|_| format!("{flag} {value}: not a valid value\n{USAGE}"))
}
