//! What the verbs share that reach into pods: which pod and container is meant, and a session with it.

mod console;
mod pods;
pub(crate) mod session;

pub(crate) use pods::{container, pod_of};
