//! The records of Kubernetes' specification of cluster DNS 1.1.0, one by one, and what the field's servers add.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn port(name: &str, protocol: &str, number: u16) -> Port {
    Port { name: name.to_owned(), protocol: protocol.to_owned(), number }
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn service(name: &str, target: Target) -> Service {
    Service { namespace: "shop".to_owned(), name: name.to_owned(), target }
}

fn cluster(name: &str, addresses: &[&str]) -> Service {
    let ports = vec![port("http", "tcp", 80), port("dns", "udp", 53), port("", "tcp", 9)];
    service(name, Target::Cluster { addresses: addresses.iter().map(|address| ip(address)).collect(), ports })
}

fn headless(name: &str, endpoints: &[(&str, Option<&str>)]) -> Service {
    let endpoint = |(address, hostname): &(&str, Option<&str>)| Endpoint {
        address: ip(address),
        hostname: hostname.map(str::to_owned),
    };
    let slice = Endpoints {
        ports: vec![port("http", "tcp", 8080)],
        endpoints: endpoints.iter().map(endpoint).collect(),
    };
    service(name, Target::Headless(vec![slice]))
}

fn zone(services: Vec<Service>) -> Zone {
    let mut zone = Zone::new("cluster.local", &[ip("10.96.0.10"), ip("fd00::a")]).unwrap();
    zone.replace(services);
    zone
}

fn shop() -> Zone {
    zone(vec![
        cluster("web", &["10.96.0.7", "fd00::7"]),
        headless("db", &[("10.32.0.1", Some("db-0")), ("10.32.0.2", None), ("fd00:32::1", Some("db-0"))]),
        headless("idle", &[]),
        service("ext", Target::External("db.example.com".to_owned())),
    ])
}

