//! ConfigMaps and Secrets that a pod's environment and volumes are made from.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use weir_client::Client;
use weir_proto::core::v1::{ConfigMap, Container, Secret, Volume};
use weir_proto::meta::v1::ObjectMeta;

/// One object of the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    ConfigMap(String),
    Secret(String),
}

/// Resource versions of those that exist.
pub(super) type Versions = BTreeMap<Key, String>;

/// Names of what is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needed {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

/// What was found; a name without an object does not exist.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
    /// Tokens of the pod's service account, by the audience and the seconds that are asked for.
    pub tokens: BTreeMap<(String, Option<i64>), String>,
    /// When to look again though nothing has changed: for the next token.
    pub renew_at: Option<Instant>,
}

impl Needed {
    pub(super) fn by_container(container: &Container) -> Self {
        let mut needed = Self::default();
        for from in &container.env_from {
            needed.config_maps.extend(from.config_map_ref.iter().map(|source| source.name.clone()));
            needed.secrets.extend(from.secret_ref.iter().map(|source| source.name.clone()));
        }
        for source in container.env.iter().filter_map(|variable| variable.value_from.as_ref()) {
            needed.config_maps.extend(source.config_map_key_ref.iter().map(|key| key.name.clone()));
            needed.secrets.extend(source.secret_key_ref.iter().map(|key| key.name.clone()));
        }
        needed
    }

    pub(super) fn by_volumes(volumes: &[Volume]) -> Self {
        let mut needed = Self::default();
        for volume in volumes {
            needed.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
            needed.secrets.extend(volume.secret.iter().map(|source| source.secret_name.clone()));
            for part in volume.projected.iter().flat_map(|projected| &projected.sources) {
                needed.config_maps.extend(part.config_map.iter().map(|source| source.name.clone()));
                needed.secrets.extend(part.secret.iter().map(|source| source.name.clone()));
            }
        }
        needed
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let maps = self.config_maps.iter().cloned().map(Key::ConfigMap);
        maps.chain(self.secrets.iter().cloned().map(Key::Secret))
    }

    pub(super) async fn fetch(self, client: &Client, namespace: &str) -> weir_client::Result<Sources> {
        let mut sources = Sources::default();
        for name in self.config_maps {
            if let Some(found) = client.namespaced::<ConfigMap>(namespace).get_opt(&name).await? {
                sources.config_maps.insert(name, found);
            }
        }
        for name in self.secrets {
            if let Some(found) = client.namespaced::<Secret>(namespace).get_opt(&name).await? {
                sources.secrets.insert(name, found);
            }
        }
        Ok(sources)
    }
}

impl Sources {
    pub(super) fn versions(&self) -> Versions {
        let version = |meta: &ObjectMeta| meta.resource_version.clone();
        let maps = self.config_maps.iter();
        let maps = maps.map(|(name, map)| (Key::ConfigMap(name.clone()), version(map.meta())));
        let secrets = self.secrets.iter();
        maps.chain(secrets.map(|(name, secret)| (Key::Secret(name.clone()), version(secret.meta()))))
            .collect()
    }
}

/// All keys of a ConfigMap, text and binary.
pub(super) fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().map(|(key, value)| (key.clone(), value.to_vec()));
    text.chain(binary).collect()
}

/// Those that can be variables.
pub(super) fn config_map_text(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    map.data.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes())).collect()
}

pub(super) fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.iter().map(|(key, value)| (key.clone(), value.to_vec())).collect()
}
