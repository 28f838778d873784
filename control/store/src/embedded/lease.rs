//! Leases: when each ends, and which keys end with it. Pure; `now` is an input.
//!
//! Only a lease's number and duration are durable. After a restart each starts its time anew, as etcd's do when the
//! leader changes: a lease may live longer than asked for, never shorter. Ends are found by looking at all leases, which
//! are few: leader elections, not objects.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::LeaseId;

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    /// `None` while it is being ended: too late to keep it alive.
    deadline: Option<Instant>,
    keys: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: HashMap<LeaseId, Lease>,
}

impl Leases {
    pub(super) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.by_id.insert(id, Lease { ttl, deadline: now.checked_add(ttl), keys: BTreeSet::new() });
    }

    /// Whether keys may be put with it.
    pub(super) fn is_alive(&self, id: LeaseId) -> bool {
        self.by_id.get(&id).is_some_and(|lease| lease.deadline.is_some())
    }

    /// Starts its time anew; false if it has ended.
    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> bool {
        match self.by_id.get_mut(&id) {
            Some(lease) if lease.deadline.is_some() => {
                lease.deadline = now.checked_add(lease.ttl);
                true
            }
            _ => false,
        }
    }

    /// What is left of its time; `None` if it has ended.
    pub(super) fn time_left(&self, id: LeaseId, now: Instant) -> Option<Duration> {
        let deadline = self.by_id.get(&id)?.deadline?;
        Some(deadline.saturating_duration_since(now))
    }

    /// The next moment at which a lease ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.by_id.values().filter_map(|lease| lease.deadline).min()
    }

    /// Begins to end the leases whose time is over, and names them.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<LeaseId> {
        let over = |lease: &Lease| lease.deadline.is_some_and(|deadline| deadline <= now);
        let mut ids: Vec<_> = self.by_id.iter().filter(|(_, lease)| over(lease)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        for id in &ids {
            self.begin_end(*id);
        }
        ids
    }

    /// From here on the lease cannot be kept alive nor get keys.
    fn begin_end(&mut self, id: LeaseId) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.deadline = None;
        }
    }

    /// The end could not be written; it is due again at `at`.
    pub(super) fn postpone_end(&mut self, id: LeaseId, at: Instant) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.deadline = Some(at);
        }
    }

    /// The keys that end with it; `None` if there is no such lease.
    pub(super) fn keys(&self, id: LeaseId) -> Option<Vec<String>> {
        Some(self.by_id.get(&id)?.keys.iter().cloned().collect())
    }

    pub(super) fn remove(&mut self, id: LeaseId) {
        self.by_id.remove(&id);
    }

    pub(super) fn attach(&mut self, id: LeaseId, key: &str) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.insert(key.to_owned());
        }
    }

    pub(super) fn detach(&mut self, id: LeaseId, key: &str) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    #[test]
    fn a_lease_ends_when_its_time_is_over_and_not_before() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.grant(LeaseId(1), TTL, start);
        assert_eq!(leases.next_end(), Some(start + TTL));
        assert_eq!(leases.expire(start + TTL / 2), []);
        assert!(leases.keep_alive(LeaseId(1), start + TTL / 2));
        assert_eq!(leases.expire(start + TTL), []);
        assert_eq!(leases.expire(start + TTL * 2), [LeaseId(1)]);
    }

    #[test]
    fn a_lease_about_to_end_cannot_be_kept_alive() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.grant(LeaseId(1), TTL, start);
        leases.expire(start + TTL);
        assert!(!leases.keep_alive(LeaseId(1), start + TTL));
        assert!(!leases.is_alive(LeaseId(1)));
        leases.postpone_end(LeaseId(1), start + TTL * 2);
        assert_eq!(leases.expire(start + TTL * 2), [LeaseId(1)]);
    }

    #[test]
    fn a_lease_knows_the_keys_attached_to_it() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.grant(LeaseId(1), TTL, start);
        ["a", "b", "c"].iter().for_each(|key| leases.attach(LeaseId(1), key));
        leases.detach(LeaseId(1), "b");
        assert_eq!(leases.keys(LeaseId(1)).unwrap(), ["a", "c"]);
        leases.remove(LeaseId(1));
        assert_eq!(leases.keys(LeaseId(1)), None);
    }
}
