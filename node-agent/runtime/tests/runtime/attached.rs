//! Containers with a terminal or an input of their own, and sessions that are attached to them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use weir_runtime::ContainerKey;
use weir_runtime::attach::{AttachSpec, FrameKind, frame, parse_header};
use weir_tests::require;

use crate::fixture::Node;

const ALL: AttachSpec = AttachSpec { stdin: true, stdout: true, stderr: true };
const OUTPUT: AttachSpec = AttachSpec { stdin: false, ..ALL };

fn attach(node: &Node, key: &ContainerKey, spec: AttachSpec) -> UnixStream {
    let stream = node.runtime().attach(key, spec).expect("a session").stream;
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    stream
}

/// The next frame; None at the end.
fn next(stream: &mut UnixStream) -> Option<(FrameKind, Vec<u8>)> {
    let mut header = [0; 5];
    match stream.read_exact(&mut header) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
        read => read.expect("a frame"),
    }
    let (kind, length) = parse_header(header).expect("a header");
    let mut content = vec![0; length];
    stream.read_exact(&mut content).expect("its content");
    Some((kind, content))
}

fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let Some((_, content)) = next(stream) else { panic!("the end after {seen:?}") };
        seen.push_str(&String::from_utf8_lossy(&content));
    }
    seen
}

fn type_in(stream: &mut UnixStream, text: &str) {
    stream.write_all(&frame(FrameKind::Stdin, text.as_bytes())).expect("typed");
}

#[test]
fn a_container_on_a_terminal_is_logged_typed_into_and_resized() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let script = "tty; echo $TERM; while read word; do stty size; echo got $word; done";
    let mut spec = node.container("pod-a", "main", script);
    spec.security.run_as_user = Some(101);
    (spec.tty, spec.stdin) = (true, true);
    node.run(&spec);
    node.wait_for_log(&spec.key, "xterm");
    assert!(node.log(&spec.key).starts_with("/dev/pts/0\r\nxterm\r\n"), "{:?}", node.log(&spec.key));

    let mut session = attach(&node, &spec.key, ALL);
    session.write_all(&frame(FrameKind::Resize, &[0, 111, 0, 33])).expect("resized");
    type_in(&mut session, "one\n");
    let seen = read_until(&mut session, "got one\r\n");
    assert!(seen.contains("33 111\r\n"), "{seen:?}");
    // The terminal outlives who was attached to it.
    drop(session);
    let mut session = attach(&node, &spec.key, ALL);
    type_in(&mut session, "two\n");
    read_until(&mut session, "got two\r\n");
    node.wait_for_log(&spec.key, "got two");
    type_in(&mut session, "\x04");
    while next(&mut session).is_some() {}
    assert_eq!(node.wait(&spec.key).code, 0);
}

#[test]
fn input_stays_open_for_the_next_or_ends_with_the_first() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let mut kept = node.container("pod-a", "kept", "cat; echo over");
    kept.stdin = true;
    node.run(&kept);
    for text in ["one\n", "two\n"] {
        let mut session = attach(&node, &kept.key, ALL);
        type_in(&mut session, text);
        read_until(&mut session, text);
    }
    let mut once = node.container("pod-a", "once", "cat; echo over");
    (once.stdin, once.stdin_once) = (true, true);
    node.run(&once);
    let mut session = attach(&node, &once.key, ALL);
    type_in(&mut session, "all\n");
    session.write_all(&frame(FrameKind::CloseStdin, &[])).expect("closed");
    read_until(&mut session, "over\n");
    assert_eq!(next(&mut session), None, "the session ends with the container");
    assert_eq!(node.wait(&once.key).code, 0);
    assert_eq!(node.log(&once.key), "all\nover\n");
    assert_eq!(node.log(&kept.key), "one\ntwo\n");
}

#[test]
fn a_session_that_reads_nothing_holds_up_neither_container_nor_log() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "sleep 0.3; seq 1 400000; echo err >&2; sleep 1000");
    node.run(&spec);
    let mut stuck = attach(&node, &spec.key, OUTPUT);
    node.wait_for_log(&spec.key, "err\n");
    assert!(node.log(&spec.key).contains("\n400000\n"));
    let mut last = None;
    while let Some((kind, _)) = next(&mut stuck) {
        last = Some(kind);
    }
    assert_eq!(last, Some(FrameKind::TooSlow));
}

#[test]
fn what_a_container_was_not_made_with_is_refused() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("pod-a");
    let spec = node.container("pod-a", "main", "sleep 1000");
    node.run(&spec);
    let error = node.runtime().attach(&spec.key, ALL).expect_err("no input");
    assert!(error.to_string().contains("stdin: true"), "{error}");
    let attached = node.runtime().attach(&spec.key, OUTPUT).expect("a session");
    assert!(!attached.terminal);
    node.runtime().stop_container(&spec.key, Duration::ZERO).expect("stopped");
    assert!(node.runtime().attach(&spec.key, OUTPUT).is_err());
}
