//! Layers of images: whatever the entries are, and however the archive is damaged, nothing outside the directory is touched,
//! and what comes of it stays within the limits.
//!
//! Made of the sources themselves: the crate around them takes minutes to build.

#![no_main]

#[expect(dead_code, reason = "what is wrong with an entry is for the node to say")]
#[path = "../../../node-agent/runtime/src/images/entries.rs"]
mod entries;
#[path = "../../../node-agent/runtime/src/images/limits.rs"]
mod limits;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use limits::{Gauge, Gauged, LayerLimits};
use tar::EntryType;

const LIMITS: LayerLimits = LayerLimits { bytes: 256 * 1024, entries: 32 };
/// Few, so that entries meet.
const PARTS: &[&str] =
    &["a", "b", "c", "..", ".", "", "outside", ".wh.a", ".wh..wh..opq", ".wh.", ".wh...", "file"];
const KINDS: &[EntryType] = &[
    EntryType::Regular,
    EntryType::Directory,
    EntryType::Symlink,
    EntryType::Link,
    EntryType::Fifo,
    EntryType::Char,
    EntryType::GNUSparse,
    EntryType::GNULongName,
    EntryType::GNULongLink,
    EntryType::XHeader,
    EntryType::XGlobalHeader,
    EntryType::Continuous,
];
const DEEPEST: usize = 4;

/// The target's own directory, with a neighbour that is none of a layer's business.
static TOP: LazyLock<PathBuf> = LazyLock::new(|| {
    let top = std::env::temp_dir().join(format!("weir-fuzz-layers-{}", std::process::id()));
    fs::create_dir_all(top.join("outside")).expect("a directory");
    fs::write(top.join("outside/file"), "untouched").expect("a file");
    top
});

#[derive(Debug)]
struct Name(String);

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        if input.ratio(1, 8)? {
            return Ok(Self(TOP.join("outside").display().to_string()));
        }
        let parts = (0..input.int_in_range(1..=DEEPEST)?).map(|_| input.choose(PARTS).copied());
        let path = parts.collect::<Result<Vec<_>>>()?.join("/");
        Ok(Self(if bool::arbitrary(input)? { format!("/{path}") } else { path }))
    }
}

#[derive(Debug, Arbitrary)]
struct Entry {
    kind: u8,
    name: Name,
    target: Name,
    mode: u16,
    size: u16,
    pax: bool,
}

#[derive(Debug, Arbitrary)]
struct Layer {
    entries: Vec<Entry>,
    /// Bytes changed, whose header's sum is made right again.
    damage: Vec<(u16, u8)>,
}

impl Layer {
    fn bytes(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for entry in &self.entries {
            let kind = KINDS[usize::from(entry.kind) % KINDS.len()];
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(u32::from(entry.mode));
            let (uid, gid) = (0, 0);
            header.set_uid(uid);
            header.set_gid(gid);
            header.set_mtime(0);
            let old = header.as_old_mut();
            copy(&mut old.name, &entry.name.0);
            copy(&mut old.linkname, &entry.target.0);
            let content = match kind {
                EntryType::XHeader if entry.pax => record("path", &entry.target.0),
                EntryType::XHeader => record("SCHILY.xattr.user.x", &entry.target.0),
                EntryType::GNULongName | EntryType::GNULongLink => entry.target.0.clone().into_bytes(),
                _ => vec![b'x'; usize::from(entry.size)],
            };
            header.set_size(content.len() as u64);
            header.set_cksum();
            archive.extend(header.as_bytes());
            archive.extend(&content);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
        for (at, byte) in &self.damage {
            let at = usize::from(*at);
            if at >= archive.len() {
                continue;
            }
            archive[at] = *byte;
            let header = &mut archive[at / 512 * 512..at / 512 * 512 + 512];
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        archive
    }
}

fn copy(to: &mut [u8], from: &str) {
    let length = from.len().min(to.len());
    to[..length].copy_from_slice(&from.as_bytes()[..length]);
}

/// `LENGTH KEY=VALUE\n`, the length's own digits included.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = if rest + 2 > 99 { 3 } else { 2 };
    format!("{} {key}={value}\n", rest + digits).into_bytes()
}

fuzz_target!(|layer: Layer| {
    let directory = TOP.join("layer");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).expect("a directory");
    let before = picture();
    let gauge = Gauge::new(LIMITS);
    let outcome = entries::unpack(&mut Gauged::new(&*layer.bytes(), &gauge), &directory, &gauge);
    assert_eq!(picture(), before, "{outcome:?}");
    assert!(outcome.is_err() || gauge.exceeded().is_none());
    let (files, bytes) = size(&directory);
    assert!(bytes <= LIMITS.bytes, "{bytes} bytes");
    // Each entry makes itself and the directories that lead there; long names have as many parts as fit.
    assert!(files <= LIMITS.entries * 64, "{files} files");
});

/// Everything but the layer's own directory, in every detail that unpacking could change.
fn picture() -> Vec<String> {
    let file = TOP.join("outside/file");
    let mut names: Vec<String> = [TOP.as_path(), &TOP.join("outside")]
        .into_iter()
        .flat_map(|directory| fs::read_dir(directory).expect("a directory").flatten())
        .map(|entry| entry.path().display().to_string())
        .collect();
    names.sort();
    for path in [&file, &TOP.join("outside")] {
        let metadata = fs::symlink_metadata(path).expect("what was there");
        names.push(format!(
            "{:o} {} {} {} {} {}",
            metadata.mode(),
            metadata.nlink(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec()
        ));
    }
    names.push(fs::read_to_string(file).expect("what was there"));
    names
}

fn size(directory: &Path) -> (u64, u64) {
    let mut found = (0, 0);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let below = if metadata.is_dir() { size(&entry.path()) } else { (0, 0) };
        let own = if metadata.is_file() && metadata.nlink() == 1 { metadata.len() } else { 0 };
        found = (found.0 + 1 + below.0, found.1 + own + below.1);
    }
    found
}
