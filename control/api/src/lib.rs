//! The API server: gRPC and Kubernetes' REST on one TLS port, over a watch cache.
//!
//! A request passes the [gate](server), is read by one of two thin faces (`grpc`, `rest`), and becomes a verb of the
//! [`registry`], which authorizes it ([`auth`]), fills in and checks what the kind asks for (`strategy`, `admission`,
//! `validation`), gives out addresses ([`allocate`]) and writes by compare-and-swap. Reads and watches come from the
//! [`cache`]. [`dataplane`] compiles services for the nodes' kernels.
//!
//! The server keeps nothing but what is in the store and in its `pki/` directory: any number of them may serve one
//! store.

mod admission;
mod agents;
pub mod allocate;
pub mod auth;
pub mod cache;
mod compaction;
pub mod dataplane;
mod grpc;
mod logs;
mod metrics;
pub mod pki;
mod random;
pub mod registry;
mod rest;
mod server;
mod sessions;
mod store_error;
mod strategy;
mod tokens;
mod usage;
mod validation;

pub use auth::User;
pub use server::{Config, InProcess, Limits, Rate, Server, ServerError};
