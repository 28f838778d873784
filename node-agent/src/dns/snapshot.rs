//! What cluster DNS knows, on disk: one file, replaced whole, written beside the answering and at a bounded rate.
//!
//! It is a cache. Without it, or with a damaged one, names are found again once the control plane has said them.

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Notify;
use weir_dns::{Dns, Service};

/// Between two writes, at least; more where writing takes its time.
const PAUSE: Duration = Duration::from_secs(1);
/// Writing takes at most one part in so many of the time.
const SHARE: u32 = 20;

#[derive(Debug, Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub(super) struct SnapshotError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug, Clone)]
pub(super) struct File {
    path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Read {
    services: Vec<Service>,
}

#[derive(Debug, Serialize)]
struct Written<'a> {
    services: &'a [Arc<Service>],
}

impl File {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self { path: directory.join("services.json") }
    }

    /// Nothing, where there is no file yet.
    pub(super) fn read(&self) -> Result<Vec<Service>, SnapshotError> {
        let failed = |source| SnapshotError { operation: "read", path: self.path.clone(), source };
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let read: Read = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        Ok(read.services)
    }

    pub(super) fn write(&self, services: &[Arc<Service>]) -> Result<(), SnapshotError> {
        self.try_write(services).map_err(|source| SnapshotError {
            operation: "write",
            path: self.path.clone(),
            source,
        })
    }

    fn try_write(&self, services: &[Arc<Service>]) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let beside = self.path.with_extension("new");
        let mut file = BufWriter::new(fs::File::create(&beside)?);
        serde_json::to_writer(&mut file, &Written { services })?;
        file.write_all(b"\n")?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
        fs::rename(&beside, &self.path)
    }
}

/// Writes after changes.
pub(super) async fn keep(file: File, dns: Dns, changed: Arc<Notify>) {
    let mut failing = false;
    loop {
        changed.notified().await;
        // Services are shared with the zone: taking them is cheap, and nobody waits for the disk.
        let services: Vec<Arc<Service>> = dns.read(|zone| zone.services().cloned().collect());
        let (began, to) = (Instant::now(), file.clone());
        let written = tokio::task::spawn_blocking(move || to.write(&services)).await;
        match written {
            Ok(Ok(())) => failing = false,
            Ok(Err(error)) => {
                if !failing {
                    tracing::warn!(%error, "cluster DNS will not survive the agent's end as it is");
                }
                failing = true;
                changed.notify_one();
            }
            Err(_) => return,
        }
        tokio::time::sleep(PAUSE.max(began.elapsed() * SHARE)).await;
    }
}

#[cfg(test)]
mod tests {
    use weir_dns::{Endpoint, Endpoints, Port, Target};

    use super::*;

    fn services() -> Vec<Arc<Service>> {
        let ports = vec![Port { name: "http".into(), protocol: "tcp".into(), number: 80 }];
        let endpoints = vec![Endpoint { address: "fd00::1".parse().unwrap(), hostname: Some("db-0".into()) }];
        let targets = [
            Target::Cluster { addresses: vec![[10, 96, 0, 7].into()], ports: ports.clone() },
            Target::Headless(vec![Endpoints { ports, endpoints }]),
            Target::External("example.com".into()),
        ];
        let service = |(index, target)| {
            Arc::new(Service { namespace: "shop".into(), name: format!("s{index}"), target })
        };
        targets.into_iter().enumerate().map(service).collect()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::in_directory(&directory.path().join("dns"));
        assert_eq!(file.read().unwrap(), [], "none yet");
        file.write(&services()).unwrap();
        file.write(&services()).unwrap();
        let read: Vec<Arc<Service>> = file.read().unwrap().into_iter().map(Arc::new).collect();
        assert_eq!(read, services());
    }

    #[test]
    fn a_damaged_file_is_named_whatever_is_wrong_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::in_directory(directory.path());
        file.write(&services()).unwrap();
        let good = fs::read(&file.path).unwrap();
        let mut cuts: Vec<Vec<u8>> = (0..good.len() - 2).step_by(7).map(|end| good[..end].to_vec()).collect();
        cuts.push(b"{\"services\": 7}".to_vec());
        cuts.push(vec![0; 4096]);
        for bytes in cuts {
            fs::write(&file.path, &bytes).unwrap();
            let error = file.read().unwrap_err().to_string();
            assert!(error.contains("services.json"), "{error}");
        }
        // What is left of a write that was cut off is in nobody's way.
        fs::write(file.path.with_extension("new"), b"half").unwrap();
        file.write(&services()).unwrap();
        assert_eq!(file.read().unwrap().len(), 3);
    }
}
