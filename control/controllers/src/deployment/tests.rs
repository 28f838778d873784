//! Deployment plans, performed on a model of sets and pods: step by step they are safe, and left alone they arrive.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weir_proto::IntOrString;
use weir_proto::apps::v1::{Deployment, DeploymentStrategy, ReplicaSet, RollingUpdateDeployment};
use weir_proto::core::v1::{Container, PodSpec, PodTemplateSpec};
use weir_proto::meta::v1::{LabelSelector, ObjectMeta, Time};

use super::limits::Limits;
use super::plan::{Observed, Plan, plan};
use super::sets::{REVISION, wanted};

/// A deployment, its sets, and of each set how many pods there are and how many of them are ready.
#[derive(Debug, Clone)]
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    pods: BTreeMap<String, (i32, i32)>,
    clock: i64,
}

impl World {
    fn new(replicas: i32, surge: IntOrString, unavailable: IntOrString) -> World {
        let mut deployment = Deployment::default();
        *deployment.meta_mut() = ObjectMeta {
            name: "web".to_owned(),
            namespace: "ns".to_owned(),
            uid: "d".to_owned(),
            generation: 1,
            ..ObjectMeta::default()
        };
        let spec = deployment.spec_mut();
        spec.replicas = Some(replicas);
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        spec.selector = Some(LabelSelector { match_labels: labels.clone(), match_expressions: Vec::new() });
        spec.template = Some(PodTemplateSpec {
            metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
            spec: Some(PodSpec::default()),
        });
        let rolling = RollingUpdateDeployment { max_surge: Some(surge), max_unavailable: Some(unavailable) };
        spec.strategy =
            Some(DeploymentStrategy { r#type: "RollingUpdate".to_owned(), rolling_update: Some(rolling) });
        let mut world = World { deployment, sets: Vec::new(), pods: BTreeMap::new(), clock: 1000 };
        world.use_image("v1");
        world
    }

    fn use_image(&mut self, image: &str) {
        let template = self.deployment.spec_mut().template.get_or_insert_default();
        let container = Container { image: image.to_owned(), ..Container::default() };
        template.spec.get_or_insert_default().containers = vec![container];
        self.deployment.meta_mut().generation += 1;
    }

    fn resize(&mut self, replicas: i32) {
        self.deployment.spec_mut().replicas = Some(replicas);
        self.deployment.meta_mut().generation += 1;
    }

    fn recreates(mut self) -> World {
        self.deployment.spec_mut().strategy =
            Some(DeploymentStrategy { r#type: "Recreate".to_owned(), rolling_update: None });
        self
    }

    fn plan(&self) -> Plan {
        let running = self.pods.iter().map(|(uid, (pods, _))| (uid.clone(), *pods as usize)).collect();
        let observed = Observed { deployment: &self.deployment, sets: &self.sets, running };
        plan(&observed, Time::from_unix(self.clock))
    }

    fn perform(&mut self, plan: Plan) {
        self.clock += 1;
        if let Some(mut set) = plan.create {
            set.meta_mut().uid = set.meta().name.clone();
            set.meta_mut().creation_timestamp = Some(Time::from_unix(self.clock));
            self.pods.insert(set.meta().uid.clone(), (0, 0));
            self.sets.push(set);
        }
        for mut set in plan.update {
            set.meta_mut().generation += 1;
            let present = self.sets.iter_mut().find(|s| s.meta().name == set.meta().name).unwrap();
            set.status = present.status.clone();
            *present = set;
        }
        self.sets.retain(|set| plan.delete.iter().all(|gone| gone.meta().name != set.meta().name));
        if let Some(revision) = plan.revision {
            self.deployment.meta_mut().annotations.insert(REVISION.to_owned(), revision.to_string());
        }
        if let Some(status) = plan.status {
            *self.deployment.status_mut() = status;
        }
    }

    fn step(&mut self) {
        let plan = self.plan();
        self.perform(plan);
    }

    /// The set's own controller: pods as wanted, those that are not ready going first.
    fn act(&mut self, index: usize) {
        let Some(set) = self.sets.get(index) else { return };
        let (wanted, uid) = (wanted(set), set.meta().uid.clone());
        let (_, ready) = self.pods[&uid];
        self.pods.insert(uid, (wanted, ready.min(wanted)));
        self.report(index);
    }

    fn report(&mut self, index: usize) {
        let set = &mut self.sets[index];
        let (pods, ready) = self.pods[&set.meta().uid];
        let generation = set.meta().generation;
        let status = set.status_mut();
        status.observed_generation = generation;
        status.replicas = pods;
        status.ready_replicas = ready;
        status.available_replicas = ready;
    }

    fn turn(&mut self, index: usize, ready: bool) {
        let Some(set) = self.sets.get(index) else { return };
        let pods = self.pods.get_mut(&set.meta().uid).unwrap();
        pods.1 = (pods.1 + if ready { 1 } else { -1 }).clamp(0, pods.0);
        self.report(index);
    }

    /// Everybody does what is wanted of them, until nothing is left to do.
    fn settle(&mut self) -> bool {
        for _ in 0..100 {
            let plan = self.plan();
            let done = plan.is_empty();
            self.perform(plan);
            for index in 0..self.sets.len() {
                self.act(index);
                for _ in 0..100 {
                    self.turn(index, true);
                }
            }
            if done && self.plan().is_empty() {
                return true;
            }
        }
        false
    }

    /// Pods that there are, or will be.
    fn present(&self) -> i32 {
        self.sets.iter().map(|set| self.pods[&set.meta().uid].0.max(wanted(set))).sum()
    }

    /// Ready pods that stay, when every set has done what is wanted of it.
    fn staying_ready(&self) -> i32 {
        self.sets.iter().map(|set| self.pods[&set.meta().uid].1.min(wanted(set))).sum()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let conditions = &self.deployment.status().conditions;
        let found = conditions.iter().find(|condition| condition.r#type == kind);
        found.map(|c| (c.status.clone(), c.reason.clone())).unwrap_or_default()
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(wanted).collect()
    }
}

fn ints(surge: i32, unavailable: i32) -> (IntOrString, IntOrString) {
    (IntOrString::from(surge), IntOrString::from(unavailable))
}

fn settled(replicas: i32, surge: i32, unavailable: i32) -> World {
    let (surge, unavailable) = ints(surge, unavailable);
    let mut world = World::new(replicas, surge, unavailable);
    assert!(world.settle(), "{world:?}");
    world
}

#[test]
fn a_new_deployment_makes_one_set_with_everything_kubernetes_users_expect() {
    let world = settled(3, 1, 0);
    let set = &world.sets[0];
    let hash = &set.meta().labels["pod-template-hash"];
    assert_eq!(set.meta().name, format!("web-{hash}"));
    assert_eq!(set.spec().selector.as_ref().unwrap().match_labels["pod-template-hash"], *hash);
    assert_eq!(set.meta().annotations[REVISION], "1");
    assert_eq!(set.meta().owner_references[0].kind, "Deployment");
    assert_eq!(world.deployment.meta().annotations[REVISION], "1");
    let status = world.deployment.status();
    assert_eq!((status.replicas, status.available_replicas, status.unavailable_replicas), (3, 3, 0));
    assert_eq!(world.condition("Available").1, "MinimumReplicasAvailable");
    assert_eq!(world.condition("Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_goes_step_by_step() {
    let mut world = settled(4, 1, 1);
    world.use_image("v2");
    world.step();
    assert_eq!(world.sizes(), [3, 1], "one more and one less at a time");
    world.step();
    assert_eq!(world.sizes(), [3, 1], "nothing more until somebody acts");
    world.act(0);
    world.step();
    assert_eq!(world.sizes(), [3, 2], "there is room for another");
    world.act(1);
    world.turn(1, true);
    world.step();
    assert_eq!(world.sizes(), [2, 2]);
    assert!(world.settle());
    assert_eq!(world.sizes(), [0, 4]);
}

#[test]
fn pods_of_old_sets_that_never_became_ready_do_not_hold_a_rollout_up() {
    let mut world = settled(4, 1, 1);
    world.use_image("broken");
    world.step();
    world.act(0);
    world.step();
    world.act(1);
    assert_eq!(world.sizes(), [3, 2]);
    world.use_image("mended");
    world.step();
    assert_eq!(world.sizes()[0], 3, "the ones that serve stay");
    assert_eq!(world.sizes()[1], 0, "the broken ones go first");
    assert!(world.settle());
    assert_eq!(world.sizes(), [0, 0, 4]);
}

#[test]
fn going_back_to_an_old_template_reuses_its_set_under_a_new_revision() {
    let mut world = settled(2, 1, 0);
    world.use_image("v2");
    assert!(world.settle());
    world.use_image("v1");
    assert!(world.settle());
    assert_eq!(world.sizes(), [2, 0]);
    assert_eq!(world.sets[0].meta().annotations[REVISION], "3");
    assert_eq!(world.sets[0].meta().annotations["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(world.deployment.meta().annotations[REVISION], "3");
}

#[test]
fn history_is_kept_up_to_its_limit() {
    let mut world = settled(1, 1, 0);
    world.deployment.spec_mut().revision_history_limit = Some(2);
    for version in 2..7 {
        world.use_image(&format!("v{version}"));
        assert!(world.settle());
    }
    let revisions: Vec<&str> = world.sets.iter().map(|s| s.meta().annotations[REVISION].as_str()).collect();
    assert_eq!(revisions, ["4", "5", "6"]);
}

#[test]
fn recreate_makes_nothing_new_before_everything_old_is_gone() {
    let mut world = settled(3, 1, 0).recreates();
    world.use_image("v2");
    world.step();
    assert_eq!(world.sizes(), [0]);
    world.step();
    assert_eq!(world.sizes(), [0], "its pods are still there");
    world.act(0);
    world.step();
    assert_eq!(world.sizes(), [0, 3]);
    assert!(world.settle());
}

#[test]
fn a_paused_deployment_keeps_its_template_but_follows_its_size() {
    let mut world = settled(4, 1, 1);
    world.use_image("v2");
    world.step();
    world.act(0);
    world.step();
    assert_eq!(world.sizes(), [3, 2]);
    world.deployment.spec_mut().paused = true;
    world.use_image("v3");
    world.resize(8);
    world.step();
    assert_eq!(world.sets.len(), 2, "a paused deployment made a new set");
    assert_eq!(world.sizes().iter().sum::<i32>(), 9, "both grow in proportion");
    assert!(world.sizes()[0] > world.sizes()[1]);
    assert_eq!(world.condition("Progressing").1, "DeploymentPaused");
    assert!(world.plan().is_empty());
    world.deployment.spec_mut().paused = false;
    world.step();
    assert_eq!(world.sets.len(), 3);
    assert!(world.settle());
    assert_eq!(world.sizes(), [0, 0, 8]);
}

#[test]
fn a_rollout_without_progress_is_reported_after_its_deadline() {
    let mut world = settled(2, 1, 0);
    world.deployment.spec_mut().progress_deadline_seconds = Some(60);
    world.use_image("broken");
    world.step();
    world.act(1);
    world.step();
    world.clock += 58;
    world.step();
    assert_eq!(world.condition("Progressing").0, "True");
    world.clock += 1;
    world.step();
    assert_eq!(world.condition("Progressing"), ("False".to_owned(), "ProgressDeadlineExceeded".to_owned()));
    assert!(world.plan().is_empty());
    world.turn(1, true);
    world.step();
    assert_eq!(world.condition("Progressing").1, "ReplicaSetUpdated");
}

#[test]
fn a_deployment_that_is_being_deleted_changes_nothing() {
    let mut world = settled(3, 1, 0);
    world.use_image("v2");
    world.deployment.meta_mut().deletion_timestamp = Some(Time::from_unix(world.clock));
    let plan = world.plan();
    assert!(plan.create.is_none() && plan.update.is_empty() && plan.delete.is_empty());
}

#[derive(Debug, Clone)]
enum Happening {
    Plan,
    Act(usize),
    Ready(usize),
    Unready(usize),
    Image(u8),
    Resize(i32),
    Pause(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => Just(Happening::Plan),
        6 => (0usize..5).prop_map(Happening::Act),
        6 => (0usize..5).prop_map(Happening::Ready),
        2 => (0usize..5).prop_map(Happening::Unready),
        1 => (0u8..4).prop_map(Happening::Image),
        1 => (0i32..12).prop_map(Happening::Resize),
        1 => any::<bool>().prop_map(Happening::Pause),
    ]
}

fn amount() -> impl Strategy<Value = IntOrString> {
    prop_oneof![
        (0i32..6).prop_map(IntOrString::from),
        (0u8..=100).prop_map(|percent| IntOrString::from(format!("{percent}%").as_str())),
    ]
}

/// One plan: safe, and finished when it is performed.
fn plan_safely(world: &mut World) -> Result<(), TestCaseError> {
    let limits = Limits::of(&world.deployment);
    let (before_present, before_ready) = (world.present(), world.staying_ready());
    let resizing =
        super::proportional::is_due(&super::sets::Sets::split(&world.deployment, &world.sets), limits);
    let proportional = resizing || world.deployment.spec().paused;
    world.step();
    let clock = world.clock;
    world.clock = clock - 1;
    prop_assert!(world.plan().is_empty(), "a second plan is not empty: {:?}", world.plan());
    world.clock = clock;
    if !proportional {
        let most = limits.most().max(before_present);
        prop_assert!(world.present() <= most, "{} pods, at most {most} allowed", world.present());
        let least = limits.least_available().min(before_ready);
        prop_assert!(
            world.staying_ready() >= least,
            "{} ready, at least {least} needed",
            world.staying_ready()
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens_each_plan_is_safe_and_in_the_end_it_arrives(
        replicas in 0i32..10,
        surge in amount(),
        unavailable in amount(),
        happenings in proptest::collection::vec(happening(), 0..60),
    ) {
        let mut world = World::new(replicas, surge, unavailable);
        for happening in happenings {
            match happening {
                Happening::Plan => plan_safely(&mut world)?,
                Happening::Act(set) => world.act(set),
                Happening::Ready(set) => world.turn(set, true),
                Happening::Unready(set) => world.turn(set, false),
                Happening::Image(version) => world.use_image(&format!("v{version}")),
                Happening::Resize(replicas) => world.resize(replicas),
                Happening::Pause(paused) => world.deployment.spec_mut().paused = paused,
            }
        }
        world.deployment.spec_mut().paused = false;
        prop_assert!(world.settle(), "it never comes to rest: {:?}", world.plan());
        let total: i32 = world.sizes().iter().sum();
        prop_assert_eq!(total, world.deployment.spec().replicas.unwrap_or(1));
        prop_assert_eq!(world.condition("Progressing").1, "NewReplicaSetAvailable");
    }
}
