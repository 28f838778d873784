//! Images: every form they come in, and the ones that attack.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tar::EntryType;
use weir_runtime::images::{ImageError, LayerLimits};
use weir_runtime::{ImageStore, PullPolicy};
use weir_tests::require;

use crate::fixture::{Compression, Layer, Layout};

const NAME: &str = "weir.test/image:v1";

struct Images {
    directory: tempfile::TempDir,
}

impl Images {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn layout(&self) -> Layout {
        Layout::new(self.path("layout"))
    }

    fn store(&self, source: &str) -> ImageStore {
        ImageStore::open(self.path("images"), vec![self.path(source)]).expect("a store")
    }

    fn layers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("images/layers")).expect("layers").flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Unpacks an image of one layer; returns where, or why not.
    fn unpack(&self, layer: Layer) -> Result<PathBuf, ImageError> {
        let layout = self.layout();
        let image = layout.image(serde_json::json!({}), &[layer.bytes()], Compression::None);
        layout.index(&[(NAME, image)]);
        let image = self.store("layout").resolve(NAME, PullPolicy::IfNotPresent)?;
        Ok(self.path("images/layers").join(image.layers[0].trim_start_matches("sha256:")))
    }
}

#[test]
fn layers_of_every_compression_and_archives_are_read() {
    if !require::root() {
        return;
    }
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let images = Images::new();
        let layout = images.layout();
        let layers = [Layer::new().file("one", b"1").bytes(), Layer::new().file("two", b"2").bytes()];
        let image = layout.image(serde_json::json!({ "User": "web" }), &layers, compression);
        layout.index(&[("other:v1", image.clone()), (NAME, image)]);
        layout.archive(&images.path("image.tar"));
        for source in ["layout", "image.tar"] {
            let _ = fs::remove_dir_all(images.path("images"));
            let image = images.store(source).resolve(NAME, PullPolicy::Always).expect("the image");
            assert_eq!((image.layers.len(), image.config.user.as_deref()), (2, Some("web")));
            assert_eq!(images.layers().len(), 2);
            assert_eq!(images.store(source).list().expect("the images"), [image]);
        }
    }
}

#[test]
fn the_variant_of_this_platform_is_chosen_from_an_index() {
    if !require::root() {
        return;
    }
    let images = Images::new();
    let layout = images.layout();
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut variant =
        layout.image(serde_json::json!({}), &[Layer::new().file("own", b"").bytes()], Compression::Gzip);
    variant["platform"] = serde_json::json!({ "os": "linux", "architecture": own });
    let mut foreign = variant.clone();
    foreign["platform"] = serde_json::json!({ "os": "linux", "architecture": "s390x" });
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = |manifests: &[&serde_json::Value]| {
        layout.blob(
            kind,
            serde_json::json!({ "schemaVersion": 2, "manifests": manifests }).to_string().as_bytes(),
        )
    };
    layout.index(&[(NAME, index(&[&foreign, &variant])), ("weir.test/foreign:v1", index(&[&foreign]))]);
    let store = images.store("layout");
    let image = store.resolve(NAME, PullPolicy::IfNotPresent).expect("the image");
    assert_eq!(serde_json::json!(image.digest), variant["digest"]);
    let error = store.resolve("weir.test/foreign:v1", PullPolicy::IfNotPresent).expect_err("no variant");
    assert!(error.to_string().contains("linux/s390x"), "{error}");
}

#[test]
fn an_image_that_is_nowhere_is_named_with_the_places_searched() {
    let images = Images::new();
    images.layout().index(&[]);
    let store = images.store("layout");
    let error = store.resolve("weir.test/none:v9", PullPolicy::IfNotPresent).expect_err("no such image");
    assert_eq!(error.reason(), "ErrImagePull");
    let text = error.to_string();
    assert!(
        text.contains("weir.test/none:v9") && text.contains(&images.path("layout").display().to_string()),
        "{text}"
    );
    let sources = vec![images.path("no-such-source"), images.path("layout")];
    let with_broken = ImageStore::open(images.path("other"), sources).expect("a store");
    let error =
        with_broken.resolve("weir.test/none:v9", PullPolicy::IfNotPresent).expect_err("no such image");
    assert!(error.to_string().contains("no-such-source: does not exist"), "{error}");
    let error = store.resolve(NAME, PullPolicy::Never).expect_err("never pulled");
    assert_eq!(error.reason(), "ErrImageNeverPull");
    let error = store.resolve("Not A Name", PullPolicy::Never).expect_err("no name");
    assert_eq!(error.reason(), "InvalidImageName");
}

