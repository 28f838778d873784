//! A container's image: from the node, or pulled, with what users are told on the way in the kubelet's words.
//!
//! A pull ends when its pod is to end: what it has fetched stays in the store for the next one.

use std::sync::Arc;
use std::time::Duration;

use weir_client::Client;
use weir_proto::core::v1::{Container, Pod, Secret};
use weir_runtime::images::{Effort, Keyring, Progress, Pulled, Stage};
use weir_runtime::{Image, PullPolicy};

use super::container;
use super::perform::{PerformError, Result};
use super::sources::{Needed, secret_data};
use super::worker::Worker;
use crate::metrics;

/// When a pull first tells how far it is, and the longest pause between two times: the pause doubles.
const FIRST_REPORT: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Worker {
    pub(super) async fn image(&mut self, pod: &Arc<Pod>, container: &Container) -> Result<Image> {
        let policy = container::pull_policy(&container.image, &container.image_pull_policy);
        self.obtain(pod, container, container.image.clone(), policy).await
    }

    /// An image that the container runs, or has mounted.
    pub(super) async fn obtain(
        &mut self,
        pod: &Arc<Pod>,
        container: &Container,
        name: String,
        policy: PullPolicy,
    ) -> Result<Image> {
        let wanted = name.clone();
        let present = self.blocking(move |runtime| runtime.images().present(&wanted, policy)).await??;
        if let Some(image) = present {
            let message = format!("Container image \"{name}\" already present on machine");
            self.tell(pod, &container.name, "Pulled", message);
            return Ok(image);
        }
        let (keyring, unusable) = keyring(&self.context.client, pod).await?;
        if !unusable.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                unusable.join(", ")
            );
            self.warn(pod, &container.name, "FailedToRetrieveImagePullSecret", message);
        }
        self.tell(pod, &container.name, "Pulling", format!("Pulling image \"{name}\""));
        let progress = Arc::new(Progress::default());
        let (wanted, watched) = (name.clone(), Arc::clone(&progress));
        let pull = self.blocking(move |runtime| runtime.images().pull(&wanted, policy, &keyring, &watched));
        tokio::pin!(pull);
        let mut pause = FIRST_REPORT;
        let pulled = loop {
            let mut commands = self.commands();
            tokio::select! {
                pulled = &mut pull => break pulled?,
                () = commands.dismissed() => {
                    progress.cancel();
                    return Err(PerformError::Dismissed);
                }
                () = tokio::time::sleep(pause) => {
                    self.tell(pod, &container.name, "Pulling", how_far(&name, progress.stage()));
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        let Pulled { image, effort } = pulled.inspect_err(|_| metrics::IMAGE_PULL_FAILURES.inc())?;
        let message = match effort {
            Some(effort) => {
                metrics::pulled(image.size, effort.took);
                summary(&name, effort, image.size)
            }
            // Another pod's pull brought it while this one waited.
            None => format!("Container image \"{name}\" already present on machine"),
        };
        self.tell(pod, &container.name, "Pulled", message);
        Ok(image)
    }
}

/// What the pod's pull secrets hold, and the names of those that hold nothing usable, with the reason.
async fn keyring(client: &Client, pod: &Pod) -> weir_client::Result<(Keyring, Vec<String>)> {
    let names = pod.spec().image_pull_secrets.iter().map(|reference| reference.name.clone());
    let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    let needed = Needed { secrets: names.iter().cloned().collect(), ..Needed::default() };
    let found = needed.fetch(client, &pod.meta().namespace).await?;
    let (mut keyring, mut unusable) = (Keyring::default(), Vec::new());
    for name in names {
        let problem = match found.secrets.get(&name) {
            Some(secret) => add(&mut keyring, secret).err(),
            None => Some("not found".to_owned()),
        };
        unusable.extend(problem.map(|problem| format!("{name}: {problem}")));
    }
    Ok((keyring, unusable))
}

fn add(keyring: &mut Keyring, secret: &Secret) -> std::result::Result<(), String> {
    let data = secret_data(secret);
    let added = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
        (Some(json), _) => keyring.add_config_json(json),
        (None, Some(json)) => keyring.add_dockercfg(json),
        (None, None) => return Err("it has neither .dockerconfigjson nor .dockercfg".to_owned()),
    };
    added.map_err(|error| error.to_string())
}

/// `Pulling image "x": 12.5 MiB of 80.0 MiB, 3 of 5 layers unpacked`.
fn how_far(name: &str, stage: Stage) -> String {
    let Stage { received, size, unpacked, layers } = stage;
    if layers == 0 {
        return format!("Pulling image \"{name}\": waiting for its registry or for other pulls");
    }
    let mebibytes = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20);
    format!(
        "Pulling image \"{name}\": {} of {}, {unpacked} of {layers} layers unpacked",
        mebibytes(received),
        mebibytes(size)
    )
}

fn summary(name: &str, effort: Effort, size: u64) -> String {
    let took = |duration: Duration| {
        let milliseconds = Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        if duration < Duration::from_millis(1) { "0s".to_owned() } else { format!("{milliseconds:?}") }
    };
    format!(
        "Successfully pulled image \"{name}\" in {} ({} including waiting). Image size: {size} bytes.",
        took(effort.took),
        took(effort.took + effort.waited)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_are_told_as_the_kubelet_tells_them() {
        let effort = Effort { took: Duration::from_millis(1234), waited: Duration::from_millis(300) };
        assert_eq!(
            summary("busybox", effort, 77),
            "Successfully pulled image \"busybox\" in 1.234s (1.534s including waiting). Image size: 77 bytes."
        );
        let stage = Stage { received: 13 << 19, size: 80 << 20, unpacked: 3, layers: 5 };
        assert_eq!(how_far("x", stage), "Pulling image \"x\": 6.5 MiB of 80.0 MiB, 3 of 5 layers unpacked");
        assert!(how_far("x", Stage::default()).contains("waiting"));
    }

    #[test]
    fn both_forms_of_pull_secrets_are_taken_and_others_named() {
        let secret = |key: &str, json: &str| {
            let mut secret = Secret::default();
            secret.data.insert(key.to_owned(), json.as_bytes().to_vec());
            secret
        };
        let mut keyring = Keyring::default();
        let entry = r#"{"a": {"username": "u", "password": "p"}}"#;
        assert_eq!(add(&mut keyring, &secret(".dockercfg", entry)), Ok(()));
        assert_eq!(
            add(&mut keyring, &secret(".dockerconfigjson", &format!("{{\"auths\": {entry}}}"))),
            Ok(())
        );
        let error = add(&mut keyring, &secret("password", "x")).expect_err("refused");
        assert!(error.contains("neither .dockerconfigjson nor .dockercfg"), "{error}");
        let error = add(&mut keyring, &secret(".dockerconfigjson", "{")).expect_err("refused");
        assert!(error.contains("config.json"), "{error}");
    }
}
