//! Load balancing at the socket: the backend is chosen when a process connects or sends, and packets need nothing more.
//!
//! An IPv6 socket that connects to a mapped IPv4 address comes by `connect6`; since addresses in keys are mapped, too,
//! both families share everything but the access to the kernel's fields.

use core::ptr;

use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_coarse_ns, bpf_set_retval};
use weir_ebpf_common::{
    Address, Counter, DropReason, Frontend, Peer, Service, ServiceId, Slot, SocketKey, limits, protocol,
};

use crate::maps::{self, SOCKET_FORWARD, SOCKET_REVERSE};
use crate::service;

/// The call goes on.
const PROCEED: i32 = 1;
/// The call fails, with the error set before.
const REFUSE: i32 = 0;

const ECONNREFUSED: i32 = 111;
const SECOND: u64 = 1_000_000_000;

/// The address that a process gave, or is to be given.
pub(crate) struct SocketAddress<const IS_V6: bool> {
    ctx: *mut bpf_sock_addr,
}

impl<const IS_V6: bool> SocketAddress<IS_V6> {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut bpf_sock_addr) -> Self {
        Self { ctx }
    }

    /// All accesses are volatile: the verifier knows the fields by their width, which the compiler must not change.
    #[inline(always)]
    fn address(&self) -> Address {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            if IS_V6 {
                let words = &raw const (*self.ctx).user_ip6;
                let word = |index| ptr::read_volatile(words.cast::<u32>().add(index)).to_ne_bytes();
                let ([a, b, c, d], [e, f, g, h]) = (word(0), word(1));
                let ([i, j, k, l], [m, n, o, p]) = (word(2), word(3));
                Address::new([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
            } else {
                Address::v4(ptr::read_volatile(&raw const (*self.ctx).user_ip4).to_ne_bytes())
            }
        }
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        // SAFETY: as above. The port is in network order in the field's first two bytes.
        u16::from_be(unsafe { ptr::read_volatile(&raw const (*self.ctx).user_port) } as u16)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(&raw const (*self.ctx).protocol) as u8 }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_get_socket_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn set(&self, address: Address, port: u16) {
        // SAFETY: as above; these fields may be written.
        unsafe {
            if IS_V6 {
                let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
                let words = (&raw mut (*self.ctx).user_ip6).cast::<u32>();
                ptr::write_volatile(words, u32::from_ne_bytes([a, b, c, d]));
                ptr::write_volatile(words.add(1), u32::from_ne_bytes([e, f, g, h]));
                ptr::write_volatile(words.add(2), u32::from_ne_bytes([i, j, k, l]));
                ptr::write_volatile(words.add(3), u32::from_ne_bytes([m, n, o, p]));
            } else {
                let address = u32::from_ne_bytes(address.low());
                ptr::write_volatile(&raw mut (*self.ctx).user_ip4, address);
            }
            ptr::write_volatile(&raw mut (*self.ctx).user_port, u32::from(port.to_be()));
        }
    }
}

/// `connect`: the socket keeps its backend for good.
#[inline(always)]
pub(crate) fn connect<const IS_V6: bool>(socket: &SocketAddress<IS_V6>) -> i32 {
    let (address, port, protocol) = (socket.address(), socket.port(), socket.protocol());
    if !balances(protocol) {
        return PROCEED;
    }
    match service::pick(&Frontend::new(address, port, protocol)) {
        Ok(Some((service, slot))) => {
            maps::count(Counter::SocketConnects);
            remember_frontend(socket.cookie(), protocol, &service, &slot, address, port, now());
            socket.set(slot.address(), slot.port());
            PROCEED
        }
        Ok(None) => PROCEED,
        Err(reason) => refuse(reason),
    }
}

/// A datagram of a socket that is not connected. Datagrams to the same service go to the same backend while they keep
/// coming, as protocols over UDP that span several of them expect.
#[inline(always)]
pub(crate) fn send<const IS_V6: bool>(socket: &SocketAddress<IS_V6>) -> i32 {
    let (address, port, protocol) = (socket.address(), socket.port(), socket.protocol());
    if !balances(protocol) {
        return PROCEED;
    }
    let (service, slot) = match service::pick(&Frontend::new(address, port, protocol)) {
        Ok(Some(picked)) => picked,
        Ok(None) => return PROCEED,
        Err(reason) => return refuse(reason),
    };
    maps::count(Counter::SocketSends);
    let (cookie, now) = (socket.cookie(), now());
    let key = SocketKey::new(cookie, protocol, address, port);
    if let Some(backend) = recent_backend(&key, service.id(), now) {
        socket.set(backend.address(), backend.port());
        return PROCEED;
    }
    let backend = Peer::new(service.id(), slot.address(), slot.port(), now);
    // Not remembering costs stickiness only.
    let _ = SOCKET_FORWARD.insert(&key, backend, u64::from(BPF_ANY));
    remember_frontend(cookie, protocol, &service, &slot, address, port, now);
    socket.set(slot.address(), slot.port());
    PROCEED
}

/// `recvmsg` and `getpeername`: shows the process the frontend that it asked for instead of the backend.
#[inline(always)]
pub(crate) fn restore<const IS_V6: bool>(socket: &SocketAddress<IS_V6>) -> i32 {
    let protocol = socket.protocol();
    if balances(protocol) {
        let key = SocketKey::new(socket.cookie(), protocol, socket.address(), socket.port());
        if let Some(frontend) = SOCKET_REVERSE.get_ptr(&key) {
            // SAFETY: copied at once; see `conntrack::read`.
            let frontend = unsafe { *frontend };
            socket.set(frontend.address(), frontend.port());
        }
    }
    PROCEED
}

/// The backend that the socket's last datagram to this frontend went to, if that was lately.
#[inline(always)]
fn recent_backend(key: &SocketKey, service: ServiceId, now: u64) -> Option<Peer> {
    let entry = SOCKET_FORWARD.get_ptr_mut(key)?;
    // SAFETY: copied at once; see `conntrack::read`.
    let backend = unsafe { *entry };
    let silent = now.saturating_sub(backend.last_seen());
    if backend.service() != service || silent > limits::SOCKET_FLOW_SECONDS * SECOND {
        return None;
    }
    if silent > SECOND {
        // SAFETY: as for `conntrack::touch`.
        unsafe { (*entry).set_last_seen(now) };
    }
    Some(backend)
}

#[inline(always)]
fn remember_frontend(
    cookie: u64,
    protocol: u8,
    service: &Service,
    slot: &Slot,
    address: Address,
    port: u16,
    now: u64,
) {
    let key = SocketKey::new(cookie, protocol, slot.address(), slot.port());
    let frontend = Peer::new(service.id(), address, port, now);
    // Not remembering shows the process the backend's address instead.
    let _ = SOCKET_REVERSE.insert(&key, frontend, u64::from(BPF_ANY));
}

/// Refused as a closed port would be.
#[inline(always)]
fn refuse(reason: DropReason) -> i32 {
    maps::count_drop(reason);
    // SAFETY: a plain call.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

#[inline(always)]
fn balances(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a plain call.
    unsafe { bpf_ktime_get_coarse_ns() }
}
