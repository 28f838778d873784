//! Events go by themselves: they are put under a store lease, and under a newer one when they are heard of again. One lease
//! serves all events of a while.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use weir_proto::status::ApiError;
use weir_store::{LeaseId, Store};

use crate::metrics;
use crate::store_error;

/// How long a lease is given to new events, at most.
const REUSED: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct EventLease {
    /// How long an event stays at least.
    ttl: Duration,
    reused: Duration,
    current: Mutex<Option<(LeaseId, Instant)>>,
}

impl EventLease {
    pub(super) fn new(ttl: Duration) -> Self {
        EventLease { ttl, reused: REUSED.min(ttl / 10), current: Mutex::default() }
    }

    /// A lease with at least the events' time to go.
    pub(super) async fn current(&self, store: &dyn Store) -> Result<LeaseId, ApiError> {
        let mut current = self.current.lock().await;
        if let Some((lease, granted)) = *current
            && granted.elapsed() < self.reused
        {
            return Ok(lease);
        }
        let lease = store.grant_lease(self.ttl + self.reused).await.map_err(store_error::during("write"))?;
        metrics::EVENT_LEASES.inc();
        *current = Some((lease, Instant::now()));
        Ok(lease)
    }
}
