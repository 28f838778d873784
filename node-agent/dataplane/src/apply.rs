//! Bringing the maps to what a batch says. The only place that writes services.
//!
//! Order within a service port: its name, the slots of the new table, then the frontends, which is the commit; after that
//! the frontends that are no more. Over a batch: everything that is added or changed, then what is removed, then the flows
//! of backends that are gone. The old range of a table becomes free once no program can be reading it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weir_ebpf_common::{Address, Service, ServiceId, ServiceName, Slot, TableKind};

use crate::batch::{Applied, Backend, Batch, ServiceKey};
use crate::maps::{self, Maps};
use crate::services::{Capacity, Change, Frontends, Held, Plan, PlanError, Services, Socket, frontend};
use crate::slots::{Range, Slots};
use crate::{Dataplane, Error, Result, flows, sys};

/// Programs run for microseconds. Readers that took longer would notice by the service number in the slot.
const GRACE: Duration = Duration::from_secs(1);

/// Ranges that are no table's any more but may still be read.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    ranges: Vec<(Instant, Range)>,
}

impl Quarantine {
    fn add(&mut self, range: Range) {
        self.ranges.push((Instant::now(), range));
    }

    fn release_old(&mut self, slots: &mut Slots) {
        self.ranges.retain(|(since, range)| {
            let is_young = since.elapsed() < GRACE;
            if !is_young {
                slots.free(*range);
            }
            is_young
        });
    }

    /// Waits for the readers and gives everything back.
    fn release_all(&mut self, slots: &mut Slots) -> std::io::Result<()> {
        sys::wait_for_readers()?;
        self.ranges.drain(..).for_each(|(_, range)| slots.free(range));
        Ok(())
    }
}

impl Dataplane {
    /// Brings the kernel to what the batch says. If it does not fit, nothing changes.
    pub fn apply(&mut self, batch: &Batch) -> Result<Applied> {
        self.quarantine.release_old(&mut self.slots);
        let plan = match self.plan(batch) {
            Err(PlanError::Slots { .. }) => {
                self.quarantine.release_all(&mut self.slots).map_err(|source| Error::Grace { source })?;
                self.plan(batch)
            }
            outcome => outcome,
        }?;
        let is_losing = self.perform(plan)?;
        if is_losing || batch.snapshot {
            flows::cut(&mut self.maps, &self.services)?;
        }
        Ok(self.services.totals())
    }

    fn plan(&mut self, batch: &Batch) -> Result<Plan, PlanError> {
        let capacity = Capacity { frontends: self.sizes.services, slots: self.sizes.slots };
        self.services.plan(batch, &self.node_addresses, &mut self.slots, capacity)
    }

    /// Returns whether flows may have lost their backend.
    fn perform(&mut self, plan: Plan) -> Result<bool> {
        let mut is_losing = false;
        for change in plan.changes {
            let (key, new) = match change {
                Change::Put { key, new, publish, .. } => {
                    if publish {
                        self.publish(&key, &new)?;
                    }
                    (key, Some(new))
                }
                Change::Remove { key } => (key, None),
            };
            let old = self.services.remove(&key);
            is_losing |= old.as_ref().is_some_and(|old| loses(old, new.as_ref()));
            if let Some(new) = &new {
                self.services.insert(key.clone(), new.clone());
            }
            if let Some(old) = old {
                self.retire(&old, new.as_ref())?;
            }
        }
        Ok(is_losing)
    }

    fn publish(&mut self, key: &ServiceKey, new: &Held) -> Result<()> {
        let name =
            ServiceName::new(&key.to_string()).ok_or_else(|| PlanError::Name { service: key.clone() })?;
        self.maps.names.insert(new.id, name, 0).map_err(|source| Error::Map {
            action: "write to",
            map: "NAMES",
            source,
        })?;
        let range = new.ranges.first().copied().unwrap_or(Range::EMPTY);
        for (index, (address, port)) in (range.offset..).zip(&new.table) {
            let slot = Slot::new(new.id, Address::from(*address), *port);
            self.maps.slots.set(index, slot, 0).map_err(|source| Error::Map {
                action: "write to",
                map: "SLOTS",
                source,
            })?;
        }
        for (key, external) in &new.frontends {
            let (key, place) = (frontend(*key), (range.offset, range.length));
            let service = Service::new(&key, new.id, TableKind::Random, place, *external);
            self.maps.services.insert(key, service, 0).map_err(|source| Error::Map {
                action: "write to",
                map: "SERVICES",
                source,
            })?;
        }
        Ok(())
    }

