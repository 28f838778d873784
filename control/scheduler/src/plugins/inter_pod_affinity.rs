//! Pods that want to be, or must not be, in one topology domain with other pods.
//!
//! Four sides: what the pod requires (near some pods, away from others), what placed pods require of it (their
//! anti-affinity), what the pod prefers, and what placed pods prefer. Each is a count per domain.

use crate::cluster::Cluster;
use crate::counters::{Carried, CounterId, Namespaces, Predicate};
use crate::framework::{Events, Reason, Refusal, Rule, Topology, scaled};
use crate::node::Candidate;
use crate::pod::{PodTerm, Shape};
use crate::settings::PodAffinity as PodAffinitySettings;
use crate::tally::{Domain, Tally};

#[derive(Clone, Copy, Debug)]
pub struct InterPodAffinity {
    settings: PodAffinitySettings,
}

impl InterPodAffinity {
    pub fn new(settings: PodAffinitySettings) -> Self {
        Self { settings }
    }
}

const NAME: &str = "InterPodAffinity";
const AFFINITY: Reason = Reason::fixed("node(s) didn't match pod affinity rules");
const ANTI_AFFINITY: Reason = Reason::fixed("node(s) didn't match pod anti-affinity rules");
const OTHERS_ANTI_AFFINITY: Reason =
    Reason::fixed("node(s) didn't satisfy existing pods anti-affinity rules");

#[derive(Debug)]
struct AffinityRule {
    roles: Vec<Role>,
    tallies: Vec<Tally>,
    /// The pod satisfies its own required affinity: the first of its kind may go anywhere.
    attracts_itself: bool,
}

/// What a tally is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Near,
    Away,
    AwayFromOthers,
    Prefers(i64),
}

impl Topology for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn helped_by(&self) -> Events {
        let nodes = Events::NODE_ADDED | Events::NODE_LABELS;
        nodes | Events::POD_GONE | Events::POD_CAME | Events::POD_CHANGED | Events::NAMESPACE_LABELS
    }

    fn rule(&self, pod: &Shape, cluster: &mut Cluster) -> Option<Box<dyn Rule>> {
        let wishes = self.wishes(pod, cluster);
        if wishes.is_empty() {
            return None;
        }
        let required = &pod.affinity.required;
        let mut rule = AffinityRule {
            roles: Vec::new(),
            tallies: Vec::new(),
            attracts_itself: required.iter().all(|term| term.pods.selects(pod, &cluster.namespaces)),
        };
        for (role, predicate, key) in wishes {
            let counter: CounterId = cluster.acquire(predicate);
            rule.roles.push(role);
            rule.tallies.push(Tally::new(cluster, counter, &key, |_| true));
        }
        Some(Box::new(rule))
    }

    fn opposed_by(
        &self,
        expected: &Shape,
        pod: &Shape,
        node: Candidate<'_>,
        namespaces: &Namespaces,
    ) -> Option<Refusal> {
        let mut terms = expected.affinity.anti_required.iter();
        let opposed = terms.any(|term| {
            node.spec.labels.contains_key(&term.topology_key) && term.pods.selects(pod, namespaces)
        });
        opposed.then(|| Refusal::crowded(OTHERS_ANTI_AFFINITY))
    }
}

impl InterPodAffinity {
    /// All that bears on the pod, its own terms and those of placed pods: what to count, over which topology.
    fn wishes(&self, pod: &Shape, cluster: &Cluster) -> Vec<(Role, Predicate, String)> {
        let affinity = &pod.affinity;
        let selected = |terms: &[PodTerm]| Predicate::Selected {
            selectors: terms.iter().map(|term| term.pods.clone()).collect(),
            terminating: true,
        };
        let one =
            |role, term: &PodTerm| (role, selected(std::slice::from_ref(term)), term.topology_key.clone());
        let mut wishes = Vec::new();
        for term in &affinity.required {
            // A pod that one is to be near has to match all terms.
            wishes.push((Role::Near, selected(&affinity.required), term.topology_key.clone()));
        }
        wishes.extend(affinity.anti_required.iter().map(|term| one(Role::Away, term)));
        wishes.extend(affinity.preferred.iter().map(|(weight, term)| one(Role::Prefers(*weight), term)));
        wishes
            .extend(affinity.anti_preferred.iter().map(|(weight, term)| one(Role::Prefers(-*weight), term)));
        // Whether what placed pods merely prefer counts for one that has no wishes of its own.
        let prefers = !affinity.preferred.is_empty() || !affinity.anti_preferred.is_empty();
        let heeded = prefers || !self.settings.ignore_preferred_terms_of_others;
        for (carried, _) in cluster.counters.carried() {
            if carried.term().pods.selects(pod, &cluster.namespaces) {
                let role = match carried {
                    Carried::AntiRequired(_) => Role::AwayFromOthers,
                    _ if !heeded => continue,
                    Carried::Required(_) => Role::Prefers(self.settings.hard_weight),
                    Carried::Preferred(weight, _) => Role::Prefers(*weight),
                    Carried::AntiPreferred(weight, _) => Role::Prefers(-*weight),
                };
                wishes.push((role, Predicate::Carries(carried.clone()), carried.term().topology_key.clone()));
            }
        }
        wishes
    }
}

