//! What a node needs now and then: images that nobody uses go, logs that have grown are rotated, memory that is free is
//! given back; and which images there are, for the Node's status and with it for the scheduler.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_client::{Recorder, Severity};
use weir_proto::core::v1::ContainerImage;
use weir_runtime::images::{Collected, CollectionPolicy};
use weir_runtime::logs::RotationPolicy;
use weir_runtime::{Image, Runtime};

use crate::heap;
use crate::metrics::{IMAGES_COLLECTED, LOG_ROTATIONS};
use crate::node;

/// How often the disk's usage is looked at, as the kubelet does.
const COLLECT: Duration = Duration::from_secs(300);
/// Images that a Node's status names, as the kubelet limits them.
const NAMED: usize = 50;
/// The kubelet's `containerLogMonitorInterval`.
const ROTATE: Duration = Duration::from_secs(10);
const TRIM: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Upkeep {
    pub node_name: String,
    pub runtime: Arc<Runtime>,
    pub recorder: Recorder,
    pub images: CollectionPolicy,
    pub logs: RotationPolicy,
    pub present_images: watch::Sender<Vec<ContainerImage>>,
}

impl Upkeep {
    /// Goes on until told to stop.
    pub async fn run(self, shutdown: CancellationToken) {
        let (mut collect, mut rotate) = (tokio::time::interval(COLLECT), tokio::time::interval(ROTATE));
        let mut trim = tokio::time::interval(TRIM);
        trim.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        collect.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        rotate.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut collecting = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                // Beside the logs, which would grow while a big image is removed.
                _ = collect.tick(), if collecting.is_empty() => {
                    let (runtime, policy) = (Arc::clone(&self.runtime), self.images);
                    collecting.spawn_blocking(move || runtime.collect_images(&policy));
                }
                Some(done) = collecting.join_next() => match done {
                    Ok(Ok(done)) => self.collected(&done),
                    Ok(Err(error)) => self.warn("ImageGCFailed", error.to_string()),
                    Err(error) => tracing::error!(%error, "the collection of images was cut off"),
                },
                _ = trim.tick() => {
                    if let Err(error) = tokio::task::spawn_blocking(heap::trim).await {
                        tracing::error!(%error, "the giving back of memory was cut off");
                    }
                }
                _ = rotate.tick() => {
                    self.rotate().await;
                    self.list_images().await;
                }
            }
        }
    }

    fn collected(&self, done: &Collected) {
        for (reason, images) in [("age", &done.aged), ("space", &done.removed)] {
            IMAGES_COLLECTED.with_label_values(&[reason]).inc_by(images.len() as u64);
        }
        if done.freed < done.wanted {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found {} \
                 bytes eligible to free. {} percent of the disk are in use",
                done.wanted, done.freed, done.usage
            );
            self.warn("FreeDiskSpaceFailed", message);
        }
    }

    async fn rotate(&self) {
        let (runtime, policy) = (Arc::clone(&self.runtime), self.logs);
        let rotate = move || {
            for (key, outcome) in runtime.rotate_logs(&policy) {
                let label = match outcome {
                    Ok(()) => "rotated",
                    Err(error) => {
                        tracing::warn!(container = %key, %error, "cannot rotate a log");
                        "failed"
                    }
                };
                LOG_ROTATIONS.with_label_values(&[label]).inc();
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(rotate).await {
            tracing::error!(%error, "the rotation of logs was cut off");
        }
    }

    async fn list_images(&self) {
        let runtime = Arc::clone(&self.runtime);
        match tokio::task::spawn_blocking(move || runtime.images().list()).await {
            Ok(Ok(images)) => {
                let named = named(images);
                self.present_images.send_if_modified(|present| {
                    let changed = *present != named;
                    *present = named;
                    changed
                });
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot list the images"),
            Err(error) => tracing::error!(%error, "the listing of images was cut off"),
        }
    }

    fn warn(&self, reason: &str, message: String) {
        tracing::warn!(reason, message, "image collection");
        let about = node::reference(&self.node_name);
        self.recorder.tell(about, Severity::Warning, reason, message);
    }
}

/// The largest images, each once, under all its names: `repository@digest` first, as the kubelet has it.
fn named(images: Vec<Image>) -> Vec<ContainerImage> {
    let mut by_digest = BTreeMap::<String, (u64, BTreeSet<String>, BTreeSet<String>)>::new();
    for image in images {
        let (size, repositories, tags) = by_digest.entry(image.digest.clone()).or_default();
        *size = image.size;
        let name = image.reference.split('@').next().unwrap_or_default();
        let tag = name.rfind(':').filter(|colon| !name[*colon..].contains('/'));
        repositories.insert(format!("{}@{}", &name[..tag.unwrap_or(name.len())], image.digest));
        if !image.reference.contains('@') {
            tags.insert(if tag.is_some() { name.to_owned() } else { format!("{name}:latest") });
        }
    }
    let mut named: Vec<_> = by_digest
        .into_values()
        .map(|(size, repositories, tags)| ContainerImage {
            names: repositories.into_iter().chain(tags).collect(),
            size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
        })
        .collect();
    named.sort_by(|a, b| (b.size_bytes, &a.names).cmp(&(a.size_bytes, &b.names)));
    named.truncate(NAMED);
    named
}

#[cfg(test)]
mod tests {
    use weir_runtime::images::ImageConfig;

    use super::*;

    #[test]
    fn images_are_named_once_and_the_largest_first() {
        let image = |reference: &str, digest: &str, size| Image {
            reference: reference.to_owned(),
            digest: digest.to_owned(),
            config: ImageConfig::default(),
            layers: vec![],
            size,
        };
        let named = named(vec![
            image("r:5000/a", "sha256:1", 10),
            image("r:5000/a:v2", "sha256:1", 10),
            image("b@sha256:2", "sha256:2", 20),
        ]);
        let names: Vec<_> = named.iter().map(|image| (image.size_bytes, image.names.join(" "))).collect();
        assert_eq!(
            names,
            [(20, "b@sha256:2".to_owned()), (10, "r:5000/a@sha256:1 r:5000/a:latest r:5000/a:v2".to_owned())]
        );
    }
}
