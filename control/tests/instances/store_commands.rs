//! `weir-control store …` as its operator meets it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::fixture::{Control, EtcdServer, PROGRAM, SOON, free_port, until};
use tempfile::TempDir;
use tokio::task::JoinSet;
use weir_client::{Api, Client, Config, Informer, ListOptions, informer};
use weir_proto::core::v1::Secret;

fn run(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(PROGRAM).arg("store").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn write(api: Api<Secret>, from: usize, count: usize, size: usize) {
    let mut writing = JoinSet::new();
    for index in from..from + count {
        let api = api.clone();
        writing.spawn(async move {
            let mut secret = Secret::default();
            secret.meta_mut().name = format!("secret-{index}");
            secret.data.insert("value".to_owned(), "x".repeat(size).into_bytes());
            api.create(&secret).await.unwrap();
        });
        if writing.len() >= 32 {
            writing.join_next().await.unwrap().unwrap();
        }
    }
    writing.join_all().await;
}

async fn names(client: &Client) -> Vec<String> {
    let list = client.namespaced::<Secret>("default").list(&ListOptions::default()).await.unwrap();
    list.items.iter().map(|secret| secret.meta().name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_running_control_plane_brings_the_cluster_back_and_its_clients_go_on() {
    let directory = TempDir::new().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let flags = ["--listen", &address, "--components", "api"];
    let mut control = Control::start(&directory.path().join("first"), &flags);
    let client = control.client().await;
    let api = client.namespaced::<Secret>("default");
    write(api.clone(), 0, 400, 100).await;
    let file = directory.path().join("backup");
    let kubeconfig = control.kubeconfig();
    let writing = tokio::spawn(write(api.clone(), 400, 300, 100));
    let said = run(&["backup", text(&file), "--kubeconfig", text(&kubeconfig)]).unwrap();
    assert!(said.contains("whole"), "{said}");
    assert!(run(&["verify", text(&file)]).unwrap().contains("leases at revision"));
    writing.await.unwrap();
    // What is written now is lost with the machine, and its revisions with it.
    let informer = Informer::start(api.clone(), informer::Options::default());
    informer.synced().await;
    write(api.clone(), 10_000, 200, 10).await;
    until("the informer has it all", async || informer.len() == 900).await;
    let lost = api.get("secret-10199").await.unwrap();
    let error = run(&["backup", text(&file), "--kubeconfig", text(&kubeconfig)]).unwrap_err();
    assert!(error.contains("exists already"), "{error}");
    let data = directory.path().join("first/data");
    let error = run(&["backup", text(&directory.path().join("b")), "--data-dir", text(&data)]).unwrap_err();
    assert!(error.contains("in use by another process"), "{error}");
    control.kill();

    let second = directory.path().join("second");
    let said = run(&["restore", text(&file), "--data-dir", text(&second.join("data"))]).unwrap();
    assert!(said.contains("goes on from revision 1000"), "{said}");
    let error = run(&["restore", text(&file), "--data-dir", text(&second.join("data"))]).unwrap_err();
    assert!(error.contains("is not empty"), "{error}");
    let control = Control::start(&second, &flags);
    control.client().await;
    // The old client's certificate is good, and the informer forgets what is lost.
    until("the informer is in step again", async || {
        let present = names(&client).await;
        let copy: Vec<_> = informer.list().iter().map(|secret| secret.meta().name.clone()).collect();
        (400..=700).contains(&present.len()) && present == copy
    })
    .await;
    let error = api.update(&lost).await.unwrap_err();
    assert!(error.is_not_found() || error.is_conflict(), "{error:?}");
    write(api.clone(), 20_000, 1, 10).await;
    let key = weir_client::ObjectKey::new("default", "secret-20000");
    informer.wait_for(&key, SOON, |secret| secret.is_some()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_store_moves_to_etcd_and_whoever_knew_the_cluster_goes_on() {
    let Some(etcd) = EtcdServer::start() else { return };
    let directory = TempDir::new().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let embedded = ["--listen", &address, "--components", "api"];
    let mut control = Control::start(directory.path(), &embedded);
    let client = control.client().await;
    let api = client.namespaced::<Secret>("default");
    write(api.clone(), 0, 500, 100).await;
    let informer = Informer::start(api.clone(), informer::Options::default());
    informer.synced().await;
    let before = names(&client).await;
    control.kill();

    let data = directory.path().join("data");
    let said = run(&["migrate", "--data-dir", text(&data), "--etcd-endpoints", &etcd.url]).unwrap();
    assert!(said.contains("store.migrated"), "{said}");
    let error = run(&["migrate", "--data-dir", text(&data), "--etcd-endpoints", &etcd.url]).unwrap_err();
    assert!(error.contains("there is no embedded store"), "{error}");
    let over_etcd =
        ["--listen", &address, "--components", "api", "--store", "etcd", "--etcd-endpoints", &etcd.url];
    let control = Control::start(directory.path(), &over_etcd);
    control.client().await;
    assert_eq!(names(&client).await, before);
    write(api.clone(), 30_000, 1, 10).await;
    let key = weir_client::ObjectKey::new("default", "secret-30000");
    informer.wait_for(&key, SOON, |secret| secret.is_some()).await.unwrap();
    assert_eq!(informer.len(), before.len() + 1);
    // A second instance, with nothing of its own, is of the same cluster.
    let other = Control::start(
        &directory.path().join("other"),
        &over_etcd.map(|flag| if flag == address { "127.0.0.1:0" } else { flag }),
    );
    let other_client = other.client().await;
    assert_eq!(names(&other_client).await.len(), before.len() + 1);
    let ca = |config: Config| config.ca_pem;
    let [one, two] =
        [&control, &other].map(|control| Config::from_kubeconfig(&control.kubeconfig(), None).unwrap());
    assert_eq!(ca(one), ca(two));
    let error = run(&["restore", text(&data.join("none")), "--etcd-endpoints", &etcd.url]).unwrap_err();
    assert!(error.contains("No such file"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_killed_at_any_moment_is_known_as_unfinished_and_can_be_repeated() {
    let Some(etcd) = EtcdServer::start() else { return };
    let directory = TempDir::new().unwrap();
    let mut control =
        Control::start(&directory.path().join("first"), &["--listen", "127.0.0.1:0", "--components", "api"]);
    let client = control.client().await;
    write(client.namespaced::<Secret>("default"), 0, 1500, 20_000).await;
    control.kill();
    let file = directory.path().join("backup");
    run(&["backup", text(&file), "--data-dir", text(&directory.path().join("first/data"))]).unwrap();
    let data = directory.path().join("second/data");
    let to_embedded = ["restore", text(&file), "--data-dir", text(&data)];
    let to_etcd = ["restore", text(&file), "--etcd-endpoints", &etcd.url];

    let begin = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("store").args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let draft = data.join("store.restoring");
    let mut restoring = begin(&to_embedded);
    until("the restore has begun", async || draft.exists()).await;
    restoring.kill().unwrap();
    restoring.wait().unwrap();
    if !data.join("store").exists() {
        let flags = ["--listen", "127.0.0.1:0"];
        let mut refused = Control::start(&directory.path().join("second"), &flags);
        until("it ends", async || !refused.is_alive()).await;
        assert!(refused.log().contains("was not finished: run it again"), "{}", refused.log());
        run(&to_embedded).unwrap();
    }
    let mut restoring = begin(&to_etcd);
    until("the restore has begun", async || {
        let keys = etcd.ctl(&["get", "--prefix", "/registry/configmaps/", "--keys-only", "--limit", "1"]);
        !keys.trim().is_empty()
    })
    .await;
    restoring.kill().unwrap();
    restoring.wait().unwrap();
    let store =
        ["--store", "etcd", "--etcd-endpoints", &etcd.url, "--listen", "127.0.0.1:0", "--components", "api"];
    if !etcd.ctl(&["get", "/weir-store/restoring"]).is_empty() {
        let mut refused = Control::start(&directory.path().join("third"), &store);
        until("it ends", async || !refused.is_alive()).await;
        assert!(refused.log().contains("was not finished: run it again"), "{}", refused.log());
        run(&to_etcd).unwrap();
    }
    for (name, flags) in
        [("second", &["--listen", "127.0.0.1:0", "--components", "api"][..]), ("fourth", &store)]
    {
        let control = Control::start(&directory.path().join(name), flags);
        let client = control.client().await;
        assert_eq!(names(&client).await.len(), 1500, "{name}");
    }
}

#[test]
fn what_cannot_work_is_said_before_anything_is_touched() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("backup");
    std::fs::write(&file, "not a backup at all").unwrap();
    let data = directory.path().join("data");
    let wrong: [(&[&str], &str); 6] = [
        (&["verify", text(&file)], "is not a backup"),
        (&["restore", text(&file), "--data-dir", text(&data)], "is not a backup"),
        (&["restore", text(&file)], "--data-dir or --etcd-endpoints"),
        (&["backup", "b"], "--kubeconfig, --data-dir or --etcd-endpoints"),
        (&["backup", "b", "--data-dir", text(&data)], "there is no embedded store"),
        (&["migrate", "--data-dir", text(&data)], "--etcd-endpoints"),
    ];
    for (arguments, expected) in wrong {
        let error = run(arguments).unwrap_err();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    assert!(!data.exists());
    let started = std::time::Instant::now();
    let error = run(&["backup", text(&directory.path().join("b")), "--etcd-endpoints", "http://127.0.0.1:9"]);
    assert!(error.unwrap_err().contains("127.0.0.1:9"));
    assert!(started.elapsed() < Duration::from_secs(60));
}
