//! `metrics.k8s.io/v1beta1`: NodeMetrics and PodMetrics, for `kubectl top` and whoever scales by them. Nothing is stored:
//! each request asks the agents. A node that does not answer has no metrics, and its pods have none.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use weir_proto::Resource;
use weir_proto::core::v1::{Node, Pod};
use weir_proto::labels::Selector;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::{NodeStats, PodStats, Usage};

use super::query::Query;
use super::{Rest, answer};
use crate::auth::{self, Access, User, Verb};
use crate::cache::Filter;
use crate::usage;

pub(super) const GROUP: &str = "metrics.k8s.io";
const GROUP_VERSION: &str = "metrics.k8s.io/v1beta1";

/// Whether a path is one of ours; what follows the group then.
pub(super) fn place(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/apis/metrics.k8s.io")?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// The group among the others.
pub(super) fn group() -> Value {
    let version = json!({"groupVersion": GROUP_VERSION, "version": "v1beta1"});
    json!({"name": GROUP, "versions": [version], "preferredVersion": version})
}

pub(super) async fn serve(
    rest: &Rest,
    user: &User,
    method: &Method,
    place: &str,
    query: &str,
) -> Result<Response, ApiError> {
    if method != Method::GET {
        return Err(ApiError::method_not_allowed("metrics can only be read"));
    }
    let query = Query::parse(query)?;
    if query.watch {
        return Err(ApiError::method_not_allowed("metrics cannot be watched"));
    }
    let parts: Vec<&str> = place.split('/').filter(|part| !part.is_empty()).collect();
    let found = match parts[..] {
        [] => {
            let mut group = group();
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            group
        }
        ["v1beta1"] => resources(),
        ["v1beta1", "nodes"] => nodes(rest, user, &query).await?,
        ["v1beta1", "nodes", name] => node(rest, user, name).await?,
        ["v1beta1", "pods"] => pods(rest, user, "", &query).await?,
        ["v1beta1", "namespaces", namespace, "pods"] => pods(rest, user, namespace, &query).await?,
        ["v1beta1", "namespaces", namespace, "pods", name] => pod(rest, user, namespace, name).await?,
        _ => return Err(ApiError::no_such_path()),
    };
    Ok(answer::value(StatusCode::OK, &found))
}

fn resources() -> Value {
    let resource = |name: &str, kind: &str, namespaced: bool| {
        json!({
            "name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"],
        })
    };
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": GROUP_VERSION,
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
    })
}

fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": GROUP_VERSION, "metadata": {}, "items": items})
}

async fn nodes(rest: &Rest, user: &User, query: &Query) -> Result<Value, ApiError> {
    usage::authorize(user, "", &rest.registry).await?;
    let known = rest.registry.peek_all::<Node>(&filter("", query)?);
    let labels: BTreeMap<String, BTreeMap<String, String>> = known
        .iter()
        .map(|node| (node.object.meta().name.clone(), node.object.meta().labels.clone()))
        .collect();
    let mut stats = usage::of_nodes(&rest.agents, labels.keys().cloned().collect()).await;
    stats.sort_by(|one, other| one.node_name.cmp(&other.node_name));
    let items = stats.iter().filter_map(|stats| of_node(stats, labels.get(&stats.node_name)?));
    Ok(list("NodeMetricsList", items.collect()))
}

async fn node(rest: &Rest, user: &User, name: &str) -> Result<Value, ApiError> {
    usage::authorize(user, name, &rest.registry).await?;
    let known = rest.registry.peek::<Node>("", name).ok_or_else(|| ApiError::not_found(Node::KIND, name))?;
    let stats = usage::of_node(&rest.agents, name).await?;
    of_node(&stats, &known.object.meta().labels).ok_or_else(|| not_yet("node", name))
}

async fn pods(rest: &Rest, user: &User, namespace: &str, query: &Query) -> Result<Value, ApiError> {
    authorize_pods(rest, user, Verb::List, namespace, "").await?;
    let known = rest.registry.peek_all::<Pod>(&filter(namespace, query)?);
    let pods: Vec<&Pod> = known.iter().filter_map(|pod| pod.typed::<Pod>()).collect();
    let by_uid: BTreeMap<&str, &Pod> = pods.iter().map(|pod| (pod.meta().uid.as_str(), *pod)).collect();
    let mut names: Vec<String> = pods.iter().map(|pod| pod.spec().node_name.clone()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| !name.is_empty());
    let stats = usage::of_nodes(&rest.agents, names).await;
    let mut items: Vec<_> = stats
        .iter()
        .flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
        .filter_map(|(node, pod)| {
            Some((&pod.namespace, &pod.name, of_pod(node, pod, by_uid.get(pod.uid.as_str())?)?))
        })
        .collect();
    items.sort_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
    Ok(list("PodMetricsList", items.into_iter().map(|(.., item)| item).collect()))
}

