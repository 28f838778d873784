//! An address of cluster DNS: held by the node, its sockets open, whatever it takes.
//!
//! Who else has the port, or why the address cannot be had, is told once; then it is tried again, for as long as it takes.
//! The agent's other work does not wait for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use weir_client::Backoff;
use weir_dns::{Dns, ServeError};

use crate::metrics::DNS_LISTENING;

#[derive(Debug, Error)]
enum AddressError {
    #[error(transparent)]
    Hold(#[from] weir_network::Error),
    #[error("cannot listen on {protocol} {address}: {source}")]
    Listen { protocol: &'static str, address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// What is wrong with addresses at the moment.
pub(super) type Troubles = BTreeMap<SocketAddr, String>;

/// Never returns. What is wrong is in `troubles` meanwhile.
pub(super) async fn serve(dns: Dns, address: SocketAddr, troubles: Arc<watch::Sender<Troubles>>) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let listening = DNS_LISTENING.with_label_values(&[&address.to_string()]);
    loop {
        let error = match open(address).await {
            Ok((udp, tcp)) => {
                tracing::info!(%address, "cluster DNS");
                troubles.send_if_modified(|all| all.remove(&address).is_some());
                listening.set(1);
                backoff.reset();
                let served = dns.serve(udp, tcp).await;
                listening.set(0);
                served.err().map(AddressError::from)
            }
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            let text = format!("cluster DNS cannot be served at {address}: {error}");
            if troubles.send_if_modified(|all| all.insert(address, text.clone()).as_ref() != Some(&text)) {
                tracing::error!("{text}");
            }
        }
        tokio::time::sleep(backoff.delay()).await;
    }
}

async fn open(address: SocketAddr) -> Result<(UdpSocket, TcpListener), AddressError> {
    weir_network::hold_address(address.ip()).await?;
    let failed = |protocol| move |source| AddressError::Listen { protocol, address, source };
    let udp = UdpSocket::bind(address).await.map_err(failed("UDP"))?;
    let tcp = TcpListener::bind(address).await.map_err(failed("TCP"))?;
    Ok((udp, tcp))
}
