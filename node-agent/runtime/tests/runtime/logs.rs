//! Logs of real containers, rotated while they are written and followed.

use std::fs;
use std::thread;
use std::time::Duration;

use weir_runtime::ContainerState;
use weir_runtime::logs::{Cancel, LogOptions, RotationPolicy};
use weir_tests::require;

use crate::fixture::Node;

#[test]
fn a_log_that_is_rotated_while_it_is_written_and_followed_loses_nothing() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("talker");
    let spec = node.container("talker", "a", "for part in 1 2 3 4 5 6; do seq 1 4000; sleep 0.2; done");
    node.run(&spec);
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let reader = node.runtime().logs(&spec.key, options, Cancel::new()).expect("the log");
    let policy = RotationPolicy { max_size: 64 << 10, max_files: 1000 };
    let followed = thread::scope(|scope| {
        let follower =
            scope.spawn(|| reader.map(|item| item.expect("an entry")).collect::<Vec<_>>().concat());
        let runs = || {
            matches!(
                node.runtime().status(&spec.key).expect("a status").state,
                ContainerState::Running { .. }
            )
        };
        while runs() {
            for (key, outcome) in node.runtime().rotate_logs(&policy) {
                // The container may have ended between the two.
                assert!(outcome.is_ok() || !runs(), "{key}: {outcome:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        follower.join().expect("the follower")
    });
    let written: String = (0..6).flat_map(|_| (1..=4000).map(|number| format!("{number}\n"))).collect();
    assert!(followed == written.as_bytes(), "{} bytes of {}", followed.len(), written.len());
    assert_eq!(node.log(&spec.key), written, "read afterwards, from all files");
    let log = node.runtime().log_path(&spec.key).expect("a path");
    let files = fs::read_dir(log.parent().expect("a directory")).expect("files").flatten();
    let names: Vec<_> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().filter(|name| name.ends_with(".gz")).count() >= 2, "{names:?}");
    node.runtime().remove_container(&spec.key).expect("the container");
    node.runtime().remove_log(&spec.key).expect("the log");
}

#[test]
fn only_logs_that_have_outgrown_the_limit_are_rotated() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    node.sandbox("quiet");
    let spec = node.container("quiet", "a", "echo one; sleep 1000");
    node.run(&spec);
    node.wait_for_log(&spec.key, "one");
    assert_eq!(node.runtime().rotate_logs(&RotationPolicy::default()).len(), 0);
    let rotated = node.runtime().rotate_logs(&RotationPolicy { max_size: 1, max_files: 2 });
    assert_eq!(rotated.len(), 1);
    assert!(rotated[0].1.is_ok(), "{rotated:?}");
    assert_eq!(node.log(&spec.key), "one\n");
}
