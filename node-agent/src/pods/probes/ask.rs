//! One question of a probe, and whether the answer is good.

use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_proto::core::v1::{HttpGetAction, Probe};
use weir_runtime::{ExecSpec, ExecStdio};

use super::{Target, grpc, port, tls};

/// Of an answer, no more than this is read: the status line is all that counts.
const ANSWER: usize = 4096;

/// `Err` says why the answer is not good.
pub(in crate::pods) async fn ask(probe: &Probe, target: &Target, timeout: Duration) -> Result<(), String> {
    if let Some(command) = &probe.exec {
        return exec(command.command.clone(), target, timeout).await;
    }
    let question = async {
        if let Some(get) = &probe.http_get {
            let port =
                get.port.as_ref().and_then(|wanted| port(&target.container, wanted)).unwrap_or_default();
            http_get(get, host(&get.host, target.address), port).await
        } else if let Some(tcp) = &probe.tcp_socket {
            let port =
                tcp.port.as_ref().and_then(|wanted| port(&target.container, wanted)).unwrap_or_default();
            connect(&host(&tcp.host, target.address), port).await.map(drop)
        } else if let Some(action) = &probe.grpc {
            grpc::check(action, &target.address.to_string()).await
        } else {
            Ok(())
        }
    };
    let answer = tokio::time::timeout(timeout, question).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs())))
}

fn host(wanted: &str, pod: IpAddr) -> String {
    if wanted.is_empty() { pod.to_string() } else { wanted.to_owned() }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("cannot connect to {host}:{port}: {error}"))
}

async fn http_get(get: &HttpGetAction, host: String, port: u16) -> Result<(), String> {
    let stream = connect(&host, port).await?;
    if get.scheme == "HTTPS" {
        return converse(tls::wrap(stream, &host).await?, get, &host, port).await;
    }
    converse(stream, get, &host, port).await
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    get: &HttpGetAction,
    host: &str,
    port: u16,
) -> Result<(), String> {
    stream.write_all(request(get, host, port).as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let mut limited = stream.take(ANSWER as u64);
    while !answer.contains(&b'\n') {
        if limited.read_buf(&mut answer).await.map_err(|error| error.to_string())? == 0 {
            break;
        }
    }
    match status(&answer) {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err("the answer is not HTTP".to_owned()),
    }
}

fn request(get: &HttpGetAction, host: &str, port: u16) -> String {
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let own = |name: &str| get.http_headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    let mut text = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in [
        ("Host", format!("{host}:{port}")),
        ("User-Agent", "kube-probe/weir".to_owned()),
        ("Accept", "*/*".to_owned()),
    ] {
        if !own(name) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for header in &get.http_headers {
        let line = format!("{}: {}", header.name, header.value);
        // A line break would let a header's value speak for itself.
        text.extend(line.chars().filter(|c| !c.is_control()));
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let rest = line.strip_prefix("HTTP/1.")?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

async fn exec(argv: Vec<String>, target: &Target, timeout: Duration) -> Result<(), String> {
    let (runtime, key) = (target.runtime.clone(), target.key.clone());
    let run = move || {
        runtime.exec(
            &key,
            ExecSpec { argv, stdio: ExecStdio::default(), terminal: None, timeout: Some(timeout) },
        )
    };
    match tokio::task::spawn_blocking(run).await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(code)) => Err(format!("command ended with exit code {code}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("interrupted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::HttpHeader;

    use super::*;

    #[test]
    fn the_first_line_of_an_answer_counts() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 503 Service Unavailable\r\nx", Some(503)),
            ("HTTP/1.1 302\r\n", Some(302)),
            ("SSH-2.0-x\r\n", None),
            ("", None),
            ("HTTP/1.1 abc\r\n", None),
        ] {
            assert_eq!(status(answer.as_bytes()), expected, "{answer:?}");
        }
    }

    #[test]
    fn headers_are_sent_replaced_and_cannot_break_out() {
        let header = |name: &str, value: &str| HttpHeader { name: name.to_owned(), value: value.to_owned() };
        let get = HttpGetAction {
            path: "healthz".to_owned(),
            http_headers: vec![header("host", "example.org"), header("X", "a\r\nEvil: 1")],
            ..HttpGetAction::default()
        };
        let text = request(&get, "10.32.1.2", 8080);
        assert!(text.starts_with("GET /healthz HTTP/1.1\r\n"), "{text}");
        assert!(!text.contains("Host: 10.32.1.2") && text.contains("host: example.org\r\n"), "{text}");
        assert!(text.contains("X: aEvil: 1\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }

    #[tokio::test]
    async fn a_server_is_asked_over_http() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            for code in ["204 No Content", "500 Oops"] {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut question = [0; 1024];
                let _ = stream.read(&mut question).await.expect("a question");
                stream.write_all(format!("HTTP/1.1 {code}\r\n\r\n").as_bytes()).await.expect("answered");
            }
        });
        let get = HttpGetAction::default();
        assert_eq!(http_get(&get, "127.0.0.1".to_owned(), port).await, Ok(()));
        let error = http_get(&get, "127.0.0.1".to_owned(), port).await.expect_err("a server error");
        assert_eq!(error, "HTTP probe failed with statuscode: 500");
    }

    #[tokio::test]
    async fn a_server_is_asked_over_tls_whoever_it_is() {
        let key = rcgen::generate_simple_self_signed(["someone.else".to_owned()]).expect("a certificate");
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let private =
            rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .expect("a configuration");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
            let mut stream = acceptor.accept(stream).await.expect("a handshake");
            let _ = stream.read(&mut [0; 1024]).await.expect("a question");
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("answered");
            stream.shutdown().await.expect("the end");
        });
        let get = HttpGetAction { scheme: "HTTPS".to_owned(), ..HttpGetAction::default() };
        assert_eq!(http_get(&get, "127.0.0.1".to_owned(), port).await, Ok(()));
        let error = http_get(&get, "127.0.0.1".to_owned(), port).await.expect_err("nobody");
        assert!(error.contains("TLS") || error.contains("cannot connect"), "{error}");
    }
}
