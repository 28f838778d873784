//! `weir cp`: files to and from containers, as a tar stream through a command in the container, which needs `tar` there.
//!
//! What comes out of a container is not trusted: an entry whose path leads out of the destination ends the copy, and links
//! are not made.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::mpsc;
use weir_proto::core::v1::Pod;
use weir_proto::weir::v1::{
    CloseStdin, ExecRequest, SessionInput, SessionOutput, session_input, session_output,
};

use crate::remote;
use crate::session::Session;

/// Pieces that wait between the tar stream and the connection.
const PIECES: usize = 8;
const PIECE: usize = 32 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// FILE here, or [NAMESPACE/]POD:FILE
    source: String,
    /// FILE here, or [NAMESPACE/]POD:FILE
    destination: String,
    /// The container, where the pod has several
    #[arg(long, short)]
    container: Option<String>,
    /// Leave owners and modes as they are there
    #[arg(long)]
    no_preserve: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    There { namespace: Option<String>, pod: String, path: String },
}

/// As kubectl reads it: what has a colon is in a pod, unless it looks like a path.
fn place(text: &str) -> Result<Place> {
    let Some((pod, path)) = text.split_once(':').filter(|(pod, _)| !pod.starts_with(['.', '/'])) else {
        return Ok(Place::Here(text.into()));
    };
    let (namespace, pod) = match pod.split_once('/') {
        Some((namespace, pod)) => (Some(namespace.to_owned()), pod),
        None => (None, pod),
    };
    if pod.is_empty() || pod.contains('/') || path.is_empty() || namespace.as_deref() == Some("") {
        bail!("{text}: want [NAMESPACE/]POD:FILE");
    }
    Ok(Place::There { namespace, pod: pod.to_owned(), path: path.to_owned() })
}

/// A container to copy to or from.
struct Container<'s> {
    session: &'s Session,
    namespace: String,
    pod: String,
    container: String,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    match (place(&options.source)?, place(&options.destination)?) {
        (Place::Here(from), Place::There { namespace, pod, path }) => {
            let to = Container::find(session, namespace, &pod, options).await?;
            to.put(&from, &path, options.no_preserve).await
        }
        (Place::There { namespace, pod, path }, Place::Here(to)) => {
            let from = Container::find(session, namespace, &pod, options).await?;
            from.get(&path, &to).await
        }
        (Place::Here(_), Place::Here(_)) => bail!("one of src or dest must be a remote file specification"),
        (Place::There { .. }, Place::There { .. }) => {
            bail!("one of src or dest must be a local file specification")
        }
    }
}

impl<'s> Container<'s> {
    async fn find(
        session: &'s Session,
        namespace: Option<String>,
        pod: &str,
        options: &Options,
    ) -> Result<Self> {
        let namespace = namespace.unwrap_or_else(|| session.namespace.clone());
        let found = session.client.namespaced::<Pod>(&namespace).get(pod).await?;
        let container = remote::container(session, &found, options.container.as_deref(), false)?;
        Ok(Self { session, namespace, pod: found.meta().name.clone(), container })
    }

