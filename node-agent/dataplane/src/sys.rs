//! The bpf(2) commands that aya lacks, or offers for some kinds of programs only: links, pins, and maps read many entries
//! at a time.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// Kinds of attachment, by the kernel's numbers (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AttachType {
    Connect4 = 10,
    Connect6 = 11,
    Sendmsg4 = 14,
    Sendmsg6 = 15,
    Recvmsg4 = 19,
    Recvmsg6 = 20,
    Getpeername4 = 29,
    Getpeername6 = 30,
    Xdp = 37,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// What a link ties a program to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    Interface(u32),
    Cgroup(BorrowedFd<'a>),
}

#[derive(Default)]
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u64,
    revision: u64,
}

#[derive(Default)]
#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[derive(Default)]
#[repr(C)]
struct LinkDetach {
    link: u32,
}

#[derive(Default)]
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
    directory: u32,
    reserved: u32,
}

#[derive(Default)]
#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Default)]
#[repr(C)]
struct Batch {
    /// Where to go on from, null for the beginning, and where that came to: positions are the kernel's own affair.
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    /// Room, and then what was found.
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[derive(Default)]
#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

/// `struct bpf_link_info`, as far as cgroup, tcx and XDP links use it.
#[derive(Default)]
#[repr(C)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    reserved: u32,
    /// A cgroup's number, or an interface's index in the lower half.
    target: u64,
    rest: [u64; 8],
}

/// What a link is tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) id: u32,
    pub(crate) program: u32,
    target: u64,
}

impl LinkInfo {
    /// Zero when the interface is gone.
    pub(crate) fn interface(self) -> u32 {
        self.target as u32
    }

    /// The inode number of the cgroup's directory.
    pub(crate) fn cgroup(self) -> u64 {
        self.target
    }
}

pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    target: Target<'_>,
    attach_type: AttachType,
    flags: u32,
) -> io::Result<OwnedFd> {
    let target = match target {
        Target::Interface(index) => index,
        Target::Cgroup(directory) => number(directory),
    };
    let mut attributes = LinkCreate {
        program: number(program),
        target,
        attach_type: attach_type as u32,
        flags,
        ..LinkCreate::default()
    };
    descriptor(bpf(LINK_CREATE, &mut attributes)?)
}

/// Exchanges the program of a link, atomically for packets and sockets. `ENOLINK` when what it was tied to is gone.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkUpdate { link: number(link), program: number(program), ..LinkUpdate::default() };
    bpf(LINK_UPDATE, &mut attributes).map(drop)
}

/// The program runs no more when this returns. A link that is tied to nothing any more is as good as detached.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    match bpf(LINK_DETACH, &mut LinkDetach { link: number(link) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        outcome => outcome.map(drop),
    }
}

pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let mut attributes = Info {
        fd: number(link),
        length: size_of::<RawLinkInfo>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(LinkInfo { id: info.id, program: info.program, target: info.target })
}

pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes =
        Object { path: path.as_ptr().expose_provenance() as u64, fd: number(object), ..Object::default() };
    bpf(OBJ_PIN, &mut attributes).map(drop)
}

/// Opens what is pinned at a path.
pub(crate) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Object { path: path.as_ptr().expose_provenance() as u64, ..Object::default() };
    descriptor(bpf(OBJ_GET, &mut attributes)?)
}

/// Removes an element of a hash map, and returns what it was at that instant. None if there is none.
pub(crate) fn take<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let mut attributes = Element {
        map: number(map),
        key: (&raw const *key).expose_provenance() as u64,
        value: value.as_mut_ptr().expose_provenance() as u64,
        ..Element::default()
    };
    match bpf(MAP_LOOKUP_AND_DELETE_ELEM, &mut attributes) {
        // SAFETY: the kernel has written the value, and any bytes are one.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How far the reading of a hash map got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    Start,
    At(u32),
    End,
}

/// Appends entries of a hash map to `keys` and `values`, which are equally long, as far as their capacity goes. `ENOSPC` if
/// that has no room for the next bucket.
pub(crate) fn lookup_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    from: Position,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
) -> io::Result<Position> {
    let start = match from {
        Position::Start => None,
        Position::At(place) => Some(place),
        Position::End => return Ok(Position::End),
    };
    let mut to = 0_u32;
    let room = (keys.capacity() - keys.len()).min(values.capacity() - values.len());
    let mut attributes = Batch {
        from: start.as_ref().map_or(0, |place| (&raw const *place).expose_provenance() as u64),
        to: (&raw mut to).expose_provenance() as u64,
        keys: keys.spare_capacity_mut().as_mut_ptr().expose_provenance() as u64,
        values: values.spare_capacity_mut().as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(room).unwrap_or(u32::MAX),
        map: number(map),
        ..Batch::default()
    };
    let is_end = match bpf(MAP_LOOKUP_BATCH, &mut attributes) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    let found = (attributes.count as usize).min(room);
    // SAFETY: the kernel has written that many of both beyond their lengths, and any bytes are a key or a value.
    unsafe {
        keys.set_len(keys.len() + found);
        values.set_len(values.len() + found);
    }
    Ok(if is_end { Position::End } else { Position::At(to) })
}

/// Returns when no program that ran at the call is still running.
pub(crate) fn wait_for_readers() -> io::Result<()> {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: a system call without pointers.
    let code = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // Descriptors are never negative.
    fd.as_fd().as_raw_fd().unsigned_abs()
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are a prefix of the kernel's union for this command, of the given size, and whatever they
    // point to outlives the call.
    let code = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(code) }
}

fn descriptor(code: libc::c_long) -> io::Result<OwnedFd> {
    let fd = libc::c_int::try_from(code).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
