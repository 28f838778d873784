//! The cgroup of a pod: made and limited through cgroups-rs, removed with all that is in it.

use std::fs;
use std::sync::{Mutex, PoisonError};

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, MaxValue, hierarchies};

use super::hierarchies::io_error;
use super::qos::cpu_weight;
use super::{CPU_PERIOD, CgroupError, Hierarchies, QosClass, cpu_quota, cpu_shares, huge_page_limits};
use crate::container::Resources;

/// Tries at making a group while another runtime on this machine removes a parent that it saw empty.
const CREATE_ATTEMPTS: usize = 5;

#[derive(Debug)]
pub(crate) struct PodCgroups {
    hierarchies: Hierarchies,
    parent: String,
    /// Makes creating a group and pruning its parents exclude each other.
    exclusive: Mutex<()>,
}

impl PodCgroups {
    /// `parent` is relative to each hierarchy's root.
    pub(crate) fn new(hierarchies: Hierarchies, parent: &str) -> Result<Self, CgroupError> {
        let parent = parent.trim_matches('/').to_owned();
        // Everything below it is killed and removed one day: it must not be a hierarchy's root, or lead elsewhere.
        if parent.is_empty() || parent.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Err(CgroupError::BadParent { path: parent });
        }
        Ok(Self { hierarchies, parent, exclusive: Mutex::new(()) })
    }

    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// The pod's group, relative to each hierarchy's root.
    pub(crate) fn path(&self, uid: &str, qos: QosClass) -> String {
        let parent = &self.parent;
        match qos {
            QosClass::Guaranteed => format!("{parent}/pod{uid}"),
            QosClass::Burstable => format!("{parent}/burstable/pod{uid}"),
            QosClass::BestEffort => format!("{parent}/besteffort/pod{uid}"),
        }
    }

    /// Makes the pod's group in all hierarchies and sets its limits; sets them anew when it exists.
    pub(crate) fn create(
        &self,
        uid: &str,
        qos: QosClass,
        resources: &Resources,
    ) -> Result<String, CgroupError> {
        let path = self.path(uid, qos);
        let exclusive = self.exclusive.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempt = 1;
        let group = loop {
            match Cgroup::new(hierarchies::auto(), &path) {
                Ok(group) => break group,
                Err(_) if attempt < CREATE_ATTEMPTS => attempt += 1,
                Err(source) => return Err(CgroupError::Create { path, source }),
            }
        };
        if let Some(dir) = self.hierarchies.unified_dir(&path) {
            fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        }
        // Parents with this group in them are not pruned.
        drop(exclusive);
        self.hierarchies.delegate(&path)?;
        limit(&group, &path, resources, self.hierarchies.limits_huge_pages())?;
        Ok(path)
    }

    /// Kills what is left in the pod's group and removes it, and parents that are empty then.
    pub(crate) fn remove(&self, uid: &str) -> Result<(), CgroupError> {
        for qos in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            let path = self.path(uid, qos);
            self.hierarchies.kill(&path)?;
            self.hierarchies.remove(&path)?;
            // Not earlier: killing and removing take their time, and many pods end at once.
            let _exclusive = self.exclusive.lock().unwrap_or_else(PoisonError::into_inner);
            self.hierarchies.prune_parents(&path, &self.parent);
        }
        Ok(())
    }
}

fn limit(
    group: &Cgroup,
    path: &str,
    resources: &Resources,
    limits_huge_pages: bool,
) -> Result<(), CgroupError> {
    let set = |setting| move |source| CgroupError::Set { setting, path: path.to_owned(), source };
    let missing = |setting| CgroupError::NoController { setting, path: path.to_owned() };

    match group.controller_of::<CpuController>() {
        Some(cpu) => {
            let shares = cpu_shares(resources.cpu_request);
            let weight = if group.v2() { cpu_weight(shares) } else { shares };
            cpu.set_shares(weight).map_err(set("cpu shares"))?;
            if let Some(milli) = resources.cpu_limit {
                let quota = Some(cpu_quota(milli));
                cpu.set_cfs_quota_and_period(quota, Some(CPU_PERIOD)).map_err(set("cpu quota"))?;
            }
        }
        None if resources.cpu_limit.is_some() => return Err(missing("cpu quota")),
        None => {}
    }
    if let Some(bytes) = resources.memory_limit {
        let memory = group.controller_of::<MemController>().ok_or_else(|| missing("memory limit"))?;
        memory.set_limit(i64::try_from(bytes).unwrap_or(i64::MAX)).map_err(set("memory limit"))?;
    }
    if let Some(count) = resources.pids_limit {
        let pids = group.controller_of::<PidController>().ok_or_else(|| missing("pids limit"))?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        pids.set_pid_max(MaxValue::Value(count)).map_err(set("pids limit"))?;
    }
    for pages in huge_page_limits(&resources.huge_pages, limits_huge_pages) {
        let huge = group.controller_of::<HugeTlbController>().ok_or_else(|| missing("huge page limit"))?;
        let size = page_size_name(pages.page_size);
        huge.set_limit_in_bytes(&size, pages.limit).map_err(set("huge page limit"))?;
    }
    Ok(())
}

/// The kernel's name of a page size: `2MB`, `1GB`.
pub(crate) fn page_size_name(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        _ if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        _ => format!("{}KB", bytes >> 10),
    }
}
