//! Those who watch a container's standard streams, and type into it: sessions over the shim's socket.
//!
//! After [`super::protocol::Request::Attach`] the connection carries frames both ways: a byte for the kind, the length in
//! four bytes, big-endian, and the content.
//!
//! **Invariant:** nothing here ever waits. What a session has not read is kept up to [`UNREAD`]; one that reads slower than
//! the container writes is told so and cut off, so that the log and everybody else go on. What is typed is kept up to
//! [`UNTAKEN`]; beyond that the sessions' sockets are left unread until the container takes it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::terminal::{TerminalSize, resize_terminal};

/// Output that a session may be behind by.
const UNREAD: usize = 1024 * 1024;
/// Input that the container may be behind by.
const UNTAKEN: usize = 64 * 1024;
/// Longest content of a frame.
pub const LONGEST_FRAME: usize = 64 * 1024;
const HEADER: usize = 5;
const MOST_SESSIONS: usize = 16;
/// For the last output to be taken, when the container has ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a frame is about. The numbers are between processes of different age: never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    /// Columns and rows, two bytes each, big-endian.
    Resize = 4,
    CloseStdin = 5,
    /// From the shim, at last: the session did not read fast enough.
    TooSlow = 6,
}

impl FrameKind {
    pub fn of(number: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr, Self::Resize, Self::CloseStdin, Self::TooSlow]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// A frame as it travels. Content beyond [`LONGEST_FRAME`] must be split before.
pub fn frame(kind: FrameKind, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + content.len());
    bytes.push(kind as u8);
    bytes.extend(length.to_be_bytes());
    bytes.extend(content);
    bytes
}

/// The kind and the length of the content from a frame's first five bytes.
pub fn parse_header(header: [u8; HEADER]) -> io::Result<(FrameKind, usize)> {
    let [kind, length @ ..] = header;
    let length = u32::from_be_bytes(length) as usize;
    match FrameKind::of(kind) {
        Some(kind) if length <= LONGEST_FRAME => Ok((kind, length)),
        _ => Err(io::Error::other(format!("frame of kind {kind} and {length} bytes"))),
    }
}

/// Which streams a session is about.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct AttachSpec {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// The container's standard input, where it has one, and all sessions.
#[derive(Debug, Default)]
pub(super) struct Hub {
    sessions: Vec<Session>,
    stdin: Option<File>,
    /// Typed, and not yet taken by the container.
    untaken: Vec<u8>,
    terminal: Option<File>,
    /// The first session that typed closes the input by leaving.
    once: bool,
    /// It has left.
    once_over: bool,
}

#[derive(Debug)]
struct Session {
    stream: UnixStream,
    spec: AttachSpec,
    unread: Vec<u8>,
    /// The beginning of a frame.
    begun: Vec<u8>,
    /// Nothing more is taken from it, and it goes when all is written.
    leaving: bool,
}

impl Hub {
    pub(super) fn new(stdin: Option<File>, once: bool) -> Self {
        Self { stdin, once, ..Self::default() }
    }

    /// `master` does not block.
    pub(super) fn set_terminal(&mut self, master: File, stdin: bool) -> io::Result<()> {
        if stdin {
            self.stdin = Some(master.try_clone()?);
        }
        self.terminal = Some(master);
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.sessions.len() >= MOST_SESSIONS
    }

