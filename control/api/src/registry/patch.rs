//! `patch`: a change by parts, applied to the object's JSON as it is now, and tried again when it changes meanwhile.

use std::sync::Arc;

use serde_json::Value;
use weir_document::patch::{Patch, PatchError, PatchType};
use weir_proto::Object;
use weir_proto::autoscaling::v1::Scale;
use weir_proto::status::ApiError;

use super::create::{self, expect_body};
use super::update::{check_preconditions, replace};
use super::{Context, FieldValidation, Registry, Target, Written, scale};
use crate::auth::Verb;
use crate::cache::CachedObject;

impl Registry {
    /// `patch` of the object, its status, its scale or a pod's ephemeral containers.
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
        let patch = Patch::read(patch_type, patch).map_err(refusal)?;
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

fn refusal(error: PatchError) -> ApiError {
    let message = error.to_string();
    if error.is_too_large() { ApiError::too_large(message) } else { ApiError::bad_request(message) }
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
    patch: &Patch,
    current: &CachedObject,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn Object>, ApiError> {
    let mut document = current.object.to_json();
    patch.apply(&mut document).map_err(refusal)?;
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
