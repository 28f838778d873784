//! A real etcd in a temporary directory, on free ports of 127.0.0.1. Killed when dropped.

use std::{
    env,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use tempfile::TempDir;
use weir_store::{Store, etcd};

const BINARY: &str = "/usr/bin/etcd";

pub(crate) struct EtcdServer {
    process: Child,
    command: Vec<String>,
    pub(crate) url: String,
    _directory: TempDir,
}

impl EtcdServer {
    /// A server of its own; `None` where etcd is not installed, unless the tests must have it.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(flags: &[&str]) -> Option<Self> {
        Self::start_one("http", flags)
    }

    /// One that speaks TLS with its clients, by flags.
    pub(crate) fn start_tls(flags: &[&str]) -> Option<Self> {
        Self::start_one("https", flags)
    }

    fn start_one(scheme: &str, flags: &[&str]) -> Option<Self> {
        if !installed() {
            return None;
        }
        let directory = TempDir::new().unwrap();
        let [client, peer] = [free_url(scheme), free_url("http")];
        let mut command = command("one", directory.path(), &client, &peer, &format!("one={peer}"));
        command.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let process = spawn(&command);
        Some(Self { process, command, url: client, _directory: directory })
    }

    /// A cluster of as many members.
    pub(crate) fn start_cluster(size: usize) -> Option<Vec<Self>> {
        if !installed() {
            return None;
        }
        let peers: Vec<String> = (0..size).map(|_| free_url("http")).collect();
        let cluster = peers.iter().enumerate().map(|(index, url)| format!("m{index}={url}"));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let start = |(index, peer): (usize, &String)| {
            let directory = TempDir::new().unwrap();
            let url = free_url("http");
            let command = command(&format!("m{index}"), directory.path(), &url, peer, &cluster);
            Self { process: spawn(&command), command, url, _directory: directory }
        };
        Some(peers.iter().enumerate().map(start).collect())
    }

    pub(crate) async fn store(&self) -> Arc<dyn Store> {
        Arc::new(etcd::connect([&self.url], None).await.unwrap())
    }

    /// Sends it a signal (of `kill`'s names).
    pub(crate) fn signal(&self, signal: &str) {
        let status =
            Command::new("kill").args([format!("-{signal}"), self.process.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn kill(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }

    /// Starts it again on the same ports and data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = spawn(&self.command);
    }

    /// Runs etcdctl against it.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let output = Command::new("/usr/bin/etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.url))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn installed() -> bool {
    if Path::new(BINARY).exists() {
        return true;
    }
    let required = env::var("CI").is_ok_and(|ci| ci == "true") || env::var_os("WEIR_REQUIRE_ETCD").is_some();
    assert!(!required, "{BINARY} is missing: apt-get install etcd-server");
    eprintln!("skipped: {BINARY} is missing (apt-get install etcd-server)");
    false
}

fn free_url(scheme: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("{scheme}://{}", listener.local_addr().unwrap())
}

fn command(name: &str, directory: &Path, client: &str, peer: &str, cluster: &str) -> Vec<String> {
    let data: PathBuf = directory.join("data");
    [
        BINARY,
        "--name",
        name,
        "--data-dir",
        &data.display().to_string(),
        "--listen-client-urls",
        client,
        "--advertise-client-urls",
        client,
        "--listen-peer-urls",
        peer,
        "--initial-advertise-peer-urls",
        peer,
        "--initial-cluster",
        cluster,
        "--experimental-watch-progress-notify-interval",
        "500ms",
        "--log-level",
        "error",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn spawn(command: &[String]) -> Child {
    let (program, arguments) = command.split_first().unwrap();
    Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
