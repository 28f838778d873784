//! The agent's program as a sealed copy in memory, and the processes started from it.
//!
//! A process that has been in a container could reach the file it was executed from (through `/proc/<pid>/exe`) and write
//! to it: with CVE-2019-5736 that was the host's runtime. The copy is sealed, so that the write fails.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;

use super::process::InitProcess;
use super::protocol::Answer;
use super::{LOCK_FILE, LOG_FILE, ShimError, io_error, loadable};

#[derive(Debug)]
pub(crate) struct Program {
    copy: File,
}

impl Program {
    pub(crate) fn load(path: &Path) -> Result<Self, ShimError> {
        let source = File::open(path).map_err(io_error("open program", path))?;
        let copy = || -> io::Result<File> {
            let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
            let mut copy = File::from(memfd_create(c"weir-agent", flags)?);
            loadable::copy(&source, &mut copy)?;
            copy.rewind()?;
            let seals = SealFlag::F_SEAL_SEAL
                | SealFlag::F_SEAL_SHRINK
                | SealFlag::F_SEAL_GROW
                | SealFlag::F_SEAL_WRITE;
            fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
            Ok(copy)
        };
        Ok(Self { copy: copy().map_err(io_error("copy program", path))? })
    }

    /// The descriptor closes itself on exec, after the kernel has opened the program through it.
    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.copy.as_raw_fd()));
        command.arg0("weir").arg(subcommand).env_clear();
        command
    }

    /// Starts the shim of the container in `dir`; returns it once the container is created. `lock` is held by the shim as
    /// long as it lives: that is how an agent tells a living shim from a dead one.
    pub(crate) fn spawn_shim(&self, dir: &Path) -> Result<Child, ShimError> {
        let path = dir.join(LOCK_FILE);
        let lock = File::create(&path).map_err(io_error("create", &path))?;
        lock.lock().map_err(io_error("lock", &path))?;
        let path = dir.join(LOG_FILE);
        let log = File::create(&path).map_err(io_error("create", &path))?;
        let mut command = self.command("shim");
        command.arg(dir).current_dir("/").stdin(lock).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(io_error("start shim for", dir))?;
        let mut answer = Vec::new();
        let read = child.stdout.take().map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut answer));
        match read.and_then(|_| Ok(serde_json::from_slice(&answer)?)) {
            Ok(Answer::Ready) => Ok(child),
            other => {
                // It is about to end, and must not stay behind as a zombie.
                let _ = child.wait();
                Err(match other {
                    Ok(Answer::NotExecutable { problem }) => ShimError::Start(problem),
                    Ok(Answer::Failed { problem }) => ShimError::Create(problem),
                    Ok(Answer::Ready) | Err(_) => {
                        let log = fs::read_to_string(&path).unwrap_or_default();
                        ShimError::Create(format!(
                            "the shim died while it created the container: {}",
                            log.trim()
                        ))
                    }
                })
            }
        }
    }

    pub(crate) fn run_sandbox_helper(&self, request: &impl Serialize) -> Result<(), String> {
        self.run_helper("sandbox", request).map(drop)
    }

    /// Makes a process namespace and starts its first process; returns that.
    pub(crate) fn start_pause(&self, request: &impl Serialize) -> Result<InitProcess, String> {
        let answer = self.run_helper("pause", request)?;
        serde_json::from_slice(&answer).map_err(|error| format!("the pause helper's answer: {error}"))
    }

    /// Runs a helper to its end; returns what it printed.
    fn run_helper(&self, subcommand: &str, request: &impl Serialize) -> Result<Vec<u8>, String> {
        let run = || -> io::Result<std::process::Output> {
            let mut command = self.command(subcommand);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(&serde_json::to_vec(request)?)?;
            }
            child.wait_with_output()
        };
        let output = run().map_err(|error| format!("cannot run the {subcommand} helper: {error}"))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Starts an exec helper with the socket to this process.
    pub(crate) fn spawn_exec(&self, control: OwnedFd) -> io::Result<Child> {
        let mut command = self.command("exec");
        command.current_dir("/").stdin(control).stdout(Stdio::null());
        command.spawn()
    }
}