#[test]
fn an_image_in_the_store_outlives_its_source() {
    if !require::root() {
        return;
    }
    let images = Images::new();
    images.unpack(Layer::new().file("file", b"")).expect("the image");
    images.layout().index(&[]);
    for policy in [PullPolicy::Never, PullPolicy::IfNotPresent, PullPolicy::Always] {
        images.store("layout").resolve(NAME, policy).expect("the image in the store");
    }
}

#[test]
fn bytes_that_are_not_what_their_digest_says_are_refused() {
    if !require::root() {
        return;
    }
    let images = Images::new();
    let layout = images.layout();
    let good = Layer::new().file("file", b"good").bytes();
    let image = layout.image(serde_json::json!({}), &[good], Compression::None);
    layout.index(&[(NAME, image)]);
    for blob in fs::read_dir(layout.0.join("blobs/sha256")).expect("blobs").flatten() {
        let content = fs::read(blob.path()).expect("a blob");
        let mut changed = content.clone();
        let last = changed.len() - 2;
        changed[last] ^= 1;
        fs::write(blob.path(), changed).expect("a blob");
        let error =
            images.store("layout").resolve(NAME, PullPolicy::IfNotPresent).expect_err("a changed blob");
        assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
        assert_eq!(images.layers(), Vec::<PathBuf>::new());
        fs::write(blob.path(), content).expect("a blob");
    }
    images.store("layout").resolve(NAME, PullPolicy::IfNotPresent).expect("the image restored");
}

#[test]
fn a_layer_is_checked_as_it_comes_and_again_as_it_is_unpacked() {
    if !require::root() {
        return;
    }
    let images = Images::new();
    let layout = images.layout();
    let refused = |what: &str| {
        let error =
            images.store("layout").resolve(NAME, PullPolicy::IfNotPresent).expect_err("another layer");
        assert!(
            matches!(&error, ImageError::DigestMismatch { what: layer, .. } if layer.starts_with(what)),
            "{error}"
        );
        assert_eq!(images.layers(), Vec::<PathBuf>::new());
    };
    let layer = Layer::new().file("file", b"content").bytes();
    layout.index(&[(
        NAME,
        layout.image(serde_json::json!({}), std::slice::from_ref(&layer), Compression::Gzip),
    )]);
    let packed =
        fs::read_dir(layout.0.join("blobs/sha256")).expect("blobs").flatten().map(|blob| blob.path());
    let packed = packed.filter(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(&[0x1f, 0x8b])));
    for path in packed.collect::<Vec<_>>() {
        // Gzip's time of packing: what is inside stays the same.
        let mut bytes = fs::read(&path).expect("a blob");
        bytes[4] ^= 1;
        fs::write(&path, bytes).expect("a blob");
    }
    refused("layer sha256:");

    // The blob that the manifest means, with other files than the config promises.
    let promised = Layer::new().file("file", b"promised").bytes();
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let config = serde_json::json!({ "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [layout.blob(kind, &promised)["digest"]] } });
    let config = layout.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest =
        serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layout.blob(kind, &layer)] });
    let kind = "application/vnd.oci.image.manifest.v1+json";
    layout.index(&[(NAME, layout.blob(kind, manifest.to_string().as_bytes()))]);
    refused("unpacked layer sha256:");
}

/// A record of a PAX header: its own length comes first.
fn record(name: &str, value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    let length = (1..4).map(|digits| rest + digits).find(|sum| sum.to_string().len() + rest == *sum);
    let mut bytes = format!("{} {name}=", length.expect("a length")).into_bytes();
    bytes.extend(value);
    bytes.push(b'\n');
    bytes
}

