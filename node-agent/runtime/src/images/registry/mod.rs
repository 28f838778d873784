//! Registries: the pulling half of the OCI distribution specification, over a blocking HTTP client.
//!
//! Invariants:
//! - Nothing a registry says is believed: documents are limited in size and time and checked against their digest by
//!   [`manifest`](super::manifest), blobs against theirs before they get a name.
//! - Credentials go to the registry they are for, and to the token service that it names; never along a redirect to
//!   another host. No redirect leads from HTTPS to HTTP.
//! - Whatever a registry does, a pull ends: silence, dripping, endless redirects and endless challenges are errors.
//!
//! Left out: pushing, Docker's schema 1 (refused by name), client certificates, signatures.

mod blob;
mod challenge;
mod client;
mod error;
mod hosts;
mod keyring;
mod token;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use error::RegistryError;
pub use keyring::{Keyring, KeyringError};

use super::ImageError;
use super::digest::Digest;
use super::manifest::{Descriptor, Documents, Kind, is_schema_one};
use super::progress::Progress;
use super::reference::Reference;
use client::Client;

/// How registries are asked.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// Directory of directories by registry, as containerd's `certs.d`: `hosts.toml`, `*.crt`.
    pub config_dir: Option<PathBuf>,
    /// Images pulled at the same time; more wait for their turn.
    pub parallel_pulls: usize,
    /// Layers of one image that are fetched and unpacked at the same time.
    pub parallel_layers: usize,
    /// How long a registry may be silent; twice that for an answer as a whole.
    pub patience: Duration,
    /// How often a question is asked in a row without getting any further.
    pub attempts: u32,
    /// Before the second attempt; doubles.
    pub first_delay: Duration,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            config_dir: None,
            parallel_pulls: 4,
            parallel_layers: 3,
            patience: Duration::from_secs(30),
            attempts: 4,
            first_delay: Duration::from_millis(500),
        }
    }
}

/// One pull's dealings with the servers that stand for its registry.
pub(super) struct Session<'a> {
    reference: &'a Reference,
    progress: &'a Progress,
    clients: Vec<Client<'a>>,
    /// The server that answered last: those before it did not.
    current: AtomicUsize,
}

impl<'a> Session<'a> {
    pub(super) fn open(
        reference: &'a Reference,
        keyring: &Keyring,
        settings: &'a RegistrySettings,
        progress: &'a Progress,
    ) -> Result<Self, RegistryError> {
        let hosts = hosts::hosts(reference.registry(), settings.config_dir.as_deref())?;
        let clients = hosts.into_iter().map(|host| {
            // A mirror is somebody else: it is shown what is meant for it.
            let name = if host.mirror {
                format!("{}/{}", host.name, reference.repository())
            } else {
                reference.name().to_owned()
            };
            Client::new(host, reference, keyring.find(&name), settings, progress)
        });
        Ok(Self {
            reference,
            progress,
            clients: clients.collect::<Result<_, _>>()?,
            current: AtomicUsize::new(0),
        })
    }

    /// The bytes that the reference means, a manifest or an index, and their digest.
    pub(super) fn manifest(&self) -> Result<(Digest, Vec<u8>), ImageError> {
        let version = self.reference.version();
        let answer = self.ask(|client| client.manifest(&version))?;
        if is_schema_one(&answer.bytes) {
            return Err(ImageError::SchemaOne { reference: self.reference.canonical() });
        }
        let actual = Digest::of(&answer.bytes);
        // By digest the content is fixed; by tag the registry should at least agree with itself.
        if let Some(expected) = self.reference.digest().or(answer.digest.as_ref()) {
            expected.check(&actual, format_args!("the manifest of {}", self.reference.canonical()))?;
        }
        Ok((actual, answer.bytes))
    }

    /// Fetches a layer's blob into `part`, going on where an earlier attempt ended. On success `part` is whole and verified.
    pub(super) fn blob(&self, descriptor: &Descriptor, part: &Path) -> Result<(), ImageError> {
        let resumed = part.metadata().is_ok_and(|metadata| metadata.len() > 0);
        match self.blob_once(descriptor, part) {
            // What an earlier pull left may have been damaged: once more from the beginning.
            Err(ImageError::DigestMismatch { .. }) if resumed => self.blob_once(descriptor, part),
            result => result,
        }
    }

    fn blob_once(&self, descriptor: &Descriptor, part: &Path) -> Result<(), ImageError> {
        self.ask(|client| client.blob(descriptor, part))?;
        blob::verify(descriptor, part).inspect_err(|_| self.progress.discard(descriptor.size))
    }

    /// Asks one server after the other until one answers.
    fn ask<T>(&self, question: impl Fn(&Client<'_>) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        let mut index = self.current.load(Ordering::Relaxed);
        loop {
            match question(&self.clients[index]) {
                Err(error @ (RegistryError::Cancelled | RegistryError::Io { .. })) => return Err(error),
                Err(error) if index + 1 < self.clients.len() => {
                    tracing::warn!(image = self.reference.canonical(), %error, "a mirror failed");
                    index += 1;
                }
                Err(error) => return Err(error),
                Ok(answer) => {
                    self.current.fetch_max(index, Ordering::Relaxed);
                    return Ok(answer);
                }
            }
        }
    }
}

impl Documents for Session<'_> {
    fn read(&self, descriptor: &Descriptor, kind: Kind) -> Result<Vec<u8>, ImageError> {
        Ok(match kind {
            Kind::Manifest => self.ask(|client| client.manifest(&descriptor.digest.to_string()))?.bytes,
            Kind::Config => self.ask(|client| client.document(descriptor))?,
        })
    }
}
