//! What the API server fills in where a pod says nothing: no API server has seen a static pod. Pure.

use weir_proto::core::v1::{Container, EmptyDirVolumeSource, PodSpec, Probe, Volume};

const GRACE_PERIOD: i64 = 30;
const FILE_MODE: i32 = 0o644;
/// The classes that every cluster has, and their values.
const CLASSES: [(&str, i32); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(super) fn fill(spec: &mut PodSpec) {
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(GRACE_PERIOD);
    spec.security_context.get_or_insert_default();
    // Nothing of the API is there to be told of.
    spec.enable_service_links.get_or_insert(false);
    if spec.priority.is_none() {
        let class = CLASSES.iter().find(|(name, _)| *name == spec.priority_class_name);
        spec.priority = class.map(|(_, value)| *value);
    }
    let host_network = spec.host_network;
    for container in spec.init_containers.iter_mut().chain(&mut spec.containers) {
        fill_container(container, host_network);
    }
    spec.volumes.iter_mut().for_each(fill_volume);
}

fn fill_container(container: &mut Container, host_network: bool) {
    text(&mut container.termination_message_path, "/dev/termination-log");
    text(&mut container.termination_message_policy, "File");
    let name = container.image.rsplit('/').next().unwrap_or_default();
    let moves = !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    text(&mut container.image_pull_policy, if moves { "Always" } else { "IfNotPresent" });
    let resources = container.resources.get_or_insert_default();
    for (name, limit) in &resources.limits {
        resources.requests.entry(name.clone()).or_insert(*limit);
    }
    for port in &mut container.ports {
        text(&mut port.protocol, "TCP");
        if host_network && port.host_port == 0 {
            port.host_port = port.container_port;
        }
    }
    for variable in &mut container.env {
        if let Some(field) = variable.value_from.as_mut().and_then(|source| source.field_ref.as_mut()) {
            text(&mut field.api_version, "v1");
        }
    }
    let probes =
        [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(|probe| fill_probe(probe));
    let handlers =
        container.lifecycle.iter_mut().flat_map(|all| [&mut all.post_start, &mut all.pre_stop]).flatten();
    for http in handlers.filter_map(|handler| handler.http_get.as_mut()) {
        text(&mut http.path, "/");
        text(&mut http.scheme, "HTTP");
    }
}

fn fill_probe(probe: &mut Probe) {
    number(&mut probe.timeout_seconds, 1);
    number(&mut probe.period_seconds, 10);
    number(&mut probe.success_threshold, 1);
    number(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        text(&mut http.path, "/");
        text(&mut http.scheme, "HTTP");
    }
}

fn fill_volume(volume: &mut Volume) {
    if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(path) = &mut volume.host_path {
        path.r#type.get_or_insert_default();
    }
    let modes = [
        volume.downward_api.as_mut().map(|source| &mut source.default_mode),
        volume.projected.as_mut().map(|source| &mut source.default_mode),
    ];
    for mode in modes.into_iter().flatten() {
        mode.get_or_insert(FILE_MODE);
    }
}

fn text(field: &mut String, value: &str) {
    if field.is_empty() {
        value.clone_into(field);
    }
}

fn number(field: &mut i32, value: i32) {
    if *field == 0 {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filling_twice_changes_nothing_and_limits_are_requests() {
        let mut container = Container {
            image: "echo:1".to_owned(),
            readiness_probe: Some(Box::default()),
            ..Container::default()
        };
        let resources = container.resources.get_or_insert_default();
        resources.limits.insert("cpu".to_owned(), "1".parse().expect("a quantity"));
        let mut spec = PodSpec {
            containers: vec![container],
            volumes: vec![Volume::default()],
            priority_class_name: "system-node-critical".to_owned(),
            ..PodSpec::default()
        };
        fill(&mut spec);
        assert_eq!((spec.termination_grace_period_seconds, spec.priority), (Some(30), Some(2_000_001_000)));
        let container = &spec.containers[0];
        assert_eq!(container.image_pull_policy, "IfNotPresent");
        assert_eq!(container.readiness_probe.as_ref().map(|probe| probe.period_seconds), Some(10));
        assert!(container.resources.as_ref().is_some_and(|all| all.requests.contains_key("cpu")));
        let once = spec.clone();
        fill(&mut spec);
        assert_eq!(spec, once);
    }
}
