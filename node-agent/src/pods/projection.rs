//! The files of a volume that shows objects: configMap, secret, downwardAPI, projected. Pure.

use std::collections::BTreeMap;

use thiserror::Error;
use weir_proto::core::v1::{DownwardApiVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};

use super::downward::{self, FieldError, Surroundings};
use super::sources::{Sources, config_map_data, secret_data};
use super::volumes::stays_below;

const DEFAULT_MODE: i32 = 0o644;

#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum ProjectionError {
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} {name:?} has no key {key:?}")]
    NoKey { kind: &'static str, name: String, key: String },
    #[error("path {0:?} would leave the volume")]
    Path(String),
    #[error("file {path:?}: {source}")]
    Field { path: String, source: FieldError },
    #[error("projected {0} is not supported yet")]
    Unsupported(&'static str),
}

/// One file, relative to the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub path: String,
    pub data: Vec<u8>,
    pub mode: u32,
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
            Object { kind: "ConfigMap", name: &source.name, items: &source.items, optional, data, mode };
        return of_object(object).map(Some);
    }
    if let Some(source) = &volume.secret {
        let data = sources.secrets.get(&source.secret_name).map(secret_data);
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        let object =
            Object { kind: "Secret", name: &source.secret_name, items: &source.items, optional, data, mode };
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
            kind: "ConfigMap",
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
            kind: "Secret",
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
    Err(ProjectionError::Unsupported(if part.service_account_token.is_some() {
        "serviceAccountToken"
    } else if part.cluster_trust_bundle.is_some() {
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
                return Err(ProjectionError::NoKey { kind, name: name.to_owned(), key: item.key.clone() });
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

fn file(path: &str, data: Vec<u8>, mode: i32) -> Result<File, ProjectionError> {
    if !stays_below(path) {
        return Err(ProjectionError::Path(path.to_owned()));
    }
    Ok(File { path: path.to_owned(), data, mode: u32::try_from(mode & 0o777).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{
        ConfigMap, ConfigMapVolumeSource, ProjectedVolumeSource, ServiceAccountTokenProjection,
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
        assert_eq!(error(source("none", &[])), "ConfigMap \"none\" not found");
        assert_eq!(error(source("map", &[("x", "x")])), "ConfigMap \"map\" has no key \"x\"");
        assert_eq!(error(source("map", &[("k", "../x")])), "path \"../x\" would leave the volume");
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
        assert_eq!(error.to_string(), "projected serviceAccountToken is not supported yet");
    }
}
