//! Where the command line talks to: the terminal, or a buffer that a test reads afterwards.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

#[derive(Debug)]
pub(crate) struct Terminal {
    sink: Sink,
    /// Colours are for people: never in a pipe or a file, and not where `NO_COLOR` asks for none.
    pub(crate) colours: bool,
}

#[derive(Debug)]
enum Sink {
    Standard,
    #[cfg_attr(not(test), expect(dead_code, reason = "what tests read"))]
    Captured(RefCell<Vec<u8>>),
}

impl Terminal {
    pub(crate) fn standard() -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { sink: Sink::Standard, colours }
    }

    #[cfg(test)]
    pub(crate) fn captured() -> Self {
        Self { sink: Sink::Captured(RefCell::default()), colours: false }
    }

    /// To standard output, at once: another program may be waiting for it.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match &self.sink {
            Sink::Standard => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Sink::Captured(buffer) => {
                buffer.borrow_mut().extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// A line beside the output: to standard error.
    pub(crate) fn note(&self, line: impl Display) {
        match &self.sink {
            Sink::Standard => eprintln!("{line}"),
            Sink::Captured(buffer) => buffer.borrow_mut().extend_from_slice(format!("{line}\n").as_bytes()),
        }
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> String {
        match &self.sink {
            Sink::Standard => String::new(),
            Sink::Captured(buffer) => String::from_utf8_lossy(&buffer.borrow()).into_owned(),
        }
    }
}

/// `text` in red, green or yellow.
pub(crate) fn paint(text: &str, colour: Colour) -> String {
    format!("\x1b[{}m{text}\x1b[0m", colour as u8)
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
}