impl AffinityRule {
    fn each<'a>(&'a self, domains: &'a [Domain]) -> impl Iterator<Item = (Role, &'a Tally, Domain)> {
        self.roles
            .iter()
            .zip(&self.tallies)
            .zip(domains)
            .map(|((role, tally), domain)| (*role, tally, *domain))
    }

    fn is_first_of_its_kind(&self) -> bool {
        let mut near = self.roles.iter().zip(&self.tallies).filter(|(role, _)| **role == Role::Near);
        self.attracts_itself && near.all(|(_, tally)| tally.total() == 0)
    }
}

impl Rule for AffinityRule {
    fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    fn tallies_mut(&mut self) -> &mut [Tally] {
        &mut self.tallies
    }

    /// Kubernetes' order: own affinity, own anti-affinity, that of others.
    fn filter(&self, domains: &[Domain]) -> Result<(), Refusal> {
        let mut near = self.each(domains).filter(|(role, ..)| *role == Role::Near);
        if near.any(|(_, tally, domain)| {
            domain.is_none() || (tally.at(domain) == 0 && !self.is_first_of_its_kind())
        }) {
            return Err(Refusal::lasting(AFFINITY));
        }
        let occupied = |wanted: Role| {
            self.each(domains).any(|(role, tally, domain)| role == wanted && tally.at(domain) > 0)
        };
        if occupied(Role::Away) {
            return Err(Refusal::crowded(ANTI_AFFINITY));
        }
        if occupied(Role::AwayFromOthers) {
            return Err(Refusal::crowded(OTHERS_ANTI_AFFINITY));
        }
        Ok(())
    }

    fn scores(&self) -> bool {
        self.roles.iter().any(|role| matches!(role, Role::Prefers(_)))
    }

