//! How the C library's allocator behaves in a process that is busy for a second when pods come, and at rest for hours.
//!
//! By default each of its many threads that come and go leaves memory behind in an arena of its own, and what one burst of
//! work needed stays for the next.

use nix::libc;

/// Enough for the two threads that work all the time.
const ARENAS: libc::c_int = 2;
/// Buffers from here on are the kernel's again as soon as they are free. Said so that it stays so: the allocator would raise
/// the bound with the first large one.
const LARGE: libc::c_int = 256 * 1024;

/// To be called before there is a second thread.
pub fn limit() {
    // SAFETY: plain numbers; the allocator takes the settings or leaves them.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives back what is free. Takes about a millisecond.
pub(crate) fn trim() {
    // SAFETY: may be called by any thread at any time.
    unsafe { libc::malloc_trim(0) };
}
