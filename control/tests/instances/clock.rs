//! The wall clock jumps, forwards and back: time that passes is measured by the monotonic clock, so nothing ends, and
//! nobody is given up, for what an operator or a bad time server did.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use weir_client::{Api, WatchEvent, WatchOptions};
use weir_proto::core::v1::{ConfigMap, Event, Node, ObjectReference};

use crate::fixture::{Control, until};
use crate::high_availability::make_nodes;

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// Longer than it takes the node lifecycle controller to look at every node again.
const A_LOOK: Duration = Duration::from_secs(8);

/// The clock of one process, as far from the machine's as a file says.
struct Clock {
    file: PathBuf,
}

impl Clock {
    /// `None` where libfaketime is not installed, unless the tests must have it.
    #[expect(clippy::print_stderr, reason = "a skipped test says why")]
    fn new(directory: &Path) -> Option<Clock> {
        if !Path::new(LIBRARY).exists() {
            let demanded = ["CI", "WEIR_REQUIRE_ROOT"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!demanded, "{LIBRARY} is missing: apt-get install libfaketime");
            eprintln!("skipped: {LIBRARY} is missing (apt-get install libfaketime)");
            return None;
        }
        let clock = Clock { file: directory.join("clock") };
        clock.jump("+0");
        Some(clock)
    }

    /// Replaced whole: the process reads it at every look at the clock.
    fn jump(&self, offset: &str) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, offset).unwrap();
        std::fs::rename(next, &self.file).unwrap();
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", LIBRARY.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }
}

fn config_map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.meta_mut().name = name.to_owned();
    map
}

fn event(name: &str) -> Event {
    let mut event = Event::default();
    event.meta_mut().name = name.to_owned();
    event.involved_object = Some(ObjectReference {
        kind: "ConfigMap".to_owned(),
        namespace: "default".to_owned(),
        name: "any".to_owned(),
        ..ObjectReference::default()
    });
    event
}

/// Seconds since 1970 by the clock of the process, which stamps what it creates.
async fn created(maps: &Api<ConfigMap>, name: &str) -> i64 {
    let made = maps.create(&config_map(name)).await.unwrap();
    made.meta().creation_timestamp.expect("every object has one").seconds
}

fn is_up(node: &Node) -> bool {
    let ready = node.status().conditions.iter().find(|condition| condition.r#type == "Ready");
    ready.is_some_and(|ready| ready.status == "True") && node.spec().taints.is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_ends_no_watch_no_event_and_no_node() {
    let directory = TempDir::new().unwrap();
    let Some(clock) = Clock::new(directory.path()) else { return };
    let flags = ["--listen", "127.0.0.1:0"];
    let control = Control::start_in(directory.path(), &flags, clock.environment());
    let client = control.client().await;
    let maps = client.namespaced::<ConfigMap>("default");
    let events = client.namespaced::<Event>("default");
    let nodes = client.api::<Node>();
    let stop = CancellationToken::new();
    make_nodes(&client, 3, stop.clone()).await;
    let all_up = async || {
        let nodes = nodes.list(&Default::default()).await.unwrap().items;
        nodes.len() == 3 && nodes.iter().all(is_up)
    };
    until("the nodes are taken into service", all_up).await;

    let began = created(&maps, "before").await;
    events.create(&event("before")).await.unwrap();
    let options = WatchOptions { bookmarks: true, ..WatchOptions::default() };
    let mut watch = maps.watch(&options).await.unwrap();
    for (name, offset, hours) in [("later", "+3h", 3), ("earlier", "-3h", -3)] {
        clock.jump(offset);
        let stamp = created(&maps, name).await;
        assert!((stamp - began - hours * 3600).abs() < 1800, "the clock did not jump: {began}, {stamp}");
        // The watch that was opened before sees what comes after.
        loop {
            match watch.try_next().await.unwrap().expect("the watch goes on") {
                WatchEvent::Added(map) if map.meta().name == name => break,
                _ => {}
            }
        }
        let jumped = Instant::now();
        while jumped.elapsed() < A_LOOK {
            assert!(all_up().await, "a node was given up after {offset}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        assert!(
            events.get_opt("before").await.unwrap().is_some(),
            "an event of an hour ended after {offset}"
        );
        events.create(&event(name)).await.unwrap();
    }
    stop.cancel();
}
