//! Layers: fetched into a file, on from where an earlier attempt or an earlier process ended.
//!
//! The file may be whatever a crash left: it counts for nothing until its digest has been checked.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Instant;

use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::RegistryError;
use super::client::{Client, ureq_error};
use crate::images::ImageError;
use crate::images::digest::HashingReader;
use crate::images::manifest::Descriptor;

/// Fewer bytes than this within twice the patience is no progress: a registry that drips holds nobody up for days.
const DRIP: u64 = 64 << 10;
const BLOCK: usize = 128 << 10;

impl Client<'_> {
    /// Brings `part` to the descriptor's size. Attempts are counted anew whenever one got further.
    pub(super) fn blob(&self, descriptor: &Descriptor, part: &Path) -> Result<(), RegistryError> {
        let failed = |source| RegistryError::Io { operation: "write", path: part.to_owned(), source };
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(part).map_err(failed)?;
        let mut held = file.metadata().map_err(failed)?.len();
        if held > descriptor.size {
            file.set_len(0).map_err(failed)?;
            held = 0;
        }
        self.progress.receive(held);
        let mut tries = 1;
        loop {
            let before = held;
            match self.blob_on(descriptor, part, &mut file, &mut held) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if held >= before.saturating_add(DRIP) {
                        tries = 1;
                    }
                    let given_up = self.pause(&mut tries, error);
                    given_up.inspect_err(|_| self.progress.discard(held))?;
                }
            }
        }
    }

    /// One attempt; `held` says how much of the file there is, afterwards too.
    fn blob_on(
        &self,
        descriptor: &Descriptor,
        part: &Path,
        file: &mut File,
        held: &mut u64,
    ) -> Result<(), RegistryError> {
        if *held == descriptor.size {
            return Ok(());
        }
        let failed = |source| RegistryError::Io { operation: "write", path: part.to_owned(), source };
        let what = format!("layer {}", descriptor.digest);
        let range = format!("bytes={held}-");
        let headers: &[(&str, &str)] = if *held > 0 { &[("range", &range)] } else { &[] };
        let answer = self.get(&format!("blobs/{}", descriptor.digest), headers, &what);
        let start_over = |held: &mut u64| {
            self.progress.discard(std::mem::take(held));
            file.set_len(0).map_err(failed)
        };
        let response = match answer {
            Err(error @ RegistryError::Status { status: 416, .. }) => {
                start_over(held)?;
                return Err(RegistryError::Truncated {
                    host: self.host.name.clone(),
                    what,
                    received: 0,
                    size: descriptor.size,
                    problem: error.to_string(),
                });
            }
            answer => answer?,
        };
        // Not every registry knows ranges: then it sends everything.
        if *held > 0 && !continues(&response, *held) {
            start_over(held)?;
        }
        self.receive(response, descriptor, part, file, held)
    }

    fn receive(
        &self,
        response: Response<Body>,
        descriptor: &Descriptor,
        part: &Path,
        file: &mut File,
        held: &mut u64,
    ) -> Result<(), RegistryError> {
        let (host, what) = (self.host.name.clone(), format!("layer {}", descriptor.digest));
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; BLOCK];
        let window = self.settings.patience * 2;
        let mut mark = (Instant::now(), *held);
        loop {
            if self.progress.is_cancelled() {
                return Err(RegistryError::Cancelled);
            }
            let read = match reader.read(&mut buffer) {
                Ok(read) => read,
                Err(error) => {
                    let problem = match self.failed(&what, ureq_error(error)) {
                        RegistryError::Unreachable { problem, .. } => problem,
                        stalled => return Err(stalled),
                    };
                    return Err(self.truncated(descriptor, *held, problem));
                }
            };
            if read == 0 && *held == descriptor.size {
                return Ok(());
            }
            if read == 0 {
                return Err(self.truncated(descriptor, *held, "the connection ended".to_owned()));
            }
            if *held + read as u64 > descriptor.size {
                let limit = descriptor.size;
                file.set_len(0).map_err(|source| RegistryError::Io {
                    operation: "write",
                    path: part.to_owned(),
                    source,
                })?;
                self.progress.discard(std::mem::take(held));
                return Err(RegistryError::TooLarge { host, what, limit });
            }
            file.write_all(&buffer[..read]).map_err(|source| RegistryError::Io {
                operation: "write",
                path: part.to_owned(),
                source,
            })?;
            *held += read as u64;
            self.progress.receive(read as u64);
            if mark.0.elapsed() > window {
                if *held - mark.1 < DRIP {
                    let problem = format!("{} bytes in {} s", *held - mark.1, window.as_secs());
                    return Err(RegistryError::Stalled { host, what, problem });
                }
                mark = (Instant::now(), *held);
            }
        }
    }

    fn truncated(&self, descriptor: &Descriptor, received: u64, problem: String) -> RegistryError {
        RegistryError::Truncated {
            host: self.host.name.clone(),
            what: format!("layer {}", descriptor.digest),
            received,
            size: descriptor.size,
            problem,
        }
    }
}

/// Whether the answer goes on at `offset`: `Content-Range: bytes OFFSET-END/SIZE`.
fn continues(response: &Response<Body>, offset: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

/// Checks the digest of a whole file; one that is wrong is removed.
pub(super) fn verify(descriptor: &Descriptor, part: &Path) -> Result<(), ImageError> {
    let read = |source: io::Error| ImageError::Io { operation: "read", path: part.to_owned(), source };
    let file = io::BufReader::with_capacity(BLOCK, File::open(part).map_err(read)?);
    let actual = HashingReader::new(file).finish().map_err(read)?;
    descriptor.digest.check(&actual, format_args!("layer {}", descriptor.digest)).inspect_err(|_| {
        let _ = std::fs::remove_file(part);
    })
}
