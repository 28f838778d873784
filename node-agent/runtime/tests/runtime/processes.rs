//! Process namespaces: shared by a pod, or with one container that somebody looks at.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_runtime::{ContainerKey, ContainerState, Error, Sandbox};
use weir_tests::require;

use crate::fixture::{Node, traces, wait_until};

fn shared(node: &Node, uid: &str) -> Sandbox {
    let mut spec = node.sandbox_spec(uid);
    spec.share_process_namespace = true;
    node.runtime().create_sandbox(&spec).expect("a sandbox")
}

fn pause_of(sandbox: &Sandbox) -> i32 {
    let record = fs::read(sandbox.dir.join(".sandbox/pause.json")).expect("a record of the first process");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    i32::try_from(record["pid"].as_i64().expect("a pid")).expect("a pid")
}

fn is_alive(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

#[test]
fn containers_of_a_pod_that_shares_processes_see_and_signal_each_other() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let sandbox = shared(&node, "pod-a");
    let seen = node.container("pod-a", "seen", "exec sleep 54321");
    node.run(&seen);
    let script = "for p in /proc/[0-9]*; do if tr '\\0' ' ' < $p/cmdline | grep -q '^sleep 54321'; then \
                    kill -9 ${p#/proc/} && echo killed; fi; done; cat /proc/1/comm; \
                  ls /proc/1/root/ && echo reached; ls /proc/1/fd && echo open";
    let script = script.replace(
        "tr '\\0' ' ' < $p/cmdline | grep -q '^sleep 54321'",
        "grep -q 54321 $p/cmdline 2> /dev/null && test $p != /proc/$$",
    );
    let mut looking = node.container("pod-a", "looking", &script);
    // All that a container may be given short of the node's devices.
    looking.security.capabilities_add = vec!["SYS_PTRACE".into(), "DAC_READ_SEARCH".into()];
    let (exit, log) = node.finish(&looking);
    assert!(log.contains("killed") && log.contains("pause"), "{log}");
    assert_eq!(exit.code, 0, "{log}");
    // The first process has nothing of the node: its root is empty.
    assert!(!log.contains("etc") && !log.contains("usr") && !log.contains("proc\n"), "{log}");
    assert_eq!(node.wait(&seen.key).code, 137);

    let pause = pause_of(&sandbox);
    let status = fs::read_to_string(format!("/proc/{pause}/status")).expect("the first process");
    for line in ["Uid:\t65535", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    node.runtime().remove_sandbox("pod-a").expect("removing");
    wait_until("the first process is gone", || !is_alive(pause));
    assert!(traces(&sandbox.dir.display().to_string()).is_empty());
    assert_eq!(node.cgroups(), Vec::<PathBuf>::new());
}

#[test]
fn orphans_in_a_shared_namespace_are_collected_and_do_not_outlive_their_container() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let sandbox = shared(&node, "pod-a");
    let pause = pause_of(&sandbox);
    let marker = format!("2{}", std::process::id());
    let spec =
        node.container("pod-a", "main", &format!("(sleep 0.1 &); (sleep {marker} &); sleep 0.3; exit 0"));
    let (exit, _) = node.finish(&spec);
    assert_eq!(exit.code, 0);
    wait_until("the orphan is gone", || traces(&format!("sleep {marker}")).is_empty());
    let children = fs::read_to_string(format!("/proc/{pause}/task/{pause}/children")).expect("its children");
    assert_eq!(children.trim(), "", "collected");
    assert!(is_alive(pause), "one container's end is not the namespace's");
    // Its next run is in the same one.
    let again = node.container("pod-a", "again", "cat /proc/1/comm");
    assert_eq!(node.finish(&again).1, "pause\n");
}

#[test]
fn a_shared_namespace_whose_first_process_dies_takes_its_containers_and_is_made_anew() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    let sandbox = shared(&node, "pod-a");
    let network = fs::metadata(sandbox.netns.as_ref().expect("a network")).expect("a namespace");
    let first = node.container("pod-a", "first", "sleep 1000");
    node.run(&first);
    let pause = pause_of(&sandbox);
    kill(Pid::from_raw(pause), Signal::SIGKILL).expect("a kill");
    assert_eq!(node.wait(&first.key).code, 137);

    // An agent that comes later finds the sandbox as whole as it was: nothing else of it has gone.
    node.open();
    let second = node.container("pod-a", "second", "cat /proc/1/comm; exec sleep 1000");
    node.run(&second);
    node.wait_for_log(&second.key, "pause");
    let found = node.runtime().sandboxes().expect("sandboxes");
    let now = fs::metadata(found[0].netns.as_ref().expect("a network")).expect("a namespace");
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&now), std::os::unix::fs::MetadataExt::ino(&network));
    assert_ne!(pause_of(&sandbox), pause);
    node.runtime().remove_sandbox("pod-a").expect("removing");
    wait_until("nothing runs", || !is_alive(pause_of_dead(&sandbox)));
}

/// The record goes with the sandbox.
fn pause_of_dead(sandbox: &Sandbox) -> i32 {
    if sandbox.dir.exists() { pause_of(sandbox) } else { -1 }
}

#[test]
fn a_container_may_look_at_the_processes_of_another() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let mut target = node.container("pod-a", "target", "exec sleep 7654");
    target.env = vec![("SECRET_WORD".into(), "sesame".into())];
    node.run(&target);
    let script = "cat /proc/1/cmdline; grep -c sesame /proc/1/environ; ls /proc/1/root/etc/passwd; \
                  sleep 1000 & exec sleep 1000";
    let mut debugger = node.container("pod-a", "debugger", script);
    debugger.target = Some(target.key.clone());
    debugger.security.capabilities_add = vec!["SYS_PTRACE".into()];
    node.run(&debugger);
    node.wait_for_log(&debugger.key, "/proc/1/root/etc/passwd");
    let log = node.log(&debugger.key);
    assert!(
        log.contains("sleep") && log.contains("7654") && log.contains("\n1\n") || log.contains("1\n"),
        "{log}"
    );
    // The kernel ends whoever is in a namespace whose first process ends.
    node.runtime().stop_container(&target.key, std::time::Duration::ZERO).expect("stopping");
    assert_eq!(node.wait(&debugger.key).code, 137);

    let mut late = node.container("pod-a", "late", "true");
    late.target = Some(target.key.clone());
    let error = node.runtime().create_container(&late).expect_err("nobody is there to look at");
    assert!(matches!(error, Error::NoTarget { .. }), "{error}");
    assert_eq!(error.reason(), "CreateContainerConfigError");
    late.target = Some(ContainerKey::new("pod-a", "nobody", 0));
    assert!(node.runtime().create_container(&late).is_err());
    assert!(!matches!(
        node.runtime().status(&target.key).expect("the target").state,
        ContainerState::Running { .. }
    ));
}

#[test]
fn a_terminals_container_has_a_console() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    for (name, user) in [("root", None), ("user", Some(101))] {
        let mut spec =
            node.container("pod-a", name, "test -c /dev/console && tty && echo said > /dev/console");
        spec.tty = true;
        spec.security.run_as_user = user;
        let (exit, log) = node.finish(&spec);
        assert_eq!((exit.code, log.replace('\r', "").as_str()), (0, "/dev/pts/0\nsaid\n"));
    }
    let spec = node.container("pod-a", "without", "test -e /dev/console || echo none");
    assert_eq!(node.finish(&spec).1, "none\n");
}
