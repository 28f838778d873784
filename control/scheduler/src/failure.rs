//! Why a pod fits nowhere: reasons with the number of nodes each holds for, in Kubernetes' wording.

use std::collections::BTreeMap;
use std::fmt;

use crate::framework::{Plugins, Reason};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    nodes: usize,
    reasons: BTreeMap<Reason, usize>,
    /// What holds whatever the node.
    general: Vec<String>,
    plugins: Plugins,
}

impl Failure {
    pub fn new(nodes: usize) -> Self {
        Self { nodes, reasons: BTreeMap::new(), general: Vec::new(), plugins: Plugins::default() }
    }

    /// A pod that asks for what no node can give.
    pub fn unsupported(nodes: usize, what: &[String]) -> Self {
        Self { general: what.to_vec(), ..Self::new(nodes) }
    }

    pub fn turned_away(&mut self, plugin: usize, reasons: Vec<Reason>) {
        self.plugins.insert(plugin);
        for reason in reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
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
        failure.turned_away(5, vec![Reason::fixed("Insufficient memory"), Reason::fixed("Insufficient cpu")]);
        failure.turned_away(5, vec![Reason::fixed("Insufficient cpu")]);
        failure.turned_away(2, vec![Reason::new("node(s) had untolerated taint {gpu: yes}".to_owned())]);
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
