//! How many pods of some description each node has, kept as pods come and go.
//!
//! Spreading and affinity ask "how many pods like that are in this zone"; here is the count per node, and the
//! evaluations add it up per zone. A counter exists while somebody uses it: an evaluation that reads it, or, for
//! terms that pods carry themselves, each pod that carries one.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pod::{PodSelector, PodTerm, Shape};
use crate::selector::Labels;

/// Labels of each namespace.
pub type Namespaces = HashMap<String, Labels>;

/// Which pods a counter counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Predicate {
    /// Pods that every one of the selectors selects.
    Selected { selectors: Vec<PodSelector>, terminating: bool },
    /// Pods that carry a term, to be held against pods that the term selects.
    Carries(Carried),
}

/// A term that already placed pods hold against pods to come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Carried {
    Required(PodTerm),
    Preferred(i64, PodTerm),
    AntiRequired(PodTerm),
    AntiPreferred(i64, PodTerm),
}

impl Carried {
    pub fn term(&self) -> &PodTerm {
        match self {
            Self::Required(term) | Self::AntiRequired(term) => term,
            Self::Preferred(_, term) | Self::AntiPreferred(_, term) => term,
        }
    }

    /// All terms that a pod carries.
    pub fn of(shape: &Shape) -> impl Iterator<Item = Self> {
        let affinity = &shape.affinity;
        let required = affinity.required.iter().cloned().map(Self::Required);
        let preferred =
            affinity.preferred.iter().cloned().map(|(weight, term)| Self::Preferred(weight, term));
        let anti = affinity.anti_required.iter().cloned().map(Self::AntiRequired);
        let averse =
            affinity.anti_preferred.iter().cloned().map(|(weight, term)| Self::AntiPreferred(weight, term));
        required.chain(preferred).chain(anti).chain(averse)
    }

    fn is_carried_by(&self, shape: &Shape) -> bool {
        let affinity = &shape.affinity;
        match self {
            Self::Required(term) => affinity.required.contains(term),
            Self::AntiRequired(term) => affinity.anti_required.contains(term),
            Self::Preferred(weight, term) => {
                affinity.preferred.iter().any(|(have, known)| have == weight && known == term)
            }
            Self::AntiPreferred(weight, term) => {
                affinity.anti_preferred.iter().any(|(have, known)| have == weight && known == term)
            }
        }
    }
}

impl PodSelector {
    pub fn selects(&self, pod: &Shape, namespaces: &Namespaces) -> bool {
        self.labels.as_ref().is_some_and(|labels| labels.matches(&pod.labels))
            && (self.namespaces.contains(&pod.namespace)
                || self.selects_namespace(&pod.namespace, namespaces))
    }

    fn selects_namespace(&self, namespace: &str, namespaces: &Namespaces) -> bool {
        let Some(selector) = &self.namespace_labels else { return false };
        selector.0.is_empty() || namespaces.get(namespace).is_some_and(|labels| selector.matches(labels))
    }
}

