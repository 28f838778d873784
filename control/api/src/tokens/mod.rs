//! Service accounts' tokens: JSON web tokens (RFC 7519, ES256) as Kubernetes' bound tokens are.
//!
//! A token names its account, whom it is for, until when, and the object that it is bound to. It is good while its
//! signature holds, its time has come and not passed, and account and bound object are still the very ones that it was made
//! for: deleting a pod takes its tokens back. Nothing is kept about tokens that were given out.
//!
//! The key lies in the store beside the cluster's authority ([`keys`]), so that all servers sign and believe alike. [`issue`]
//! answers requests for tokens, [`bearer`] says whose a presented one is, [`review`] does so for others, and [`openid`] publishes
//! what it takes to check tokens elsewhere.
//!
//! Left out: rotation of the key, other issuers, tokens in Secrets (of Kubernetes before 1.24), and the year that Kubernetes
//! adds to the life of tokens it mounts itself, for clients that do not read them again.

mod bearer;
mod claims;
mod issue;
mod keys;
pub(crate) mod openid;
mod review;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use weir_proto::status::ApiError;
use weir_store::Store;

pub(crate) use bearer::{Refused, of_header};
use claims::Claims;
pub(crate) use issue::check_seconds;
use keys::Keys;
pub(crate) use review::{by_plural, is_review, reviews};

/// Who signs, as tokens say it; also whom they are for, where a request names nobody.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Signatures that are remembered as checked.
const MOST_CHECKED: usize = 4096;

/// The cluster's key, and what was signed by it.
pub(crate) struct Tokens {
    store: Arc<dyn Store>,
    keys: OnceCell<Keys>,
    /// Checking a signature takes a fraction of a millisecond, and clients show the same token all the time.
    checked: Mutex<HashMap<Box<str>, Arc<Claims>>>,
}

impl Tokens {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Tokens { store, keys: OnceCell::new(), checked: Mutex::default() }
    }

    /// The key, read or made when it is first asked for.
    pub(crate) async fn keys(&self) -> Result<&Keys, ApiError> {
        self.keys.get_or_try_init(|| Keys::share(self.store.as_ref())).await
    }

    /// What a token says whose signature was found good before.
    pub(crate) fn known(&self, token: &str) -> Option<Arc<Claims>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    fn remember(&self, token: &str, claims: Arc<Claims>) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.len() >= MOST_CHECKED {
            checked.clear();
        }
        checked.insert(token.into(), claims);
    }
}
