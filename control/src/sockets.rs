//! The sockets that the API is served on: bound here, or inherited from whoever started us.
//!
//! Inherited ones follow systemd's protocol (`sd_listen_fds(3)`): `LISTEN_FDS` of them from descriptor 3 on, if
//! `LISTEN_PID` is us. They may belong to another network namespace than ours.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{FromRawFd, RawFd};

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;

const FIRST: RawFd = 3;
/// Nobody passes on more.
const MOST: RawFd = 64;

/// Takes over the inherited sockets. To be called once, before anything else opens descriptors.
pub(crate) fn inherited() -> Result<Vec<StdListener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<i64>().ok());
    if number("LISTEN_PID") != Some(std::process::id().into()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok()).unwrap_or(0);
    if !(0..=MOST).contains(&count) {
        bail!("LISTEN_FDS={count}: at most {MOST} sockets can be inherited");
    }
    (FIRST..FIRST + count).map(adopt).collect()
}

fn adopt(descriptor: RawFd) -> Result<StdListener> {
    // SAFETY: the environment says that this descriptor was handed to us, and this early nothing else in the process
    // has opened one. If it is no socket, or closed, the next call fails with an error.
    let listener = unsafe { StdListener::from_raw_fd(descriptor) };
    let checked = listener.local_addr().and_then(|_| listener.set_nonblocking(true));
    checked
        .with_context(|| format!("descriptor {descriptor}, inherited by LISTEN_FDS, is not a TCP socket"))?;
    Ok(listener)
}

/// All that is to be served: what was inherited, and the addresses.
pub(crate) async fn open(inherited: Vec<StdListener>, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let adopted = inherited.into_iter().map(TcpListener::from_std).collect::<Result<_, _>>();
    let mut listeners: Vec<_> = adopted.context("use an inherited socket")?;
    for address in addresses {
        listeners.push(TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?);
    }
    Ok(listeners)
}
