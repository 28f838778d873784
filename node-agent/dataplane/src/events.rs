//! Packets that were dropped, one by one.

use std::net::SocketAddr;

use aya::maps::{Map, MapData, MapError, RingBuf};
use weir_ebpf_common::{Address, DropEvent, DropReason, Hook};

use crate::maps::pin_path;
use crate::{Dataplane, Error, Result};

/// A dropped packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// Which program dropped it; `?` for one that this agent does not know.
    pub hook: &'static str,
    /// Why; `?` likewise.
    pub reason: &'static str,
    pub ifindex: u32,
    /// Bytes, from the Ethernet header on.
    pub length: u32,
    /// As the packet came in; all unspecified if it could not be read.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: u8,
}

impl Dataplane {
    /// The drops since the last call, oldest first. While nobody calls, the ring fills and further drops are counted only.
    pub fn take_drops(&mut self) -> Result<Vec<Dropped>> {
        let failed = |source: MapError| Error::Map { action: "read", map: "EVENTS", source };
        let map = MapData::from_pin(pin_path(&self.bpffs, "EVENTS"))
            .and_then(Map::from_map_data)
            .map_err(failed)?;
        let mut ring = RingBuf::try_from(map).map_err(failed)?;
        let mut drops = Vec::new();
        while let Some(bytes) = ring.next() {
            // A record of another length is another program's.
            drops.extend(DropEvent::from_bytes(&bytes).map(|event| dropped(&event)));
        }
        Ok(drops)
    }
}

fn dropped(event: &DropEvent) -> Dropped {
    let tuple = event.tuple();
    let socket = |address: Address, port| SocketAddr::new(address.ip(), port);
    Dropped {
        time: event.time(),
        hook: event.hook().map_or("?", Hook::name),
        reason: event.reason().map_or("?", DropReason::name),
        ifindex: event.ifindex(),
        length: event.length(),
        source: socket(tuple.source(), tuple.source_port()),
        destination: socket(tuple.destination(), tuple.destination_port()),
        protocol: tuple.protocol(),
    }
}
