//! A command in a running container: its streams both ways, and its end.
//!
//! What waits is bounded: a client that does not read stops the command's writing, a command that does not read stops the
//! client's sending, each through the flow control between. When the client is gone the command is hung up on.
//!
//! The exit is told after everything that the command wrote. What its children write after it has ended is not the
//! session's any more.

use std::sync::Arc;

use futures::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use weir_proto::status::ApiError;
use weir_proto::weir::v1::{
    self as pb, ExecRequest, ExitStatus, SessionInput, SessionOutput, session_input, session_output,
};
use weir_runtime::{ExecSession, ExecSpec, ExecStdio, TerminalSize, resize_terminal};

use super::ends::{self, End};
use super::{Sources, target};

/// Frames that wait for the client.
const FRAMES: usize = 8;
/// Most bytes of a frame.
const FRAME: usize = 32 * 1024;
/// What a pipe holds at most (`fs.pipe-max-size`): all that can be left when a command has ended. A child that writes on
/// and on does not keep the session.
const LARGEST_PIPE: usize = 1024 * 1024;

type Outputs = mpsc::Sender<Result<SessionOutput, Status>>;

pub(super) async fn open(
    sources: &Sources,
    request: ExecRequest,
    inputs: Streaming<SessionInput>,
    permit: OwnedSemaphorePermit,
) -> Result<BoxStream<'static, Result<SessionOutput, Status>>, ApiError> {
    if request.command.is_empty() {
        return Err(ApiError::bad_request("you must specify at least one command for the container"));
    }
    let pod = target::pod(sources, &request.namespace, &request.pod)?;
    let key = target::running(sources, &pod, &request.container)?.key;
    let (mut ends, stdio) =
        Ends::of(&request).map_err(|error| ApiError::internal(format!("cannot make pipes: {error}")))?;
    let spec = ExecSpec {
        argv: request.command,
        stdio,
        terminal: request.tty.then(|| request.size.map(terminal_size).unwrap_or_default()),
        timeout: None,
    };
    let runtime = Arc::clone(&sources.runtime);
    let start = move || runtime.start_exec(&key, spec);
    let session = tokio::task::spawn_blocking(start).await.map_err(|_| ApiError::internal("interrupted"))?;
    let mut session = session.map_err(|error| ApiError::internal(error.to_string()))?;
    if let Some(master) = session.take_terminal() {
        let master = End::new(master).map_err(|error| ApiError::internal(error.to_string()))?;
        ends.take_terminal(master, request.stdin, request.stdout);
    }
    let (outputs, frames) = mpsc::channel(FRAMES);
    tokio::spawn(async move {
        serve(session, ends, inputs, outputs).await;
        drop(permit);
    });
    Ok(Box::pin(ReceiverStream::new(frames)))
}

/// The agent's ends of a command's streams.
#[derive(Debug, Default)]
struct Ends {
    stdin: Option<Arc<End>>,
    stdout: Option<Arc<End>>,
    stderr: Option<Arc<End>>,
    terminal: Option<Arc<End>>,
}

impl Ends {
    /// With the command's own ends.
    fn of(request: &ExecRequest) -> std::io::Result<(Self, ExecStdio)> {
        let (mut ours, mut theirs) = (Self::default(), ExecStdio::default());
        if request.tty {
            return Ok((ours, theirs));
        }
        let make = |wanted: bool, pipe: fn() -> std::io::Result<(End, std::os::fd::OwnedFd)>| {
            let (ours, theirs) = if wanted { pipe().map(Some)? } else { None }.unzip();
            std::io::Result::Ok((ours.map(Arc::new), theirs))
        };
        (ours.stdin, theirs.stdin) = make(request.stdin, ends::writable)?;
        (ours.stdout, theirs.stdout) = make(request.stdout, ends::readable)?;
        (ours.stderr, theirs.stderr) = make(request.stderr, ends::readable)?;
        Ok((ours, theirs))
    }

