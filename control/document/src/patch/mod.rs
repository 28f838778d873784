//! Changes of a document by parts: what the API's `patch` takes, and what `apply` makes of three documents.

mod strategic;
mod three_way;

use serde_json::Value;

pub use strategic::StrategicError;
pub use three_way::three_way;

/// Operations of a JSON patch.
const MOST_OPERATIONS: usize = 1000;
/// Bytes that a patch may make of a document, by copying; above what can be stored.
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

#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    #[error("decode the patch: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("decode the patch: an object is expected")]
    NotAnObject,
    #[error("the allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {0}")]
    Operations(usize),
    #[error("apply the JSON patch: {0}")]
    Operation(#[from] json_patch::PatchError),
    #[error("the patched object would be larger than {LARGEST} bytes")]
    Size,
    #[error(transparent)]
    Strategic(#[from] StrategicError),
}

impl PatchError {
    /// The patch asks for too much, rather than for something wrong.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Operations(_) | Self::Size)
    }
}

/// A patch that was read.
#[derive(Debug, Clone)]
pub enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    pub fn read(patch_type: PatchType, bytes: &[u8]) -> Result<Self, PatchError> {
        if patch_type == PatchType::Json {
            let patch: json_patch::Patch = serde_json::from_slice(bytes)?;
            if patch.0.len() > MOST_OPERATIONS {
                return Err(PatchError::Operations(patch.0.len()));
            }
            return Ok(Self::Json(patch));
        }
        let patch: Value = serde_json::from_slice(bytes)?;
        if !patch.is_object() {
            return Err(PatchError::NotAnObject);
        }
        Ok(if patch_type == PatchType::Merge { Self::Merge(patch) } else { Self::Strategic(patch) })
    }

    /// Where it fails, the document is left half changed, and is to be thrown away.
    pub fn apply(&self, document: &mut Value) -> Result<(), PatchError> {
        match self {
            Self::Json(patch) => apply_json(patch, document)?,
            Self::Merge(patch) => json_patch::merge(document, patch),
            Self::Strategic(patch) => strategic::merge(document, patch)?,
        }
        Ok(())
    }
}

/// One operation at a time, so that copies of copies cannot grow without end.
fn apply_json(patch: &json_patch::Patch, document: &mut Value) -> Result<(), PatchError> {
    let size = |value: &Value| value.to_string().len();
    let mut at_most = size(document);
    for operation in &patch.0 {
        json_patch::patch(document, std::slice::from_ref(operation))?;
        let json_patch::PatchOperation::Copy(copy) = operation else { continue };
        at_most +=
            document.pointer(copy.path.as_str()).or(document.pointer(copy.from.as_str())).map_or(0, size);
        if at_most > LARGEST {
            at_most = size(document);
        }
        if at_most > LARGEST {
            return Err(PatchError::Size);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn copies_of_copies_are_stopped() {
        let operations: Vec<_> =
            (0..200).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        let patch = Patch::read(PatchType::Json, &serde_json::to_vec(&operations).unwrap()).unwrap();
        let mut document = json!({"a": ["x".repeat(1000)]});
        assert!(patch.apply(&mut document).unwrap_err().is_too_large());
    }

    #[test]
    fn broken_patches_are_refused() {
        for (patch_type, bytes) in [
            (PatchType::Json, "{}"),
            (PatchType::Json, "[{\"op\":\"fly\"}]"),
            (PatchType::Merge, "[1]"),
            (PatchType::Strategic, "nul"),
        ] {
            let error = Patch::read(patch_type, bytes.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with("decode the patch: "), "{bytes}: {error}");
        }
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(Patch::read(PatchType::Merge, deep.as_bytes()).is_err());
    }
}
