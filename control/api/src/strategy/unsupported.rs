//! Fields that are kept and that nothing acts on yet, by name: whoever sets one is told so.
//!
//! A row goes when the field begins to act. What would be dangerous to ignore belongs into validation instead.

use weir_proto::core::v1::{Container, PodSpec, PodTemplateSpec, ServiceSpec, Volume};

/// A field, and how to tell that it is set.
struct Field<T> {
    name: &'static str,
    /// What happens instead.
    instead: &'static str,
    is_set: fn(&T) -> bool,
}

const POD: &[Field<PodSpec>] = &[
    Field {
        name: "ephemeralContainers",
        instead: "they are not started",
        is_set: |spec| !spec.ephemeral_containers.is_empty(),
    },
    Field {
        name: "activeDeadlineSeconds",
        instead: "the pod is not ended",
        is_set: |spec| spec.active_deadline_seconds.is_some(),
    },
    Field {
        name: "priorityClassName",
        instead: "all pods have the same priority",
        is_set: |spec| !spec.priority_class_name.is_empty(),
    },
    Field {
        name: "runtimeClassName",
        instead: "there is one runtime",
        is_set: |spec| spec.runtime_class_name.is_some(),
    },
    Field {
        name: "hostUsers",
        instead: "pods have no user namespace of their own",
        is_set: |spec| spec.host_users == Some(false),
    },
    Field { name: "overhead", instead: "it is not counted", is_set: |spec| !spec.overhead.is_empty() },
    Field {
        name: "resources",
        instead: "only containers' resources count",
        is_set: |spec| spec.resources.is_some(),
    },
    Field {
        name: "resourceClaims",
        instead: "no resources are claimed",
        is_set: |spec| !spec.resource_claims.is_empty(),
    },
    Field {
        name: "readinessGates",
        instead: "readiness does not wait for them",
        is_set: |spec| !spec.readiness_gates.is_empty(),
    },
    Field {
        name: "imagePullSecrets",
        instead: "images come from the node's image sources",
        is_set: |spec| !spec.image_pull_secrets.is_empty(),
    },
    Field {
        name: "setHostnameAsFQDN",
        instead: "the host name is the pod's name",
        is_set: |spec| spec.set_hostname_as_fqdn == Some(true),
    },
    Field {
        name: "automountServiceAccountToken",
        instead: "no tokens are mounted",
        is_set: |spec| spec.automount_service_account_token == Some(true),
    },
];

const CONTAINER: &[Field<Container>] = &[
    Field {
        name: "livenessProbe",
        instead: "the container is not probed",
        is_set: |container| container.liveness_probe.is_some(),
    },
    Field {
        name: "readinessProbe",
        instead: "the container is ready when it runs",
        is_set: |container| container.readiness_probe.is_some(),
    },
    Field {
        name: "startupProbe",
        instead: "the container is not probed",
        is_set: |container| container.startup_probe.is_some(),
    },
    Field {
        name: "lifecycle",
        instead: "the handlers are not called",
        is_set: |container| container.lifecycle.is_some(),
    },
    Field {
        name: "resizePolicy",
        instead: "resources do not change while it runs",
        is_set: |container| !container.resize_policy.is_empty(),
    },
    Field {
        name: "restartPolicyRules",
        instead: "the pod's restart policy counts",
        is_set: |container| !container.restart_policy_rules.is_empty(),
    },
    Field {
        name: "volumeDevices",
        instead: "there are no block volumes",
        is_set: |container| !container.volume_devices.is_empty(),
    },
    Field { name: "stdin", instead: "stdin is empty", is_set: |container| container.stdin },
    Field { name: "tty", instead: "there is no terminal", is_set: |container| container.tty },
    Field {
        name: "ports.hostPort",
        instead: "the port is not opened on the node",
        is_set: |container| container.ports.iter().any(|port| port.host_port != 0),
    },
];