    /// Removes what is left of `old` after `new` has taken its place.
    fn retire(&mut self, old: &Held, new: Option<&Held>) -> Result<()> {
        for key in old.frontends.keys().filter(|key| !self.services.owners.contains_key(*key)) {
            maps::remove(&mut self.maps.services, "SERVICES", &frontend(*key))?;
        }
        if new.is_none() {
            maps::remove(&mut self.maps.names, "NAMES", &old.id)?;
        }
        let kept = new.map_or(&[][..], |new| &new.ranges);
        old.ranges.iter().filter(|range| !kept.contains(range)).for_each(|range| self.quarantine.add(*range));
        Ok(())
    }
}

fn loses(old: &Held, new: Option<&Held>) -> bool {
    old.backends.keys().any(|backend| new.is_none_or(|new| !new.backends.contains_key(backend)))
}

/// Reads back what an earlier agent wrote. Removes frontends without a name, which a kill in mid-write leaves behind.
pub(crate) fn read(maps: &mut Maps, capacity: u32) -> Result<(Services, Slots)> {
    let (mut services, mut slots) = (Services::default(), Slots::new(capacity));
    for (id, parts) in read_parts(maps)? {
        let Some(key) = parts.key else {
            for key in parts.frontends.keys() {
                maps::remove(&mut maps.services, "SERVICES", &frontend(*key))?;
            }
            continue;
        };
        if let Some(taken) = parts.ranges.iter().find(|range| !slots.reserve(**range)) {
            return Err(Error::Overlap { service: key, offset: taken.offset, length: taken.length });
        }
        let table = read_table(maps, &parts.ranges)?;
        let held = Held {
            id,
            protocol: parts.frontends.keys().next().map_or(0, |(_, _, protocol)| *protocol),
            frontends: parts.frontends,
            ranges: parts.ranges.into_iter().collect(),
            backends: table.iter().map(|socket| (*socket, nameless(*socket))).collect(),
            table,
        };
        services.insert(key, held);
    }
    Ok((services, slots))
}

/// What the maps hold under one service's number.
#[derive(Default)]
struct Parts {
    key: Option<ServiceKey>,
    frontends: Frontends,
    ranges: BTreeSet<Range>,
}

fn read_parts(maps: &Maps) -> Result<BTreeMap<ServiceId, Parts>> {
    let mut found: BTreeMap<ServiceId, Parts> = BTreeMap::new();
    for entry in maps.names.iter() {
        let (id, name) = entry.map_err(|source| Error::Map { action: "read", map: "NAMES", source })?;
        found.entry(id).or_default().key = name.as_str().and_then(ServiceKey::parse);
    }
    for entry in maps.services.iter() {
        let (at, service) = entry.map_err(|source| Error::Map { action: "read", map: "SERVICES", source })?;
        let parts = found.entry(service.id()).or_default();
        parts.frontends.insert((at.address().ip(), at.port(), at.protocol()), service.is_external());
        parts.ranges.insert(Range { offset: service.offset(), length: service.length() });
    }
    Ok(found)
}

fn read_table(maps: &Maps, ranges: &BTreeSet<Range>) -> Result<Vec<Socket>> {
    ranges
        .iter()
        .flat_map(|range| range.offset..range.offset + range.length)
        .map(|index| {
            let slot = maps.slots.get(&index, 0);
            let slot = slot.map_err(|source| Error::Map { action: "read", map: "SLOTS", source })?;
            Ok((slot.address().ip(), slot.port()))
        })
        .collect()
}

/// A backend of which only its place is known.
fn nameless((address, port): Socket) -> Backend {
    Backend { address, port, node_name: String::new(), pod: String::new(), ready: true, terminating: false }
}
