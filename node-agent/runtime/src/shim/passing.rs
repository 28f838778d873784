//! Messages that bring descriptors along, over a unix stream socket: JSON behind its length, as in [`super::protocol`],
//! with the descriptors on the length.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Standard input, output and error.
const MOST_DESCRIPTORS: usize = 3;
/// Above what the API takes as a command.
const LONGEST: u32 = 8 * 1024 * 1024;

pub(super) fn send(
    mut stream: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights };
    let length = length.to_be_bytes();
    let sent =
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&length)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    stream.write_all(&length[sent..])?;
    stream.write_all(&json)
}

/// The next message. The other end's being gone is [`io::ErrorKind::UnexpectedEof`].
pub(super) fn receive<T: DeserializeOwned>(mut stream: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let (count, descriptors) = {
        let mut parts = [IoSliceMut::new(&mut length)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let mut descriptors = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just made these for this process; nobody else knows them.
                descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        (message.bytes, descriptors)
    };
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    stream.read_exact(&mut length[count..])?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::Error::other(format!("message of {length} bytes")));
    }
    let mut json = vec![0; length as usize];
    stream.read_exact(&mut json)?;
    Ok((serde_json::from_slice(&json)?, descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_message_and_the_end_is_told_apart() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        send(&one, &"with", &[read.as_fd()]).expect("sent");
        send(&one, &"without", &[]).expect("sent");
        drop((one, read));
        let (text, mut descriptors) = receive::<String>(&other).expect("a message");
        assert_eq!((text.as_str(), descriptors.len()), ("with", 1));
        File::from(write).write_all(b"x").expect("the passed end is open");
        let mut byte = [0];
        File::from(descriptors.remove(0)).read_exact(&mut byte).expect("a byte");
        let (text, descriptors) = receive::<String>(&other).expect("a message");
        assert_eq!((text.as_str(), descriptors.len()), ("without", 0));
        let end = receive::<String>(&other).expect_err("the end");
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }
}
