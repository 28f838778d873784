//! SPDY/3.1's frames, as far as port forwarding has use for them (draft-mbelshe-httpbis-spdy-00): `kubectl port-forward` sends
//! them through a websocket. Pure.
//!
//! Left out: windows (Kubernetes' clients keep none), settings, priorities, streams that the server opens.
//!
//! **Invariant:** what is read is bounded: frames, header blocks, and what these unpack to.

mod dictionary;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use thiserror::Error;

use dictionary::DICTIONARY;

/// Kubernetes' clients send 32 KiB at a time.
const LONGEST_FRAME: usize = 1024 * 1024;
/// Of a header block, unpacked.
const LONGEST_BLOCK: usize = 64 * 1024;

const HEADER: usize = 8;
/// The first bit of a frame that is no data's, and the version.
const CONTROL: u16 = 0x8003;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const HEADERS: u16 = 8;

/// The status of a stream that is refused: this server has no use for it.
const PROTOCOL_ERROR: u32 = 1;

/// What a client says that is no SPDY.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum SpdyError {
    #[error("a frame of {0} bytes")]
    Length(usize),
    #[error("a frame of type {0} that is too short")]
    Short(u16),
    #[error("a frame of another version of SPDY")]
    Version,
    #[error("a header block that cannot be unpacked")]
    Block,
}

type Result<T> = std::result::Result<T, SpdyError>;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream; names are lower case.
    Open {
        stream: u32,
        headers: Vec<(String, String)>,
    },
    Data {
        stream: u32,
        data: Bytes,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    /// What nothing follows from.
    Other,
}

/// Frames out of bytes, in whatever pieces these come.
#[derive(Debug)]
pub(super) struct Reader {
    bytes: BytesMut,
    /// All blocks of a connection are one compressed text.
    blocks: Decompress,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { bytes: BytesMut::new(), blocks: Decompress::new(true) }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// None until the next frame is whole.
    pub(super) fn next(&mut self) -> Result<Option<Frame>> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let [a, b, c, d, flags, e, f, g] = *header;
        let length = u32::from_be_bytes([0, e, f, g]) as usize;
        if length > LONGEST_FRAME {
            return Err(SpdyError::Length(length));
        }
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        let mut body = self.bytes.split_to(HEADER + length).freeze();
        body.advance(HEADER);
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            return Ok(Some(Frame::Data { stream, data: body, fin: flags & FIN != 0 }));
        }
        if u16::from_be_bytes([a, b]) != CONTROL {
            return Err(SpdyError::Version);
        }
        self.control(u16::from_be_bytes([c, d]), body).map(Some)
    }

    fn control(&mut self, kind: u16, mut body: Bytes) -> Result<Frame> {
        let mut number = || body.try_get_u32().map_err(|_| SpdyError::Short(kind));
        match kind {
            SYN_STREAM => {
                let stream = number()? & 0x7fff_ffff;
                // The stream that it belongs to: none.
                number()?;
                // Its priority.
                body.try_get_u16().map_err(|_| SpdyError::Short(kind))?;
                let headers = pairs(self.unpack(&body)?)?;
                Ok(Frame::Open { stream, headers })
            }
            SYN_REPLY | HEADERS => {
                number()?;
                // The next block goes on from this one.
                self.unpack(&body)?;
                Ok(Frame::Other)
            }
            RST_STREAM => Ok(Frame::Reset { stream: number()? & 0x7fff_ffff }),
            PING => Ok(Frame::Ping { id: number()? }),
            _ => Ok(Frame::Other),
        }
    }

    fn unpack(&mut self, mut block: &[u8]) -> Result<Bytes> {
        let mut unpacked = Vec::new();
        loop {
            unpacked.reserve(4096);
            let (taken, made) = (self.blocks.total_in(), unpacked.len());
            let outcome = self.blocks.decompress_vec(block, &mut unpacked, FlushDecompress::Sync);
            let wants_dictionary = match outcome {
                Ok(_) => false,
                Err(error) if error.needs_dictionary().is_some() => true,
                Err(_) => return Err(SpdyError::Block),
            };
            if wants_dictionary {
                self.blocks.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Block)?;
            }
            let taken = usize::try_from(self.blocks.total_in() - taken).unwrap_or(usize::MAX);
            block = block.get(taken..).ok_or(SpdyError::Block)?;
            if unpacked.len() > LONGEST_BLOCK {
                return Err(SpdyError::Block);
            }
            if block.is_empty() && unpacked.len() < unpacked.capacity() {
                return Ok(unpacked.into());
            }
            if taken == 0 && unpacked.len() == made && !wants_dictionary {
                return Err(SpdyError::Block);
            }
        }
    }
}

/// Names and values of an unpacked block.
fn pairs(mut block: Bytes) -> Result<Vec<(String, String)>> {
    let count = block.try_get_u32().map_err(|_| SpdyError::Block)?;
    let mut text = || {
        let length = block.try_get_u32().ok().and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= block.len()).ok_or(SpdyError::Block)?;
        Ok(String::from_utf8_lossy(&block.split_to(length)).into_owned())
    };
    // An empty pair takes eight bytes, so what is counted wrongly ends soon.
    (0..count).map(|_| Ok((text()?, text()?))).collect()
}

/// Bytes out of frames.
#[derive(Debug)]
pub(super) struct Writer {
    blocks: Compress,
}

