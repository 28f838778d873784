//! A node's machine goes down, as by a power cut, and comes up again: everything of the kernel's is gone, the disk is
//! left.

use std::fs;

use anyhow::Result;

use super::layout::Layout;
use super::namespaces::{self, Namespace};
use super::{cgroups, down, mounts};

/// Ends the node's processes and removes its mounts, pins, namespace and cgroups.
pub fn power_off(layout: &Layout, node: &str) -> Result<()> {
    let group = layout.cgroup_of(node);
    down::kill_all(&group)?;
    mounts::unmount_below(&layout.node_directory(node))?;
    down::remove_tree(&layout.pins_of(node))?;
    Namespace::named(layout.namespace_of(node)).remove()?;
    // The namespace goes with its last user, in the background, and its link with it: the name must be free again.
    let _ = Namespace::named(layout.hub()).ip(&["link", "delete", node]);
    cgroups::remove(&group).map(drop)
}

/// The machine as it is before its agent starts.
pub fn power_on(layout: &Layout, node: &str) -> Result<()> {
    fs::create_dir_all(cgroups::hierarchies()?.unified.join(layout.cgroup_of(node)))?;
    let (hub, namespace) = (Namespace::named(layout.hub()), Namespace::named(layout.namespace_of(node)));
    namespaces::attach(&hub, &namespace, node, layout.address_of(node))
}
