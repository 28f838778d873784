//! What only etcd can do to us: members that die, hang, fill up, and ask for certificates.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use weir_store::{Error, Store, Txn, WatchStream, etcd};

use crate::backend::EtcdServer;

/// How far the writer counts while members die.
const GOAL: i64 = 400;

async fn put(store: &dyn Store, key: &str) -> Result<i64, Error> {
    store.txn(Txn::new().put(key, "value")).await.map(|outcome| outcome.revision)
}

/// The error in which a watch ends.
async fn end(watch: &mut WatchStream) -> Error {
    let error = async {
        loop {
            if let Err(error) = watch.next().await.expect("a watch ends in an error") {
                return error;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), error).await.expect("watch hangs")
}

/// Puts until it works again.
async fn put_again(store: &dyn Store, key: &str) -> i64 {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        match put(store, key).await {
            Ok(revision) => return revision,
            Err(error) => assert!(Instant::now() < deadline, "does not recover: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_a_dead_server_ends_clearly_and_all_works_again_when_it_is_back() {
    let Some(mut server) = EtcdServer::start() else { return };
    let store = server.store().await;
    let revision = put(&*store, "/a").await.unwrap();
    let mut watch = store.watch("/", revision).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().revision, revision);
    server.kill();
    let error = end(&mut watch).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(watch.next().await.is_none());
    let error = store.get("/a").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let error = put(&*store, "/b").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. } | Error::OutcomeUnknown { .. }), "{error:?}");

    server.restart();
    let newer = put_again(&*store, "/c").await;
    let mut watch = store.watch("/c", revision + 1).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().revision, newer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_server_is_noticed_and_no_call_hangs_with_it() {
    let Some(server) = EtcdServer::start() else { return };
    let store = server.store().await;
    put(&*store, "/a").await.unwrap();
    let mut watch = store.watch("/", 0).await.unwrap();
    server.signal("STOP");
    let started = Instant::now();
    let (read, written, ended) = tokio::join!(store.get("/a"), put(&*store, "/b"), end(&mut watch));
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    assert!(matches!(written, Err(Error::OutcomeUnknown { .. })), "{written:?}");
    assert!(matches!(ended, Error::Unavailable { .. }), "{ended:?}");
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    server.signal("CONT");
    put_again(&*store, "/c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_when_a_member_dies_and_no_write_is_lost_or_doubled() {
    let Some(mut members) = EtcdServer::start_cluster(3) else { return };
    let urls: Vec<String> = members.iter().map(|member| member.url.clone()).collect();
    let store: Arc<dyn Store> = Arc::new(etcd::connect(&urls, None).await.unwrap());
    let writer = tokio::spawn(count_to(Arc::clone(&store), GOAL));
    // One after the other dies and comes back, the leader among them, while the writer goes on.
    for member in &mut members {
        member.kill();
        put_again(&*store, "/between").await;
        let counted = counter(&*store).await;
        member.restart();
        let deadline = Instant::now() + Duration::from_secs(40);
        while counter(&*store).await < (counted + 20).min(GOAL) {
            assert!(Instant::now() < deadline, "writer is stuck");
        }
    }
    writer.await.unwrap();
    let kv = store.get("/counter").await.unwrap().value.unwrap();
    assert_eq!((kv.value, kv.version), (GOAL.to_string().into(), GOAL));
}

/// The member that leads, and the id of another.
fn leader(members: &[EtcdServer]) -> Option<(usize, String)> {
    let urls = members.iter().map(|member| member.url.clone()).collect::<Vec<_>>().join(",");
    // endpoint, id, version, size, leader, …
    let status = members[0].ctl(&["endpoint", "status", "--write-out=simple", "--endpoints", &urls]);
    let rows: Vec<Vec<&str>> = status.lines().map(|line| line.split(", ").collect()).collect();
    let leading = rows.iter().find(|row| row.get(4) == Some(&"true"))?;
    let index = members.iter().position(|member| member.url == leading[0])?;
    let other = rows.iter().find(|row| row.get(4) == Some(&"false"))?;
    Some((index, other[1].to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_leader_moves_writers_and_a_watch_go_on_in_order() {
    let Some(members) = EtcdServer::start_cluster(3) else { return };
    let urls: Vec<String> = members.iter().map(|member| member.url.clone()).collect();
    let store: Arc<dyn Store> = Arc::new(etcd::connect(&urls, None).await.unwrap());
    put_again(&*store, "/begun").await;
    let watching = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let (mut seen, mut next) = (0, 1);
            while seen < GOAL {
                let Ok(mut watch) = store.watch("/counter", next).await else { continue };
                while let Some(Ok(batch)) = watch.next().await {
                    next = batch.revision + 1;
                    for event in batch.events {
                        assert_eq!(event.kv.version, seen + 1, "a count was left out, or came twice");
                        seen += 1;
                    }
                    if seen == GOAL {
                        break;
                    }
                }
            }
        }
    });
    let writer = tokio::spawn(count_to(Arc::clone(&store), GOAL));
    for round in 1..=4 {
        let deadline = Instant::now() + Duration::from_secs(60);
        while counter(&*store).await < GOAL * round / 6 {
            assert!(Instant::now() < deadline, "writer is stuck");
        }
        let (index, other) = loop {
            assert!(Instant::now() < deadline, "nobody leads");
            if let Some(found) = leader(&members) {
                break found;
            }
        };
        members[index].ctl(&["move-leader", &other]);
    }
    writer.await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), watching).await.expect("the watch hangs").unwrap();
    let kv = store.get("/counter").await.unwrap().value.unwrap();
    assert_eq!((kv.value, kv.version), (GOAL.to_string().into(), GOAL));
}

