//! A cluster on one machine: each node is a network namespace with an agent, a cgroup subtree, a state directory
//! and a bpffs directory of its own; a bridge in a namespace of its own joins them. No namespace of a cluster has a
//! route to the machine's uplink.
//!
//! ```text
//!   the machine's namespace            127.0.0.1:6443 ──── a listening socket handed to weir-control
//!   ┌──────────── weir-hub ───────────────┐
//!   │ weir-control, etcd    bridge weir0  │  10.31.0.1
//!   └──────┬───────────┬───────────┬──────┘
//!   weir-node-1   weir-node-2   weir-client
//!   10.31.0.11    10.31.0.12    10.31.0.200  (eth0 each)
//! ```

mod cgroups;
mod down;
mod layout;
mod mounts;
mod namespaces;
mod process;
mod reboot;
mod up;

pub use down::{Removed, down, remove};
pub use layout::{CLUSTER_DNS, HUB_ADDRESS, Layout, Store};
pub use namespaces::{Namespace, enter};
pub use process::{command_in, process};
pub use reboot::{power_off, power_on};
pub use up::{restart_agent, restart_agent_as, restart_control, start_agent, start_second_control, up, weir};
