//! What the kernel maps hold of services, and how to get from there to what a batch wants. Pure.
//!
//! A plan is a list of changes, one for each service port that differs. Planning takes the ranges that the plan needs, and
//! gives them back if the plan turns out impossible; performing it is `apply`'s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use weir_ebpf_common::{Address, Frontend, ServiceId};

use crate::batch::{Applied, Backend, Batch, ServiceKey, ServicePort};
use crate::slots::{Range, Slots};

/// Where a backend listens.
pub(crate) type Socket = (IpAddr, u16);

/// Whether clients outside the node may use a frontend.
pub(crate) type Frontends = BTreeMap<FrontendKey, bool>;

/// (address, port, protocol number): a frontend that can be ordered.
pub(crate) type FrontendKey = (IpAddr, u16, u8);

pub(crate) fn frontend((address, port, protocol): FrontendKey) -> Frontend {
    Frontend::new(Address::from(address), port, protocol)
}

/// A service port as the maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: ServiceId,
    pub(crate) protocol: u8,
    pub(crate) frontends: Frontends,
    /// More than one if an earlier agent was killed while it exchanged tables.
    pub(crate) ranges: Vec<Range>,
    /// What the table holds, slot by slot.
    pub(crate) table: Vec<Socket>,
    /// All that keep their flows, in the table or not; with what people should know about them. After a start only those
    /// in the table are known, until the first snapshot comes.
    pub(crate) backends: BTreeMap<Socket, Backend>,
}

/// All service ports that the maps hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services {
    pub(crate) by_key: BTreeMap<ServiceKey, Held>,
    pub(crate) keys: HashMap<ServiceId, ServiceKey>,
    /// Which service port has a frontend.
    pub(crate) owners: HashMap<FrontendKey, ServiceId>,
    next_id: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Publish a table and its frontends, then remove the frontends that are no more. Without `publish`, only what is
    /// known of the backends differs.
    Put {
        key: ServiceKey,
        new: Held,
        publish: bool,
    },
    Remove {
        key: ServiceKey,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
}

/// Why a batch cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("no room for the {needed} backends of {service}: {available} of {capacity} slots are free")]
    Slots { service: ServiceKey, needed: u32, available: u32, capacity: u32 },
    #[error("no room for {needed} frontends: the map holds {capacity}")]
    Frontends { needed: usize, capacity: u32 },
    #[error("the name of {service} is too long")]
    Name { service: ServiceKey },
}

/// How much fits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) frontends: u32,
    pub(crate) slots: u32,
}

impl Services {
    pub(crate) fn insert(&mut self, key: ServiceKey, held: Held) {
        self.next_id = self.next_id.max(held.id.get().saturating_add(1));
        self.keys.insert(held.id, key.clone());
        for frontend in held.frontends.keys() {
            self.owners.insert(*frontend, held.id);
        }
        self.by_key.insert(key, held);
    }

    pub(crate) fn remove(&mut self, key: &ServiceKey) -> Option<Held> {
        let held = self.by_key.remove(key)?;
        self.keys.remove(&held.id);
        self.owners.retain_of(&held);
        Some(held)
    }

    pub(crate) fn by_id(&self, id: ServiceId) -> Option<&Held> {
        self.by_key.get(self.keys.get(&id)?)
    }

    /// Whether a flow of a service may go on to a backend.
    pub(crate) fn keeps(&self, id: ServiceId, backend: Socket) -> bool {
        self.by_id(id).is_some_and(|held| held.backends.contains_key(&backend))
    }

    pub(crate) fn totals(&self) -> Applied {
        let backends = self.by_key.values().map(|held| held.table.len() as u64).sum();
        Applied { services: self.by_key.len() as u64, backends }
    }

    /// The changes that bring the maps to what the batch says. None if they hold it already.
    pub(crate) fn plan(
        &self,
        batch: &Batch,
        node_addresses: &[IpAddr],
        slots: &mut Slots,
        capacity: Capacity,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let mut next_id = self.next_id.max(1);
        let done = self.extend(&mut plan, &mut next_id, batch, node_addresses, slots, capacity);
        if let Err(error) = done {
            plan.release(slots);
            return Err(error);
        }
        Ok(plan)
    }

