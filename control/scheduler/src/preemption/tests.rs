use proptest::prelude::*;

use super::*;
use crate::placement::Placer;
use crate::pod::{HostPort, PodAffinity, PodTerm, Protocol, Shape, SpreadConstraint, WhenUnsatisfiable};
use crate::testing::{NodeBuilder, asking, pod_of, selector};

/// A pod on a node.
#[derive(Clone, Debug)]
struct Placed {
    node: usize,
    priority: i32,
    milli_cpu: i64,
    kind: Kind,
    started: Option<i64>,
}

/// What pods may stand in each other's way with, besides their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Wants port 80 of its host.
    Port,
    /// Wants no other of its kind in its zone.
    Hermit,
    /// Wants to be spread over zones.
    Spread,
}

const NODES: usize = 5;

fn shape(milli_cpu: i64, kind: Kind) -> Shape {
    let mut shape = asking(milli_cpu, milli_cpu);
    let app = format!("{kind:?}");
    shape.labels.insert("app".to_owned(), app.clone());
    match kind {
        Kind::Plain => {}
        Kind::Port => {
            shape.host_ports = vec![HostPort { address: None, protocol: Protocol::Tcp, port: 80 }];
        }
        Kind::Hermit => {
            let term = PodTerm { pods: selector("app", &app), topology_key: "zone".to_owned() };
            shape.affinity = PodAffinity { anti_required: vec![term], ..PodAffinity::default() };
        }
        Kind::Spread => shape.spread.push(SpreadConstraint {
            max_skew: 1,
            topology_key: "zone".to_owned(),
            when_unsatisfiable: WhenUnsatisfiable::DoNotSchedule,
            pods: selector("app", &app),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        }),
    }
    shape
}

fn cluster(placed: &[(String, Placed)]) -> Cluster {
    let mut cluster = Cluster::default();
    for index in 0..NODES {
        let name = format!("node-{index}");
        let zone = if index % 2 == 0 { "even" } else { "odd" };
        let node = NodeBuilder::new(&name).label("zone", zone).label("host", &name);
        node.offers(1_000, 1_000).pods_allowed(6).join(&mut cluster);
    }
    for (uid, pod) in placed {
        let info = pod_of(uid, pod.priority, shape(pod.milli_cpu, pod.kind));
        cluster.set_pod(info, &format!("node-{}", pod.node));
        cluster.set_started(uid, pod.started);
    }
    cluster
}

/// `None`: it fits as it is.
fn preempt(pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Option<Preemption> {
    let mut placer = Placer::new(Profile::default());
    let failure = placer.place(pod, cluster).err()?;
    Some(placer.preempt(pod, &failure, cluster))
}

/// Whether the pod may go to this very node.
fn fits(pod: &Arc<PodInfo>, node: &str, placed: &[(String, Placed)]) -> bool {
    let mut cluster = cluster(placed);
    cluster.nominations.nominate(pod.clone(), node.into());
    Placer::new(Profile::default()).place(pod, &mut cluster).ok() == cluster.slot(node)
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        5 => Just(Kind::Plain), 1 => Just(Kind::Port), 1 => Just(Kind::Hermit), 1 => Just(Kind::Spread)
    ]
}

fn placed() -> impl Strategy<Value = Vec<(String, Placed)>> {
    let one = (0..NODES, 0..4, 100..700_i64, kinds(), prop::option::of(0..5_i64));
    let one = one.prop_map(|(node, priority, milli_cpu, kind, started)| Placed {
        node,
        priority,
        milli_cpu,
        kind,
        started,
    });
    prop::collection::vec(one, 5..25).prop_map(|placed| {
        placed.into_iter().enumerate().map(|(i, pod)| (format!("pod-{i:02}"), pod)).collect()
    })
}

