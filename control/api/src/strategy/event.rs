//! Events: lenient, for their senders have nobody to tell about a refusal.

use weir_proto::core::v1::Event;

use super::Strategy;
use crate::validation::{Errors, Path};

pub(super) struct Events;

impl Strategy for Events {
    type Object = Event;

    fn fill_defaults(&self, event: &mut Event) {
        if event.r#type.is_empty() {
            "Normal".clone_into(&mut event.r#type);
        }
    }

    fn validate(&self, event: &Event, errors: &mut Errors) {
        errors.one_of(&Path::root("type"), &event.r#type, &["Normal", "Warning"]);
        let namespace = event.metadata.as_ref().map_or("", |meta| meta.namespace.as_str());
        let involved = event.involved_object.as_ref().map_or("", |object| object.namespace.as_str());
        // What belongs to no namespace is told in `default`.
        let expected = if involved.is_empty() { "default" } else { involved };
        if namespace != expected && namespace != "kube-system" {
            let path = Path::root("involvedObject").child("namespace").to_string();
            errors.invalid(&Path::root(&path), involved, "does not match event.namespace");
        }
    }
}
