//! Exec sessions: terminals, exit codes, many at a time, and what happens when nobody listens any more.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use weir_runtime::{
    ContainerKey, ContainerSpec, ContainerState, ExecSession, ExecSpec, ExecStdio, TerminalSize,
    resize_terminal,
};
use weir_tests::require;

use crate::fixture::{Node, wait_until};

fn start(node: &Node, key: &ContainerKey, script: &str, stdio: ExecStdio) -> ExecSession {
    let argv = vec!["sh".into(), "-c".into(), script.into()];
    let spec = ExecSpec { argv, stdio, terminal: None, timeout: None };
    node.runtime().start_exec(key, spec).expect("a session")
}

fn start_on_terminal(node: &Node, key: &ContainerKey, script: &str) -> (ExecSession, File) {
    let argv = vec!["sh".into(), "-c".into(), script.into()];
    let terminal = Some(TerminalSize { columns: 80, rows: 24 });
    let spec = ExecSpec { argv, stdio: ExecStdio::default(), terminal, timeout: None };
    let mut session = node.runtime().start_exec(key, spec).expect("a session");
    let master = session.take_terminal().expect("a terminal");
    (session, File::from(master))
}

/// Reads until `text` came.
fn read_until(master: &mut File, text: &str) -> String {
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert!(Instant::now() < deadline, "only {:?} came", String::from_utf8_lossy(&seen));
        let mut buffer = [0; 4096];
        match master.read(&mut buffer) {
            Ok(0) => panic!("the end after {:?}", String::from_utf8_lossy(&seen)),
            Ok(count) => seen.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&seen)),
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// The processes of the container's cgroup, by command line.
fn commands(node: &Node, key: &ContainerKey) -> Vec<String> {
    let id = key.id();
    let in_container = |pid: &str| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(&id))
    };
    let _ = node;
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let pids = processes.filter_map(|process| process.file_name().into_string().ok());
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && in_container(pid))
        .map(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).replace('\0', " ")
        })
        .collect()
}

fn runs(node: &Node, key: &ContainerKey, needle: &str) -> bool {
    commands(node, key).iter().any(|command| command.contains(needle))
}

/// A node with one container, which sleeps.
fn sleeping() -> Option<(Node, ContainerSpec)> {
    if !require::root() {
        return None;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "sleep 1000");
    node.run(&spec);
    Some((node, spec))
}

#[test]
fn a_session_with_a_terminal_owns_it_and_sees_its_size_change() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let mut spec = node.container("pod-a", "main", "sleep 1000");
    spec.security.run_as_user = Some(101);
    node.run(&spec);
    // A signal may end a `read`, or wait for it to end: lines are read until the right one comes.
    let script = "tty; stty size; trap 'stty size' WINCH; echo ready; \
                  until read word && [ \"$word\" = two ]; do :; done; echo got $word; exit 9";
    let (session, mut master) = start_on_terminal(&node, &spec.key, script);
    let text = read_until(&mut master, "ready\r\n");
    assert!(text.contains("/dev/pts/0\r\n") && text.contains("24 80\r\n"), "{text:?}");
    resize_terminal(master.as_fd(), TerminalSize { columns: 132, rows: 43 }).expect("resized");
    // The shell may run its trap only once it has read a line.
    master.write_all(b"one\n").expect("typed");
    read_until(&mut master, "43 132\r\n");
    master.write_all(b"two\n").expect("typed");
    read_until(&mut master, "got two\r\n");
    assert_eq!(session.wait().expect("an end"), 9);
}

#[test]
fn control_c_interrupts_what_runs_on_the_terminal() {
    let Some((node, spec)) = sleeping() else { return };
    let (session, mut master) = start_on_terminal(&node, &spec.key, "echo ready; exec sleep 2000");
    read_until(&mut master, "ready\r\n");
    master.write_all(b"\x03").expect("typed");
    assert_eq!(session.wait().expect("an end"), 128 + 2);
}

#[test]
fn a_session_that_is_hung_up_on_leaves_no_process() {
    let Some((node, spec)) = sleeping() else { return };
    let key = &spec.key;

    let (session, mut master) = start_on_terminal(&node, key, "echo ready; sleep 2001; true");
    read_until(&mut master, "ready");
    drop((session, master));
    wait_until("the session on a terminal ends", || !runs(&node, key, "sleep 2001"));

    let session = start(&node, key, "sleep 2002; true", ExecStdio::default());
    wait_until("the session runs", || runs(&node, key, "sleep 2002"));
    let hang_up = session.hang_up().expect("a handle");
    let waiting = std::thread::spawn(move || session.wait());
    drop(hang_up);
    wait_until("the session without a terminal ends", || !runs(&node, key, "sleep 2002"));
    let _ = waiting.join().expect("no panic");

    let (read, write) = nix::unistd::pipe().expect("a pipe");
    let stdio = ExecStdio { stdout: Some(write), ..ExecStdio::default() };
    let session = start(&node, key, "trap '' HUP; echo deaf; sleep 2003; true", stdio);
    let mut word = [0; 4];
    File::from(read).read_exact(&mut word).expect("the trap is set");
    drop(session);
    wait_until("a session that ignores it is killed", || !runs(&node, key, "sleep 2003"));

    assert!(runs(&node, key, "sleep 1000"), "the container itself goes on");
    assert!(matches!(node.runtime().status(key).expect("it").state, ContainerState::Running { .. }));
}

#[test]
fn sessions_run_beside_each_other_and_report_signals() {
    let Some((node, spec)) = sleeping() else { return };
    std::thread::scope(|scope| {
        let (node, key) = (&node, &spec.key);
        let sessions: Vec<_> = (0..8)
            .map(|number| {
                scope.spawn(move || {
                    let script = format!("read word; exit $((word + {number}))");
                    let (read, write) = nix::unistd::pipe().expect("a pipe");
                    let stdio = ExecStdio { stdin: Some(read), ..ExecStdio::default() };
                    let session = start(node, key, &script, stdio);
                    File::from(write).write_all(b"20\n").expect("written");
                    session.wait().expect("an end")
                })
            })
            .collect();
        let codes: Vec<i32> = sessions.into_iter().map(|session| session.join().expect("no panic")).collect();
        assert_eq!(codes, (20..28).collect::<Vec<_>>());
    });
    let session = start(&node, &spec.key, "kill -9 $$", ExecStdio::default());
    assert_eq!(session.wait().expect("an end"), 137);
}

#[test]
fn a_session_ends_with_its_container() {
    let Some((node, spec)) = sleeping() else { return };
    let (read, write): (OwnedFd, OwnedFd) = nix::unistd::pipe().expect("a pipe");
    let stdio = ExecStdio { stdout: Some(write), ..ExecStdio::default() };
    let session = start(&node, &spec.key, "echo up; sleep 2000", stdio);
    File::from(read).read_exact(&mut [0; 2]).expect("it runs");
    node.runtime().stop_container(&spec.key, Duration::ZERO).expect("stopped");
    assert_eq!(session.wait().expect("an end"), 137);
}