fn without(placed: &[(String, Placed)], gone: impl Fn(&str, &Placed) -> bool) -> Vec<(String, Placed)> {
    placed.iter().filter(|(uid, pod)| !gone(uid, pod)).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn victims_are_of_lower_priority_enough_and_none_too_many(
        placed in placed(), priority in 1..5_i32, milli_cpu in 200..1_000_i64, kind in kinds(),
    ) {
        let pod = pod_of("new", priority, shape(milli_cpu, kind));
        let mut crowd = cluster(&placed);
        match preempt(&pod, &mut crowd) {
            None => {}
            Some(Preemption::Ineligible(why)) => prop_assert!(false, "{why}"),
            Some(Preemption::Victims { slot, pods }) => {
                let node = crowd.node(slot).unwrap().name.to_string();
                let victims: Vec<&str> = pods.iter().map(|victim| &*victim.uid).collect();
                prop_assert!(pods.iter().all(|victim| victim.priority < priority), "{victims:?}");
                let here = |uid: &&str| crowd.node_of(uid).is_some_and(|found| *found.name == *node);
                prop_assert!(victims.iter().all(here), "{victims:?}");
                let left = without(&placed, |uid, _| victims.contains(&uid));
                prop_assert!(fits(&pod, &node, &left), "{victims:?} of {node} are not enough");
                // Letting a pod back may even out how others are spread: that is not looked for again.
                for spared in victims.iter().filter(|_| kind != Kind::Spread) {
                    let left = without(&placed, |uid, _| victims.contains(&uid) && uid != *spared);
                    prop_assert!(!fits(&pod, &node, &left), "{spared} of {victims:?} need not leave {node}");
                }
            }
            Some(Preemption::Fruitless(_)) => for node in 0..NODES {
                let left = without(&placed, |_, pod| pod.node == node && pod.priority < priority);
                prop_assert!(!fits(&pod, &format!("node-{node}"), &left), "node-{node} would do");
            }
        }
    }

    #[test]
    fn a_trial_leaves_no_trace(placed in placed(), milli_cpu in 200..1_000_i64, kind in kinds()) {
        let shape = Arc::new(shape(milli_cpu, kind));
        let pod = |uid: &str, priority| Arc::new(PodInfo {
            shape: shape.clone(), ..(*pod_of(uid, priority, Shape::default())).clone()
        });
        let mut cluster = cluster(&placed);
        let mut placer = Placer::new(Profile::default());
        let Err(before) = placer.place(&pod("new", 4), &mut cluster) else { return Ok(()) };
        let first = format!("{:?}", placer.preempt(&pod("new", 4), &before, &cluster));
        // The evaluation that was tried with decides as one made anew does.
        let again = placer.place(&pod("other", 4), &mut cluster).unwrap_err();
        prop_assert_eq!(before.to_string(), again.to_string());
        let mut fresh = Placer::new(Profile::default());
        let anew = fresh.place(&pod("other", 4), &mut cluster).unwrap_err();
        prop_assert_eq!(anew.to_string(), again.to_string());
        prop_assert_eq!(first, format!("{:?}", fresh.preempt(&pod("new", 4), &anew, &cluster)));
    }
}

/// "node-1: a, b", or why not.
fn outcome(pod: &Arc<PodInfo>, cluster: &mut Cluster) -> String {
    match preempt(pod, cluster).expect("the pod fits as it is") {
        Preemption::Ineligible(why) => why.to_owned(),
        Preemption::Fruitless(why) => why.to_string(),
        Preemption::Victims { slot, pods } => {
            let victims: Vec<&str> = pods.iter().map(|victim| &*victim.uid).collect();
            format!("{}: {}", cluster.node(slot).unwrap().name, victims.join(", "))
        }
    }
}

/// Nodes n1, n2, … of 1000 each, with pods of (uid, priority, milli_cpu, started).
fn nodes(pods: &[&[(&str, i32, i64, i64)]]) -> Cluster {
    let mut cluster = Cluster::default();
    for (index, pods) in pods.iter().enumerate() {
        let name = format!("n{}", index + 1);
        NodeBuilder::new(&name).offers(1_000, 1_000).join(&mut cluster);
        for (uid, priority, milli_cpu, started) in *pods {
            cluster.set_pod(pod_of(uid, *priority, asking(*milli_cpu, 1)), &name);
            cluster.set_started(uid, Some(*started));
        }
    }
    cluster
}

