//! Connections to ports of a pod, as if from inside it: to what listens on its loopback too.
//!
//! Any number over one stream, each ended in each direction by itself. They share the stream's flow control: one whose
//! server does not read holds up the others of its stream. Who minds opens a stream for each.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weir_proto::core::v1::Pod;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::{
    ForwardConnect, ForwardData, ForwardEnd, ForwardInput, ForwardOutput, ForwardRequest, forward_input,
    forward_output,
};

use super::{Sources, target};
use crate::pods::mirror::local_uid;

/// Connections of one stream.
const CONNECTIONS: usize = 256;
/// Frames that wait, for the client and for each connection.
const FRAMES: usize = 8;
const FRAME: usize = 32 * 1024;
/// To a port of a pod on this very machine.
const CONNECT: Duration = Duration::from_secs(10);

type Outputs = mpsc::Sender<Result<ForwardOutput, Status>>;

pub(super) async fn open(
    sources: &Sources,
    request: ForwardRequest,
    inputs: Streaming<ForwardInput>,
    permit: OwnedSemaphorePermit,
) -> Result<BoxStream<'static, Result<ForwardOutput, Status>>, ApiError> {
    let pod = target::pod(sources, &request.namespace, &request.pod)?;
    let netns = namespace(sources, &pod).await?;
    let (outputs, frames) = mpsc::channel(FRAMES);
    tokio::spawn(async move {
        tokio::select! {
            () = serve(inputs, &outputs, netns) => {}
            () = outputs.closed() => {}
        }
        drop(permit);
    });
    Ok(Box::pin(ReceiverStream::new(frames)))
}

/// The pod's network namespace; None where it lives in the node's.
async fn namespace(sources: &Sources, pod: &Pod) -> Result<Option<PathBuf>, ApiError> {
    let (runtime, uid) = (std::sync::Arc::clone(&sources.runtime), local_uid(pod).to_owned());
    let find = move || runtime.sandboxes().map(|all| all.into_iter().find(|found| found.spec.uid == uid));
    let found = tokio::task::spawn_blocking(find).await.map_err(|_| ApiError::internal("interrupted"))?;
    let found = found.map_err(|error| ApiError::internal(error.to_string()))?;
    let message = || format!("pod {:?} does not run on this node yet", pod.meta().name);
    Ok(found.ok_or_else(|| ApiError::bad_request(message()))?.netns)
}

/// What a connection gets; an absent one is the client's end.
type Incoming = mpsc::Sender<Option<Vec<u8>>>;

async fn serve(mut inputs: Streaming<ForwardInput>, outputs: &Outputs, netns: Option<PathBuf>) {
    let mut connections = HashMap::<u32, Incoming>::new();
    // Dropped with this future, and with it every connection.
    let mut tasks = JoinSet::new();
    while let Ok(Some(ForwardInput { frame: Some(frame) })) = inputs.message().await {
        while tasks.try_join_next().is_some() {}
        connections.retain(|_, incoming| !incoming.is_closed());
        match frame {
            forward_input::Frame::Connect(ForwardConnect { connection, port }) => {
                let refused = match u16::try_from(port) {
                    _ if connections.len() >= CONNECTIONS => Err("too many connections".to_owned()),
                    _ if connections.contains_key(&connection) => Err("the number is in use".to_owned()),
                    Ok(0) | Err(_) => Err(format!("{port} is not a port")),
                    Ok(port) => Ok(port),
                };
                match refused {
                    Ok(port) => {
                        let (incoming, received) = mpsc::channel(FRAMES);
                        connections.insert(connection, incoming);
                        tasks.spawn(carry(connection, netns.clone(), port, received, outputs.clone()));
                    }
                    Err(error) => end(outputs, connection, error).await,
                }
            }
            forward_input::Frame::Data(ForwardData { connection, data }) => {
                if let Some(incoming) = connections.get(&connection) {
                    // One that has ended meanwhile needs it no more.
                    let _ = incoming.send(Some(data)).await;
                }
            }
            forward_input::Frame::End(ForwardEnd { connection, error }) if error.is_empty() => {
                if let Some(incoming) = connections.get(&connection) {
                    let _ = incoming.send(None).await;
                }
            }
            forward_input::Frame::End(ForwardEnd { connection, .. }) => drop(connections.remove(&connection)),
            forward_input::Frame::Forward(_) => {}
        }
    }
    // The client opens no more and sends no more; what answers are under way still reach it.
    for incoming in connections.into_values() {
        let _ = incoming.send(None).await;
    }
    while tasks.join_next().await.is_some() {}
}

async fn carry(
    connection: u32,
    netns: Option<PathBuf>,
    port: u16,
    mut received: mpsc::Receiver<Option<Vec<u8>>>,
    outputs: Outputs,
) {
    let stream = match dial(netns, port).await {
        Ok(stream) => stream,
        Err(error) => return end(&outputs, connection, error.to_string()).await,
    };
    let (mut reader, mut writer) = stream.into_split();
    // It is over when both have ended, or when the client gives it up.
    let (client_ended, server_ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let up = async {
        let mut writable = true;
        loop {
            match received.recv().await {
                // A server that takes no more may still speak.
                Some(Some(data)) => writable = writable && writer.write_all(&data).await.is_ok(),
                Some(None) => {
                    let _ = writer.shutdown().await;
                    client_ended.store(true, Relaxed);
                    if server_ended.load(Relaxed) {
                        return;
                    }
                }
                // The client has given the connection up.
                None => return,
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; FRAME];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) => return end(&outputs, connection, String::new()).await,
                Ok(count) => {
                    let data = ForwardData { connection, data: buffer[..count].to_vec() };
                    if send(&outputs, forward_output::Frame::Data(data)).await.is_err() {
                        return;
                    }
                }
                Err(error) => return end(&outputs, connection, error.to_string()).await,
            }
        }
    };
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut up => {}
        // A server that has ended may still read what comes.
        () = &mut down => {
            server_ended.store(true, Relaxed);
            if !client_ended.load(Relaxed) {
                up.await;
            }
        }
    }
}

async fn end(outputs: &Outputs, connection: u32, error: String) {
    // Fails only when the client is gone.
    let _ = send(outputs, forward_output::Frame::End(ForwardEnd { connection, error })).await;
}

async fn send(outputs: &Outputs, frame: forward_output::Frame) -> Result<(), ()> {
    outputs.send(Ok(ForwardOutput { frame: Some(frame) })).await.map_err(drop)
}

async fn dial(netns: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let connect = move || {
        let to = |address: SocketAddr| std::net::TcpStream::connect_timeout(&address, CONNECT);
        to((Ipv4Addr::LOCALHOST, port).into()).or_else(|first| {
            // The first error says more: few listen on the second alone.
            to((Ipv6Addr::LOCALHOST, port).into())
                .map_err(|_| io::Error::new(first.kind(), format!("connect to 127.0.0.1:{port}: {first}")))
        })
    };
    let stream = match netns {
        Some(path) => weir_network::run_in(&path, connect).await.map_err(io::Error::other)??,
        None => tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)??,
    };
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}