#[test]
fn attributes_of_files_are_kept_those_of_the_machine_dropped_and_those_of_overlayfs_refused() {
    if !require::root() {
        return;
    }
    let with = |name: &str, value: &[u8]| {
        let header = Layer::header(EntryType::XHeader, 0o644);
        let record = record(&format!("SCHILY.xattr.{name}"), value);
        Layer::new().raw(header, "PaxHeaders/file", "", &record).directory("directory")
    };
    for name in ["trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.metacopy"] {
        let error = Images::new().unpack(with(name, b"y")).expect_err(name);
        assert!(
            matches!(&error, ImageError::Refused { entry, .. } if entry.starts_with("directory")),
            "{error}"
        );
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (name, kept) in [(c"security.capability", true), (c"trusted.other", false)] {
        let images = Images::new();
        let layer = with(name.to_str().expect("a name"), &capability);
        let root = images.unpack(layer).expect("the image");
        let found = attribute(&root.join("directory"), name);
        assert_eq!(found.as_deref(), kept.then_some(capability.as_slice()), "{name:?}");
    }
}

#[test]
fn half_written_layers_are_swept_at_the_next_start() {
    let images = Images::new();
    images.layout().index(&[]);
    drop(images.store("layout"));
    fs::create_dir_all(images.path("images/layers/0123.part/etc")).expect("a directory");
    fs::write(images.path("images/refs/0123.part"), "{").expect("a file");
    drop(images.store("layout"));
    assert_eq!(images.layers(), Vec::<PathBuf>::new());
    assert!(!images.path("images/refs/0123.part").exists());
}

#[test]
fn files_links_modes_owners_and_times_arrive_as_packed() {
    if !require::root() {
        return;
    }
    let mut setuid = Layer::header(EntryType::Regular, 0o4755);
    setuid.set_uid(101);
    setuid.set_gid(102);
    let layer = Layer::new()
        .directory("./usr/")
        .raw(setuid, "usr/tool", "", b"#!")
        .hard_link("usr/same", "usr/tool")
        .symlink("bin", "usr")
        .file("bin/through", b"followed inside")
        .file("deep/er/file", b"")
        .file("/absolute", b"in the root");
    let root = Images::new();
    let root_path = root.unpack(layer).expect("the image");
    let tool = fs::symlink_metadata(root_path.join("usr/tool")).expect("the tool");
    assert_eq!((tool.mode() & 0o7777, tool.uid(), tool.gid(), tool.nlink()), (0o4755, 101, 102, 2));
    assert_eq!(tool.mtime(), 1_700_000_000);
    assert_eq!(fs::metadata(root_path.join("usr")).expect("usr").mtime(), 1_700_000_000);
    assert_eq!(fs::read(root_path.join("usr/through")).expect("the file"), b"followed inside");
    assert!(root_path.join("deep/er/file").exists() && root_path.join("absolute").exists());
}

#[test]
fn deletions_become_what_overlayfs_understands() {
    if !require::root() {
        return;
    }
    let images = Images::new();
    let layer = Layer::new()
        .directory("etc")
        .file("etc/.wh.gone", b"")
        .directory("var")
        .file("var/.wh..wh..opq", b"")
        .file(".wh.replaced", b"")
        .directory("replaced");
    let root = images.unpack(layer).expect("the image");
    let gone = fs::symlink_metadata(root.join("etc/gone")).expect("a whiteout");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for opaque in ["var", "replaced"] {
        let value = attribute(&root.join(opaque), c"trusted.overlay.opaque");
        assert_eq!(value.as_deref(), Some(b"y".as_slice()), "{opaque}");
    }
}

fn attribute(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("a path");
    let mut value = [0u8; 32];
    // SAFETY: both strings are terminated, and the kernel writes at most the length given.
    let length =
        unsafe { nix::libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    Some(value[..usize::try_from(length).ok()?].to_vec())
}

#[test]
fn a_layer_that_reaches_out_of_its_directory_is_refused() {
    if !require::root() {
        return;
    }
    let images = Images::new();
    let outside = images.path("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("secret"), "secret").expect("a file");
    let out = outside.display().to_string();
    let secret = format!("{out}/secret");
    let up = "../".repeat(12);
    let attacks: Vec<(&str, Layer)> = vec![
        ("dot-dot in a name", Layer::new().file("../../outside/new", b"x")),
        ("dot-dot inside a name", Layer::new().directory("a").file("a/../../new", b"x")),
        ("dot-dot as a name", Layer::new().raw(Layer::header(EntryType::Directory, 0o711), "..", "", b"")),
        ("an absolute link as parent", Layer::new().symlink("door", &out).file("door/new", b"x")),
        (
            "a relative link as parent",
            Layer::new().symlink("door", &format!("{up}{out}")).file("door/new", b"x"),
        ),
        ("links in a chain", Layer::new().symlink("a", "..").symlink("b", "a/..").file("b/new", b"x")),
        ("a directory over a link", Layer::new().symlink("door", &out).directory("door/sub")),
        ("a hard link to dot-dot", Layer::new().hard_link("stolen", "../../outside/secret")),
        ("a hard link through a link", Layer::new().symlink("door", &out).hard_link("stolen", "door/secret")),
        ("a link through a link", Layer::new().symlink("door", &out).symlink("door/new", "/etc")),
        ("a whiteout through a link", Layer::new().symlink("door", &out).file("door/.wh.secret", b"")),
        ("an opaque mark through a link", Layer::new().symlink("door", &out).file("door/.wh..wh..opq", b"")),
        ("a whiteout of dot-dot", Layer::new().file(".wh...", b"")),
        ("a whiteout of dot", Layer::new().file(".wh..", b"")),
        ("a block device", Layer::new().raw(Layer::header(EntryType::Block, 0o666), "disk", "", b"")),
        ("a character device", Layer::new().raw(Layer::header(EntryType::Char, 0o666), "mem", "", b"")),
        ("the root as a file", Layer::new().file("./", b"x")),
    ];
    for (attack, layer) in attacks {
        let error = images.unpack(layer).expect_err(attack);
        assert!(matches!(error, ImageError::Refused { .. }), "{attack}: {error}");
        let names: Vec<_> =
            fs::read_dir(&outside).expect("outside").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["secret"], "{attack}");
        assert_eq!(fs::symlink_metadata(&secret).expect("the secret").nlink(), 1, "{attack}");
        assert!(!images.path("images/layers/new").exists() && !images.path("new").exists(), "{attack}");
        let above = fs::metadata(images.path("images/layers")).expect("the directory above");
        assert_ne!(above.mode() & 0o777, 0o711, "{attack}");
        assert_eq!(images.layers(), Vec::<PathBuf>::new(), "{attack}");
    }
}

/// Names and targets that meet each other often, and lead everywhere.
/// Unpacks an image of one layer under these limits; returns why not.
fn refusal(layer: Vec<u8>, compression: Compression, limits: LayerLimits) -> Option<String> {
    let images = Images::new();
    let layout = images.layout();
    let image = layout.image(serde_json::json!({}), &[layer], compression);
    layout.index(&[(NAME, image)]);
    let error = images.store("layout").with_limits(limits).resolve(NAME, PullPolicy::Always).err()?;
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
    assert_eq!(error.reason(), "ErrImagePull");
    assert!(images.layers().is_empty(), "nothing of it is left");
    Some(error.to_string())
}

#[test]
fn a_layer_that_comes_to_more_than_it_may_is_refused_before_it_is_there() {
    if !require::root() {
        return;
    }
    let limits = LayerLimits { bytes: 8 << 20, entries: 10 };
    let zeros = vec![0; 64 << 20];
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let files = || (0..9).fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), &zeros[..4096]));
        assert_eq!(refusal(files().bytes(), compression, limits), None);
        let said = refusal(Layer::new().file("zeros", &zeros).bytes(), compression, limits);
        assert!(said.is_some_and(|said| said.contains("more than 8388608 bytes")));
        let many = files().file("f9", b"").file("f10", b"").bytes();
        assert!(refusal(many, compression, limits).is_some_and(|said| said.contains("10 files")));
        // Behind the archive's end, where no entry is.
        let mut late = files().bytes();
        late.extend(&zeros);
        assert!(refusal(late, compression, limits).is_some_and(|said| said.contains("8388608")));
    }
}

