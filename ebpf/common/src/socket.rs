//! Sockets whose destination was translated: the maps `SOCKET_FORWARD` and `SOCKET_REVERSE`.

use crate::{Address, ServiceId, layout};

/// A socket and an address that it sends to or hears from.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    cookie: [u8; 8],
    address: Address,
    port: [u8; 2],
    protocol: [u8; 1],
    reserved: [u8; 5],
}
layout!(SocketKey, 32);

impl SocketKey {
    /// `cookie` is the kernel's number of the socket, never given twice while the machine runs.
    #[inline(always)]
    pub fn new(cookie: u64, protocol: u8, address: Address, port: u16) -> Self {
        Self {
            cookie: cookie.to_be_bytes(),
            address,
            port: port.to_be_bytes(),
            protocol: [protocol],
            reserved: [0; 5],
        }
    }

    pub fn cookie(&self) -> u64 {
        u64::from_be_bytes(self.cookie)
    }

    pub fn address(&self) -> Address {
        self.address
    }

    pub fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    pub fn protocol(&self) -> u8 {
        self.protocol[0]
    }
}

/// What stands for that address: the backend for a frontend, or the frontend for a backend.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    address: Address,
    last_seen: [u8; 8],
    service: ServiceId,
    port: [u8; 2],
    reserved: [u8; 2],
}
layout!(Peer, 32);

impl Peer {
    #[inline(always)]
    pub fn new(service: ServiceId, address: Address, port: u16, now: u64) -> Self {
        Self { address, last_seen: now.to_be_bytes(), service, port: port.to_be_bytes(), reserved: [0; 2] }
    }

    #[inline(always)]
    pub fn address(&self) -> Address {
        self.address
    }

    #[inline(always)]
    pub fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    #[inline(always)]
    pub fn service(&self) -> ServiceId {
        self.service
    }

    /// When a datagram last went this way, in nanoseconds of the monotonic clock.
    #[inline(always)]
    pub fn last_seen(&self) -> u64 {
        u64::from_be_bytes(self.last_seen)
    }

    #[inline(always)]
    pub fn set_last_seen(&mut self, now: u64) {
        self.last_seen = now.to_be_bytes();
    }
}
