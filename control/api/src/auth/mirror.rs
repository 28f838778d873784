//! Mirrors of static pods: objects by which an agent shows the pods that it runs from files of its node. Only that agent
//! makes them, and only as what they are; nobody turns another pod into one.

use weir_proto::Resource;
use weir_proto::core::v1::{Node, Pod};
use weir_proto::status::ApiError;

use super::{User, forbidden};
use crate::registry::Registry;
use crate::strategy::pod_spec::References;

/// The static pod's uid on its node.
pub(crate) const ANNOTATION: &str = "kubernetes.io/config.mirror";

pub(crate) fn is_mirror(pod: &Pod) -> bool {
    pod.meta().annotations.contains_key(ANNOTATION)
}

/// What may be created as a pod, and by whom. Messages are those of Kubernetes' NodeRestriction.
pub(crate) async fn check_new(registry: &Registry, user: &User, pod: &Pod) -> Result<(), ApiError> {
    let refuse = |why: String| Err(forbidden(Pod::KIND, &pod.meta().name, &why));
    let Some(node) = user.node_name() else {
        return match is_mirror(pod) {
            true => refuse(format!("only a node's agent creates pods with the annotation {ANNOTATION:?}")),
            false => Ok(()),
        };
    };
    if !is_mirror(pod) {
        return refuse(format!(
            "pod does not have {ANNOTATION:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    let spec = pod.spec();
    if spec.node_name != node {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let Some(own) = registry.find::<Node>("", node).await? else {
        return refuse(format!("node {node:?} is not registered"));
    };
    let owned = match &pod.meta().owner_references[..] {
        [owner] => {
            owner.api_version == Node::KIND.api_version()
                && owner.kind == Node::KIND.kind
                && owner.name == node
                && owner.uid == own.object.meta().uid
                && owner.controller == Some(true)
                && owner.block_owner_deletion != Some(true)
        }
        _ => false,
    };
    if !owned {
        return refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    let references = References::of(spec);
    let claims = spec.volumes.iter().any(|volume| volume.persistent_volume_claim.is_some());
    let rows = [
        (!spec.service_account_name.is_empty() || !spec.service_account.is_empty(), "a service account"),
        (!references.secrets.is_empty(), "secrets"),
        (!references.config_maps.is_empty(), "configmaps"),
        (claims, "persistentvolumeclaims"),
        (!spec.resource_claims.is_empty(), "resourceclaims"),
    ];
    match rows.into_iter().find(|(there, _)| *there) {
        Some((_, what)) => refuse(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}
