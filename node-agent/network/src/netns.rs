//! Entering a network namespace without leading a thread of the runtime astray.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rtnetlink::{Handle, new_connection};
use tokio::sync::oneshot;

use crate::Error;

/// A netlink connection to the namespace of the calling thread, served by a task of the current runtime until
/// the last handle is gone.
pub(crate) fn connect_here() -> Result<Handle, Error> {
    let (connection, handle, _) = new_connection().map_err(Error::Socket)?;
    tokio::spawn(connection);
    Ok(handle)
}

/// A netlink connection to the namespace at `path`: a socket stays with the namespace it was opened in.
pub(crate) async fn connect(path: &Path) -> Result<Handle, Error> {
    let runtime = tokio::runtime::Handle::current();
    run_in(path, move || {
        let _entered = runtime.enter();
        connect_here()
    })
    .await?
}

/// Runs `f` in the network namespace at `path`, on a thread of its own.
pub async fn run_in<T: Send + 'static>(
    path: &Path,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let failed = |source: io::Error| Error::Netns { path: path.to_owned(), source };
    let namespace = File::open(path).map_err(failed)?;
    let (done, result) = oneshot::channel();
    let work = move || {
        let outcome = setns(&namespace, CloneFlags::CLONE_NEWNET).map(|()| f());
        // The receiver is gone only if the caller was cancelled; then nobody wants the result.
        let _ = done.send(outcome.map_err(io::Error::from));
    };
    std::thread::Builder::new().name("weir-netns".into()).spawn(work).map_err(failed)?;
    result.await.map_err(|_| Error::Interrupted)?.map_err(failed)
}
