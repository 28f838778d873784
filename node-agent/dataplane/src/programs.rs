//! Loading the programs, and the links that keep them attached.
//!
//! Programs and links are pinned, so they outlive the agent. A link's program is exchanged in place: each packet and each
//! call sees the old program or the new one, and neither misses one nor sees both.
//!
//! The order when programs are exchanged: clear the build number in `NODE`, pin the new programs, update the links, set
//! the build number. Killed in between, the next agent finds no build number and does it all again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use nix::errno::Errno;
use tracing::debug;

use crate::config::{Config, XdpMode};
use crate::maps::{MAPS, pin_path};
use crate::sys::{self, AttachType, Target};
use crate::{Error, Result};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Cgroup(AttachType),
    Uplink(AttachType),
    Pod(AttachType),
}

pub(crate) const PROGRAMS: [(&str, Hook); 13] = [
    ("connect4", Hook::Cgroup(AttachType::Connect4)),
    ("connect6", Hook::Cgroup(AttachType::Connect6)),
    ("sendmsg4", Hook::Cgroup(AttachType::Sendmsg4)),
    ("sendmsg6", Hook::Cgroup(AttachType::Sendmsg6)),
    ("recvmsg4", Hook::Cgroup(AttachType::Recvmsg4)),
    ("recvmsg6", Hook::Cgroup(AttachType::Recvmsg6)),
    ("getpeername4", Hook::Cgroup(AttachType::Getpeername4)),
    ("getpeername6", Hook::Cgroup(AttachType::Getpeername6)),
    ("from_pod", Hook::Pod(AttachType::TcxIngress)),
    ("to_pod", Hook::Pod(AttachType::TcxEgress)),
    ("from_uplink", Hook::Uplink(AttachType::TcxIngress)),
    ("to_uplink", Hook::Uplink(AttachType::TcxEgress)),
    ("uplink_xdp", Hook::Uplink(AttachType::Xdp)),
];

/// In the driver, or in the stack: `XDP_FLAGS_DRV_MODE`, `XDP_FLAGS_SKB_MODE`.
const XDP_NATIVE: u32 = 1 << 2;
const XDP_GENERIC: u32 = 1 << 1;

pub(crate) fn programs_directory(bpffs: &Path) -> PathBuf {
    bpffs.join("programs")
}

pub(crate) fn links_directory(bpffs: &Path) -> PathBuf {
    bpffs.join("links")
}

/// The link of a program on a pod's interface is called after both.
fn pod_link(bpffs: &Path, program: &str, ifindex: u32) -> PathBuf {
    links_directory(bpffs).join(format!("{program}-{ifindex}"))
}

/// The interface in the name of a pod's link.
pub(crate) fn pod_of_link(name: &str) -> Option<u32> {
    name.rsplit_once('-').and_then(|(_, ifindex)| ifindex.parse().ok())
}

#[derive(Debug)]
pub(crate) struct Programs {
    descriptors: BTreeMap<&'static str, OwnedFd>,
}

