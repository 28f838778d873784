//! The client of Weir's API: what the scheduler, the controllers, the agent and the command line speak through.
//!
//! [`Client`] reaches the API server over TLS, or in the same process without a socket ([`Client::in_process`]);
//! everything above it is the same either way. [`Api`] is the typed face of a kind, [`DynamicApi`] the same for a
//! kind known only at run time. [`Informer`] keeps a live copy of a kind, [`Recorder`] writes events that count
//! their repeats, [`election`] lets one of several instances lead.
//!
//! Left out on purpose: caching of single reads (that is what informers are for) and retries of writes (only the
//! caller knows whether a write may happen twice); a write is sent again only when it never left this machine.

mod api;
mod backoff;
mod client;
mod config;
mod dynamic;
pub mod election;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod informer;
mod key;
mod kubeconfig;
pub mod metrics;
mod recorder;
mod rest;
mod transport;
mod verbs;
mod watch;

pub use api::{Api, Modified};
pub use backoff::Backoff;
pub use client::Client;
pub use config::{Config, ConfigError};
pub use dynamic::DynamicApi;
pub use error::Error;
pub use informer::{Change, Informer, Notice};
pub use key::ObjectKey;
pub use recorder::{Recorder, Severity, reference};
pub use transport::Transport;
pub use verbs::{DeleteOptions, List, ListOptions, Patch, Propagation, WatchOptions};
pub use watch::{WatchEvent, WatchStream};

/// What every call of this crate answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;
