//! `patch`: a change by parts, applied to the object's JSON as it is now, and tried again when it changes meanwhile.

use std::sync::Arc;

use serde_json::Value;
use weir_proto::Object;
use weir_proto::autoscaling::v1::Scale;
use weir_proto::status::ApiError;

use super::create::{self, expect_body};
use super::update::{check_preconditions, replace};
use super::{Context, FieldValidation, Registry, Target, Written, scale, strategic};
use crate::auth::Verb;
use crate::cache::CachedObject;

/// Operations of a JSON patch.
const MOST_OPERATIONS: usize = 1000;
/// Bytes that a patch may make of an object, by copying; above what can be stored.
const LARGEST: usize = 3 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own: lists of named things are merged by name.
    Strategic,
}

enum Parsed {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Parsed {
    fn read(patch_type: PatchType, bytes: &[u8]) -> Result<Self, ApiError> {
        let broken = |error: serde_json::Error| ApiError::bad_request(format!("decode the patch: {error}"));
        match patch_type {
            PatchType::Json => {
                let patch: json_patch::Patch = serde_json::from_slice(bytes).map_err(broken)?;
                if patch.0.len() > MOST_OPERATIONS {
                    let message = format!(
                        "the allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
                        patch.0.len()
                    );
                    return Err(ApiError::too_large(message));
                }
                Ok(Parsed::Json(patch))
            }
            PatchType::Merge | PatchType::Strategic => {
                let patch: Value = serde_json::from_slice(bytes).map_err(broken)?;
                if !patch.is_object() {
                    return Err(ApiError::bad_request("decode the patch: an object is expected"));
                }
                Ok(if patch_type == PatchType::Merge {
                    Parsed::Merge(patch)
                } else {
                    Parsed::Strategic(patch)
                })
            }
        }
    }

    fn apply(&self, document: &mut Value) -> Result<(), ApiError> {
        match self {
            Parsed::Json(patch) => apply_json(patch, document),
            Parsed::Merge(patch) => {
                json_patch::merge(document, patch);
                Ok(())
            }
            Parsed::Strategic(patch) => strategic::merge(document, patch).map_err(ApiError::bad_request),
        }
    }
}

/// One operation at a time, so that copies of copies cannot grow without end.
fn apply_json(patch: &json_patch::Patch, document: &mut Value) -> Result<(), ApiError> {
    for operation in &patch.0 {
        let copies = matches!(operation, json_patch::PatchOperation::Copy(_));
        json_patch::patch(document, std::slice::from_ref(operation))
            .map_err(|error| ApiError::bad_request(format!("apply the JSON patch: {error}")))?;
        if copies && document.to_string().len() > LARGEST {
            return Err(ApiError::too_large(format!(
                "the patched object would be larger than {LARGEST} bytes"
            )));
        }
    }
    Ok(())
}

impl Registry {
    /// `patch` of the object, its status or its scale.
    pub async fn patch(
        &self,
        context: &Context,
        target: &Target,
        patch_type: PatchType,
        patch: &[u8],
    ) -> Result<Written, ApiError> {
        self.authorize(context, Verb::Patch, target).await?;
        self.check_target(target)?;
        let strategy = self.entry(target.kind)?.strategy.as_ref();
        let patch = Parsed::read(patch_type, patch)?;
        let mut warnings = Vec::new();
        let object = self
            .change(context, target, |current| {
                warnings.clear();
                if target.subresource == "scale" {
                    let scale = scale::of(current)?;
                    let patched: Scale = expect_body(patched(context, &patch, &scale, &mut warnings)?)?;
                    check_written(target, patched.metadata.as_ref(), current)?;
                    let scaled = scale::apply(current.object.as_ref(), &patched)?;
                    return replace(strategy, "", current.object.as_ref(), scaled);
                }
                let new = patched(context, &patch, current, &mut warnings)?;
                check_written(target, Some(new.meta()), current)?;
                if target.subresource.is_empty() {
                    warnings.extend(create::warnings(strategy, new.as_ref()));
                }
                replace(strategy, &target.subresource, current.object.as_ref(), new)
            })
            .await?;
        let object = match target.subresource.as_str() {
            "scale" => Arc::new(scale::of(&object)?),
            _ => object,
        };
        Ok(Written { object, warnings })
    }
}

/// A patch may insist on a uid or a resource version by writing it; it may not rename.
fn check_written(
    target: &Target,
    meta: Option<&weir_proto::meta::v1::ObjectMeta>,
    current: &CachedObject,
) -> Result<(), ApiError> {
    let Some(meta) = meta else { return Ok(()) };
    if meta.name != target.name || meta.namespace != target.namespace {
        return Err(ApiError::bad_request("a patch may not change metadata.name or metadata.namespace"));
    }
    check_preconditions(target, &meta.uid, &meta.resource_version, current)
}

fn patched(
    context: &Context,
    patch: &Parsed,
    current: &CachedObject,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn Object>, ApiError> {
    let mut document = current.object.to_json();
    patch.apply(&mut document)?;
    read_json(context, current.object.kind(), &document, warnings)
}

/// Reads an object that a client wrote as JSON; what it has that its kind has not is met as the client wished.
pub(crate) fn read_json(
    context: &Context,
    kind: &'static weir_proto::Kind,
    document: &Value,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn Object>, ApiError> {
    let mut unknown = Vec::new();
    let object =
        kind.from_json(document, &mut unknown).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let unknown = unknown.into_iter().map(|path| format!("unknown field {path:?}"));
    match context.field_validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => warnings.extend(unknown),
        FieldValidation::Strict => {
            let unknown: Vec<_> = unknown.collect();
            if !unknown.is_empty() {
                return Err(ApiError::bad_request(format!("strict decoding error: {}", unknown.join(", "))));
            }
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn copies_of_copies_are_stopped() {
        let operations: Vec<_> =
            (0..200).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        let patch = Parsed::read(PatchType::Json, &serde_json::to_vec(&operations).unwrap()).unwrap();
        let mut document = json!({"a": ["x".repeat(1000)]});
        assert_eq!(patch.apply(&mut document).unwrap_err().code(), 413);
    }

    #[test]
    fn broken_patches_are_refused() {
        for (patch_type, bytes) in [
            (PatchType::Json, "{}"),
            (PatchType::Json, "[{\"op\":\"fly\"}]"),
            (PatchType::Merge, "[1]"),
            (PatchType::Strategic, "nul"),
        ] {
            assert_eq!(Parsed::read(patch_type, bytes.as_bytes()).err().unwrap().code(), 400, "{bytes}");
        }
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(Parsed::read(PatchType::Merge, deep.as_bytes()).is_err());
    }
}
