//! What there is left on this node, and what its pods use. Blocks: reads files.
//!
//! Of memory counts what pods could still get: all but the working set, of the node's own control group where it has a
//! limit, else of the machine. Of process ids, of both whichever is nearer to its end.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statvfs::statvfs;
use weir_proto::core::v1::{Pod, PodSpec};
use weir_runtime::cgroup::Group;
use weir_runtime::{ContainerKey, Runtime};

use super::rank::{Amounts, Candidate, Container};
use super::signals::{Observation, Observations, Signal};
use crate::node::Machine;
use crate::pods::mirror;

#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) state_dir: PathBuf,
    /// The node's control group.
    pub(crate) group: Option<Group>,
    pub(crate) runtime: Arc<Runtime>,
}

impl Measure {
    pub(crate) fn observe(&self) -> Observations {
        let mut seen = Observations::new();
        let mut put = |signal, available, capacity| {
            if capacity > 0 {
                seen.insert(signal, Observation { available, capacity });
            }
        };
        let group = self.group.as_ref().and_then(Group::memory);
        match group.and_then(|memory| Some((memory.limit?, memory.working_set))) {
            Some((limit, used)) => put(Signal::Memory, limit.saturating_sub(used), limit),
            None => {
                let (available, capacity) = crate::stats::memory();
                put(Signal::Memory, available, capacity);
            }
        }
        let images = self.state_dir.join("images");
        let disks = [
            (self.state_dir.as_path(), Signal::NodeDisk, Signal::NodeInodes),
            (images.as_path(), Signal::ImageDisk, Signal::ImageInodes),
        ];
        for (path, bytes, inodes) in disks {
            if let Ok(disk) = statvfs(path) {
                let size = disk.fragment_size();
                put(bytes, disk.blocks_available() * size, disk.blocks() * size);
                put(inodes, disk.files_available(), disk.files());
            }
        }
        let own = self.group.as_ref().and_then(Group::tasks);
        let left = |(there, most): (u64, u64)| (most.saturating_sub(there), most);
        if let Some((available, capacity)) = own.into_iter().chain([Machine::tasks()]).map(left).min() {
            put(Signal::Pids, available, capacity);
        }
        seen
    }

    /// Whether images lie on a disk of their own: then what containers write does not fill it.
    pub(crate) fn has_image_disk(&self) -> bool {
        let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
        device(&self.state_dir) != device(&self.state_dir.join("images"))
    }

    /// The pods, with what they use of what `signal` is about: other measures are left out, for they take long.
    pub(crate) fn candidates(&self, pods: &[Arc<Pod>], signal: Signal) -> Vec<Candidate> {
        let usage = self.runtime.usage();
        let active = pods.iter().filter(|pod| !is_over(pod) && !mirror::is_mirror(pod));
        active
            .filter_map(|pod| {
                let uid = pod.meta().uid.clone();
                let used = usage.iter().find(|usage| usage.uid == uid)?;
                let mut candidate = Candidate {
                    priority: pod.spec().priority.unwrap_or(0),
                    critical: mirror::is_critical(pod),
                    requested: requested(pod.spec()),
                    used: Amounts { memory: used.usage.memory_working_set, ..Amounts::default() },
                    ..Candidate::default()
                };
                for container in &pod.spec().containers {
                    let found = used.containers.iter().find(|found| found.key.name == container.name);
                    let Some(found) = found else { continue };
                    let memory = found.usage.memory_working_set;
                    let used = self.of_container(&found.key, signal);
                    candidate.used.disk += used.disk;
                    candidate.used.inodes += used.inodes;
                    candidate.containers.push(Container {
                        name: container.name.clone(),
                        requested: container_requested(container),
                        used: Amounts { memory, ..used },
                    });
                }
                match signal {
                    Signal::Pids => candidate.used.pids = self.runtime.process_count(&uid),
                    Signal::Memory => {}
                    _ => {
                        for volume in pod.spec().volumes.iter().filter(|volume| {
                            volume.empty_dir.as_ref().is_some_and(|empty| empty.medium.is_empty())
                        }) {
                            let Ok(dir) = self.runtime.pod_directory(&uid) else { continue };
                            let tree = weir_runtime::tree_usage(&dir.join(".volumes").join(&volume.name));
                            candidate.used.disk += tree.bytes;
                            candidate.used.inodes += tree.files;
                        }
                    }
                }
                candidate.uid = uid;
                Some(candidate)
            })
            .collect()
    }

    /// Whether the pod still holds anything that it could give back: containers that run, or volumes.
    pub(crate) fn is_here(&self, uid: &str) -> bool {
        let volumes = || {
            let dir = self.runtime.pod_directory(uid).ok()?.join(".volumes");
            let mut names = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.file_name());
            Some(names.any(|name| !name.as_encoded_bytes().starts_with(b".")))
        };
        self.runtime.usage().iter().any(|pod| pod.uid == uid) || volumes().unwrap_or(false)
    }

    fn of_container(&self, key: &ContainerKey, signal: Signal) -> Amounts {
        if matches!(signal, Signal::Memory | Signal::Pids) {
            return Amounts::default();
        }
        let disk = self.runtime.disk_usage(key).map_or(0, |usage| usage.rootfs + usage.log);
        let inodes = self.runtime.rootfs_usage(key).map_or(0, |tree| tree.files);
        Amounts { disk, inodes, ..Amounts::default() }
    }
}

pub(crate) fn is_over(pod: &Pod) -> bool {
    matches!(pod.status().phase.as_str(), "Succeeded" | "Failed")
}

fn container_requested(container: &weir_proto::core::v1::Container) -> Amounts {
    let amount = |name: &str| {
        let found = container.resources.as_ref().and_then(|resources| resources.requests.get(name));
        found.and_then(|amount| u64::try_from(amount.value()).ok()).unwrap_or(0)
    };
    Amounts { memory: amount("memory"), disk: amount("ephemeral-storage"), ..Amounts::default() }
}

/// The sum over the containers, or an init container's where that is more.
fn requested(spec: &PodSpec) -> Amounts {
    let most = |of: fn(&Amounts) -> u64| {
        let sum: u64 = spec.containers.iter().map(|container| of(&container_requested(container))).sum();
        let init = spec.init_containers.iter().map(|container| of(&container_requested(container)));
        sum.max(init.max().unwrap_or(0))
    };
    Amounts { memory: most(|all| all.memory), disk: most(|all| all.disk), ..Amounts::default() }
}
