//! Containers' logs: read, rotated, removed.

use std::fs;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

use super::{Runtime, log_path, unexpected};
use crate::container::{ContainerKey, ContainerState, ContainerStatus};
use crate::error::{Error, Result};
use crate::logs::{Cancel, LogOptions, LogReader, RotationPolicy, rotation};
use crate::shim::client;
use crate::shim::protocol::{Request, Response};

impl Runtime {
    /// The container's log file; it exists from creation until the sandbox is removed.
    pub fn log_path(&self, key: &ContainerKey) -> Result<PathBuf> {
        Ok(log_path(&self.container_dir(key)?))
    }

    /// Reads a container's log, also of one that was removed.
    pub fn logs(&self, key: &ContainerKey, options: LogOptions, cancel: Cancel) -> Result<LogReader> {
        let (table, followed) = (self.table.clone(), key.clone());
        let ended =
            move || !table.get(&followed).is_some_and(|s| !matches!(s.state, ContainerState::Exited(_)));
        Ok(LogReader::open(&self.log_path(key)?, options, cancel, Box::new(ended))?)
    }

    /// Makes the shim write to a new file, after the log was renamed away.
    pub fn reopen_log(&self, key: &ContainerKey) -> Result<()> {
        match client::ask(&self.container_dir(key)?, &Request::ReopenLog)? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Rotates the logs of running containers that have outgrown `policy`; says of which and how it went.
    pub fn rotate_logs(&self, policy: &RotationPolicy) -> Vec<(ContainerKey, Result<()>)> {
        let runs = self.list().into_iter().filter(|run| matches!(run.state, ContainerState::Running { .. }));
        let outgrown = |run: &ContainerStatus| {
            fs::metadata(&run.log_path).is_ok_and(|metadata| metadata.len() > policy.max_size)
        };
        let rotate = |run: ContainerStatus| {
            let failed = |error: io::Error| Error::io("rotate", &run.log_path)(error);
            let reopen = || self.reopen_log(&run.key);
            let outcome = rotation::rotate(&run.log_path, policy, Timestamp::now(), failed, reopen);
            (run.key, outcome)
        };
        runs.filter(outgrown).map(rotate).collect()
    }

    /// Removes a container's log, which [`Runtime::remove_container`] leaves, and all it was rotated into.
    pub fn remove_log(&self, key: &ContainerKey) -> Result<()> {
        let path = self.log_path(key)?;
        rotation::remove_all(&path).map_err(Error::io("remove", &path))
    }
}
