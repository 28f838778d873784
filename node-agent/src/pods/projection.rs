//! The files of a volume that shows objects: configMap, secret, downwardAPI, projected. Pure.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;
use weir_proto::core::v1::{Container, DownwardApiVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};

use super::downward::{self, FieldError, Surroundings};
use super::sources::{Sources, config_map_data, secret_data};
use super::volumes::stays_below;

const DEFAULT_MODE: i32 = 0o644;

#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum ProjectionError {
    #[error("{kind} {name:?} not found; make it, or set optional: true")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} {name:?} references non-existent key: {key} (it has: {has})")]
    NoKey { kind: &'static str, name: String, key: String, has: String },
    #[error("path {0:?} must be relative, without \"..\" in it or before it: it would leave the volume")]
    Path(String),
    #[error("file {path:?}: {source}")]
    Field { path: String, source: FieldError },
    #[error("there is no token for the pod's service account")]
    NoToken,
    #[error("projected {0} is not supported yet")]
    Unsupported(&'static str),
}

/// One file, relative to the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub path: String,
    pub data: Vec<u8>,
    pub mode: u32,
    /// Root where nobody is named.
    pub user: Option<u32>,
}

/// An object whose keys become files.
struct Object<'a> {
    kind: &'static str,
    name: &'a str,
    items: &'a [KeyToPath],
    optional: bool,
    data: Option<BTreeMap<String, Vec<u8>>>,
    mode: i32,
}

/// `None` for a volume of another kind.
pub(super) fn files(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    around: &Surroundings,
) -> Result<Option<Vec<File>>, ProjectionError> {
    if let Some(source) = &volume.config_map {
        let data = sources.config_maps.get(&source.name).map(config_map_data);
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        let object =
            Object { kind: "configmap", name: &source.name, items: &source.items, optional, data, mode };
        return of_object(object).map(Some);
    }
    if let Some(source) = &volume.secret {
        let data = sources.secrets.get(&source.secret_name).map(secret_data);
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        let object =
            Object { kind: "secret", name: &source.secret_name, items: &source.items, optional, data, mode };
        return of_object(object).map(Some);
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return of_fields(pod, &source.items, mode, around).map(Some);
    }
    let Some(projected) = &volume.projected else { return Ok(None) };
    let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
    let mut files = Vec::new();
    for part in &projected.sources {
        files.extend(of_part(pod, part, mode, sources, around)?);
    }
    Ok(Some(files))
}

fn of_part(
    pod: &Pod,
    part: &VolumeProjection,
    mode: i32,
    sources: &Sources,
    around: &Surroundings,
) -> Result<Vec<File>, ProjectionError> {
    if let Some(source) = &part.config_map {
        let data = sources.config_maps.get(&source.name).map(config_map_data);
        let optional = source.optional == Some(true);
        return of_object(Object {
            kind: "configmap",
            name: &source.name,
            items: &source.items,
            optional,
            data,
            mode,
        });
    }
    if let Some(source) = &part.secret {
        let data = sources.secrets.get(&source.name).map(secret_data);
        let optional = source.optional == Some(true);
        return of_object(Object {
            kind: "secret",
            name: &source.name,
            items: &source.items,
            optional,
            data,
            mode,
        });
    }
    if let Some(source) = &part.downward_api {
        return of_fields(pod, &source.items, mode, around);
    }
    if let Some(source) = &part.service_account_token {
        let asked = (source.audience.clone(), source.expiration_seconds);
        let token = sources.tokens.get(&asked);
        let token = token.ok_or(ProjectionError::NoToken)?;
        return of_token(pod, &source.path, token, mode).map(|file| vec![file]);
    }
    Err(ProjectionError::Unsupported(if part.cluster_trust_bundle.is_some() {
        "clusterTrustBundle"
    } else {
        "podCertificate"
    }))
}

fn of_object(object: Object<'_>) -> Result<Vec<File>, ProjectionError> {
    let Object { kind, name, items, optional, data, mode } = object;
    let data = match data {
        Some(data) => data,
        None if optional => BTreeMap::new(),
        None => return Err(ProjectionError::NotFound { kind, name: name.to_owned() }),
    };
    if items.is_empty() {
        let all = data.into_iter().map(|(key, data)| file(&key, data, mode));
        return all.collect();
    }
    let mut files = Vec::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => files.push(file(&item.path, data.clone(), item.mode.unwrap_or(mode))?),
            None if optional => {}
            None => {
                let has = data.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(ProjectionError::NoKey {
                    kind,
                    name: name.to_owned(),
                    key: item.key.clone(),
                    has,
                });
            }
        }
    }
    Ok(files)
}

fn of_fields(
    pod: &Pod,
    items: &[DownwardApiVolumeFile],
    mode: i32,
    around: &Surroundings,
) -> Result<Vec<File>, ProjectionError> {
    let mut files = Vec::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(pod, &field.field_path, around),
            (None, Some(selector)) => downward::resource(pod, None, selector, around),
            (None, None) => Ok(String::new()),
        };
        let text = text.map_err(|source| ProjectionError::Field { path: item.path.clone(), source })?;
        files.push(file(&item.path, text.into_bytes(), item.mode.unwrap_or(mode))?);
    }
    Ok(files)
}

