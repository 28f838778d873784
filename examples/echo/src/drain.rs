//! How a server ends without losing anybody: it hears SIGTERM, answers everybody who is connected or about to be, and
//! only then closes its door.
//!
//! Closing a listening socket resets the connections that wait in its queue. So connections are accepted until none has
//! come for a moment, and each is answered and waited for: it is over when the client has closed its end too.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// With nobody at the door for so long, it is closed.
const QUIET: Duration = Duration::from_millis(100);
/// Even if somebody always is.
const LONGEST: Duration = Duration::from_secs(2);
/// For what is connected then; what is idle for longer is cut off.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Whether the server was told to end.
pub(crate) struct Stop {
    signals: SignalFd,
}

impl Stop {
    /// To be called before any thread is started, so that all leave the signal to this.
    pub(crate) fn listen() -> Result<Self, String> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.thread_block().map_err(|error| format!("block SIGTERM: {error}"))?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC);
        Ok(Self { signals: signals.map_err(|error| format!("listen for SIGTERM: {error}"))? })
    }

    /// Waits for a connection; false once the server was told to end.
    pub(crate) fn or_connection(&self, listener: &TcpListener) -> bool {
        let mut ready = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        // An interrupted wait finds out what it is about by trying.
        let _ = poll(&mut ready, PollTimeout::NONE);
        !ready[1].any().unwrap_or(false)
    }
}

/// Waits for the last connections at the door: true while one is there, false when it can be closed.
pub(crate) fn another(listener: &TcpListener, since: Instant) -> bool {
    let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let wait = PollTimeout::try_from(QUIET).unwrap_or(PollTimeout::ZERO);
    since.elapsed() < LONGEST && poll(&mut ready, wait).is_ok_and(|count| count > 0)
}

/// Counts the connections that are being served.
#[derive(Clone, Default)]
pub(crate) struct Served(Arc<AtomicUsize>);

impl Served {
    pub(crate) fn begin(&self) -> Self {
        self.0.fetch_add(1, Ordering::AcqRel);
        self.clone()
    }

    pub(crate) fn end(self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn wait_for_the_last(&self) {
        let began = Instant::now();
        while self.0.load(Ordering::Acquire) > 0 && began.elapsed() < LAST_ANSWERS {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
