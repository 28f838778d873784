//! `pods/portforward` as kubectl speaks it since Kubernetes 1.31: SPDY inside a websocket.
//!
//! For each connection the client opens two streams of one request id: over `error` comes at most one line, over `data` what
//! the two ends say. To the agent it is one connection, named by the number of the data stream.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::{
    ForwardConnect, ForwardData, ForwardEnd, ForwardInput, ForwardOutput, ForwardRequest, forward_input,
    forward_output,
};

use super::Call;
use super::spdy::{Frame, Reader, SpdyError, Writer};
use crate::sessions;

const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Messages that wait for the agent.
const MESSAGES: usize = 8;
/// Of the websocket.
const LONGEST: usize = 1024 * 1024;
/// Streams of a client at a time, two for each connection. More are refused.
const STREAMS: usize = 512;

pub(super) async fn open(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|_| {
        ApiError::bad_request(
            "port-forward is served over websockets only: kubectl from 1.31 on speaks them, and weir port-forward works",
        )
    })?;
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(LONGEST).max_frame_size(LONGEST);
    if upgrade.selected_protocol().is_none() {
        return Err(ApiError::bad_request(format!("no subprotocol in common; supported is {PROTOCOL}")));
    }
    let wanted =
        ForwardRequest { namespace: call.resource.namespace.clone(), pod: call.resource.name.clone() };
    let conversation = Conversation::new().map_err(|error| ApiError::internal(error.to_string()))?;
    let (inputs, received) = mpsc::channel(MESSAGES);
    let (rest, received) = (call.rest.clone(), ReceiverStream::new(received));
    let outputs = sessions::forward(&rest.registry, &rest.agents, &call.context, wanted, received).await?;
    let outputs = outputs.take_until(rest.draining.cancelled_owned()).boxed();
    Ok(upgrade.on_upgrade(move |socket| converse(socket, conversation, inputs, outputs)))
}

/// Until the client or the agent is gone. The directions do not wait for each other: a pod that sends back what it gets would
/// stop both.
async fn converse(
    socket: WebSocket,
    conversation: Conversation,
    inputs: mpsc::Sender<ForwardInput>,
    mut outputs: BoxStream<'static, Result<ForwardOutput, ApiError>>,
) {
    let (mut sink, mut source) = socket.split();
    let conversation = Mutex::new(conversation);
    let locked = || conversation.lock().unwrap_or_else(PoisonError::into_inner);
    let (answers, mut answered) = mpsc::channel(MESSAGES);
    let listening = async {
        while let Some(Ok(message)) = source.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => return,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) => continue,
            };
            let turn = match locked().hear(&bytes) {
                Ok(turn) => turn,
                Err(error) => return tracing::debug!(%error, "port-forward"),
            };
            for bytes in turn.says {
                if answers.send(bytes).await.is_err() {
                    return;
                }
            }
            for frame in turn.tells {
                if inputs.send(ForwardInput { frame: Some(frame) }).await.is_err() {
                    return;
                }
            }
        }
    };
    let speaking = async {
        loop {
            let says = tokio::select! {
                Some(bytes) = answered.recv() => vec![bytes],
                output = outputs.next() => match output {
                    Some(Ok(output)) => locked().bring(output).says,
                    Some(Err(_)) | None => break,
                },
            };
            for bytes in says {
                if sink.send(Message::Binary(bytes)).await.is_err() {
                    return;
                }
            }
        }
        let _ = sink.send(Message::Close(None)).await;
    };
    tokio::select! {
        () = listening => {}
        () = speaking => {}
    }
}

/// What follows from something that was said.
#[derive(Debug, Default, PartialEq)]
struct Turn {
    /// To the client.
    says: Vec<Bytes>,
    /// To the agent.
    tells: Vec<forward_input::Frame>,
}

#[derive(Debug)]
enum Stream {
    Error {
        request: String,
    },
    Data {
        request: String,
        port: u32,
        /// Who says no more.
        client_ended: bool,
        agent_ended: bool,
    },
}

/// Who has which streams open.
#[derive(Debug)]
struct Conversation {
    reader: Reader,
    writer: Writer,
    streams: HashMap<u32, Stream>,
}

