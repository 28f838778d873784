//! Network namespaces of the test's own. They have no name and no mount: the kernel frees each one with the last
//! descriptor or thread that holds it, so a test that dies leaves nothing.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// Whether the test may make namespaces. Where it may not, the reason is printed, or the test fails if the
/// environment says that it must run.
pub(crate) fn allowed() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let set = |name, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    assert!(!set("CI", "true") && !set("WEIR_REQUIRE_ROOT", "1"), "this test needs root");
    eprintln!("skipped: making network namespaces needs root");
    false
}

/// Runs `test` on a thread of its own in a new network namespace, which stands for a node.
pub(crate) fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !allowed() {
        return;
    }
    let node = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
        weir_network::prepare_node().expect("sysctls");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test());
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A network namespace that stands for a pod's sandbox.
pub(crate) struct PodNs(File);

impl PodNs {
    pub(crate) fn new() -> Self {
        let open = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            File::open("/proc/thread-self/ns/net").expect("the namespace")
        };
        Self(thread::spawn(open).join().expect("the thread"))
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// Runs `f` on a thread inside.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = self.0.try_clone().expect("a descriptor");
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("entered");
            f()
        })
    }

    pub(crate) fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(f).join().expect("the thread")
    }
}
