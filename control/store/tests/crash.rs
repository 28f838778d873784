//! A writer process is killed at random moments, again and again; whatever it was told is written must be there.
//!
//! The child is this test's own binary, which runs [`child`] when `WEIR_STORE_CRASH` names a file. Several of its tasks write, and a
//! line goes to its standard output after each acknowledged transaction: `task round revision`.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures::StreamExt;
use tempfile::TempDir;
use weir_store::{ListOptions, Store, Txn, embedded};

const VARIABLE: &str = "WEIR_STORE_CRASH";
const KILLS: usize = 120;
const TASKS: u64 = 8;

/// What was acknowledged: of each task the newest round, and its revision.
type Acknowledged = HashMap<u64, (u64, i64)>;

#[test]
fn every_acknowledged_write_survives_being_killed_at_any_moment() {
    if let Some(path) = env::var_os(VARIABLE) {
        return child(Path::new(&path));
    }
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store");
    let mut acknowledged = Acknowledged::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for kill in 0..KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Some die while they open the file, most while they write.
        let life = Duration::from_micros((random >> 33) % 200_000);
        let before = acknowledged.clone();
        run_and_kill(&path, life, &mut acknowledged);
        if kill % 10 == 0 || kill == KILLS - 1 {
            verify(&path, &acknowledged);
        }
        assert!(acknowledged.iter().all(|(task, state)| before.get(task).is_none_or(|old| old.1 <= state.1)));
    }
    let rounds: u64 = acknowledged.values().map(|(round, _)| round).sum();
    assert!(rounds > 1000, "only {rounds} writes were acknowledged in all");
}

fn run_and_kill(path: &Path, life: Duration, acknowledged: &mut Acknowledged) {
    let test = "every_acknowledged_write_survives_being_killed_at_any_moment";
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(VARIABLE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        lines.filter_map(|line| parse(&line)).collect::<Vec<_>>()
    });
    let end = Instant::now() + life;
    // The moment of the kill is the point of the test, not something to wait for.
    thread::sleep(end.saturating_duration_since(Instant::now()));
    child.kill().unwrap();
    child.wait().unwrap();
    for (task, round, revision) in reader.join().unwrap() {
        acknowledged.insert(task, (round, revision));
    }
}

/// A line torn by the kill is none.
fn parse(line: &str) -> Option<(u64, u64, i64)> {
    let mut parts = line.strip_suffix('.')?.strip_prefix("acknowledged ")?.split(' ');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Each task's two keys hold the same round, which is the last acknowledged one or one that came after it.
fn verify(path: &Path, acknowledged: &Acknowledged) {
    let store = embedded::open(path).unwrap();
    runtime().block_on(async {
        for (task, (round, revision)) in acknowledged {
            let counter = store.get(&format!("/task/{task}/counter")).await.unwrap();
            assert!(counter.revision >= *revision);
            let counter = counter.value.expect("an acknowledged key is gone");
            let found: u64 = std::str::from_utf8(&counter.value).unwrap().parse().unwrap();
            assert!(
                found >= *round && counter.mod_revision >= *revision,
                "task {task}: {found} is older than {round}"
            );
            let twin = store.get(&format!("/task/{task}/twin")).await.unwrap().value.unwrap();
            assert_eq!(
                (twin.mod_revision, twin.value.len() as u64),
                (counter.mod_revision, 10 + found % 3000)
            );
        }
        // The recent past is whole as well.
        let page = store.list("/task/", ListOptions::default()).await.unwrap();
        let newest = page.revision;
        let oldest = (newest - 50).max(2);
        if oldest <= newest
            && let Ok(mut watch) = store.watch("/task/", oldest).await
        {
            for revision in oldest..=newest {
                assert_eq!(watch.next().await.unwrap().unwrap().revision, revision);
            }
        }
    });
}

/// Writes until it is killed.
fn child(path: &Path) {
    let store = Arc::new(embedded::open(path).unwrap());
    let runtime = runtime();
    let tasks: Vec<_> = (0..TASKS).map(|task| runtime.spawn(write(Arc::clone(&store), task))).collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn write(store: Arc<impl Store>, task: u64) {
    let counter = format!("/task/{task}/counter");
    let read = store.get(&counter).await.unwrap().value;
    let (mut round, mut revision): (u64, i64) = match read {
        Some(kv) => (std::str::from_utf8(&kv.value).unwrap().parse().unwrap(), kv.mod_revision),
        None => (0, 0),
    };
    loop {
        round += 1;
        let twin = vec![b'x'; 10 + (round % 3000) as usize];
        let txn = Txn::new().unchanged(counter.as_str(), revision).put(counter.as_str(), round.to_string());
        let outcome = store.txn(txn.put(format!("/task/{task}/twin"), twin)).await.unwrap();
        assert!(outcome.committed);
        revision = outcome.revision;
        let line = format!("acknowledged {task} {round} {revision}.\n");
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        // Compactions die in the middle, too.
        if task == 0 && round.is_multiple_of(40) {
            store.compact(revision - 100).await.ok();
        }
    }
}
