//! Why a reconciliation has to be tried again.

use weir_client::informer::Behind;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Client(#[from] weir_client::Error),
    /// The local copy does not show yet what was just written; acting on it could do things twice.
    #[error(transparent)]
    Behind(#[from] Behind),
    #[error("{object}: the selector cannot be used: {reason}")]
    Selector { object: String, reason: String },
}

impl Error {
    /// Part of the normal course of things: somebody else wrote first, or this instance is on its way out.
    pub(crate) fn is_expected(&self) -> bool {
        match self {
            Error::Client(error) => {
                error.is_conflict()
                    || error.is_not_found()
                    || matches!(error, weir_client::Error::NotLeader { .. })
            }
            Error::Behind(_) | Error::Selector { .. } => false,
        }
    }
}
