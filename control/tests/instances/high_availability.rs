//! Several control planes over one etcd: any of them may die or be stopped at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::fixture::{Control, EtcdServer, SOON, free_port, signal, until};
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weir_client::{Api, Client, Config, Error, Informer, ListOptions, WatchEvent, WatchOptions, informer};
use weir_proto::Resource;
use weir_proto::apps::v1::Deployment;
use weir_proto::coordination::v1::Lease;
use weir_proto::core::v1::{ConfigMap, Node, NodeCondition, Pod};
use weir_proto::meta::v1::MicroTime;

/// How far each writer counts.
const GOAL: u64 = 150;
const WRITERS: usize = 4;
const SHORT_LEASES: [&str; 6] = [
    "--leader-elect-lease-duration",
    "4s",
    "--leader-elect-renew-deadline",
    "3s",
    "--leader-elect-retry-period",
    "500ms",
];

/// Starts them all at the same moment.
fn start(directory: &TempDir, etcd: &EtcdServer, count: usize, flags: &[&str]) -> Vec<Control> {
    let urls: Vec<String> = (0..count).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let start = |index: usize| {
        // Each names itself first, and then the others.
        let others = (0..count).map(|offset| format!("https://{}", urls[(index + offset) % count]));
        let advertise = others.collect::<Vec<_>>().join(",");
        let mut all = vec!["--store", "etcd", "--etcd-endpoints", &etcd.url, "--listen", &urls[index]];
        all.extend(["--advertise", &advertise]);
        all.extend(flags);
        Control::start(&directory.path().join(format!("control-{index}")), &all)
    };
    (0..count).map(start).collect()
}

fn counter(index: usize) -> String {
    format!("counter-{index}")
}

