//! ^C while a cluster is up: it is noted instead of obeyed. The load that runs meanwhile ends by it, as it is in the same
//! group of processes; that is an error here, and on the way out the cluster is taken down. A second one ends at once.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use nix::libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static TOLD: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: c_int) {
    TOLD.store(true, Ordering::Relaxed);
}

/// From now on.
pub(super) fn defer() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESETHAND, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler does nothing but an atomic store.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// An error, once told.
pub(super) fn check() -> Result<()> {
    if TOLD.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
