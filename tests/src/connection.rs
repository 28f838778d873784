//! A connection of a client outside the nodes that stays open while things happen around it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Result, anyhow, ensure};
use xtask::cluster::Namespace;

use crate::cluster::{Cluster, PATIENCE};

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// From the client's namespace: a thread enters it to make the socket, which stays there.
    pub fn from_client(cluster: &Cluster, target: &str) -> Result<Self> {
        Self::from(&cluster.layout.client(), target)
    }

    /// From a node's own namespace; no cgroup program sees it.
    pub fn from(namespace: &str, target: &str) -> Result<Self> {
        let namespace = Namespace::named(namespace).path();
        let target = target.to_owned();
        let thread = std::thread::spawn(move || -> Result<TcpStream> {
            let file = fs::File::open(namespace)?;
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
            let stream = TcpStream::connect(target)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        let stream = thread.join().map_err(|_| anyhow!("the connecting thread panicked"))??;
        Ok(Self { stream })
    }

    /// One request; who answered.
    pub fn ask(&mut self) -> Result<String> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n")?;
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            let count = self.stream.read(&mut buffer)?;
            ensure!(count > 0, "the connection was closed");
            answer.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&answer);
            if let Some((_, body)) = text.split_once("\r\n\r\n")
                && body.ends_with('\n')
            {
                return Ok(body.to_owned());
            }
        }
    }
}
