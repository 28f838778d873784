//! `update`, and the loop that every change of a stored object goes through.

use std::sync::Arc;

use weir_proto::Object;
use weir_proto::core::v1::{Namespace, Service};
use weir_proto::meta::v1::ObjectMeta;
use weir_proto::status::ApiError;
use weir_store::Txn;

use super::{Context, Registry, Target, Written, create, decode, encode_for_store, ephemeral, scale};
use crate::admission;
use crate::allocate::Claims;
use crate::auth::Verb;
use crate::cache::CachedObject;
use crate::store_error;
use crate::strategy::AnyStrategy;
use crate::validation::{Errors, meta};

/// How often a change is tried again when others change the same object at the same time.
const ATTEMPTS: usize = 16;

/// What a change of an object comes to.
pub(super) enum Change {
    Put(Box<dyn Object>),
    Delete,
    Nothing,
}

impl Registry {
    /// `update` of the object, its status, its scale, a pod's ephemeral containers or a namespace's finalizers.
    pub async fn update(
        &self,
        context: &Context,
        target: &Target,
        object: Box<dyn Object>,
    ) -> Result<Written, ApiError> {
        let mut target = target.clone();
        if target.namespace.is_empty() && target.kind.namespaced {
            target.namespace.clone_from(&object.meta().namespace);
        }
        if target.name.is_empty() {
            target.name.clone_from(&object.meta().name);
        }
        self.authorize(context, Verb::Update, &target).await?;
        self.check_target(&target)?;
        check_names(&target, object.meta())?;
        let strategy = self.entry(target.kind)?.strategy.as_ref();
        if target.subresource == "scale" {
            return self.update_scale(context, &target, object).await;
        }
        let meta = object.meta();
        if meta.resource_version.is_empty()
            && target.subresource.is_empty()
            && !strategy.allows_unconditional_update()
        {
            let mut errors = Errors::default();
            let path = crate::validation::Path::root("metadata.resourceVersion");
            errors.invalid(&path, 0, "must be specified for an update");
            create::finish(strategy, object.as_ref(), errors)?;
        }
        let warnings = if target.subresource.is_empty() {
            create::warnings(strategy, object.as_ref())
        } else {
            Vec::new()
        };
        let object = self
            .change(context, &target, |current| {
                check_preconditions(&target, &object.meta().uid, &object.meta().resource_version, current)?;
                replace(strategy, &target.subresource, current.object.as_ref(), object.clone())
            })
            .await?;
        Ok(Written { object, warnings })
    }

    async fn update_scale(
        &self,
        context: &Context,
        target: &Target,
        object: Box<dyn Object>,
    ) -> Result<Written, ApiError> {
        let wanted: weir_proto::autoscaling::v1::Scale = create::expect_body(object)?;
        let strategy = self.entry(target.kind)?.strategy.as_ref();
        let meta = wanted.meta();
        let object = self
            .change(context, target, |current| {
                check_preconditions(target, &meta.uid, &meta.resource_version, current)?;
                let scaled = scale::apply(current.object.as_ref(), &wanted)?;
                replace(strategy, "", current.object.as_ref(), scaled)
            })
            .await?;
        Ok(Written { object: Arc::new(scale::of(&object)?), warnings: Vec::new() })
    }

    /// Reads, lets `plan` decide, and writes if nobody else did meanwhile; else again from the start.
    pub(super) async fn change(
        &self,
        context: &Context,
        target: &Target,
        mut plan: impl FnMut(&CachedObject) -> Result<Change, ApiError>,
    ) -> Result<Arc<CachedObject>, ApiError> {
        let mut fence = self.fence(context).await?;
        for _ in 0..ATTEMPTS {
            let stored = self.stored(target).await?;
            let current = decode(target.kind, &stored)?;
            let mut change = plan(&current)?;
            if let Change::Put(object) = &change {
                admission::admit(self, object.as_ref())?;
            }
            let claims = self.claims(&mut change, &current).await?;
            let key = target.key();
            let txn = Txn::new().unchanged(&key, current.revision);
            let (txn, after) = match change {
                Change::Nothing => return Ok(Arc::new(current)),
                Change::Delete => (txn.delete(key), None),
                Change::Put(mut object) => {
                    let value = encode_for_store(object.as_mut());
                    if value == stored.value {
                        return Ok(Arc::new(current));
                    }
                    (self.put(txn, target, value).await?, Some(object))
                }
            };
            if context.dry_run {
                let object = after.unwrap_or_else(|| current.object.clone());
                return Ok(Arc::new(CachedObject::new(object, current.revision)));
            }
            let txn = fence.guard(claims.add_to(txn));
            let outcome = self.inner.store.txn(txn).await.map_err(store_error::during("write"))?;
            if outcome.committed {
                let object = after.unwrap_or(current.object);
                return Ok(Arc::new(CachedObject::new(object, outcome.revision)));
            }
            fence.review(&outcome)?;
        }
        Err(ApiError::modified(target.kind, &target.name))
    }

