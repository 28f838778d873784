//! Sums of a counter over topology domains, for one shape.
//!
//! A domain is one value of a node label, such as a zone. A tally remembers what it last added for each node, so
//! that a change to one node costs one addition.

use std::collections::HashMap;

use crate::cluster::{Cluster, Slot};
use crate::counters::CounterId;
use crate::node::Candidate;

/// The domain of a node under one topology key; `None` where the node lacks the label.
pub type Domain = Option<u32>;

#[derive(Debug)]
pub struct Tally {
    counter: CounterId,
    domain_of: Vec<Domain>,
    /// Whether the pods of a node are counted.
    counted: Vec<bool>,
    added: Vec<u32>,
    sums: Vec<i64>,
    /// Domains with at least one counted node.
    live: Vec<bool>,
    total: i64,
}

impl Tally {
    /// Adds up `counter` per value of label `key`, over the nodes that `counts` admits.
    pub fn new(
        cluster: &Cluster,
        counter: CounterId,
        key: &str,
        counts: impl Fn(Candidate<'_>) -> bool,
    ) -> Self {
        let slots = cluster.slots();
        let mut tally = Self {
            counter,
            domain_of: vec![None; slots],
            counted: vec![false; slots],
            added: vec![0; slots],
            sums: Vec::new(),
            live: Vec::new(),
            total: 0,
        };
        let mut domains: HashMap<&str, u32> = HashMap::new();
        for (slot, node) in cluster.candidates() {
            let Some(value) = node.spec.labels.get(key) else { continue };
            let next = tally.sums.len() as u32;
            let domain = *domains.entry(value).or_insert(next);
            if domain == next {
                tally.sums.push(0);
                tally.live.push(false);
            }
            tally.domain_of[slot] = Some(domain);
            tally.counted[slot] = counts(node);
            tally.live[domain as usize] |= tally.counted[slot];
            tally.refresh(slot, cluster);
        }
        tally
    }

    pub fn counter(&self) -> CounterId {
        self.counter
    }

    pub fn domain_of(&self, slot: Slot) -> Domain {
        self.domain_of.get(slot).copied().flatten()
    }

    /// Takes over what the counter says of a node by now.
    pub fn refresh(&mut self, slot: Slot, cluster: &Cluster) {
        let Some(domain) = self.domain_of(slot) else { return };
        if self.counted[slot] {
            let now = cluster.counters.on_node(self.counter, slot);
            let difference = i64::from(now) - i64::from(self.added[slot]);
            self.added[slot] = now;
            self.sums[domain as usize] += difference;
            self.total += difference;
        }
    }

    /// Counts as if there were `by` more pods on the node. To be taken back before anything else is counted.
    pub(crate) fn shift(&mut self, slot: Slot, by: i64) {
        if let Some(domain) = self.domain_of(slot)
            && self.counted[slot]
        {
            self.sums[domain as usize] += by;
            self.total += by;
        }
    }

    pub fn at(&self, domain: Domain) -> i64 {
        domain.and_then(|domain| self.sums.get(domain as usize)).copied().unwrap_or(0)
    }

    pub fn total(&self) -> i64 {
        self.total
    }

    /// Sums of the domains that have a counted node.
    pub fn live(&self) -> impl Iterator<Item = i64> {
        self.sums.iter().zip(&self.live).filter(|(_, live)| **live).map(|(sum, _)| *sum)
    }
}