    fn request(&self, command: &[&str], stdin: bool) -> ExecRequest {
        ExecRequest {
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            container: self.container.clone(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            stdin,
            stdout: true,
            stderr: true,
            ..ExecRequest::default()
        }
    }

    /// Runs a command with these ends; fails where it does, with what it said.
    async fn run(
        &self,
        request: ExecRequest,
        stdin: Option<mpsc::Receiver<Vec<u8>>>,
        stdout: Option<mpsc::Sender<Vec<u8>>>,
    ) -> Result<()> {
        let what = format!("run {} in pod {}", request.command.join(" "), self.pod);
        let failed = |status| self.session.client.error(&what, status);
        let (inputs, received) = mpsc::channel(PIECES);
        let frames = remote::session::following(session_input::Frame::Exec(request), received);
        let mut outputs = self.session.client.streams().exec(frames).await.map_err(failed)?.into_inner();
        let feeding = async {
            if let Some(mut stdin) = stdin {
                while let Some(piece) = stdin.recv().await {
                    let frame = Some(session_input::Frame::Stdin(piece));
                    if inputs.send(SessionInput { frame }).await.is_err() {
                        break;
                    }
                }
            }
            let _ = inputs
                .send(SessionInput { frame: Some(session_input::Frame::CloseStdin(CloseStdin {})) })
                .await;
            // Open until the command has ended: its end would look like ours.
            std::future::pending::<()>().await;
        };
        let reading = async {
            let mut said = Vec::new();
            loop {
                match outputs.message().await.map_err(failed)?.and_then(|SessionOutput { frame }| frame) {
                    Some(session_output::Frame::Stdout(piece)) => {
                        if let Some(stdout) = &stdout
                            && stdout.send(piece).await.is_err()
                        {
                            // Whoever unpacks has given up, and says why.
                            return Ok(());
                        }
                    }
                    Some(session_output::Frame::Stderr(piece)) if said.len() < PIECE => said.extend(piece),
                    Some(session_output::Frame::Stderr(_)) => {}
                    Some(session_output::Frame::Exit(exit)) if exit.code == 0 => return Ok(()),
                    Some(session_output::Frame::Exit(exit)) => {
                        let said = String::from_utf8_lossy(&said);
                        bail!("{what}: {}: exit code {}", said.trim(), exit.code);
                    }
                    None => bail!("{what}: the connection was lost before the command ended"),
                }
            }
        };
        tokio::select! {
            () = feeding => Ok(()),
            ended = reading => ended,
        }
    }

    /// Into a directory that is there, or under the destination's own name.
    async fn put(&self, from: &Path, to: &str, no_preserve: bool) -> Result<()> {
        let metadata = fs::metadata(from)
            .with_context(|| format!("{} doesn't exist in local filesystem", from.display()))?;
        let trimmed = if to.len() > 1 { to.trim_end_matches('/') } else { to };
        let is_directory = self.run(self.request(&["test", "-d", trimmed], false), None, None).await.is_ok();
        let own = from.canonicalize()?;
        let own = own.file_name().and_then(|name| name.to_str()).context("the source has no name")?;
        let (directory, name) = match trimmed.rsplit_once('/') {
            _ if is_directory => (trimmed, own),
            Some(("", name)) => ("/", name),
            Some((directory, name)) => (directory, name),
            None => (".", trimmed),
        };
        let mut command = vec!["tar", "-xmf", "-"];
        if no_preserve {
            command = vec!["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-"];
        }
        command.extend(["-C", directory]);
        let (pieces, stdin) = mpsc::channel(PIECES);
        let (source, name) = (from.to_owned(), name.to_owned());
        let packing =
            std::thread::spawn(move || pack(&source, &name, metadata.is_dir(), Pieces::new(pieces)));
        let ran = self.run(self.request(&command, true), Some(stdin), None).await;
        let packed = packing.join().map_err(|_| anyhow!("packing failed"))?;
        // Where both failed, the command's words say why the other had nobody to write to.
        ran?;
        packed.with_context(|| format!("read {}", from.display()))
    }

    async fn get(&self, from: &str, to: &Path) -> Result<()> {
        let trimmed = if from.len() > 1 { from.trim_end_matches('/') } else { from };
        let (directory, name) = match trimmed.rsplit_once('/') {
            Some(("", name)) => ("/", name),
            Some((directory, name)) => (directory, name),
            None => (".", trimmed),
        };
        if matches!(name, "" | "." | "..") {
            bail!("{from}: name the file or directory itself");
        }
        // As kubectl: into a directory that is there, or as the destination.
        let to = if to.is_dir() { to.join(name) } else { to.to_owned() };
        let (stdout, pieces) = mpsc::channel(PIECES);
        let (prefix, target) = (PathBuf::from(name), to.clone());
        let unpacking = std::thread::spawn(move || unpack(Unread::new(pieces), &prefix, &target));
        let ran = self
            .run(self.request(&["tar", "-cf", "-", "-C", directory, name], false), None, Some(stdout))
            .await;
        let unpacked = unpacking.join().map_err(|_| anyhow!("unpacking failed"))?;
        ran?;
        for skipped in unpacked? {
            self.session.note(format_args!("warning: skipping link: {skipped}"));
        }
        Ok(())
    }
}

fn pack(source: &Path, name: &str, directory: bool, to: Pieces) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    if directory {
        archive.append_dir_all(name, source)?;
    } else {
        archive.append_file(name, &mut File::open(source)?)?;
    }
    archive.into_inner()?.flush()
}