    fn extend(
        &self,
        plan: &mut Plan,
        next_id: &mut u32,
        batch: &Batch,
        node_addresses: &[IpAddr],
        slots: &mut Slots,
        capacity: Capacity,
    ) -> Result<(), PlanError> {
        let mut frontends = self.owners.len();
        // Of several under one name the last counts.
        let upserts: BTreeMap<_, _> = batch.upserts.iter().map(|port| (&port.key, port)).collect();
        for port in upserts.values() {
            let old = self.by_key.get(&port.key);
            let wanted = Wanted::new(port, node_addresses);
            let fresh =
                wanted.frontends.keys().filter(|frontend| !self.owners.contains_key(*frontend)).count();
            frontends += fresh;
            if let Some(change) = wanted.change(old, next_id, slots, capacity)? {
                plan.changes.push(change);
            }
        }
        if frontends > capacity.frontends as usize {
            return Err(PlanError::Frontends { needed: frontends, capacity: capacity.frontends });
        }
        let removed: BTreeSet<_> = if batch.snapshot {
            self.by_key.keys().filter(|key| !upserts.contains_key(key)).collect()
        } else {
            let held = |key: &&ServiceKey| self.by_key.contains_key(*key) && !upserts.contains_key(*key);
            batch.deletes.iter().filter(held).collect()
        };
        plan.changes.extend(removed.into_iter().map(|key| Change::Remove { key: key.clone() }));
        Ok(())
    }
}

/// Forgets a service's frontends, but not those that another service has taken since.
trait RetainOf {
    fn retain_of(&mut self, held: &Held);
}

impl RetainOf for HashMap<FrontendKey, ServiceId> {
    fn retain_of(&mut self, held: &Held) {
        for frontend in held.frontends.keys() {
            if self.get(frontend) == Some(&held.id) {
                self.remove(frontend);
            }
        }
    }
}

impl Plan {
    /// Gives back the ranges of a plan that is not performed.
    pub(crate) fn release(&self, slots: &mut Slots) {
        for change in &self.changes {
            if let Change::Put { new, publish: true, .. } = change {
                new.ranges.iter().for_each(|range| slots.free(*range));
            }
        }
    }
}

/// A service port as a batch wants it.
struct Wanted<'a> {
    port: &'a ServicePort,
    frontends: Frontends,
    table: Vec<Socket>,
    backends: BTreeMap<Socket, Backend>,
}

impl<'a> Wanted<'a> {
    fn new(port: &'a ServicePort, node_addresses: &[IpAddr]) -> Self {
        let protocol = port.protocol.number();
        let cluster = port.cluster_ips.iter().map(|address| ((*address, port.port, protocol), false));
        let node = port.node_port.into_iter().flat_map(|node_port| {
            node_addresses.iter().map(move |address| ((*address, node_port, protocol), true))
        });
        let keeping = port.backends.iter().filter(|backend| backend.ready || backend.terminating);
        Self {
            port,
            frontends: cluster.chain(node).collect(),
            table: table(&port.backends),
            backends: keeping.map(|backend| ((backend.address, backend.port), backend.clone())).collect(),
        }
    }

