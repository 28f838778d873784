//! `weir port-forward`: local ports that lead into a pod. Each connection is a stream of its own, so that a slow one holds
//! up no other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use futures::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use weir_client::Client;
use weir_proto::core::v1::{Pod, Service};
use weir_proto::weir::v1::{
    ForwardConnect, ForwardData, ForwardEnd, ForwardInput, ForwardOutput, ForwardRequest, forward_input,
    forward_output,
};
use weir_proto::{IntOrString, Resource};

use crate::remote;
use crate::session::Session;
use crate::target;

/// Frames that wait to be sent.
const FRAMES: usize = 8;
const FRAME: usize = 32 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// POD, or TYPE/NAME for one of the pods of a Deployment, ReplicaSet or Service
    target: String,
    /// [LOCAL:]REMOTE; without LOCAL the same, with an empty one any that is free
    #[arg(required = true)]
    ports: Vec<String>,
    /// Local addresses to listen on
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: u16,
}

/// What is said while ports are forwarded.
enum News {
    Note(String),
    Lost(String),
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let pod = remote::pod_of(session, &options.target).await?;
    let phase = pod.status.as_ref().map_or("", |status| status.phase.as_str());
    if phase != "Running" {
        bail!("unable to forward port because pod is not running. Current status={phase}");
    }
    let service = service_of(session, &options.target).await?;
    let pairs = options.ports.iter().map(|text| parse(text, &pod, service.as_ref()));
    let pairs = pairs.collect::<Result<Vec<Pair>>>()?;
    let request = ForwardRequest { namespace: session.namespace.clone(), pod: pod.meta().name.clone() };
    let (news, mut told) = mpsc::channel(64);
    for pair in pairs {
        for (listener, local) in listen(session, &options.address, pair).await? {
            session.say(format_args!("Forwarding from {local} -> {}", pair.remote))?;
            tokio::spawn(accept(listener, pair, session.client.clone(), request.clone(), news.clone()));
        }
    }
    drop(news);
    while let Some(news) = told.recv().await {
        match news {
            News::Note(line) => session.note(line),
            News::Lost(why) => bail!("lost connection to pod: {why}"),
        }
    }
    Ok(())
}

async fn service_of(session: &Session, word: &str) -> Result<Option<Service>> {
    if !word.contains('/') {
        return Ok(None);
    }
    match target::parse_named(&[word.to_owned()])?.pop() {
        Some((kind, name)) if kind == Service::KIND => {
            Ok(Some(session.client.namespaced::<Service>(&session.namespace).get(&name).await?))
        }
        _ => Ok(None),
    }
}

/// `80`, `8080:80`, `:80`, `8080:http`. Of a Service, its port; of anything else, the pod's.
fn parse(text: &str, pod: &Pod, service: Option<&Service>) -> Result<Pair> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let remote = remote_port(remote, pod, service).with_context(|| format!("port {text:?}"))?;
    let local = match local {
        "" => 0,
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            number.parse().with_context(|| format!("local port {number:?}"))?
        }
        // A name alone.
        _ if !text.contains(':') => remote,
        other => bail!("local port {other:?} is not a number"),
    };
    Ok(Pair { local, remote })
}

fn remote_port(word: &str, pod: &Pod, service: Option<&Service>) -> Result<u16> {
    let number = word.parse::<u16>().ok().filter(|number| *number != 0);
    let Some(service) = service else {
        return match number {
            Some(number) => Ok(number),
            None => container_port(pod, word),
        };
    };
    let ports = service.spec.as_ref().map(|spec| spec.ports.as_slice()).unwrap_or_default();
    let found =
        ports.iter().find(|port| port.name == word || number.is_some_and(|n| port.port == i32::from(n)));
    let found = found.with_context(|| format!("service {} has no port {word}", service.meta().name))?;
    match &found.target_port {
        Some(IntOrString::String(name)) => container_port(pod, name),
        Some(IntOrString::Int(number)) if *number != 0 => Ok(u16::try_from(*number)?),
        _ => Ok(u16::try_from(found.port)?),
    }
}

fn container_port(pod: &Pod, name: &str) -> Result<u16> {
    let ports = pod.spec().containers.iter().flat_map(|container| &container.ports);
    let found = ports.into_iter().find(|port| !name.is_empty() && port.name == name);
    let found = found.with_context(|| format!("pod {} has no port {name:?}", pod.meta().name))?;
    Ok(u16::try_from(found.container_port)?)
}

/// The listeners of a pair. "localhost" is both of its addresses, of which one is enough.
async fn listen(
    session: &Session,
    addresses: &[String],
    pair: Pair,
) -> Result<Vec<(TcpListener, SocketAddr)>> {
    let mut listeners = Vec::new();
    let mut port = pair.local;
    for address in addresses {
        let (ips, any): (Vec<IpAddr>, bool) = match address.as_str() {
            "localhost" => (vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], true),
            text => (vec![text.parse().with_context(|| format!("--address {text}"))?], false),
        };
        let before = listeners.len();
        let mut failed = None;
        for ip in ips {
            match TcpListener::bind((ip, port)).await {
                Ok(listener) => {
                    let local = listener.local_addr()?;
                    // A port that was chosen here is the same on all addresses.
                    port = local.port();
                    listeners.push((listener, local));
                }
                Err(error) if any => failed = Some(error),
                Err(error) => bail!("unable to listen on port {port}: {error}"),
            }
        }
        if let (Some(error), true) = (failed, listeners.len() == before) {
            session.note(format_args!("Unable to listen on port {port}: {error}"));
            bail!("unable to listen on any of the requested ports: [{{{} {}}}]", pair.local, pair.remote);
        }
    }
    Ok(listeners)
}

