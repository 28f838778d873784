//! The container shim and the agent's side of it.
//!
//! libcontainer clones its caller without telling the allocator or anybody else, so it runs in processes with one thread:
//! a shim for each container, an exec helper for each further process, a sandbox helper for each pod, and for pods that
//! share one process namespace its first process. All are the agent's own program, started again from a sealed copy in
//! memory (`Program`), told apart by `argv[1]`.
//!
//! Agent's side: `Program` starts processes, `client` talks to a shim, `exec` to an exec helper. Shim's side: `create` and
//! `server` are its life, `init` what runs in the container before its program, `terminal` what it has for a terminal and
//! `console` where it finds that, `output` the log, `attach` the sessions. `protocol` and `passing` are between the two.

pub(crate) mod attach;
pub(crate) mod client;
mod console;
mod create;
pub mod exec;
mod init;
mod loadable;
mod output;
mod passing;
pub(crate) mod process;
mod program;
pub(crate) mod protocol;
mod server;
mod terminal;

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use create::Settings;
pub(crate) use program::Program;
pub use terminal::{TerminalSize, resize_terminal};

/// File names in a container's directory.
pub(crate) const SETTINGS_FILE: &str = "shim.json";
pub(crate) const SOCKET_FILE: &str = "shim.sock";
pub(crate) const LOCK_FILE: &str = "shim.lock";
pub(crate) const LOG_FILE: &str = "shim.log";
pub(crate) const INIT_FILE: &str = "init.json";
pub(crate) const EXIT_FILE: &str = "exit.json";
/// libcontainer's own state.
pub(crate) const LIBCONTAINER_DIR: &str = "libcontainer";

#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The container could not be made.
    #[error("{0}")]
    Create(String),
    /// The container was made, but its program could not be executed.
    #[error("{0}")]
    Start(String),
    #[error("container {key} has ended")]
    Ended { key: String },
    #[error("exec failed: {0}")]
    Exec(String),
    #[error("cannot attach: {0}")]
    Attach(String),
    #[error("command did not end within {seconds} s")]
    ExecTimeout { seconds: u64 },
    #[error("cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

impl ShimError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Start(_) => "RunContainerError",
            _ => "CreateContainerError",
        }
    }
}

/// Runs the shim, the sandbox helper or an exec session when this process was started as one (`argv[1]`), and exits.
/// Returns at once otherwise. To be called first in `main`, before any thread exists.
pub fn dispatch() {
    let mut arguments = std::env::args_os().skip(1);
    let subcommand = arguments.next();
    let result = match subcommand.as_deref().and_then(|word| word.to_str()) {
        Some("shim") => server::run(arguments.next().unwrap_or_default().into()),
        Some("sandbox") => crate::sandbox::helper::run(),
        Some("pause") => crate::sandbox::pause::run(),
        Some("exec") => exec::run_helper(),
        _ => return,
    };
    if let Err(problem) = result {
        use std::io::Write;
        // The one who started this process reads it; when nobody does any more there is nobody to tell.
        let _ = writeln!(io::stderr(), "{problem}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShimError {
    let path = path.to_owned();
    move |source| ShimError::Io { operation, path, source }
}
