//! Events go by themselves: they are put under a store lease. One lease serves all events of a few minutes.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use weir_proto::status::ApiError;
use weir_store::{LeaseId, Store};

use crate::store_error;

/// How long an event stays.
const STAYS: Duration = Duration::from_secs(3600);
/// How long a lease is given to new events.
const REUSED: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct EventLease {
    current: Mutex<Option<(LeaseId, Instant)>>,
}

impl EventLease {
    /// A lease with at least an hour to go.
    pub(super) async fn current(&self, store: &dyn Store) -> Result<LeaseId, ApiError> {
        let mut current = self.current.lock().await;
        if let Some((lease, granted)) = *current
            && granted.elapsed() < REUSED
        {
            return Ok(lease);
        }
        let lease = store.grant_lease(STAYS + REUSED).await.map_err(store_error::during("write"))?;
        *current = Some((lease, Instant::now()));
        Ok(lease)
    }
}
