//! How fast each client may send requests: a token bucket for every name that a certificate bears, and for every
//! address without one.
//!
//! A connection looks its bucket up once, so that a request costs one atomic operation. A bucket outlives its connections
//! until it is full again: who reconnects gains nothing.
//!
//! **Invariant:** memory is bounded. Beyond [`MOST`] clients, those who are new share one bucket.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::limits::{Limits, Rate};
use crate::auth::User;
use crate::metrics;

/// Clients that are told apart.
const MOST: usize = 65_536;
/// How often at least it is looked for buckets that nobody needs any more.
const SWEEP_EVERY: usize = 1024;

/// One client's bucket.
#[derive(Debug)]
pub(super) struct Budget {
    limiter: DefaultDirectRateLimiter,
    /// When it will be full again, whatever was taken.
    full_after: Duration,
    /// When a connection of the client was last seen to begin or end.
    used: Mutex<Instant>,
}

impl Budget {
    fn new(rate: Rate) -> Option<Arc<Budget>> {
        let per_second = NonZeroU32::new(rate.per_second)?;
        let burst = NonZeroU32::new(rate.burst).unwrap_or(per_second);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let full_after = quota.burst_size_replenished_in();
        let used = Mutex::new(Instant::now());
        Some(Arc::new(Budget { limiter: RateLimiter::direct(quota), full_after, used }))
    }

    /// Takes one request's share; `Err` says how long to wait for it.
    pub(super) fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|early| early.wait_time_from(DefaultClock::default().now()))
    }

    /// A connection of the client is gone; from now on nothing may be taken.
    pub(super) fn rest(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_full(&self) -> bool {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > self.full_after
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    User(String),
    Address(IpAddr),
}

/// The buckets of all clients.
#[derive(Debug)]
pub(super) struct Budgets {
    client: Rate,
    node: Rate,
    anonymous: Rate,
    most: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<Name, Arc<Budget>>,
    added: usize,
    shared: Option<Arc<Budget>>,
}

impl Budgets {
    pub(super) fn new(limits: &Limits) -> Self {
        Budgets {
            client: limits.client_rate,
            node: limits.node_rate,
            anonymous: limits.anonymous_rate,
            most: MOST,
            table: Mutex::default(),
        }
    }

    /// The bucket of whoever connected; `None` where there is no limit.
    pub(super) fn of(&self, user: Option<&User>, address: IpAddr) -> Option<Arc<Budget>> {
        let (name, rate) = match user {
            Some(user) if user.node_name().is_some() => (Name::User(user.name.clone()), self.node),
            Some(user) => (Name::User(user.name.clone()), self.client),
            None => (Name::Address(address), self.anonymous),
        };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = table.known.get(&name) {
            known.rest();
            return Some(known.clone());
        }
        table.added += 1;
        if table.added >= SWEEP_EVERY {
            table.added = 0;
            // A connection holds its own; what is left is needed until it is full.
            table.known.retain(|_, budget| Arc::strong_count(budget) > 1 || !budget.is_full());
        }
        let budget = if table.known.len() < self.most {
            let budget = Budget::new(rate)?;
            table.known.insert(name, budget.clone());
            budget
        } else {
            match &table.shared {
                Some(shared) => shared.clone(),
                None => table.shared.insert(Budget::new(rate)?).clone(),
            }
        };
        metrics::CLIENTS.set(i64::try_from(table.known.len()).unwrap_or(i64::MAX));
        Some(budget)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn budgets(per_second: u32, burst: u32) -> Budgets {
        let rate = Rate { per_second, burst };
        let limits = Limits { client_rate: rate, node_rate: rate, anonymous_rate: rate, ..Limits::default() };
        Budgets::new(&limits)
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn a_client_has_one_bucket_however_often_it_connects() {
        let budgets = budgets(1, 3);
        let jane = User::new("jane", &[]);
        let mut taken = 0;
        for connection in 0..10 {
            let budget = budgets.of(Some(&jane), address(connection)).unwrap();
            taken += usize::from(budget.take().is_ok());
        }
        assert!((3..=4).contains(&taken), "{taken}");
        let wait = budgets.of(Some(&jane), address(0)).unwrap().take().unwrap_err();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        assert!(budgets.of(Some(&User::new("joe", &[])), address(0)).unwrap().take().is_ok());
    }

    #[test]
    fn more_clients_than_can_be_told_apart_share_a_bucket() {
        let budgets = Budgets { most: 10, ..budgets(1, 1000) };
        let held: Vec<_> = (0..100).filter_map(|number| budgets.of(None, address(number))).collect();
        assert_eq!(held.len(), 100);
        assert_eq!(budgets.table.lock().unwrap().known.len(), 10);
        assert!(Arc::ptr_eq(&held[50], &held[99]) && !Arc::ptr_eq(&held[0], &held[1]));
    }

    #[test]
    fn a_rate_of_zero_is_none() {
        assert!(budgets(0, 0).of(None, address(1)).is_none());
    }
}
