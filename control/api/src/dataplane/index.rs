//! The compiled state, kept up to date: a change recompiles the one service it touches and yields the difference.
//!
//! Pure. Invariant: after [`Index::difference`], what was yielded so far adds up to what compiling everything from
//! scratch would give.

use std::collections::{BTreeMap, BTreeSet};

use weir_proto::core::v1::{Node, Service};
use weir_proto::discovery::v1::EndpointSlice;
use weir_proto::weir::v1::{
    DataplaneBatch, DataplaneRoute, DataplaneRoutes, DataplaneServiceKey, DataplaneServicePort, ServiceNames,
};

use super::compile::{self, Front, Name, Slice};
use super::names::{self, Naming};

#[derive(Debug, Default)]
pub(super) struct Index {
    fronts: BTreeMap<Name, Front>,
    namings: BTreeMap<Name, Naming>,
    /// By service, then by the slice's name.
    slices: BTreeMap<Name, BTreeMap<String, Slice>>,
    /// Which service a slice was last seen to belong to.
    service_of: BTreeMap<Name, Name>,
    routes: BTreeMap<String, DataplaneRoute>,
    compiled: BTreeMap<Name, Vec<DataplaneServicePort>>,
    named: BTreeMap<Name, ServiceNames>,
    touched: BTreeSet<Name>,
    routes_touched: bool,
}

/// What differs from what was yielded before.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Difference {
    pub(super) upserts: Vec<DataplaneServicePort>,
    pub(super) deletes: Vec<DataplaneServiceKey>,
    pub(super) routes: Option<DataplaneRoutes>,
    pub(super) names: Vec<ServiceNames>,
    pub(super) unnamed: Vec<DataplaneServiceKey>,
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Index {
    pub(super) fn set_service(&mut self, service: &Service) {
        let name = (service.meta().namespace.clone(), service.meta().name.clone());
        let reached = replace(&mut self.fronts, &name, Front::read(service));
        let named = replace(&mut self.namings, &name, Naming::read(service));
        if reached || named {
            self.touched.insert(name);
        }
    }

    pub(super) fn remove_service(&mut self, name: &Name) {
        let reached = replace(&mut self.fronts, name, None);
        let named = replace(&mut self.namings, name, None);
        if reached || named {
            self.touched.insert(name.clone());
        }
    }

    pub(super) fn set_slice(&mut self, slice: &EndpointSlice) {
        let name = (slice.meta().namespace.clone(), slice.meta().name.clone());
        let Some(read) = Slice::read(slice) else { return self.remove_slice(&name) };
        if self.service_of.get(&name).is_some_and(|service| *service != read.service) {
            self.remove_slice(&name);
        }
        let service = read.service.clone();
        let slices = self.slices.entry(service.clone()).or_default();
        if slices.get(&name.1) != Some(&read) {
            slices.insert(name.1.clone(), read);
            self.touched.insert(service.clone());
        }
        self.service_of.insert(name, service);
    }

    pub(super) fn remove_slice(&mut self, name: &Name) {
        let Some(service) = self.service_of.remove(name) else { return };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(&name.1);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.touched.insert(service);
    }

    pub(super) fn set_node(&mut self, node: &Node) {
        match compile::route(node) {
            Some(route) if self.routes.get(&route.node_name) == Some(&route) => {}
            Some(route) => {
                self.routes.insert(route.node_name.clone(), route);
                self.routes_touched = true;
            }
            None => self.remove_node(&node.meta().name),
        }
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        self.routes_touched |= self.routes.remove(name).is_some();
    }

    /// Whether the routes differ from those last yielded.
    pub(super) fn has_new_routes(&self) -> bool {
        self.routes_touched
    }

    /// Compiles what was touched since the last call.
    pub(super) fn difference(&mut self) -> Difference {
        let mut difference = Difference::default();
        for name in std::mem::take(&mut self.touched) {
            let new = self.compile(&name);
            let old = self.compiled.remove(&name).unwrap_or_default();
            let gone = old.iter().filter(|old| !new.iter().any(|new| new.key == old.key));
            difference.deletes.extend(gone.map(compile::key));
            difference.upserts.extend(new.iter().filter(|port| !old.contains(port)).cloned());
            if !new.is_empty() {
                self.compiled.insert(name.clone(), new);
            }
            let named = self.name(&name);
            if !replace(&mut self.named, &name, named.clone()) {
                continue;
            }
            match named {
                Some(named) => difference.names.push(named),
                None => difference.unnamed.push(key_of(name)),
            }
        }
        if std::mem::take(&mut self.routes_touched) {
            difference.routes = Some(self.routes());
        }
        difference
    }

    /// Everything, as of the last [`Index::difference`].
    pub(super) fn snapshot(&self, revision: i64) -> DataplaneBatch {
        DataplaneBatch {
            revision,
            snapshot: true,
            upserts: self.compiled.values().flatten().cloned().collect(),
            deletes: Vec::new(),
            routes: Some(self.routes()),
            names: self.named.values().cloned().collect(),
            unnamed: Vec::new(),
        }
    }

    fn compile(&self, name: &Name) -> Vec<DataplaneServicePort> {
        let Some(front) = self.fronts.get(name) else { return Vec::new() };
        let slices = self.slices.get(name);
        compile::join(name, front, slices.into_iter().flat_map(BTreeMap::values))
    }

    fn name(&self, name: &Name) -> Option<ServiceNames> {
        let naming = self.namings.get(name)?;
        let slices = self.slices.get(name);
        Some(names::join(naming, slices.into_iter().flat_map(BTreeMap::values)))
    }

    fn routes(&self) -> DataplaneRoutes {
        DataplaneRoutes { routes: self.routes.values().cloned().collect() }
    }

    /// Forgets all objects, to be given them anew; what was compiled stays until the next difference.
    pub(super) fn begin_anew(&mut self) {
        self.touched.extend(std::mem::take(&mut self.fronts).into_keys());
        self.touched.extend(std::mem::take(&mut self.namings).into_keys());
        self.touched.extend(std::mem::take(&mut self.slices).into_keys());
        self.service_of.clear();
        self.routes_touched |= !std::mem::take(&mut self.routes).is_empty();
    }
}