/// For its reader alone where that is known, as Kubernetes does: the pod's group, or the user of all its containers.
fn of_token(pod: &Pod, path: &str, token: &str, mode: i32) -> Result<File, ProjectionError> {
    let context = pod.spec().security_context.as_ref();
    let of_pod = context.and_then(|context| context.run_as_user);
    let containers = pod.spec().containers.iter().chain(&pod.spec().init_containers);
    let of_container = |container: &Container| {
        container.security_context.as_ref().and_then(|own| own.run_as_user).or(of_pod)
    };
    let users: BTreeSet<Option<i64>> = containers.map(of_container).collect();
    let user = match users.into_iter().collect::<Vec<_>>()[..] {
        [Some(user)] => u32::try_from(user).ok(),
        _ => None,
    };
    let grouped = context.is_some_and(|context| context.fs_group.is_some());
    let mode = if user.is_some() || grouped { 0o600 } else { mode };
    Ok(File { user, ..file(path, token.as_bytes().to_vec(), mode)? })
}

fn file(path: &str, data: Vec<u8>, mode: i32) -> Result<File, ProjectionError> {
    if !stays_below(path) {
        return Err(ProjectionError::Path(path.to_owned()));
    }
    Ok(File { path: path.to_owned(), data, mode: u32::try_from(mode & 0o777).unwrap_or(0), user: None })
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{
        ConfigMap, ConfigMapVolumeSource, PodSecurityContext, ProjectedVolumeSource, SecurityContext,
        ServiceAccountTokenProjection,
    };

    use super::*;
    use crate::pods::downward::surroundings;

    fn of(source: ConfigMapVolumeSource) -> Result<Option<Vec<File>>, ProjectionError> {
        let data = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let map = ConfigMap { data, ..ConfigMap::default() };
        let sources =
            Sources { config_maps: BTreeMap::from([("map".to_owned(), map)]), ..Sources::default() };
        let volume = Volume { config_map: Some(source), ..Volume::default() };
        files(&Pod::default(), &volume, &sources, &surroundings())
    }

    fn source(name: &str, items: &[(&str, &str)]) -> ConfigMapVolumeSource {
        let item = |(key, path): &(&str, &str)| KeyToPath {
            key: (*key).to_owned(),
            path: (*path).to_owned(),
            mode: None,
        };
        ConfigMapVolumeSource {
            name: name.to_owned(),
            items: items.iter().map(item).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn keys_become_files_under_their_own_or_a_given_path() {
        let paths = |source| {
            of(source).map(|files| files.unwrap_or_default().into_iter().map(|file| file.path).collect())
        };
        assert_eq!(paths(source("map", &[])), Ok(vec!["k".to_owned()]));
        assert_eq!(paths(source("map", &[("k", "a/b")])), Ok(vec!["a/b".to_owned()]));
    }

    #[test]
    fn what_is_missing_or_leads_out_is_refused_by_name() {
        let error = |source| of(source).expect_err("refused").to_string();
        assert_eq!(
            error(source("none", &[])),
            "configmap \"none\" not found; make it, or set optional: true"
        );
        assert_eq!(
            error(source("map", &[("x", "x")])),
            "configmap \"map\" references non-existent key: x (it has: k)"
        );
        for path in ["../x", "..data"] {
            let error = error(source("map", &[("k", path)]));
            assert!(error.ends_with("it would leave the volume"), "{error}");
        }
        let optional = ConfigMapVolumeSource { optional: Some(true), ..source("none", &[]) };
        assert_eq!(of(optional), Ok(Some(vec![])));
        let token = VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection::default()),
            ..VolumeProjection::default()
        };
        let volume = Volume {
            projected: Some(ProjectedVolumeSource { sources: vec![token], default_mode: None }),
            ..Volume::default()
        };
        let error =
            files(&Pod::default(), &volume, &Sources::default(), &surroundings()).expect_err("refused");
        assert_eq!(error.to_string(), "there is no token for the pod's service account");
    }

    #[test]
    fn a_token_is_for_its_reader_alone_where_that_is_known() {
        let token = ServiceAccountTokenProjection { path: "token".to_owned(), ..Default::default() };
        let part = VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() };
        let projected = ProjectedVolumeSource { sources: vec![part], default_mode: Some(0o644) };
        let volume = Volume { projected: Some(projected), ..Volume::default() };
        let tokens = BTreeMap::from([((String::new(), None), "t".to_owned())]);
        let sources = Sources { tokens, ..Sources::default() };
        let of = |users: &[Option<i64>], group: Option<i64>| {
            let mut pod = Pod::default();
            let container = |user: &Option<i64>| {
                let own = SecurityContext { run_as_user: *user, ..SecurityContext::default() };
                Container { security_context: Some(own.into()), ..Container::default() }
            };
            pod.spec_mut().containers = users.iter().map(container).collect();
            pod.spec_mut().security_context =
                Some(PodSecurityContext { fs_group: group, ..PodSecurityContext::default() });
            let files = files(&pod, &volume, &sources, &surroundings()).expect("files").expect("of a kind");
            (files[0].user, files[0].mode)
        };
        assert_eq!(of(&[None], None), (None, 0o644));
        assert_eq!(of(&[Some(7), Some(7)], None), (Some(7), 0o600));
        assert_eq!(of(&[Some(7), Some(8)], None), (None, 0o644));
        assert_eq!(of(&[Some(7), None], Some(9)), (None, 0o600));
    }
}
