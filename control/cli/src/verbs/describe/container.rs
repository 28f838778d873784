//! Containers and what they are made from: shared by pods and by templates.

use std::collections::BTreeMap;

use weir_proto::Quantity;
use weir_proto::core::v1::{
    Container, ContainerState, ContainerStatus, EnvVar, PodSpec, PodTemplateSpec, Probe, Toleration, Volume,
};

use super::{joined, line, or_none, pairs, time, title_case};

/// What stands below "Pod Template:".
pub(crate) fn template(out: &mut String, template: &PodTemplateSpec) {
    let empty = BTreeMap::new();
    let meta = template.metadata.as_ref();
    pairs(out, "  ", "Labels", meta.map_or(&empty, |meta| &meta.labels), "=");
    if let Some(meta) = meta.filter(|meta| !meta.annotations.is_empty()) {
        pairs(out, "  ", "Annotations", &meta.annotations, ": ");
    }
    let default = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&default);
    if !spec.service_account_name.is_empty() {
        line!(out, "  Service Account:\t{}", spec.service_account_name);
    }
    if !spec.init_containers.is_empty() {
        containers(out, "  ", "Init Containers", &spec.init_containers, &[]);
    }
    containers(out, "  ", "Containers", &spec.containers, &[]);
    volumes(out, "  ", &spec.volumes);
    pairs(out, "  ", "Node-Selectors", &spec.node_selector, "=");
    tolerations(out, "  ", &spec.tolerations);
}

pub(super) fn containers(
    out: &mut String,
    margin: &str,
    title: &str,
    containers: &[Container],
    statuses: &[ContainerStatus],
) {
    line!(out, "{margin}{title}:");
    for container in containers {
        line!(out, "{margin}  {}:", container.name);
        let status = statuses.iter().find(|status| status.name == container.name);
        one(out, &format!("{margin}    "), container, status);
    }
}

fn one(out: &mut String, margin: &str, container: &Container, status: Option<&ContainerStatus>) {
    if let Some(status) = status {
        line!(out, "{margin}Container ID:\t{}", status.container_id);
    }
    line!(out, "{margin}Image:\t{}", container.image);
    if let Some(status) = status {
        line!(out, "{margin}Image ID:\t{}", status.image_id);
    }
    let ports: Vec<String> = container
        .ports
        .iter()
        .map(|port| format!("{}/{}", port.container_port, protocol(&port.protocol)))
        .collect();
    let host_ports: Vec<String> = container
        .ports
        .iter()
        .map(|port| format!("{}/{}", port.host_port, protocol(&port.protocol)))
        .collect();
    let word = if ports.len() > 1 { "Ports" } else { "Port" };
    line!(out, "{margin}{word}:\t{}", or_none(&ports.join(", ")));
    line!(out, "{margin}Host {word}:\t{}", or_none(&host_ports.join(", ")));
    for (title, words) in [("Command", &container.command), ("Args", &container.args)] {
        if !words.is_empty() {
            line!(out, "{margin}{title}:");
            words.iter().flat_map(|word| word.lines()).for_each(|word| line!(out, "{margin}  {word}"));
        }
    }
    if let Some(status) = status {
        state(out, margin, "State", status.state.as_ref());
        if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
            state(out, margin, "Last State", status.last_state.as_ref());
        }
        line!(out, "{margin}Ready:\t{}", title_case(status.ready));
        line!(out, "{margin}Restart Count:\t{}", status.restart_count);
    }
    if let Some(resources) = &container.resources {
        quantities(out, margin, "Limits", &resources.limits);
        quantities(out, margin, "Requests", &resources.requests);
    }
    let probes = [
        ("Liveness", &container.liveness_probe),
        ("Readiness", &container.readiness_probe),
        ("Startup", &container.startup_probe),
    ];
    for (title, probe) in probes {
        if let Some(probe) = probe {
            line!(out, "{margin}{title}:\t{}", self::probe(probe));
        }
    }
    environment(out, margin, &container.env);
    mounts(out, margin, container);
}

fn protocol(protocol: &str) -> &str {
    if protocol.is_empty() { "TCP" } else { protocol }
}

fn state(out: &mut String, margin: &str, title: &str, state: Option<&ContainerState>) {
    let state = state.cloned().unwrap_or_default();
    if let Some(running) = state.running {
        line!(out, "{margin}{title}:\tRunning");
        line!(out, "{margin}  Started:\t{}", time(running.started_at));
    } else if let Some(end) = state.terminated {
        line!(out, "{margin}{title}:\tTerminated");
        if !end.reason.is_empty() {
            line!(out, "{margin}  Reason:\t{}", end.reason);
        }
        if !end.message.is_empty() {
            line!(out, "{margin}  Message:\t{}", end.message.trim().replace('\n', " "));
        }
        line!(out, "{margin}  Exit Code:\t{}", end.exit_code);
        if end.signal > 0 {
            line!(out, "{margin}  Signal:\t{}", end.signal);
        }
        line!(out, "{margin}  Started:\t{}", time(end.started_at));
        line!(out, "{margin}  Finished:\t{}", time(end.finished_at));
    } else {
        line!(out, "{margin}{title}:\tWaiting");
        if let Some(waiting) = state.waiting.filter(|waiting| !waiting.reason.is_empty()) {
            line!(out, "{margin}  Reason:\t{}", waiting.reason);
        }
    }
}

pub(super) fn quantities(out: &mut String, margin: &str, title: &str, map: &BTreeMap<String, Quantity>) {
    if map.is_empty() {
        return;
    }
    line!(out, "{margin}{title}:");
    for (name, quantity) in map {
        line!(out, "{margin}  {name}:\t{quantity}");
    }
}

