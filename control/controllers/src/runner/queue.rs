//! Keys that wait to be reconciled.
//!
//! A key is in here at most once, however often it is added; while a worker has it, it waits until that worker is
//! done, and rests if it is told to. Keys may be added for later; the earliest time counts.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use weir_client::ObjectKey;

use super::metrics::Metrics;

#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Notify,
    metrics: Option<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    /// In order of arrival, each at most once.
    ready: VecDeque<ObjectKey>,
    /// The members of `ready`, and those that will be once their worker is done; since when.
    waiting: HashMap<ObjectKey, Instant>,
    /// How many came into `waiting` that were not told of yet.
    added: usize,
    /// With a worker.
    taken: HashSet<ObjectKey>,
    later: BTreeMap<Instant, BTreeSet<ObjectKey>>,
    due: HashMap<ObjectKey, Instant>,
    /// Done, but not to be taken again before its time.
    resting: BTreeMap<Instant, Vec<ObjectKey>>,
    failures: HashMap<ObjectKey, u32>,
}

const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(60);

impl Queue {
    /// With metrics under this name.
    pub(crate) fn named(name: &str) -> Queue {
        Queue { metrics: Some(Metrics::of(name)), ..Queue::default() }
    }

    pub(crate) fn add(&self, key: ObjectKey) {
        let mut state = self.state();
        state.add(key);
        self.count(&mut state);
        drop(state);
        self.changed.notify_one();
    }

    pub(crate) fn add_after(&self, key: ObjectKey, delay: Duration) {
        self.state().add_at(key, Instant::now() + delay);
        // A worker that sleeps until a later time must look again.
        self.changed.notify_one();
    }

    /// Again after a failure: the more in a row, the later.
    pub(crate) fn retry(&self, key: ObjectKey) {
        let delay = self.state().failed(&key);
        if let Some(metrics) = &self.metrics {
            metrics.retried();
        }
        self.add_after(key, delay);
    }

    /// After a success: the next failure counts as the first.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.state().failures.remove(key);
    }

    /// Waits for a key. Whoever takes it must give it back with [`Queue::done`].
    pub(crate) async fn next(&self) -> ObjectKey {
        loop {
            let due = {
                let mut state = self.state();
                state.ripen(Instant::now());
                let taken = state.take();
                self.count(&mut state);
                if let Some((key, since)) = taken {
                    if let Some(metrics) = &self.metrics {
                        metrics.taken(since.elapsed());
                    }
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.later.keys().next().into_iter().chain(state.resting.keys().next()).min().copied()
            };
            // `notify_one` leaves a permit behind when nobody waits, so nothing is missed in between.
            match due {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }

    pub(crate) fn done(&self, key: ObjectKey) {
        self.state().release(key);
        self.changed.notify_one();
    }

    /// Done; whatever brings the key again, it does not come before `rest` is over.
    pub(crate) fn done_for(&self, key: ObjectKey, rest: Duration) {
        self.state().resting.entry(Instant::now() + rest).or_default().push(key);
        self.changed.notify_one();
    }

    /// A worker has dealt with a key.
    pub(crate) fn worked(&self, took: Duration) {
        if let Some(metrics) = &self.metrics {
            metrics.worked(took);
        }
    }

    fn count(&self, state: &mut State) {
        if let Some(metrics) = &self.metrics {
            metrics.added(std::mem::take(&mut state.added));
            metrics.depth(state.ready.len());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: ObjectKey) {
        let Entry::Vacant(entry) = self.waiting.entry(key.clone()) else { return };
        entry.insert(Instant::now());
        self.added += 1;
        if !self.taken.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: ObjectKey, at: Instant) {
        if let Some(due) = self.due.get(&key).copied() {
            if due <= at {
                return;
            }
            self.unschedule(&key, due);
        }
        self.due.insert(key.clone(), at);
        self.later.entry(at).or_default().insert(key);
    }

    fn unschedule(&mut self, key: &ObjectKey, due: Instant) {
        let Some(keys) = self.later.get_mut(&due) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.later.remove(&due);
        }
    }

    fn release(&mut self, key: ObjectKey) {
        self.taken.remove(&key);
        if self.waiting.contains_key(&key) {
            self.ready.push_back(key);
        }
    }

    /// Moves what is due to the ready ones.
    fn ripen(&mut self, now: Instant) {
        while let Some(entry) = self.resting.first_entry().filter(|entry| *entry.key() <= now) {
            for key in entry.remove() {
                self.release(key);
            }
        }
        while let Some(entry) = self.later.first_entry().filter(|entry| *entry.key() <= now) {
            for key in entry.remove() {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }

    /// With the moment since when it has waited.
    fn take(&mut self) -> Option<(ObjectKey, Instant)> {
        let key = self.ready.pop_front()?;
        let since = self.waiting.remove(&key).unwrap_or_else(Instant::now);
        self.taken.insert(key.clone());
        Some((key, since))
    }

    fn failed(&mut self, key: &ObjectKey) -> Duration {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let delay = FIRST_RETRY.saturating_mul(1 << (*failures).min(16)).min(LAST_RETRY);
        *failures += 1;
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    async fn soon(queue: &Queue) -> Option<ObjectKey> {
        tokio::time::timeout(Duration::from_millis(1), queue.next()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_comes_once() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(soon(&queue).await, Some(key("a")));
        assert_eq!(soon(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_being_worked_on_waits_until_it_is_done() {
        let queue = Queue::default();
        queue.add(key("a"));
        let taken = queue.next().await;
        queue.add(key("a"));
        assert_eq!(soon(&queue).await, None, "two workers have the same key");
        queue.done(taken);
        assert_eq!(soon(&queue).await, Some(key("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_for_later_come_in_time_and_the_earliest_time_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_secs(5));
        queue.add_after(key("a"), Duration::from_secs(30));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(key("a"));
        assert_eq!(tokio::time::timeout(Duration::from_secs(100), queue.next()).await.ok(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_rests_does_not_come_again_before_its_time() {
        let queue = Queue::default();
        queue.add(key("a"));
        let start = Instant::now();
        let taken = queue.next().await;
        queue.done_for(taken, Duration::from_secs(3));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.next().await, key("b"), "others do not wait for it");
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_wait_ever_longer_up_to_a_minute() {
        let queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            queue.retry(key("a"));
            let taken = queue.next().await;
            waits.push(start.elapsed());
            queue.done(taken);
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert!(waits[19] <= LAST_RETRY + Duration::from_millis(2));
        queue.forget(&key("a"));
        let start = Instant::now();
        queue.retry(key("a"));
        queue.next().await;
        assert!(start.elapsed() < Duration::from_millis(20));
    }
}
