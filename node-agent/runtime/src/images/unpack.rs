//! From a layer's blob to its directory: verified, decompressed, unpacked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use super::ImageError;
use super::digest::{Digest, HashingReader};
use super::entries::{Problem, unpack};
use super::limits::{Gauge, Gauged, LayerLimits};

/// Unpacks `blob` into the existing, empty `directory`. Its digest is verified first, that of the decompressed stream at
/// the end: when this fails the directory holds garbage, which the caller removes.
pub(super) fn layer(
    mut blob: File,
    directory: &Path,
    digest: &Digest,
    diff_id: &Digest,
    limits: LayerLimits,
) -> Result<(), ImageError> {
    let failed = |source: io::Error| ImageError::Io {
        operation: "unpack layer into",
        path: directory.to_owned(),
        source,
    };
    let actual = HashingReader::new(BufReader::with_capacity(1 << 17, &blob)).finish().map_err(failed)?;
    digest.check(&actual, format_args!("layer {digest}"))?;
    blob.rewind().map_err(failed)?;

    let gauge = Gauge::new(limits);
    let too_large = |error: ImageError| match gauge.exceeded() {
        Some(excess) => ImageError::TooLarge { digest: digest.to_string(), excess: excess.to_string() },
        None => error,
    };
    let stream = decompress(Box::new(blob)).map_err(failed)?;
    let mut stream = HashingReader::new(Gauged::new(stream, &gauge));
    unpack(&mut stream, directory, &gauge).map_err(|(entry, problem)| {
        too_large(match problem {
            Problem::Refused(problem) => ImageError::Refused {
                digest: digest.to_string(),
                entry: entry.to_string_lossy().into_owned(),
                problem,
            },
            Problem::Io(source) => ImageError::Io {
                operation: "unpack",
                path: directory.join(entry.strip_prefix("/").unwrap_or(&entry)),
                source,
            },
        })
    })?;
    let unpacked = stream.finish().map_err(failed).map_err(too_large)?;
    diff_id.check(&unpacked, format_args!("unpacked layer {digest}"))
}

/// Undoes gzip or zstd, told by the first bytes.
pub(super) fn decompress(stream: Box<dyn Read>) -> io::Result<Box<dyn Read>> {
    let mut stream = BufReader::with_capacity(1 << 17, stream);
    let magic = stream.fill_buf()?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(stream)))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(zstd::Decoder::with_buffer(stream)?))
    } else {
        Ok(Box::new(stream))
    }
}
