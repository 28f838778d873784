//! The process as its operator meets it: started, misconfigured, ended.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use weir_client::{Client, Config, ListOptions};
use weir_proto::core::v1::Namespace;

const DEADLINE: Duration = Duration::from_secs(30);
const PROGRAM: &str = env!("CARGO_BIN_EXE_weir-control");

fn control(dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--data-dir").arg(dir).env("RUST_LOG", "warn").stderr(Stdio::piped());
    command
}

/// Ends the process, however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Connections of ours must live on meanwhile: the process drains them.
    async fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < DEADLINE, "the process ends");
            tokio::task::yield_now().await;
        }
    }
}

async fn namespaces(kubeconfig: &Path) -> Vec<Namespace> {
    let start = Instant::now();
    loop {
        if let Ok(config) = Config::from_kubeconfig(kubeconfig, None) {
            let listed = Client::new(&config).unwrap().api::<Namespace>().list(&ListOptions::default()).await;
            match listed {
                Ok(list) if list.items.len() == 4 => return list.items,
                other => assert!(start.elapsed() < DEADLINE, "the API answers: {other:?}"),
            }
        }
        assert!(start.elapsed() < DEADLINE, "the kubeconfig is written");
        tokio::task::yield_now().await;
    }
}

fn failed(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn it_serves_by_the_kubeconfig_it_wrote_and_ends_when_told_to() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let address = format!("127.0.0.1:{}", free_port());
    let data = dir.path().join("data");
    let child = control(&data).args(["--listen", &address]).arg("--kubeconfig").arg(&kubeconfig).spawn();
    let mut running = Running(child.unwrap());
    namespaces(&kubeconfig).await;
    for secret in [
        kubeconfig.clone(),
        data.join("bootstrap-token"),
        data.join("pki/ca.key"),
        data.join("pki/admin.key"),
    ] {
        assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o077, 0, "{}", secret.display());
    }

    let (code, message) = failed(control(&dir.path().join("other")).args(["--listen", &address]));
    assert_eq!(code, Some(1));
    assert!(message.contains(&format!("listen on {address}: Address already in use")), "{message}");
    let (code, message) = failed(control(&data).args(["--listen", "127.0.0.1:0"]));
    assert_eq!(code, Some(1));
    assert!(message.contains("in use by another process"), "{message}");

    running.terminate();
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn an_inherited_socket_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The shell hands its standard input on as descriptor 3, under its own process id.
    let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
    let child = Command::new("/bin/sh")
        .args(["-c", script, PROGRAM, "--data-dir"])
        .arg(dir.path().join("data"))
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .env("RUST_LOG", "warn")
        .spawn();
    let mut running = Running(child.unwrap());
    namespaces(&kubeconfig).await;
    let config = Config::from_kubeconfig(&kubeconfig, None).unwrap();
    assert_eq!(config.servers, [format!("https://{address}")]);
    running.terminate();
    assert_eq!(running.exit_code().await, Some(0));
}

#[test]
fn what_cannot_work_is_said_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let wrong: [(&[&str], &str); 4] = [
        (&["--service-cidr", "10.96.0.1/16"], "10.96.0.1/16"),
        (&["--store", "etcd"], "--etcd-endpoints"),
        (&["--components", "scheduler"], "--kubeconfig"),
        (&["--listen", "nowhere"], "--listen"),
    ];
    for (arguments, expected) in wrong {
        let (code, message) = failed(control(&data).args(arguments));
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    assert!(!data.exists());
}
