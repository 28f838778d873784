//! Parts of volumes, and volumes that show images, in real containers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use weir_runtime::images::CollectionPolicy;
use weir_runtime::{ContainerSpec, Mount, Propagation, PullPolicy, SubPath};
use weir_tests::require;

use crate::fixture::{Compression, IMAGE, Layer, Node, traces};

fn part(volume: &Path, path: &str, create: bool, destination: &str) -> Mount {
    Mount {
        source: volume.to_owned(),
        destination: destination.into(),
        sub_path: Some(SubPath { path: path.into(), create }),
        ..Mount::default()
    }
}

fn volume(node: &Node) -> PathBuf {
    let volume = node.directory.path().join("volume");
    fs::create_dir(&volume).expect("a volume");
    fs::set_permissions(&volume, PermissionsExt::from_mode(0o777)).expect("a mode");
    volume
}

#[test]
fn parts_of_a_volume_are_mounted_and_made_and_gone_with_the_container() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let volume = volume(&node);
    fs::create_dir(volume.join("..data")).expect("made");
    fs::write(volume.join("..data/key"), "value\n").expect("written");
    symlink("..data/key", volume.join("key")).expect("a link");
    node.sandbox("parts");
    let before = traces(&node.directory.path().display().to_string());
    let mut spec = node.container(
        "parts",
        "a",
        "cat /etc/app.conf; echo mine > /data/file; echo no > /fixed/file; cat /fixed/file; ls /data",
    );
    spec.security.run_as_user = Some(101);
    spec.mounts = vec![
        part(&volume, "key", false, "/etc/app.conf"),
        part(&volume, "made/here", true, "/data"),
        Mount { read_only: true, ..part(&volume, "made/here", true, "/fixed") },
    ];
    let (exit, log) = node.finish(&spec);
    assert_eq!(exit.code, 0, "{log}");
    let lines: Vec<_> = log.lines().filter(|line| !line.contains("can't create")).collect();
    assert_eq!(lines, ["value", "mine", "file"], "{log}");
    assert_eq!(fs::read_to_string(volume.join("made/here/file")).expect("written"), "mine\n");
    node.runtime().remove_container(&spec.key).expect("removed");
    let after = traces(&node.directory.path().display().to_string());
    assert_eq!(after, before);
    assert_eq!(fs::read_to_string(volume.join("made/here/file")).expect("still there"), "mine\n");
}

#[test]
fn a_part_that_leads_out_or_is_missing_is_refused_with_what_to_do() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let volume = volume(&node);
    symlink("/etc", volume.join("absolute")).expect("a link");
    symlink("../..", volume.join("up")).expect("a link");
    fs::write(volume.join("file"), "").expect("written");
    node.sandbox("out");
    for (number, (path, create, word)) in [
        ("absolute", true, "leads out of the volume"),
        ("up/x", true, "leads out of the volume"),
        ("absolute/passwd", false, "leads out of the volume"),
        ("file/below", true, "not a directory"),
        ("none", false, "nothing of this name"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut spec = node.container("out", &format!("c{number}"), "true");
        spec.mounts = vec![part(&volume, path, create, "/data")];
        let error = node.runtime().create_container(&spec).expect_err(path);
        assert_eq!(error.reason(), "CreateContainerConfigError", "{path}: {error}");
        let error = error.to_string();
        assert!(error.contains(word) && error.contains("/data"), "{path}: {error}");
    }
}

#[test]
fn a_container_that_swaps_directories_for_links_gets_nothing_of_the_node_mounted() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let volume = volume(&node);
    let secret = node.directory.path().join("secret");
    fs::create_dir_all(secret.join("deep")).expect("made");
    fs::write(secret.join("deep/file"), "of the node\n").expect("written");
    fs::create_dir_all(volume.join("a/deep")).expect("made");
    fs::write(volume.join("a/deep/file"), "of the volume\n").expect("written");
    symlink(&secret, volume.join("link")).expect("a link");
    node.sandbox("swaps");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // As a container does that shares the volume, only faster.
            let at = nix::fcntl::AT_FDCWD;
            while !over.load(Ordering::Relaxed) {
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                nix::fcntl::renameat2(at, &volume.join("a"), at, &volume.join("link"), flags)
                    .expect("exchanged");
            }
        });
        let (mut mounted, mut refused) = (0, 0);
        for round in 0..60 {
            let mut spec = node.container("swaps", "a", "cat /data/file");
            spec.key.restart = round;
            spec.mounts = vec![part(&volume, "a/deep", true, "/data")];
            match node.runtime().create_container(&spec) {
                Ok(_) => {
                    mounted += 1;
                    node.runtime().start_container(&spec.key).expect("started");
                    node.wait(&spec.key);
                    assert_eq!(node.log(&spec.key), "of the volume\n");
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.reason(), "CreateContainerConfigError", "{error}");
                }
            }
            node.runtime().remove_container(&spec.key).expect("removed");
        }
        over.store(true, Ordering::Relaxed);
        assert!(mounted + refused == 60 && mounted > 0, "{mounted} mounted, {refused} refused");
    });
    assert_eq!(fs::read_dir(&secret).expect("there").count(), 1, "something was made outside");
}