#[test]
fn the_node_whose_victims_matter_least_is_chosen() {
    for (pods, expected) in [
        // The lowest highest priority.
        (&[&[("a", 5, 900, 0)][..], &[("b", 4, 450, 0), ("c", 4, 450, 0)]][..], "n2: b, c"),
        // The lowest sum of priorities: fewer first.
        (&[&[("a", 4, 450, 0), ("b", 3, 450, 0)], &[("c", 4, 450, 0), ("d", 2, 450, 0)]], "n2: c, d"),
        (&[&[("a", 4, 450, 0), ("b", 4, 450, 0)], &[("c", 4, 900, 0)]], "n2: c"),
        // The one whose most important victim was started last.
        (&[&[("a", 4, 900, 7)], &[("b", 4, 900, 9)], &[("c", 4, 900, 8)]], "n2: b"),
        // The first.
        (&[&[("a", 4, 900, 7)], &[("b", 4, 900, 7)]], "n1: a"),
    ] {
        let found = outcome(&pod_of("new", 9, asking(800, 1)), &mut nodes(pods));
        assert_eq!(found, expected, "{pods:?}");
    }
}

#[test]
fn the_more_important_pods_are_let_back_first() {
    let pods: &[&[_]] =
        &[&[("old", 3, 300, 1), ("young", 3, 300, 5), ("high", 4, 300, 9), ("low", 1, 100, 0)]];
    // 500 have to go: the high one stays, then the older of the two equals; the low one makes no room of note.
    assert_eq!(outcome(&pod_of("new", 9, asking(400, 1)), &mut nodes(pods)), "n1: young, low");
    assert_eq!(outcome(&pod_of("new", 9, asking(300, 1)), &mut nodes(pods)), "n1: young");
    assert_eq!(outcome(&pod_of("new", 9, asking(1000, 1)), &mut nodes(pods)), "n1: high, old, young, low");
}

#[test]
fn where_nobody_can_make_room_it_is_said_why() {
    let mut cluster = nodes(&[&[("peer", 9, 900, 0)], &[("low", 1, 10, 0), ("peer-2", 9, 900, 0)], &[]]);
    NodeBuilder::new("n3").offers(1_000, 1_000).change(|spec| spec.unschedulable = true).join(&mut cluster);
    let pod = pod_of("new", 9, asking(500, 1));
    let expected = "0/3 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod, 1 \
                    Preemption is not helpful for scheduling.";
    assert_eq!(outcome(&pod, &mut cluster), expected);
    let never = Arc::new(PodInfo { preempts: false, ..(*pod).clone() });
    assert_eq!(outcome(&never, &mut cluster), "not eligible due to preemptionPolicy=Never.");
    // What no empty node could give is not asked for.
    let giant = pod_of("giant", 10, asking(5_000, 1));
    let expected = "0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    assert_eq!(outcome(&giant, &mut cluster), expected);
}

#[test]
fn nobody_is_asked_again_while_victims_are_on_their_way_out() {
    let mut cluster = nodes(&[&[("a", 1, 900, 0)], &[("b", 2, 900, 0)]]);
    let pod = pod_of("new", 9, asking(500, 1));
    assert_eq!(outcome(&pod, &mut cluster), "n1: a");
    cluster.nominations.nominate(pod.clone(), "n1".into());
    cluster.doom(&"a".into());
    assert_eq!(outcome(&pod, &mut cluster), "not eligible due to terminating pod on the nominated node.");
    // A victim that is spared after all, or a node that is out of the question by now, is not waited for.
    cluster.spare("a");
    assert_eq!(outcome(&pod, &mut cluster), "n1: a");
    cluster.doom(&"a".into());
    NodeBuilder::new("n1").offers(1_000, 1_000).change(|spec| spec.unschedulable = true).join(&mut cluster);
    assert_eq!(outcome(&pod, &mut cluster), "n2: b");
}

#[test]
fn room_that_was_made_for_one_is_not_given_to_another() {
    let mut cluster = nodes(&[&[("a", 1, 900, 0)]]);
    let first = pod_of("first", 9, asking(900, 1));
    assert_eq!(outcome(&first, &mut cluster), "n1: a");
    cluster.nominations.nominate(first.clone(), "n1".into());
    cluster.remove_pod("a");
    let mut placer = Placer::new(Profile::default());
    for (uid, priority) in [("low", 1), ("equal", 9)] {
        let failure = placer.place(&pod_of(uid, priority, asking(500, 1)), &mut cluster).unwrap_err();
        assert_eq!(failure.to_string(), "0/1 nodes are available: 1 Insufficient cpu.", "{uid}");
    }
    // What fits beside it may come; a pod of higher priority may take the room; then it is the pod's own.
    assert!(placer.place(&pod_of("small", 1, asking(100, 1)), &mut cluster).is_ok());
    assert!(placer.place(&pod_of("higher", 10, asking(500, 1)), &mut cluster).is_ok());
    cluster.remove_pod("higher");
    assert_eq!(placer.place(&first, &mut cluster).ok(), cluster.slot("n1"));
}