impl Predicate {
    pub fn matches(&self, pod: &Shape, namespaces: &Namespaces) -> bool {
        match self {
            Self::Selected { selectors, terminating } => {
                (*terminating || !pod.terminating) && selectors.iter().all(|one| one.selects(pod, namespaces))
            }
            Self::Carries(carried) => carried.is_carried_by(pod),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CounterId(usize);

#[derive(Debug)]
struct Counter {
    predicate: Predicate,
    users: usize,
    per_node: Vec<u32>,
}

#[derive(Debug, Default)]
pub struct Counters {
    counters: Vec<Option<Counter>>,
    known: HashMap<Predicate, CounterId>,
    /// Which counters count pods of a shape; by the shape's address, which the `Arc` beside it keeps taken.
    matching: HashMap<usize, (Arc<Shape>, Vec<CounterId>)>,
}

/// Shapes whose matching counters are remembered.
const REMEMBERED_SHAPES: usize = 1024;

impl Counters {
    /// Takes a counter into use. True: it is new, and has to be filled by counting all pods once.
    pub(crate) fn acquire(&mut self, predicate: Predicate) -> (CounterId, bool) {
        if let Some(&id) = self.known.get(&predicate) {
            if let Some(counter) = &mut self.counters[id.0] {
                counter.users += 1;
            }
            return (id, false);
        }
        let free = self.counters.iter().position(Option::is_none);
        let id = CounterId(free.unwrap_or(self.counters.len()));
        let counter = Some(Counter { predicate: predicate.clone(), users: 1, per_node: Vec::new() });
        match free {
            Some(index) => self.counters[index] = counter,
            None => self.counters.push(counter),
        }
        self.known.insert(predicate, id);
        self.matching.clear();
        (id, true)
    }

    /// Gives up one use of a counter. True: it was the last, and the counter is gone.
    pub(crate) fn release(&mut self, id: CounterId) -> bool {
        let Some(counter) = &mut self.counters[id.0] else { return false };
        counter.users -= 1;
        if counter.users > 0 {
            return false;
        }
        self.known.remove(&counter.predicate);
        self.counters[id.0] = None;
        self.matching.clear();
        true
    }

    pub(crate) fn find(&self, predicate: &Predicate) -> Option<CounterId> {
        self.known.get(predicate).copied()
    }

    /// Terms carried by placed pods, with the counter of the pods that carry them.
    pub fn carried(&self) -> impl Iterator<Item = (&Carried, CounterId)> {
        self.counters.iter().enumerate().filter_map(|(index, counter)| match &counter.as_ref()?.predicate {
            Predicate::Carries(carried) => Some((carried, CounterId(index))),
            Predicate::Selected { .. } => None,
        })
    }

    /// Whether a counter counts pods of this shape.
    pub(crate) fn counts(&self, id: CounterId, pod: &Shape, namespaces: &Namespaces) -> bool {
        let counter = self.counters[id.0].as_ref();
        counter.is_some_and(|counter| counter.predicate.matches(pod, namespaces))
    }

    pub fn on_node(&self, id: CounterId, slot: usize) -> u32 {
        let counter = self.counters[id.0].as_ref();
        counter.and_then(|counter| counter.per_node.get(slot)).copied().unwrap_or(0)
    }

    /// Counters in use.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Counts a pod that came to a node (or left it, with `came` false) wherever it is counted.
    pub(crate) fn count(&mut self, pod: &Arc<Shape>, slot: usize, came: bool, namespaces: &Namespaces) {
        if self.counters.is_empty() {
            return;
        }
        if self.matching.len() >= REMEMBERED_SHAPES {
            self.matching.clear();
        }
        let counters = &mut self.counters;
        let (_, ids) = self.matching.entry(Arc::as_ptr(pod).addr()).or_insert_with(|| {
            let matching = counters.iter().enumerate().filter(|(_, counter)| {
                counter.as_ref().is_some_and(|counter| counter.predicate.matches(pod, namespaces))
            });
            (pod.clone(), matching.map(|(index, _)| CounterId(index)).collect())
        });
        for id in ids {
            if let Some(counter) = &mut counters[id.0] {
                counter.shift(slot, came);
            }
        }
    }

    /// Counts a pod for one counter only.
    pub(crate) fn count_for(&mut self, id: CounterId, pod: &Shape, slot: usize, namespaces: &Namespaces) {
        if let Some(counter) = &mut self.counters[id.0]
            && counter.predicate.matches(pod, namespaces)
        {
            counter.shift(slot, true);
        }
    }

    /// Forgets all counts, to be counted anew under other namespace labels.
    pub(crate) fn reset(&mut self) {
        self.matching.clear();
        for counter in self.counters.iter_mut().flatten() {
            counter.per_node.clear();
        }
    }
}

impl Counter {
    fn shift(&mut self, slot: usize, came: bool) {
        if self.per_node.len() <= slot {
            self.per_node.resize(slot + 1, 0);
        }
        let count = &mut self.per_node[slot];
        *count = if came { *count + 1 } else { count.saturating_sub(1) };
    }
}