#[test]
fn a_few_bytes_that_stand_for_many_are_refused() {
    if !require::root() {
        return;
    }
    let limits = LayerLimits { bytes: 8 << 20, entries: 10 };
    // A file of eight gigabytes with a hole of as many.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let gnu = header.as_gnu_mut().expect("a GNU header");
    gnu.realsize = *b"77777777777\0";
    gnu.sparse[0].offset = *b"77777777777\0";
    gnu.sparse[0].numbytes = *b"00000000000\0";
    let sparse = Layer::new().raw(header, "hole", "", b"").bytes();
    assert!(refusal(sparse, Compression::None, limits).is_some_and(|said| said.contains("bytes")));
    // A name that would be read into memory.
    let name = vec![b'a'; 4 << 20];
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        let long = Layer::new().raw(header, "././@LongLink", "", &name).file("short", b"").bytes();
        let said = refusal(long, Compression::Gzip, limits);
        assert!(said.as_ref().is_some_and(|said| said.contains("header")), "{kind:?}: {said:?}");
    }
}

fn wicked_name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c"]),
        2 => prop::sample::select(vec!["..", ".", "", "outside", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh...", ".wh.."]),
    ];
    (any::<bool>(), prop::collection::vec(part, 1..5))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn wicked_layer() -> impl Strategy<Value = Vec<(u8, String, String)>> {
    prop::collection::vec((0..5u8, wicked_name(), wicked_name()), 1..12)
}

#[test]
fn no_layer_whatever_touches_anything_outside() {
    if !require::root() {
        return;
    }
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() });
    let outcome = runner.run(&wicked_layer(), |entries| {
        let images = Images::new();
        let outside = images.path("images/layers/outside");
        drop(images.store("layout"));
        fs::create_dir_all(&outside).expect("a directory");
        fs::write(outside.join("a"), "untouched").expect("a file");
        let before = listing(images.directory.path(), &outside);
        let layer = entries.iter().fold(Layer::new(), |layer, (kind, name, target)| match kind {
            0 => layer.directory(name),
            1 => layer.symlink(name, target),
            2 => layer.hard_link(name, target),
            3 => layer.symlink(name, &outside.display().to_string()),
            _ => layer.file(name, b"content"),
        });
        let result = images.unpack(layer);
        prop_assert_eq!(listing(images.directory.path(), &outside), before);
        if let Err(error) = result {
            // What the kernel refuses (a file as a directory, a link to nothing) is an error of its own, never a panic.
            prop_assert!(matches!(error, ImageError::Refused { .. } | ImageError::Io { .. }), "{}", error);
        }
        Ok(())
    });
    outcome.expect("no layer gets out");
}

