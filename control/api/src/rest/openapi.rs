//! OpenAPI v3, generated from the declarations of the kinds: their operations with their parameters, and their fields
//! with what the declarations say of them. `kubectl explain` prints the fields; that `fieldValidation` is a parameter
//! tells kubectl to leave the checking of manifests to this server.
//!
//! Left out: the bodies of operations. A client that finds them there would build strategic merge patches from them.

use serde_json::{Map, Value, json};
use weir_proto::Kind;
use weir_proto::schema::{self, Field, Holds, Message, Shape};
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
    let (mut paths, mut schemas) = (Map::new(), scalars());
    for kind in kinds_of(group, version)? {
        describe(kind, &mut schemas);
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
        "components": {"schemas": schemas},
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

/// A kind's message and all that it is made of.
fn describe(kind: &Kind, schemas: &mut Map<String, Value>) {
    let Some(of_kind) = schema::of(kind) else { return };
    for message in of_kind.reachable() {
        schemas.entry(name(message)).or_insert_with(|| object(message));
    }
    let Some(described) = schemas.get_mut(&name(of_kind)) else { return };
    described["x-kubernetes-group-version-kind"] =
        json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
    for (field, comment) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        described["properties"][field] =
            json!({"type": "string", "description": format!("Always {comment}.")});
    }
}

/// Kubernetes' name of a type, for clients that are generated.
fn name(message: &Message) -> String {
    let package = match message.package {
        "k8s.meta.v1" => "io.k8s.apimachinery.pkg.apis.meta.v1".to_owned(),
        package => match package.strip_prefix("k8s.") {
            Some(package) => format!("io.k8s.api.{package}"),
            None => format!("dev.weir.{package}"),
        },
    };
    format!("{package}.{}", message.name)
}

fn object(message: &Message) -> Value {
    let properties: Map<_, _> =
        message.fields.iter().map(|field| (field.name.to_owned(), property(field))).collect();
    json!({"type": "object", "description": message.comment, "properties": properties})
}

fn property(field: &Field) -> Value {
    let one = match field.holds {
        Holds::Scalar("string") => json!({"type": "string"}),
        Holds::Scalar("boolean") => json!({"type": "boolean"}),
        Holds::Scalar("integer") => json!({"type": "integer"}),
        Holds::Scalar("base64") => json!({"type": "string", "format": "byte"}),
        Holds::Scalar(scalar) => reference(&scalar_name(scalar)),
        Holds::Message(message) => reference(&name(message)),
    };
    let mut property = match field.shape {
        Shape::One => one,
        Shape::List => json!({"type": "array", "items": one}),
        Shape::Map => json!({"type": "object", "additionalProperties": one}),
    };
    if !field.comment.is_empty() {
        property["description"] = json!(field.comment);
    }
    property
}

/// Not bare, since nothing may stand beside a bare `$ref`.
fn reference(name: &str) -> Value {
    json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}]})
}

fn scalar_name(scalar: &str) -> String {
    match scalar {
        "Quantity" => "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
        "IntOrString" => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
        "RawExtension" => "io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(),
        scalar => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{scalar}"),
    }
}

/// Types with a form of their own in JSON.
fn scalars() -> Map<String, Value> {
    let either = |other: &str| json!([{"type": "string"}, {"type": other}]);
    let quantity = json!({"oneOf": either("number"), "description": "An amount, as 250m, 0.5 or 1Gi."});
    let port = json!({
        "oneOf": either("integer"),
        "format": "int-or-string",
        "description": "A number, or a text such as a port's name or 25%.",
    });
    let time = |example| json!({"type": "string", "format": "date-time", "description": example});
    [
        ("Quantity", quantity),
        ("IntOrString", port),
        ("Time", time("A time, as 2006-01-02T15:04:05Z.")),
        ("MicroTime", time("A time, as 2006-01-02T15:04:05.000000Z.")),
        ("FieldsV1", json!({"type": "object", "description": "A set of fields."})),
        ("RawExtension", json!({"type": "object", "description": "Any object."})),
    ]
    .into_iter()
    .map(|(scalar, schema)| (scalar_name(scalar), schema))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands behind each `$ref` of a document.
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|below| references(below, found));
            }
            Value::Array(items) => items.iter().for_each(|below| references(below, found)),
            _ => {}
        }
    }

    #[test]
    fn every_document_describes_its_kinds_and_all_that_they_are_made_of() {
        for path in version_paths() {
            let (group, version) = match path.split('/').collect::<Vec<_>>()[..] {
                ["api", version] => ("", version.to_owned()),
                ["apis", group, version] => (group, version.to_owned()),
                _ => panic!("{path}"),
            };
            let document = self::version(group, &version).unwrap();
            let mut found = Vec::new();
            references(&document, &mut found);
            for reference in found {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{path}: {reference}");
            }
            for kind in kinds_of(group, &version).unwrap() {
                let schemas = document["components"]["schemas"].as_object().unwrap();
                let described = schemas
                    .values()
                    .filter(|schema| schema["x-kubernetes-group-version-kind"][0]["kind"] == kind.kind);
                assert_eq!(described.count(), 1, "{kind}");
            }
        }
    }
}