/// Makes `new` what the map holds; whether that is a change.
fn replace<T: PartialEq>(map: &mut BTreeMap<Name, T>, name: &Name, new: Option<T>) -> bool {
    match new {
        Some(new) if map.get(name) == Some(&new) => false,
        Some(new) => {
            map.insert(name.clone(), new);
            true
        }
        None => map.remove(name).is_some(),
    }
}

fn key_of((namespace, name): Name) -> DataplaneServiceKey {
    DataplaneServiceKey { namespace, name, port_name: String::new() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_proto::core::v1::{NodeAddress, ServicePort};
    use weir_proto::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Service { index: u8, ports: Vec<u8>, headless: bool },
        NoService { index: u8 },
        Slice { index: u8, service: u8, ports: Vec<u8>, endpoints: Vec<(u8, bool, bool)> },
        NoSlice { index: u8 },
        Node { index: u8, range: u8 },
        NoNode { index: u8 },
        Anew,
        Yield,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let ports = || prop::collection::vec(1..4_u8, 0..3);
        let endpoints = || prop::collection::vec((1..6_u8, any::<bool>(), any::<bool>()), 0..4);
        let step = prop_oneof![
            4 => (0..3_u8, ports(), prop::bool::weighted(0.3))
                .prop_map(|(index, ports, headless)| Step::Service { index, ports, headless }),
            1 => (0..3_u8).prop_map(|index| Step::NoService { index }),
            6 => (0..5_u8, 0..3_u8, ports(), endpoints())
                .prop_map(|(index, service, ports, endpoints)| Step::Slice { index, service, ports, endpoints }),
            2 => (0..5_u8).prop_map(|index| Step::NoSlice { index }),
            2 => (0..3_u8, 0..3_u8).prop_map(|(index, range)| Step::Node { index, range }),
            1 => (0..3_u8).prop_map(|index| Step::NoNode { index }),
            1 => Just(Step::Anew),
            4 => Just(Step::Yield),
        ];
        prop::collection::vec(step, 1..60)
    }

    fn service(index: u8, ports: &[u8], headless: bool) -> Service {
        let mut service = Service::default();
        service.meta_mut().namespace = "shop".to_owned();
        service.meta_mut().name = format!("service-{index}");
        let spec = service.spec_mut();
        spec.cluster_ip = if headless { "None".to_owned() } else { format!("10.96.0.{index}") };
        let port = |port: &u8| ServicePort {
            name: format!("p{port}"),
            port: (*port).into(),
            ..ServicePort::default()
        };
        spec.ports = ports.iter().map(port).collect();
        service
    }

    fn slice(index: u8, service: u8, ports: &[u8], endpoints: &[(u8, bool, bool)]) -> EndpointSlice {
        let mut slice = EndpointSlice { address_type: "IPv4".to_owned(), ..EndpointSlice::default() };
        let meta = slice.meta_mut();
        meta.namespace = "shop".to_owned();
        meta.name = format!("slice-{index}");
        meta.labels.insert("kubernetes.io/service-name".to_owned(), format!("service-{service}"));
        let port = |port: &u8| EndpointPort {
            name: Some(format!("p{port}")),
            port: Some(8000 + i32::from(*port)),
            ..EndpointPort::default()
        };
        slice.ports = ports.iter().map(port).collect();
        let endpoint = |(address, ready, terminating): &(u8, bool, bool)| Endpoint {
            addresses: vec![format!("10.32.0.{address}")],
            conditions: Some(EndpointConditions {
                ready: Some(*ready),
                serving: Some(true),
                terminating: Some(*terminating),
            }),
            ..Endpoint::default()
        };
        slice.endpoints = endpoints.iter().map(endpoint).collect();
        slice
    }

    fn node(index: u8, range: u8) -> Node {
        let mut node = Node::default();
        node.meta_mut().name = format!("node-{index}");
        // Range 0: not given yet.
        node.spec_mut().pod_cidr = if range == 0 { String::new() } else { format!("10.32.{range}.0/24") };
        let address = format!("10.31.0.{index}");
        node.status_mut().addresses = vec![NodeAddress { address, r#type: "InternalIP".to_owned() }];
        node
    }

    fn owner(names: &ServiceNames) -> Name {
        (names.namespace.clone(), names.name.clone())
    }

    /// The objects themselves, and what a node that applied every difference holds.
    #[derive(Default)]
    struct World {
        services: BTreeMap<u8, Service>,
        slices: BTreeMap<u8, EndpointSlice>,
        nodes: BTreeMap<u8, Node>,
        ports: BTreeMap<String, DataplaneServicePort>,
        routes: DataplaneRoutes,
        names: BTreeMap<Name, ServiceNames>,
    }

    impl World {
        fn step(&mut self, step: Step, index: &mut Index) {
            let named = |kind: &str, index: u8| ("shop".to_owned(), format!("{kind}-{index}"));
            match step {
                Step::Service { index: which, ports, headless } => {
                    self.services.insert(which, service(which, &ports, headless));
                    index.set_service(&self.services[&which]);
                }
                Step::NoService { index: which } => {
                    self.services.remove(&which);
                    index.remove_service(&named("service", which));
                }
                Step::Slice { index: which, service, ports, endpoints } => {
                    self.slices.insert(which, slice(which, service, &ports, &endpoints));
                    index.set_slice(&self.slices[&which]);
                }
                Step::NoSlice { index: which } => {
                    self.slices.remove(&which);
                    index.remove_slice(&named("slice", which));
                }
                Step::Node { index: which, range } => {
                    self.nodes.insert(which, node(which, range));
                    index.set_node(&self.nodes[&which]);
                }
                Step::NoNode { index: which } => {
                    self.nodes.remove(&which);
                    index.remove_node(&format!("node-{which}"));
                }
                Step::Anew => {
                    index.begin_anew();
                    self.give_all(index);
                }
                Step::Yield => self.apply(index.difference()),
            }
        }

        fn give_all(&self, index: &mut Index) {
            self.slices.values().for_each(|slice| index.set_slice(slice));
            self.services.values().for_each(|service| index.set_service(service));
            self.nodes.values().for_each(|node| index.set_node(node));
        }

        fn apply(&mut self, difference: Difference) {
            for key in difference.deletes {
                self.ports.remove(&format!("{key:?}")).expect("only what is there is deleted");
            }
            for port in difference.upserts {
                let key = format!("{:?}", compile::key(&port));
                assert_ne!(self.ports.insert(key, port.clone()), Some(port), "sent without a change");
            }
            self.routes = difference.routes.unwrap_or(std::mem::take(&mut self.routes));
            for key in difference.unnamed {
                self.names.remove(&(key.namespace, key.name)).expect("only what is there is deleted");
            }
            for names in difference.names {
                let before = self.names.insert(owner(&names), names.clone());
                assert_ne!(before, Some(names), "sent without a change");
            }
        }
    }

    proptest! {
        #[test]
        fn differences_add_up_to_what_compiling_from_scratch_gives(steps in steps()) {
            let (mut world, mut index) = (World::default(), Index::default());
            for step in steps {
                world.step(step, &mut index);
            }
            world.apply(index.difference());
            prop_assert!(index.difference().is_empty(), "nothing changed in between");

            let mut scratch = Index::default();
            world.give_all(&mut scratch);
            scratch.difference();
            let expected = scratch.snapshot(7);
            prop_assert_eq!(&index.snapshot(7), &expected);
            let ports = expected.upserts.into_iter().map(|port| (format!("{:?}", compile::key(&port)), port));
            prop_assert_eq!(&world.ports, &ports.collect());
            prop_assert_eq!(&world.routes, &expected.routes.unwrap());
            let names = expected.names.into_iter().map(|names| (owner(&names), names));
            prop_assert_eq!(&world.names, &names.collect());
        }
    }

    #[test]
    fn a_change_of_one_endpoint_resends_only_its_service() {
        let mut index = Index::default();
        for which in 0..100 {
            index.set_service(&service(which, &[1], false));
            index.set_slice(&slice(which, which, &[1], &[(1, true, false)]));
        }
        assert_eq!(index.difference().upserts.len(), 100);
        index.set_slice(&slice(7, 7, &[1], &[(1, true, false), (2, true, false)]));
        let difference = index.difference();
        assert_eq!(difference.upserts.len(), 1);
        assert_eq!(difference.upserts[0].key.as_ref().unwrap().name, "service-7");
        assert_eq!((difference.deletes.len(), difference.routes), (0, None));
    }

    #[test]
    fn a_heartbeat_of_a_node_is_no_change() {
        let mut index = Index::default();
        index.set_node(&node(1, 1));
        assert!(index.difference().routes.is_some());
        let mut beating = node(1, 1);
        beating.meta_mut().resource_version = "9".to_owned();
        index.set_node(&beating);
        assert!(index.difference().is_empty());
    }
}
