//! A `port-forward` that runs, weir's or kubectl's, and requests that go by it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use xtask::cluster;

use crate::cluster::{Cluster, PATIENCE};

/// Dropping it ends it.
#[derive(Debug)]
pub struct Forward {
    child: Child,
    /// Open as long as it runs: it tells of every connection.
    said: Option<BufReader<ChildStdout>>,
    /// Where it listens.
    pub address: String,
    /// The port that it leads to.
    pub remote: u16,
}

impl Forward {
    /// By `weir` to a pod, or to what has pods (`svc/shop`); `port` as on the command line.
    pub fn start(cluster: &Cluster, target: &str, port: &str) -> Result<Self> {
        Self::by(&mut cluster::weir(&cluster.layout, &["port-forward", target, port]))
    }

    /// By this command line.
    pub fn by(command: &mut Command) -> Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut forward = Self { child: command.spawn()?, said: None, address: String::new(), remote: 0 };
        let mut stdout = BufReader::new(forward.child.stdout.take().context("no stdout")?);
        let mut line = String::new();
        if stdout.read_line(&mut line)? == 0 {
            let mut said = String::new();
            forward.child.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
            bail!("it ended: {said}");
        }
        forward.said = Some(stdout);
        let parts = line.trim_end().strip_prefix("Forwarding from ").and_then(|rest| rest.split_once(" -> "));
        let (address, remote) = parts.with_context(|| line.clone())?;
        (forward.address, forward.remote) = (address.to_owned(), remote.parse()?);
        Ok(forward)
    }

    /// One request over a connection that is half closed behind it.
    pub fn request(&self) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Sends and receives at once, much more than all buffers on the way hold, to a server that sends all back.
    pub fn there_and_back(&self, length: usize) -> Result<()> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut sending = stream.try_clone()?;
        let sent = std::thread::spawn(move || {
            sending.write_all(&vec![7; length])?;
            sending.shutdown(Shutdown::Write)
        });
        let mut received = Vec::new();
        let outcome = stream.read_to_end(&mut received);
        outcome.with_context(|| format!("after {} bytes", received.len()))?;
        sent.join().map_err(|_| anyhow!("a panic"))??;
        ensure!(received == vec![7; length], "{} of {length} bytes, or others", received.len());
        Ok(())
    }

    /// Waits for what it says of a connection that went wrong.
    pub fn complaint(mut self) -> Result<String> {
        let stderr = self.child.stderr.take().context("no stderr")?;
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        lines.find(|line| line.contains("an error occurred forwarding")).context("no error was shown")
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
