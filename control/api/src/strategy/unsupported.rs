//! Fields that are kept and that nothing acts on yet, by name: whoever sets one is told so, and what happens instead.
//!
//! A row goes when the field begins to act. What would be dangerous to ignore belongs into validation, or is
//! refused by the agent when the pod is to start.

use weir_proto::core::v1::{
    AppArmorProfile, Container, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SecurityContext,
    ServiceSpec, Volume,
};

/// A field, what happens instead of what it says, and how to tell that it is set.
type Row<T> = (&'static str, &'static str, fn(&T) -> bool);

const CANNOT_START: &str = "the pod cannot start with it";

const POD: &[Row<PodSpec>] = &[
    ("runtimeClassName", "there is one runtime", |spec| spec.runtime_class_name.is_some()),
    ("hostUsers", CANNOT_START, |spec| spec.host_users == Some(false)),
    ("overhead", "only the scheduler counts it", |spec| !spec.overhead.is_empty()),
    ("resources", "only the scheduler counts it; containers' own limits are enforced", |spec| {
        spec.resources.is_some()
    }),
    ("resourceClaims", "no resources are claimed", |spec| !spec.resource_claims.is_empty()),
    ("setHostnameAsFQDN", "the host name is the pod's name", |spec| spec.set_hostname_as_fqdn == Some(true)),
    ("hostnameOverride", "the host name is the pod's name", |spec| spec.hostname_override.is_some()),
    ("containers.ports.hostPort", "it is kept from other pods, but not opened on the node", |spec| {
        // In the node's own network the port is open anyway.
        !spec.host_network
            && spec.containers.iter().flat_map(|container| &container.ports).any(|port| port.host_port != 0)
    }),
    ("os", "all nodes run Linux", |spec| spec.os.as_ref().is_some_and(|os| os.name != "linux")),
];

const POD_SECURITY: &[Row<PodSecurityContext>] = &[
    ("appArmorProfile", CANNOT_START, |context| confines(context.app_armor_profile.as_ref())),
    ("seLinuxOptions", "SELinux is not set up", |context| context.se_linux_options.is_some()),
    ("windowsOptions", "all nodes run Linux", |context| context.windows_options.is_some()),
];

const CONTAINER: &[Row<Container>] = &[
    ("resizePolicy", "resources do not change while it runs", |container| {
        !container.resize_policy.is_empty()
    }),
    ("restartPolicyRules", "the pod's restart policy counts", |container| {
        !container.restart_policy_rules.is_empty()
    }),
    ("volumeDevices", CANNOT_START, |container| !container.volume_devices.is_empty()),
];

const SECURITY: &[Row<SecurityContext>] = &[
    ("appArmorProfile", CANNOT_START, |context| confines(context.app_armor_profile.as_ref())),
    ("seLinuxOptions", "SELinux is not set up", |context| context.se_linux_options.is_some()),
    ("windowsOptions", "all nodes run Linux", |context| context.windows_options.is_some()),
];

