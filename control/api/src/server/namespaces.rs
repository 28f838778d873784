//! What every namespace has: the ServiceAccount `default`, which pods act as that name no other, and the ConfigMap
//! `kube-root-ca.crt`, by which they know this server. What is deleted comes back, what is edited is set right.
//!
//! The authority's certificate is the server's own, so it publishes it itself. Every server does the same; whoever writes
//! first is right, for all write the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use weir_proto::core::v1::{ConfigMap, Namespace, ServiceAccount};
use weir_proto::meta::v1::ObjectMeta;
use weir_proto::status::ApiError;
use weir_proto::{Resource, fields};

use crate::cache::{Filter, WatchEvent};
use crate::registry::{Context, Registry, Target};

pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
pub(crate) const ROOT_CA_KEY: &str = "ca.crt";
const DEFAULT: &str = "default";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Furnisher {
    pub(super) registry: Registry,
    pub(super) authority_pem: Arc<str>,
}

impl Furnisher {
    /// Follows namespaces, accounts and ConfigMaps until told to stop.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let following = async {
            loop {
                if let Err(error) = self.follow().await {
                    tracing::debug!(%error, "looking at what every namespace has anew");
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = following => {}
        }
    }

    /// Returns when one of the watches has to be begun anew.
    async fn follow(&self) -> Result<(), ApiError> {
        let mut namespaces = self.registry.follow::<Namespace>(Filter::default()).await?;
        let mut maps = self.registry.follow::<ConfigMap>(named(ROOT_CA)?).await?;
        let mut accounts = self.registry.follow::<ServiceAccount>(named(DEFAULT)?).await?;
        loop {
            let (event, own) = tokio::select! {
                event = namespaces.next() => (event, false),
                event = maps.next() => (event, true),
                event = accounts.next() => (event, true),
            };
            let Some(event) = event else { return Ok(()) };
            let WatchEvent::Change { object, .. } = event? else { continue };
            let meta = object.object.meta();
            let namespace = if own { &meta.namespace } else { &meta.name };
            if let Err(error) = self.furnish(namespace).await {
                tracing::warn!(namespace, %error, "cannot give the namespace what every one has yet");
                return Err(error);
            }
        }
    }

    /// Gives a namespace what it lacks. Not one that is going.
    pub(super) async fn furnish(&self, namespace: &str) -> Result<(), ApiError> {
        let known = self.registry.find::<Namespace>("", namespace).await?;
        if known.is_none_or(|known| known.object.meta().deletion_timestamp.is_some()) {
            return Ok(());
        }
        if self.registry.find::<ServiceAccount>(namespace, DEFAULT).await?.is_none() {
            let metadata = Some(meta(namespace, DEFAULT));
            make(&self.registry, ServiceAccount { metadata, ..ServiceAccount::default() }).await?;
        }
        let Some(known) = self.registry.find::<ConfigMap>(namespace, ROOT_CA).await? else {
            let metadata = Some(ObjectMeta {
                annotations: BTreeMap::from([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())]),
                ..meta(namespace, ROOT_CA)
            });
            return make(&self.registry, ConfigMap { metadata, data: self.data(), ..ConfigMap::default() })
                .await;
        };
        let Some(map) = known.typed::<ConfigMap>() else { return Ok(()) };
        if map.data == self.data() && map.binary_data.is_empty() {
            return Ok(());
        }
        let right = ConfigMap { data: self.data(), binary_data: BTreeMap::new(), ..map.clone() };
        let target = Target::new(ConfigMap::KIND, namespace, ROOT_CA);
        match self.registry.update(&Context::system(), &target, Box::new(right)).await {
            // Somebody was faster, of which the watch tells.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    fn data(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(ROOT_CA_KEY.to_owned(), self.authority_pem.to_string())])
    }
}

fn named(name: &str) -> Result<Filter, ApiError> {
    let fields = fields::Selector::parse(&format!("metadata.name={name}"));
    let fields = fields.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(Filter { fields: Some(fields), ..Filter::default() })
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: name.to_owned(), namespace: namespace.to_owned(), ..ObjectMeta::default() }
}

/// What is there already, or has no place to be, is right.
async fn make<R: Resource>(registry: &Registry, object: R) -> Result<(), ApiError> {
    match registry.create_own(object).await {
        Err(error) if error.is_already_exists() || error.is_not_found() || error.code() == 403 => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}
