//! emptyDir: a directory of the pod's own, on the disk, in memory or in huge pages.
//!
//! What is in memory is limited by the kernel; what is on the disk is measured, and who goes beyond is evicted
//! ([`local_storage`](super::super::local_storage)).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use thiserror::Error;
use weir_proto::Quantity;
use weir_proto::core::v1::{EmptyDirVolumeSource, Pod};

use super::{is_mount, mount_memory, own};
use crate::pods::resources;

const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";

#[derive(Debug, Error)]
pub(in crate::pods) enum EmptyDirError {
    #[error("emptyDir.medium {0:?} is not known; use \"\", Memory, HugePages or HugePages-SIZE")]
    Medium(String),
    #[error(
        "emptyDir.medium HugePages takes the page size that the pod's containers request, and they request {0}; request \
         one, or name it in the medium as in HugePages-2Mi"
    )]
    NoPageSize(String),
    #[error("this node has no huge pages of size {wanted}; it offers: {offered}")]
    NoPages { wanted: String, offered: String },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

/// Keeps what is there already. `group` is the pod's fsGroup.
pub(super) fn make(
    pod: &Pod,
    source: &EmptyDirVolumeSource,
    dir: &Path,
    group: Option<u32>,
) -> Result<(), EmptyDirError> {
    let on_disk = source.medium.is_empty();
    if dir.exists() && (on_disk || is_mount(dir)) {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    let limit = source.size_limit.as_ref().and_then(bytes);
    match source.medium.as_str() {
        "" => {}
        "Memory" => {
            // Beyond the pod's own limit the kernel would kill it.
            let limits = [limit, resources::of_pod(pod.spec()).memory_limit];
            mount_memory(dir, limits.into_iter().flatten().min()).map_err(failed("mount memory at", dir))?;
        }
        medium => mount_huge_pages(dir, page_size(pod, medium)?, limit)?,
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    own(dir, mode, group).map_err(failed("change the owner of", dir))
}

fn bytes(quantity: &Quantity) -> Option<u64> {
    u64::try_from(quantity.value()).ok().filter(|bytes| *bytes > 0)
}

/// In bytes: the one of the medium, or the one that the containers agree on.
fn page_size(pod: &Pod, medium: &str) -> Result<u64, EmptyDirError> {
    let unknown = || EmptyDirError::Medium(medium.to_owned());
    let size = |text: &str| text.parse::<Quantity>().ok().as_ref().and_then(bytes);
    match medium.strip_prefix("HugePages") {
        Some("") => {}
        Some(named) => return named.strip_prefix('-').and_then(size).ok_or_else(unknown),
        None => return Err(unknown()),
    }
    let containers = pod.spec().containers.iter().chain(&pod.spec().init_containers);
    let resources = containers.filter_map(|container| container.resources.as_ref());
    let names = resources.flat_map(|all| all.requests.keys().chain(all.limits.keys()));
    let sizes: BTreeSet<&str> = names.filter_map(|name| name.strip_prefix("hugepages-")).collect();
    let several = || match sizes.iter().copied().collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => EmptyDirError::NoPageSize("none".to_owned()),
        sizes => EmptyDirError::NoPageSize(sizes),
    };
    match sizes.iter().next() {
        Some(only) if sizes.len() == 1 => size(only).ok_or_else(unknown),
        _ => Err(several()),
    }
}

fn mount_huge_pages(dir: &Path, page: u64, limit: Option<u64>) -> Result<(), EmptyDirError> {
    let offered: Vec<u64> = fs::read_dir(HUGE_PAGES)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()? * 1024)
        })
        .collect();
    let shown = |bytes: u64| Quantity::from_bytes(i64::try_from(bytes).unwrap_or(i64::MAX)).to_string();
    if !offered.contains(&page) {
        let offered = match offered.as_slice() {
            [] => "none".to_owned(),
            sizes => sizes.iter().copied().map(shown).collect::<Vec<_>>().join(", "),
        };
        return Err(EmptyDirError::NoPages { wanted: shown(page), offered });
    }
    let mut options = format!("pagesize={page}");
    if let Some(limit) = limit {
        options.push_str(&format!(",size={limit}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("hugetlbfs"), dir, Some("hugetlbfs"), flags, Some(options.as_str()))
        .map_err(|errno| failed("mount huge pages at", dir)(errno.into()))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmptyDirError + use<> {
    let path = path.to_owned();
    move |source| EmptyDirError::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weir_proto::core::v1::{Container, ResourceRequirements};

    use super::*;

    #[test]
    fn the_page_size_is_the_mediums_or_the_one_that_containers_agree_on() {
        let pod = |sizes: &[&str]| {
            let mut pod = Pod::default();
            let container = |size: &&str| {
                let limits = BTreeMap::from([(format!("hugepages-{size}"), Quantity::from_value(1))]);
                let resources = Some(ResourceRequirements { limits, ..Default::default() });
                Container { resources, ..Container::default() }
            };
            pod.spec_mut().containers = sizes.iter().map(container).collect();
            pod
        };
        let of = |sizes: &[&str], medium: &str| page_size(&pod(sizes), medium).map_err(|e| e.to_string());
        assert_eq!(of(&[], "HugePages-2Mi"), Ok(2 << 20));
        assert_eq!(of(&["1Gi", "1Gi"], "HugePages"), Ok(1 << 30));
        for (sizes, medium, word) in [
            (&[][..], "HugePages", "request none"),
            (&["1Gi", "2Mi"][..], "HugePages", "request 1Gi, 2Mi"),
            (&[][..], "HugePages-lots", "not known"),
            (&[][..], "Tape", "not known"),
        ] {
            let error = of(sizes, medium).expect_err(medium);
            assert!(error.contains(word), "{medium}: {error}");
        }
    }

    #[test]
    fn huge_pages_that_the_node_does_not_have_are_refused_with_what_it_has() {
        let error = mount_huge_pages(Path::new("/nowhere"), 3 << 20, None).expect_err("refused").to_string();
        assert!(error.contains("no huge pages of size 3Mi; it offers: "), "{error}");
    }
}
