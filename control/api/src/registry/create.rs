//! `create`: names, defaults, checks, what is to be allocated, and one transaction.

use std::sync::Arc;

use weir_proto::core::v1::{Pod, Service};
use weir_proto::meta::v1::Time;
use weir_proto::status::ApiError;
use weir_proto::{Object, Resource};
use weir_store::Txn;

use super::fence::Fence;
use super::{Context, Registry, Target, Written, encode_for_store};
use crate::admission;
use crate::allocate::Claims;
use crate::auth::{self, Verb};
use crate::cache::CachedObject;
use crate::random;
use crate::store_error;
use crate::strategy::{self, AnyStrategy, typed_mut};
use crate::tokens;
use crate::validation::{Errors, meta};

/// How often a name is made up, or an address looked for, before giving up.
const ATTEMPTS: usize = 8;
/// A generated name is the prefix, cut to this, and five letters.
const PREFIX: usize = 58;

impl Registry {
    /// `create`; for a subresource, what creating it means.
    pub async fn create(
        &self,
        context: &Context,
        target: &Target,
        object: Box<dyn Object>,
    ) -> Result<Written, ApiError> {
        if tokens::is_review(target.kind) {
            if object.kind() != target.kind {
                let message = format!("expected a {}, found a {}", target.kind.kind, object.kind().kind);
                return Err(ApiError::bad_request(message));
            }
            return self.answer_review(context, object).await;
        }
        let mut target = target.clone();
        if target.namespace.is_empty() && target.kind.namespaced {
            target.namespace.clone_from(&object.meta().namespace);
        }
        match target.subresource.as_str() {
            "" => self.create_object(context, target, object).await,
            _ => self.create_subresource(context, &target, object).await,
        }
    }

    async fn create_object(
        &self,
        context: &Context,
        mut target: Target,
        mut object: Box<dyn Object>,
    ) -> Result<Written, ApiError> {
        object.meta().name.clone_into(&mut target.name);
        self.authorize(context, Verb::Create, &target).await?;
        let entry = self.entry(target.kind)?;
        let strategy = entry.strategy.as_ref();
        self.check_new(context, &target, object.as_ref()).await?;

        let warnings = warnings(strategy, object.as_ref());
        let generated = object.meta().name.is_empty() && !object.meta().generate_name.is_empty();
        object.meta_mut().namespace.clone_from(&target.namespace);
        let uid = random::uuid().map_err(|error| ApiError::internal(error.to_string()))?;
        strategy::stamp_new(object.meta_mut(), uid, Time::now());

        let mut fence = self.fence(context).await?;
        for _ in 0..ATTEMPTS {
            let mut new = object.clone();
            if generated {
                generate_name(new.as_mut())?;
            }
            new.meta().name.clone_into(&mut target.name);
            complete(strategy, new.as_mut());
            admission::admit_new(self, new.as_mut()).await?;
            validate_new(strategy, new.as_ref())?;
            let claims = match new.downcast_mut::<Service>() {
                Some(service) => self.inner.allocator.plan(service, None).await?,
                None => Claims::default(),
            };
            if context.dry_run {
                self.check_absent(&target).await?;
                return Ok(Written { object: Arc::new(CachedObject::new(new, 0)), warnings });
            }
            if let Some(object) = self.insert(&target, new, &claims, &mut fence, generated).await? {
                return Ok(Written { object, warnings });
            }
        }
        if generated {
            let mut error = ApiError::already_exists(target.kind, &target.name);
            error.0.message += ", the server was not able to generate a unique name for the object";
            return Err(error);
        }
        let message = format!("no free address was found for {} {:?}", target.kind.plural, target.name);
        Err(ApiError::unavailable(message))
    }

