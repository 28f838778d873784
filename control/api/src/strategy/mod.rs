//! What is particular to a kind: defaults, validation, what a client may change. A file a kind; the verbs in
//! [`crate::registry`] are the same for all.
//!
//! A kind without a strategy of its own is stored with its metadata checked and nothing else.

mod config;
mod dataplane_node;
mod deployment;
mod endpoint_slice;
mod event;
mod lease;
mod namespace;
mod node;
pub(crate) mod pod;
pub(crate) mod pod_spec;
pub(crate) mod priority_class;
mod replica_set;
pub(crate) mod service;
mod service_account;
mod unsupported;

use weir_proto::meta::v1::ObjectMeta;
use weir_proto::{Kind, Object, Resource};

use crate::validation::{Errors, meta::NameCheck, names};

/// The rules of one kind, on its own type.
pub(crate) trait Strategy: Send + Sync + 'static {
    type Object: Resource;

    /// The syntax of the kind's names.
    fn name_check(&self) -> NameCheck {
        names::dns_subdomain
    }

    /// Fills in what was left out, as Kubernetes does. Runs on every write.
    fn fill_defaults(&self, _object: &mut Self::Object) {}

    /// Removes and adds what a client does not decide when creating: above all the status.
    fn prepare_create(&self, _object: &mut Self::Object) {}

    /// Takes over what is not said anew in an update.
    fn prepare_update(&self, _new: &mut Self::Object, _old: &Self::Object) {}

    /// Copies the status; how a write of the object leaves its status alone and the other way round.
    fn copy_status(&self, _to: &mut Self::Object, _from: &Self::Object) {}

    /// Whether `metadata.generation` counts a change from `old` to `new`; `None` if the kind has no generation.
    fn generation_moves(&self, _new: &Self::Object, _old: &Self::Object) -> Option<bool> {
        None
    }

    /// Checks the whole object; runs on create and update.
    fn validate(&self, _object: &Self::Object, _errors: &mut Errors) {}

    /// Checks what may not be there from the start.
    fn validate_create(&self, _object: &Self::Object, _errors: &mut Errors) {}

    /// Checks what may change.
    fn validate_update(&self, _new: &Self::Object, _old: &Self::Object, _errors: &mut Errors) {}

    /// What is accepted and not acted on, or about to go.
    fn warnings(&self, _object: &Self::Object) -> Vec<String> {
        Vec::new()
    }

    /// Seconds that a deletion leaves the object; `None` if the kind has no grace period.
    fn grace_period(&self, _object: &Self::Object, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Whether an update may leave out the resource version.
    fn allows_unconditional_update(&self) -> bool {
        true
    }
}

/// A [`Strategy`] for callers that know the kind only at run time. Objects must be of the strategy's kind.
pub(crate) trait AnyStrategy: Send + Sync {
    fn kind(&self) -> &'static Kind;
    fn name_check(&self) -> NameCheck;
    fn fill_defaults(&self, object: &mut dyn Object);
    fn prepare_create(&self, object: &mut dyn Object);
    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object);
    fn copy_status(&self, to: &mut dyn Object, from: &dyn Object);
    fn generation_moves(&self, new: &dyn Object, old: &dyn Object) -> Option<bool>;
    fn validate(&self, object: &dyn Object, errors: &mut Errors);
    fn validate_create(&self, object: &dyn Object, errors: &mut Errors);
    fn validate_update(&self, new: &dyn Object, old: &dyn Object, errors: &mut Errors);
    fn warnings(&self, object: &dyn Object) -> Vec<String>;
    fn grace_period(&self, object: &dyn Object, requested: Option<i64>) -> Option<i64>;
    fn allows_unconditional_update(&self) -> bool;
}

/// The registry decodes an object by its kind before it asks the kind's strategy, so the types always agree.
pub(crate) fn typed<R: Resource>(object: &dyn Object) -> &R {
    object.as_any().downcast_ref().expect("an object has the type of its kind")
}

pub(crate) fn typed_mut<R: Resource>(object: &mut dyn Object) -> &mut R {
    object.as_any_mut().downcast_mut().expect("an object has the type of its kind")
}

