//! Huge pages: the sizes that this node has, and the limits of all of them.

use std::fs;

use crate::container::HugePages;

/// Bytes of a page, and how many pages the node has set aside, for each size.
pub fn huge_pages_of_node() -> Vec<(u64, u64)> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kibibytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
        Some((kibibytes << 10, count.trim().parse().ok()?))
    };
    let mut sizes: Vec<_> = entries.filter_map(size).collect();
    sizes.sort_unstable();
    sizes
}

/// As the kubelet sets them: none but those that were asked for. Where nothing limits them, only these stand, for whoever
/// is to refuse them.
pub(crate) fn huge_page_limits(asked: &[HugePages], limited: bool) -> Vec<HugePages> {
    limits(asked, limited, || huge_pages_of_node().into_iter().map(|(size, _)| size).collect())
}

fn limits(asked: &[HugePages], limited: bool, sizes: impl FnOnce() -> Vec<u64>) -> Vec<HugePages> {
    let mut limits: Vec<HugePages> =
        asked.iter().filter(|pages| limited || pages.limit > 0).cloned().collect();
    if limited {
        for page_size in sizes() {
            if limits.iter().all(|pages| pages.page_size != page_size) {
                limits.push(HugePages { page_size, limit: 0 });
            }
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_is_not_given() {
        let pages = |page_size, limit| HugePages { page_size, limit };
        let sizes = || vec![2 << 20, 1 << 30];
        assert_eq!(
            limits(&[pages(2 << 20, 4 << 20)], true, sizes),
            [pages(2 << 20, 4 << 20), pages(1 << 30, 0)]
        );
        assert_eq!(limits(&[], true, sizes), [pages(2 << 20, 0), pages(1 << 30, 0)]);
        assert_eq!(limits(&[], false, sizes), []);
        assert_eq!(limits(&[pages(2 << 20, 4 << 20)], false, sizes), [pages(2 << 20, 4 << 20)]);
    }
}
