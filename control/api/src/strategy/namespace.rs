//! Namespaces. One that is deleted stays, Terminating, until a controller has emptied it and taken the finalizer off.

use weir_proto::core::v1::{Namespace, NamespaceStatus};

use super::Strategy;
use crate::validation::meta::NameCheck;
use crate::validation::names;

pub(super) struct Namespaces;

/// Held in `spec.finalizers` until the namespace is empty.
pub(crate) const FINALIZER: &str = "kubernetes";

impl Strategy for Namespaces {
    type Object = Namespace;

    fn name_check(&self) -> NameCheck {
        names::dns_label
    }

    fn fill_defaults(&self, namespace: &mut Namespace) {
        let meta = namespace.metadata.get_or_insert_default();
        if !meta.name.is_empty() {
            meta.labels.insert("kubernetes.io/metadata.name".to_owned(), meta.name.clone());
        }
    }

    fn prepare_create(&self, namespace: &mut Namespace) {
        let finalizers = &mut namespace.spec.get_or_insert_default().finalizers;
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        namespace.status = Some(NamespaceStatus { phase: "Active".to_owned(), ..NamespaceStatus::default() });
    }

    /// The finalizers in the spec change only through the subresource `finalize`.
    fn prepare_update(&self, new: &mut Namespace, old: &Namespace) {
        new.spec.clone_from(&old.spec);
    }

    fn copy_status(&self, to: &mut Namespace, from: &Namespace) {
        to.status.clone_from(&from.status);
    }
}