    pub(super) fn add(&mut self, stream: UnixStream, spec: AttachSpec) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        self.sessions.push(Session { stream, spec, unread: Vec::new(), begun: Vec::new(), leaving: false });
        Ok(())
    }

    /// What to poll: sessions by index, whether to read, whether to write. A closed one is seen even without both.
    pub(super) fn polled(&self) -> impl Iterator<Item = (BorrowedFd<'_>, usize, bool, bool)> {
        let room = self.untaken.len() < UNTAKEN;
        self.sessions.iter().enumerate().map(move |(index, session)| {
            (session.stream.as_fd(), index, room && !session.leaving, !session.unread.is_empty())
        })
    }

    /// The input, while there is something for it.
    pub(super) fn polled_stdin(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|_| !self.untaken.is_empty()).map(AsFd::as_fd)
    }

    /// The container wrote.
    pub(super) fn tell(&mut self, kind: FrameKind, content: &[u8]) {
        for session in &mut self.sessions {
            let wanted = match kind {
                FrameKind::Stderr => session.spec.stderr,
                _ => session.spec.stdout,
            };
            if !wanted || session.leaving {
                continue;
            }
            if session.unread.len() + content.len() > UNREAD {
                session.unread.extend(frame(FrameKind::TooSlow, &[]));
                session.leaving = true;
            } else {
                session.unread.extend(frame(kind, content));
            }
        }
    }

    /// A session can be read from, written to, or has gone.
    pub(super) fn serve(&mut self, index: usize) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let gone = session.write().is_err() || session.leaving && session.unread.is_empty();
        let mut frames = Vec::new();
        let gone = gone || !session.leaving && session.read(&mut frames).is_err();
        let typed = session.spec.stdin;
        if gone {
            self.sessions.swap_remove(index);
        }
        for (kind, content) in frames {
            match kind {
                FrameKind::Stdin if typed && self.stdin.is_some() => self.untaken.extend(content),
                FrameKind::CloseStdin if typed => self.end_input(),
                FrameKind::Resize => self.resize(&content),
                _ => {}
            }
        }
        if gone && typed {
            self.end_input();
        }
        self.feed();
    }

    /// Gives the container what was typed, as far as it takes it.
    pub(super) fn feed(&mut self) {
        while let Some(stdin) = self.stdin.as_mut().filter(|_| !self.untaken.is_empty()) {
            match stdin.write(&self.untaken) {
                Ok(count) => drop(self.untaken.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The container has closed it.
                Err(_) => {
                    self.stdin = None;
                    self.untaken.clear();
                }
            }
        }
        if self.once_over {
            self.stdin = None;
        }
    }

    fn end_input(&mut self) {
        // What was typed before is still for the container.
        self.once_over |= self.once && self.terminal.is_none();
    }

    fn resize(&self, content: &[u8]) {
        if let (Some(master), [c0, c1, r0, r1]) = (&self.terminal, content) {
            let size = TerminalSize {
                columns: u16::from_be_bytes([*c0, *c1]),
                rows: u16::from_be_bytes([*r0, *r1]),
            };
            // Fails only when the terminal is gone.
            let _ = resize_terminal(master.as_fd(), size);
        }
    }

    /// The container has ended: the sessions get what is left for them, but not for ever.
    pub(super) fn finish(&mut self) {
        for session in &mut self.sessions {
            let ready = session
                .stream
                .set_nonblocking(false)
                .and_then(|()| session.stream.set_write_timeout(Some(FAREWELL)));
            if ready.is_ok() {
                let _ = session.stream.write_all(&session.unread);
            }
        }
        self.sessions.clear();
    }
}

impl Session {
    fn write(&mut self) -> io::Result<()> {
        while !self.unread.is_empty() {
            match self.stream.write(&self.unread) {
                Ok(count) => drop(self.unread.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once; an end is an error.
    fn read(&mut self, frames: &mut Vec<(FrameKind, Vec<u8>)>) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.begun.extend(&buffer[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        while let Some(header) = self.begun.first_chunk::<HEADER>() {
            let (kind, length) = parse_header(*header)?;
            if self.begun.len() < HEADER + length {
                break;
            }
            let content = self.begun[HEADER..HEADER + length].to_vec();
            self.begun.drain(..HEADER + length);
            frames.push((kind, content));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: AttachSpec = AttachSpec { stdin: true, stdout: true, stderr: true };

    fn hub(once: bool) -> (Hub, File, UnixStream) {
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        let write = File::from(write);
        nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("set");
        let mut hub = Hub::new(Some(write), once);
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        hub.add(ours, ALL).expect("added");
        (hub, read.into(), theirs)
    }

    #[test]
    fn a_session_that_does_not_read_is_cut_off_and_keeps_nobody_waiting() {
        let (mut hub, _stdin, mut stuck) = hub(false);
        for _ in 0..200 {
            hub.tell(FrameKind::Stdout, &[b'x'; 16 * 1024]);
            hub.serve(0);
        }
        assert!(hub.sessions.first().is_none_or(|session| session.unread.len() <= UNREAD + HEADER));
        stuck.set_nonblocking(true).expect("set");
        let mut last = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stuck.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => last.extend(&buffer[..count]),
                Err(_) => hub.serve(0),
            }
        }
        assert!(last.ends_with(&frame(FrameKind::TooSlow, &[])), "it is told why");
        assert!(hub.sessions.is_empty());
    }

    #[test]
    fn what_is_typed_arrives_whole_and_leaving_ends_the_input_where_it_is_for_once() {
        let (mut hub, mut stdin, mut typist) = hub(true);
        let text = frame(FrameKind::Stdin, b"hello");
        typist.write_all(&text[..3]).expect("written");
        hub.serve(0);
        typist.write_all(&text[3..]).expect("written");
        drop(typist);
        hub.serve(0);
        hub.serve(0);
        let mut got = String::new();
        stdin.read_to_string(&mut got).expect("its end");
        assert_eq!(got, "hello");
    }

    #[test]
    fn headers_of_another_kind_or_size_are_refused() {
        assert_eq!(parse_header([1, 0, 0, 0, 7]).expect("good"), (FrameKind::Stdout, 7));
        assert!(parse_header([3, 0, 0, 0, 0]).is_err());
        assert!(parse_header([1, 0xff, 0, 0, 0]).is_err());
    }
}
