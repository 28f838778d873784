//! Builders of nodes and pods for this crate's tests.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::node::{Node, NodeSpec};
use crate::pod::{PodInfo, PodSelector, Shape};
use crate::resources::Resources;
use crate::selector::{Requirement, Selector};

/// A pod of namespace `default` that asks for nothing.
pub(crate) fn shape() -> Shape {
    Shape { namespace: "default".to_owned(), ..Shape::default() }
}

pub(crate) fn asking(milli_cpu: i64, memory: i64) -> Shape {
    let requests = Resources::new(milli_cpu, memory);
    Shape { scoring_requests: requests.clone(), requests, ..shape() }
}

pub(crate) fn pod(uid: &str, shape: Shape) -> Arc<PodInfo> {
    pod_of(uid, 0, shape)
}

pub(crate) fn pod_of(uid: &str, priority: i32, shape: Shape) -> Arc<PodInfo> {
    let (name, shape) = (uid.to_owned(), Arc::new(shape));
    Arc::new(PodInfo { uid: uid.into(), name, priority, preempts: true, shape })
}

#[derive(Clone, Debug)]
pub(crate) struct NodeBuilder {
    name: String,
    spec: NodeSpec,
    pods: Vec<Arc<PodInfo>>,
}

impl NodeBuilder {
    pub(crate) fn new(name: &str) -> Self {
        let allocatable = Resources::new(4_000, 8 << 30);
        let spec = NodeSpec { allocatable, pods_allowed: 110, ..NodeSpec::default() };
        Self { name: name.to_owned(), spec, pods: Vec::new() }
    }

    pub(crate) fn offers(self, milli_cpu: i64, memory: i64) -> Self {
        self.change(|spec| spec.allocatable = Resources::new(milli_cpu, memory))
    }

    pub(crate) fn pods_allowed(self, pods: i64) -> Self {
        self.change(|spec| spec.pods_allowed = pods)
    }

    pub(crate) fn label(self, key: &str, value: &str) -> Self {
        self.change(|spec| drop(spec.labels.insert(key.to_owned(), value.to_owned())))
    }

    pub(crate) fn change(mut self, change: impl FnOnce(&mut NodeSpec)) -> Self {
        change(&mut self.spec);
        self
    }

    pub(crate) fn pod(mut self, uid: &str, shape: Shape) -> Self {
        self.pods.push(pod(uid, shape));
        self
    }

    pub(crate) fn build(self) -> Node {
        let mut node = Node { name: self.name.into(), spec: Some(self.spec), ..Node::default() };
        self.pods.into_iter().for_each(|pod| node.add(pod));
        node
    }

    pub(crate) fn join(self, cluster: &mut Cluster) {
        cluster.set_node(&self.name, self.spec);
        for pod in self.pods {
            cluster.set_pod(pod, &self.name);
        }
    }
}

/// Pods of namespace `default` with a label.
pub(crate) fn selector(key: &str, value: &str) -> PodSelector {
    PodSelector {
        labels: Some(Selector(vec![Requirement::is(key, value)])),
        namespaces: vec!["default".to_owned()],
        namespace_labels: None,
    }
}
