//! Which EndpointSlices a service should have, given those that are there. Pure.
//!
//! **Invariants:** every endpoint is in exactly one slice; no slice has more than [`SLICE`]; a slice in which nothing
//! changed is not written; endpoints that stay, stay in their slice.

use std::collections::{BTreeMap, HashMap};

use weir_proto::core::v1::{Node, Pod, Service};
use weir_proto::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use weir_proto::meta::v1::ObjectMeta;

use super::endpoint::{self, Family};
use crate::caches::SERVICE_NAME;
use crate::owners;

/// Endpoints in one slice, at most.
pub(super) const SLICE: usize = 100;
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) service: &'a Service,
    /// Those that the service's selector selects.
    pub(super) pods: &'a [&'a Pod],
    pub(super) nodes: &'a HashMap<&'a str, &'a Node>,
    /// Those that are this controller's.
    pub(super) slices: &'a [&'a EndpointSlice],
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<EndpointSlice>,
}

/// Endpoints that can share a slice: of one address family, with the same ports.
type Group = (Family, PortsKey);

/// Ports in an order that does not depend on how the service lists them.
type PortsKey = Vec<(String, String, i32, String)>;

pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut wanted = wanted(observed);
    let mut present: BTreeMap<Group, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in observed.slices {
        let group = group_of(slice).filter(|group| wanted.contains_key(group));
        match group {
            Some(group) => present.entry(group).or_default().push(slice),
            None => plan.delete.push((*slice).clone()),
        }
    }
    for (group, (ports, endpoints)) in std::mem::take(&mut wanted) {
        let slices = present.remove(&group).unwrap_or_default();
        let mut packing = Packing::new(observed.service, group.0, ports, slices);
        packing.place(endpoints);
        packing.finish(&mut plan);
    }
    plan
}

/// The endpoints by group, each under its identity. A family without any endpoint has one group without ports: an
/// empty slice says that there is nobody, which is more than no slice says.
fn wanted(observed: &Observed<'_>) -> BTreeMap<Group, (Vec<EndpointPort>, BTreeMap<String, Endpoint>)> {
    let mut wanted: BTreeMap<Group, (Vec<EndpointPort>, BTreeMap<String, Endpoint>)> = BTreeMap::new();
    for family in endpoint::families(observed.service) {
        let mut any = false;
        for pod in observed.pods {
            let node = observed.nodes.get(pod.spec().node_name.as_str()).copied();
            let Some(endpoint) = endpoint::endpoint(observed.service, pod, node, family) else { continue };
            let ports = endpoint::ports(observed.service, pod);
            let entry = wanted.entry((family, ports_key(&ports))).or_insert((ports, BTreeMap::new()));
            entry.1.insert(identity(&endpoint), endpoint);
            any = true;
        }
        if !any {
            wanted.entry((family, Vec::new())).or_default();
        }
    }
    wanted
}

fn group_of(slice: &EndpointSlice) -> Option<Group> {
    Some((Family::parse(&slice.address_type)?, ports_key(&slice.ports)))
}

fn ports_key(ports: &[EndpointPort]) -> PortsKey {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut key: PortsKey = ports
        .iter()
        .map(|port| {
            (text(&port.name), text(&port.protocol), port.port.unwrap_or(0), text(&port.app_protocol))
        })
        .collect();
    key.sort();
    key
}

/// The pod and its address; what is said about it may change.
fn identity(endpoint: &Endpoint) -> String {
    let pod = endpoint.target_ref.as_ref().map_or("", |target| target.uid.as_str());
    format!("{}|{pod}", endpoint.addresses.join(","))
}

/// The slices of one group while endpoints are put into them.
struct Packing<'a> {
    slices: Vec<Slot<'a>>,
    template: EndpointSlice,
}

struct Slot<'a> {
    before: Option<&'a EndpointSlice>,
    after: EndpointSlice,
}

impl Slot<'_> {
    fn is_changed(&self) -> bool {
        self.before.is_none_or(|before| *before != self.after)
    }

    fn room(&self) -> usize {
        SLICE.saturating_sub(self.after.endpoints.len())
    }
}

impl<'a> Packing<'a> {
    fn new(
        service: &Service,
        family: Family,
        ports: Vec<EndpointPort>,
        mut slices: Vec<&'a EndpointSlice>,
    ) -> Packing<'a> {
        slices.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
        let mut template =
            EndpointSlice { address_type: family.as_str().to_owned(), ports, ..EndpointSlice::default() };
        let meta = service.meta();
        *template.meta_mut() = ObjectMeta {
            generate_name: format!("{}-", meta.name),
            namespace: meta.namespace.clone(),
            labels: labels(service),
            owner_references: vec![owners::controller_reference(service)],
            ..ObjectMeta::default()
        };
        let slots = slices.into_iter().map(|slice| {
            let mut after = slice.clone();
            after.meta_mut().labels = template.meta().labels.clone();
            after.meta_mut().owner_references = template.meta().owner_references.clone();
            // The same ports in another order are the same ports: leave them as they are.
            Slot { before: Some(slice), after }
        });
        Packing { slices: slots.collect(), template }
    }

    fn place(&mut self, mut endpoints: BTreeMap<String, Endpoint>) {
        for slot in &mut self.slices {
            let present = std::mem::take(&mut slot.after.endpoints);
            let kept = present.into_iter().filter_map(|endpoint| endpoints.remove(&identity(&endpoint)));
            slot.after.endpoints = kept.take(SLICE).collect();
        }
        let mut left = endpoints.into_values();
        // Slices that are written anyway first, then the fullest of the others.
        let mut order: Vec<usize> = (0..self.slices.len()).collect();
        order.sort_by_key(|index| (!self.slices[*index].is_changed(), self.slices[*index].room()));
        for index in order {
            let slot = &mut self.slices[index];
            let room = slot.room();
            slot.after.endpoints.extend(left.by_ref().take(room));
        }
        loop {
            let endpoints: Vec<Endpoint> = left.by_ref().take(SLICE).collect();
            if endpoints.is_empty() && !self.slices.is_empty() {
                return;
            }
            self.slices
                .push(Slot { before: None, after: EndpointSlice { endpoints, ..self.template.clone() } });
        }
    }

    /// Empty slices go, but for one where all are empty.
    fn finish(mut self, plan: &mut Plan) {
        let all_empty = self.slices.iter().all(|slot| slot.after.endpoints.is_empty());
        let kept = usize::from(all_empty);
        for slot in self.slices.drain(..kept) {
            plan.write(slot);
        }
        for slot in self.slices {
            match slot.before {
                Some(before) if slot.after.endpoints.is_empty() => plan.delete.push(before.clone()),
                _ => plan.write(slot),
            }
        }
    }
}

impl Plan {
    fn write(&mut self, slot: Slot<'_>) {
        match slot.before {
            None => self.create.push(slot.after),
            Some(_) if slot.is_changed() => self.update.push(slot.after),
            Some(_) => {}
        }
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.meta().labels.clone();
    labels.insert(SERVICE_NAME.to_owned(), service.meta().name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.spec().cluster_ip == "None" {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}
