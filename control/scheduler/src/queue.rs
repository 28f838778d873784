//! Pods that wait for a node.
//!
//! - *active*: to be tried now, highest priority first, then in order of arrival;
//! - *backoff*: failed lately, or worth another look soon; active again when their time has come;
//! - *unschedulable*: fit nowhere; wait for a change in the cluster that could help, or five minutes;
//! - *gated*: not to be tried before its scheduling gates are gone;
//! - *in flight*: a node was chosen, the binding is under way.
//!
//! Pure: `now` is an argument. Invariant: a pod is in exactly one of these, and `active` and `backoff` list exactly
//! the pods whose entry says so.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::framework::Events;
use crate::metrics::{self, Brought, Waiting};
use crate::pod::PodInfo;
use crate::settings::Backoff;

/// After this long a pod is tried again although nothing that could help was seen.
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

type Uid = Arc<str>;

#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<Uid, Entry>,
    active: BTreeSet<(Reverse<i32>, u64, Uid)>,
    backoff: BTreeSet<(Instant, Uid)>,
    unschedulable: BTreeSet<(Instant, Uid)>,
    gated: usize,
    arrivals: u64,
    /// Those whose time of arrival is not known yet.
    fresh: Vec<Uid>,
    settings: Backoff,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    arrival: u64,
    since: Option<Instant>,
    attempts: u32,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Active,
    Backoff { until: Instant },
    Unschedulable { since: Instant, helped_by: Events },
    Gated,
    InFlight,
}

impl Queue {
    pub fn new(settings: Backoff) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Takes in a pod, or what has become of one. One that differs from what was tried is tried again at once.
    pub fn put(&mut self, pod: Arc<PodInfo>) {
        match self.entries.get_mut(&pod.uid) {
            Some(known) if known.pod == pod && !matches!(known.place, Place::Gated) => {}
            Some(known) if matches!(known.place, Place::InFlight) => known.pod = pod,
            Some(_) => self.enter(pod, Place::Active, Brought::PodUpdate),
            None => self.enter(pod, Place::Active, Brought::PodAdd),
        }
    }

    /// Takes in a pod that is not to be tried yet.
    pub fn hold(&mut self, pod: Arc<PodInfo>) {
        match self.entries.get(&pod.uid) {
            Some(known) if known.pod == pod && matches!(known.place, Place::Gated) => {}
            Some(_) => self.enter(pod, Place::Gated, Brought::PodUpdate),
            None => self.enter(pod, Place::Gated, Brought::PodAdd),
        }
    }

    fn enter(&mut self, pod: Arc<PodInfo>, place: Place, brought: Brought) {
        let uid = pod.uid.clone();
        let (arrival, since, attempts) = match self.entries.remove(&uid) {
            Some(known) => {
                self.unlist(&known);
                (known.arrival, known.since, known.attempts)
            }
            None => {
                self.arrivals += 1;
                self.fresh.push(uid.clone());
                (self.arrivals, None, 0)
            }
        };
        self.list(Entry { pod, arrival, since, attempts, place }, brought);
    }

    /// The attempts made to place a pod, and when it was first seen.
    pub fn history(&self, uid: &str) -> Option<(u32, Instant)> {
        let entry = self.entries.get(uid)?;
        Some((entry.attempts, entry.since?))
    }

    /// How many wait in each place.
    pub(crate) fn waiting(&self) -> [(Waiting, usize); 4] {
        [
            (Waiting::Active, self.active.len()),
            (Waiting::Backoff, self.backoff.len()),
            (Waiting::Unschedulable, self.unschedulable.len()),
            (Waiting::Gated, self.gated),
        ]
    }

    pub fn remove(&mut self, uid: &str) {
        if let Some(entry) = self.entries.remove(uid) {
            self.unlist(&entry);
        }
    }

    /// The pod to try next; it is in flight from now on.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.expire(now);
        let (_, _, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.attempts += 1;
        entry.place = Place::InFlight;
        Some(entry.pod.clone())
    }

    /// The pod in flight fits nowhere until one of these changes.
    pub fn wait_for(&mut self, uid: &str, helped_by: Events, now: Instant) {
        let place = Place::Unschedulable { since: now, helped_by };
        self.relist(uid, place, Brought::ScheduleAttemptFailure);
    }