async fn accept(
    listener: TcpListener,
    pair: Pair,
    client: Client,
    request: ForwardRequest,
    news: mpsc::Sender<News>,
) {
    let port = listener.local_addr().map_or(pair.local, |address| address.port());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                let _ = news.send(News::Lost(format!("cannot accept on port {port}: {error}"))).await;
                return;
            }
        };
        let _ = news.send(News::Note(format!("Handling connection for {port}"))).await;
        let (client, request, news) = (client.clone(), request.clone(), news.clone());
        tokio::spawn(async move {
            let remote = pair.remote;
            let Err(error) = carry(&client, request, remote, stream).await else { return };
            let gone = error.downcast_ref::<weir_client::Error>().is_some_and(
                |error| matches!(error, weir_client::Error::Api(status) if status.is_not_found()),
            );
            let line = format!("an error occurred forwarding {port} -> {remote}: {error:#}");
            let _ = news.send(if gone { News::Lost(line) } else { News::Note(line) }).await;
        });
    }
}

/// One connection, until both sides have ended.
async fn carry(client: &Client, request: ForwardRequest, port: u16, stream: TcpStream) -> Result<()> {
    const CONNECTION: u32 = 1;
    let failed = |status| client.error("port-forward", status);
    let input = |frame| ForwardInput { frame: Some(frame) };
    stream.set_nodelay(true)?;
    let (inputs, received) = mpsc::channel::<ForwardInput>(FRAMES);
    inputs.send(input(forward_input::Frame::Forward(request))).await?;
    let connect = ForwardConnect { connection: CONNECTION, port: port.into() };
    inputs.send(input(forward_input::Frame::Connect(connect))).await?;
    let frames =
        stream::unfold(received, |mut rest| async move { rest.recv().await.map(|next| (next, rest)) });
    let mut outputs = client.streams().port_forward(frames).await.map_err(failed)?.into_inner();
    let (mut reader, mut writer) = stream.into_split();
    let up = async {
        let mut buffer = vec![0; FRAME];
        loop {
            let count = reader.read(&mut buffer).await?;
            let frame = match count {
                0 => forward_input::Frame::End(ForwardEnd { connection: CONNECTION, error: String::new() }),
                count => {
                    let data = buffer[..count].to_vec();
                    forward_input::Frame::Data(ForwardData { connection: CONNECTION, data })
                }
            };
            if inputs.send(input(frame)).await.is_err() || count == 0 {
                return anyhow::Ok(());
            }
        }
    };
    let down = async {
        while let Some(ForwardOutput { frame }) = outputs.message().await.map_err(failed)? {
            match frame {
                Some(forward_output::Frame::Data(data)) => writer.write_all(&data.data).await?,
                Some(forward_output::Frame::End(ForwardEnd { error, .. })) if error.is_empty() => {
                    writer.shutdown().await?;
                    return Ok(());
                }
                Some(forward_output::Frame::End(ForwardEnd { error, .. })) => bail!("{error}"),
                None => {}
            }
        }
        bail!("the connection was cut off")
    };
    tokio::try_join!(up, down).map(drop)
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{Container, ContainerPort, ServicePort};

    use super::*;

    #[test]
    fn ports_are_pairs_names_and_those_of_services() {
        let mut pod = Pod::default();
        let http =
            ContainerPort { name: "http".to_owned(), container_port: 8080, ..ContainerPort::default() };
        pod.spec_mut().containers = vec![Container { ports: vec![http], ..Container::default() }];
        let pair = |local, remote| Pair { local, remote };
        let of_pod = |text: &str| parse(text, &pod, None).map_err(|error| format!("{error:#}"));
        assert_eq!(of_pod("80"), Ok(pair(80, 80)));
        assert_eq!(of_pod("8000:80"), Ok(pair(8000, 80)));
        assert_eq!(of_pod(":80"), Ok(pair(0, 80)));
        assert_eq!(of_pod("9000:http"), Ok(pair(9000, 8080)));
        assert_eq!(of_pod("http"), Ok(pair(8080, 8080)));
        for bad in ["", ":", "x", "80:", "70000:80", "80:70000", "a:80", "80:0"] {
            assert!(of_pod(bad).is_err(), "{bad:?} was taken");
        }
        let mut service = Service::default();
        let port = ServicePort {
            name: "web".to_owned(),
            port: 80,
            target_port: Some(IntOrString::String("http".to_owned())),
            ..ServicePort::default()
        };
        service.spec.get_or_insert_default().ports = vec![port];
        let of_service = |text: &str| parse(text, &pod, Some(&service)).map_err(|error| format!("{error:#}"));
        assert_eq!(of_service("80"), Ok(pair(80, 8080)));
        assert_eq!(of_service("9000:web"), Ok(pair(9000, 8080)));
        assert!(of_service("81").is_err());
    }
}
