//! How errors look: what the server said, in kubectl's words, else what went wrong here. And exit codes: 1 for any
//! failure, as kubectl has it; `diff` alone tells "different" (1) from "failed" (2 and more).

use std::io;
use std::process::ExitCode;

use anyhow::{Error, Result};

use crate::session::Session;
use crate::terminal::{Colour, Terminal, paint};

/// Nothing more to say: the exit code alone.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub(crate) struct Exit(pub(crate) u8);

/// Says what happened, once, and how to exit.
pub(crate) fn report(terminal: &Terminal, error: &Error) -> u8 {
    if let Some(Exit(code)) = error.downcast_ref() {
        return *code;
    }
    // Who closed the pipe has seen enough.
    let broken_pipe = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(broken_pipe)) {
        return 0;
    }
    let text = text(error);
    match text.split_once(": ") {
        Some((first, rest)) if terminal.colours => {
            terminal.note(format_args!("{} {rest}", paint(&format!("{first}:"), Colour::Red)));
        }
        _ => terminal.note(text),
    }
    1
}

pub(crate) fn exit(code: u8) -> ExitCode {
    ExitCode::from(code)
}

fn text(error: &Error) -> String {
    let client = error.chain().find_map(|cause| cause.downcast_ref::<weir_client::Error>());
    let Some(client) = client else { return format!("error: {error:#}") };
    let context: Vec<String> = error
        .chain()
        .take_while(|cause| cause.downcast_ref::<weir_client::Error>().is_none())
        .map(|cause| format!("{cause}: "))
        .collect();
    let context = context.concat();
    match client {
        weir_client::Error::Api(status) if status.reason() == "Invalid" => {
            let message = status.message();
            // kubectl names the kind without its group here.
            format!("{context}The {}", message.replacen(".apps ", " ", 1))
        }
        weir_client::Error::Api(status) => {
            format!("Error from server ({}): {context}{}", status.reason(), status.message())
        }
        weir_client::Error::Transport { server, reason, .. } if reason.contains("Connection refused") => {
            format!(
                "The connection to the server {server} was refused - did you specify the right host or port?"
            )
        }
        weir_client::Error::Transport { .. } => format!("Unable to connect to the server: {context}{client}"),
        other => format!("error: {context}{other}"),
    }
}

/// Work on several objects goes on when one fails: each failure is said as it happens, and the command fails.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: usize,
}

impl Failures {
    /// The value, or None after having said why there is none.
    pub(crate) fn keep<T>(&mut self, session: &Session, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                report(&session.terminal, &error);
                self.count += 1;
                None
            }
        }
    }

    pub(crate) fn finish(self) -> Result<()> {
        if self.count > 0 { Err(Exit(1).into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use weir_proto::ApiError;

    use super::*;

    #[test]
    fn errors_read_as_in_kubectl() {
        let pods = weir_proto::resolve("pods").unwrap();
        let of_server = |status| Error::new(weir_client::Error::Api(status));
        let refused = weir_client::Error::Transport {
            operation: "list pods".to_owned(),
            server: "https://127.0.0.1:1".to_owned(),
            reason: "tcp connect error: Connection refused (os error 111)".to_owned(),
            sent: false,
        };
        for (error, want) in [
            (anyhow!("no such thing").context("do it"), "error: do it: no such thing"),
            (of_server(ApiError::not_found(pods, "x")), "Error from server (NotFound): pods \"x\" not found"),
            (
                of_server(ApiError::forbidden("not you")).context("file.yaml, line 3"),
                "Error from server (Forbidden): file.yaml, line 3: not you",
            ),
            (of_server(ApiError::invalid(pods, "x", Vec::new())), "The Pod \"x\" is invalid: []"),
            (
                Error::new(refused),
                "The connection to the server https://127.0.0.1:1 was refused - did you specify the right host or port?",
            ),
        ] {
            assert_eq!(text(&error), want);
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_an_exit_code_says_nothing() {
        let terminal = Terminal::captured();
        let closed = Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("write");
        assert_eq!(report(&terminal, &closed), 0);
        assert_eq!(report(&terminal, &Exit(3).into()), 3);
        assert_eq!(terminal.text(), "");
        assert_eq!(report(&terminal, &anyhow!("so")), 1);
        assert_eq!(terminal.text(), "error: so\n");
    }
}
