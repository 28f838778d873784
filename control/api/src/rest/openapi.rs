//! OpenAPI v3, as far as clients need it to know what they may ask of this server: the operations of each kind
//! and their parameters. Above all `fieldValidation`: kubectl leaves the checking of manifests to a server that
//! names it. The fields of objects are not described.

use serde_json::{Map, Value, json};
use weir_proto::Kind;
use weir_proto::status::ApiError;

use super::discovery::{kinds_of, version_paths};

pub(super) fn index() -> Value {
    let paths: Map<_, _> = version_paths()
        .into_iter()
        .map(|path| {
            let document = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
            (path, document)
        })
        .collect();
    json!({"paths": paths})
}

pub(super) fn version(group: &str, version: &str) -> Result<Value, ApiError> {
    let mut paths = Map::new();
    for kind in kinds_of(group, version)? {
        let root = match group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        let collection = match kind.namespaced {
            true => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
            false => format!("{root}/{}", kind.plural),
        };
        let of_all = json!({"get": operation(kind, "list"), "post": operation(kind, "post")});
        let of_one = json!({
            "get": operation(kind, "get"),
            "put": operation(kind, "put"),
            "patch": operation(kind, "patch"),
            "delete": operation(kind, "delete"),
        });
        paths.insert(format!("{collection}/{{name}}"), of_one);
        paths.insert(collection, of_all);
    }
    Ok(json!({
        "openapi": "3.0.0",
        "info": {"title": "Weir", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": {}},
    }))
}

fn operation(kind: &Kind, action: &str) -> Value {
    let writes = matches!(action, "post" | "put" | "patch");
    let names: &[&str] = match action {
        "list" => &["labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch"],
        "delete" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        _ if writes => &["dryRun", "fieldManager", "fieldValidation"],
        _ => &[],
    };
    let parameters: Vec<_> = names
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    json!({
        "operationId": format!("{action}{}{}", kind.version, kind.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    })
}