impl Writer {
    pub(super) fn new() -> Result<Self> {
        let mut blocks = Compress::new(Compression::fast(), true);
        blocks.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Block)?;
        Ok(Self { blocks })
    }

    /// Says yes to a stream.
    pub(super) fn reply(&mut self, stream: u32) -> Result<Bytes> {
        let block = self.pack(&[])?;
        let mut body = BytesMut::with_capacity(4 + block.len());
        body.put_u32(stream);
        body.put_slice(&block);
        Ok(control(SYN_REPLY, &body))
    }

    fn pack(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>> {
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(text.len() as u32);
            block.put_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(64 + block.len());
        let mut rest = &block[..];
        loop {
            let taken = self.blocks.total_in();
            let flush = FlushCompress::Sync;
            self.blocks.compress_vec(rest, &mut packed, flush).map_err(|_| SpdyError::Block)?;
            rest = &rest[usize::try_from(self.blocks.total_in() - taken).unwrap_or(usize::MAX)..];
            if rest.is_empty() && packed.len() < packed.capacity() {
                return Ok(packed);
            }
            packed.reserve(256);
        }
    }

    /// Data of a stream, or its end, or both.
    pub(super) fn data(stream: u32, data: &[u8], fin: bool) -> Bytes {
        let mut frame = BytesMut::with_capacity(HEADER + data.len());
        frame.put_u32(stream);
        frame.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | data.len() as u32);
        frame.put_slice(data);
        frame.freeze()
    }

    /// Says no to a stream.
    pub(super) fn reset(stream: u32) -> Bytes {
        let mut body = BytesMut::with_capacity(8);
        body.put_u32(stream);
        body.put_u32(PROTOCOL_ERROR);
        control(RST_STREAM, &body)
    }

    /// The answer to a ping: the same.
    pub(super) fn ping(id: u32) -> Bytes {
        control(PING, &id.to_be_bytes())
    }
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + body.len());
    frame.put_u16(CONTROL);
    frame.put_u16(kind);
    frame.put_u32(body.len() as u32);
    frame.put_slice(body);
    frame.freeze()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a client says to open a stream.
    pub(in crate::rest) fn open(writer: &mut Writer, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        let block = writer.pack(headers).unwrap();
        let mut body = BytesMut::new();
        body.put_u32(stream);
        body.put_slice(&[0; 6]);
        body.put_slice(&block);
        control(SYN_STREAM, &body)
    }

    pub(in crate::rest) fn frames(bytes: &[u8]) -> Result<Vec<Frame>> {
        let mut reader = Reader::new();
        reader.push(bytes);
        std::iter::from_fn(|| reader.next().transpose()).collect()
    }

    #[test]
    fn the_dictionary_is_the_one_that_everybody_has() {
        // Its Adler-32, which compressed texts name.
        let sums = DICTIONARY.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        assert_eq!((DICTIONARY.len(), sums.1 << 16 | sums.0), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn frames_are_found_in_whatever_pieces_they_come() {
        let mut writer = Writer::new().unwrap();
        let headers = [("streamtype", "data"), ("port", "80"), ("requestid", "0")];
        let mut bytes = BytesMut::new();
        bytes.put(open(&mut writer, 1, &headers));
        bytes.put(open(&mut writer, 3, &headers));
        bytes.put(writer.reply(5).unwrap());
        bytes.put(Writer::data(1, b"hello", false));
        bytes.put(Writer::data(3, b"", true));
        bytes.put(Writer::ping(7));
        bytes.put(Writer::reset(3));
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let expected = vec![
            Frame::Open { stream: 1, headers: headers.clone() },
            Frame::Open { stream: 3, headers },
            Frame::Other,
            Frame::Data { stream: 1, data: Bytes::from_static(b"hello"), fin: false },
            Frame::Data { stream: 3, data: Bytes::new(), fin: true },
            Frame::Ping { id: 7 },
            Frame::Reset { stream: 3 },
        ];
        assert_eq!(frames(&bytes), Ok(expected));
        let mut reader = Reader::new();
        let mut count = 0;
        for byte in bytes {
            reader.push(&[byte]);
            while reader.next().unwrap().is_some() {
                count += 1;
            }
        }
        assert_eq!(count, 7);
    }

    #[test]
    fn what_is_no_spdy_is_refused() {
        assert_eq!(frames(b"GET / HTTP/1.1\r\n"), Err(SpdyError::Length(0x20_48_54)));
        assert_eq!(frames(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(SpdyError::Version));
        assert_eq!(frames(&control(SYN_STREAM, &[0; 4])), Err(SpdyError::Short(SYN_STREAM)));
        assert_eq!(frames(&control(SYN_STREAM, &[0xff; 40])), Err(SpdyError::Block));
        // A block that unpacks to more than it should.
        let mut writer = Writer::new().unwrap();
        let long = "a".repeat(2 * LONGEST_BLOCK);
        assert_eq!(frames(&open(&mut writer, 1, &[("name", &long)])), Err(SpdyError::Block));
        // One that counts more than it has.
        assert_eq!(pairs(Bytes::from_static(&[0xff; 12])), Err(SpdyError::Block));
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..10_u16) {
            let _ = frames(&bytes);
            let _ = frames(&control(kind, &bytes));
        }
    }
}