#[test]
fn parts_outlive_the_agent_and_are_unmounted_by_the_next() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    let volume = volume(&node);
    let _shared = Shared::make(&volume);
    node.sandbox("outlive");
    let before = traces(&node.directory.path().display().to_string());
    let mut spec = node.container("outlive", "a", "echo up; sleep 1000");
    spec.mounts = vec![
        part(&volume, "x", true, "/data"),
        Mount { propagation: Propagation::HostToContainer, ..part(&volume, "y", true, "/slave") },
    ];
    node.run(&spec);
    node.wait_for_log(&spec.key, "up");
    node.open();
    node.runtime().remove_container(&spec.key).expect("removed");
    assert_eq!(traces(&node.directory.path().display().to_string()), before);
    assert!(volume.join("x").is_dir() && volume.join("y").is_dir());
}

/// A directory that is a shared mount of its own.
struct Shared(PathBuf);

impl Shared {
    fn make(path: &Path) -> Self {
        let none = None::<&str>;
        mount(Some(path), path, none, MsFlags::MS_BIND, none).expect("mounted");
        // Whatever it lies on: what happens here is nobody's beyond this test.
        mount(none, path, none, MsFlags::MS_PRIVATE, none).expect("private");
        mount(none, path, none, MsFlags::MS_SHARED, none).expect("shared");
        Self(path.to_owned())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn mounts_come_through_as_their_propagation_says() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let volume = volume(&node);
    node.sandbox("through");
    let mounted = |propagation: Propagation| Mount {
        source: volume.clone(),
        destination: "/data".into(),
        propagation,
        ..Mount::default()
    };
    let tmpfs = |path: &Path| {
        fs::create_dir_all(path).expect("made");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mounted");
        fs::write(path.join("file"), "of the node\n").expect("written");
    };
    let private = Shared::make(&volume);
    mount(None::<&str>, &volume, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).expect("private");
    for (propagation, name) in
        [(Propagation::HostToContainer, "HostToContainer"), (Propagation::Bidirectional, "Bidirectional")]
    {
        let mut spec = node.container("through", "refused", "true");
        spec.mounts = vec![mounted(propagation)];
        let error = node.runtime().create_container(&spec).expect_err("refused").to_string();
        assert!(error.contains(name) && error.contains("mount --make-rshared"), "{error}");
    }
    drop(private);
    let _shared = Shared::make(&volume);
    let other = node.directory.path().join("other");
    fs::create_dir(&other).expect("made");
    let _other = Shared::make(&other);
    let script = "echo up; while [ ! -e /data/go ]; do sleep 0.1; done; ls /data/sub; mkdir -p /data/own; \
                  mount -t tmpfs tmpfs /data/own && touch /data/own/x; mkdir -p /other/own; \
                  mount -t tmpfs tmpfs /other/own && touch /other/own/x; echo over";
    for (name, propagation, sees, gives) in [
        ("none", Propagation::None, false, false),
        ("to", Propagation::HostToContainer, true, false),
        ("both", Propagation::Bidirectional, true, true),
    ] {
        fs::create_dir_all(volume.join("sub")).expect("made");
        let mut spec = node.container("through", name, script);
        spec.security.privileged = true;
        // Beside one that passes on nothing, whatever the first does.
        let apart = Mount { source: other.clone(), destination: "/other".into(), ..Mount::default() };
        spec.mounts = vec![mounted(propagation), apart];
        node.run(&spec);
        node.wait_for_log(&spec.key, "up");
        tmpfs(&volume.join("sub"));
        fs::write(volume.join("go"), "").expect("written");
        node.wait_for_log(&spec.key, "over");
        assert_eq!(node.log(&spec.key).contains("file"), sees, "{name}");
        assert_eq!(volume.join("own/x").exists(), gives, "{name}");
        assert!(!other.join("own/x").exists(), "{name}: a mount that passes on nothing did");
        node.wait(&spec.key);
        node.runtime().remove_container(&spec.key).expect("removed");
        for mounted in ["sub", "own"] {
            let _ = umount2(&volume.join(mounted), MntFlags::MNT_DETACH);
        }
        fs::remove_file(volume.join("go")).expect("removed");
    }
}

#[test]
fn read_only_may_include_what_is_mounted_below() {
    if !require::root() {
        return;
    }
    let node = Node::new();
    let volume = volume(&node);
    let _own = Shared::make(&volume);
    let below = volume.join("below");
    fs::create_dir(&below).expect("made");
    mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mounted");
    node.sandbox("below");
    let script =
        "for dir in plain whole part; do touch /$dir/below/$dir 2>/dev/null && echo $dir; done; true";
    let mut spec = node.container("below", "a", script);
    let mount = |destination: &str, recursive_read_only| Mount {
        source: volume.clone(),
        destination: destination.into(),
        read_only: true,
        recursive_read_only,
        ..Mount::default()
    };
    let sub_path = Some(SubPath { path: ".".into(), create: false });
    spec.mounts =
        vec![mount("/plain", false), mount("/whole", true), Mount { sub_path, ..mount("/part", true) }];
    let (exit, log) = node.finish(&spec);
    assert_eq!((exit.code, log.as_str()), (0, "plain\n"));
    let _ = umount2(&below, MntFlags::MNT_DETACH);
}

fn shows(node: &Node, uid: &str, script: &str) -> ContainerSpec {
    let image =
        node.runtime().images().resolve("weir.test/files:v1", PullPolicy::IfNotPresent).expect("found");
    let root = node.runtime().mount_image(uid, "files", &image).expect("mounted");
    assert_eq!(node.runtime().mount_image(uid, "files", &image).expect("mounted already"), root);
    let mut spec = node.container(uid, "a", script);
    let mount =
        Mount { source: root.clone(), destination: "/files".into(), read_only: true, ..Mount::default() };
    let inner = Mount { read_only: true, ..part(&root, "dir/sub", false, "/inner") };
    spec.mounts = vec![mount, inner];
    spec
}

#[test]
fn the_files_of_an_image_are_a_volume_that_is_kept_while_the_pod_is_there() {
    if !require::root() {
        return;
    }
    let mut node = Node::new();
    let layout = crate::fixture::Layout(node.directory.path().join("layout"));
    let busybox = layout.image(
        serde_json::json!({ "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] }),
        &[Layer::busybox().bytes()],
        Compression::Gzip,
    );
    let lower = Layer::new().directory("dir/").directory("dir/sub/").file("dir/sub/a", b"lower\n").bytes();
    let upper = Layer::new().file("b", b"upper\n").bytes();
    let files = layout.image(serde_json::json!({}), &[lower.clone(), upper, lower], Compression::Gzip);
    layout.index(&[(IMAGE, busybox), ("weir.test/files:v1", files)]);
    node.sandbox("shows");
    let script = "cat /files/dir/sub/a /files/b /inner/a; touch /files/x 2>/dev/null || echo fixed; mount | grep ' /files '";
    let spec = shows(&node, "shows", script);
    let (exit, log) = node.finish(&spec);
    assert_eq!(exit.code, 0, "{log}");
    assert!(log.starts_with("lower\nupper\nlower\n") && log.contains("\nfixed\n"), "{log}");
    assert!(log.lines().last().is_some_and(|line| line.contains("noexec")), "{log}");
    node.runtime().remove_container(&spec.key).expect("removed");

    // Nothing but the volume has the image now; a pod's files cannot stand in the way of the collection.
    let pod = node.config().state_dir.join("pods/shows");
    fs::create_dir_all(pod.join(".volumes/data")).expect("made");
    fs::write(pod.join(".volumes/data/container.json"), "of a container").expect("written");
    let all = CollectionPolicy { maximum_age: Duration::from_nanos(1), ..CollectionPolicy::default() };
    let references = |images: Vec<weir_runtime::Image>| -> Vec<String> {
        images.into_iter().map(|image| image.reference).collect()
    };
    node.open();
    node.runtime().collect_images(&all).expect("collected");
    assert_eq!(references(node.runtime().images().list().expect("a list")), ["weir.test/files:v1"]);
    node.runtime().remove_sandbox("shows").expect("removed");
    node.runtime().collect_images(&all).expect("collected");
    assert_eq!(references(node.runtime().images().list().expect("a list")), Vec::<String>::new());
}
