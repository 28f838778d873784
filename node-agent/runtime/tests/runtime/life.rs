//! The deaths of the agent, of shims and of containers.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use weir_runtime::{ContainerState, Error, ExitReason, Runtime};
use weir_tests::require;

use crate::fixture::{Node, kill, shim_of, traces, wait_until};

fn pid(state: &ContainerState) -> i32 {
    match state {
        ContainerState::Created { pid } | ContainerState::Running { pid, .. } => *pid,
        ContainerState::Exited(exit) => panic!("the container has ended: {exit:?}"),
    }
}

#[test]
fn containers_outlive_the_agent_and_are_found_again() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    node.sandbox("pod-a");
    let running = node.container("pod-a", "running", "echo before; while :; do sleep 0.05; done");
    let ends = node.container("pod-a", "ends", "while ! test -e /tmp/go; do sleep 0.02; done; exit 5");
    let created = node.container("pod-a", "created", "echo late");
    let before = node.run(&running);
    let ending = node.run(&ends);
    node.runtime().create_container(&created).expect("creating");
    node.wait_for_log(&running.key, "before");

    // Dropping the runtime leaves what a killed agent leaves: the threads and descriptors are gone, no goodbye is said.
    node.runtime = None;
    let go = PathBuf::from(format!("/proc/{}/root/tmp/go", pid(&ending.state)));
    fs::write(go, "").expect("a file in the container");
    wait_until("the exit is recorded", || {
        node.directory.path().join("state/pods/pod-a/ends/0/exit.json").exists()
    });

    node.open();
    let events = node.runtime().events();
    assert_eq!(node.runtime().sandboxes().expect("sandboxes").len(), 1);
    assert_eq!(node.runtime().status(&running.key).expect("the container"), before);
    let event = events.recv_timeout(std::time::Duration::from_secs(10)).expect("the exit that nobody saw");
    assert_eq!((event.key, event.exit.code), (ends.key.clone(), 5));
    node.runtime().start_container(&created.key).expect("starting what was created before");
    assert_eq!(node.wait(&created.key).code, 0);
    assert_eq!(node.log(&created.key), "late\n");
    node.runtime().remove_container(&running.key).expect("removing");
    assert!(!PathBuf::from(format!("/proc/{}", pid(&before.state))).exists());
}

#[test]
fn a_state_directory_serves_one_runtime_at_a_time() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    let second = Runtime::open(node.config());
    assert!(matches!(second, Err(Error::InUse { .. })), "{second:?}");
    node.open();
}

#[test]
fn a_killed_agent_process_takes_no_container_with_it() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    let spec =
        node.container("pod-a", "main", "while ! test -e /tmp/go; do sleep 0.02; done; echo still here");
    let config = node.config();
    let request = serde_json::json!({ "state_dir": config.state_dir, "cgroup_parent": config.cgroup_parent,
        "sandbox": node.sandbox_spec("pod-a"), "container": spec });
    node.runtime = None;
    let mut agent = Command::new(config.agent_exe)
        .args(["agent", &request.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("an agent");
    let mut answer = [0; 7];
    agent.stdout.take().expect("its output").read_exact(&mut answer).expect("the container is started");
    agent.kill().expect("a kill");
    agent.wait().expect("its end");

    node.open();
    let status = node.runtime().status(&spec.key).expect("the container");
    let go = PathBuf::from(format!("/proc/{}/root/tmp/go", pid(&status.state)));
    fs::write(go, "").expect("a file in the container");
    assert_eq!(node.wait(&spec.key).code, 0);
    assert_eq!(node.log(&spec.key), "still here\n");
}

#[test]
fn a_container_whose_shim_is_killed_is_killed_and_reported() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    node.sandbox("pod-a");
    let state = node.directory.path().join("state").display().to_string();
    for (name, restart) in [("watched", false), ("alone", true)] {
        let spec = node.container("pod-a", name, "sleep 1000");
        let status = node.run(&spec);
        if restart {
            node.runtime = None;
        }
        kill(shim_of(&format!("{state}/pods/pod-a/{name}/0")));
        if restart {
            node.open();
        }
        let exit = node.wait(&spec.key);
        assert_eq!((exit.code, exit.reason), (137, ExitReason::ShimLost));
        let process = format!("/proc/{}/cmdline", pid(&status.state));
        wait_until("the process is gone", || fs::read(&process).unwrap_or_default().is_empty());
        node.runtime().remove_container(&spec.key).expect("removing");
    }
    node.runtime().remove_sandbox("pod-a").expect("removing");
    assert!(traces(&state).is_empty());
    assert!(node.cgroups().is_empty());
}

#[test]
fn a_container_whose_shim_dies_before_the_start_is_gone_too() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "true");
    let status = node.runtime().create_container(&spec).expect("creating");
    kill(shim_of(&node.directory.path().join("state/pods/pod-a/main/0").display().to_string()));
    assert_eq!(node.wait(&spec.key).reason, ExitReason::ShimLost);
    let process = format!("/proc/{}/cmdline", pid(&status.state));
    wait_until("the process is gone", || fs::read(&process).unwrap_or_default().is_empty());
}

#[test]
fn a_killed_first_process_is_an_exit_by_signal() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "sleep 1000");
    let status = node.run(&spec);
    kill(pid(&status.state));
    let exit = node.wait(&spec.key);
    assert_eq!((exit.code, exit.signal, exit.reason), (137, Some(9), ExitReason::Error));
}

#[test]
fn half_written_state_is_cleaned_up_by_removing_the_pod() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    node.sandbox("pod-a");
    node.runtime = None;
    let pods = node.directory.path().join("state/pods");
    fs::write(pods.join("pod-a/.sandbox/sandbox.json"), "{\"spec\":").expect("a file");
    fs::create_dir_all(pods.join("pod-a/half/0")).expect("a directory");
    fs::write(pods.join("pod-a/half/0/container.json"), "{").expect("a file");
    fs::create_dir_all(pods.join("pod-b/none/3")).expect("a directory");
    node.open();
    assert!(node.runtime().sandboxes().expect("sandboxes").is_empty());
    assert_eq!(node.runtime().pod_uids().expect("pods"), ["pod-a", "pod-b"]);
    for uid in ["pod-a", "pod-b"] {
        node.runtime().remove_sandbox(uid).expect("removing");
    }
    assert!(traces(&pods.display().to_string()).is_empty());
}

#[test]
fn many_pods_come_and_go_at_once_and_leave_nothing() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let state = node.directory.path().join("state").display().to_string();
    let zombies = || {
        let threads = fs::read_dir("/proc/self/task").expect("this program's threads").flatten();
        let children =
            threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        let zombie = |pid: &&str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(") Z ")
        };
        children.collect::<String>().split_whitespace().filter(zombie).count()
    };
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let node = &node;
            scope.spawn(move || {
                for round in 0..3 {
                    let uid = format!("pod-{worker}-{round}");
                    node.sandbox(&uid);
                    let spec = node.container(&uid, "main", "echo hello");
                    let (exit, log) = node.finish(&spec);
                    assert_eq!((exit.code, log.as_str()), (0, "hello\n"));
                    node.runtime().remove_sandbox(&uid).expect("removing the sandbox");
                }
            });
        }
    });
    assert!(node.runtime().pod_uids().expect("pods").is_empty());
    assert_eq!(traces(&state), Default::default());
    assert_eq!(node.cgroups(), Vec::<PathBuf>::new());
    wait_until("all shims are reaped", || zombies() == 0);
}
