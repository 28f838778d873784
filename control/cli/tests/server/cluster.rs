//! An API server over a store in a temporary directory, on a port of its own, and `weir` run against it in a shell.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_api::{Config, Server};

/// Nothing here takes longer, unless it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    address: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Cluster {
    /// A server that is ready.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Self { dir, address: ([127, 0, 0, 1], 0).into(), running: None };
        cluster.serve().await;
        cluster
    }

    /// Serves what is in the store, on the port of before.
    pub(crate) async fn serve(&mut self) {
        let data = self.dir.path();
        // What followed the store for a server that has ended lets go of it in its own time.
        let start = Instant::now();
        let store = loop {
            match weir_store::embedded::open(data.join("store")) {
                Ok(store) => break store,
                Err(error) => assert!(start.elapsed() < DEADLINE, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        let server = Server::new(Arc::new(store), Config::new(data)).unwrap();
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let encoded = |pem: &str| STANDARD.encode(pem);
        let kubeconfig = format!(
            "{{apiVersion: v1, kind: Config, current-context: test, \
              contexts: [{{name: test, context: {{cluster: test, user: test}}}}], \
              clusters: [{{name: test, cluster: {{server: 'https://{}', certificate-authority-data: {}}}}}], \
              users: [{{name: test, user: {{client-certificate-data: {}, client-key-data: {}}}}}]}}",
            self.address,
            encoded(server.pki().authority.certificate_pem()),
            encoded(&server.pki().admin.certificate_pem),
            encoded(&server.pki().admin.key_pem),
        );
        std::fs::write(self.kubeconfig(), kubeconfig).unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { server.serve(vec![listener], stop).await.unwrap() }
        });
        self.running = Some((stop, serving));
        let ready = async {
            while !self.weir("get --raw=/readyz").await.status.success() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.expect("the server gets ready");
    }

    pub(crate) async fn stop(&mut self) {
        let Some((stop, serving)) = self.running.take() else { return };
        stop.cancel();
        tokio::time::timeout(DEADLINE, serving).await.expect("the server ends").unwrap();
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// A shell in `testdata/server` whose `weir` asks this server.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_weir"));
        let mut path = program.parent().unwrap().as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env("PATH", path).env("KUBECONFIG", self.kubeconfig());
        // kubectl keeps what it learned of servers there.
        command.env("HOME", self.dir.path());
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.current_dir("testdata/server").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, script: &str) -> Output {
        let running = self.shell(script).output();
        tokio::time::timeout(DEADLINE, running).await.unwrap_or_else(|_| panic!("{script} ends")).unwrap()
    }

    pub(crate) async fn weir(&self, arguments: &str) -> Output {
        self.run(&format!("weir {arguments}")).await
    }

    /// What it says where it should succeed.
    pub(crate) async fn says(&self, arguments: &str) -> String {
        let output = self.weir(arguments).await;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}
