//! Forgetting flows: those whose time is over, and those whose backend is gone.

use std::collections::HashMap;

use nix::time::{ClockId, clock_gettime};
use weir_ebpf_common::{Address, Flow, Peer, ServiceId, SocketKey, State, Tuple, protocol};
use weir_packet::tracking;

use crate::maps::{self, Maps};
use crate::services::Services;
use crate::{Error, Result};

/// Nanoseconds of the clock that the programs use.
pub(crate) fn now() -> Result<u64> {
    let time =
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| Error::Clock { source: errno.into() })?;
    Ok(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

/// All translated flows at this moment; those that come and go meanwhile may be missing.
pub(crate) fn all(maps: &Maps) -> Result<HashMap<Tuple, Flow>> {
    maps.conntrack.iter().collect::<Result<_, _>>().map_err(|source| Error::Map {
        action: "read",
        map: "CONNTRACK",
        source,
    })
}

/// Removes flows that have been silent for too long in both directions. Returns how many entries.
pub(crate) fn collect(maps: &mut Maps) -> Result<usize> {
    let now = now()?;
    let flows = all(maps)?;
    let is_silent = |flow: &Flow| tracking::is_silent(flow, now);
    let mut removed = 0;
    for (arrives, flow) in &flows {
        if is_silent(flow) && flows.get(&flow.peer()).is_none_or(is_silent) {
            maps::remove(&mut maps.conntrack, "CONNTRACK", arrives)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Cuts flows to backends that are gone: UDP at once, since nothing else would ever end them, and of TCP the connections
/// that have had no answer yet, so that the client's next try reaches another backend. Established connections are left
/// to the two ends.
pub(crate) fn cut(maps: &mut Maps, services: &Services) -> Result<()> {
    for (arrives, flow) in all(maps)? {
        let is_cut = arrives.protocol() == protocol::UDP || flow.state() == State::Opening;
        if is_cut && !keeps(services, flow.service(), flow.backend(&arrives)) {
            maps::remove(&mut maps.conntrack, "CONNTRACK", &arrives)?;
        }
    }
    for (key, backend) in sockets(&maps.socket_forward, "SOCKET_FORWARD")? {
        if !keeps(services, backend.service(), (backend.address(), backend.port())) {
            maps::remove(&mut maps.socket_forward, "SOCKET_FORWARD", &key)?;
        }
    }
    for (key, frontend) in sockets(&maps.socket_reverse, "SOCKET_REVERSE")? {
        let is_cut = key.protocol() == protocol::UDP;
        if is_cut && !keeps(services, frontend.service(), (key.address(), key.port())) {
            maps::remove(&mut maps.socket_reverse, "SOCKET_REVERSE", &key)?;
        }
    }
    Ok(())
}

fn keeps(services: &Services, service: ServiceId, (address, port): (Address, u16)) -> bool {
    services.keeps(service, (address.ip(), port))
}

fn sockets(
    map: &aya::maps::HashMap<aya::maps::MapData, SocketKey, Peer>,
    name: &'static str,
) -> Result<Vec<(SocketKey, Peer)>> {
    map.iter().collect::<Result<_, _>>().map_err(|source| Error::Map { action: "read", map: name, source })
}
