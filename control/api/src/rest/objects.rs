//! One object: get, create, update, patch, delete.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use weir_proto::meta::v1::DeleteOptions as Body;
use weir_proto::status::ApiError;

use super::negotiate::Form;
use super::{Call, answer, body, lists, negotiate, query};
use crate::registry::{Context, DeleteOptions, PatchType, Propagation, Target};

fn target(call: &Call<'_>) -> Target {
    Target {
        kind: call.resource.kind,
        namespace: call.resource.namespace.clone(),
        name: call.resource.name.clone(),
        subresource: call.resource.subresource.clone(),
    }
}

pub(super) async fn get(call: &Call<'_>, headers: &HeaderMap) -> Result<Response, ApiError> {
    let form = negotiate::form(headers)?;
    let object = call.rest.registry.get(&call.context, &target(call)).await?;
    match form {
        Form::Table if call.resource.subresource.is_empty() => Ok(lists::table_of_one(&object)),
        _ => Ok(answer::object(StatusCode::OK, &object, &[])),
    }
}

pub(super) async fn create(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let mut warnings = Vec::new();
    let object = body::object(call, &parts.headers, body, &mut warnings).await?;
    let written = call.rest.registry.create(&call.context, &target(call), object).await?;
    warnings.extend(written.warnings);
    Ok(answer::object(StatusCode::CREATED, &written.object, &warnings))
}

pub(super) async fn update(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let mut warnings = Vec::new();
    let object = body::object(call, &parts.headers, body, &mut warnings).await?;
    let written = call.rest.registry.update(&call.context, &target(call), object).await?;
    warnings.extend(written.warnings);
    Ok(answer::object(StatusCode::OK, &written.object, &warnings))
}

pub(super) async fn patch(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let patch_type = match body::media_type(&parts.headers) {
        "application/json-patch+json" => PatchType::Json,
        "application/merge-patch+json" => PatchType::Merge,
        "application/strategic-merge-patch+json" => PatchType::Strategic,
        "application/apply-patch+yaml" => {
            return Err(ApiError::unsupported_media_type(
                "server-side apply is not supported yet; apply from the client's side",
            ));
        }
        other => {
            return Err(ApiError::unsupported_media_type(format!(
                "the body is {other:?}; supported are application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json"
            )));
        }
    };
    let patch = body::bytes(body).await?;
    let written = call.rest.registry.patch(&call.context, &target(call), patch_type, &patch).await?;
    Ok(answer::object(StatusCode::OK, &written.object, &written.warnings))
}

pub(super) async fn delete(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let (context, options) = delete_options(call, request).await?;
    let deleted = call.rest.registry.delete(&context, &target(call), &options).await?;
    if deleted.gone {
        return Ok(answer::value(StatusCode::OK, &answer::gone(&deleted.object)));
    }
    Ok(answer::object(StatusCode::OK, &deleted.object, &[]))
}

/// From the query and from the body, which goes before it.
pub(super) async fn delete_options(
    call: &Call<'_>,
    request: Request,
) -> Result<(Context, DeleteOptions), ApiError> {
    let (parts, body) = request.into_parts();
    let mut context = call.context.clone();
    let mut options = DeleteOptions {
        grace_period_seconds: call.query.grace_period_seconds,
        propagation: Propagation::parse(&call.query.propagation_policy)?,
        ..DeleteOptions::default()
    };
    let Some(mut value) = body::optional(&parts.headers, body).await? else {
        return Ok((context, options));
    };
    // Clients name the group and version of what they delete.
    if let Some(header) = value.as_object_mut() {
        header.remove("apiVersion");
        header.remove("kind");
    }
    let body: Body = serde_json::from_value(value)
        .map_err(|error| ApiError::bad_request(format!("read the delete options: {error}")))?;
    context.dry_run |= query::dry_run(&body.dry_run)?;
    options.grace_period_seconds = body.grace_period_seconds.or(options.grace_period_seconds);
    if body.orphan_dependents.is_some() && body.propagation_policy.is_some() {
        return Err(ApiError::bad_request(
            "propagationPolicy: Invalid value: orphanDependents and deletionPropagation cannot be both set",
        ));
    }
    if let Some(policy) = &body.propagation_policy {
        options.propagation = Propagation::parse(policy)?;
    } else if let Some(orphan) = body.orphan_dependents {
        options.propagation = if orphan { Propagation::Orphan } else { Propagation::Background };
    }
    if let Some(preconditions) = body.preconditions {
        options.uid = preconditions.uid.unwrap_or_default();
        options.resource_version = preconditions.resource_version.unwrap_or_default();
    }
    Ok((context, options))
}
