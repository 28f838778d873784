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
