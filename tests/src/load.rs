//! Constant new connections to a service, for as long as a test does things to it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use xtask::cluster;

use crate::cluster::{Cluster, Tally};

/// A running `echo request`; dropping it kills it.
#[derive(Debug)]
pub struct Load {
    what: String,
    child: Option<Child>,
}

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Requests a second, each on a connection of its own.
    pub per_second: u32,
    /// It does not end before it has sent so many.
    pub at_least: u32,
}

impl Load {
    /// From a node, or from the client outside.
    pub fn from_machine(cluster: &Cluster, machine: &str, target: &str, rate: Rate) -> Result<Self> {
        let command = cluster.command_in(machine, &xtask::build::echo())?;
        Self::start(format!("{target} from {machine}"), command, target, rate)
    }

    /// From a pod of the echo image.
    pub fn from_pod(cluster: &Cluster, pod: &str, target: &str, rate: Rate) -> Result<Self> {
        let mut command = cluster::weir(&cluster.layout, &["exec", "-i", pod, "--"]);
        command.arg(Path::new("/echo"));
        Self::start(format!("{target} from pod {pod}"), command, target, rate)
    }

    fn start(what: String, mut command: Command, target: &str, rate: Rate) -> Result<Self> {
        command.args(["request", "--until-eof", "--concurrency", "8", "--timeout-ms", "10000"]);
        command.args(["--target", target, "--rate", &rate.per_second.to_string()]);
        command.args(["--count", &rate.at_least.to_string()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = child.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { what, child: Some(child) })
    }

    /// Ends it; what it was, and what came of it.
    pub fn finish(mut self) -> Result<(String, Tally)> {
        let mut child = self.child.take().context("it was finished before")?;
        drop(child.stdin.take());
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let tally = Tally::parse(&text)
            .with_context(|| format!("{}: {}", self.what, String::from_utf8_lossy(&output.stderr)))?;
        Ok((self.what.clone(), tally))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
