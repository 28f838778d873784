//! Services and their tables of backends: the maps `SERVICES`, `SLOTS` and `NAMES`.

use crate::{Address, digest, layout, limits};

/// Number of a service port on this node; also in each of its slots, so that a reader sees when a slot is not its
/// service's any more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId {
    id: [u8; 4],
}
layout!(ServiceId, 4);

impl ServiceId {
    #[inline(always)]
    pub const fn new(id: u32) -> Self {
        Self { id: id.to_be_bytes() }
    }

    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be_bytes(self.id)
    }
}

/// Where clients go. Key of `SERVICES`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frontend {
    address: Address,
    port: [u8; 2],
    protocol: [u8; 1],
    reserved: [u8; 5],
}
layout!(Frontend, 24);

impl Frontend {
    #[inline(always)]
    pub fn new(address: Address, port: u16, protocol: u8) -> Self {
        Self { address, port: port.to_be_bytes(), protocol: [protocol], reserved: [0; 5] }
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
    pub fn protocol(&self) -> u8 {
        self.protocol[0]
    }

    #[inline(always)]
    fn digest(&self) -> [u8; 2] {
        digest::of(&[self.address], &[self.port], self.protocol)
    }
}

/// How the slots of a table are to be read.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// One slot for each backend; any of them will do.
    Random = 1,
}

/// The table of a frontend. Value of `SERVICES`; small, so that a program copies it at once.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    offset: [u8; 4],
    length: [u8; 4],
    id: ServiceId,
    kind: [u8; 1],
    external: [u8; 1],
    /// Of the frontend; see `digest`.
    digest: [u8; 2],
}
layout!(Service, 16);

impl Service {
    /// `external`: clients outside the node may use this frontend, too.
    pub fn new(
        frontend: &Frontend,
        id: ServiceId,
        kind: TableKind,
        (offset, length): (u32, u32),
        external: bool,
    ) -> Self {
        Self {
            offset: offset.to_be_bytes(),
            length: length.to_be_bytes(),
            id,
            kind: [kind as u8],
            external: [external as u8],
            digest: frontend.digest(),
        }
    }

    /// Whether this is what the map holds under a frontend, as far as can be told.
    #[inline(always)]
    pub fn is_of(&self, frontend: &Frontend) -> bool {
        digest::fits(self.digest, frontend.digest())
    }

    /// First slot of the table.
    #[inline(always)]
    pub fn offset(&self) -> u32 {
        u32::from_be_bytes(self.offset)
    }

    /// Slots of the table; none when the service has no backend.
    #[inline(always)]
    pub fn length(&self) -> u32 {
        u32::from_be_bytes(self.length)
    }

    #[inline(always)]
    pub fn id(&self) -> ServiceId {
        self.id
    }

    #[inline(always)]
    pub fn is_external(&self) -> bool {
        self.external[0] != 0
    }
}

/// A backend in a table. Value of `SLOTS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    address: Address,
    port: [u8; 2],
    reserved: [u8; 2],
    service: ServiceId,
}
layout!(Slot, 24);

impl Slot {
    pub fn new(service: ServiceId, address: Address, port: u16) -> Self {
        Self { address, port: port.to_be_bytes(), reserved: [0; 2], service }
    }

    #[inline(always)]
    pub fn address(&self) -> Address {
        self.address
    }

    #[inline(always)]
    pub fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// The service whose table this slot belongs to.
    #[inline(always)]
    pub fn service(&self) -> ServiceId {
        self.service
    }
}

/// `namespace/name:port`, filled up with zeros. Value of `NAMES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceName {
    text: [u8; limits::SERVICE_NAME],
}
layout!(ServiceName, 144);

impl ServiceName {
    /// `None` if the name is too long or holds a zero.
    pub fn new(name: &str) -> Option<Self> {
        let mut text = [0; limits::SERVICE_NAME];
        if name.bytes().any(|byte| byte == 0) {
            return None;
        }
        text.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { text })
    }

    /// `None` if the bytes are no text.
    pub fn as_str(&self) -> Option<&str> {
        let end = self.text.iter().position(|byte| *byte == 0).unwrap_or(self.text.len());
        core::str::from_utf8(&self.text[..end]).ok()
    }
}
