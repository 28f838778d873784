//! Pods and the node itself: the maps `LINKS`, `ENDPOINTS` and `NODE`.

use crate::{Address, Mac, layout};

/// Index of an interface on the node. Key of `LINKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IfIndex {
    index: [u8; 4],
}
layout!(IfIndex, 4);

impl IfIndex {
    #[inline(always)]
    pub const fn new(index: u32) -> Self {
        Self { index: index.to_be_bytes() }
    }

    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be_bytes(self.index)
    }
}

/// Who may send by an interface. Value of `LINKS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    addresses: [Address; 2],
    pod_mac: Mac,
    host_mac: Mac,
    reserved: [u8; 4],
}
layout!(Link, 48);

impl Link {
    /// The pod's IPv4 and IPv6 address; the unspecified address where it has none.
    pub fn new(addresses: [Address; 2], pod_mac: Mac, host_mac: Mac) -> Self {
        Self { addresses, pod_mac, host_mac, reserved: [0; 4] }
    }

    #[inline(always)]
    pub fn addresses(&self) -> [Address; 2] {
        self.addresses
    }

    /// Whether packets from `source` belong here. The unspecified address, which fills the gaps, never does.
    #[inline(always)]
    pub fn owns(&self, source: &Address) -> bool {
        *source != Address::UNSPECIFIED && (self.addresses[0] == *source || self.addresses[1] == *source)
    }

    #[inline(always)]
    pub fn pod_mac(&self) -> Mac {
        self.pod_mac
    }

    #[inline(always)]
    pub fn host_mac(&self) -> Mac {
        self.host_mac
    }
}

/// The way to a pod on this node. Value of `ENDPOINTS`, keyed by the pod's address.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    link: IfIndex,
    pod_mac: Mac,
    host_mac: Mac,
}
layout!(Endpoint, 16);

impl Endpoint {
    pub fn new(link: IfIndex, pod_mac: Mac, host_mac: Mac) -> Self {
        Self { link, pod_mac, host_mac }
    }

    #[inline(always)]
    pub fn link(&self) -> IfIndex {
        self.link
    }

    #[inline(always)]
    pub fn pod_mac(&self) -> Mac {
        self.pod_mac
    }

    #[inline(always)]
    pub fn host_mac(&self) -> Mac {
        self.host_mac
    }
}

/// The node. Sole value of `NODE`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    addresses: [Address; 2],
    uplink: IfIndex,
    redirects: [u8; 1],
    reserved: [u8; 3],
    build: [u8; 8],
}
layout!(Node, 48);

impl Node {
    /// The node's IPv4 and IPv6 address, the unspecified address where it has none; the interface to the others.
    /// `redirects`: XDP sends back out by redirect. `build` names the programs that run, and is zero while they are being
    /// exchanged.
    pub fn new(addresses: [Address; 2], uplink: IfIndex, redirects: bool, build: u64) -> Self {
        Self { addresses, uplink, redirects: [redirects as u8], reserved: [0; 3], build: build.to_be_bytes() }
    }

    #[inline(always)]
    pub fn addresses(&self) -> [Address; 2] {
        self.addresses
    }

    #[inline(always)]
    pub fn v4(&self) -> Address {
        self.addresses[0]
    }

    #[inline(always)]
    pub fn uplink(&self) -> IfIndex {
        self.uplink
    }

    #[inline(always)]
    pub fn redirects(&self) -> bool {
        self.redirects[0] != 0
    }

    pub fn build(&self) -> u64 {
        u64::from_be_bytes(self.build)
    }
}
