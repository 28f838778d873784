//! Collection: what nobody uses goes when it must, what anybody uses stays.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use weir_runtime::images::CollectionPolicy;
use weir_runtime::{Config, ContainerKey, ContainerSpec, PullPolicy, Runtime};
use weir_tests::require;

use super::noise;
use crate::fixture::{Compression, Layer, Layout, Node, shim_program};

const ONE: &str = "weir.test/one:v1";
const TWO: &str = "weir.test/two:v1";
const NOW: CollectionPolicy = CollectionPolicy {
    high_threshold: 0,
    low_threshold: 0,
    minimum_age: Duration::ZERO,
    maximum_age: Duration::ZERO,
};

/// A node whose state lies on a small disk of its own.
struct SmallDisk {
    node: Node,
    state: PathBuf,
}

impl SmallDisk {
    /// Two images that share a layer, besides one of their own of 8 MiB each.
    fn new() -> Self {
        let mut node = Node::new();
        node.runtime = None;
        let state = node.directory.path().join("small");
        fs::create_dir(&state).expect("a directory");
        mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=64m"))
            .expect("a small disk");
        let layout = Layout::new(node.directory.path().join("two"));
        let shared = Layer::new().file("shared", &noise(9, 1 << 20)).bytes();
        let images: Vec<_> = [(ONE, 1), (TWO, 2)]
            .map(|(name, seed)| {
                // A program as far as creating a container looks.
                let program = Layer::header(tar::EntryType::Regular, 0o755);
                let own = Layer::new().raw(program, "own", "", &noise(seed, 8 << 20)).bytes();
                (
                    name,
                    layout.image(
                        serde_json::json!({ "Cmd": ["/x"] }),
                        &[shared.clone(), own],
                        Compression::Gzip,
                    ),
                )
            })
            .into();
        layout.index(&images);
        node.runtime = Some(
            Runtime::open(Config {
                state_dir: state.clone(),
                image_sources: vec![layout.0, node.directory.path().join("layout")],
                agent_exe: shim_program(),
                ..node.config()
            })
            .expect("a runtime"),
        );
        Self { node, state }
    }

    fn runtime(&self) -> &Runtime {
        self.node.runtime()
    }

    fn take(&self, name: &str) -> weir_runtime::Image {
        self.runtime().images().resolve(name, PullPolicy::IfNotPresent).expect("the image")
    }

    fn names(&self) -> Vec<String> {
        self.runtime().images().list().expect("the images").into_iter().map(|image| image.reference).collect()
    }

    fn layers(&self) -> usize {
        fs::read_dir(self.state.join("images/layers")).expect("layers").count()
    }