fn confines(profile: Option<&AppArmorProfile>) -> bool {
    profile.is_some_and(|profile| profile.r#type != "Unconfined")
}

const PROBE: &[Row<Probe>] = &[("terminationGracePeriodSeconds", "the pod's counts", |probe| {
    probe.termination_grace_period_seconds.is_some()
})];

macro_rules! sources {
    ($($field:ident $name:literal),* $(,)?) => {
        [$(($name, CANNOT_START, |volume: &Volume| volume.$field.is_some())),*]
    };
}

const VOLUME: &[Row<Volume>] = &sources![
    persistent_volume_claim "persistentVolumeClaim",
    ephemeral "ephemeral",
    csi "csi",
    nfs "nfs",
    aws_elastic_block_store "awsElasticBlockStore",
    azure_disk "azureDisk",
    azure_file "azureFile",
    cephfs "cephfs",
    cinder "cinder",
    fc "fc",
    flex_volume "flexVolume",
    flocker "flocker",
    gce_persistent_disk "gcePersistentDisk",
    git_repo "gitRepo",
    glusterfs "glusterfs",
    iscsi "iscsi",
    photon_persistent_disk "photonPersistentDisk",
    portworx_volume "portworxVolume",
    quobyte "quobyte",
    rbd "rbd",
    scale_io "scaleIO",
    storageos "storageos",
    vsphere_volume "vsphereVolume",
];

const VOLUME_PARTS: &[Row<Volume>] =
    &[("projected", "trust bundles and pod certificates: the pod cannot start with them", |v| {
        v.projected
            .iter()
            .flat_map(|projected| &projected.sources)
            .any(|source| source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some())
    })];

const SERVICE: &[Row<ServiceSpec>] = &[
    ("type", "LoadBalancer is served as NodePort; no address is given out", |spec| {
        spec.r#type == "LoadBalancer"
    }),
    ("type", "ExternalName needs cluster DNS, which is not there", |spec| spec.r#type == "ExternalName"),
    ("sessionAffinity", "each connection picks a backend anew", |spec| spec.session_affinity == "ClientIP"),
    ("externalIPs", "they are not served", |spec| !spec.external_ips.is_empty()),
    ("loadBalancerIP", "it is not given", |spec| !spec.load_balancer_ip.is_empty()),
    ("loadBalancerSourceRanges", "clients are not filtered", |spec| {
        !spec.load_balancer_source_ranges.is_empty()
    }),
    ("externalTrafficPolicy", "Local is treated as Cluster", |spec| spec.external_traffic_policy == "Local"),
    ("internalTrafficPolicy", "Local is treated as Cluster", |spec| {
        spec.internal_traffic_policy.as_deref() == Some("Local")
    }),
    ("trafficDistribution", "backends are picked regardless of zone", |spec| {
        spec.traffic_distribution.is_some()
    }),
    ("ports.protocol", "SCTP is not served", |spec| spec.ports.iter().any(|port| port.protocol == "SCTP")),
];

fn found<T>(rows: &[Row<T>], object: &T, path: &str, warnings: &mut Vec<String>) {
    for (name, instead, _) in rows.iter().filter(|(_, _, is_set)| is_set(object)) {
        warnings.push(format!("{path}.{name}: not supported yet: {instead}"));
    }
}

pub(super) fn in_pod(spec: &PodSpec, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    found(POD, spec, path, &mut warnings);
    if let Some(context) = &spec.security_context {
        found(POD_SECURITY, context, &format!("{path}.securityContext"), &mut warnings);
    }
    for (field, containers) in [("initContainers", &spec.init_containers), ("containers", &spec.containers)] {
        for (index, container) in containers.iter().enumerate() {
            in_container(container, &format!("{path}.{field}[{index}]"), &mut warnings);
        }
    }
    for (index, volume) in spec.volumes.iter().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        found(VOLUME, volume, &path, &mut warnings);
        found(VOLUME_PARTS, volume, &path, &mut warnings);
    }
    warnings
}

fn in_container(container: &Container, path: &str, warnings: &mut Vec<String>) {
    found(CONTAINER, container, path, warnings);
    if let Some(context) = &container.security_context {
        found(SECURITY, context, &format!("{path}.securityContext"), warnings);
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (field, probe) in probes {
        if let Some(probe) = probe {
            found(PROBE, probe, &format!("{path}.{field}"), warnings);
        }
    }
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
        let container = Container { volume_devices: vec![Default::default()], ..Container::default() };
        let volume = Volume { csi: Some(Default::default()), ..Volume::default() };
        let spec = PodSpec {
            containers: vec![container],
            volumes: vec![volume],
            runtime_class_name: Some("fast".to_owned()),
            ..PodSpec::default()
        };
        let warnings = in_pod(&spec, "spec");
        let fields: Vec<_> = warnings.iter().map(|warning| warning.split(':').next().unwrap()).collect();
        assert_eq!(
            fields,
            ["spec.runtimeClassName", "spec.containers[0].volumeDevices", "spec.volumes[0].csi"]
        );
    }

    #[test]
    fn an_ordinary_pod_warns_of_nothing_with_its_defaults_filled_in() {
        let mut spec = PodSpec { containers: vec![Container::default()], ..PodSpec::default() };
        assert_eq!(in_pod(&spec, "spec"), Vec::<String>::new());
        super::super::pod_spec::fill_defaults(&mut spec);
        assert_eq!(in_pod(&spec, "spec"), Vec::<String>::new());
    }
}
