//! What there is: groups, versions, and the resources of each. All of it follows from the table of kinds.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use weir_proto::status::ApiError;
use weir_proto::{Kind, kinds};

use super::path::Place;
use super::{answer, openapi, resource_metrics};
use crate::tokens;

/// The group of what is asked and answered instead of stored.
const REVIEWS: &str = "authentication.k8s.io";

/// The document at a place that is not a resource.
pub(super) fn document(place: &Place) -> Result<Response, ApiError> {
    let document = match place {
        Place::Root => paths(),
        Place::CoreVersions => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        Place::Groups => {
            let mut groups: Vec<_> = named_groups().into_iter().map(group).collect();
            groups.push(review_group());
            groups.push(resource_metrics::group());
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        Place::Group(name) if name == REVIEWS => {
            let mut document = review_group();
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        Place::Version { group, version } if (group.as_str(), version.as_str()) == (REVIEWS, "v1") => {
            review_resources()
        }
        Place::Group(name) => {
            let known = named_groups().into_iter().find(|known| known == name);
            let mut document = group(known.ok_or_else(ApiError::no_such_path)?);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        Place::Version { group, version } => resources(group, version)?,
        Place::OpenApi => openapi::index(),
        Place::OpenApiVersion { group, version } => openapi::version(group, version)?,
        Place::Resource(_) => return Err(ApiError::no_such_path()),
    };
    Ok(answer::value(StatusCode::OK, &document))
}

/// The kinds of a group's version; 404 if there are none.
pub(super) fn kinds_of(group: &str, version: &str) -> Result<Vec<&'static Kind>, ApiError> {
    let found: Vec<_> =
        kinds().iter().copied().filter(|kind| kind.group == group && kind.version == version).collect();
    if found.is_empty() { Err(ApiError::no_such_path()) } else { Ok(found) }
}

/// `api/v1`, `apis/apps/v1`, …
pub(super) fn version_paths() -> BTreeSet<String> {
    let path = |kind: &&Kind| match kind.group {
        "" => format!("api/{}", kind.version),
        group => format!("apis/{group}/{}", kind.version),
    };
    kinds().iter().map(path).collect()
}

fn named_groups() -> BTreeSet<&'static str> {
    kinds().iter().map(|kind| kind.group).filter(|group| !group.is_empty()).collect()
}

fn paths() -> Value {
    let mut paths: BTreeSet<String> = version_paths().into_iter().map(|path| format!("/{path}")).collect();
    paths.extend(
        [
            "/.well-known/openid-configuration",
            "/api",
            "/apis",
            "/apis/authentication.k8s.io/v1",
            "/healthz",
            "/livez",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    json!({"paths": paths})
}

fn group(name: &str) -> Value {
    let versions: BTreeSet<_> =
        kinds().iter().filter(|kind| kind.group == name).map(|kind| kind.version).collect();
    let versions: Vec<_> = versions
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

fn review_group() -> Value {
    let version = json!({"groupVersion": format!("{REVIEWS}/v1"), "version": "v1"});
    json!({"name": REVIEWS, "versions": [version], "preferredVersion": version})
}

fn review_resources() -> Value {
    let resource = |(plural, kind): (&str, &Kind)| {
        json!({
            "name": plural,
            "singularName": kind.singular,
            "namespaced": false,
            "kind": kind.kind,
            "verbs": ["create"],
        })
    };
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{REVIEWS}/v1"),
        "resources": tokens::reviews().map(resource),
    })
}

fn resources(group: &str, version: &str) -> Result<Value, ApiError> {
    let kinds = kinds_of(group, version)?;
    let resources: Vec<_> = kinds.iter().flat_map(|kind| resource(kind)).collect();
    Ok(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].api_version(),
        "resources": resources,
    }))
}

fn resource(kind: &'static Kind) -> Vec<Value> {
    let mut verbs = vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    if kind.plural == "namespaces" {
        verbs.retain(|verb| *verb != "deletecollection");
    }
    let mut main = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": verbs,
    });
    if !kind.short_names.is_empty() {
        main["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        main["categories"] = json!(kind.categories);
    }
    let subresources = kind.subresources.iter().map(|subresource| {
        let (other, verbs): (_, &[&str]) = match *subresource {
            "scale" => (Some(("autoscaling", "v1", "Scale")), &["get", "patch", "update"]),
            "binding" => (Some(("", "v1", "Binding")), &["create"]),
            "eviction" => (Some(("policy", "v1", "Eviction")), &["create"]),
            "token" => (Some(("authentication.k8s.io", "v1", "TokenRequest")), &["create"]),
            "log" => (None, &["get"]),
            "exec" => (Some(("", "v1", "PodExecOptions")), &["create", "get"]),
            "attach" => (Some(("", "v1", "PodAttachOptions")), &["create", "get"]),
            "portforward" => (Some(("", "v1", "PodPortForwardOptions")), &["create", "get"]),
            "finalize" => (None, &["update"]),
            _ => (None, &["get", "patch", "update"]),
        };
        let mut entry = json!({
            "name": format!("{}/{subresource}", kind.plural),
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": other.map_or(kind.kind, |(.., name)| name),
            "verbs": verbs,
        });
        if let Some((group, version, _)) = other.filter(|(group, ..)| !group.is_empty()) {
            entry["group"] = json!(group);
            entry["version"] = json!(version);
        }
        entry
    });
    std::iter::once(main).chain(subresources).collect()
}
