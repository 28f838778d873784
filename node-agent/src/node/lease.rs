//! The node's Lease in `kube-node-lease`: renewed every ten seconds, it says that the agent lives.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use weir_client::Client;
use weir_proto::coordination::v1::Lease;
use weir_proto::meta::v1::MicroTime;

const NAMESPACE: &str = "kube-node-lease";
const RENEW: Duration = Duration::from_secs(10);
const DURATION_SECONDS: i32 = 40;

/// Renews the lease until told to stop; failures are tried again sooner.
pub async fn keep_lease(client: Client, node: String, shutdown: CancellationToken) {
    let (mut held, mut failing) = (None, false);
    loop {
        let wait = match renew(&client, &node, held.take()).await {
            Ok(lease) => {
                if std::mem::replace(&mut failing, false) {
                    tracing::info!("the control plane is back");
                }
                held = Some(lease);
                RENEW
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot renew the node's lease; trying on");
                }
                RENEW / 5
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(client: &Client, node: &str, held: Option<Lease>) -> weir_client::Result<Lease> {
    let api = client.namespaced::<Lease>(NAMESPACE);
    let found = match held {
        Some(lease) => Some(lease),
        None => api.get_opt(node).await?,
    };
    let mut lease = found.clone().unwrap_or_default();
    lease.meta_mut().name = node.to_owned();
    lease.meta_mut().namespace = NAMESPACE.to_owned();
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(node.to_owned());
    spec.lease_duration_seconds = Some(DURATION_SECONDS);
    spec.renew_time = Some(MicroTime::now());
    match found {
        Some(_) => api.update(&lease).await,
        None => api.create(&lease).await,
    }
}

#[cfg(test)]
mod tests {
    use weir_client::fake::FakeServer;

    use super::*;

    #[tokio::test]
    async fn a_lease_is_made_then_renewed_and_made_again_when_somebody_removed_it() {
        let server = FakeServer::default();
        let client = server.client();
        let first = renew(&client, "n1", None).await.expect("made");
        let second = renew(&client, "n1", Some(first.clone())).await.expect("renewed");
        assert!(second.spec().renew_time >= first.spec().renew_time);
        server.remove::<Lease>(NAMESPACE, "n1");
        renew(&client, "n1", Some(second)).await.expect_err("gone");
        renew(&client, "n1", None).await.expect("made again");
    }
}