    fn change(
        self,
        old: Option<&Held>,
        next_id: &mut u32,
        slots: &mut Slots,
        capacity: Capacity,
    ) -> Result<Option<Change>, PlanError> {
        let protocol = self.port.protocol.number();
        let key = self.port.key.clone();
        if let Some(old) = old
            && old.protocol == protocol
            && old.ranges.len() == 1
            && old.table == self.table
            && old.frontends == self.frontends
        {
            let new = Held { backends: self.backends, ..old.clone() };
            let differs = new != *old;
            return Ok(differs.then_some(Change::Put { key, new, publish: false }));
        }
        if weir_ebpf_common::ServiceName::new(&key.to_string()).is_none() {
            return Err(PlanError::Name { service: key });
        }
        let needed = u32::try_from(self.table.len()).unwrap_or(u32::MAX);
        let Some(range) = slots.allocate(needed) else {
            let available = slots.available();
            return Err(PlanError::Slots { service: key, needed, available, capacity: capacity.slots });
        };
        let id = old.map_or_else(
            || {
                let id = ServiceId::new(*next_id);
                *next_id = next_id.wrapping_add(1).max(1);
                id
            },
            |old| old.id,
        );
        let new = Held {
            id,
            protocol,
            frontends: self.frontends,
            ranges: vec![range],
            table: self.table,
            backends: self.backends,
        };
        Ok(Some(Change::Put { key, new, publish: true }))
    }
}

