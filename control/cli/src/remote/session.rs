//! A session with a process in a container: standard streams both ways, the terminal's size, signals, the exit code.

use std::io;

use anyhow::{Context, Result, bail};
use futures::stream::{self, Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use weir_proto::weir::v1::{
    AttachRequest, ExecRequest, SessionInput, SessionOutput, session_input, session_output,
};

use super::console::{self, Raw};
use crate::failure::Exit;
use crate::session::Session;

/// Frames of input that wait to be sent.
const FRAMES: usize = 8;

/// What a session is for.
#[derive(Debug)]
pub(crate) enum Request {
    Exec(ExecRequest),
    Attach(AttachRequest),
}

/// Whether there is a terminal to hand through; says so where one was asked for in vain.
pub(crate) fn terminal(session: &Session, tty: bool, quiet: bool) -> bool {
    let possible = console::is_terminal();
    if tty && !possible && !quiet {
        session.note("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    tty && possible
}

/// Holds the session until the process ends; returns its exit code. The terminal is as it was again, however it ends.
pub(crate) async fn hold(session: &Session, what: &str, request: Request) -> Result<i32> {
    let (stdin, tty) = match &request {
        Request::Exec(exec) => (exec.stdin, exec.tty),
        Request::Attach(attach) => (attach.stdin, attach.tty),
    };
    let (inputs, received) = mpsc::channel::<SessionInput>(FRAMES);
    let mut client = session.client.streams();
    let outputs = match request {
        Request::Exec(mut exec) => {
            exec.size = if tty { console::size() } else { None };
            client.exec(following(session_input::Frame::Exec(exec), received)).await
        }
        Request::Attach(mut attach) => {
            attach.size = if tty { console::size() } else { None };
            client.attach(following(session_input::Frame::Attach(attach), received)).await
        }
    };
    let mut outputs = outputs.map_err(|status| session.client.error(what, status))?.into_inner();
    let raw = if tty && stdin { Some(Raw::enter().context("take over the terminal")?) } else { None };
    if stdin {
        console::send_stdin(inputs.clone()).context("read standard input")?;
    }
    let mut resized = signal(SignalKind::window_change())?;
    let (mut terminated, mut hung_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let code = loop {
        let output = tokio::select! {
            output = outputs.message() => output,
            _ = resized.recv() => {
                if let (true, Some(size)) = (tty, console::size()) {
                    // Where what was typed before is still under way, the next change says it again.
                    let _ = inputs.try_send(SessionInput { frame: Some(session_input::Frame::Resize(size)) });
                }
                continue;
            }
            _ = terminated.recv() => return Err(Exit(128 + 15).into()),
            _ = hung_up.recv() => return Err(Exit(128 + 1).into()),
        };
        let output = output.map_err(|status| session.client.error(what, status))?;
        match output.and_then(|SessionOutput { frame }| frame) {
            Some(session_output::Frame::Stdout(bytes)) => write(&mut stdout, &bytes).await?,
            Some(session_output::Frame::Stderr(bytes)) => write(&mut stderr, &bytes).await?,
            Some(session_output::Frame::Exit(exit)) => break exit.code,
            None => bail!("{what}: the connection was lost before the command ended"),
        }
    };
    drop(raw);
    Ok(code)
}

pub(crate) fn following(
    first: session_input::Frame,
    rest: mpsc::Receiver<SessionInput>,
) -> impl Stream<Item = SessionInput> + Send + 'static {
    let rest = stream::unfold(rest, |mut rest| async move { rest.recv().await.map(|input| (input, rest)) });
    stream::once(async { SessionInput { frame: Some(first) } }).chain(rest)
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// A process's exit code as this program's, said as kubectl says it.
pub(crate) fn exit(session: &Session, code: i32) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    session.note(format_args!("command terminated with exit code {code}"));
    Err(Exit(u8::try_from(code).unwrap_or(1)).into())
}
