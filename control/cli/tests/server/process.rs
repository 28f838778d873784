//! What only a process shows: pipes, exit codes, colours, and streams that outlive their server.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;

use crate::cluster::{Cluster, DEADLINE};

type Printed = Lines<BufReader<ChildStdout>>;

async fn next(lines: &mut Printed) -> String {
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("a line in time");
    line.unwrap().expect("the watch goes on")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_the_server() {
    let mut cluster = Cluster::start().await;
    cluster.says("create configmap first --from-literal=a=1").await;
    let mut watch = cluster
        .shell("exec weir get configmaps -w -o name --field-selector metadata.name!=kube-root-ca.crt")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert_eq!(next(&mut lines).await, "configmap/first");
    cluster.says("create configmap second").await;
    assert_eq!(next(&mut lines).await, "configmap/second");

    cluster.stop().await;
    cluster.serve().await;
    // What is there still is no news; what changes now is, and so is what changed meanwhile.
    cluster.says("create configmap third").await;
    assert_eq!(next(&mut lines).await, "configmap/third");
    cluster.says("label configmap first a=b").await;
    assert_eq!(next(&mut lines).await, "configmap/first");
    watch.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_closes_the_pipe_has_seen_enough() {
    let cluster = Cluster::start().await;
    // More than a pipe holds.
    let output = cluster.run("{ weir get --raw=/openapi/v3/api/v1; echo $? >&2; } | head -c 1").await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("{".to_owned(), "0\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_said_to_be_and_this_programs_version_is_told() {
    let mut cluster = Cluster::start().await;
    cluster.stop().await;
    let output = cluster.weir("version").await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(&output.stdout), concat!("Client Version: v", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(text(&output.stderr).starts_with("The connection to the server https://127.0.0.1:"));
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_text_goes_into_a_pipe() {
    let cluster = Cluster::start().await;
    for command in ["get namespaces", "get nothing", "get pods/none", "describe namespace default"] {
        let output = cluster.weir(command).await;
        assert!(![output.stdout, output.stderr].concat().contains(&0x1b), "{command}");
    }
}
