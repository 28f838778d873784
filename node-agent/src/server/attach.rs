//! The standard streams of a running container, through its shim.
//!
//! A client that reads slower than the container writes is cut off by the shim, with an error: the container does not wait
//! for those who watch it. When the container ends the session ends with its exit code.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weir_proto::status::ApiError;
use weir_proto::weir::v1::{
    AttachRequest, ExitStatus, SessionInput, SessionOutput, TerminalSize, session_input, session_output,
};
use weir_runtime::attach::{AttachSpec, Attachment, FrameKind, LONGEST_FRAME, frame, parse_header};
use weir_runtime::{ContainerKey, Runtime};

use super::exec::terminal_size;
use super::{Sources, target};

/// Frames that wait for the client.
const FRAMES: usize = 8;
/// Between the end of a container's shim and the notice of it.
const EXIT_NOTICE: Duration = Duration::from_secs(10);

type Outputs = mpsc::Sender<Result<SessionOutput, Status>>;

pub(super) async fn open(
    sources: &Sources,
    request: AttachRequest,
    inputs: Streaming<SessionInput>,
    permit: OwnedSemaphorePermit,
) -> Result<BoxStream<'static, Result<SessionOutput, Status>>, ApiError> {
    let pod = target::pod(sources, &request.namespace, &request.pod)?;
    let key = target::running(sources, &pod, &request.container)?.key;
    let spec = AttachSpec { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
    let (runtime, of) = (Arc::clone(&sources.runtime), key.clone());
    let connect = move || runtime.attach(&of, spec);
    let attached =
        tokio::task::spawn_blocking(connect).await.map_err(|_| ApiError::internal("interrupted"))?;
    let Attachment { stream, terminal } =
        attached.map_err(|error| ApiError::bad_request(format!("container {}: {error}", key.name)))?;
    if request.tty && !terminal {
        let message = format!("container {} did not allocate a terminal (tty: true)", key.name);
        return Err(ApiError::bad_request(message));
    }
    let broken = |error: io::Error| ApiError::internal(format!("cannot attach: {error}"));
    // Its timeouts are of blocking calls, and mean nothing from here on.
    stream.set_nonblocking(true).map_err(broken)?;
    let (reader, writer) = UnixStream::from_std(stream).map_err(broken)?.into_split();
    let (outputs, frames) = mpsc::channel(FRAMES);
    let runtime = Arc::clone(&sources.runtime);
    tokio::spawn(async move {
        let feeding = tokio::spawn(feed(inputs, writer, request.size));
        tokio::select! {
            () = relay(reader, &outputs, runtime, key) => {}
            () = outputs.closed() => {}
        }
        feeding.abort();
        drop(permit);
    });
    Ok(Box::pin(ReceiverStream::new(frames)))
}

/// From the client to the container. The shim sees the end of it when the client is gone.
async fn feed(mut inputs: Streaming<SessionInput>, mut writer: OwnedWriteHalf, size: Option<TerminalSize>) {
    if let Some(size) = size
        && writer.write_all(&resize(size)).await.is_err()
    {
        return;
    }
    while let Ok(Some(input)) = inputs.message().await {
        let written = match input.frame {
            Some(session_input::Frame::Stdin(bytes)) => {
                let mut written = Ok(());
                for piece in bytes.chunks(LONGEST_FRAME) {
                    written = writer.write_all(&frame(FrameKind::Stdin, piece)).await;
                }
                written
            }
            Some(session_input::Frame::CloseStdin(_)) => {
                writer.write_all(&frame(FrameKind::CloseStdin, &[])).await
            }
            Some(session_input::Frame::Resize(size)) => writer.write_all(&resize(size)).await,
            Some(session_input::Frame::Exec(_) | session_input::Frame::Attach(_)) | None => Ok(()),
        };
        if written.is_err() {
            return;
        }
    }
    // The end of what the client sends is not the end of what it reads.
    let _ = writer.write_all(&frame(FrameKind::CloseStdin, &[])).await;
    std::future::pending::<()>().await;
}

fn resize(size: TerminalSize) -> Vec<u8> {
    let size = terminal_size(size);
    let [c0, c1] = size.columns.to_be_bytes();
    let [r0, r1] = size.rows.to_be_bytes();
    frame(FrameKind::Resize, &[c0, c1, r0, r1])
}

async fn relay(mut reader: OwnedReadHalf, outputs: &Outputs, runtime: Arc<Runtime>, key: ContainerKey) {
    loop {
        let output = match next(&mut reader).await {
            Ok(Some((FrameKind::Stdout, content))) => Ok(session_output::Frame::Stdout(content)),
            Ok(Some((FrameKind::Stderr, content))) => Ok(session_output::Frame::Stderr(content)),
            Ok(Some((FrameKind::TooSlow, _))) => Err(ApiError::too_many_requests(
                "the container writes faster than this session reads; its log has everything",
                0,
            )),
            Ok(Some(_)) => continue,
            Ok(None) => {
                let (runtime, key) = (Arc::clone(&runtime), key.clone());
                let wait = move || runtime.wait_container(&key, EXIT_NOTICE);
                match tokio::task::spawn_blocking(wait).await {
                    Ok(Ok(Some(exit))) => Ok(session_output::Frame::Exit(ExitStatus { code: exit.code })),
                    _ => Err(ApiError::unavailable("the container's shim is gone")),
                }
            }
            Err(error) => Err(ApiError::internal(format!("read from the container's shim: {error}"))),
        };
        let last = matches!(output, Err(_) | Ok(session_output::Frame::Exit(_)));
        let output = output.map(|frame| SessionOutput { frame: Some(frame) }).map_err(Status::from);
        if outputs.send(output).await.is_err() || last {
            return;
        }
    }
}

/// None at the end.
async fn next(reader: &mut OwnedReadHalf) -> io::Result<Option<(FrameKind, Vec<u8>)>> {
    let mut header = [0; 5];
    match reader.read_exact(&mut header).await {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
        {
            return Ok(None);
        }
        read => read?,
    };
    let (kind, length) = parse_header(header)?;
    let mut content = vec![0; length];
    reader.read_exact(&mut content).await?;
    Ok(Some((kind, content)))
}
