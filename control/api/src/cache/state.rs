//! The cache's memory: the present objects of a kind, the ring of recent changes, and who is told of the next.
//!
//! All of it changes under one lock, so that a list, a registration and a replay see one consistent revision.
//!
//! **Invariant:** the ring holds every change after `floor`, and no more than its bounds in changes and bytes. A watcher
//! from an older revision is refused.
//! **Invariant:** a watcher whose queue is full is dropped at once; nobody waits for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::event::{CacheEvent, PastEvent};
use super::queue::{self, Receiver, Refused, Sender};
use super::{CachedObject, Filter};
use crate::metrics;

/// Changes kept for those who resume.
pub(super) const RING: usize = 4096;
/// Bytes of them.
const RING_BYTES: usize = 32 * 1024 * 1024;

/// Picks the value by which most watchers of a kind select (the node of a pod), so that a change wakes only those.
pub(super) type Trigger = fn(&CachedObject) -> Option<&str>;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) ready: bool,
    /// Everything up to this revision is in `objects`.
    pub(super) revision: i64,
    /// The last revision that changed an object of this kind.
    pub(super) changed: i64,
    floor: i64,
    objects: BTreeMap<String, Arc<CachedObject>>,
    /// The keys of the objects for which the trigger picks a value.
    picked: HashMap<String, BTreeSet<String>>,
    ring: VecDeque<PastEvent>,
    ring_bytes: usize,
    everything: Vec<Sender>,
    triggered: HashMap<String, Vec<Sender>>,
}

/// The oldest revision that can be resumed from is newer than the one asked for.
#[derive(Debug)]
pub(super) struct TooOld {
    pub(super) floor: i64,
}

impl State {
    /// Starts anew from a listing. Watchers are cut: what happened between is not known.
    pub(super) fn replace(
        &mut self,
        objects: BTreeMap<String, Arc<CachedObject>>,
        revision: i64,
        trigger: Option<Trigger>,
    ) {
        let mut state =
            State { ready: true, revision, changed: revision, floor: revision, ..State::default() };
        for (key, object) in trigger
            .iter()
            .flat_map(|trigger| objects.iter().filter_map(|(key, object)| Some((key, trigger(object)?))))
        {
            state.picked.entry(object.to_owned()).or_default().insert(key.clone());
        }
        state.objects = objects;
        *self = state;
    }

    /// Follows an object from one picked value to another.
    fn pick(&mut self, key: &str, before: Option<&str>, after: Option<&str>) {
        if before == after {
            return;
        }
        if let Some(before) = before
            && let Some(keys) = self.picked.get_mut(before)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.picked.remove(before);
            }
        }
        if let Some(after) = after {
            self.picked.entry(after.to_owned()).or_default().insert(key.to_owned());
        }
    }

    pub(super) fn put(&mut self, key: String, object: CachedObject, trigger: Option<Trigger>) {
        let object = Arc::new(object);
        if let Some(trigger) = trigger {
            let previous = self.objects.get(&key).cloned();
            self.pick(&key, previous.as_deref().and_then(trigger), trigger(&object));
        }
        let previous = self.objects.insert(key, object.clone());
        self.publish(CacheEvent::put(object, previous), trigger);
    }

    pub(super) fn delete(&mut self, key: &str, revision: i64, trigger: Option<Trigger>) {
        if let Some(previous) = self.objects.remove(key) {
            self.pick(key, trigger.and_then(|trigger| trigger(&previous)), None);
            self.publish(CacheEvent::delete(previous, revision), trigger);
        }
    }

    /// Everything up to `revision` has been put and deleted.
    pub(super) fn advance(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    fn publish(&mut self, event: CacheEvent, trigger: Option<Trigger>) {
        let event = Arc::new(event);
        self.changed = event.revision;
        self.ring_bytes += event.size();
        self.ring.push_back(PastEvent::of(&event));
        while (self.ring.len() > RING || self.ring_bytes > RING_BYTES)
            && let Some(oldest) = self.ring.pop_front()
        {
            self.ring_bytes -= oldest.size();
            self.floor = oldest.revision;
        }
        send(&mut self.everything, &event);
        let Some(trigger) = trigger else { return };
        let after = trigger(&event.object);
        let before = event.previous.as_deref().and_then(trigger).filter(|before| Some(*before) != after);
        for value in [before, after].into_iter().flatten() {
            if let Some(senders) = self.triggered.get_mut(value) {
                send(senders, &event);
                if senders.is_empty() {
                    self.triggered.remove(value);
                }
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<CachedObject>> {
        self.objects.get(key).cloned()
    }

    /// The objects whose keys start with `prefix` and lie behind `after`, in order of key.
    pub(super) fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<CachedObject>)> {
        self.objects
            .range::<str, _>(behind(prefix, after))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// As [`State::range`], of the objects for which the trigger picks `value` alone.
    pub(super) fn range_picked<'a>(
        &'a self,
        value: &str,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<CachedObject>)> {
        let keys = self
            .picked
            .get(value)
            .into_iter()
            .flat_map(move |keys| keys.range::<str, _>(behind(prefix, after)));
        keys.take_while(move |key| key.starts_with(prefix)).filter_map(|key| self.objects.get_key_value(key))
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Nobody is told of anything any more.
    pub(super) fn cut(&mut self) {
        self.everything.clear();
        self.triggered.clear();
    }

    /// The kept changes after `revision`.
    pub(super) fn replay(&self, revision: i64) -> Result<Vec<PastEvent>, TooOld> {
        if revision < self.floor {
            return Err(TooOld { floor: self.floor });
        }
        let start = self.ring.partition_point(|event| event.revision <= revision);
        Ok(self.ring.range(start..).cloned().collect())
    }

    /// From now on the receiver gets every change, or only those that touch `triggered`.
    pub(super) fn subscribe(&mut self, triggered: Option<String>) -> Receiver {
        let (sender, receiver) = queue::channel();
        let senders = match triggered {
            Some(value) => self.triggered.entry(value).or_default(),
            None => &mut self.everything,
        };
        senders.retain(|sender| !sender.is_closed());
        senders.push(sender);
        receiver
    }

    /// `picked`: the value that the trigger picks for all that match, where the filter says so.
    pub(super) fn matching(
        &self,
        prefix: &str,
        filter: &Filter,
        picked: Option<&str>,
    ) -> Vec<Arc<CachedObject>> {
        let all = |(_, object): (&String, &Arc<CachedObject>)| filter.matches(object).then(|| object.clone());
        match picked {
            Some(value) => self.range_picked(value, prefix, None).filter_map(all).collect(),
            None => self.range(prefix, None).filter_map(all).collect(),
        }
    }
}

/// From `prefix` on, or behind `after` where that is further.
fn behind<'a>(prefix: &'a str, after: Option<&'a str>) -> (Bound<&'a str>, Bound<&'a str>) {
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    (start, Bound::Unbounded)
}

fn send(senders: &mut Vec<Sender>, event: &Arc<CacheEvent>) {
    senders.retain(|sender| match sender.send(event) {
        Ok(()) => true,
        Err(Refused::Full) => {
            let kind = event.object.object.kind();
            metrics::CACHE_CUT.with_label_values(&[kind.group, kind.plural]).inc();
            tracing::warn!(kind = kind.plural, "a watcher is too slow and is cut off");
            false
        }
        Err(Refused::Closed) => false,
    });
}
