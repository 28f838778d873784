//! Which objects a list or watch is about.

use weir_proto::{fields, labels};

use super::CachedObject;

/// Namespace and selectors; the default matches everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty: all.
    pub namespace: String,
    pub labels: Option<labels::Selector>,
    pub fields: Option<fields::Selector>,
}

impl Filter {
    /// Everything in one namespace.
    pub fn namespace(namespace: impl Into<String>) -> Self {
        Filter { namespace: namespace.into(), ..Filter::default() }
    }

    pub fn matches(&self, cached: &CachedObject) -> bool {
        let meta = cached.object.meta();
        (self.namespace.is_empty() || meta.namespace == self.namespace)
            && self.labels.as_ref().is_none_or(|selector| selector.matches(&meta.labels))
            && self.fields.as_ref().is_none_or(|selector| selector.matches(cached.object.as_ref()))
    }

    /// Whether it selects by more than the namespace.
    pub fn is_selective(&self) -> bool {
        self.labels.is_some() || self.fields.is_some()
    }
}
