//! One static pod from one file: read, completed as the API would have completed it, and checked. Pure.
//!
//! The pod's uid is a hash of the node, the file's path and what the file says (not of its comments): the same file is the
//! same pod, also for an agent that starts anew; a changed one is another pod.
//!
//! Left out: several pods in a file, and all that needs the API: ConfigMaps, Secrets, service accounts, claims.

use std::path::Path;

use sha2::{Digest, Sha256};
use thiserror::Error;
use weir_proto::core::v1::{Container, Pod, PodSpec, PodStatus, Toleration};
use weir_proto::meta::v1::Time;
use weir_proto::{Resource, yaml};

use super::defaults;
use crate::pods::mirror::{HASH, SEEN, SOURCE};

/// Why a file is no static pod.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ManifestError {
    #[error("it is not UTF-8")]
    Text,
    #[error(transparent)]
    Yaml(#[from] yaml::YamlError),
    #[error("it is empty")]
    Empty,
    #[error("it holds {0} documents; a file holds one pod")]
    Several(usize),
    #[error("line {line}: expected apiVersion v1, kind Pod, found {found}")]
    Kind { line: usize, found: String },
    #[error("line {line}: {problem}")]
    Field { line: usize, problem: String },
    #[error("line {line}: {path}: {problem}")]
    Invalid { line: usize, path: String, problem: String },
    #[error("static pods may not reference {0}: they run without the API")]
    Reference(&'static str),
}

/// A pod, and what was ignored in its file.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) pod: Pod,
    pub(crate) unknown: Vec<String>,
}

pub(crate) fn read(node: &str, path: &Path, bytes: &[u8], now: Time) -> Result<Manifest, ManifestError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ManifestError::Text)?;
    let mut documents = yaml::documents(text)?;
    let document = match documents.len() {
        0 => return Err(ManifestError::Empty),
        1 => documents.remove(0),
        several => return Err(ManifestError::Several(several)),
    };
    let header = |field: &str| document.value.get(field).and_then(|value| value.as_str()).unwrap_or_default();
    if (header("apiVersion"), header("kind")) != ("v1", Pod::KIND.kind) {
        let found = format!("apiVersion {:?}, kind {:?}", header("apiVersion"), header("kind"));
        return Err(ManifestError::Kind { line: document.line_of("kind"), found });
    }
    let mut unknown = Vec::new();
    let object = Pod::KIND.from_json(&document.value, &mut unknown).map_err(|error| {
        ManifestError::Field { line: document.line_of(&error.path), problem: error.to_string() }
    })?;
    let mut pod = object.downcast_ref::<Pod>().cloned().unwrap_or_default();
    if let Err((field, problem)) = check(&pod) {
        return Err(ManifestError::Invalid { line: document.line_of(&field), path: field, problem });
    }
    if let Some(what) = reference(pod.spec()) {
        return Err(ManifestError::Reference(what));
    }
    let mut hash = Sha256::new();
    for part in [node.as_bytes(), path.as_os_str().as_encoded_bytes(), document.value.to_string().as_bytes()]
    {
        hash.update(part);
        hash.update([0]);
    }
    let uid: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    complete(&mut pod, node, &uid, now);
    Ok(Manifest { pod, unknown })
}

fn complete(pod: &mut Pod, node: &str, uid: &str, now: Time) {
    let meta = pod.meta_mut();
    meta.name = format!("{}-{}", meta.name, node.to_lowercase());
    if meta.namespace.is_empty() {
        "default".clone_into(&mut meta.namespace);
    }
    uid.clone_into(&mut meta.uid);
    meta.generation = 1;
    meta.resource_version.clear();
    meta.owner_references.clear();
    meta.finalizers.clear();
    meta.deletion_timestamp = None;
    meta.creation_timestamp = Some(now);
    let seen = jiff::Timestamp::from_second(now.unix()).map(|time| time.to_string()).unwrap_or_default();
    for (key, value) in [(SOURCE, "file"), (HASH, uid), (SEEN, &seen)] {
        meta.annotations.insert(key.to_owned(), value.to_owned());
    }
    let spec = pod.spec_mut();
    node.clone_into(&mut spec.node_name);
    defaults::fill(spec);
    // No trouble of its node drives it away: where would it go?
    spec.tolerations.push(Toleration {
        operator: "Exists".to_owned(),
        effect: "NoExecute".to_owned(),
        ..Toleration::default()
    });
    pod.status = Some(PodStatus { phase: "Pending".to_owned(), ..PodStatus::default() });
}

