//! Over real sockets of the loopback interface: what clients see, what others are asked, and what bad clients get.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use weir_dns::{Dns, Endpoint, Endpoints, Port, Service, Target};

/// Nothing here takes longer, unless it hangs.
const SOON: Duration = Duration::from_secs(30);

struct Server {
    dns: Dns,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

/// A UDP and a TCP socket of the same port.
async fn sockets() -> (UdpSocket, TcpListener, SocketAddr) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        match TcpListener::bind(address).await {
            Ok(tcp) => return (udp, tcp, address),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
        }
    }
}

impl Server {
    async fn start() -> Self {
        let dns = Dns::new("cluster.local", &[]).unwrap();
        dns.update(|zone| zone.replace(services()));
        let (udp, tcp, address) = sockets().await;
        let mut tasks = JoinSet::new();
        let serving = dns.clone();
        tasks.spawn(async move { serving.serve(udp, tcp).await.unwrap() });
        Self { dns, address, _tasks: tasks }
    }

    async fn with_upstream(upstream: &Upstream) -> Self {
        let server = Self::start().await;
        server.dns.set_upstreams(&[upstream.address]);
        server
    }

    async fn udp(&self, query: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        let mut buffer = vec![0; 65535];
        let exchange = async {
            socket.send(&query.to_vec().unwrap()).await.unwrap();
            socket.recv(&mut buffer).await.unwrap()
        };
        let length = timeout(SOON, exchange).await.expect("an answer");
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.id, query.metadata.id);
        answer
    }

    async fn tcp(&self, query: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        timeout(SOON, ask(&mut stream, query)).await.expect("an answer").unwrap()
    }
}

async fn ask(stream: &mut TcpStream, query: &Message) -> io::Result<Message> {
    let bytes = query.to_vec().unwrap();
    stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).await?;
    stream.write_all(&bytes).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).await?;
    Ok(Message::from_vec(&answer).unwrap())
}

fn services() -> Vec<Service> {
    let service = |name: &str, target| Service { namespace: "shop".into(), name: name.into(), target };
    let port = || vec![Port { name: "http".into(), protocol: "tcp".into(), number: 80 }];
    let endpoint = |index: u16| Endpoint {
        address: IpAddr::from([10, 32, (index >> 8) as u8, index as u8]),
        hostname: None,
    };
    let many = Endpoints { ports: port(), endpoints: (0..300).map(endpoint).collect() };
    vec![
        service("web", Target::Cluster { addresses: vec![[10, 96, 0, 7].into()], ports: port() }),
        service("many", Target::Headless(vec![many])),
        service("alias", Target::External("web.shop.svc.cluster.local".into())),
        service("ext", Target::External("host.example.com".into())),
        service("loop", Target::External("pool.shop.svc.cluster.local".into())),
        service("pool", Target::External("loop.shop.svc.cluster.local".into())),
    ]
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn data(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

/// A name server of somebody else's. Names say how it behaves.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    async fn start() -> Self {
        let (udp, tcp, address) = sockets().await;
        let asked = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let count = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut buffer = vec![0; 4096];
            loop {
                let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let query = Message::from_vec(&buffer[..length]).unwrap();
                if let Some(answer) = answer(&query, true) {
                    udp.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
                }
            }
        });
        let count = Arc::clone(&asked);
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).await.is_ok() {
                        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                        stream.read_exact(&mut bytes).await.unwrap();
                        count.fetch_add(1, Ordering::SeqCst);
                        let answer = answer(&Message::from_vec(&bytes).unwrap(), false).unwrap();
                        let bytes = answer.to_vec().unwrap();
                        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
                        stream.write_all(&[&length[..], &bytes].concat()).await.unwrap();
                    }
                });
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(query: &Message, is_udp: bool) -> Option<Message> {
    let name = query.queries[0].name().clone();
    let mut answer = Message::error_msg(query.metadata.id, query.metadata.op_code, ResponseCode::NoError);
    answer.queries.clone_from(&query.queries);
    let text = name.to_ascii().to_ascii_lowercase();
    let record = |data| Record::from_rdata(name.clone(), 300, data);
    match text.split('.').next().unwrap() {
        "silent" => return None,
        "missing" => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let zone = Name::from_ascii("example.com.").unwrap();
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 60);
            answer.authorities.push(Record::from_rdata(zone, 60, RData::SOA(soa)));
        }
        "refused" => answer.metadata.response_code = ResponseCode::Refused,
        "large" if is_udp => answer.metadata.truncation = true,
        "large" => {
            let text = |part| record(RData::TXT(TXT::new(vec![format!("{part:0>200}")])));
            answer.answers = (0..30).map(text).collect();
        }
        _ => answer.answers.push(record(RData::A(A::new(192, 0, 2, 1)))),
    }
    Some(answer)
}

