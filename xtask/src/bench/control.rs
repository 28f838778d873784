//! A control plane for one round: a process of the release binary with a directory and a port of its own, on an empty
//! store. It ends with the value that stands for it, and its files with it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::build;
use crate::cluster::Store;
use crate::shell::{output, workspace};

/// Room for 8192 nodes.
const CLUSTER_CIDR: &str = "10.32.0.0/11";
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct ControlPlane {
    // In the order in which they end.
    control: Process,
    _etcd: Option<Process>,
    directory: Directory,
}

impl ControlPlane {
    pub(super) fn start(store: Store) -> Result<Self> {
        let directory = Directory::new()?;
        let mut command = Command::new(build::binaries().join("weir-control"));
        command.arg("--data-dir").arg(directory.0.join("control"));
        command.arg("--kubeconfig").arg(directory.0.join("kubeconfig"));
        command.args(["--listen", "127.0.0.1:0", "--cluster-cidr", CLUSTER_CIDR]);
        // All nodes come from this machine.
        command.args(["--max-connections-per-address", "16384"]);
        let etcd = match store {
            Store::Embedded => None,
            Store::Etcd => {
                let (etcd, endpoint) = start_etcd(&directory)?;
                command.args(["--store", "etcd", "--etcd-endpoints", &endpoint]);
                Some(etcd)
            }
        };
        let control = Process::start(command, &directory.0.join("weir-control.log"))?;
        let mut started = Self { control, _etcd: etcd, directory };
        let kubeconfig = started.kubeconfig();
        started.control.wait(|| kubeconfig.exists())?;
        Ok(started)
    }

    pub(super) fn pid(&self) -> u32 {
        self.control.child.id()
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.directory.0.join("kubeconfig")
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.directory.0.join("control")
    }

    /// What it said last, for the error of a round that failed.
    pub(super) fn last_words(&self) -> String {
        self.control.tail()
    }
}

fn start_etcd(directory: &Directory) -> Result<(Process, String)> {
    let [clients, peers] = [free_url()?, free_url()?];
    let mut command = Command::new("/usr/bin/etcd");
    command.arg("--data-dir").arg(directory.0.join("etcd"));
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("default={peers}")]);
    // Debian's etcd tells watchers how far it is only by itself, and by default every ten minutes.
    command.args(["--experimental-watch-progress-notify-interval", "1s"]);
    let mut etcd = Process::start(command, &directory.0.join("etcd.log"))?;
    etcd.wait(|| {
        let mut health = Command::new("etcdctl");
        health.env("ETCDCTL_API", "3").args(["--endpoints", &clients, "endpoint", "health"]);
        output(&mut health).is_ok()
    })?;
    Ok((etcd, clients))
}

/// Free now, and hardly taken within the next moment.
fn free_url() -> Result<String> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    Ok(format!("http://{address}"))
}

/// Below `target/`: on the disk that the workspace is on, where a temporary directory may be memory.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self> {
        let path = workspace().join(format!("target/bench/{}", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Until `ready`; its own end, or half a minute, is an error.
    fn wait(&mut self, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}:\n{}", self.tail());
            }
            if Instant::now() > deadline {
                bail!("it is not ready after {PATIENCE:?}:\n{}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    /// Asked to end; made to, when it takes long.
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