/// What the API would refuse and this agent could not run; the rest of its checks the mirror meets.
fn check(pod: &Pod) -> Result<(), (String, String)> {
    let fail = |path: String, problem: &str| Err((path, problem.to_owned()));
    let label = |name: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        !name.is_empty()
            && name.len() <= 253
            && name.chars().all(|c| plain(c) || matches!(c, '-' | '.'))
            && name.starts_with(plain)
            && name.ends_with(plain)
    };
    let meta = pod.meta();
    if !label(&meta.name) {
        return fail("metadata.name".to_owned(), &format!("{:?} is not a name of a pod", meta.name));
    }
    if !meta.namespace.is_empty() && (!label(&meta.namespace) || meta.namespace.contains('.')) {
        return fail("metadata.namespace".to_owned(), &format!("{:?} is no namespace", meta.namespace));
    }
    let spec = pod.spec();
    if spec.containers.is_empty() {
        return fail("spec.containers".to_owned(), "a pod has at least one container");
    }
    if !spec.ephemeral_containers.is_empty() {
        return fail("spec.ephemeralContainers".to_owned(), "they are for running pods");
    }
    if !matches!(spec.restart_policy.as_str(), "" | "Always" | "OnFailure" | "Never") {
        let problem = format!("{:?} is none of Always, OnFailure, Never", spec.restart_policy);
        return fail("spec.restartPolicy".to_owned(), &problem);
    }
    let mut names = std::collections::BTreeSet::new();
    let lists = [("initContainers", &spec.init_containers), ("containers", &spec.containers)];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            let at = |field: &str| format!("spec.{list}[{index}].{field}");
            if !label(&container.name) || container.name.len() > 63 || container.name.contains('.') {
                return fail(at("name"), &format!("{:?} is not a name of a container", container.name));
            }
            if !names.insert(&container.name) {
                return fail(at("name"), &format!("{:?} is there twice", container.name));
            }
            if container.image.is_empty() {
                return fail(at("image"), "it is missing");
            }
            for (number, mount) in container.volume_mounts.iter().enumerate() {
                if !spec.volumes.iter().any(|volume| volume.name == mount.name) {
                    let problem = format!("the pod has no volume {:?}", mount.name);
                    return fail(at(&format!("volumeMounts[{number}].name")), &problem);
                }
                if mount.mount_path.is_empty() {
                    return fail(at(&format!("volumeMounts[{number}].mountPath")), "it is missing");
                }
            }
        }
    }
    for (index, volume) in spec.volumes.iter().enumerate() {
        if !label(&volume.name) || volume.name.len() > 63 || volume.name.contains('.') {
            let problem = format!("{:?} is not a name of a volume", volume.name);
            return fail(format!("spec.volumes[{index}].name"), &problem);
        }
    }
    Ok(())
}

