//! What a node's agent may do: report its own Node, Lease and dataplane, follow its own pods, read what they
//! mount and get tokens for them, and follow what every node needs to route.

use weir_proto::core::v1::Pod;

use super::{Access, Verb};
use crate::cache::CachedObject;
use crate::registry::Registry;
use crate::strategy::pod_spec::References;

const LEASES: &str = "kube-node-lease";

/// `Err` with the reason of the refusal.
pub(super) async fn allows(node: &str, access: &Access<'_>, registry: &Registry) -> Result<(), &'static str> {
    let refused = match allows_now(node, access, registry) {
        Err(reason) if matches!(access.kind.plural, "pods" | "configmaps" | "secrets") => reason,
        decided => return decided,
    };
    // The pod may have been bound, through another server, a moment ago.
    match registry.cache_of::<Pod>() {
        Ok(pods) if matches!(pods.fresh().await, Ok(true)) => allows_now(node, access, registry),
        _ => Err(refused),
    }
}

fn allows_now(node: &str, access: &Access<'_>, registry: &Registry) -> Result<(), &'static str> {
    use Verb::{Create, Delete, Get, List, Patch, Update, Watch};
    let own_name = access.name == node || exact(access, "metadata.name") == Some(node);
    match (access.kind.group, access.kind.plural, access.subresource, access.verb) {
        ("", "nodes", "", Create) => Ok(()),
        ("", "nodes", "", Get | List | Watch | Update | Patch)
        | ("", "nodes", "status", Get | Update | Patch) => {
            only(own_name, "a node may only access its own Node")
        }
        ("net.weir.dev", "dataplanenodes", "", Create) => Ok(()),
        ("net.weir.dev", "dataplanenodes", _, Get | List | Watch | Update | Patch) => {
            only(own_name, "a node may only access its own DataplaneNode")
        }
        ("coordination.k8s.io", "leases", "", Create) => {
            only(access.namespace == LEASES, "a node may only access leases in kube-node-lease")
        }
        ("coordination.k8s.io", "leases", "", Get | Update | Patch) => {
            only(access.namespace == LEASES && own_name, "a node may only access its own Lease")
        }
        ("", "pods", "", List | Watch) => only(
            exact(access, "spec.nodeName") == Some(node),
            "a node may only follow its own pods: select spec.nodeName",
        ),
        // Mirrors of its static pods; the registry looks at what is created.
        ("", "pods", "", Create) => Ok(()),
        ("", "pods", "", Get | Delete) | ("", "pods", "status", Get | Update | Patch) => {
            only(runs(node, access, registry), "the pod is not bound to this node")
        }
        ("", "configmaps" | "secrets", "", Get | List | Watch) => {
            only(needed_by_pods(node, access, registry), "no pod of this node refers to it")
        }
        // Whose tokens: `Registry::issue_token` looks at the pod that the request names.
        ("", "serviceaccounts", "token", Create) => Ok(()),
        ("", "events", "", Create | Update | Patch) => Ok(()),
        ("", "services" | "namespaces", "", Get | List | Watch) => Ok(()),
        ("discovery.k8s.io", "endpointslices", "", Get | List | Watch) => Ok(()),
        _ => Err("not something a node does"),
    }
}

/// The registry looks again at what is created: a node may name only itself.
pub(crate) fn may_create_as(node: &str, plural: &str, name: &str) -> bool {
    !matches!(plural, "nodes" | "dataplanenodes" | "leases") || name == node
}

fn only(allowed: bool, reason: &'static str) -> Result<(), &'static str> {
    if allowed { Ok(()) } else { Err(reason) }
}

fn exact<'a>(access: &Access<'a>, field: &str) -> Option<&'a str> {
    access.filter?.fields.as_ref()?.pinned(field)
}

fn runs(node: &str, access: &Access<'_>, registry: &Registry) -> bool {
    registry
        .peek::<Pod>(access.namespace, access.name)
        .and_then(|pod| pod.typed::<Pod>()?.spec.as_ref().map(|spec| spec.node_name == node))
        .unwrap_or(false)
}

fn needed_by_pods(node: &str, access: &Access<'_>, registry: &Registry) -> bool {
    let name = if access.name.is_empty() { exact(access, "metadata.name") } else { Some(access.name) };
    let Some(name) = name else { return false };
    let refers = |pod: &CachedObject| {
        let spec = pod.typed::<Pod>().and_then(|pod| pod.spec.as_ref());
        let references = spec.map(References::of).unwrap_or_default();
        pod.object.meta().namespace == access.namespace
            && match access.kind.plural {
                "secrets" => references.secrets.contains(name),
                _ => references.config_maps.contains(name),
            }
    };
    // As many pods as a node runs, however many there are.
    registry.cache_of::<Pod>().is_ok_and(|pods| pods.any_picked(node, refers))
}
