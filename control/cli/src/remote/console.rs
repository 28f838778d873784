//! The terminal that the command line runs in, handed through to a process elsewhere.

use std::io::{self, IsTerminal, Read};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;
use weir_proto::weir::v1::{CloseStdin, SessionInput, TerminalSize, session_input};

/// Bytes read at a time.
const BLOCK: usize = 32 * 1024;

/// Keys come as they are pressed, and nothing is written to the terminal but what is asked for: until this is dropped.
#[derive(Debug)]
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

pub(crate) fn is_terminal() -> bool {
    io::stdin().is_terminal()
}

pub(crate) fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    Some(TerminalSize { columns: size.ws_col.into(), rows: size.ws_row.into() })
}

/// Sends standard input until its end. On a thread of its own, which nobody waits for: a read of a terminal cannot be
/// called back.
pub(super) fn send_stdin(inputs: mpsc::Sender<SessionInput>) -> io::Result<()> {
    let read = move || {
        let mut buffer = vec![0; BLOCK];
        let mut stdin = io::stdin();
        loop {
            let frame = match stdin.read(&mut buffer) {
                Ok(count @ 1..) => session_input::Frame::Stdin(buffer[..count].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => session_input::Frame::CloseStdin(CloseStdin {}),
            };
            let last = matches!(frame, session_input::Frame::CloseStdin(_));
            if inputs.blocking_send(SessionInput { frame: Some(frame) }).is_err() || last {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdin".into()).spawn(read).map(drop)
}