/// Unpacks what lies at `prefix` in the archive to `target`; returns the links that were not made.
fn unpack(from: impl Read, prefix: &Path, target: &Path) -> Result<Vec<String>> {
    let mut skipped = Vec::new();
    let mut found = false;
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry.context("read the container's tar stream")?;
        let path = entry.path()?.into_owned();
        let inside = path.strip_prefix(prefix).ok().filter(|rest| is_inside(rest));
        let Some(inside) = inside else {
            bail!("tar contents corrupted: {} leads out of {}", path.display(), prefix.display());
        };
        found = true;
        let destination = if inside.as_os_str().is_empty() { target.to_owned() } else { target.join(inside) };
        let kind = entry.header().entry_type();
        let write = || format!("write {}", destination.display());
        if kind.is_dir() {
            fs::create_dir_all(&destination).with_context(write)?;
        } else if kind.is_file() {
            if let Some(parent) = destination.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                fs::create_dir_all(parent).with_context(write)?;
            }
            let mut file = File::create(&destination).with_context(write)?;
            io::copy(&mut entry, &mut file).with_context(write)?;
            set_mode(&file, entry.header().mode().unwrap_or(0o644)).with_context(write)?;
        } else {
            skipped.push(path.display().to_string());
        }
    }
    // To its end: else the command in the container would fail for want of a reader.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    if !found {
        bail!("the container sent nothing");
    }
    Ok(skipped)
}

fn is_inside(path: &Path) -> bool {
    path.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

/// Without the bits that make a program of somebody else's run as its owner.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o777))
}

/// Writes from a thread into the connection.
struct Pieces {
    to: mpsc::Sender<Vec<u8>>,
    begun: Vec<u8>,
}

impl Pieces {
    fn new(to: mpsc::Sender<Vec<u8>>) -> Self {
        Self { to, begun: Vec::new() }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend(bytes);
        if self.begun.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.begun.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.begun);
        self.to.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads in a thread from the connection.
struct Unread {
    from: mpsc::Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Unread {
    fn new(from: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { from, piece: io::Cursor::default() }
    }
}

impl Read for Unread {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.from.blocking_recv() {
                Some(piece) => self.piece = io::Cursor::new(piece),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_here_or_in_a_pod() {
        let there = |namespace: Option<&str>, pod: &str, path: &str| Place::There {
            namespace: namespace.map(str::to_owned),
            pod: pod.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(place("a/b").unwrap(), Place::Here("a/b".into()));
        assert_eq!(place("./a:b").unwrap(), Place::Here("./a:b".into()));
        assert_eq!(place("web:/tmp/x").unwrap(), there(None, "web", "/tmp/x"));
        assert_eq!(place("ns/web:x").unwrap(), there(Some("ns"), "web", "x"));
        for bad in [":x", "web:", "a/b/c:d", "a/:x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_ustar();
            let fields = header.as_old_mut();
            fields.name[..name.len()].copy_from_slice(name.as_bytes());
            if kind.is_symlink() {
                fields.linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            let content = if kind.is_file() { content.as_bytes() } else { b"" };
            header.set_size(content.len() as u64);
            header.set_cksum();
            archive.append(&header, content).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn what_leads_out_of_the_destination_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        use tar::EntryType::{Directory, Regular, Symlink};
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("to");
        let good = archive(&[("d", Directory, ""), ("d/f", Regular, "text"), ("d/l", Symlink, "/etc")]);
        let skipped = unpack(good.as_slice(), Path::new("d"), &target).unwrap();
        assert_eq!(skipped, ["d/l"]);
        assert_eq!(fs::read_to_string(target.join("f")).unwrap(), "text");
        assert_eq!(fs::metadata(target.join("f")).unwrap().permissions().mode() & 0o7777, 0o755);
        for name in ["d/../x", "../x", "/x", "e/x"] {
            let bad = archive(&[(name, Regular, "bad")]);
            let error = unpack(bad.as_slice(), Path::new("d"), &target).map(drop).unwrap_err();
            assert!(error.to_string().contains("leads out"), "{name}: {error}");
        }
        assert!(!scratch.path().join("x").exists());
        // A link is not made, so nothing is written through it.
        let through = archive(&[("d/out", Symlink, ".."), ("d/out/x", Regular, "bad")]);
        unpack(through.as_slice(), Path::new("d"), &target).unwrap();
        assert!(!scratch.path().join("x").exists());
    }
}
