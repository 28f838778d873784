//! The flags that say what clients may ask of the API server at most.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use weir_api::{Limits, Rate};

/// Descriptors for everything that is not a client's connection.
const OTHER_FILES: u64 = 512;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits of the API server")]
pub(crate) struct LimitFlags {
    /// Connections at a time; more are closed at once
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    max_connections: usize,

    /// Connections at a time from one address
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_connections_per_address: usize,

    /// Connections at a time of clients without a certificate
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_anonymous_connections: usize,

    /// Requests at work at a time that only read
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_requests_inflight: usize,

    /// Requests at work at a time that change something
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_mutating_requests_inflight: usize,

    /// Time until an answer begins, the arrival of the request's body included
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    request_timeout: Duration,

    /// Requests a second of one user, in the long run; 0 = no limit
    #[arg(long, value_name = "N", default_value_t = 5000)]
    client_qps: u32,

    /// Requests that one user may send at once
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    client_burst: u32,

    /// Requests a second of one node's agent, in the long run; 0 = no limit
    #[arg(long, value_name = "N", default_value_t = 500)]
    node_qps: u32,

    /// Requests that one node's agent may send at once
    #[arg(long, value_name = "N", default_value_t = 2000)]
    node_burst: u32,
}

impl LimitFlags {
    pub(crate) fn check(&self) -> Result<()> {
        let numbers = [
            ("--max-connections", self.max_connections),
            ("--max-connections-per-address", self.max_connections_per_address),
            ("--max-requests-inflight", self.max_requests_inflight),
            ("--max-mutating-requests-inflight", self.max_mutating_requests_inflight),
        ];
        for (flag, number) in numbers {
            if !(1..=1_000_000).contains(&number) {
                bail!("{flag} must be between 1 and 1000000");
            }
        }
        if self.request_timeout.is_zero() {
            bail!("--request-timeout must be longer than nothing");
        }
        for (flag, rate, burst) in [
            ("--client-burst", self.client_qps, self.client_burst),
            ("--node-burst", self.node_qps, self.node_burst),
        ] {
            if rate > 0 && burst == 0 {
                bail!("{flag} must be at least 1");
            }
        }
        Ok(())
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            connections_per_peer: self.max_connections_per_address,
            anonymous_connections: self.max_anonymous_connections,
            reads_in_flight: self.max_requests_inflight,
            writes_in_flight: self.max_mutating_requests_inflight,
            request_timeout: self.request_timeout,
            client_rate: Rate { per_second: self.client_qps, burst: self.client_burst },
            node_rate: Rate { per_second: self.node_qps, burst: self.node_burst },
            ..Limits::default()
        }
    }

    /// Takes as many descriptors as the system allows, and says where that is less than the connections need.
    pub(crate) fn raise_open_files(&self) {
        let raised = getrlimit(Resource::RLIMIT_NOFILE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
        let needed = self.max_connections as u64 + OTHER_FILES;
        match raised {
            Ok(most) if most >= needed => {}
            Ok(most) => {
                tracing::warn!(most, needed, "fewer open files are allowed than --max-connections needs")
            }
            Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
        }
    }
}

/// "90s", "5m", "1h", "1h30m".
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(parsed).map_err(|_| "a duration is not negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_operators_write_them() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1h0m0s", 3600), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "-5s", "soon"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
