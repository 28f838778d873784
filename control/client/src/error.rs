//! What can go wrong between asking and having the answer.

use std::time::Duration;

use weir_proto::status::ApiError;

use crate::backoff::spread;
use crate::config::ConfigError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server understood and said no; reason and causes are Kubernetes'.
    #[error(transparent)]
    Api(ApiError),
    /// The server was not reached, or the connection broke before the answer.
    #[error("{operation}: cannot reach {server}: {reason}")]
    Transport {
        operation: String,
        server: String,
        reason: String,
        /// False where the request certainly never left, so that sending it again cannot do it twice.
        sent: bool,
    },
    #[error("{operation}: no answer from {server} within {seconds} s")]
    Timeout { operation: String, server: String, seconds: u64 },
    #[error("{operation}: the answer cannot be decoded: {reason}")]
    Decode { operation: String, reason: String },
    #[error("{operation}: the patch cannot be written as JSON: {source}")]
    Patch { operation: String, source: serde_json::Error },
    /// A client bound to a leadership ([`crate::Client::fenced`]) that has ended writes no more.
    #[error("{operation}: not sent, because this instance does not lead any more")]
    NotLeader { operation: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Error {
    /// The server's own answer, where it gave one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Error::Api(error) => Some(error),
            _ => None,
        }
    }

    fn is(&self, reasons: &[&str]) -> bool {
        self.api().is_some_and(|error| reasons.contains(&error.reason()))
    }

    /// How long a server that has too much to do asks to be left alone; spread, so that not all return at once.
    pub(crate) fn asked_to_wait(&self) -> Option<Duration> {
        let refused = self.api().filter(|error| error.reason() == "TooManyRequests")?;
        let seconds = refused.status().details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
        Some(spread(Duration::from_secs(2 * seconds)))
    }

    pub fn is_not_found(&self) -> bool {
        self.is(&["NotFound"])
    }

    pub fn is_conflict(&self) -> bool {
        self.is(&["Conflict"])
    }

    pub fn is_already_exists(&self) -> bool {
        self.is(&["AlreadyExists"])
    }

    /// What was asked for is too old; list anew.
    pub fn is_gone(&self) -> bool {
        self.is(&["Expired", "Gone"])
    }

    pub fn is_invalid(&self) -> bool {
        self.is(&["Invalid", "BadRequest"])
    }

    pub fn is_forbidden(&self) -> bool {
        self.is(&["Forbidden"])
    }

    /// The write was made as a leader, and another leads by now.
    pub fn is_deposed(&self) -> bool {
        let lost = |error: &ApiError| error.causes().iter().any(|cause| cause.reason == "LeadershipLost");
        self.api().is_some_and(lost)
    }

    /// Nothing was wrong with the request: the same may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Transport { .. } | Error::Timeout { .. })
            || self.is(&["ServiceUnavailable", "TooManyRequests", "Timeout", "ServerTimeout"])
    }
}
