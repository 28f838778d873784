//! Between the messages of `weir.v1` and the registry's terms.

use weir_proto::status::ApiError;
use weir_proto::weir::v1::{self as pb, object::Payload};
use weir_proto::{Kind, Object};

use crate::cache::{CachedObject, ChangeType, WatchEvent};
use crate::registry::{Context, Target, read_json};

pub(super) fn kind(kind: Option<&pb::KindRef>) -> Result<&'static Kind, ApiError> {
    let kind = kind.ok_or_else(|| ApiError::bad_request("kind is required"))?;
    weir_proto::find(&kind.group, &kind.version, &kind.kind).ok_or_else(|| {
        let shown = format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind);
        ApiError::bad_request(format!("no matches for kind: {}", shown.trim_start_matches('/')))
    })
}

pub(super) fn target(reference: Option<pb::ObjectRef>) -> Result<Target, ApiError> {
    let reference = reference.ok_or_else(|| ApiError::bad_request("ref is required"))?;
    Ok(Target {
        kind: kind(reference.kind.as_ref())?,
        namespace: reference.namespace,
        name: reference.name,
        subresource: reference.subresource,
    })
}

/// Decodes what a client sent; of the target's kind, or of the kind that its subresource takes.
pub(super) fn object(
    context: &Context,
    target: &Target,
    object: Option<pb::Object>,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn Object>, ApiError> {
    let object = object.ok_or_else(|| ApiError::bad_request("object is required"))?;
    let named = kind(object.kind.as_ref().or(Some(&target.kind.to_ref())))?;
    let takes_other = !matches!(target.subresource.as_str(), "" | "status" | "finalize");
    if named != target.kind && !takes_other {
        let message = format!("the object is a {}, the request is about {}", named.kind, target.kind.plural);
        return Err(ApiError::bad_request(message));
    }
    match object.payload {
        None => Err(ApiError::bad_request("object.payload is required")),
        Some(Payload::Protobuf(bytes)) => named
            .decode(&bytes)
            .map_err(|error| ApiError::bad_request(format!("decode the {}: {error}", named.kind))),
        Some(Payload::Json(bytes)) => {
            let value = serde_json::from_slice(&bytes)
                .map_err(|error| ApiError::bad_request(format!("decode the {}: {error}", named.kind)))?;
            read_json(context, named, &value, warnings)
        }
    }
}

pub(super) fn to_wire(cached: &CachedObject) -> pb::Object {
    pb::Object {
        kind: Some(cached.object.kind().to_ref()),
        payload: Some(Payload::Protobuf(cached.protobuf().to_vec())),
    }
}

pub(super) fn event(event: &WatchEvent) -> pb::WatchEvent {
    use pb::watch_event::Type;
    match event {
        WatchEvent::Bookmark { revision } => pb::WatchEvent {
            r#type: Type::Bookmark.into(),
            object: None,
            resource_version: revision.to_string(),
        },
        WatchEvent::Change { change, object } => {
            let change = match change {
                ChangeType::Added => Type::Added,
                ChangeType::Modified => Type::Modified,
                ChangeType::Deleted => Type::Deleted,
            };
            pb::WatchEvent {
                r#type: change.into(),
                object: Some(to_wire(object)),
                resource_version: object.revision.to_string(),
            }
        }
    }
}