/// The first thing of the API's that the pod refers to, by its plural.
fn reference(spec: &PodSpec) -> Option<&'static str> {
    if !spec.service_account_name.is_empty() || !spec.service_account.is_empty() {
        return Some("serviceaccounts");
    }
    if !spec.image_pull_secrets.is_empty() {
        return Some("secrets");
    }
    if !spec.resource_claims.is_empty() {
        return Some("resourceclaims");
    }
    let of_container = |container: &Container| {
        let values = || container.env.iter().filter_map(|variable| variable.value_from.as_ref());
        let from = &container.env_from;
        if from.iter().any(|from| from.secret_ref.is_some())
            || values().any(|value| value.secret_key_ref.is_some())
        {
            return Some("secrets");
        }
        let map = from.iter().any(|from| from.config_map_ref.is_some())
            || values().any(|value| value.config_map_key_ref.is_some());
        map.then_some("configmaps")
    };
    if let Some(what) = spec.init_containers.iter().chain(&spec.containers).find_map(of_container) {
        return Some(what);
    }
    spec.volumes.iter().find_map(|volume| {
        let parts = || volume.projected.iter().flat_map(|projected| &projected.sources);
        let rows = [
            (volume.secret.is_some() || parts().any(|part| part.secret.is_some()), "secrets"),
            (volume.config_map.is_some() || parts().any(|part| part.config_map.is_some()), "configmaps"),
            (parts().any(|part| part.service_account_token.is_some()), "serviceaccounts"),
            (parts().any(|part| part.cluster_trust_bundle.is_some()), "clustertrustbundles"),
            (
                volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some(),
                "persistentvolumeclaims",
            ),
        ];
        rows.into_iter().find(|(there, _)| *there).map(|(_, what)| what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: web\n    \
                       image: weir.dev/echo:1\n";

    fn read_at(path: &str, text: &str) -> Result<Manifest, ManifestError> {
        read("Node-1", Path::new(path), text.as_bytes(), Time::from_unix(100))
    }

    fn refused(text: &str) -> String {
        read_at("/m/x", text).map(|manifest| manifest.pod).expect_err("refused").to_string()
    }

    #[test]
    fn a_file_becomes_a_pod_of_this_node() {
        let pod = read_at("/m/web.yaml", WEB).expect("a pod").pod;
        assert_eq!((pod.meta().name.as_str(), pod.meta().namespace.as_str()), ("web-node-1", "default"));
        assert_eq!(pod.meta().uid.len(), 32);
        assert_eq!(pod.meta().annotations[SOURCE], "file");
        assert_eq!(pod.meta().annotations[HASH], pod.meta().uid);
        assert_eq!(pod.meta().annotations[SEEN], "1970-01-01T00:01:40Z");
        assert_eq!(pod.spec().node_name, "Node-1");
        assert_eq!((pod.spec().restart_policy.as_str(), pod.spec().tolerations.len()), ("Always", 1));
        assert!(crate::pods::mirror::is_static(&pod));
    }

    #[test]
    fn the_uid_follows_what_the_file_says_and_where_it_lies() {
        let uid = |path: &str, text: &str| read_at(path, text).expect("a pod").pod.meta().uid.clone();
        let first = uid("/m/web.yaml", WEB);
        assert_eq!(first, uid("/m/web.yaml", &format!("# a comment\n{WEB}")));
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},
                       "spec":{"containers":[{"name":"web","image":"weir.dev/echo:1"}]}}"#;
        assert_eq!(first, uid("/m/web.yaml", json));
        assert_ne!(first, uid("/m/other.yaml", WEB));
        assert_ne!(first, uid("/m/web.yaml", &WEB.replace("echo:1", "echo:2")));
    }

    #[test]
    fn what_is_no_pod_is_refused_with_its_line() {
        let two = format!("{WEB}---\n{WEB}");
        let twice = WEB.replace("image: weir.dev/echo:1\n", "image: one\n  - name: web\n    image: two\n");
        let cases = [
            ("", "it is empty"),
            ("# nothing\n", "it is empty"),
            (two.as_str(), "it holds 2 documents"),
            ("apiVersion: v1\nkind: Service\n", "line 2: expected apiVersion v1, kind Pod, found"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: [x]}\n", "line 3: metadata.name"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n", "spec.containers: a pod has at least one"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: ../x}\n", "metadata.name: \"../x\" is not a name"),
            (twice.as_str(), "spec.containers[1].name: \"web\" is there twice"),
            ("a: [", "document 1, line 1"),
        ];
        for (text, expected) in cases {
            let error = refused(text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert_eq!(
            read("n", Path::new("x"), &[0xff, 0xfe], Time::from_unix(0)).unwrap_err(),
            ManifestError::Text
        );
    }

    #[test]
    fn what_lies_in_the_api_cannot_be_referred_to() {
        let with = |more: &str| format!("{WEB}{more}");
        let cases = [
            (with("  serviceAccountName: x\n"), "serviceaccounts"),
            (with("  imagePullSecrets: [{name: x}]\n"), "secrets"),
            (with("  volumes: [{name: v, configMap: {name: x}}]\n"), "configmaps"),
            (with("  volumes: [{name: v, projected: {sources: [{secret: {name: x}}]}}]\n"), "secrets"),
            (
                with("  volumes: [{name: v, persistentVolumeClaim: {claimName: x}}]\n"),
                "persistentvolumeclaims",
            ),
            (with("    envFrom: [{configMapRef: {name: x}}]\n"), "configmaps"),
            (with("    env: [{name: A, valueFrom: {secretKeyRef: {name: x, key: k}}}]\n"), "secrets"),
        ];
        for (text, what) in cases {
            assert_eq!(refused(&text), ManifestError::Reference(what).to_string(), "{text}");
        }
        read_at("/m", &with("  volumes: [{name: v, emptyDir: {}}, {name: d, downwardAPI: {}}]\n"))
            .expect("a pod");
    }

    proptest::proptest! {
        #[test]
        fn half_a_file_is_a_pod_or_an_error_and_never_a_panic(cut in 0..WEB.len()) {
            let _ = read_at("/m/web.yaml", &WEB[..cut]);
        }
    }
}