#[tokio::test]
async fn names_of_the_cluster_are_answered_by_udp_and_by_tcp() {
    let server = Server::start().await;
    let question = query("web.shop.svc.cluster.local.", RecordType::A);
    for answer in [server.udp(&question).await, server.tcp(&question).await] {
        assert_eq!(data(&answer), ["10.96.0.7"]);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(answer.queries, question.queries);
    }
    let nothing = server.udp(&query("nobody.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(nothing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(nothing.authorities[0].record_type(), RecordType::SOA);
    let nothing = server.udp(&query("web.shop.svc.cluster.local.", RecordType::AAAA)).await;
    assert_eq!(nothing.metadata.response_code, ResponseCode::NoError);
    assert_eq!(nothing.authorities[0].record_type(), RecordType::SOA);
}

#[tokio::test]
async fn a_change_is_in_the_next_answer() {
    let server = Server::start().await;
    let question = query("web.shop.svc.cluster.local.", RecordType::A);
    for last in 1..50 {
        let target = Target::Cluster { addresses: vec![[10, 96, 1, last].into()], ports: Vec::new() };
        server.dns.update(|zone| zone.set(Service { namespace: "shop".into(), name: "web".into(), target }));
        assert_eq!(data(&server.udp(&question).await), [format!("10.96.1.{last}")]);
    }
    server.dns.update(|zone| zone.remove("shop", "web"));
    assert_eq!(server.udp(&question).await.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_comes_whole_by_tcp() {
    let server = Server::start().await;
    let mut question = query("many.shop.svc.cluster.local.", RecordType::A);
    let small = server.udp(&question).await;
    assert!(small.metadata.truncation && !small.answers.is_empty() && small.answers.len() < 32);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    question.edns = Some(edns);
    let larger = server.udp(&question).await;
    assert!(
        larger.metadata.truncation && larger.answers.len() > small.answers.len() && larger.edns.is_some()
    );
    let whole = server.tcp(&question).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 300);
}

#[tokio::test]
async fn a_connection_takes_one_question_after_the_other() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..10 {
        let answer = ask(&mut stream, &query("web.shop.svc.cluster.local.", RecordType::A)).await.unwrap();
        assert_eq!(data(&answer), ["10.96.0.7"]);
    }
}

#[tokio::test]
async fn external_names_are_followed_inside_the_cluster_and_outside() {
    let upstream = Upstream::start().await;
    let server = Server::with_upstream(&upstream).await;
    let answer = server.udp(&query("alias.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(data(&answer), ["web.shop.svc.cluster.local.", "10.96.0.7"]);
    let answer = server.udp(&query("alias.shop.svc.cluster.local.", RecordType::CNAME)).await;
    assert_eq!(data(&answer), ["web.shop.svc.cluster.local."]);
    assert_eq!(upstream.asked(), 0);
    let answer = server.udp(&query("ext.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(data(&answer), ["host.example.com.", "192.0.2.1"]);
    let answer = server.udp(&query("loop.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "names that go round");
}

#[tokio::test]
async fn others_are_asked_once_and_their_answers_kept() {
    let upstream = Upstream::start().await;
    let server = Server::with_upstream(&upstream).await;
    for (name, kind, code) in [
        ("www.example.com.", RecordType::A, ResponseCode::NoError),
        ("missing.example.com.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let before = upstream.asked();
        for _ in 0..5 {
            let answer = server.udp(&query(name, kind)).await;
            assert_eq!(answer.metadata.response_code, code);
            assert!(!answer.metadata.authoritative);
            assert_eq!(answer.answers.len(), usize::from(code == ResponseCode::NoError));
            assert_eq!(
                answer.authorities.len(),
                usize::from(code != ResponseCode::NoError),
                "how long it holds"
            );
        }
        assert_eq!(upstream.asked(), before + 1, "{name}");
    }
    let upper = server.udp(&query("WWW.Example.com.", RecordType::A)).await;
    assert_eq!(upper.queries[0].name().to_ascii(), "WWW.Example.com.");
    assert_eq!(upper.answers[0].name.to_ascii(), "WWW.Example.com.");
    assert_eq!(data(&upper), ["192.0.2.1"]);
    assert_eq!(upstream.asked(), 2, "whatever the letters");
    let refused = server.udp(&query("refused.example.com.", RecordType::A)).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn what_others_cut_off_is_asked_again_by_tcp() {
    let upstream = Upstream::start().await;
    let server = Server::with_upstream(&upstream).await;
    let question = query("large.example.com.", RecordType::TXT);
    let whole = server.tcp(&question).await;
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (30, false));
    let cut = server.udp(&question).await;
    assert!(cut.metadata.truncation && cut.answers.len() < 30);
}

#[tokio::test]
async fn with_nobody_to_ask_or_nobody_who_answers_the_client_is_told() {
    let server = Server::start().await;
    let answer = server.udp(&query("www.example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let upstream = Upstream::start().await;
    server.dns.set_upstreams(&[upstream.address]);
    let answer = server.udp(&query("silent.example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let answer = server.udp(&query("www.example.com.", RecordType::A)).await;
    assert_eq!(data(&answer), ["192.0.2.1"]);
    // Somebody who is not there is passed over for somebody who is.
    let (_, _, nobody) = sockets().await;
    server.dns.set_upstreams(&[nobody, upstream.address]);
    assert_eq!(data(&server.udp(&query("www.example.com.", RecordType::A)).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn questions_that_wait_for_others_do_not_keep_the_cluster_waiting() {
    let upstream = Upstream::start().await;
    let server = Server::with_upstream(&upstream).await;
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for index in 0..3000 {
        let question = query(&format!("silent.{index}.example.com."), RecordType::A);
        flood.send_to(&question.to_vec().unwrap(), server.address).await.unwrap();
    }
    let answer = server.tcp(&query("web.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(data(&answer), ["10.96.0.7"]);
}

#[tokio::test]
async fn noise_is_survived() {
    let server = Server::start().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut state = 1_u64;
    for round in 0..2000_usize {
        let length = round % 700;
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        socket.send_to(&bytes, server.address).await.unwrap();
    }
    socket.send_to(&[0; 60_000], server.address).await.unwrap();
    let deep = format!("{}svc.cluster.local.", "a.".repeat(100));
    let answer = server.udp(&query(&deep, RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let mut old = query("web.shop.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(7);
    old.edns = Some(edns);
    // BADVERS, which shares its number with another.
    assert_eq!(u16::from(server.udp(&old).await.metadata.response_code), 16);
    let transfer = server.tcp(&query("cluster.local.", RecordType::AXFR)).await;
    assert_eq!(transfer.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn clients_that_hold_connections_do_not_keep_others_out() {
    let server = Server::start().await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    // A client has so many; the further ones are closed at once.
    let mut last = idle.pop().unwrap();
    assert_eq!(timeout(SOON, last.read(&mut [0; 1])).await.expect("closed").unwrap_or(0), 0);
    let answer = server.udp(&query("web.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(data(&answer), ["10.96.0.7"]);
    drop(idle);
    let ask_again = async {
        loop {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            if let Ok(answer) = ask(&mut stream, &query("web.shop.svc.cluster.local.", RecordType::A)).await {
                return answer;
            }
        }
    };
    assert_eq!(data(&timeout(SOON, ask_again).await.expect("served again")), ["10.96.0.7"]);
}
