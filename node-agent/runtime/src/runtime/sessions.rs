//! Further processes in running containers, and their own standard streams.

use super::Runtime;
use crate::container::{ContainerKey, ContainerState};
use crate::error::Result;
use crate::shim::attach::AttachSpec;
use crate::shim::client::Attachment;
use crate::shim::exec::{ExecSession, ExecSpec};
use crate::shim::{ShimError, client};

impl Runtime {
    /// Runs a further process in a running container; returns its exit code (128 + signal when killed).
    pub fn exec(&self, key: &ContainerKey, spec: ExecSpec) -> Result<i32> {
        Ok(self.start_exec(key, spec)?.wait()?)
    }

    /// Starts a further process in a running container; returns once its program runs.
    pub fn start_exec(&self, key: &ContainerKey, spec: ExecSpec) -> Result<ExecSession> {
        if !matches!(self.status(key)?.state, ContainerState::Running { .. }) {
            return Err(ShimError::Ended { key: key.to_string() }.into());
        }
        Ok(ExecSession::start(&self.program, &self.container_dir(key)?, spec)?)
    }

    /// Connects to a running container's standard streams. The socket carries the frames of [`crate::attach`] both ways,
    /// until the container has ended.
    pub fn attach(&self, key: &ContainerKey, spec: AttachSpec) -> Result<Attachment> {
        if !matches!(self.status(key)?.state, ContainerState::Running { .. }) {
            return Err(ShimError::Ended { key: key.to_string() }.into());
        }
        Ok(client::attach(&self.container_dir(key)?, spec)?)
    }
}