/// An answer's data as `dig +short` prints it, in an order of its own; or `NODATA`, `NXDOMAIN`, `foreign`.
fn ask(zone: &Zone, name: &str, kind: RecordType) -> Vec<String> {
    let name = Name::from_ascii(format!("{name}.")).unwrap();
    let lines = match zone.lookup(&name, kind) {
        Lookup::Found { answers, .. } if answers.is_empty() => vec!["NODATA".to_owned()],
        Lookup::Found { answers, .. } => {
            assert!(answers.iter().all(|record| record.name == name && record.ttl == 5));
            answers.iter().map(|record| record.data.to_string()).collect()
        }
        Lookup::Alias { record, target } => {
            assert_eq!(record.name, name);
            vec![format!("alias {target}")]
        }
        Lookup::NoSuchName => vec!["NXDOMAIN".to_owned()],
        Lookup::Foreign => vec!["foreign".to_owned()],
    };
    lines.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn the_specification_record_by_record() {
    let zone = shop();
    use RecordType::{A, AAAA, MX, PTR, SRV, TXT};
    let cases: &[(&str, RecordType, &[&str])] = &[
        // 2.2: the version of the schema.
        ("dns-version.cluster.local", TXT, &["1.1.0"]),
        ("dns-version.cluster.local", A, &["NODATA"]),
        // 2.3: services with addresses.
        ("web.shop.svc.cluster.local", A, &["10.96.0.7"]),
        ("web.shop.svc.cluster.local", AAAA, &["fd00::7"]),
        ("WEB.Shop.svc.Cluster.LOCAL", A, &["10.96.0.7"]),
        ("web.shop.svc.cluster.local", MX, &["NODATA"]),
        ("_http._tcp.web.shop.svc.cluster.local", SRV, &["0 100 80 web.shop.svc.cluster.local."]),
        ("_dns._udp.web.shop.svc.cluster.local", SRV, &["0 100 53 web.shop.svc.cluster.local."]),
        ("_http._udp.web.shop.svc.cluster.local", SRV, &["NXDOMAIN"]),
        ("_http._tcp.web.shop.svc.cluster.local", A, &["NODATA"]),
        ("_tcp.web.shop.svc.cluster.local", SRV, &["NODATA"]),
        ("_sctp.web.shop.svc.cluster.local", SRV, &["NXDOMAIN"]),
        ("__._tcp.web.shop.svc.cluster.local", SRV, &["NXDOMAIN"]),
        ("http.tcp.web.shop.svc.cluster.local", SRV, &["NXDOMAIN"]),
        ("7.0.96.10.in-addr.arpa", PTR, &["web.shop.svc.cluster.local."]),
        // 2.4: headless services.
        ("db.shop.svc.cluster.local", A, &["10.32.0.1", "10.32.0.2"]),
        ("db.shop.svc.cluster.local", AAAA, &["fd00:32::1"]),
        ("db-0.db.shop.svc.cluster.local", A, &["10.32.0.1"]),
        ("db-0.db.shop.svc.cluster.local", AAAA, &["fd00:32::1"]),
        ("10-32-0-2.db.shop.svc.cluster.local", A, &["10.32.0.2"]),
        ("10-32-0-1.db.shop.svc.cluster.local", A, &["NXDOMAIN"]),
        (
            "_http._tcp.db.shop.svc.cluster.local",
            SRV,
            &["0 50 8080 10-32-0-2.db.shop.svc.cluster.local.", "0 50 8080 db-0.db.shop.svc.cluster.local."],
        ),
        ("_http._tcp.db.shop.svc.cluster.local", A, &["NODATA"]),
        ("_x._tcp.db.shop.svc.cluster.local", SRV, &["NXDOMAIN"]),
        ("1.0.32.10.in-addr.arpa", PTR, &["db-0.db.shop.svc.cluster.local."]),
        ("2.0.32.10.in-addr.arpa", PTR, &["10-32-0-2.db.shop.svc.cluster.local."]),
        ("idle.shop.svc.cluster.local", A, &["NXDOMAIN"]),
        // 2.5: external names.
        ("ext.shop.svc.cluster.local", A, &["alias db.example.com."]),
        ("x.ext.shop.svc.cluster.local", A, &["NXDOMAIN"]),
        // Pods, by their addresses.
        ("10-32-0-9.shop.pod.cluster.local", A, &["10.32.0.9"]),
        ("10-32-0-9.shop.pod.cluster.local", AAAA, &["NODATA"]),
        ("fd00-32--9.shop.pod.cluster.local", AAAA, &["fd00:32::9"]),
        ("10-32-0.shop.pod.cluster.local", A, &["NXDOMAIN"]),
        ("10-32-0-256.shop.pod.cluster.local", A, &["NXDOMAIN"]),
        // What is not there, and what merely holds other names.
        ("nobody.shop.svc.cluster.local", A, &["NXDOMAIN"]),
        ("web.nowhere.svc.cluster.local", A, &["NXDOMAIN"]),
        ("a.b.c.d.web.shop.svc.cluster.local", A, &["NXDOMAIN"]),
        ("shop.svc.cluster.local", A, &["NODATA"]),
        ("nowhere.svc.cluster.local", A, &["NXDOMAIN"]),
        ("svc.cluster.local", A, &["NODATA"]),
        ("cluster.local", A, &["NODATA"]),
        ("other.cluster.local", A, &["NXDOMAIN"]),
        // Somebody else's.
        ("example.com", A, &["foreign"]),
        ("notcluster.local", A, &["foreign"]),
        ("local", A, &["foreign"]),
        ("8.8.8.8.in-addr.arpa", PTR, &["foreign"]),
        ("96.10.in-addr.arpa", PTR, &["foreign"]),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(ask(&zone, name, *kind), *expected, "{name} {kind}");
    }
}

#[test]
fn addresses_of_both_families_lead_back() {
    let zone = shop();
    let reverse = |address: &str| {
        let mut name = Name::from(ip(address));
        name.set_fqdn(true);
        match zone.lookup(&name, RecordType::PTR) {
            Lookup::Found { answers, .. } => {
                answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reverse("fd00::7"), ["web.shop.svc.cluster.local."]);
    assert_eq!(reverse("fd00:32::1"), ["db-0.db.shop.svc.cluster.local."]);
}

#[test]
fn the_zone_says_who_serves_it() {
    let zone = shop();
    assert_eq!(ask(&zone, "cluster.local", RecordType::NS), ["ns.dns.cluster.local."]);
    assert_eq!(ask(&zone, "ns.dns.cluster.local", RecordType::A), ["10.96.0.10"]);
    assert_eq!(ask(&zone, "ns.dns.cluster.local", RecordType::AAAA), ["fd00::a"]);
    let soa = ask(&zone, "cluster.local", RecordType::SOA);
    assert!(soa[0].starts_with("ns.dns.cluster.local. hostmaster.cluster.local. "), "{soa:?}");
}

#[test]
fn srv_of_a_service_names_all_its_ports_and_brings_the_addresses_along() {
    let zone = shop();
    let ports = ask(&zone, "web.shop.svc.cluster.local", RecordType::SRV);
    let expected = [9, 53, 80].map(|port| format!("0 100 {port} web.shop.svc.cluster.local."));
    assert_eq!(ports.into_iter().collect::<BTreeSet<_>>(), expected.into_iter().collect());
    let name = Name::from_ascii("_http._tcp.db.shop.svc.cluster.local.").unwrap();
    let Lookup::Found { additionals, .. } = zone.lookup(&name, RecordType::SRV) else { panic!() };
    let along: BTreeSet<String> =
        additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    let expected = [
        "db-0.db.shop.svc.cluster.local. 10.32.0.1",
        "db-0.db.shop.svc.cluster.local. fd00:32::1",
        "10-32-0-2.db.shop.svc.cluster.local. 10.32.0.2",
    ];
    assert_eq!(along, expected.map(str::to_owned).into());
}

#[test]
fn a_cluster_may_have_another_domain() {
    let mut zone = Zone::new("Weir.Example.ORG.", &[]).unwrap();
    zone.set(cluster("web", &["10.96.0.7"]));
    assert_eq!(ask(&zone, "web.shop.svc.weir.example.org", RecordType::A), ["10.96.0.7"]);
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local", RecordType::A), ["foreign"]);
    for wrong in ["", ".", "a..b", &"x".repeat(70)] {
        assert!(Zone::new(wrong, &[]).is_err(), "{wrong:?}");
    }
}

#[test]
fn names_too_long_for_dns_are_left_out() {
    let long = "x".repeat(63);
    let mut service = headless(&long, &[("10.32.0.1", Some(&long))]);
    service.namespace = long.clone();
    let domain = format!("{long}.local");
    let mut zone = Zone::new(&domain, &[]).unwrap();
    zone.set(service);
    assert_eq!(ask(&zone, "1.0.32.10.in-addr.arpa", RecordType::PTR), ["NODATA"]);
}

#[test]
fn clients_of_a_headless_service_are_spread_over_its_endpoints() {
    let endpoints: Vec<(String, Option<&str>)> =
        (1..=4).map(|last| (format!("10.32.0.{last}"), None)).collect();
    let endpoints: Vec<_> =
        endpoints.iter().map(|(address, hostname)| (address.as_str(), *hostname)).collect();
    let zone = zone(vec![headless("db", &endpoints)]);
    let name = Name::from_ascii("db.shop.svc.cluster.local.").unwrap();
    let first = |_| match zone.lookup(&name, RecordType::A) {
        Lookup::Found { answers, .. } => answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!((0..200).map(first).collect::<BTreeSet<_>>().len(), 4);
}

fn services() -> impl Strategy<Value = Vec<(u8, Option<Service>)>> {
    let target = prop_oneof![
        prop::collection::vec(1..6_u8, 0..3).prop_map(|last| {
            let addresses = last.iter().map(|last| IpAddr::from([10, 96, 0, *last])).collect();
            Target::Cluster { addresses, ports: vec![port("http", "tcp", 80)] }
        }),
        prop::collection::vec((1..6_u8, prop::option::of(0..3_u8)), 0..4).prop_map(|endpoints| {
            let endpoint = |(last, host): (u8, Option<u8>)| Endpoint {
                address: [10, 32, 0, last].into(),
                hostname: host.map(|host| format!("h{host}")),
            };
            let endpoints = endpoints.into_iter().map(endpoint).collect();
            Target::Headless(vec![Endpoints { ports: vec![port("http", "tcp", 80)], endpoints }])
        }),
        Just(Target::External("example.com".to_owned())),
    ];
    let step = (0..4_u8, prop::option::weighted(0.8, target))
        .prop_map(|(index, target)| (index, target.map(|target| service(&format!("s{index}"), target))));
    prop::collection::vec(step, 1..30)
}

proptest! {
    #[test]
    fn changes_add_up_to_what_a_zone_made_at_once_answers(steps in services()) {
        let mut changed = zone(Vec::new());
        let mut present: BTreeMap<u8, Service> = BTreeMap::new();
        for (index, service) in steps {
            match service {
                Some(service) => {
                    present.insert(index, service.clone());
                    changed.set(service);
                }
                None => {
                    present.remove(&index);
                    changed.remove("shop", &format!("s{index}"));
                }
            }
        }
        let at_once = zone(present.values().cloned().collect());
        prop_assert_eq!(&changed.namespaces, &at_once.namespaces);
        let addresses = |zone: &Zone| zone.by_address.keys().copied().collect::<BTreeSet<_>>();
        prop_assert_eq!(addresses(&changed), addresses(&at_once));
        for address in addresses(&changed) {
            let name = Name::from(address).to_ascii();
            let name = name.trim_end_matches('.');
            prop_assert_eq!(ask(&changed, name, RecordType::PTR), ask(&at_once, name, RecordType::PTR));
        }
        for service in present.values() {
            // What an address's name stands for leads back to it.
            for address in service.addresses() {
                for target in ask(&changed, Name::from(address).to_ascii().trim_end_matches('.'), RecordType::PTR) {
                    let found = ask(&changed, target.trim_end_matches('.'), RecordType::A);
                    prop_assert!(found.contains(&address.to_string()), "{target} {found:?}");
                }
            }
        }
    }

    #[test]
    fn any_name_has_an_answer(labels in prop::collection::vec("[a-z0-9_-]{1,12}", 0..8), beneath in any::<bool>()) {
        let text = if beneath { [&labels[..], &["svc.cluster.local".to_owned()]].concat() } else { labels };
        if let Ok(mut name) = Name::from_ascii(text.join(".")) {
            name.set_fqdn(true);
            for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::PTR, RecordType::ANY] {
                shop().lookup(&name, kind);
            }
        }
    }
}