    /// Makes every record look as if it was last used so long ago.
    fn age(&self, age: Duration) {
        for record in fs::read_dir(self.state.join("images/refs")).expect("records").flatten() {
            let file = File::open(record.path()).expect("a record");
            file.set_modified(SystemTime::now() - age).expect("a time");
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        for uid in self.runtime().pod_uids().unwrap_or_default() {
            let _ = self.runtime().remove_sandbox(&uid);
        }
        self.node.runtime = None;
        let _ = umount2(&self.state, MntFlags::MNT_DETACH);
    }
}

#[test]
fn the_longest_unused_image_goes_first_and_only_as_far_as_needed() {
    if !require::root() {
        return;
    }
    let disk = SmallDisk::new();
    disk.take(ONE);
    disk.take(TWO);
    disk.age(Duration::from_secs(300));
    disk.take(TWO);
    // 17 of 64 MiB are in use: 26 percent. Without one of them it is 14.
    let policy = CollectionPolicy { high_threshold: 20, low_threshold: 18, ..NOW };
    let done = disk.runtime().collect_images(&policy).expect("a collection");
    assert_eq!(done.removed.iter().map(|image| image.reference.as_str()).collect::<Vec<_>>(), [ONE]);
    assert!(done.usage >= 20 && done.freed >= 8 << 20 && done.freed >= done.wanted, "{done:?}");
    assert_eq!((disk.names(), disk.layers()), (vec![TWO.to_owned()], 2));
    let done = disk.runtime().collect_images(&policy).expect("a collection");
    assert_eq!((done.wanted, done.removed.len()), (0, 0));
    disk.take(ONE);
    assert_eq!(disk.layers(), 3);
}

#[test]
fn young_images_and_those_of_containers_stay_however_full_the_disk_is() {
    if !require::root() {
        return;
    }
    let disk = SmallDisk::new();
    let image = disk.take(ONE);
    disk.take(TWO);
    disk.node.sandbox("user");
    let mut spec = ContainerSpec::new(ContainerKey::new("user", "a", 0), image);
    spec.command = vec!["/own".to_owned()];
    disk.runtime().create_container(&spec).expect("a container");
    let young = CollectionPolicy { minimum_age: Duration::from_secs(60), ..NOW };
    let done = disk.runtime().collect_images(&young).expect("a collection");
    assert!(done.removed.is_empty() && done.wanted > done.freed, "{done:?}");
    disk.age(Duration::from_secs(3600));
    let done = disk.runtime().collect_images(&NOW).expect("a collection");
    assert_eq!((done.removed.len(), disk.names()), (1, vec![ONE.to_owned()]));
    // Its use counts from the last look on, also once the container has gone.
    disk.runtime().remove_container(&spec.key).expect("the container");
    assert!(disk.runtime().collect_images(&young).expect("a collection").removed.is_empty());
    assert_eq!(disk.runtime().collect_images(&NOW).expect("a collection").removed.len(), 1);
    assert_eq!((disk.names().len(), disk.layers()), (0, 0));
}

#[test]
fn what_was_not_used_for_too_long_goes_from_any_disk() {
    if !require::root() {
        return;
    }
    let disk = SmallDisk::new();
    disk.take(ONE);
    disk.age(Duration::from_secs(3600));
    disk.take(TWO);
    let policy = CollectionPolicy { maximum_age: Duration::from_secs(600), ..CollectionPolicy::default() };
    let done = disk.runtime().collect_images(&policy).expect("a collection");
    assert_eq!((done.aged.len(), done.removed.len(), disk.names()), (1, 0, vec![TWO.to_owned()]));
}

#[test]
fn leftovers_of_pulls_that_never_ended_go() {
    if !require::root() {
        return;
    }
    let disk = SmallDisk::new();
    disk.take(ONE);
    let (layer, part) = ("ab".repeat(32), format!("images/ingest/blobs/{}.part", "cd".repeat(32)));
    fs::create_dir(disk.state.join("images/layers").join(&layer)).expect("a layer of no image");
    fs::write(disk.state.join(&part), noise(1, 1 << 20)).expect("a partial download");
    let exists = |path: &Path| disk.state.join(path).exists();
    disk.runtime().collect_images(&CollectionPolicy::default()).expect("a collection");
    assert!(exists(Path::new(&part)), "somebody may be about to go on with it");
    let done = disk.runtime().collect_images(&NOW).expect("a collection");
    assert!(done.freed >= 1 << 20, "{done:?}");
    assert!(!exists(Path::new(&part)) && !exists(&Path::new("images/layers").join(&layer)));
}

#[test]
fn collections_never_take_what_pods_are_about_to_use() {
    if !require::root() {
        return;
    }
    let disk = SmallDisk::new();
    disk.node.sandbox("user");
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let over = AtomicBool::new(false);
    let eager = CollectionPolicy { minimum_age: Duration::from_millis(100), ..NOW };
    std::thread::scope(|scope| {
        // Also where an assertion fails: the collector must not go on for ever.
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                disk.runtime().collect_images(&eager).expect("a collection");
            }
        });
        let mut lost = 0;
        for number in 0..15 {
            let image = disk.take(if number % 2 == 0 { ONE } else { TWO });
            let mut spec = ContainerSpec::new(ContainerKey::new("user", "a", number), image);
            spec.command = vec!["/own".to_owned()];
            match disk.runtime().create_container(&spec) {
                Ok(_) => {
                    let rootfs = disk.state.join(format!("pods/user/a/{number}/rootfs"));
                    assert_eq!(fs::metadata(rootfs.join("own")).expect("the file").len(), 8 << 20);
                    assert_eq!(fs::metadata(rootfs.join("shared")).expect("the file").len(), 1 << 20);
                }
                // Between resolving and creating only the minimum age protects, which is short here.
                Err(error) => {
                    assert!(error.to_string().contains("collected a moment ago"), "{error}");
                    lost += 1;
                }
            }
            disk.runtime().remove_container(&spec.key).expect("the container");
        }
        assert!(lost < 15, "no container at all was created");
    });
}