/// The backends that take new flows: the ready ones, or the terminating ones while there is none. Sorted, so that the
/// same backends make the same table.
fn table(backends: &[Backend]) -> Vec<Socket> {
    let sockets = |takes: fn(&&Backend) -> bool| -> BTreeSet<Socket> {
        backends.iter().filter(takes).map(|backend| (backend.address, backend.port)).collect()
    };
    let ready = sockets(|backend| backend.ready);
    let serving = if ready.is_empty() { sockets(|backend| backend.terminating) } else { ready };
    serving.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::Protocol;

    const CAPACITY: Capacity = Capacity { frontends: 12, slots: 24 };
    const NODE: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 31, 0, 11))];

    fn backend(number: u8, ready: bool, terminating: bool) -> Backend {
        Backend {
            address: [10, 32, 0, number].into(),
            port: 8080,
            node_name: "n".to_owned(),
            pod: format!("default/pod-{number}"),
            ready,
            terminating,
        }
    }

    fn port(number: u8, backends: Vec<Backend>, node_port: Option<u16>) -> ServicePort {
        ServicePort {
            key: ServiceKey {
                namespace: "ns".to_owned(),
                name: format!("s{number}"),
                port_name: String::new(),
            },
            protocol: Protocol::Tcp,
            cluster_ips: vec![[10, 96, 0, number].into()],
            port: 80,
            node_port,
            backends,
        }
    }

    fn ports() -> impl Strategy<Value = Vec<ServicePort>> {
        let backends = proptest::collection::vec(
            (0..6_u8, any::<bool>(), any::<bool>()).prop_map(|(n, r, t)| backend(n, r, t)),
            0..6,
        );
        let port = (0..6_u8, backends, any::<bool>()).prop_map(|(number, backends, has)| {
            port(number, backends, has.then_some(30000 + u16::from(number)))
        });
        proptest::collection::vec(port, 0..5).prop_map(|mut ports: Vec<ServicePort>| {
            ports.sort_by(|a, b| a.key.cmp(&b.key));
            ports.dedup_by(|a, b| a.key == b.key);
            ports
        })
    }

    fn batches() -> impl Strategy<Value = Vec<Batch>> {
        let deletes = proptest::collection::vec((0..6_u8).prop_map(|n| port(n, vec![], None).key), 0..3);
        let batch = (ports(), deletes, any::<bool>()).prop_map(|(upserts, deletes, snapshot)| Batch {
            revision: 1,
            snapshot,
            upserts,
            deletes,
        });
        proptest::collection::vec(batch, 1..8)
    }

    /// Does to the model what `apply` does, without maps.
    fn perform(services: &mut Services, slots: &mut Slots, plan: Plan) {
        for change in plan.changes {
            let (key, new) = match change {
                Change::Put { key, new, .. } => (key, Some(new)),
                Change::Remove { key } => (key, None),
            };
            let old = services.remove(&key);
            let kept = new.as_ref().map_or_else(Vec::new, |new| new.ranges.clone());
            if let Some(new) = new {
                services.insert(key, new);
            }
            for range in old.into_iter().flat_map(|old| old.ranges).filter(|range| !kept.contains(range)) {
                slots.free(range);
            }
        }
    }

    proptest! {
        #[test]
        fn after_a_plan_nothing_is_left_to_plan(batches in batches()) {
            let (mut services, mut slots) = (Services::default(), Slots::new(CAPACITY.slots));
            for batch in batches {
                let before = (services.totals(), slots.available());
                match services.plan(&batch, &NODE, &mut slots, CAPACITY) {
                    Ok(plan) => perform(&mut services, &mut slots, plan),
                    // What does not fit changes nothing.
                    Err(_) => {
                        prop_assert_eq!((services.totals(), slots.available()), before);
                        continue;
                    }
                }
                let again = services.plan(&batch, &NODE, &mut slots, CAPACITY).unwrap();
                prop_assert_eq!(again, Plan::default());
                let used: u32 = services.by_key.values().flat_map(|held| &held.ranges).map(|range| range.length).sum();
                prop_assert_eq!(used + slots.available(), CAPACITY.slots);
                if batch.snapshot {
                    prop_assert_eq!(services.by_key.len(), batch.upserts.len());
                }
            }
        }

        #[test]
        fn a_table_holds_ready_backends_or_else_terminating_ones(ports in ports()) {
            for port in ports {
                let table = table(&port.backends);
                let is = |wanted: fn(&Backend) -> bool| {
                    port.backends.iter().any(wanted)
                };
                let of = |socket: &Socket, wanted: fn(&Backend) -> bool| {
                    port.backends.iter().any(|b| (b.address, b.port) == *socket && wanted(b))
                };
                if is(|b| b.ready) {
                    prop_assert!(!table.is_empty() && table.iter().all(|socket| of(socket, |b| b.ready)));
                } else {
                    prop_assert_eq!(table.is_empty(), !is(|b| b.terminating));
                    prop_assert!(table.iter().all(|socket| of(socket, |b| b.terminating)));
                }
            }
        }
    }

    fn hold(ports: Vec<ServicePort>) -> (Services, Slots) {
        let (mut services, mut slots) = (Services::default(), Slots::new(CAPACITY.slots));
        let batch = Batch { revision: 1, snapshot: true, upserts: ports, deletes: vec![] };
        let plan = services.plan(&batch, &NODE, &mut slots, CAPACITY).unwrap();
        perform(&mut services, &mut slots, plan);
        (services, slots)
    }

    #[test]
    fn a_terminating_backend_keeps_its_flows_but_gets_no_new_ones() {
        let (services, _) = hold(vec![port(1, vec![backend(1, true, false), backend(2, false, true)], None)]);
        let held = services.by_key.values().next().unwrap();
        assert_eq!(held.table, [([10, 32, 0, 1].into(), 8080)]);
        assert!(services.keeps(held.id, ([10, 32, 0, 2].into(), 8080)));
        assert!(!services.keeps(held.id, ([10, 32, 0, 3].into(), 8080)));
    }

    #[test]
    fn a_frontend_that_moves_to_another_service_stays() {
        let (mut services, mut slots) = hold(vec![port(1, vec![backend(1, true, false)], None)]);
        let mut taker = port(2, vec![backend(2, true, false)], None);
        taker.cluster_ips = vec![[10, 96, 0, 1].into()];
        let batch = Batch { revision: 2, snapshot: true, upserts: vec![taker], deletes: vec![] };
        let plan = services.plan(&batch, &NODE, &mut slots, CAPACITY).unwrap();
        perform(&mut services, &mut slots, plan);
        let owner = services.owners[&([10, 96, 0, 1].into(), 80, 6)];
        assert_eq!(services.keys[&owner].name, "s2");
    }

    #[test]
    fn a_table_that_does_not_fit_names_the_service() {
        let (services, mut slots) = hold(vec![]);
        let many = (0..25).map(|number| backend(number, true, false)).collect();
        let batch =
            Batch { revision: 2, snapshot: false, upserts: vec![port(1, many, None)], deletes: vec![] };
        let error = services.plan(&batch, &NODE, &mut slots, CAPACITY).unwrap_err();
        assert_eq!(error.to_string(), "no room for the 25 backends of ns/s1: 24 of 24 slots are free");
    }
}