/// A layer with everything in it, damaged: some bytes changed, the end cut off.
fn damaged_layer() -> impl Strategy<Value = Vec<u8>> {
    let good = Layer::new()
        .directory("a")
        .file("a/file", &[7; 700])
        .symlink("a/link", "file")
        .hard_link("b", "a/file")
        .file("a/.wh.gone", b"")
        .bytes();
    let changes = prop::collection::vec((0..good.len(), any::<u8>()), 1..8);
    (changes, good.len() / 2..=good.len()).prop_map(move |(changes, length)| {
        let mut bytes = good.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
            // A header whose sum is right again is looked at more closely.
            let block = at / 512 * 512;
            let header = &mut bytes[block..block + 512];
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        bytes.truncate(length);
        bytes
    })
}

#[test]
fn a_layer_of_any_bytes_is_unpacked_or_refused() {
    if !require::root() {
        return;
    }
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() });
    let outcome = runner.run(&damaged_layer(), |bytes| {
        for compression in [Compression::None, Compression::Zstd] {
            let images = Images::new();
            let layout = images.layout();
            let image = layout.image(serde_json::json!({}), std::slice::from_ref(&bytes), compression);
            layout.index(&[(NAME, image)]);
            let result = images.store("layout").resolve(NAME, PullPolicy::IfNotPresent);
            prop_assert_eq!(images.layers().len(), usize::from(result.is_ok()), "{:?}", result);
        }
        Ok(())
    });
    outcome.expect("every layer ends in an image or an error");
}

/// What lies outside the layer's own directory: names beside the store, and the neighbour in every detail.
fn listing(top: &Path, neighbour: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for directory in [top, &top.join("images"), neighbour] {
        let entries = fs::read_dir(directory).expect("a directory").flatten();
        found.extend(
            entries.map(|entry| entry.path().display().to_string()).filter(|path| !path.ends_with("/layout")),
        );
    }
    let file = neighbour.join("a");
    let metadata = fs::symlink_metadata(&file).expect("the neighbour's file");
    let content = fs::read_to_string(file).expect("the neighbour's file");
    found.push(format!(
        "{content} {} {:o} {} {}",
        metadata.nlink(),
        metadata.mode(),
        metadata.mtime(),
        metadata.uid()
    ));
    let metadata = fs::symlink_metadata(neighbour).expect("the neighbour");
    found.push(format!("{:o} {} {}", metadata.mode(), metadata.mtime(), metadata.mtime_nsec()));
    found.push(format!("{:?}", attribute(neighbour, c"trusted.overlay.opaque")));
    found.sort();
    found
}

#[test]
fn links_are_replaced_and_not_written_through() {
    if !require::root() {
        return;
    }
    let images = Images::new();
    let victim = images.path("victim");
    fs::write(&victim, "untouched").expect("a file");
    let target = victim.display().to_string();
    let root = images
        .unpack(Layer::new().symlink("file", &target).file("file", b"own content").hard_link("link", "/file"))
        .expect("the image");
    assert_eq!(fs::read_to_string(&victim).expect("the victim"), "untouched");
    assert_eq!(fs::read_to_string(root.join("file")).expect("the file"), "own content");
    assert_eq!(fs::read_to_string(root.join("link")).expect("the link"), "own content");
}
