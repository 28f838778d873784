//! Connections as strangers, the slow and the hostile make them: over real sockets.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fixture::DEADLINE;
use crate::tls::Listening;

const FRAME_SETTINGS: u8 = 4;
const FRAME_PING: u8 = 6;

/// A TLS connection that speaks what its bytes are.
pub(crate) async fn secure(
    cluster: &Listening,
    protocol: &[u8],
    known: bool,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(cluster.address).await?;
    secure_over(cluster, tcp, protocol, known).await
}

async fn secure_over(
    cluster: &Listening,
    tcp: TcpStream,
    protocol: &[u8],
    known: bool,
) -> std::io::Result<TlsStream<TcpStream>> {
    let pki = cluster.server.pki();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.authority.certificate_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = if known {
        let chain = CertificateDer::pem_slice_iter(pki.admin.certificate_pem.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(pki.admin.key_pem.as_bytes()).unwrap();
        config.with_client_auth_cert(chain.collect::<Result<_, _>>().unwrap(), key).unwrap()
    } else {
        config.with_no_client_auth()
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    timeout(DEADLINE, TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.expect("a handshake")
}

/// One HTTP/1.1 request of an administrator, and everything that comes back.
pub(crate) async fn http1(cluster: &Listening, request: &[u8]) -> String {
    let mut stream = secure(cluster, b"http/1.1", true).await.unwrap();
    stream.write_all(request).await.unwrap();
    read_to_end(&mut stream).await
}

pub(crate) async fn read_to_end(stream: &mut TlsStream<TcpStream>) -> String {
    let mut answer = Vec::new();
    // A connection that is cut has said what it had to say.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the server ends the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match timeout(DEADLINE, stream.read(&mut byte)).await.expect("the server closes the connection") {
        Ok(count) => count == 0,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    }
}

#[tokio::test]
async fn handshakes_that_never_end_are_ended() {
    let cluster =
        Listening::start_with(|config| config.limits.handshake_timeout = Duration::from_millis(300)).await;
    let mut silent = TcpStream::connect(cluster.address).await.unwrap();
    let mut halfway = TcpStream::connect(cluster.address).await.unwrap();
    // The header of a record that says that 512 bytes follow, and two of them.
    halfway.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.unwrap();
    assert!(is_closed(&mut silent).await && is_closed(&mut halfway).await);
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_places_come_back() {
    let cluster = Listening::start_with(|config| config.limits.connections = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(secure(&cluster, b"http/1.1", true).await.unwrap());
    }
    let mut fourth = TcpStream::connect(cluster.address).await.unwrap();
    assert!(is_closed(&mut fourth).await);
    held.pop();
    let again = async {
        while secure(&cluster, b"http/1.1", true).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, again).await.expect("the place of a connection that ended is given to another");
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let cluster = Listening::start_with(|config| config.limits.connections_per_peer = 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(secure(&cluster, b"http/1.1", true).await.unwrap());
    }
    let mut third = TcpStream::connect(cluster.address).await.unwrap();
    assert!(is_closed(&mut third).await);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    let elsewhere = socket.connect(cluster.address).await.unwrap();
    secure_over(&cluster, elsewhere, b"http/1.1", true).await.unwrap();
}

#[tokio::test]
async fn strangers_cannot_crowd_out_those_who_are_known() {
    let cluster = Listening::start_with(|config| config.limits.anonymous_connections = 2).await;
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let mut stream = secure(&cluster, b"http/1.1", false).await.unwrap();
        // Answered, so certainly counted.
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        timeout(DEADLINE, stream.read_exact(&mut start)).await.unwrap().unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        strangers.push(stream);
    }
    let mut third = secure(&cluster, b"http/1.1", false).await.unwrap();
    let _ = third.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(read_to_end(&mut third).await, "");
    let answer = http1(&cluster, b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn headers_have_a_largest_size_over_both_protocols() {
    let cluster = Listening::start_with(|_| {}).await;
    let large = "x".repeat(70 * 1024);
    let request = format!("GET /readyz HTTP/1.1\r\nhost: x\r\nx-large: {large}\r\nconnection: close\r\n\r\n");
    let answer = http1(&cluster, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{:.200}", answer);

    let mut admin = cluster.admin().await;
    let mut request = tonic::Request::new(crate::tls::nodes());
    request.metadata_mut().insert("x-large", large.parse().unwrap());
    assert!(admin.list(request).await.is_err());
    admin.list(crate::tls::nodes()).await.unwrap();
}

/// Pings (with `ACK` unset) that a client sends without reading the answers.
#[tokio::test]
async fn a_flood_of_pings_holds_up_nobody_else() {
    let cluster = Listening::start_with(|_| {}).await;
    let mut stream = secure(&cluster, b"h2", true).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(FRAME_SETTINGS, &[])).await.unwrap();
    let flood = frame(FRAME_PING, &[7; 8]).repeat(1000);
    let mut sent = 0;
    // The server stops reading when its answers are not read; then there is nothing left to flood.
    while sent < 200_000
        && matches!(timeout(Duration::from_secs(2), stream.write_all(&flood)).await, Ok(Ok(())))
    {
        sent += 1000;
    }
    cluster.admin().await.list(crate::tls::nodes()).await.unwrap();
}

/// Streams opened and reset at once (CVE-2023-44487): the connection ends before they become work.
#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let cluster = Listening::start_with(|_| {}).await;
    let stream = secure(&cluster, b"h2", true).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let flood = async {
        let mut client = client;
        loop {
            client = client.ready().await?;
            let request = http::Request::get("https://localhost/api/v1/pods").body(()).unwrap();
            let (_, mut sent) = client.send_request(request, true)?;
            sent.send_reset(h2::Reason::CANCEL);
            tokio::task::yield_now().await;
        }
        #[expect(unreachable_code, reason = "tells the type of the error")]
        Ok::<(), h2::Error>(())
    };
    assert!(timeout(DEADLINE, flood).await.expect("the server has enough of it").is_err());
    assert!(timeout(DEADLINE, connection).await.expect("the connection ends").unwrap().is_err());
    cluster.admin().await.list(crate::tls::nodes()).await.unwrap();
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}
