//! Over a socket: certificates, joining, what strangers see, draining.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use weir_api::{Config, Server};
use weir_proto::Resource;
use weir_proto::core::v1::Node;
use weir_proto::weir::v1::node_service_client::NodeServiceClient;
use weir_proto::weir::v1::resources_client::ResourcesClient;
use weir_proto::weir::v1::{JoinRequest, ListRequest, WatchRequest};

use crate::fixture::DEADLINE;

pub(crate) struct Listening {
    pub(crate) server: Arc<Server>,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    serving: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Listening {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A server that is ready.
    pub(crate) async fn start_with(configure: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = weir_store::embedded::open(dir.path().join("store")).unwrap();
        let mut config = Config::new(dir.path());
        configure(&mut config);
        let server = Arc::new(Server::new(Arc::new(store), config).unwrap());
        tokio::time::timeout(DEADLINE, server.ready()).await.expect("the server gets ready");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            async move { server.serve(vec![listener], stop).await.unwrap() }
        });
        Listening { server, address, stop, serving, _dir: dir }
    }

    pub(crate) async fn connect(&self, identity: Option<(&str, &str)>) -> Channel {
        let ca = Certificate::from_pem(self.server.pki().authority.certificate_pem());
        let mut tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn admin(&self) -> ResourcesClient<Channel> {
        let admin = &self.server.pki().admin;
        ResourcesClient::new(self.connect(Some((&admin.certificate_pem, &admin.key_pem))).await)
    }
}

pub(crate) fn nodes() -> ListRequest {
    ListRequest { kind: Some(Node::KIND.to_ref()), ..Default::default() }
}

#[tokio::test]
async fn the_administrator_is_let_in_and_a_stranger_is_not() {
    let cluster = Listening::start().await;
    cluster.admin().await.list(nodes()).await.unwrap();
    let mut stranger = ResourcesClient::new(cluster.connect(None).await);
    assert_eq!(stranger.list(nodes()).await.unwrap_err().code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn a_machine_joins_with_the_token_and_is_then_a_node() {
    let cluster = Listening::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    // The names in the request are not the client's to choose.
    let mut params = rcgen::CertificateParams::new(vec!["kubernetes".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let csr_pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let join = |name: &str, addresses: &[&str]| JoinRequest {
        node_name: name.to_owned(),
        csr_pem: csr_pem.clone(),
        addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
    };
    let with_token = |request: JoinRequest, token: &str| {
        let mut request = Request::new(request);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    let mut client = NodeServiceClient::new(cluster.connect(None).await);
    let token = cluster.server.bootstrap_token().to_owned();
    assert!(client.join(join("n1", &[])).await.is_err());
    assert!(client.join(with_token(join("n1", &[]), "0123456789abcdef")).await.is_err());
    for (name, addresses) in
        [("localhost", &[][..]), ("Bad Name", &[]), ("n1", &["127.0.0.1"]), ("n1", &["example.com"])]
    {
        assert!(
            client.join(with_token(join(name, addresses), &token)).await.is_err(),
            "{name} {addresses:?}"
        );
    }
    let joined = client.join(with_token(join("n1", &["10.31.0.11"]), &token)).await.unwrap().into_inner();
    assert_eq!(joined.ca_pem, cluster.server.pki().authority.certificate_pem());

    let key_pem = key.serialize_pem();
    let channel = cluster.connect(Some((&joined.certificate_pem, &key_pem))).await;
    let refused = ResourcesClient::new(channel.clone()).list(nodes()).await.unwrap_err();
    assert!(refused.message().contains("User \"system:node:n1\""), "{}", refused.message());
    let mut node = NodeServiceClient::new(channel);
    node.join(join("n1", &["10.31.0.11"])).await.unwrap();
    assert!(node.join(join("n2", &[])).await.is_err());
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let cluster = Listening::start().await;
    let other = tempfile::tempdir().unwrap();
    let pki = weir_api::pki::Pki::open(other.path(), &[]).unwrap();
    let ca = Certificate::from_pem(cluster.server.pki().authority.certificate_pem());
    let tls = ClientTlsConfig::new()
        .ca_certificate(ca)
        .domain_name("localhost")
        .identity(Identity::from_pem(&pki.admin.certificate_pem, &pki.admin.key_pem));
    let endpoint = Endpoint::from_shared(format!("https://{}", cluster.address)).unwrap();
    // With TLS 1.3 the client learns of the refusal when it first reads.
    let outcome = match endpoint.tls_config(tls).unwrap().connect().await {
        Ok(channel) => ResourcesClient::new(channel).list(nodes()).await.map(drop).map_err(|_| ()),
        Err(_) => Err(()),
    };
    assert!(outcome.is_err());
}

#[tokio::test]
async fn garbage_and_silence_hold_up_nobody() {
    use tokio::io::AsyncWriteExt;
    let cluster = Listening::start().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(cluster.address).await.unwrap());
    }
    for connection in &mut silent[..100] {
        let _ = connection.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    }
    cluster.admin().await.list(nodes()).await.unwrap();
}

#[tokio::test]
async fn draining_ends_watches_and_closes() {
    let cluster = Listening::start().await;
    let mut admin = cluster.admin().await;
    let request = WatchRequest { kind: Some(Node::KIND.to_ref()), ..Default::default() };
    let mut events = admin.watch(request).await.unwrap().into_inner();
    events.message().await.unwrap();
    cluster.stop.cancel();
    let rest = tokio::time::timeout(DEADLINE, events.message()).await.expect("the watch ends");
    assert!(matches!(rest, Ok(None) | Err(_)));
    tokio::time::timeout(DEADLINE, cluster.serving).await.expect("the server ends").unwrap();
    assert!(TcpStream::connect(cluster.address).await.is_err());
}