    fn score(&self, domains: &[Domain]) -> i64 {
        let preference = |(role, tally, domain): (Role, &Tally, Domain)| match role {
            Role::Prefers(weight) => weight * tally.at(domain),
            _ => 0,
        };
        self.each(domains).map(preference).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (Some(least), Some(most)) = (scores.iter().copied().min(), scores.iter().copied().max()) else {
            return;
        };
        for score in scores {
            *score = if most > least { scaled(*score - least, most - least) } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::Profile;
    use crate::placement::Placer;
    use crate::pod::PodAffinity;
    use crate::selector::Selector;
    use crate::testing::{NodeBuilder, asking, pod, selector};

    fn term(key: &str, app: &str) -> PodTerm {
        PodTerm { pods: selector("app", app), topology_key: key.to_owned() }
    }

    fn app(name: &str, affinity: PodAffinity) -> Shape {
        let mut shape = Shape { affinity, ..asking(10, 10) };
        shape.labels.insert("app".to_owned(), name.to_owned());
        shape
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
            NodeBuilder::new(name).label("zone", zone).label("host", name).join(&mut cluster);
        }
        cluster
    }

    fn place(cluster: &mut Cluster, shape: &Shape, count: usize) -> Vec<Result<String, String>> {
        let mut placer = Placer::new(Profile::default());
        let place = |index| match placer.place(&pod(&format!("new-{index}"), shape.clone()), cluster) {
            Ok(slot) => Ok(cluster.node(slot).unwrap().name.to_string()),
            Err(failure) => Err(failure.to_string()),
        };
        (0..count).map(place).collect()
    }

    #[test]
    fn anti_affinity_places_one_per_host_and_then_says_why() {
        let affinity = PodAffinity { anti_required: vec![term("host", "db")], ..PodAffinity::default() };
        let mut placed = place(&mut cluster(), &app("db", affinity), 5);
        let last = placed.pop().unwrap();
        placed.sort();
        assert_eq!(placed, ["a1", "a2", "b1", "b2"].map(|name| Ok(name.to_owned())));
        assert_eq!(
            last.unwrap_err(),
            "0/4 nodes are available: 4 node(s) didn't match pod anti-affinity rules."
        );
    }

    #[test]
    fn placed_pods_keep_others_away() {
        let mut cluster = cluster();
        let hermit = PodAffinity { anti_required: vec![term("zone", "web")], ..PodAffinity::default() };
        cluster.set_pod(pod("hermit", app("hermit", hermit.clone())), "a1");
        let web = app("web", PodAffinity::default());
        for node in place(&mut cluster, &web, 4) {
            assert!(node.unwrap().starts_with('b'));
        }
        cluster.set_pod(pod("hermit-2", app("hermit", hermit)), "b1");
        assert_eq!(
            place(&mut cluster, &web, 1),
            [Err("0/4 nodes are available: 4 node(s) didn't satisfy existing pods anti-affinity rules."
                .to_owned())]
        );
        cluster.remove_pod("hermit");
        assert!(place(&mut cluster, &web, 1)[0].as_ref().unwrap().starts_with('a'));
    }

    #[test]
    fn affinity_follows_its_pods_and_the_first_may_go_anywhere() {
        let near = |name: &str| PodAffinity { required: vec![term("zone", name)], ..PodAffinity::default() };
        let alone = place(&mut cluster(), &app("web", near("cache")), 1);
        assert_eq!(
            alone,
            [Err("0/4 nodes are available: 4 node(s) didn't match pod affinity rules.".to_owned())]
        );
        let mut with_cache = cluster();
        with_cache.set_pod(pod("cache", app("cache", PodAffinity::default())), "b2");
        assert!(
            place(&mut with_cache, &app("web", near("cache")), 3)
                .iter()
                .flatten()
                .all(|name| name.starts_with('b'))
        );
        let group = place(&mut cluster(), &app("web", near("web")), 4);
        let zones: Vec<_> = group.iter().flatten().map(|name| &name[..1]).collect();
        assert!(zones.len() == 4 && zones.iter().all(|zone| *zone == zones[0]), "{group:?}");
    }

    #[test]
    fn preferences_of_both_sides_decide_between_nodes_that_fit() {
        let mut cluster = cluster();
        cluster.set_pod(pod("cache", app("cache", PodAffinity::default())), "b2");
        let fond = PodAffinity { preferred: vec![(50, term("host", "cache"))], ..PodAffinity::default() };
        assert_eq!(place(&mut cluster, &app("web", fond), 1), [Ok("b2".to_owned())]);
        let averse =
            PodAffinity { anti_preferred: vec![(50, term("zone", "cache"))], ..PodAffinity::default() };
        assert!(place(&mut cluster, &app("batch", averse), 1)[0].as_ref().unwrap().starts_with('a'));
        let magnet = PodAffinity { preferred: vec![(50, term("host", "iron"))], ..PodAffinity::default() };
        cluster.set_pod(pod("magnet", app("magnet", magnet)), "a2");
        assert_eq!(place(&mut cluster, &app("iron", PodAffinity::default()), 1), [Ok("a2".to_owned())]);
    }

    #[test]
    fn a_namespace_selector_reaches_pods_of_namespaces_with_its_labels() {
        let mut cluster = cluster();
        let mut other = app("db", PodAffinity::default());
        other.namespace = "other".to_owned();
        for node in ["a1", "a2", "b1"] {
            cluster.set_pod(pod(node, other.clone()), node);
        }
        let mut away = term("host", "db");
        away.pods.namespaces.clear();
        away.pods.namespace_labels = Some(Selector(vec![crate::selector::Requirement::is("team", "data")]));
        let shape = app("web", PodAffinity { anti_required: vec![away], ..PodAffinity::default() });
        cluster.set_namespace("other", Some([("team".to_owned(), "data".to_owned())].into()));
        assert_eq!(place(&mut cluster, &shape, 1), [Ok("b2".to_owned())]);
    }

    #[test]
    fn an_empty_namespace_selector_reaches_every_namespace() {
        let mut cluster = cluster();
        let other = Shape { namespace: "unheard-of".to_owned(), ..app("db", PodAffinity::default()) };
        for node in ["a1", "a2", "b1"] {
            cluster.set_pod(pod(node, other.clone()), node);
        }
        let mut away = term("host", "db");
        away.pods.namespaces.clear();
        let in_own = PodAffinity { anti_required: vec![away.clone()], ..PodAffinity::default() };
        assert!(place(&mut cluster, &app("web", in_own), 1)[0].is_ok());
        cluster.remove_pod("new-0");
        away.pods.namespace_labels = Some(Selector::default());
        let everywhere = PodAffinity { anti_required: vec![away], ..PodAffinity::default() };
        assert_eq!(place(&mut cluster, &app("web", everywhere), 1), [Ok("b2".to_owned())]);
    }

    #[test]
    fn what_placed_pods_require_draws_others_by_the_hard_weight() {
        let magnet = PodAffinity { required: vec![term("zone", "iron")], ..PodAffinity::default() };
        let placed = |hard_weight: i64, ignore_preferred_terms_of_others: bool| {
            let settings = PodAffinitySettings { hard_weight, ignore_preferred_terms_of_others };
            let settings = crate::settings::Settings { pod_affinity: settings, ..Default::default() };
            let mut cluster = cluster();
            let mut carrier = app("magnet", magnet.clone());
            carrier.requests = crate::resources::Resources::new(3_000, 0);
            carrier.scoring_requests = carrier.requests.clone();
            cluster.set_pod(pod("magnet", carrier), "b2");
            let mut placer = Placer::new(Profile::new(&settings));
            let slot = placer.place(&pod("iron", app("iron", PodAffinity::default())), &mut cluster).unwrap();
            cluster.node(slot).unwrap().name.to_string()
        };
        assert!(placed(1, false).starts_with('b'));
        assert!(placed(0, false).starts_with('a'));
        assert!(placed(1, true).starts_with('a'));
    }
}
