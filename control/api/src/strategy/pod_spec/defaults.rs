//! What Kubernetes fills in where a pod's specification says nothing.

use weir_proto::core::v1::{Container, EmptyDirVolumeSource, EnvVar, PodSpec, Probe, Volume};

use super::GRACE_PERIOD;

/// Readable by all, writable by the owner: 0644.
const FILE_MODE: i32 = 0o644;

fn fill(field: &mut String, value: &str) {
    if field.is_empty() {
        value.clone_into(field);
    }
}

fn fill_number(field: &mut i32, value: i32) {
    if *field == 0 {
        *field = value;
    }
}

pub(in crate::strategy) fn fill_defaults(spec: &mut PodSpec) {
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(GRACE_PERIOD);
    spec.security_context.get_or_insert_default();
    // The old name and the new one always hold the same.
    let account = match spec.service_account_name.as_str() {
        "" => spec.service_account.clone(),
        name => name.to_owned(),
    };
    spec.service_account_name.clone_from(&account);
    spec.service_account = account;

    let host_network = spec.host_network;
    for container in spec.init_containers.iter_mut().chain(&mut spec.containers) {
        fill_container(container, host_network);
    }
    for container in &mut spec.ephemeral_containers {
        fill(&mut container.termination_message_path, "/dev/termination-log");
        fill(&mut container.termination_message_policy, "File");
        fill_pull_policy(&mut container.image_pull_policy, &container.image);
        fill_environment(&mut container.env);
    }
    spec.volumes.iter_mut().for_each(fill_volume);
}

fn fill_pull_policy(policy: &mut String, image: &str) {
    fill(policy, if moves(image) { "Always" } else { "IfNotPresent" });
}

fn fill_environment(variables: &mut [EnvVar]) {
    for variable in variables {
        if let Some(field) = variable.value_from.as_mut().and_then(|source| source.field_ref.as_mut()) {
            fill(&mut field.api_version, "v1");
        }
    }
}

fn fill_container(container: &mut Container, host_network: bool) {
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    fill_pull_policy(&mut container.image_pull_policy, &container.image);
    container.resources.get_or_insert_default();
    for port in &mut container.ports {
        fill(&mut port.protocol, "TCP");
        if host_network && port.host_port == 0 {
            port.host_port = port.container_port;
        }
    }
    fill_environment(&mut container.env);
    let probes =
        [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(|probe| fill_probe(probe));
    let handlers =
        container.lifecycle.iter_mut().flat_map(|l| [&mut l.post_start, &mut l.pre_stop]).flatten();
    for http in handlers.filter_map(|handler| handler.http_get.as_mut()) {
        fill(&mut http.path, "/");
        fill(&mut http.scheme, "HTTP");
    }
}

/// Whether a reference names what may be another image tomorrow: tag `latest`, or none.
fn moves(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn fill_probe(probe: &mut Probe) {
    fill_number(&mut probe.timeout_seconds, 1);
    fill_number(&mut probe.period_seconds, 10);
    fill_number(&mut probe.success_threshold, 1);
    fill_number(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        fill(&mut http.path, "/");
        fill(&mut http.scheme, "HTTP");
    }
}

fn fill_volume(volume: &mut Volume) {
    let only_name = Volume { name: volume.name.clone(), ..Volume::default() };
    if *volume == only_name {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(path) = &mut volume.host_path {
        path.r#type.get_or_insert_default();
    }
    if let Some(image) = &mut volume.image {
        fill(&mut image.pull_policy, if moves(&image.reference) { "Always" } else { "IfNotPresent" });
    }
    let modes = [
        volume.config_map.as_mut().map(|source| &mut source.default_mode),
        volume.secret.as_mut().map(|source| &mut source.default_mode),
        volume.downward_api.as_mut().map(|source| &mut source.default_mode),
        volume.projected.as_mut().map(|source| &mut source.default_mode),
    ];
    for mode in modes.into_iter().flatten() {
        mode.get_or_insert(FILE_MODE);
    }
}

/// A container that states a limit and no request asks for its limit. Of pods only: a template keeps what was written.
pub(in crate::strategy) fn requests_from_limits(spec: &mut PodSpec) {
    for container in spec.init_containers.iter_mut().chain(&mut spec.containers) {
        if let Some(resources) = &mut container.resources {
            for (name, limit) in &resources.limits {
                if !resources.requests.contains_key(name) {
                    resources.requests.insert(name.clone(), *limit);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_pulled_always_only_where_the_tag_may_move() {
        for image in ["web", "web:latest", "localhost:5000/web", "localhost:5000/web:latest"] {
            assert!(moves(image), "{image}");
        }
        for image in ["web:1", "localhost:5000/web:1", "web@sha256:aa", "web:latest@sha256:aa"] {
            assert!(!moves(image), "{image}");
        }
    }

    #[test]
    fn defaults_are_those_of_kubernetes_and_filling_twice_changes_nothing() {
        let mut spec = PodSpec {
            containers: vec![Container {
                readiness_probe: Some(Box::default()),
                ports: vec![Default::default()],
                ..Container::default()
            }],
            volumes: vec![Volume::default()],
            ..PodSpec::default()
        };
        fill_defaults(&mut spec);
        assert_eq!(spec.termination_grace_period_seconds, Some(30));
        assert_eq!((spec.restart_policy.as_str(), spec.dns_policy.as_str()), ("Always", "ClusterFirst"));
        assert_eq!(spec.containers[0].ports[0].protocol, "TCP");
        assert_eq!(spec.containers[0].readiness_probe.as_ref().unwrap().period_seconds, 10);
        assert!(spec.volumes[0].empty_dir.is_some());
        let once = spec.clone();
        fill_defaults(&mut spec);
        assert_eq!(spec, once);
    }
}
