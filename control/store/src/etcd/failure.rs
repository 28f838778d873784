//! What an error of etcd means: is it final, has the request surely not been performed, or does nobody know?
//!
//! etcd tells its errors apart by their text; the texts are those of `rpctypes` in etcd's source, the same since 3.4.

use tonic::{Code, ConnectError, Status};

use crate::Error;

/// What became of a request that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Asking again, or another member, changes nothing.
    Final(Error),
    /// Surely not performed: the member was not reached, or refused before proposing it.
    NotPerformed(String),
    /// The answer got lost on the way.
    Unknown(String),
}

/// A request that etcd answered, and refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) operation: &'static str,
    /// The past revision it asked for, if any.
    pub(super) revision: i64,
}

impl Failure {
    pub(super) fn of(error: etcd_client::Error, asked: Asked) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::of_status(&status, asked),
            etcd_client::Error::TransportError(error) => Self::NotPerformed(error.to_string()),
            error @ (etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_)) => {
                Self::Final(Error::Config { reason: error.to_string() })
            }
            other => Self::Unknown(other.to_string()),
        }
    }

    fn of_status(status: &Status, Asked { operation, revision }: Asked) -> Self {
        let text = status.message();
        let says = |part: &str| text.contains(part);
        if says("required revision has been compacted") {
            // etcd does not say up to where; it is beyond what was asked for.
            return Self::Final(Error::Compacted { compacted: revision + 1 });
        }
        if says("required revision is a future revision") {
            return Self::Final(Error::FutureRevision { requested: revision });
        }
        if says("database space exceeded") {
            return Self::Final(Error::NoSpace);
        }
        // The server's limit may be set below ours.
        if says("request is too large") || says("too many operations") || says("message larger than max") {
            return Self::Final(Error::Denied { operation, reason: text.to_owned() });
        }
        if refused_before_proposal(text) || never_reached(status) {
            return Self::NotPerformed(reason(status));
        }
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => {
                Self::Final(Error::Denied { operation, reason: text.to_owned() })
            }
            _ => Self::Unknown(reason(status)),
        }
    }
}

/// Whether etcd says that the lease does not exist.
pub(super) fn names_no_lease(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => status.message().contains("requested lease not found"),
        etcd_client::Error::LeaseKeepAliveError(text) => text == "lease not found",
        _ => false,
    }
}

fn refused_before_proposal(text: &str) -> bool {
    ["etcdserver: no leader", "etcdserver: not capable", "etcdserver: too many requests"]
        .iter()
        .any(|refusal| text.contains(refusal))
}

/// Whether no connection was made, so that nothing was sent.
fn never_reached(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The status's text and the deepest cause, which tells most.
fn reason(status: &Status) -> String {
    let mut deepest = std::error::Error::source(status);
    while let Some(next) = deepest.and_then(std::error::Error::source) {
        deepest = Some(next);
    }
    let text = status.message();
    match deepest.map(ToString::to_string) {
        Some(cause) if cause != text => format!("{text}: {cause}"),
        _ if text.is_empty() => status.code().to_string(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, text: &str) -> Failure {
        let asked = Asked { operation: "list", revision: 7 };
        Failure::of(etcd_client::Error::GRpcStatus(Status::new(code, text)), asked)
    }

    #[test]
    fn a_refusal_that_names_a_revision_is_final() {
        let compacted = of(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        assert!(matches!(compacted, Failure::Final(Error::Compacted { compacted: 8 })));
        let future = of(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
        assert!(matches!(future, Failure::Final(Error::FutureRevision { requested: 7 })));
    }

    #[test]
    fn a_full_database_is_out_of_space() {
        let full = of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full, Failure::Final(Error::NoSpace)));
    }

    #[test]
    fn without_a_leader_nothing_was_performed_but_a_time_out_tells_nothing() {
        assert!(matches!(of(Code::Unavailable, "etcdserver: no leader"), Failure::NotPerformed(_)));
        assert!(matches!(of(Code::Unavailable, "etcdserver: request timed out"), Failure::Unknown(_)));
        assert!(matches!(of(Code::Unavailable, "etcdserver: leader changed"), Failure::Unknown(_)));
        assert!(matches!(of(Code::Unknown, "transport error"), Failure::Unknown(_)));
    }
}