    /// The pod in flight could not be bound: try again, but not at once.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.entries.get(uid) {
            let until = now + entry.backoff(&self.settings);
            self.relist(uid, Place::Backoff { until }, Brought::ScheduleAttemptFailure);
        }
    }

    /// Wakes the pods that these changes could help.
    pub fn wake(&mut self, events: Events, now: Instant) {
        let helped = |(_, uid): &&(Instant, Uid)| match self.entries.get(uid).map(|entry| entry.place) {
            Some(Place::Unschedulable { helped_by, .. }) => helped_by.intersects(events),
            _ => false,
        };
        let helped: Vec<_> = self.unschedulable.iter().filter(helped).cloned().collect();
        for (since, uid) in helped {
            self.wake_one(&uid, since, now, Brought::ClusterEvent);
        }
    }

    /// The pod waits no longer: what it waited for has happened.
    pub fn wake_now(&mut self, uid: &str) {
        let place = self.entries.get(uid).map(|entry| entry.place);
        if matches!(place, Some(Place::Unschedulable { .. } | Place::Backoff { .. })) {
            self.relist(uid, Place::Active, Brought::ClusterEvent);
        }
    }

    /// The pod is to be tried again, when its time has come.
    pub fn reconsider(&mut self, uid: &str, now: Instant) {
        if let Some(Place::Unschedulable { since, .. }) = self.entries.get(uid).map(|entry| entry.place) {
            self.wake_one(uid, since, now, Brought::ScheduleAttemptFailure);
        }
    }

    /// When the next pod becomes worth a look of itself.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.unschedulable.first().map(|(since, _)| *since + LONGEST_WAIT);
        let backing_off = self.backoff.first().map(|(until, _)| *until);
        waiting.into_iter().chain(backing_off).min()
    }

    pub fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    pub fn uids(&self) -> impl Iterator<Item = &Uid> {
        self.entries.keys()
    }

    /// Moves what has waited long enough.
    pub fn expire(&mut self, now: Instant) {
        for uid in std::mem::take(&mut self.fresh) {
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.since.get_or_insert(now);
            }
        }
        while let Some((_, uid)) = self.backoff.first().filter(|(until, _)| *until <= now).cloned() {
            self.relist(&uid, Place::Active, Brought::BackoffComplete);
        }
        while let Some((since, uid)) =
            self.unschedulable.first().filter(|(since, _)| *since + LONGEST_WAIT <= now).cloned()
        {
            self.wake_one(&uid, since, now, Brought::UnschedulableTimeout);
        }
    }

    fn wake_one(&mut self, uid: &str, since: Instant, now: Instant, brought: Brought) {
        let Some(entry) = self.entries.get(uid) else { return };
        let until = since + entry.backoff(&self.settings);
        self.relist(uid, if until <= now { Place::Active } else { Place::Backoff { until } }, brought);
    }

    fn relist(&mut self, uid: &str, place: Place, brought: Brought) {
        let Some(mut entry) = self.entries.remove(uid) else { return };
        self.unlist(&entry);
        entry.place = place;
        self.list(entry, brought);
    }

    fn list(&mut self, entry: Entry, brought: Brought) {
        let uid = entry.pod.uid.clone();
        let waiting = match entry.place {
            Place::Active => {
                self.active.insert((Reverse(entry.pod.priority), entry.arrival, uid.clone()));
                Some(Waiting::Active)
            }
            Place::Backoff { until } => {
                self.backoff.insert((until, uid.clone()));
                Some(Waiting::Backoff)
            }
            Place::Unschedulable { since, .. } => {
                self.unschedulable.insert((since, uid.clone()));
                Some(Waiting::Unschedulable)
            }
            Place::Gated => {
                self.gated += 1;
                Some(Waiting::Gated)
            }
            Place::InFlight => None,
        };
        if let Some(waiting) = waiting {
            metrics::incoming(waiting, brought);
        }
        self.entries.insert(uid, entry);
    }

    fn unlist(&mut self, entry: &Entry) {
        let uid = entry.pod.uid.clone();
        match entry.place {
            Place::Active => self.active.remove(&(Reverse(entry.pod.priority), entry.arrival, uid)),
            Place::Backoff { until } => self.backoff.remove(&(until, uid)),
            Place::Unschedulable { since, .. } => self.unschedulable.remove(&(since, uid)),
            Place::Gated => {
                self.gated = self.gated.saturating_sub(1);
                true
            }
            Place::InFlight => true,
        };
    }
}

impl Entry {
    /// Doubles with each attempt.
    fn backoff(&self, settings: &Backoff) -> Duration {
        let doublings = self.attempts.saturating_sub(1).min(16);
        settings.initial.saturating_mul(2_u32.pow(doublings)).min(settings.longest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{asking, pod, shape};

    fn with_priority(uid: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(PodInfo { priority, ..(*pod(uid, shape())).clone() })
    }

    fn popped(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|pod| pod.uid.to_string()).collect()
    }

    #[test]
    fn higher_priority_goes_first_then_the_order_of_arrival() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (uid, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.put(with_priority(uid, priority));
        }
        assert_eq!(popped(&mut queue, now), ["b", "d", "a", "c"]);
    }

