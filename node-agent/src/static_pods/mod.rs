//! Static pods: pods from files of this node (`--pod-manifest-path`), which run whether or not there is a control plane.
//!
//! This is their source; what becomes of them is [`crate::pods`]'. A file that is bad is told of in the log and by an event
//! of the node; the others go on, and so does the pod that the file held before.
//!
//! Left out: manifests by HTTP.

mod defaults;
mod directory;
mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_client::{Recorder, Severity};
use weir_proto::core::v1::Pod;
use weir_proto::meta::v1::Time;

use crate::node;
use directory::Directory;

/// The kubelet's `fileCheckFrequency`.
const RESYNC: Duration = Duration::from_secs(20);
/// How soon it is looked again at a file that is being written.
const SETTLE: Duration = Duration::from_millis(500);

/// The static pods there are to be, by uid.
pub type Wanted = BTreeMap<String, Arc<Pod>>;

#[derive(Debug)]
pub struct Source {
    node_name: String,
    path: PathBuf,
    directory: Directory,
    /// The pod of each file.
    pods: BTreeMap<PathBuf, Arc<Pod>>,
    /// What was told of files last.
    told: BTreeMap<PathBuf, String>,
    recorder: Recorder,
}

impl Source {
    pub fn new(node_name: String, path: PathBuf, recorder: Recorder) -> Self {
        let directory = Directory::new(path.clone());
        Self { node_name, path, directory, pods: BTreeMap::new(), told: BTreeMap::new(), recorder }
    }

    /// Follows the directory until told to stop. What is there at the beginning is published first, in one go.
    pub async fn run(mut self, wanted: watch::Sender<Option<Wanted>>, shutdown: CancellationToken) {
        let mut told = match directory::follow(self.path.clone()) {
            Ok(told) => told,
            Err(error) => {
                tracing::error!(%error, "cannot start the thread that follows the manifests");
                tokio::sync::mpsc::unbounded_channel().1
            }
        };
        let mut followed = true;
        let mut closed = BTreeSet::<OsString>::new();
        loop {
            let unsettled = self.look(&std::mem::take(&mut closed));
            let now: Wanted =
                self.pods.values().map(|pod| (pod.meta().uid.clone(), Arc::clone(pod))).collect();
            wanted.send_if_modified(|before| {
                let changed = before.as_ref() != Some(&now);
                *before = Some(now);
                changed
            });
            let wait = if unsettled { SETTLE } else { RESYNC };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                name = told.recv(), if followed => match name {
                    Some(name) => closed.extend(name),
                    None => followed = false,
                },
            }
            while let Ok(name) = told.try_recv() {
                closed.extend(name);
            }
        }
    }

    /// Whether a file is being written.
    fn look(&mut self, closed: &BTreeSet<OsString>) -> bool {
        let look = match self.directory.look(closed) {
            Ok(look) => look,
            Err(error) => {
                let path = self.path.clone();
                self.tell(&path, format!("cannot read the directory of static pods: {error}"));
                return false;
            }
        };
        self.told.remove(&self.path);
        for path in look.gone {
            self.told.remove(&path);
            if let Some(pod) = self.pods.remove(&path) {
                tracing::info!(path = %path.display(), pod = pod.meta().name, "a static pod's file is gone");
            }
        }
        for (path, bytes) in look.changed {
            let now = Time::now();
            let read = bytes.and_then(|bytes| {
                manifest::read(&self.node_name, &path, &bytes, now).map_err(|error| error.to_string())
            });
            match read {
                Ok(manifest) => self.take(path, manifest),
                Err(why) => self.tell(&path, why),
            }
        }
        look.unsettled
    }

    fn take(&mut self, path: PathBuf, manifest: manifest::Manifest) {
        self.told.remove(&path);
        if !manifest.unknown.is_empty() {
            self.tell(
                &path,
                format!("fields that a Pod does not have are ignored: {}", manifest.unknown.join(", ")),
            );
        }
        let uid = &manifest.pod.meta().uid;
        // Only when it was seen first differs.
        if self.pods.get(&path).is_some_and(|before| before.meta().uid == *uid) {
            return;
        }
        tracing::info!(path = %path.display(), pod = manifest.pod.meta().name, uid, "a static pod");
        self.pods.insert(path, Arc::new(manifest.pod));
    }

    fn tell(&mut self, path: &Path, why: String) {
        if self.told.get(path) == Some(&why) {
            return;
        }
        let message = format!("static pod {}: {why}", path.display());
        tracing::warn!("{message}");
        self.recorder.tell(node::reference(&self.node_name), Severity::Warning, "FailedStaticPod", message);
        self.told.insert(path.to_owned(), why);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use weir_client::fake::FakeServer;

    use super::*;

    fn manifest(name: &str, image: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: a, image: {image}}}]}}\n"
        )
    }

    #[tokio::test]
    async fn pods_follow_their_files_and_a_bad_file_disturbs_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            // As careful writers do: half a file is never seen.
            fs::write(dir.path().join(".new"), text).expect("written");
            fs::rename(dir.path().join(".new"), dir.path().join(name)).expect("renamed");
        };
        let recorder = Recorder::new(&FakeServer::default().client(), "test", "n1");
        let (sender, mut wanted) = watch::channel(None);
        let shutdown = CancellationToken::new();
        let source = Source::new("n1".to_owned(), dir.path().to_owned(), recorder);
        let task = tokio::spawn(source.run(sender, shutdown.clone()));
        let mut images = async |expected: &[&str]| {
            let holds = |wanted: &Option<Wanted>| {
                let mut images: Vec<_> = wanted
                    .iter()
                    .flat_map(|all| all.values())
                    .map(|pod| pod.spec().containers[0].image.clone())
                    .collect();
                images.sort();
                wanted.is_some() && images == expected
            };
            let wait = wanted.wait_for(holds);
            tokio::time::timeout(Duration::from_secs(30), wait).await.expect("in time").expect("a source");
        };
        images(&[]).await;
        write("a.yaml", &manifest("a", "one"));
        write("b.yaml", &manifest("b", "two"));
        images(&["one", "two"]).await;
        write("c.yaml", "kind: Nothing\n");
        write("a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: [\n");
        write("b.yaml", &manifest("b", "three"));
        images(&["one", "three"]).await;
        fs::remove_file(dir.path().join("b.yaml")).expect("removed");
        images(&["one"]).await;
        shutdown.cancel();
        task.await.expect("it ends");
    }
}
