//! Filter, score, place, bind.
//!
//! [`run`] follows the API server and writes; all deciding is in [`scheduler::Scheduler`], which does no I/O.
//!
//! - [`cluster`] is the picture of nodes and pods, kept up to date change by change;
//! - [`queue`] holds the pods that wait, and wakes them when something happens that could help;
//! - [`framework`] says what a plugin is, [`plugins`] are Kubernetes' by name;
//! - [`evaluation`] holds one shape of pod against all nodes, shared by all pods of that shape;
//! - [`placement`] picks the node; [`failure`] says why there is none.
//!
//! **Invariant:** no I/O and no clock outside of `run` and `report`: equal histories give equal decisions.
//! **Invariant:** a wish that no plugin serves is refused in the pod's condition, never ignored.

pub mod cluster;
pub mod counters;
pub mod evaluation;
pub mod failure;
pub mod framework;
mod intake;
pub mod node;
pub mod placement;
pub mod plugins;
pub mod pod;
pub mod queue;
mod report;
pub mod resources;
mod run;
pub mod scheduler;
pub mod selector;
pub mod tally;
#[cfg(test)]
mod testing;

pub use run::{Config, run};