    /// `None`: the name or address that was picked is taken; pick another.
    async fn insert(
        &self,
        target: &Target,
        mut object: Box<dyn Object>,
        claims: &Claims,
        fence: &mut Fence<'_>,
        generated: bool,
    ) -> Result<Option<Arc<CachedObject>>, ApiError> {
        let value = encode_for_store(object.as_mut());
        let txn = self.put(Txn::new().absent(target.key()), target, value).await?;
        let txn = fence.guard(claims.add_to(txn));
        let outcome = self.inner.store.txn(txn).await.map_err(store_error::during("write"))?;
        if outcome.committed {
            return Ok(Some(Arc::new(CachedObject::new(object, outcome.revision))));
        }
        let taken = outcome.current.first().is_some_and(Option::is_some);
        if taken && !generated {
            return Err(ApiError::already_exists(target.kind, &target.name));
        }
        fence.review(&outcome)?;
        Ok(None)
    }

    async fn check_new(
        &self,
        context: &Context,
        target: &Target,
        object: &dyn Object,
    ) -> Result<(), ApiError> {
        let meta = object.meta();
        if !meta.resource_version.is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if target.kind.namespaced {
            if target.namespace.is_empty() {
                return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
            }
            if !meta.namespace.is_empty() && meta.namespace != target.namespace {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
        if meta.name.is_empty() && meta.generate_name.is_empty() {
            return Err(ApiError::bad_request("name or generateName is required"));
        }
        if target.namespace.contains('/') || meta.name.contains('/') {
            return Err(ApiError::bad_request("names may not contain '/'"));
        }
        if let Some(node) = context.user.node_name()
            && !auth::may_create_as(node, target.kind.plural, &meta.name)
        {
            let reason = format!("node {node:?} may only create an object of its own name");
            return Err(auth::forbidden(target.kind, &meta.name, &reason));
        }
        if let Some(pod) = object.downcast_ref::<Pod>() {
            auth::mirror::check_new(self, &context.user, pod).await?;
        }
        self.check_namespace(target).await
    }

    async fn check_absent(&self, target: &Target) -> Result<(), ApiError> {
        match self.read(target).await {
            Ok(_) => Err(ApiError::already_exists(target.kind, &target.name)),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What a controller made repeats what its owner's author was warned about.
pub(super) fn warnings(strategy: &dyn AnyStrategy, object: &dyn Object) -> Vec<String> {
    if object.meta().owner_references.is_empty() { strategy.warnings(object) } else { Vec::new() }
}

fn generate_name(object: &mut dyn Object) -> Result<(), ApiError> {
    let suffix = random::suffix().map_err(|error| ApiError::internal(error.to_string()))?;
    let meta = object.meta_mut();
    let end =
        meta.generate_name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= PREFIX);
    let end = end.last().unwrap_or(0);
    meta.name = format!("{}{suffix}", &meta.generate_name[..end]);
    Ok(())
}

/// Defaults, what only the server writes, and the first generation.
fn complete(strategy: &dyn AnyStrategy, object: &mut dyn Object) {
    strategy.fill_defaults(object);
    strategy.prepare_create(object);
    if strategy.generation_moves(object, object).is_some() {
        object.meta_mut().generation = 1;
    }
}

fn validate_new(strategy: &dyn AnyStrategy, object: &dyn Object) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    strategy.validate_create(object, &mut errors);
    finish(strategy, object, errors)?;
    validate(strategy, object)
}

pub(super) fn validate(strategy: &dyn AnyStrategy, object: &dyn Object) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    meta::validate(object.meta(), strategy.kind().namespaced, strategy.name_check(), &mut errors);
    strategy.validate(object, &mut errors);
    finish(strategy, object, errors)
}

pub(super) fn finish(
    strategy: &dyn AnyStrategy,
    object: &dyn Object,
    errors: Errors,
) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let meta = object.meta();
    let name = if meta.name.is_empty() { &meta.generate_name } else { &meta.name };
    Err(ApiError::invalid(strategy.kind(), name, errors.into_causes()))
}

/// The object as its type; the body of a subresource may be anything the client likes.
pub(super) fn expect_body<R: Resource>(mut object: Box<dyn Object>) -> Result<R, ApiError> {
    if object.kind() != R::KIND {
        let message = format!("expected a {}, found a {}", R::KIND.kind, object.kind().kind);
        return Err(ApiError::bad_request(message));
    }
    Ok(std::mem::take(typed_mut(object.as_mut())))
}
