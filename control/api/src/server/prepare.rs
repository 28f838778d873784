//! What every cluster has from its first moment: the namespaces, with what belongs into each, and priority classes that
//! others take for granted, and the key of service accounts' tokens.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_proto::Resource;
use weir_proto::core::v1::Namespace;
use weir_proto::meta::v1::ObjectMeta;
use weir_proto::status::ApiError;

use super::namespaces::Furnisher;
use crate::registry::Registry;
use crate::strategy::priority_class;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const RETRY: Duration = Duration::from_secs(1);

/// Makes what is missing, as soon as the store answers; becomes true when it is all there.
pub(super) fn start(
    registry: Registry,
    furnisher: Option<Furnisher>,
    stop: CancellationToken,
) -> watch::Receiver<bool> {
    let (prepared, is_prepared) = watch::channel(false);
    tokio::spawn(async move {
        while let Err(error) = make_all(&registry, furnisher.as_ref()).await {
            tracing::warn!(%error, "cannot make what every cluster has yet");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        prepared.send_replace(true);
        // The receivers read the last value for as long as they live.
        match furnisher {
            Some(furnisher) => furnisher.keep(stop).await,
            None => stop.cancelled().await,
        }
    });
    is_prepared
}

async fn make_all(registry: &Registry, furnisher: Option<&Furnisher>) -> Result<(), ApiError> {
    registry.tokens().keys().await?;
    for name in NAMESPACES {
        let metadata = Some(ObjectMeta { name: name.to_owned(), ..ObjectMeta::default() });
        make(registry, Namespace { metadata, ..Namespace::default() }).await?;
        if let Some(furnisher) = furnisher {
            furnisher.furnish(name).await?;
        }
    }
    for class in priority_class::system_classes() {
        make(registry, class).await?;
    }
    Ok(())
}

async fn make<R: Resource>(registry: &Registry, object: R) -> Result<(), ApiError> {
    let name = object.meta().name.clone();
    match registry.create_own(object).await {
        Ok(_) => tracing::info!(kind = R::KIND.kind, name, "made"),
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
