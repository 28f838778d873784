//! Control planes as processes, over an etcd of their own. Everything ends with its owner.

#[path = "../../store/tests/contract/backend/etcd.rs"]
#[expect(dead_code, reason = "shared with the store's tests, which use all of it")]
mod etcd;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use etcd::EtcdServer;
use weir_client::{Client, Config, ListOptions};
use weir_proto::core::v1::Namespace;

/// Long enough for a machine that has much else to do.
pub(crate) const SOON: Duration = Duration::from_secs(120);
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_weir-control");

/// A control plane on a port of its own.
pub(crate) struct Control {
    command: Vec<String>,
    environment: Vec<(&'static str, String)>,
    process: Child,
    pub(crate) dir: PathBuf,
}

impl Control {
    /// Keeps its data, its kubeconfig and its log in `dir`.
    pub(crate) fn start(dir: &Path, flags: &[&str]) -> Control {
        Control::start_in(dir, flags, Vec::new())
    }

    /// The same, with something more in its environment.
    pub(crate) fn start_in(dir: &Path, flags: &[&str], environment: Vec<(&'static str, String)>) -> Control {
        fs::create_dir_all(dir).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        let mut command =
            vec!["--data-dir".to_owned(), path("data"), "--kubeconfig".to_owned(), path("kubeconfig")];
        command.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let process = spawn(&command, &environment, dir);
        Control { process, command, environment, dir: dir.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    pub(crate) fn kill(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = spawn(&self.command, &self.environment, &self.dir);
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// A client of this control plane and of those that its kubeconfig names besides, once this one answers.
    pub(crate) async fn client(&self) -> Client {
        let path = self.kubeconfig();
        until("the kubeconfig is written", async || path.exists()).await;
        let config = Config::from_kubeconfig(&path, None).unwrap();
        let client = Client::new(&config).unwrap();
        ready(&client).await;
        client
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(command: &[String], environment: &[(&str, String)], dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    Command::new(PROGRAM)
        .args(command)
        .env("RUST_LOG", "info")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits until a cluster has what every cluster has.
pub(crate) async fn ready(client: &Client) {
    until("the namespaces are there", async || {
        let listed = client.api::<Namespace>().list(&ListOptions::default()).await;
        listed.is_ok_and(|list| list.items.len() >= 4)
    })
    .await;
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < SOON, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
