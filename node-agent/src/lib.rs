//! The node agent: makes the pods that the control plane assigned to this node run, and its kernel hold the services.
//!
//! The agent knows the cluster only through the API: its Node and Lease, its pods by watch, the dataplane by one
//! stream. What it makes lives without it: containers behind their shims, programs and maps pinned, links and routes in
//! the kernel. An agent that starts finds all of it again and changes nothing that is as it should be.
//!
//! - [`config`]: flags. [`identity`]: joining, the node's certificate.
//! - [`node`]: the Node object and its heartbeat.
//! - [`pods`]: one worker per pod; observe, plan, perform, report.
//! - [`dataplane`]: the thread that owns the eBPF dataplane, and the stream that feeds it.
//! - [`dns`]: the names of services and pods, answered on this node.
//! - [`server`]: logs, sessions, forwarded ports and live views, for the API server alone.
//! - [`stats`]: what the node, its pods and their containers use.
//! - [`heap`]: what the allocator keeps.
//! - [`static_pods`]: pods from files, with or without a control plane.
//! - [`eviction`]: what happens when memory, disk or process ids run out; `shutdown`: when the machine is to go.
//! - [`upkeep`]: images that nobody uses go, logs that have grown are rotated.

/// What this build says it is: on its Node, in its metrics, on the command line. Written into the program once.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub mod agent;
pub mod config;
pub mod dataplane;
pub mod dns;
pub mod eviction;
pub mod heap;
pub mod identity;
mod membership;
mod metrics;
pub mod node;
pub mod pods;
pub mod server;
mod shutdown;
pub mod static_pods;
pub mod stats;
pub mod upkeep;
