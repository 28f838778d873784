//! The subresource `ephemeralcontainers` of pods: containers that are added to one that is there already. Nothing else of
//! what is written to it counts.

use weir_proto::Object;
use weir_proto::core::v1::Pod;
use weir_proto::status::ApiError;

use super::create::{self, expect_body};
use super::update::Change;
use crate::auth;
use crate::strategy::{AnyStrategy, pod};
use crate::validation::{Errors, meta};

/// The pod that is to stand in place of `old`, checked.
pub(super) fn replace(
    strategy: &dyn AnyStrategy,
    old: &dyn Object,
    new: Box<dyn Object>,
) -> Result<Change, ApiError> {
    let wanted: Pod = expect_body(new)?;
    let Some(before) = old.downcast_ref::<Pod>() else { return Err(ApiError::no_such_path()) };
    if before.meta().deletion_timestamp.is_some() {
        let reason = "ephemeral containers cannot be added to a pod that is being deleted";
        return Err(auth::forbidden(strategy.kind(), &before.meta().name, reason));
    }
    let mut after = before.clone();
    after.spec_mut().ephemeral_containers = wanted.spec.unwrap_or_default().ephemeral_containers;
    strategy.fill_defaults(&mut after);
    if after.spec != before.spec {
        after.meta_mut().generation += 1;
    }
    let mut errors = Errors::default();
    meta::validate_update(after.meta(), before.meta(), &mut errors);
    pod::validate_ephemeral_update(&after, before, &mut errors);
    create::finish(strategy, &after, errors)?;
    create::validate(strategy, &after)?;
    Ok(Change::Put(Box::new(after)))
}