    #[test]
    fn a_pod_that_fits_nowhere_sleeps_until_something_helps() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(pod("a", shape()));
        assert_eq!(popped(&mut queue, now), ["a"]);
        queue.wait_for("a", Events::NODE_ADDED | Events::POD_GONE, now);
        let later = now + Duration::from_secs(30);
        queue.wake(Events::NODE_LABELS, later);
        assert_eq!(popped(&mut queue, later), [""; 0]);
        queue.wake(Events::POD_GONE, later);
        assert_eq!(popped(&mut queue, later), ["a"]);
    }

    #[test]
    fn a_pod_woken_soon_after_its_failure_backs_off_first_and_ever_longer() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.put(pod("a", shape()));
        for expected in [1, 2, 4, 8, 10, 10] {
            assert_eq!(popped(&mut queue, now), ["a"]);
            queue.wait_for("a", Events::POD_GONE, now);
            queue.wake(Events::POD_GONE, now);
            let due = now + Duration::from_secs(expected);
            assert_eq!(queue.deadline(), Some(due));
            assert_eq!(popped(&mut queue, due - Duration::from_millis(1)), [""; 0]);
            now = due;
        }
    }

    #[test]
    fn nothing_is_forgotten_even_if_nothing_helps() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(pod("a", shape()));
        queue.pop(now);
        queue.wait_for("a", Events::default(), now);
        assert_eq!(queue.deadline(), Some(now + LONGEST_WAIT));
        assert_eq!(popped(&mut queue, now + LONGEST_WAIT), ["a"]);
    }

    #[test]
    fn what_a_pod_waited_for_by_name_ends_its_backoff() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(pod("a", shape()));
        queue.pop(now);
        queue.wait_for("a", Events::POD_GONE, now);
        queue.wake(Events::POD_GONE, now);
        assert_eq!(popped(&mut queue, now), [""; 0]);
        queue.wake_now("a");
        assert_eq!(popped(&mut queue, now), ["a"]);
        // In flight there is nothing to wake.
        queue.wake_now("a");
        assert_eq!(popped(&mut queue, now), [""; 0]);
    }

    #[test]
    fn a_gated_pod_is_counted_and_tried_once_it_is_let_go() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.hold(pod("a", shape()));
        queue.hold(pod("a", shape()));
        assert_eq!(queue.waiting()[3], (Waiting::Gated, 1));
        queue.wake(Events::ALL, now);
        assert_eq!(popped(&mut queue, now + LONGEST_WAIT), [""; 0]);
        queue.put(pod("a", shape()));
        assert_eq!(queue.waiting().map(|(_, pods)| pods), [1, 0, 0, 0]);
        assert_eq!(popped(&mut queue, now), ["a"]);
        assert_eq!(queue.history("a"), Some((1, now + LONGEST_WAIT)));
    }

    #[test]
    fn a_changed_pod_is_tried_at_once_and_an_unchanged_one_sleeps_on() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(pod("a", shape()));
        queue.pop(now);
        queue.wait_for("a", Events::default(), now);
        queue.put(pod("a", shape()));
        assert!(!queue.has_active());
        queue.put(pod("a", asking(1, 1)));
        assert_eq!(popped(&mut queue, now), ["a"]);
    }

    #[test]
    fn a_pod_in_flight_is_left_alone_until_its_binding_fails() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(pod("a", shape()));
        queue.pop(now);
        queue.put(pod("a", asking(1, 1)));
        assert_eq!(popped(&mut queue, now), [""; 0]);
        queue.retry("a", now);
        assert_eq!(queue.pop(now + Backoff::default().initial).unwrap().shape, asking(1, 1).into());
        queue.remove("a");
        queue.retry("a", now);
        assert_eq!(queue.deadline(), None);
    }

    proptest! {
        #[test]
        fn every_pod_put_in_and_not_taken_out_comes_up_again(
            steps in prop::collection::vec((0..6_u8, 0..5_u8), 0..60),
        ) {
            let (mut queue, mut now) = (Queue::default(), Instant::now());
            let mut known = BTreeSet::new();
            for (step, index) in steps {
                let uid = index.to_string();
                match step {
                    0 => {
                        queue.put(with_priority(&uid, index.into()));
                        known.insert(uid);
                    }
                    1 => {
                        queue.remove(&uid);
                        known.remove(&uid);
                    }
                    2 => {
                        if let Some(pod) = queue.pop(now) {
                            queue.wait_for(&pod.uid, Events::POD_GONE, now);
                        }
                    }
                    3 => {
                        if let Some(pod) = queue.pop(now) {
                            queue.retry(&pod.uid, now);
                        }
                    }
                    4 => queue.wake(Events::POD_GONE, now),
                    _ => now += Duration::from_secs(1),
                }
            }
            let longest = Backoff::default().longest;
            let end = now + LONGEST_WAIT + longest;
            queue.expire(end);
            let left: BTreeSet<String> = popped(&mut queue, end + longest).into_iter().collect();
            prop_assert_eq!(left, known);
        }
    }
}
