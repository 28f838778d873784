//! Generic receive offload of a veth end.
//!
//! A veth end takes frames from XDP redirect only where its driver polls (NAPI), and it polls where an XDP program
//! is attached or GRO is on. GRO on the pod's end lets the uplink's XDP program hand frames straight to a pod.

use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::Error;

// linux/ethtool.h
const ETHTOOL_SGRO: u32 = 0x2c;

#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Turns GRO of `link` on, in the network namespace of the calling thread.
pub(crate) fn enable_gro(link: &str) -> Result<(), Error> {
    set(link, ETHTOOL_SGRO, 1).map_err(|source| Error::Offload { link: link.to_owned(), source })
}

fn set(link: &str, cmd: u32, data: u32) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = EthtoolValue { cmd, data };
    let mut name = [0; libc::IFNAMSIZ];
    if link.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(link.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // SAFETY: `request` is a valid ifreq whose data points at `value`, which is what SIOCETHTOOL reads for
    // ETHTOOL_SGRO; both outlive the call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
