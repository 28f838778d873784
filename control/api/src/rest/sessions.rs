//! `pods/exec` and `pods/attach` over websockets, in Kubernetes' `v5.channel.k8s.io` and `v4.channel.k8s.io`: each binary
//! message begins with the number of its channel. The error channel brings one `Status` at the end.
//!
//! SPDY, which clients older than Kubernetes 1.29 speak alone, is not served. Newer ones fall back to it when an upgrade is
//! refused: so what is wrong with a request is said to them too.

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::{
    AttachRequest, CloseStdin, ExecRequest, SessionInput, SessionOutput, TerminalSize, session_input,
    session_output,
};

use super::{Call, Rest, answer};
use crate::sessions::{self, Checked};

const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Of version 5: closes the channel that the next byte names.
const CLOSE: u8 = 255;
/// Clients send 32 KiB at a time.
const LONGEST: usize = 1024 * 1024;
/// Messages that wait for the agent.
const MESSAGES: usize = 8;

pub(super) async fn open(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let checked = sessions::check(&call.rest.registry, &call.context, wanted(call)?).await?;
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|_| {
        ApiError::bad_request(format!(
            "{} is served over websockets only: the client asks for another protocol (SPDY is not supported)",
            call.resource.subresource
        ))
    })?;
    let upgrade = upgrade.protocols(PROTOCOLS).max_message_size(LONGEST).max_frame_size(LONGEST);
    if upgrade.selected_protocol().is_none() {
        let message = format!("no subprotocol in common; supported are {}", PROTOCOLS.join(", "));
        return Err(ApiError::bad_request(message));
    }
    let rest = call.rest.clone();
    Ok(upgrade.on_upgrade(move |socket| converse(socket, rest, checked)))
}

fn wanted(call: &Call<'_>) -> Result<sessions::Request, ApiError> {
    let (query, resource) = (&call.query, &call.resource);
    let (namespace, pod) = (resource.namespace.clone(), resource.name.clone());
    let container = query.text("container").unwrap_or_default().to_owned();
    let (stdin, tty) = (query.flag("stdin")?, query.flag("tty")?);
    let (stdout, stderr) = (query.flag("stdout")?, query.flag("stderr")?);
    if !stdin && !stdout && !stderr {
        return Err(ApiError::bad_request("you must specify at least one of stdin, stdout, stderr"));
    }
    let size = None;
    Ok(match resource.subresource.as_str() {
        "attach" => sessions::Request::Attach(AttachRequest {
            namespace,
            pod,
            container,
            stdin,
            stdout,
            stderr,
            tty,
            size,
        }),
        _ => {
            let command = query.texts("command").map(str::to_owned).collect();
            sessions::Request::Exec(ExecRequest {
                namespace,
                pod,
                container,
                command,
                stdin,
                stdout,
                stderr,
                tty,
                size,
            })
        }
    })
}

async fn converse(socket: WebSocket, rest: Rest, checked: Checked) {
    let (mut sink, mut source) = socket.split();
    let (inputs, received) = mpsc::channel(MESSAGES);
    let listening = async {
        while let Some(Ok(message)) = source.next().await {
            let frame = match message {
                Message::Binary(bytes) => input(&bytes),
                Message::Text(text) => input(text.as_bytes()),
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            let Some(frame) = frame else { continue };
            if inputs.send(SessionInput { frame: Some(frame) }).await.is_err() {
                // The session takes no more; what the client sends is for nobody, its end is not.
                while let Some(Ok(_)) = source.next().await {}
                break;
            }
        }
    };
    let speaking = async {
        // As Kubernetes does: tells the client that the connection stands.
        let hello = Bytes::from_static(&[STDOUT]);
        if sink.send(Message::Binary(hello)).await.is_err() {
            return;
        }
        let end = match sessions::open(&rest.agents, checked, ReceiverStream::new(received)).await {
            Ok(mut outputs) => loop {
                let output = tokio::select! {
                    output = outputs.next() => output,
                    () = rest.draining.cancelled() => {
                        break answer::status(&ApiError::unavailable("the API server is stopping"));
                    }
                };
                match output {
                    Some(Ok(SessionOutput { frame: Some(session_output::Frame::Exit(exit)) })) => {
                        break exit_status(exit.code);
                    }
                    Some(Ok(output)) => {
                        let Some(message) = output_message(output) else { continue };
                        if sink.send(message).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(error)) => break answer::status(&error),
                    None => break answer::status(&ApiError::internal("the session ended without a result")),
                }
            },
            Err(error) => answer::status(&error),
        };
        let _ = sink.send(message(ERROR, end.to_string().as_bytes())).await;
        let close = CloseFrame { code: axum::extract::ws::close_code::NORMAL, reason: "".into() };
        let _ = sink.send(Message::Close(Some(close))).await;
    };
    // Whichever ends first: the session's end, or the client's. Dropping the other ends the session.
    tokio::select! {
        () = listening => {}
        () = speaking => {}
    }
}

/// What the client says; None for what means nothing.
fn input(bytes: &[u8]) -> Option<session_input::Frame> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u32,
        height: u32,
    }
    let (channel, rest) = bytes.split_first()?;
    match *channel {
        STDIN if rest.is_empty() => None,
        STDIN => Some(session_input::Frame::Stdin(rest.to_vec())),
        RESIZE => {
            let Size { width, height } = serde_json::from_slice(rest).ok()?;
            Some(session_input::Frame::Resize(TerminalSize { columns: width, rows: height }))
        }
        CLOSE if rest == [STDIN] => Some(session_input::Frame::CloseStdin(CloseStdin {})),
        _ => None,
    }
}

fn output_message(output: SessionOutput) -> Option<Message> {
    match output.frame? {
        session_output::Frame::Stdout(bytes) => Some(message(STDOUT, &bytes)),
        session_output::Frame::Stderr(bytes) => Some(message(STDERR, &bytes)),
        session_output::Frame::Exit(_) => None,
    }
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut whole = BytesMut::with_capacity(bytes.len() + 1);
    whole.put_u8(channel);
    whole.put_slice(bytes);
    Message::Binary(whole.freeze())
}

/// How Kubernetes tells an exit code.
fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_mean_what_their_first_byte_says() {
        assert_eq!(input(b"\0hello"), Some(session_input::Frame::Stdin(b"hello".to_vec())));
        let size = TerminalSize { columns: 80, rows: 24 };
        assert_eq!(input(b"\x04{\"Width\":80,\"Height\":24}"), Some(session_input::Frame::Resize(size)));
        assert_eq!(input(&[CLOSE, STDIN]), Some(session_input::Frame::CloseStdin(CloseStdin {})));
        for nothing in [&b""[..], b"\0", b"\x04{}", b"\x01x", &[CLOSE, STDOUT], &[CLOSE]] {
            assert_eq!(input(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn an_exit_code_is_a_status() {
        assert_eq!(exit_status(0)["status"], "Success");
        assert_eq!(exit_status(7)["details"]["causes"][0]["message"], "7");
    }
}
