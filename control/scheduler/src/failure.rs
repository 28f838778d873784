//! Why a pod fits nowhere: reasons with the number of nodes each holds for, in Kubernetes' wording.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::Slot;
use crate::framework::{Plugins, Reason, Refusal};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    nodes: usize,
    reasons: BTreeMap<Reason, usize>,
    /// What holds whatever the node.
    general: Vec<String>,
    plugins: Plugins,
    /// Nodes that might do if pods left them, in order.
    crowded: Vec<Slot>,
}

impl Failure {
    pub fn new(nodes: usize) -> Self {
        Self {
            nodes,
            reasons: BTreeMap::new(),
            general: Vec::new(),
            plugins: Plugins::default(),
            crowded: Vec::new(),
        }
    }

    /// A pod that asks for what no node can give.
    pub fn unsupported(nodes: usize, what: &[String]) -> Self {
        Self { general: what.to_vec(), ..Self::new(nodes) }
    }

    /// A node turned the pod away. Nodes come in order.
    pub fn turned_away(&mut self, slot: Slot, plugin: usize, refusal: Refusal) {
        self.plugins.insert(plugin);
        if refusal.crowded {
            self.crowded.push(slot);
        }
        for reason in refusal.reasons {
            self.holds(reason, 1);
        }
    }

    /// A reason holds for so many nodes.
    pub fn holds(&mut self, reason: Reason, nodes: usize) {
        if nodes > 0 {
            *self.reasons.entry(reason).or_default() += nodes;
        }
    }

    pub fn nodes(&self) -> usize {
        self.nodes
    }

    pub fn crowded(&self) -> &[Slot] {
        &self.crowded
    }

    pub fn plugins(&self) -> Plugins {
        self.plugins
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 && self.general.is_empty() {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available: ", self.nodes)?;
        let mut causes = self.general.clone();
        causes.extend(self.reasons.iter().map(|(reason, nodes)| format!("{nodes} {reason}")));
        // Kubernetes sorts the finished phrases.
        causes.sort();
        write!(f, "{}.", causes.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_kubernetes_writes_it() {
        let mut failure = Failure::new(3);
        let memory_and_cpu = Refusal {
            reasons: vec![Reason::fixed("Insufficient memory"), Reason::fixed("Insufficient cpu")],
            crowded: true,
        };
        failure.turned_away(0, 5, memory_and_cpu);
        failure.turned_away(1, 5, Refusal::crowded(Reason::fixed("Insufficient cpu")));
        let taint = Reason::new("node(s) had untolerated taint {gpu: yes}".to_owned());
        failure.turned_away(2, 2, Refusal::lasting(taint));
        assert_eq!(failure.crowded(), [0, 1]);
        assert_eq!(
            failure.to_string(),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint {gpu: yes}, \
             2 Insufficient cpu."
        );
        assert_eq!(Failure::new(0).to_string(), "no nodes available to schedule pods");
        let unsupported =
            Failure::unsupported(2, &["persistent volume claims are not supported yet".to_owned()]);
        assert_eq!(
            unsupported.to_string(),
            "0/2 nodes are available: persistent volume claims are not supported yet."
        );
    }
}