async fn pod(rest: &Rest, user: &User, namespace: &str, name: &str) -> Result<Value, ApiError> {
    authorize_pods(rest, user, Verb::Get, namespace, name).await?;
    let known = rest.registry.peek::<Pod>(namespace, name);
    let known = known.as_ref().and_then(|pod| pod.typed::<Pod>());
    let pod = known.ok_or_else(|| ApiError::not_found(Pod::KIND, name))?;
    let stats = usage::of_node(&rest.agents, &pod.spec().node_name).await?;
    let found = stats.pods.iter().find(|found| found.uid == pod.meta().uid);
    found.and_then(|found| of_pod(&stats, found, pod)).ok_or_else(|| not_yet("pod", name))
}

async fn authorize_pods(
    rest: &Rest,
    user: &User,
    verb: Verb,
    namespace: &str,
    name: &str,
) -> Result<(), ApiError> {
    let access = Access { verb, kind: Pod::KIND, namespace, name, subresource: "metrics", filter: None };
    auth::authorize(user, &access, &rest.registry).await
}

fn filter(namespace: &str, query: &Query) -> Result<Filter, ApiError> {
    let labels = match query.label_selector.as_str() {
        "" => None,
        text => Some(Selector::parse(text).map_err(|error| ApiError::bad_request(error.to_string()))?),
    };
    Ok(Filter { labels, ..Filter::namespace(namespace) })
}

fn not_yet(kind: &str, name: &str) -> ApiError {
    ApiError::unavailable(format!("{kind} {name:?} has not been measured twice yet"))
}

fn of_node(stats: &NodeStats, labels: &BTreeMap<String, String>) -> Option<Value> {
    let found = stats.usage.as_ref()?;
    Some(json!({
        "kind": "NodeMetrics",
        "apiVersion": GROUP_VERSION,
        "metadata": {"name": stats.node_name, "labels": labels, "creationTimestamp": time(stats)},
        "timestamp": time(stats),
        "window": window(found),
        "usage": usage_of(found)?,
    }))
}

/// None while a container has not been measured twice: a sum without it would mislead.
fn of_pod(node: &NodeStats, stats: &PodStats, pod: &Pod) -> Option<Value> {
    let containers = stats.containers.iter().map(|container| {
        Some(json!({"name": container.name, "usage": usage_of(container.usage.as_ref()?)?}))
    });
    let containers: Vec<Value> = containers.collect::<Option<_>>()?;
    Some(json!({
        "kind": "PodMetrics",
        "apiVersion": GROUP_VERSION,
        "metadata": {
            "name": stats.name,
            "namespace": stats.namespace,
            "labels": pod.meta().labels,
            "creationTimestamp": time(node),
        },
        "timestamp": time(node),
        "window": window(stats.usage.as_ref()?),
        "containers": containers,
    }))
}

fn usage_of(usage: &Usage) -> Option<Value> {
    let memory = usage.memory_working_set_bytes / 1024;
    Some(json!({"cpu": format!("{}n", usage.cpu_nano_cores?), "memory": format!("{memory}Ki")}))
}

fn window(usage: &Usage) -> String {
    format!("{}.{:03}s", usage.window_nanos / 1_000_000_000, usage.window_nanos / 1_000_000 % 1000)
}

fn time(stats: &NodeStats) -> String {
    let time = Timestamp::from_nanosecond(stats.time_nanos.into()).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use weir_proto::weir::v1::ContainerStats;

    use super::*;

    #[test]
    fn a_pod_is_told_when_all_its_containers_were_measured() {
        let usage = Usage {
            cpu_nano_cores: Some(1500),
            memory_working_set_bytes: 4096,
            window_nanos: 10_250_000_000,
            ..Usage::default()
        };
        let container = |usage: Usage| ContainerStats { usage: Some(usage), ..ContainerStats::default() };
        let mut stats =
            PodStats { usage: Some(usage), containers: vec![container(usage)], ..PodStats::default() };
        let (node, pod) = (NodeStats::default(), Pod::default());
        let found = of_pod(&node, &stats, &pod).expect("it");
        assert_eq!(found["containers"][0]["usage"], json!({"cpu": "1500n", "memory": "4Ki"}));
        assert_eq!(found["window"], "10.250s");
        stats.containers.push(container(Usage { cpu_nano_cores: None, ..usage }));
        assert_eq!(of_pod(&node, &stats, &pod), None);
    }

    #[test]
    fn other_groups_are_not_ours() {
        assert_eq!(place("/apis/metrics.k8s.io/v1beta1/nodes"), Some("/v1beta1/nodes"));
        assert_eq!(place("/apis/metrics.k8s.io"), Some(""));
        assert_eq!(place("/apis/metrics.k8s.iox/v1"), None);
    }
}