const VOLUME: &[Field<Volume>] = &[
    Field {
        name: "persistentVolumeClaim",
        instead: "the pod cannot start with it",
        is_set: |volume| volume.persistent_volume_claim.is_some(),
    },
    Field {
        name: "ephemeral",
        instead: "the pod cannot start with it",
        is_set: |volume| volume.ephemeral.is_some(),
    },
    Field { name: "csi", instead: "the pod cannot start with it", is_set: |volume| volume.csi.is_some() },
    Field { name: "nfs", instead: "the pod cannot start with it", is_set: |volume| volume.nfs.is_some() },
    Field { name: "image", instead: "the pod cannot start with it", is_set: |volume| volume.image.is_some() },
];

const SERVICE: &[Field<ServiceSpec>] = &[
    Field {
        name: "type",
        instead: "LoadBalancer is served as NodePort; no address is given out",
        is_set: |spec| spec.r#type == "LoadBalancer",
    },
    Field {
        name: "type",
        instead: "ExternalName needs cluster DNS, which is not there",
        is_set: |spec| spec.r#type == "ExternalName",
    },
    Field {
        name: "sessionAffinity",
        instead: "each connection picks a backend anew",
        is_set: |spec| spec.session_affinity == "ClientIP",
    },
    Field {
        name: "externalIPs",
        instead: "they are not served",
        is_set: |spec| !spec.external_ips.is_empty(),
    },
    Field {
        name: "loadBalancerIP",
        instead: "it is not given",
        is_set: |spec| !spec.load_balancer_ip.is_empty(),
    },
    Field {
        name: "loadBalancerSourceRanges",
        instead: "clients are not filtered",
        is_set: |spec| !spec.load_balancer_source_ranges.is_empty(),
    },
    Field {
        name: "externalTrafficPolicy",
        instead: "Local is treated as Cluster",
        is_set: |spec| spec.external_traffic_policy == "Local",
    },
    Field {
        name: "internalTrafficPolicy",
        instead: "Local is treated as Cluster",
        is_set: |spec| spec.internal_traffic_policy.as_deref() == Some("Local"),
    },
    Field {
        name: "trafficDistribution",
        instead: "backends are picked regardless of zone",
        is_set: |spec| spec.traffic_distribution.is_some(),
    },
    Field {
        name: "ports.protocol",
        instead: "SCTP is not served",
        is_set: |spec| spec.ports.iter().any(|port| port.protocol == "SCTP"),
    },
];

fn found<T>(fields: &[Field<T>], object: &T, path: &str, warnings: &mut Vec<String>) {
    for field in fields.iter().filter(|field| (field.is_set)(object)) {
        warnings.push(format!("{path}.{}: not supported yet: {}", field.name, field.instead));
    }
}

pub(super) fn in_pod(spec: &PodSpec, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    found(POD, spec, path, &mut warnings);
    for (field, containers) in [("initContainers", &spec.init_containers), ("containers", &spec.containers)] {
        for (index, container) in containers.iter().enumerate() {
            found(CONTAINER, container, &format!("{path}.{field}[{index}]"), &mut warnings);
        }
    }
    for (index, volume) in spec.volumes.iter().enumerate() {
        found(VOLUME, volume, &format!("{path}.volumes[{index}]"), &mut warnings);
    }
    warnings
}

pub(super) fn in_template(template: Option<&PodTemplateSpec>) -> Vec<String> {
    let spec = template.and_then(|template| template.spec.as_ref());
    spec.map(|spec| in_pod(spec, "spec.template.spec")).unwrap_or_default()
}

pub(super) fn in_service(spec: &ServiceSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    found(SERVICE, spec, "spec", &mut warnings);
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_nothing_acts_on_is_named() {
        let container = Container { tty: true, ..Container::default() };
        let spec =
            PodSpec { containers: vec![container], active_deadline_seconds: Some(60), ..PodSpec::default() };
        let warnings = in_pod(&spec, "spec");
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with("spec.activeDeadlineSeconds: "));
        assert!(warnings[1].starts_with("spec.containers[0].tty: "));
    }

    #[test]
    fn an_ordinary_pod_warns_of_nothing() {
        assert_eq!(in_pod(&PodSpec::default(), "spec"), Vec::<String>::new());
    }
}