impl Conversation {
    fn new() -> Result<Self, SpdyError> {
        Ok(Self { reader: Reader::new(), writer: Writer::new()?, streams: HashMap::new() })
    }

    /// From the client.
    fn hear(&mut self, bytes: &[u8]) -> Result<Turn, SpdyError> {
        self.reader.push(bytes);
        let mut turn = Turn::default();
        while let Some(frame) = self.reader.next()? {
            match frame {
                Frame::Open { stream, headers } => self.open(stream, &headers, &mut turn)?,
                Frame::Data { stream, data, fin } => self.data(stream, data, fin, &mut turn),
                Frame::Reset { stream } => {
                    if let Some(Stream::Data { request, .. }) = self.streams.remove(&stream) {
                        turn.tells.push(end(stream, "the client cut the connection"));
                        // It waits for this before it forgets the connection.
                        turn.says.extend(self.error_of(&request, ""));
                    }
                }
                Frame::Ping { id } => turn.says.push(Writer::ping(id)),
                Frame::Other => {}
            }
        }
        Ok(turn)
    }

    fn open(&mut self, stream: u32, headers: &[(String, String)], turn: &mut Turn) -> Result<(), SpdyError> {
        let value = |name: &str| {
            let found = headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let request = value("requestid").to_owned();
        let port = value("port").parse().ok().filter(|port| (1..=65535).contains(port));
        let opened = match (value("streamtype"), port) {
            _ if self.streams.len() >= STREAMS || self.streams.contains_key(&stream) => None,
            ("error", _) => Some(Stream::Error { request }),
            ("data", Some(port)) => {
                Some(Stream::Data { request, port, client_ended: false, agent_ended: false })
            }
            _ => None,
        };
        let Some(opened) = opened else {
            turn.says.push(Writer::reset(stream));
            return Ok(());
        };
        turn.says.push(self.writer.reply(stream)?);
        if let Stream::Data { port, .. } = opened {
            let connect = ForwardConnect { connection: stream, port };
            turn.tells.push(forward_input::Frame::Connect(connect));
        }
        self.streams.insert(stream, opened);
        Ok(())
    }

    fn data(&mut self, stream: u32, data: Bytes, fin: bool, turn: &mut Turn) {
        let Some(Stream::Data { client_ended, agent_ended, .. }) = self.streams.get_mut(&stream) else {
            return;
        };
        if *client_ended {
            return;
        }
        if !data.is_empty() {
            let data = ForwardData { connection: stream, data: data.into() };
            turn.tells.push(forward_input::Frame::Data(data));
        }
        if fin {
            turn.tells.push(end(stream, ""));
            *client_ended = true;
            if *agent_ended {
                self.streams.remove(&stream);
            }
        }
    }

    /// From the agent.
    fn bring(&mut self, output: ForwardOutput) -> Turn {
        let mut turn = Turn::default();
        match output.frame {
            Some(forward_output::Frame::Data(ForwardData { connection, data }))
                if self.streams.contains_key(&connection) =>
            {
                turn.says.push(Writer::data(connection, &data, false));
            }
            Some(forward_output::Frame::End(ForwardEnd { connection, error })) => {
                let Some(Stream::Data { request, port, client_ended, agent_ended }) =
                    self.streams.get_mut(&connection)
                else {
                    return turn;
                };
                *agent_ended = true;
                let (request, port, is_over) = (request.clone(), *port, *client_ended || !error.is_empty());
                if is_over {
                    self.streams.remove(&connection);
                }
                let message = match error.as_str() {
                    "" => String::new(),
                    error => format!("error forwarding port {port} to the pod: {error}"),
                };
                turn.says.extend(self.error_of(&request, &message));
                turn.says.push(Writer::data(connection, &[], true));
            }
            Some(forward_output::Frame::Data(_)) | None => {}
        }
        turn
    }

    /// Ends the stream on which a connection's error would come.
    fn error_of(&mut self, of: &str, message: &str) -> Option<Bytes> {
        let is_its = |stream: &Stream| matches!(stream, Stream::Error { request } if request == of);
        let number = self.streams.iter().find(|(_, stream)| is_its(stream)).map(|(number, _)| *number)?;
        self.streams.remove(&number);
        Some(Writer::data(number, message.as_bytes(), true))
    }
}

fn end(connection: u32, error: &str) -> forward_input::Frame {
    forward_input::Frame::End(ForwardEnd { connection, error: error.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::spdy::tests::{frames, open};

    fn pair(client: &mut Writer, request: &str, first: u32, port: &str) -> Vec<u8> {
        let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
        let error = open(client, first, &headers("error"));
        let data = open(client, first + 2, &headers("data"));
        [error, Writer::data(first, &[], true), data].concat()
    }

    fn said(turn: &Turn) -> Vec<Frame> {
        frames(&turn.says.concat()).unwrap()
    }

    fn data(stream: u32, data: &'static [u8], fin: bool) -> Frame {
        Frame::Data { stream, data: Bytes::from_static(data), fin }
    }

    fn brought(connection: u32, error: &str) -> ForwardOutput {
        let end = ForwardEnd { connection, error: error.to_owned() };
        ForwardOutput { frame: Some(forward_output::Frame::End(end)) }
    }

    #[test]
    fn two_streams_are_one_connection_until_both_ends_have_ended() {
        let (mut server, mut client) = (Conversation::new().unwrap(), Writer::new().unwrap());
        let turn = server.hear(&pair(&mut client, "0", 1, "8080")).unwrap();
        assert_eq!(said(&turn), [Frame::Other, Frame::Other], "two replies");
        let connect = ForwardConnect { connection: 3, port: 8080 };
        assert_eq!(turn.tells, [forward_input::Frame::Connect(connect)]);
        let turn = server.hear(&Writer::data(3, b"GET", true)).unwrap();
        let get = ForwardData { connection: 3, data: b"GET".to_vec() };
        assert_eq!(turn.tells, [forward_input::Frame::Data(get), end(3, "")]);
        let answer = ForwardData { connection: 3, data: b"200".to_vec() };
        let turn = server.bring(ForwardOutput { frame: Some(forward_output::Frame::Data(answer)) });
        assert_eq!(said(&turn), [data(3, b"200", false)]);
        assert_eq!(said(&server.bring(brought(3, ""))), [data(1, b"", true), data(3, b"", true)]);
        assert!(server.streams.is_empty());
        assert_eq!(server.bring(brought(3, "")), Turn::default(), "nobody's any more");
    }

    #[test]
    fn what_goes_wrong_is_said_on_the_error_stream() {
        let (mut server, mut client) = (Conversation::new().unwrap(), Writer::new().unwrap());
        server.hear(&pair(&mut client, "7", 1, "81")).unwrap();
        let frames = said(&server.bring(brought(3, "connection refused")));
        let message = b"error forwarding port 81 to the pod: connection refused";
        assert_eq!(frames, [data(1, message, true), data(3, b"", true)]);
        assert!(server.streams.is_empty());
    }

    #[test]
    fn a_client_that_cuts_a_connection_is_done_with_it() {
        let (mut server, mut client) = (Conversation::new().unwrap(), Writer::new().unwrap());
        server.hear(&pair(&mut client, "7", 1, "81")).unwrap();
        let turn = server.hear(&Writer::reset(3)).unwrap();
        assert_eq!(said(&turn), [data(1, b"", true)]);
        assert_eq!(turn.tells, [end(3, "the client cut the connection")]);
        assert!(server.streams.is_empty());
    }

    #[test]
    fn streams_that_make_no_sense_are_refused_and_pings_answered() {
        let (mut server, mut client) = (Conversation::new().unwrap(), Writer::new().unwrap());
        for headers in [&[("streamtype", "data"), ("port", "0")][..], &[("streamtype", "x")], &[]] {
            let turn = server.hear(&open(&mut client, 1, headers)).unwrap();
            assert_eq!(said(&turn), [Frame::Reset { stream: 1 }], "{headers:?}");
        }
        assert_eq!(said(&server.hear(&Writer::ping(9)).unwrap()), [Frame::Ping { id: 9 }]);
        for number in 0..STREAMS as u32 {
            server.hear(&open(&mut client, 2 * number + 1, &[("streamtype", "error")])).unwrap();
        }
        let turn = server.hear(&open(&mut client, 9999, &[("streamtype", "error")])).unwrap();
        assert_eq!(said(&turn), [Frame::Reset { stream: 9999 }], "one too many");
    }
}
