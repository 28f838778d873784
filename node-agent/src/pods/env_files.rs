//! Environment variables from files (`fileKeyRef`): files that an earlier container wrote into an emptyDir, one
//! `NAME=value` a line.
//!
//! As Kubernetes reads them: white space around a line and around `=` does not count, nor do blank lines and lines
//! beginning with `#`; a backslash at the end goes on with the next line after a space.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use weir_proto::core::v1::{EnvVar, FileKeySelector, Pod};

use super::env::Files;
use super::volumes;

/// What a file may hold at most, in bytes.
const LONGEST: u64 = 64 << 10;

/// The files that a container's variables name.
pub(super) fn of(pod: &Pod, variables: &[EnvVar], pod_dir: &Path) -> Files {
    let references =
        variables.iter().filter_map(|variable| variable.value_from.as_ref()?.file_key_ref.as_ref());
    let mut files = Files::new();
    for FileKeySelector { volume_name, path, .. } in references {
        files.entry((volume_name.clone(), path.clone())).or_insert_with(|| {
            if volumes::find(pod, volume_name).is_none_or(|volume| volume.empty_dir.is_none()) {
                return Err("the volume is not an emptyDir of the pod".to_owned());
            }
            let volume = volumes::path(pod, pod_dir, volume_name).map_err(|error| error.to_string())?;
            read(&volume, path)
        });
    }
    files
}

/// Reads the variables of the file at `path` in a volume, which containers write to; `None` when there is no such file.
fn read(volume: &Path, path: &str) -> Result<Option<BTreeMap<String, String>>, String> {
    let root = match File::open(volume) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        root => root.map_err(|error| error.to_string())?,
    };
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    // Not blocking: a container may put a FIFO there.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat2(&root, path, OpenHow::new().flags(flags).resolve(resolve)) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(Errno::EXDEV) => return Err("a symbolic link in it leads out of the volume".to_owned()),
        file => File::from(file.map_err(|errno| io::Error::from(errno).to_string())?),
    };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("it is not a file".to_owned());
    }
    let mut text = String::new();
    let read = file.take(LONGEST + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if read as u64 > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    parse(&text).map(Some)
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut variables = BTreeMap::new();
    let mut lines = text.lines().map(str::trim).enumerate();
    while let Some((number, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut whole = line.to_owned();
        while let Some(begun) = whole.strip_suffix('\\') {
            let begun = begun.trim_end().to_owned();
            match lines.next() {
                Some((_, more)) if !more.is_empty() && !more.starts_with('#') => {
                    whole = format!("{begun} {more}");
                }
                _ => return Err(format!("line {} is not continued", number + 1)),
            }
        }
        let (name, value) =
            whole.split_once('=').ok_or_else(|| format!("line {} is not NAME=value", number + 1))?;
        let name = name.trim_end();
        if name.is_empty() {
            return Err(format!("line {} has no name before \"=\"", number + 1));
        }
        variables.insert(name.to_owned(), value.trim_start().to_owned());
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn lines_are_read_as_kubernetes_reads_them() {
        let text = "\n# comment\n  A = 1 \nB=two words\nC=a \\\n  b\\\nc\nEMPTY=\nEQ=a=b\n";
        let expected = [("A", "1"), ("B", "two words"), ("C", "a b c"), ("EMPTY", ""), ("EQ", "a=b")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parse(text), Ok(expected.into()));
        for (text, problem) in [
            ("A", "line 1 is not NAME=value"),
            ("=a", "line 1 has no name before \"=\""),
            ("A=1\\", "line 1 is not continued"),
            ("X=1\nA=1\\\n\nB=2", "line 2 is not continued"),
        ] {
            assert_eq!(parse(text), Err(problem.to_owned()), "{text}");
        }
    }

    #[test]
    fn files_are_read_in_the_volume_only() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("file"), "A=1").expect("written");
        symlink("/etc/passwd", dir.path().join("out")).expect("a link");
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        assert_eq!(read(dir.path(), "file"), Ok(Some(BTreeMap::from([("A".to_owned(), "1".to_owned())]))));
        assert_eq!(read(dir.path(), "none"), Ok(None));
        assert!(read(dir.path(), "out").is_err() && read(dir.path(), "fifo").is_err());
        fs::write(dir.path().join("file"), "A".repeat(100_000)).expect("written");
        assert!(read(dir.path(), "file").is_err_and(|error| error.contains("longer than")));
    }
}
