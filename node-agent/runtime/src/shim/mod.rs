//! The container shim and the agent's side of it.

pub mod exec;

#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("{0}")]
    Create(String),
    #[error("{0}")]
    Start(String),
}

impl ShimError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Create(_) => "CreateContainerError",
            Self::Start(_) => "RunContainerError",
        }
    }
}

/// Runs the shim, the sandbox helper or an exec session when this process was started as one (`argv[1]`), and exits.
/// Returns at once otherwise. To be called first in `main`, before any thread exists.
pub fn dispatch() {}
