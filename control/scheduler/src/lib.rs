//! Filter, score, place, bind.
//!
//! [`run`] follows the API server and writes; all deciding is in [`scheduler::Scheduler`], which does no I/O.
//!
//! - [`cluster`] is the picture of nodes and pods, kept up to date change by change;
//! - [`queue`] holds the pods that wait, and wakes them when something happens that could help;
//! - [`framework`] says what a plugin is, [`plugins`] are Kubernetes' by name;
//! - [`evaluation`] holds one shape of pod against all nodes, shared by all pods of that shape;
//! - [`placement`] picks the node; [`failure`] says why there is none;
//! - [`preemption`] picks pods of lower priority that have to leave, [`nominations`] keep what they leave from others;
//! - [`settings`] is what an operator may set, [`configuration`] the file it is read from.
//!
//! **Invariant:** no I/O outside of `run` and `report`, and no clock decides: equal histories give equal decisions.
//! **Invariant:** a wish that no plugin serves is refused in the pod's condition, never ignored.

pub mod cluster;
pub mod configuration;
pub mod counters;
pub mod evaluation;
pub mod failure;
pub mod framework;
mod intake;
mod metrics;
pub mod node;
pub mod nominations;
pub mod placement;
pub mod plugins;
pub mod pod;
pub mod preemption;
pub mod queue;
mod report;
pub mod resources;
mod run;
pub mod scheduler;
pub mod selector;
pub mod settings;
pub mod tally;
#[cfg(test)]
mod testing;

pub use run::{Config, run};