impl Programs {
    /// Makes the maps that are not pinned yet and loads the programs, without attaching any.
    pub(crate) fn load(object: &[u8], config: &Config) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for spec in &MAPS {
            loader.map_pin_path(spec.name, pin_path(&config.bpffs, spec.name));
            if let Some(size) = (spec.size)(&config.sizes) {
                loader.map_max_entries(spec.name, size);
            }
        }
        let mut object = loader.load(object).map_err(|source| Error::Load { source: Box::new(source) })?;
        let descriptors = PROGRAMS
            .into_iter()
            .map(|(name, _)| Ok((name, load_program(&mut object, name)?)))
            .collect::<Result<_>>()?;
        Ok(Self { descriptors })
    }

    /// The programs of an earlier agent, if all are pinned.
    pub(crate) fn adopt(bpffs: &Path) -> Option<Self> {
        let directory = programs_directory(bpffs);
        let open = |(name, _)| Some((name, sys::get(&directory.join(name)).ok()?));
        Some(Self { descriptors: PROGRAMS.into_iter().map(open).collect::<Option<_>>()? })
    }

    /// Pins the programs in place of those of an earlier agent.
    pub(crate) fn pin(&self, bpffs: &Path) -> Result<()> {
        for (name, program) in &self.descriptors {
            let path = programs_directory(bpffs).join(name);
            remove_pin(&path)?;
            sys::pin(program.as_fd(), &path).map_err(|source| Error::Pin { action: "pin", path, source })?;
        }
        Ok(())
    }

    /// Attaches what belongs to the node, and puts these programs behind the links of pods that are there already.
    /// Returns the pods' interfaces that are gone.
    pub(crate) fn attach_node(&self, config: &Config) -> Result<Vec<u32>> {
        let cgroup = File::open(&config.cgroup)
            .map_err(|source| Error::Cgroup { path: config.cgroup.clone(), source })?;
        let inode =
            cgroup.metadata().map_err(|source| Error::Cgroup { path: config.cgroup.clone(), source })?.ino();
        for (name, hook) in PROGRAMS {
            let path = links_directory(&config.bpffs).join(name);
            match hook {
                Hook::Cgroup(attach_type) => {
                    let is_ours = |info: sys::LinkInfo| info.cgroup() == inode;
                    self.attach(name, &path, Target::Cgroup(cgroup.as_fd()), attach_type, 0, is_ours)?;
                }
                Hook::Uplink(attach_type) => {
                    let flags = xdp_flags(attach_type, config.xdp);
                    let Some(flags) = flags else {
                        remove_link(&path)?;
                        continue;
                    };
                    let is_ours = |info: sys::LinkInfo| info.interface() == config.uplink;
                    self.attach(name, &path, Target::Interface(config.uplink), attach_type, flags, is_ours)?;
                }
                Hook::Pod(_) => {}
            }
        }
        self.update_pods(&config.bpffs)
    }

    fn update_pods(&self, bpffs: &Path) -> Result<Vec<u32>> {
        let mut gone = Vec::new();
        for ifindex in link_names(bpffs)?.iter().filter_map(|name| pod_of_link(name)) {
            for (name, hook) in PROGRAMS {
                let path = pod_link(bpffs, name, ifindex);
                if matches!(hook, Hook::Pod(_))
                    && !self.update(name, &path, |info| info.interface() == ifindex)?
                {
                    gone.push(ifindex);
                }
            }
        }
        gone.sort_unstable();
        gone.dedup();
        Ok(gone)
    }

    /// Attaches the programs of a pod's interface; again is no change.
    pub(crate) fn attach_pod(&self, bpffs: &Path, ifindex: u32) -> Result<()> {
        for (name, hook) in PROGRAMS {
            if let Hook::Pod(attach_type) = hook {
                let path = pod_link(bpffs, name, ifindex);
                let is_ours = |info: sys::LinkInfo| info.interface() == ifindex;
                self.attach(name, &path, Target::Interface(ifindex), attach_type, 0, is_ours)?;
            }
        }
        Ok(())
    }

    /// The link at `path` runs this program and is tied to the right thing afterwards.
    fn attach(
        &self,
        name: &'static str,
        path: &Path,
        target: Target<'_>,
        attach_type: AttachType,
        flags: u32,
        is_ours: impl Fn(sys::LinkInfo) -> bool,
    ) -> Result<()> {
        if self.update(name, path, is_ours)? {
            return Ok(());
        }
        let link = sys::link_create(self.descriptor(name), target, attach_type, flags)
            .map_err(|source| Error::Attach { program: name, source })?;
        sys::pin(link.as_fd(), path).map_err(|source| Error::Pin {
            action: "pin",
            path: path.to_owned(),
            source,
        })
    }

    /// Exchanges the program of the link at `path`. False, and no link any more, if there is none that is still tied to
    /// the right thing.
    fn update(
        &self,
        name: &'static str,
        path: &Path,
        is_ours: impl Fn(sys::LinkInfo) -> bool,
    ) -> Result<bool> {
        let failed = |source| Error::Pin { action: "update", path: path.to_owned(), source };
        let link = match sys::get(path) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(failed(source)),
        };
        if is_ours(sys::link_info(link.as_fd()).map_err(failed)?) {
            match sys::link_update(link.as_fd(), self.descriptor(name)) {
                Ok(()) => return Ok(true),
                Err(error) if error.raw_os_error() == Some(Errno::ENOLINK as i32) => {}
                Err(source) => return Err(failed(source)),
            }
        }
        debug!(link = %path.display(), "the link is tied to nothing, or to something else");
        remove_link(path)?;
        Ok(false)
    }

    /// Every program has its descriptor: both constructors go through `PROGRAMS`, as all callers do.
    fn descriptor(&self, name: &'static str) -> BorrowedFd<'_> {
        self.descriptors[name].as_fd()
    }
}

/// `None` when the program is not to be attached.
fn xdp_flags(attach_type: AttachType, mode: XdpMode) -> Option<u32> {
    match (attach_type, mode) {
        (AttachType::Xdp, XdpMode::Off) => None,
        (AttachType::Xdp, XdpMode::Native | XdpMode::NativeRedirect) => Some(XDP_NATIVE),
        (AttachType::Xdp, XdpMode::Generic) => Some(XDP_GENERIC),
        _ => Some(0),
    }
}

fn load_program(object: &mut Ebpf, name: &'static str) -> Result<OwnedFd> {
    let program = object.program_mut(name).ok_or(Error::MissingProgram { name })?;
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => return Err(Error::MissingProgram { name }),
    }
    .map_err(|source| Error::Program { name, source: Box::new(source) })?;
    let descriptor = program.fd().map_err(|source| Error::Program { name, source: Box::new(source) })?;
    descriptor.as_fd().try_clone_to_owned().map_err(|source| Error::Attach { program: name, source })
}

pub(crate) fn detach_pod(bpffs: &Path, ifindex: u32) -> Result<()> {
    PROGRAMS
        .into_iter()
        .filter(|(_, hook)| matches!(hook, Hook::Pod(_)))
        .try_for_each(|(name, _)| remove_link(&pod_link(bpffs, name, ifindex)))
}

/// Names of the pinned links, sorted.
pub(crate) fn link_names(bpffs: &Path) -> Result<Vec<String>> {
    let path = links_directory(bpffs);
    let list = || -> io::Result<Vec<String>> {
        fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = list().map_err(|source| Error::Pin { action: "list", path: path.clone(), source })?;
    names.sort_unstable();
    Ok(names)
}

/// Detaches a link and removes its pin. Removing the pin alone would detach it as well, but at the kernel's leisure.
pub(crate) fn remove_link(path: &Path) -> Result<()> {
    let failed = |source| Error::Pin { action: "detach", path: path.to_owned(), source };
    match sys::get(path) {
        Ok(link) => sys::link_detach(link.as_fd()).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(source)),
    }
    remove_pin(path)
}

/// One that is not there is as good as removed.
pub(crate) fn remove_pin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pin { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