    /// Addresses and ports that a Service takes and gives back with this change.
    async fn claims(&self, change: &mut Change, current: &CachedObject) -> Result<Claims, ApiError> {
        let Some(old) = current.typed::<Service>() else { return Ok(Claims::default()) };
        match change {
            Change::Nothing => Ok(Claims::default()),
            Change::Delete => Ok(self.inner.allocator.release(old)),
            Change::Put(new) => match new.downcast_mut::<Service>() {
                Some(new) => self.inner.allocator.plan(new, Some(old)).await,
                None => Ok(Claims::default()),
            },
        }
    }
}

/// What is sent must be about what is addressed.
fn check_names(target: &Target, meta: &ObjectMeta) -> Result<(), ApiError> {
    if !meta.name.is_empty() && meta.name != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            meta.name, target.name
        )));
    }
    if !meta.namespace.is_empty() && meta.namespace != target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Empty ones hold for any object.
pub(super) fn check_preconditions(
    target: &Target,
    uid: &str,
    resource_version: &str,
    current: &CachedObject,
) -> Result<(), ApiError> {
    let actual = &current.object.meta().uid;
    if !uid.is_empty() && uid != actual {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}");
        return Err(ApiError::conflict(target.kind, &target.name, &why));
    }
    if !resource_version.is_empty() && resource_version != current.revision.to_string() {
        return Err(ApiError::modified(target.kind, &target.name));
    }
    Ok(())
}

/// The object that is to stand in place of `old`, checked; or its deletion, where nothing holds it any more.
pub(super) fn replace(
    strategy: &dyn AnyStrategy,
    subresource: &str,
    old: &dyn Object,
    mut new: Box<dyn Object>,
) -> Result<Change, ApiError> {
    new.meta_mut().name.clone_from(&old.meta().name);
    new.meta_mut().namespace.clone_from(&old.meta().namespace);
    let new = match subresource {
        "" => replace_all(strategy, old, new),
        "status" => replace_status(strategy, old, new.as_ref()),
        "finalize" => replace_finalizers(old, new)?,
        "ephemeralcontainers" => return ephemeral::replace(strategy, old, new),
        other => {
            return Err(ApiError::method_not_allowed(format!(
                "update of {}/{other}",
                strategy.kind().plural
            )));
        }
    };
    let mut errors = Errors::default();
    meta::validate_update(new.meta(), old.meta(), &mut errors);
    strategy.validate_update(new.as_ref(), old, &mut errors);
    create::finish(strategy, new.as_ref(), errors)?;
    create::validate(strategy, new.as_ref())?;
    Ok(if nothing_holds(new.as_ref()) { Change::Delete } else { Change::Put(new) })
}

fn replace_all(strategy: &dyn AnyStrategy, old: &dyn Object, mut new: Box<dyn Object>) -> Box<dyn Object> {
    meta::keep_system_fields(new.meta_mut(), old.meta());
    strategy.copy_status(new.as_mut(), old);
    // First the defaults: what is left out and what is written out must compare as equal.
    strategy.fill_defaults(new.as_mut());
    strategy.prepare_update(new.as_mut(), old);
    if strategy.generation_moves(new.as_ref(), old) == Some(true) {
        new.meta_mut().generation += 1;
    }
    new
}

fn replace_status(strategy: &dyn AnyStrategy, old: &dyn Object, from: &dyn Object) -> Box<dyn Object> {
    let mut new = old.clone_box();
    strategy.copy_status(new.as_mut(), from);
    strategy.fill_defaults(new.as_mut());
    new
}

fn replace_finalizers(old: &dyn Object, new: Box<dyn Object>) -> Result<Box<dyn Object>, ApiError> {
    let wanted: Namespace = create::expect_body(new)?;
    let mut after = old.clone_box();
    if let Some(namespace) = after.downcast_mut::<Namespace>() {
        namespace.spec = wanted.spec;
    }
    Ok(after)
}

/// Whether an object that is being deleted has lost the last that kept it.
fn nothing_holds(object: &dyn Object) -> bool {
    let meta = object.meta();
    let emptied = object
        .downcast_ref::<Namespace>()
        .and_then(|namespace| namespace.spec.as_ref())
        .is_none_or(|spec| spec.finalizers.is_empty());
    meta.deletion_timestamp.is_some()
        && meta.finalizers.is_empty()
        && meta.deletion_grace_period_seconds.unwrap_or(0) == 0
        && emptied
}