fn probe(probe: &Probe) -> String {
    let what = if let Some(exec) = &probe.exec {
        format!("exec {:?}", exec.command)
    } else if let Some(get) = &probe.http_get {
        let scheme = if get.scheme.is_empty() { "http".to_owned() } else { get.scheme.to_lowercase() };
        let port = get.port.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("http-get {scheme}://{}:{port}{}", get.host, get.path)
    } else if let Some(socket) = &probe.tcp_socket {
        let port = socket.port.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("tcp-socket {}:{port}", socket.host)
    } else {
        "unknown".to_owned()
    };
    format!(
        "{what} delay={}s timeout={}s period={}s #success={} #failure={}",
        probe.initial_delay_seconds,
        probe.timeout_seconds,
        probe.period_seconds,
        probe.success_threshold,
        probe.failure_threshold
    )
}

fn environment(out: &mut String, margin: &str, variables: &[EnvVar]) {
    if variables.is_empty() {
        line!(out, "{margin}Environment:\t<none>");
        return;
    }
    line!(out, "{margin}Environment:");
    for variable in variables {
        line!(out, "{margin}  {}:\t{}", variable.name, origin(variable));
    }
}

fn origin(variable: &EnvVar) -> String {
    let Some(from) = &variable.value_from else { return variable.value.replace('\n', " ") };
    if let Some(field) = &from.field_ref {
        format!(
            "({}:{})",
            if field.api_version.is_empty() { "v1" } else { &field.api_version },
            field.field_path
        )
    } else if let Some(resource) = &from.resource_field_ref {
        format!("({})", resource.resource)
    } else if let Some(key) = &from.secret_key_ref {
        format!("<set to the key '{}' in secret '{}'>", key.key, key.name)
    } else if let Some(key) = &from.config_map_key_ref {
        format!("<set to the key '{}' of config map '{}'>", key.key, key.name)
    } else {
        "<unknown>".to_owned()
    }
}

fn mounts(out: &mut String, margin: &str, container: &Container) {
    if container.volume_mounts.is_empty() {
        line!(out, "{margin}Mounts:\t<none>");
        return;
    }
    line!(out, "{margin}Mounts:");
    for mount in &container.volume_mounts {
        let mode = if mount.read_only { "ro" } else { "rw" };
        let path =
            if mount.sub_path.is_empty() { String::new() } else { format!(",path={:?}", mount.sub_path) };
        line!(out, "{margin}  {} from {} ({mode}{path})", mount.mount_path, mount.name);
    }
}

pub(super) fn volumes(out: &mut String, margin: &str, volumes: &[Volume]) {
    if volumes.is_empty() {
        line!(out, "{margin}Volumes:\t<none>");
        return;
    }
    line!(out, "{margin}Volumes:");
    for volume in volumes {
        line!(out, "{margin}  {}:", volume.name);
        let margin = format!("{margin}    ");
        if let Some(map) = &volume.config_map {
            line!(out, "{margin}Type:\tConfigMap (a volume populated by a ConfigMap)");
            line!(out, "{margin}Name:\t{}", map.name);
        } else if let Some(secret) = &volume.secret {
            line!(out, "{margin}Type:\tSecret (a volume populated by a Secret)");
            line!(out, "{margin}SecretName:\t{}", secret.secret_name);
        } else if let Some(empty) = &volume.empty_dir {
            line!(out, "{margin}Type:\tEmptyDir (a temporary directory that shares a pod's lifetime)");
            line!(out, "{margin}Medium:\t{}", empty.medium);
        } else if let Some(host) = &volume.host_path {
            line!(out, "{margin}Type:\tHostPath (bare host directory volume)");
            line!(out, "{margin}Path:\t{}", host.path);
        } else if volume.projected.is_some() {
            line!(
                out,
                "{margin}Type:\tProjected (a volume that contains injected data from multiple sources)"
            );
        } else if volume.downward_api.is_some() {
            line!(out, "{margin}Type:\tDownwardAPI (a volume populated by information about the pod)");
        } else if let Some(image) = &volume.image {
            line!(out, "{margin}Type:\tImage (a container image or OCI artifact)");
            line!(out, "{margin}Reference:\t{}", image.reference);
            line!(out, "{margin}PullPolicy:\t{}", image.pull_policy);
        } else if let Some(claim) = &volume.persistent_volume_claim {
            line!(
                out,
                "{margin}Type:\tPersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)"
            );
            line!(out, "{margin}ClaimName:\t{}", claim.claim_name);
            line!(out, "{margin}ReadOnly:\t{}", claim.read_only);
        } else {
            line!(out, "{margin}Type:\t<unknown>");
        }
    }
}

pub(super) fn tolerations(out: &mut String, margin: &str, tolerations: &[Toleration]) {
    let words: Vec<String> = tolerations.iter().map(toleration).collect();
    let (first, rest) =
        words.split_first().map_or(("<none>", &[][..]), |(first, rest)| (first.as_str(), rest));
    line!(out, "{margin}Tolerations:\t{first}");
    rest.iter().for_each(|word| line!(out, "{margin}\t{word}"));
}

fn toleration(toleration: &Toleration) -> String {
    let mut text = toleration.key.clone();
    if !toleration.value.is_empty() {
        text += &format!("={}", toleration.value);
    }
    if !toleration.effect.is_empty() {
        text += &format!(":{}", toleration.effect);
    }
    if toleration.operator == "Exists" && toleration.value.is_empty() {
        text += if text.is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = toleration.toleration_seconds {
        text += &format!(" for {seconds}s");
    }
    text
}

/// Of a list of addresses and the like.
pub(super) fn list(out: &mut String, title: &str, words: &[String]) {
    line!(out, "{title}:\t{}", joined(words));
}