async fn counter(store: &dyn Store) -> i64 {
    store.get("/counter").await.map_or(0, |read| read.value.map_or(0, |kv| kv.version))
}

/// Counts by compare-and-swap, and looks before it repeats what may have been done.
async fn count_to(store: Arc<dyn Store>, goal: i64) {
    let (mut count, mut revision) = (0, 0);
    // A write whose outcome is unknown may be performed later yet, even after a look at what is there.
    let mut doubtful = false;
    while count < goal {
        let txn = Txn::new().unchanged("/counter", revision).put("/counter", (count + 1).to_string());
        match store.txn(txn).await {
            Ok(outcome) if outcome.committed => (count, revision) = (count + 1, outcome.revision),
            Ok(outcome) => {
                assert!(doubtful, "somebody else counted");
                let found = outcome.current[0].as_ref().map_or(0, |kv| kv.version);
                assert_eq!(found, count + 1);
                doubtful = false;
                count = found;
                revision = outcome.current[0].as_ref().map_or(0, |kv| kv.mod_revision);
            }
            Err(Error::OutcomeUnknown { .. } | Error::Unavailable { .. }) => {
                doubtful = true;
                let Ok(read) = store.get("/counter").await else { continue };
                let found = read.value.as_ref().map_or(0, |kv| kv.version);
                assert!(found == count || found == count + 1, "{found} after {count}");
                count = found;
                revision = read.value.map_or(0, |kv| kv.mod_revision);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_up_quota_is_out_of_space_until_the_operator_makes_room() {
    let Some(server) = EtcdServer::start_with(&["--quota-backend-bytes", "2000000"]) else { return };
    let store = server.store().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let error = loop {
        let txn = Txn::new().put("/big", vec![0; 200_000]);
        match store.txn(txn).await {
            Ok(_) => assert!(Instant::now() < deadline),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::NoSpace), "{error:?}");
    let read = store.get("/big").await.unwrap();
    assert_eq!(read.value.unwrap().value.len(), 200_000);

    store.compact(read.revision).await.unwrap();
    server.ctl(&["defrag"]);
    server.ctl(&["alarm", "disarm"]);
    put_again(&*store, "/small").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_cluster_is_reported_in_bounded_time() {
    let started = Instant::now();
    let error = etcd::connect(["http://127.0.0.1:9"], None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
    let error = etcd::connect(["not a url"], None).await.unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error:?}");
    let error = etcd::connect(Vec::<String>::new(), None).await.unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error:?}");
}

mod tls {
    use std::fs;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tempfile::TempDir;
    use weir_store::etcd::Tls;

    use super::*;

    /// An authority, and certificates it signed, as PEM.
    struct Authority {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            Self { pem, issuer: Issuer::new(params, key) }
        }

        fn sign(&self, name: &str) -> (String, String) {
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_and_its_client_know_each_other_by_certificate() {
        let (directory, authority) = (TempDir::new().unwrap(), Authority::new());
        let (certificate, key) = authority.sign("127.0.0.1");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let files = [("ca", &authority.pem), ("certificate", &certificate), ("key", &key)];
        files.iter().for_each(|(name, pem)| fs::write(path(name), pem).unwrap());
        let [ca, certificate, key] = ["ca", "certificate", "key"].map(path);
        let flags =
            ["--cert-file", &certificate, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
        let Some(server) = EtcdServer::start_tls(&flags) else { return };

        let (certificate, key) = authority.sign("weir");
        let identity = Some((certificate.into_bytes(), key.into_bytes()));
        let tls = Tls { ca_pem: authority.pem.clone().into_bytes(), identity, server_name: None };
        let store = etcd::connect([&server.url], Some(&tls)).await.unwrap();
        assert_eq!(put(&store, "/a").await.unwrap(), 2);

        let stranger = Tls { identity: None, ..tls.clone() };
        let error = etcd::connect([&server.url], Some(&stranger)).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        let other = Tls { ca_pem: Authority::new().pem.into_bytes(), ..tls };
        let error = etcd::connect([&server.url], Some(&other)).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
}