fn count_of(map: &ConfigMap) -> u64 {
    map.data.get("count").and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Counts by compare-and-swap, and looks before it repeats what may have been done.
async fn count_to(api: Api<ConfigMap>, index: usize, goal: u64, reached: Arc<AtomicU64>) {
    let mut count = 0;
    let mut present: Option<ConfigMap> = None;
    while count < goal {
        let mut next = present.clone().unwrap_or_else(|| {
            let mut new = ConfigMap::default();
            new.meta_mut().name = counter(index);
            new
        });
        next.data.insert("count".to_owned(), (count + 1).to_string());
        let written = match &present {
            None => api.create(&next).await,
            Some(_) => api.update(&next).await,
        };
        match written {
            Ok(now) => {
                count += 1;
                present = Some(now);
                reached.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.is_transient() || error.is_conflict() || error.is_already_exists() => {
                let Ok(found) = api.get_opt(&counter(index)).await else { continue };
                let now = found.as_ref().map_or(0, count_of);
                assert!(now == count || now == count + 1, "counter {index}: {now} after {count}: {error}");
                reached.fetch_add(now - count, Ordering::Relaxed);
                count = now;
                present = found;
            }
            Err(error) => panic!("counter {index}: {error:?}"),
        }
    }
}

/// Follows all counters by watches, each of which goes on where the one before ended; each count must come once, and in
/// order. Returns how often it had to begin a new watch.
async fn follow(api: Api<ConfigMap>) -> usize {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut from = String::new();
    let mut watches = 0;
    let done =
        |seen: &BTreeMap<String, u64>| seen.len() == WRITERS && seen.values().all(|count| *count == GOAL);
    while !done(&seen) {
        watches += 1;
        let options = WatchOptions { resource_version: from.clone(), bookmarks: true, ..Default::default() };
        let mut events = match api.watch(&options).await {
            Ok(events) => events,
            Err(error) => {
                assert!(error.is_transient(), "a watch from {from} is refused: {error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while !done(&seen) {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => {
                    assert!(error.is_transient(), "a watch from {from} ends in {error:?}");
                    break;
                }
            };
            let revision: u64 = event.resource_version().parse().unwrap();
            let (WatchEvent::Added(map) | WatchEvent::Modified(map)) = &event else {
                assert!(matches!(event, WatchEvent::Bookmark(_)), "{event:?}");
                from = event.resource_version().to_owned();
                continue;
            };
            if map.meta().name.starts_with("counter-") {
                // The present state at the very beginning may be anything.
                let before = seen.insert(map.meta().name.clone(), count_of(map)).unwrap_or(0);
                let now = count_of(map);
                assert!(from.is_empty() || now == before + 1, "{}: {now} after {before}", map.meta().name);
            }
            if !from.is_empty() {
                assert!(revision > from.parse().unwrap(), "{revision} after {from}");
                from = event.resource_version().to_owned();
            }
        }
    }
    watches
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_instance_dies_writers_and_watchers_go_on_and_nothing_is_lost_doubled_or_out_of_order() {
    let Some(etcd) = EtcdServer::start() else { return };
    let directory = TempDir::new().unwrap();
    let mut instances = start(&directory, &etcd, 3, &["--components", "api"]);
    let mut clients = Vec::new();
    for instance in &instances {
        clients.push(instance.client().await);
    }
    // They began together, each with a directory of its own, and agree.
    for file in ["data/pki/ca.crt", "data/pki/ca.key", "data/bootstrap-token"] {
        let read = |instance: &Control| std::fs::read_to_string(instance.dir.join(file)).unwrap();
        assert!(instances.iter().all(|instance| read(instance) == read(&instances[0])), "{file}");
    }

    let api = |index: usize| clients[index % clients.len()].namespaced::<ConfigMap>("default");
    let informer = Informer::start(api(0), informer::Options::default());
    informer.synced().await;
    let mut watchers = JoinSet::new();
    // The first begin before there is anything: they must see it all.
    (0..6).for_each(|index| drop(watchers.spawn(follow(api(index)))));
    let reached = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for index in 0..WRITERS {
        writers.spawn(count_to(api(index), index, GOAL, reached.clone()));
    }
    // One after the other dies amid the work and comes back.
    let part = GOAL * WRITERS as u64 / 4;
    for (index, instance) in (1..).zip(&mut instances) {
        until("the writers go on", async || reached.load(Ordering::Relaxed) >= part * index).await;
        instance.kill();
        let before = reached.load(Ordering::Relaxed);
        until("the writers go on without it", async || reached.load(Ordering::Relaxed) >= before + 10).await;
        instance.restart();
        instance.client().await;
    }
    let ended = async {
        writers.join_all().await;
        watchers.join_all().await
    };
    let watches = tokio::time::timeout(SOON, ended).await.expect("writers and watchers come to their end");
    assert!(watches.iter().sum::<usize>() > watches.len(), "no watch was ever cut: nothing was tested");
    for index in 0..WRITERS {
        let key = weir_client::ObjectKey::new("default", counter(index));
        let all = |map: Option<&ConfigMap>| map.is_some_and(|map| count_of(map) == GOAL);
        informer.wait_for(&key, SOON, all).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_lost_its_etcd_is_left_for_one_that_has_it() {
    let Some(mut members) = EtcdServer::start_cluster(3) else { return };
    for member in &members {
        let url = &member.url;
        until("each member of etcd answers", async || weir_store::etcd::connect([url], None).await.is_ok())
            .await;
    }
    let directory = TempDir::new().unwrap();
    let urls: Vec<String> = (0..2).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let start = |index: usize| {
        let [own, other] = [index, 1 - index].map(|index| format!("https://{}", urls[index]));
        let dir = directory.path().join(format!("control-{index}"));
        let mut flags =
            vec!["--store", "etcd", "--etcd-endpoints", &members[index].url, "--components", "api"];
        flags.extend(["--listen", &urls[index], "--advertise", &own, "--advertise", &other]);
        Control::start(&dir, &flags)
    };
    let instances = [start(0), start(1)];
    let client = instances[0].client().await;
    instances[1].client().await;
    let api = client.namespaced::<ConfigMap>("default");
    let informer = Informer::start(api.clone(), informer::Options::default());
    informer.synced().await;
    members[0].kill();
    // Where nothing is known of a write, the next has another name.
    let mut attempts = 0;
    let written = loop {
        let mut map = ConfigMap::default();
        map.meta_mut().name = format!("after-{attempts}");
        match api.create(&map).await {
            Ok(map) => break map,
            Err(error) => {
                let log = || instances[1].log();
                assert!(attempts < 20 && error.is_transient(), "{error:?}; the other says {}", log());
            }
        }
        attempts += 1;
    };
    // The watch began at the one that knows nothing of this.
    informer.reached(&written.meta().resource_version, SOON).await.unwrap();
    assert!(informer.get("default", &written.meta().name).is_some());
}

/// The process id in a Lease's holder: host-PID-moment.
async fn holder(leases: &Api<Lease>, name: &str) -> Option<u32> {
    let lease = leases.get_opt(name).await.ok()??;
    let identity = lease.spec().holder_identity.clone()?;
    identity.rsplit('-').nth(1)?.parse().ok()
}

/// Nodes that report now and then, as agents do.
pub(crate) async fn make_nodes(client: &Client, count: usize, stop: CancellationToken) {
    let nodes = client.api::<Node>();
    let leases = client.namespaced::<Lease>("kube-node-lease");
    for index in 0..count {
        let name = format!("node-{index}");
        let mut node = Node::default();
        node.meta_mut().name = name.clone();
        nodes.create(&node).await.unwrap();
        let ready =
            NodeCondition { r#type: "Ready".to_owned(), status: "True".to_owned(), ..Default::default() };
        // Controllers write to it as soon as it is there.
        let report = |node: &mut Node| {
            node.status_mut().conditions = vec![ready.clone()];
            for (resource, amount) in [("cpu", "1k"), ("memory", "1Ti"), ("pods", "2000")] {
                node.status_mut().allocatable.insert(resource.to_owned(), amount.parse().unwrap());
                node.status_mut().capacity.insert(resource.to_owned(), amount.parse().unwrap());
            }
        };
        nodes.modify_status(&name, report).await.unwrap();
        let mut lease = Lease::default();
        lease.meta_mut().name = name;
        lease.spec_mut().lease_duration_seconds = Some(40);
        leases.create(&lease).await.unwrap();
    }
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            for index in 0..count {
                let now = |lease: &mut Lease| lease.spec_mut().renew_time = Some(MicroTime::now());
                // One that is missed comes again.
                let _ = leases.modify(&format!("node-{index}"), now).await;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }));
}

fn deployment(replicas: i32) -> Deployment {
    let text = format!(
        r#"{{"metadata": {{"name": "many", "namespace": "default"}}, "spec": {{"replicas": {replicas},
        "selector": {{"matchLabels": {{"app": "many"}}}}, "template": {{"metadata": {{"labels": {{"app": "many"}}}},
        "spec": {{"containers": [{{"name": "c", "image": "i"}}]}}}}}}}}"#
    );
    let value = serde_json::from_str(&text).unwrap();
    let object = Deployment::KIND.from_json(&value, &mut Vec::new()).unwrap();
    object.downcast_ref::<Deployment>().unwrap().clone()
}