impl<S: Strategy> AnyStrategy for S {
    fn kind(&self) -> &'static Kind {
        S::Object::KIND
    }

    fn name_check(&self) -> NameCheck {
        Strategy::name_check(self)
    }

    fn fill_defaults(&self, object: &mut dyn Object) {
        Strategy::fill_defaults(self, typed_mut(object));
    }

    fn prepare_create(&self, object: &mut dyn Object) {
        Strategy::prepare_create(self, typed_mut(object));
    }

    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object) {
        Strategy::prepare_update(self, typed_mut(new), typed(old));
    }

    fn copy_status(&self, to: &mut dyn Object, from: &dyn Object) {
        Strategy::copy_status(self, typed_mut(to), typed(from));
    }

    fn generation_moves(&self, new: &dyn Object, old: &dyn Object) -> Option<bool> {
        Strategy::generation_moves(self, typed(new), typed(old))
    }

    fn validate(&self, object: &dyn Object, errors: &mut Errors) {
        Strategy::validate(self, typed(object), errors);
    }

    fn validate_create(&self, object: &dyn Object, errors: &mut Errors) {
        Strategy::validate_create(self, typed(object), errors);
    }

    fn validate_update(&self, new: &dyn Object, old: &dyn Object, errors: &mut Errors) {
        Strategy::validate_update(self, typed(new), typed(old), errors);
    }

    fn warnings(&self, object: &dyn Object) -> Vec<String> {
        Strategy::warnings(self, typed(object))
    }

    fn grace_period(&self, object: &dyn Object, requested: Option<i64>) -> Option<i64> {
        Strategy::grace_period(self, typed(object), requested)
    }

    fn allows_unconditional_update(&self) -> bool {
        Strategy::allows_unconditional_update(self)
    }
}

/// Metadata only.
struct Plain(&'static Kind);

impl AnyStrategy for Plain {
    fn kind(&self) -> &'static Kind {
        self.0
    }

    fn name_check(&self) -> NameCheck {
        names::dns_subdomain
    }

    fn fill_defaults(&self, _: &mut dyn Object) {}

    fn prepare_create(&self, _: &mut dyn Object) {}

    fn prepare_update(&self, _: &mut dyn Object, _: &dyn Object) {}

    fn copy_status(&self, _: &mut dyn Object, _: &dyn Object) {}

    fn generation_moves(&self, _: &dyn Object, _: &dyn Object) -> Option<bool> {
        None
    }

    fn validate(&self, _: &dyn Object, _: &mut Errors) {}

    fn validate_create(&self, _: &dyn Object, _: &mut Errors) {}

    fn validate_update(&self, _: &dyn Object, _: &dyn Object, _: &mut Errors) {}

    fn warnings(&self, _: &dyn Object) -> Vec<String> {
        Vec::new()
    }

    fn grace_period(&self, _: &dyn Object, _: Option<i64>) -> Option<i64> {
        None
    }

    fn allows_unconditional_update(&self) -> bool {
        true
    }
}

/// The strategy of a kind.
pub(crate) fn for_kind(kind: &'static Kind) -> Box<dyn AnyStrategy> {
    let all: [Box<dyn AnyStrategy>; 14] = [
        Box::new(config::ConfigMaps),
        Box::new(config::Secrets),
        Box::new(dataplane_node::DataplaneNodes),
        Box::new(deployment::Deployments),
        Box::new(endpoint_slice::EndpointSlices),
        Box::new(event::Events),
        Box::new(lease::Leases),
        Box::new(namespace::Namespaces),
        Box::new(node::Nodes),
        Box::new(pod::Pods),
        Box::new(priority_class::PriorityClasses),
        Box::new(replica_set::ReplicaSets),
        Box::new(service::Services),
        Box::new(service_account::ServiceAccounts),
    ];
    all.into_iter().find(|strategy| strategy.kind() == kind).unwrap_or_else(|| Box::new(Plain(kind)))
}

/// What the server alone writes at creation.
pub(crate) fn stamp_new(meta: &mut ObjectMeta, uid: String, now: weir_proto::meta::v1::Time) {
    meta.uid = uid;
    meta.creation_timestamp = Some(now);
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.resource_version.clear();
    meta.generation = 0;
    crate::validation::meta::drop_unkept_fields(meta);
}
