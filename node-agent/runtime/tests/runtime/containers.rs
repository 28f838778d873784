//! Real containers, made from a busybox image that the fixture builds.

use std::time::Duration;

use crate::fixture::{Node, is_root};
use weir_runtime::{ContainerState, ExitReason};

#[test]
fn a_container_runs_logs_exits_and_is_removed() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let events = node.runtime().events();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "echo out; echo err >&2; exit 7");
    let (exit, log) = node.finish(&spec);
    assert_eq!((exit.code, exit.signal, exit.reason), (7, None, ExitReason::Error));
    let mut lines: Vec<_> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
    assert_eq!(events.recv_timeout(Duration::from_secs(5)).expect("an event").exit, exit);

    let status = node.runtime().status(&spec.key).expect("the container");
    assert!(matches!(status.state, ContainerState::Exited(_)));
    node.runtime().remove_container(&spec.key).expect("removing the container");
    assert!(node.runtime().status(&spec.key).is_err());
    assert_eq!(node.log(&spec.key), log);
    node.runtime().remove_sandbox("pod-a").expect("removing the sandbox");
    let state = node.directory.path().join("state");
    assert_eq!(crate::fixture::traces(&state.display().to_string()), Default::default());
    assert_eq!(node.cgroups(), Vec::<std::path::PathBuf>::new());
}