#[test]
fn of_equal_pods_each_makes_room_elsewhere() {
    let mut cluster = nodes(&[&[("a", 1, 900, 0)], &[("b", 1, 900, 0)]]);
    let mut placer = Placer::new(Profile::default());
    let mut found = Vec::new();
    for uid in ["x", "y", "z"] {
        let pod = pod_of(uid, 9, asking(900, 1));
        let failure = placer.place(&pod, &mut cluster).unwrap_err();
        match placer.preempt(&pod, &failure, &cluster) {
            Preemption::Victims { slot, pods } => {
                let node = cluster.node(slot).unwrap().name.clone();
                found.push(format!("{node}: {}", pods[0].uid));
                cluster.nominations.nominate(pod, node);
            }
            Preemption::Fruitless(why) => found.push(why.to_string()),
            Preemption::Ineligible(why) => found.push(why.to_owned()),
        }
    }
    assert_eq!(found, ["n1: a", "n2: b", "0/2 nodes are available: 2 Insufficient cpu."]);
}

#[test]
fn a_pod_expected_on_a_node_keeps_those_away_that_it_wants_away() {
    let mut cluster = Cluster::default();
    NodeBuilder::new("n1").label("zone", "a").join(&mut cluster);
    let term = PodTerm { pods: selector("app", "web"), topology_key: "zone".to_owned() };
    let affinity = PodAffinity { anti_required: vec![term], ..PodAffinity::default() };
    let hermit = pod_of("hermit", 9, Shape { affinity, ..asking(10, 10) });
    cluster.nominations.nominate(hermit.clone(), "n1".into());
    let mut web = asking(10, 10);
    web.labels.insert("app".to_owned(), "web".to_owned());
    let mut placer = Placer::new(Profile::default());
    let failure = placer.place(&pod_of("web", 1, web.clone()), &mut cluster).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    cluster.nominations.withdraw("hermit");
    assert!(placer.place(&pod_of("web", 1, web), &mut cluster).is_ok());
}

#[test]
fn affinity_to_a_pod_that_is_only_expected_is_not_enough() {
    let mut cluster = Cluster::default();
    NodeBuilder::new("n1").label("zone", "a").join(&mut cluster);
    let mut cache = asking(10, 10);
    cache.labels.insert("app".to_owned(), "cache".to_owned());
    cluster.nominations.nominate(pod_of("cache", 9, cache), "n1".into());
    let term = PodTerm { pods: selector("app", "cache"), topology_key: "zone".to_owned() };
    let affinity = PodAffinity { required: vec![term], ..PodAffinity::default() };
    let web = pod_of("web", 1, Shape { affinity, ..asking(10, 10) });
    assert!(Placer::new(Profile::default()).place(&web, &mut cluster).is_err());
}

#[test]
fn the_work_is_bounded_and_begins_elsewhere_each_time() {
    let mut cluster = Cluster::default();
    for index in 0..300 {
        let name = format!("n{index:03}");
        NodeBuilder::new(&name).offers(1_000, 1_000).join(&mut cluster);
        cluster.set_pod(pod_of(&format!("on-{name}"), 1, asking(900, 1)), &name);
    }
    let mut placer = Placer::new(Profile::default());
    let mut chosen = |uid: &str| {
        let pod = pod_of(uid, 9, asking(500, 1));
        let failure = placer.place(&pod, &mut cluster).unwrap_err();
        match placer.preempt(&pod, &failure, &cluster) {
            Preemption::Victims { slot, .. } => slot,
            other => panic!("{other:?}"),
        }
    };
    // 100 of 300 nodes are looked at, and then the next 100.
    assert_eq!([chosen("a"), chosen("b"), chosen("c"), chosen("d")], [0, 100, 200, 0]);
    let limits = settings::Preemption { candidates_percentage: 10, candidates_absolute: 100 };
    let preemptor = Preemptor::new(limits);
    for (nodes, expected) in [(0, 0), (1, 1), (99, 99), (300, 100), (1000, 100), (5000, 500)] {
        assert_eq!(preemptor.candidates_of(nodes), expected, "{nodes}");
    }
}
