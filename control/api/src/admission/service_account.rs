//! Pods act as a service account, as by Kubernetes' plugin `ServiceAccount`: it must exist, lends the pod its pull secrets,
//! and its token is mounted into every container, beside the authority's certificate and the namespace.
//!
//! The account `default` is made by the server soon after its namespace; until then it counts as there. (Kubernetes lets the
//! client wait.) Mirrors of static pods are left as the node wrote them: they act as nobody.

use weir_proto::Resource;
use weir_proto::core::v1::{
    ConfigMapProjection, Container, DownwardApiProjection, DownwardApiVolumeFile, KeyToPath,
    ObjectFieldSelector, Pod, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume,
    VolumeMount, VolumeProjection,
};
use weir_proto::status::ApiError;

use crate::auth::forbidden;
use crate::random;
use crate::registry::Registry;
use crate::server::{ROOT_CA, ROOT_CA_KEY};

pub(crate) const DEFAULT: &str = "default";
const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Seven seconds more than an hour: by them Kubernetes' tools know tokens that were mounted without being asked for.
const TOKEN_SECONDS: i64 = 3607;
const FILE_MODE: i32 = 0o644;

pub(super) async fn admit_pod(registry: &Registry, pod: &mut Pod) -> Result<(), ApiError> {
    if pod.meta().annotations.contains_key(MIRROR) {
        return Ok(());
    }
    let (namespace, name) = (pod.meta().namespace.clone(), pod.meta().name.clone());
    let spec = pod.spec.get_or_insert_default();
    if spec.service_account_name.is_empty() {
        DEFAULT.clone_into(&mut spec.service_account_name);
        DEFAULT.clone_into(&mut spec.service_account);
    }
    let wanted = spec.service_account_name.as_str();
    let account = registry.find::<ServiceAccount>(&namespace, wanted).await?;
    let account = account.as_ref().and_then(|account| account.typed::<ServiceAccount>());
    if account.is_none() && wanted != DEFAULT {
        let why = format!(
            "error looking up service account {namespace}/{wanted}: serviceaccount {wanted:?} not found"
        );
        return Err(forbidden(Pod::KIND, &name, &why));
    }
    if let Some(account) = account.filter(|_| spec.image_pull_secrets.is_empty()) {
        spec.image_pull_secrets.clone_from(&account.image_pull_secrets);
    }
    let mounts = spec
        .automount_service_account_token
        .or_else(|| account.and_then(|account| account.automount_service_account_token))
        .unwrap_or(true);
    if mounts {
        mount_token(pod)?;
    }
    Ok(())
}

/// Into the containers that have nothing there of their own.
fn mount_token(pod: &mut Pod) -> Result<(), ApiError> {
    let spec = pod.spec.get_or_insert_default();
    let misses = |container: &&mut Container| {
        container.volume_mounts.iter().all(|mount| mount.mount_path != MOUNT_PATH)
    };
    let mut without: Vec<_> =
        spec.init_containers.iter_mut().chain(&mut spec.containers).filter(misses).collect();
    if without.is_empty() {
        return Ok(());
    }
    let suffix = random::suffix().map_err(|error| ApiError::internal(error.to_string()))?;
    let name = format!("{VOLUME_PREFIX}{suffix}");
    for container in &mut without {
        container.volume_mounts.reserve_exact(1);
        container.volume_mounts.push(VolumeMount {
            name: name.clone(),
            mount_path: MOUNT_PATH.to_owned(),
            read_only: true,
            ..VolumeMount::default()
        });
    }
    spec.volumes.reserve_exact(1);
    spec.volumes.push(volume(name));
    Ok(())
}

fn volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
        ..ServiceAccountTokenProjection::default()
    };
    let key = KeyToPath { key: ROOT_CA_KEY.to_owned(), path: ROOT_CA_KEY.to_owned(), mode: None };
    let authority =
        ConfigMapProjection { name: ROOT_CA.to_owned(), items: vec![key], ..ConfigMapProjection::default() };
    let field =
        ObjectFieldSelector { api_version: "v1".to_owned(), field_path: "metadata.namespace".to_owned() };
    let namespace = DownwardApiVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(field),
        ..DownwardApiVolumeFile::default()
    };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(authority), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardApiProjection { items: vec![namespace] }),
            ..VolumeProjection::default()
        },
    ];
    let projected = ProjectedVolumeSource { default_mode: Some(FILE_MODE), sources };
    Volume { name, projected: Some(projected), ..Volume::default() }
}
