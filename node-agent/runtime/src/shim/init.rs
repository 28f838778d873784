//! What runs inside the container between libcontainer's work and the container's program.
//!
//! Also where failures are told: a pipe that closes itself on exec carries the reason why the program could not be
//! executed, so that it can be shown in Kubernetes' words.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxSeccomp, Spec};
use libcontainer::seccomp::initialize_seccomp;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::stat::stat;
use nix::unistd::{AccessFlags, execv, faccessat, pipe2};

use super::terminal::Terminal;

/// The reading end of the report pipe.
pub(super) struct Report(File);

impl Report {
    /// Waits until the program has been executed (`None`) or could not be (the reason).
    pub(super) fn read(mut self) -> Option<String> {
        let mut text = Vec::new();
        // An error reads as silence: the exit that follows speaks for itself.
        let _ = self.0.read_to_end(&mut text);
        (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Executes the container's program, or that of an exec session. Copied into the container's process by `clone`.
#[derive(Clone)]
pub(super) struct Init {
    report: RawFd,
    /// The shim's own descriptors, to be closed in the container's process: as long as it holds them the shim's socket and
    /// lock would outlive the shim.
    close: Vec<RawFd>,
    /// For exec sessions, where libcontainer installs none.
    seccomp: Option<LinuxSeccomp>,
    terminal: Option<Terminal>,
}

impl Init {
    /// The writing end must stay open in the caller until the container is built, and be dropped then.
    pub(super) fn new(
        close: Vec<RawFd>,
        seccomp: Option<LinuxSeccomp>,
        terminal: Option<Terminal>,
    ) -> Result<(Self, Report, OwnedFd), Errno> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        let report = Report(read.into());
        let close = close.into_iter().chain([report.raw_fd()]).collect();
        Ok((Self { report: write.as_raw_fd(), close, seccomp, terminal }, report, write))
    }

    fn tell(&self, problem: &str) {
        // SAFETY: the descriptor was inherited open, and nothing in this process closes it before exec.
        let report = unsafe { BorrowedFd::borrow_raw(self.report) };
        let _ = nix::unistd::write(report, problem.as_bytes());
    }

    fn find(&self, spec: &Spec) -> Result<(CString, Vec<CString>), String> {
        let process = spec.process().as_ref().ok_or("the specification has no process")?;
        let arguments = process.args().as_deref().unwrap_or_default();
        let command = arguments.first().ok_or("no command")?;
        let environment = process.env().as_deref().unwrap_or_default();
        let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or("");
        let program =
            find_program(command, path).map_err(|problem| format!("exec: {command:?}: {problem}"))?;
        let arguments = arguments.iter().map(|argument| CString::new(argument.as_str()));
        let arguments = arguments.collect::<Result<_, _>>().map_err(|_| "an argument holds a zero byte")?;
        let program = CString::new(program.into_os_string().into_encoded_bytes());
        Ok((program.map_err(|_| "the command holds a zero byte")?, arguments))
    }
}

impl Executor for Init {
    /// Called in the container, as the container's user, before anybody is told that it is ready.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        for fd in &self.close {
            // SAFETY: these descriptors belong to the shim; in this copy of the process nobody uses them.
            unsafe { libc::close(*fd) };
        }
        let found = self.find(spec).map(drop);
        found.map_err(|problem| {
            self.tell(&problem);
            ExecutorValidationError::ArgValidationError(problem)
        })
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let failed = |problem: String| {
            self.tell(&problem);
            ExecutorError::Other(problem)
        };
        let (program, arguments) = self.find(spec).map_err(failed)?;
        if let Some(terminal) = &self.terminal {
            terminal.take().map_err(|error| failed(format!("cannot make a terminal: {error}")))?;
        }
        restore_signals();
        if let Some(seccomp) = &self.seccomp {
            initialize_seccomp(seccomp)
                .map_err(|error| failed(format!("cannot install the seccomp profile: {error}")))?;
        }
        let Err(errno) = execv(&program, &arguments);
        let hint = if errno == Errno::ENOENT { " (its interpreter is missing)" } else { "" };
        Err(failed(format!("exec {}: {}{hint}", display(&program), errno.desc())))
    }
}

fn display(program: &CStr) -> String {
    format!("{:?}", program.to_string_lossy())
}

/// Rust ignores SIGPIPE, and whoever started the agent may have had it ignore more (nohup); ignored signals and the mask
/// stay so across exec.
fn restore_signals() {
    // The kernel's own form of sigaction: handler, flags, restorer, mask. All zero is the default action. The C library would
    // keep two signals to itself.
    let default = [0_u64; 4];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the kernel reads the action, of which it takes a mask of eight bytes. Where it refuses (SIGKILL, SIGSTOP)
        // nothing can have been changed.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8)
        };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// As `execvp` searches: a name with a slash stands for itself, another is looked for along `path`.
fn find_program(command: &str, path: &str) -> Result<PathBuf, &'static str> {
    if command.is_empty() {
        return Err("the command is empty");
    }
    let executable = |program: &Path| {
        let Ok(found) = stat(program) else { return Err("no such file or directory") };
        if found.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err("is not a regular file");
        }
        faccessat(nix::fcntl::AT_FDCWD, program, AccessFlags::X_OK, AtFlags::AT_EACCESS)
            .map_err(|_| "permission denied")
    };
    if command.contains('/') {
        return executable(Path::new(command)).map(|()| command.into());
    }
    let mut problem = "executable file not found in $PATH";
    for directory in path.split(':').filter(|directory| !directory.is_empty()) {
        let program = Path::new(directory).join(command);
        match executable(&program) {
            Ok(()) => return Ok(program),
            Err("permission denied") => problem = "permission denied",
            Err(_) => {}
        }
    }
    Err(problem)
}
