//! The process as its operator meets it: started, misconfigured, ended.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_client::{Client, Config, ListOptions};
use weir_proto::core::v1::{ConfigMap, Namespace};

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

/// One that answers, where it listens, and how an administrator reaches it.
async fn serving(dir: &Path, flags: &[&str]) -> (Running, String, Config) {
    let kubeconfig = dir.join("kubeconfig");
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = control(&dir.join("data"));
    command.args(["--listen", &address]).args(flags).arg("--kubeconfig").arg(&kubeconfig);
    let running = Running(command.spawn().unwrap());
    namespaces(&kubeconfig).await;
    (running, address, Config::from_kubeconfig(&kubeconfig, None).unwrap())
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
    let wrong: [(&[&str], &str); 6] = [
        (&["--service-cidr", "10.96.0.1/16"], "10.96.0.1/16"),
        (&["--store", "etcd"], "--etcd-endpoints"),
        (&["--components", "scheduler"], "--kubeconfig"),
        (&["--listen", "nowhere"], "--listen"),
        (&["--max-connections", "0"], "--max-connections"),
        (&["--event-ttl", "never"], "--event-ttl"),
    ];
    for (arguments, expected) in wrong {
        let (code, message) = failed(control(&data).args(arguments));
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    assert!(!data.exists());
}

/// Kilobytes of memory that a process holds.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// An administrator's connection that says nothing after its handshake.
fn silent_tls(
    address: &str,
    config: &Arc<rustls::ClientConfig>,
) -> std::io::Result<(rustls::ClientConnection, TcpStream)> {
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut tls = rustls::ClientConnection::new(config.clone(), name).unwrap();
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(DEADLINE))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    Ok((tls, tcp))
}

fn tls_config(config: &Config) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate =
        |pem: &Option<String>| CertificateDer::from_pem_slice(pem.as_ref().unwrap().as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate(&config.ca_pem)).unwrap();
    let key = PrivateKeyDer::from_pem_slice(config.key_pem.as_ref().unwrap().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_root_certificates(roots);
    Arc::new(builder.with_client_auth_cert(vec![certificate(&config.cert_pem)], key).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections_cost_little_and_hold_up_nobody() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const SILENT: usize = 4000;
    const SECURED: usize = 1000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--max-connections", "5100", "--max-connections-per-address", "5100"];
    let (running, address, config) = serving(dir.path(), &flags).await;
    let client = Client::new(&config).unwrap();
    let api = client.api::<Namespace>();
    api.list(&ListOptions::default()).await.unwrap();
    let before = resident(running.0.id());

    let target = address.clone();
    let (secured, silent) = tokio::task::spawn_blocking(move || {
        let tls = tls_config(&config);
        let secured: Vec<_> = (0..SECURED).map(|_| silent_tls(&target, &tls).unwrap()).collect();
        let silent: Vec<_> = (0..SILENT).map(|_| TcpStream::connect(&target).unwrap()).collect();
        (secured, silent)
    })
    .await
    .unwrap();
    api.list(&ListOptions::default()).await.unwrap();
    // Some more than may be: they are closed, and those who were there before are served on.
    let refused = tokio::task::spawn_blocking(move || {
        let mut more: Vec<_> = (0..200).map(|_| TcpStream::connect(&address).unwrap()).collect();
        let mut byte = [0];
        let closed = |stream: &mut TcpStream| {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            matches!(stream.read(&mut byte), Ok(0)) || stream.take_error().is_ok_and(|error| error.is_some())
        };
        more.iter_mut().rev().take(50).map(closed).filter(|closed| *closed).count()
    });
    assert!(refused.await.unwrap() > 0);
    api.list(&ListOptions::default()).await.unwrap();
    let grown = resident(running.0.id()).saturating_sub(before);
    assert!(grown < 128 * 1024, "{} connections took {grown} kB", secured.len() + silent.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_is_cut_before_it_costs_much_memory() {
    const CHANGES: usize = 400;
    const BYTES: usize = 512 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let (running, address, config) = serving(dir.path(), &[]).await;
    let maps = Client::new(&config).unwrap().namespaced::<ConfigMap>("default");
    let before = resident(running.0.id());

    let (mut tls, mut tcp) =
        tokio::task::spawn_blocking(move || silent_tls(&address, &tls_config(&config)).unwrap())
            .await
            .unwrap();
    let path = "/api/v1/namespaces/default/configmaps?watch=true";
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");

    let mut map = ConfigMap::default();
    map.meta_mut().name = "large".to_owned();
    map.data.insert("value".to_owned(), "x".repeat(BYTES));
    let mut map = maps.create(&map).await.unwrap();
    for round in 0..CHANGES {
        map.data.insert("round".to_owned(), round.to_string());
        map = maps.update(&map).await.unwrap();
    }
    // Kept for it and all others who are slow, and for those who resume, with what the allocator keeps besides.
    let grown = resident(running.0.id()).saturating_sub(before);
    assert!(grown < 256 * 1024, "{CHANGES} changes that nobody read took {grown} kB");

    // It finds out when it reads.
    let told = tokio::task::spawn_blocking(move || {
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        let (mut tail, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the stream ends without a word");
            tail.extend_from_slice(&buffer[..count]);
            tail.drain(..tail.len().saturating_sub(4096));
            let text = String::from_utf8_lossy(&tail);
            if text.contains("\"code\":410") {
                return text.contains("\"reason\":\"Expired\"");
            }
        }
    });
    assert!(told.await.unwrap());
}
