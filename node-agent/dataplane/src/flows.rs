//! Forgetting flows: those whose time is over, and those whose backend is gone.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::AsFd;

use aya::maps::{IterableMap, MapError};
use nix::time::{ClockId, clock_gettime};
use weir_ebpf_common::{Address, Flow, ServiceId, State, Tuple, protocol};
use weir_packet::tracking;

use crate::entries::Entries;
use crate::maps::{self, Maps};
use crate::services::Services;
use crate::{Error, Result, sys};

const CONNTRACK: &str = "CONNTRACK";
const SOCKET_FORWARD: &str = "SOCKET_FORWARD";
const SOCKET_REVERSE: &str = "SOCKET_REVERSE";

/// Of bpf(2): add an element, never exchange one.
const BPF_NOEXIST: u64 = 1;

/// Nanoseconds of the clock that the programs use.
pub(crate) fn now() -> Result<u64> {
    let time =
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| Error::Clock { source: errno.into() })?;
    Ok(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

/// All translated flows, about this moment.
pub(crate) fn all(maps: &Maps) -> Result<HashMap<Tuple, Flow>> {
    let (mut entries, mut all) = (Entries::new(), HashMap::new());
    while let Some(flows) = entries.next(&maps.conntrack, CONNTRACK)? {
        all.extend(flows);
    }
    Ok(all)
}

/// What is to become of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    Becomes(State),
}

/// Removes flows that have been silent for too long in both directions. Returns how many entries.
pub(crate) fn collect(maps: &mut Maps) -> Result<usize> {
    let now = now()?;
    let is_silent = |flow: &Flow| tracking::is_silent(flow, now);
    let (mut entries, mut removed) = (Entries::new(), 0);
    while let Some(flows) = entries.next(&maps.conntrack, CONNTRACK)? {
        for (arrives, _) in flows.filter(|(_, flow)| is_silent(flow)) {
            let fate = |maps: &Maps, flow: &Flow| {
                let is_over = is_silent(flow) && get(maps, &flow.peer())?.is_none_or(|peer| is_silent(&peer));
                Ok(if is_over { Fate::Goes } else { Fate::Stays })
            };
            removed += usize::from(settle(maps, arrives, fate)? == Fate::Goes);
        }
    }
    Ok(removed)
}

/// Cuts flows to backends that are gone: UDP at once, since nothing else would ever end them, and of TCP the connections
/// that have had no answer yet, so that the client's next try reaches another backend. Established connections are left
/// to the two ends, but as if the backend had closed: a client that uses its port again is not sent there, and what
/// nobody ends is forgotten after an hour.
pub(crate) fn cut(maps: &mut Maps, services: &Services) -> Result<()> {
    let mut entries = Entries::new();
    while let Some(flows) = entries.next(&maps.conntrack, CONNTRACK)? {
        for (arrives, flow) in flows {
            let fate = |flow: &Flow| match flow.state() {
                _ if keeps(services, flow.service(), flow.backend(arrives)) => Fate::Stays,
                _ if arrives.protocol() == protocol::UDP => Fate::Goes,
                State::Opening => Fate::Goes,
                State::Established => Fate::Becomes(State::ClosingByBackend),
                _ => Fate::Stays,
            };
            if fate(flow) != Fate::Stays {
                settle(maps, arrives, |_, flow| Ok(fate(flow)))?;
            }
        }
    }
    let mut entries = Entries::new();
    while let Some(sockets) = entries.next(&maps.socket_forward, SOCKET_FORWARD)? {
        for (key, backend) in sockets {
            if !keeps(services, backend.service(), (backend.address(), backend.port())) {
                maps::remove(&mut maps.socket_forward, SOCKET_FORWARD, key)?;
            }
        }
    }
    let mut entries = Entries::new();
    while let Some(sockets) = entries.next(&maps.socket_reverse, SOCKET_REVERSE)? {
        for (key, frontend) in sockets {
            let is_cut = key.protocol() == protocol::UDP;
            if is_cut && !keeps(services, frontend.service(), (key.address(), key.port())) {
                maps::remove(&mut maps.socket_reverse, SOCKET_REVERSE, key)?;
            }
        }
    }
    Ok(())
}

fn keeps(services: &Services, service: ServiceId, (address, port): (Address, u16)) -> bool {
    services.keeps(service, (address.ip(), port))
}

/// Decides over what is under a key now: a client that uses its port again may have opened another flow there since it
/// was looked at.
fn settle(maps: &mut Maps, arrives: &Tuple, fate: impl Fn(&Maps, &Flow) -> Result<Fate>) -> Result<Fate> {
    match get(maps, arrives)? {
        Some(flow) if fate(maps, &flow)? != Fate::Stays => {}
        _ => return Ok(Fate::Stays),
    }
    let taken = sys::take::<Tuple, Flow>(maps.conntrack.map().fd().as_fd(), arrives)
        .map_err(|error| failed("remove from", MapError::from(error)))?;
    let Some(mut taken) = taken else { return Ok(Fate::Stays) };
    let fate = fate(maps, &taken)?;
    match fate {
        Fate::Goes => return Ok(fate),
        Fate::Becomes(state) => taken.set_state(state),
        // Another flow's, since the very instant between.
        Fate::Stays => {}
    }
    // Unless the next packet has opened it anew already, it is to find the flow.
    match maps.conntrack.insert(arrives, taken, BPF_NOEXIST) {
        Ok(()) => Ok(fate),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::AlreadyExists => Ok(fate),
        Err(source) => Err(failed("write to", source)),
    }
}

fn get(maps: &Maps, arrives: &Tuple) -> Result<Option<Flow>> {
    match maps.conntrack.get(arrives, 0) {
        Ok(flow) => Ok(Some(flow)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(failed("read", source)),
    }
}

fn failed(action: &'static str, source: MapError) -> Error {
    Error::Map { action, map: CONNTRACK, source }
}