    fn take_terminal(&mut self, master: End, stdin: bool, stdout: bool) {
        let master = Arc::new(master);
        self.stdin = stdin.then(|| Arc::clone(&master));
        self.stdout = stdout.then(|| Arc::clone(&master));
        self.terminal = Some(master);
    }
}

async fn serve(session: ExecSession, ends: Ends, inputs: Streaming<SessionInput>, outputs: Outputs) {
    // Held until the end, and dropped whatever that is. Without it nothing could stop the command: none was started.
    let Ok(hang_up) = session.hang_up() else { return };
    let feeding = tokio::spawn(feed(inputs, ends.stdin, ends.terminal));
    let ended = CancellationToken::new();
    let waiting = async {
        let code = tokio::task::spawn_blocking(move || session.wait()).await;
        ended.cancel();
        code
    };
    let work = async {
        let stdout = relay(ends.stdout, session_output::Frame::Stdout, &outputs, &ended);
        let stderr = relay(ends.stderr, session_output::Frame::Stderr, &outputs, &ended);
        let (code, (), ()) = tokio::join!(waiting, stdout, stderr);
        let last = match code {
            Ok(Ok(code)) => Ok(frame(session_output::Frame::Exit(ExitStatus { code }))),
            Ok(Err(error)) => Err(ApiError::internal(error.to_string()).into()),
            Err(_) => Err(ApiError::internal("interrupted").into()),
        };
        let _ = outputs.send(last).await;
    };
    tokio::select! {
        () = work => {}
        () = outputs.closed() => tracing::debug!("the client of a session is gone"),
    }
    feeding.abort();
    drop(hang_up);
}

/// From the client to the command.
async fn feed(mut inputs: Streaming<SessionInput>, mut stdin: Option<Arc<End>>, terminal: Option<Arc<End>>) {
    // An error is the client's end; the other direction sees it too.
    while let Ok(Some(input)) = inputs.message().await {
        match input.frame {
            Some(session_input::Frame::Stdin(bytes)) => {
                if let Some(end) = &stdin
                    && end.write_all(&bytes).await.is_err()
                {
                    // The command has closed it; what still comes is for nobody.
                    stdin = None;
                }
            }
            Some(session_input::Frame::CloseStdin(_)) => stdin = None,
            Some(session_input::Frame::Resize(size)) => {
                if let Some(master) = &terminal {
                    // Fails only when the terminal is gone.
                    let _ = resize_terminal(std::os::fd::AsFd::as_fd(&**master), terminal_size(size));
                }
            }
            Some(session_input::Frame::Exec(_) | session_input::Frame::Attach(_)) | None => {}
        }
    }
}

/// From the command to the client: until the end of the stream, or until the command has ended and all is told.
async fn relay(
    end: Option<Arc<End>>,
    kind: fn(Vec<u8>) -> session_output::Frame,
    outputs: &Outputs,
    ended: &CancellationToken,
) {
    let Some(end) = end else { return };
    let mut buffer = vec![0; FRAME];
    let mut left = None;
    loop {
        let count = match left {
            Some(0) => return,
            Some(_) => end.read_now(&mut buffer),
            None => tokio::select! {
                biased;
                () = ended.cancelled() => {
                    left = Some(LARGEST_PIPE);
                    continue;
                }
                count = end.read(&mut buffer) => count,
            },
        };
        let Ok(count @ 1..) = count else { return };
        left = left.map(|left: usize| left.saturating_sub(count));
        if outputs.send(Ok(frame(kind(buffer[..count].to_vec())))).await.is_err() {
            return;
        }
    }
}

fn frame(frame: session_output::Frame) -> SessionOutput {
    SessionOutput { frame: Some(frame) }
}

pub(super) fn terminal_size(size: pb::TerminalSize) -> TerminalSize {
    let most = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    TerminalSize { columns: most(size.columns), rows: most(size.rows) }
}
