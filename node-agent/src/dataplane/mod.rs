//! The eBPF dataplane from the agent's side: one thread owns it, everybody else asks that thread.
//!
//! The thread's end changes nothing in the kernel: programs and maps stay pinned.

mod sync;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use weir_dataplane::{Config, Dataplane};

pub use sync::Sync;

/// How often flows whose time is over are forgotten.
const COLLECT: Duration = Duration::from_secs(5);
/// Calls that wait for the thread.
const QUEUE: usize = 64;

type Call = Box<dyn FnOnce(&mut Dataplane) + Send>;

/// What went wrong between the agent and its dataplane.
#[derive(Debug, Error)]
pub enum DataplaneError {
    #[error("the dataplane's thread is gone")]
    Gone,
    #[error("cannot start the dataplane's thread: {0}")]
    Thread(std::io::Error),
    #[error("no cgroup2 hierarchy is mounted")]
    NoCgroup2,
    #[error("cannot make cgroup {}: {source}", path.display())]
    Cgroup { path: PathBuf, source: std::io::Error },
    #[error("{}", with_sources(.0))]
    Dataplane(#[from] weir_dataplane::Error),
}

/// A way to the dataplane's thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    calls: mpsc::Sender<Call>,
}

impl Handle {
    /// Loads or adopts the dataplane on a thread of its own.
    pub async fn open(config: Config) -> Result<Self, DataplaneError> {
        let (calls, mut queue) = mpsc::channel::<Call>(QUEUE);
        let (opened, result) = oneshot::channel();
        let serve = move || match Dataplane::open(&config) {
            Err(error) => drop(opened.send(Err(error))),
            Ok(mut dataplane) => {
                if opened.send(Ok(())).is_err() {
                    return;
                }
                while let Some(call) = queue.blocking_recv() {
                    call(&mut dataplane);
                }
            }
        };
        std::thread::Builder::new()
            .name("weir-dataplane".into())
            .spawn(serve)
            .map_err(DataplaneError::Thread)?;
        result.await.map_err(|_| DataplaneError::Gone)??;
        let handle = Self { calls };
        tokio::spawn(collect(handle.clone()));
        Ok(handle)
    }

    /// Runs `f` on the dataplane's thread.
    pub async fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Dataplane) -> Result<T, weir_dataplane::Error> + Send + 'static,
    ) -> Result<T, DataplaneError> {
        let (done, result) = oneshot::channel();
        let call: Call = Box::new(move |dataplane| {
            // Nobody waits any more only if the caller was cancelled.
            let _ = done.send(f(dataplane));
        });
        self.calls.send(call).await.map_err(|_| DataplaneError::Gone)?;
        Ok(result.await.map_err(|_| DataplaneError::Gone)??)
    }
}

async fn collect(handle: Handle) {
    let mut tick = tokio::time::interval(COLLECT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match handle.call(Dataplane::collect).await {
            Ok(flows) => tracing::trace!(flows, "forgot flows"),
            Err(DataplaneError::Gone) => return,
            Err(error) => tracing::warn!(%error, "cannot collect flows"),
        }
    }
}

/// The node's directory in the cgroup2 hierarchy, made if missing.
pub fn node_cgroup(relative: &str) -> Result<PathBuf, DataplaneError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path =
        cgroup2_mount(&mounts).ok_or(DataplaneError::NoCgroup2)?.join(relative.trim_start_matches('/'));
    fs::create_dir_all(&path).map_err(|source| DataplaneError::Cgroup { path: path.clone(), source })?;
    Ok(path)
}

fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_cgroup2 = file_system.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

fn with_sources(error: &weir_dataplane::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_hierarchy_is_found_on_hybrid_hosts() {
        let mounts = "29 26 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 25 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("29 26 0:25 / /sys rw - sysfs sysfs rw\n"), None);
    }
}
