//! What agent and shim say to each other: over the shim's unix socket, JSON behind its length in four bytes, big-endian;
//! one response for each request, in order.
//!
//! A connection that asks nothing is a way to wait: the shim closes it by ending, after `exit.json` is written and the
//! container's cgroup and state are gone.

use std::io::{self, Read, Write};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::attach::AttachSpec;

const FRAME_LIMIT: u32 = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    State,
    /// Executes the container's program.
    Start,
    /// Signals the container's first process.
    Kill {
        signal: i32,
    },
    /// Opens the log file anew, after it was rotated away.
    ReopenLog,
    /// Turns this connection into a session with the container's streams: see [`super::attach`].
    Attach(AttachSpec),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    State {
        pid: i32,
        /// Absent until the program was executed.
        started_at: Option<Timestamp>,
    },
    Done,
    Attached {
        terminal: bool,
    },
    Failed {
        problem: String,
    },
}

/// Written once to the shim's standard output, when the container is created or cannot be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Ready,
    NotExecutable { problem: String },
    Failed { problem: String },
}

pub(crate) fn write(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(json);
    stream.write_all(&frame)
}

pub(crate) fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > FRAME_LIMIT {
        return Err(io::Error::other(format!("frame of {length} bytes")));
    }
    let mut json = vec![0; length as usize];
    stream.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut wire = Vec::new();
        write(&mut wire, &Request::Kill { signal: 15 }).expect("writing to memory");
        assert!(matches!(read(&mut wire.as_slice()), Ok(Request::Kill { signal: 15 })));
    }

    #[test]
    fn an_oversized_frame_is_refused_unread() {
        let wire = [0xff, 0xff, 0xff, 0xff];
        assert!(read::<Request>(&mut wire.as_slice()).is_err());
    }
}
