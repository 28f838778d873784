//! What each node's kernel must hold and its DNS answers, compiled from Services, EndpointSlices and Nodes, and what
//! each holds.
//!
//! - [`compile`] is pure: objects → ports of services with their backends, and routes;
//! - [`names`] is pure: what cluster DNS says of each service;
//! - [`index`] keeps the compiled state, and recompiles only the service that changed;
//! - [`hub`] follows the watch caches, and shares one snapshot and a ring of changes among all nodes;
//! - [`stream`] is the `DataplaneService`: a session per node, snapshot first, then changes;
//! - [`status`] writes what nodes acknowledge to their DataplaneNode objects.
//!
//! **Invariant:** a batch of revision R brings a node to a state that reflects every change of Services,
//! EndpointSlices and Nodes up to R; revisions never fall. So who has seen a node acknowledge R knows that its
//! kernel has everything written up to R.
//!
//! **Invariant:** a node that was seen to hold R is never brought back behind R, whichever server it turns to: a session
//! begins with a snapshot of what the store held when the session began, or later.
//!
//! Left out: per-node views. Every node gets everything, as every node may serve every NodePort.

mod compile;
mod hub;
mod index;
mod names;
mod status;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use compile::PROXY_NAME;
pub use hub::{Caches, Hub};
pub use stream::Dataplane;