/// What was ever done to pods.
#[derive(Debug, Default)]
struct Witness {
    pods: BTreeMap<String, String>,
    deleted: Vec<String>,
    bound_anew: Vec<String>,
}

/// Sees every change of every pod, until `stop`.
async fn witness(api: Api<Pod>, stop: CancellationToken) -> Witness {
    let mut witness = Witness::default();
    let mut from = String::new();
    let watching = async {
        loop {
            let options =
                WatchOptions { resource_version: from.clone(), bookmarks: true, ..Default::default() };
            let Ok(mut events) = api.watch(&options).await else { continue };
            while let Ok(Some(event)) = events.try_next().await {
                match &event {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                        let (uid, node) = (pod.meta().uid.clone(), pod.spec().node_name.clone());
                        let before = witness.pods.insert(uid, node.clone()).unwrap_or_default();
                        if !before.is_empty() && before != node {
                            witness.bound_anew.push(pod.meta().name.clone());
                        }
                    }
                    WatchEvent::Deleted(pod) => witness.deleted.push(pod.meta().name.clone()),
                    WatchEvent::Bookmark(_) => {}
                }
                if !from.is_empty() || matches!(event, WatchEvent::Bookmark(_)) {
                    from = event.resource_version().to_owned();
                }
            }
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
    witness
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_amid_its_work_and_wakes_late_does_no_harm() {
    stop_the_leader(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_whose_api_server_is_elsewhere() {
    stop_the_leader(&["--components", "scheduler,controllers"]).await;
}

/// Of two instances the one that leads is stopped while it makes and binds pods, and goes on once the other leads.
async fn stop_the_leader(flags: &[&str]) {
    const PODS: usize = 1000;
    let Some(etcd) = EtcdServer::start() else { return };
    let directory = TempDir::new().unwrap();
    // One API server that is never stopped, for us and for those who have none of their own.
    let mut api = start(&directory, &etcd, 1, &["--components", "api"]);
    let api = api.remove(0);
    let client = api.client().await;
    let deciders = TempDir::new().unwrap();
    for index in 0..2 {
        // Read by who has no API server, written anew by who has one.
        let dir = deciders.path().join(format!("control-{index}"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::copy(api.kubeconfig(), dir.join("kubeconfig")).unwrap();
    }
    let instances = start(&deciders, &etcd, 2, &[&SHORT_LEASES, flags].concat());
    let (stop, stop_witness) = (CancellationToken::new(), CancellationToken::new());
    make_nodes(&client, 4, stop.clone()).await;
    let witnessing = tokio::spawn(witness(client.namespaced("default"), stop_witness.clone()));

    let pods = Informer::start(client.namespaced::<Pod>("default"), informer::Options::default());
    let leases = client.namespaced::<Lease>("kube-system");
    client.namespaced("default").create(&deployment(PODS as i32)).await.unwrap();
    until("pods are being bound", async || {
        pods.list().iter().filter(|pod| !pod.spec().node_name.is_empty()).count() > PODS / 10
    })
    .await;
    // Both leaders, wherever they are.
    let names = ["weir-controllers", "weir-scheduler"];
    let mut stopped = BTreeSet::new();
    for name in names {
        stopped.insert(holder(&leases, name).await.expect("somebody leads"));
    }
    let [one, two] = &instances[..] else { panic!("two instances") };
    // With one leader in each, the one with the controllers is stopped.
    if stopped.len() == 2 {
        stopped = BTreeSet::from([holder(&leases, names[0]).await.expect("somebody leads")]);
    }
    let old = *stopped.first().unwrap();
    let new = if old == one.pid() { two.pid() } else { one.pid() };
    signal(old, "STOP");
    for name in names {
        until("the other takes over", async || holder(&leases, name).await == Some(new)).await;
    }
    let now = pods.len();
    until("the new leader works", async || pods.len() >= (now + 20).min(PODS)).await;
    signal(old, "CONT");
    let placed = || pods.list().iter().filter(|pod| !pod.spec().node_name.is_empty()).count();
    until("all pods are there and have their node", async || placed() == PODS).await;

    // It stands by, and leads again when the other goes.
    let (former, leader) = if old == one.pid() { (one, two) } else { (two, one) };
    until("the former leader notices", async || former.log().contains("leading no more")).await;
    leader.signal("KILL");
    for name in names {
        until("it takes over again", async || holder(&leases, name).await == Some(old)).await;
    }
    let more = PODS + 10;
    let scale = |deployment: &mut Deployment| deployment.spec_mut().replicas = Some(more as i32);
    client.namespaced::<Deployment>("default").modify("many", scale).await.unwrap();
    until("it works", async || placed() == more).await;

    let listed = client.namespaced::<Pod>("default").list(&ListOptions::default()).await.unwrap();
    assert_eq!(listed.items.len(), more);
    stop_witness.cancel();
    let seen = witnessing.await.unwrap();
    assert_eq!((seen.deleted.len(), seen.bound_anew.len(), seen.pods.len()), (0, 0, more), "{seen:?}");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_under_way_when_the_lease_is_taken_changes_nothing() {
    let Some(etcd) = EtcdServer::start() else { return };
    let directory = TempDir::new().unwrap();
    let instances = start(&directory, &etcd, 1, &["--components", "api"]);
    let client = instances[0].client().await;
    let (leads, mut led) = tokio::sync::mpsc::unbounded_channel();
    let election = weir_client::election::Config::new("weir-test", "first");
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let (client, cancel) = (client.clone(), cancel.clone());
        async move {
            weir_client::election::run(&client, &election, &cancel, |leadership| {
                leads.send(leadership.clone()).unwrap();
                async move { leadership.lost().cancelled().await }
            })
            .await;
        }
    });
    let leadership = led.recv().await.unwrap();
    let fenced = client.fenced(&leadership).namespaced::<ConfigMap>("default");
    let mut map = ConfigMap::default();
    map.meta_mut().name = "led".to_owned();
    let mut map = fenced.create(&map).await.unwrap();
    map.data.insert("by".to_owned(), "first".to_owned());

    // Somebody takes the Lease; by our own clock we lead for seconds yet.
    let take = |lease: &mut Lease| {
        let spec = lease.spec_mut();
        spec.holder_identity = Some("second".to_owned());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
    };
    client.namespaced::<Lease>("kube-system").modify("weir-test", take).await.unwrap();
    assert!(leadership.holds());
    let error = fenced.update(&map).await.unwrap_err();
    let refused = error.is_deposed() || matches!(error, Error::NotLeader { .. });
    assert!(refused, "{error:?}");
    assert!(!leadership.holds(), "the refusal ends it at once");
    let now = client.namespaced::<ConfigMap>("default").get("led").await.unwrap();
    assert_eq!(now.meta().resource_version, map.meta().resource_version);
    assert!(now.data.is_empty());
    cancel.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_with_an_authority_of_its_own_does_not_join_those_of_another() {
    let Some(etcd) = EtcdServer::start() else { return };
    let directory = TempDir::new().unwrap();
    let stranger = directory.path().join("stranger");
    let mut alone = Control::start(&stranger, &["--listen", "127.0.0.1:0", "--components", "api"]);
    let config = alone.client().await;
    drop(config);
    alone.kill();
    let instances = start(&directory, &etcd, 1, &["--components", "api"]);
    instances[0].client().await;
    let before = std::fs::read_to_string(stranger.join("data/pki/ca.crt")).unwrap();
    let flags =
        ["--store", "etcd", "--etcd-endpoints", &etcd.url, "--listen", "127.0.0.1:0", "--components", "api"];
    let mut refused = Control::start(&stranger, &flags);
    until("it ends", async || !refused.is_alive()).await;
    assert!(refused.log().contains("is not the cluster's"), "{}", refused.log());
    assert_eq!(std::fs::read_to_string(stranger.join("data/pki/ca.crt")).unwrap(), before);
    assert!(Config::from_kubeconfig(&instances[0].kubeconfig(), None).is_ok());
}
