//! Many objects: lists, as objects or as a table, and the deletion of collections.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use weir_proto::meta::v1::Time;
use weir_proto::status::ApiError;
use weir_proto::{Kind, table};

use super::negotiate::Form;
use super::query::Query;
use super::{Call, answer, negotiate, objects};
use crate::cache::CachedObject;
use crate::registry::{ListPage, ListQuery, Version};

pub(super) fn list_query(call: &Call<'_>) -> Result<ListQuery, ApiError> {
    let query = &call.query;
    Ok(ListQuery {
        namespace: call.resource.namespace.clone(),
        label_selector: query.label_selector.clone(),
        field_selector: query.field_selector.clone(),
        limit: query.limit,
        continue_token: query.continue_token.clone(),
        version: version(query)?,
    })
}

/// Kubernetes' rules: without a match, a revision means "not older", and "exactly" for the first of several pages.
fn version(query: &Query) -> Result<Version, ApiError> {
    let refuse =
        |detail: &str| Err(ApiError::bad_request(format!("resourceVersionMatch: Forbidden: {detail}")));
    let wanted = query.version_match.as_str();
    if !wanted.is_empty() && query.resource_version.is_empty() {
        return refuse("resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if !wanted.is_empty() && !query.continue_token.is_empty() {
        return refuse("resourceVersionMatch is forbidden when continue is provided");
    }
    let revision = match query.resource_version.as_str() {
        "" => return Ok(Version::Newest),
        "0" => 0,
        text => text.parse().ok().filter(|revision: &i64| *revision > 0).ok_or_else(|| {
            ApiError::bad_request(format!("resourceVersion: Invalid value: {text:?}: not a revision"))
        })?,
    };
    match (wanted, revision) {
        ("Exact", 0) => refuse("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""),
        ("" | "NotOlderThan", 0) => Ok(Version::Any),
        ("Exact", revision) => Ok(Version::Exactly(revision)),
        ("", revision) if query.limit > 0 => Ok(Version::Exactly(revision)),
        ("" | "NotOlderThan", revision) => Ok(Version::NotOlderThan(revision)),
        (other, _) => Err(ApiError::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
        ))),
    }
}

pub(super) async fn list(call: &Call<'_>, headers: &HeaderMap) -> Result<Response, ApiError> {
    let form = negotiate::form(headers)?;
    let page = call.rest.registry.list(&call.context, call.resource.kind, &list_query(call)?).await?;
    match form {
        Form::Json => Ok(answer::text(StatusCode::OK, list_text(call.resource.kind, &page))),
        Form::Table => {
            let mut table = table(call.resource.kind, &page.items, true);
            table["metadata"] = list_meta(&page);
            Ok(answer::value(StatusCode::OK, &table))
        }
    }
}

fn list_meta(page: &ListPage) -> Value {
    let mut meta = json!({"resourceVersion": page.revision.to_string()});
    if !page.continue_token.is_empty() {
        meta["continue"] = json!(page.continue_token);
    }
    if let Some(remaining) = page.remaining {
        meta["remainingItemCount"] = json!(remaining);
    }
    meta
}

/// Put together from the objects' own texts, which the cache keeps.
fn list_text(kind: &'static Kind, page: &ListPage) -> String {
    let items: Vec<Arc<str>> = page.items.iter().map(|item| item.json()).collect();
    let mut text = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        kind.kind,
        kind.api_version(),
        list_meta(page)
    );
    text.reserve(items.iter().map(|item| item.len() + 1).sum::<usize>() + 2);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(item);
    }
    text.push_str("]}");
    text
}

/// A `Table` of objects.
pub(super) fn table(kind: &'static Kind, items: &[Arc<CachedObject>], titled: bool) -> Value {
    let now = Time::now();
    let rows: Vec<_> = items.iter().map(|item| row(item, now)).collect();
    let mut table = json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": [],
        "rows": rows,
    });
    if titled {
        let narrow = table::header(kind, false);
        let columns = table::header(kind, true).into_iter().map(|title| {
            json!({
                "name": title,
                "type": "string",
                "format": if title == "NAME" { "name" } else { "" },
                "description": "",
                "priority": i32::from(!narrow.contains(&title)),
            })
        });
        table["columnDefinitions"] = columns.collect();
    }
    table
}

fn row(item: &CachedObject, now: Time) -> Value {
    let meta = serde_json::to_value(item.object.meta()).unwrap_or_default();
    json!({
        "cells": table::cells(item.object.as_ref(), now, true),
        "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta},
    })
}

pub(super) fn table_of_one(item: &Arc<CachedObject>) -> Response {
    let mut table = table(item.object.kind(), std::slice::from_ref(item), true);
    table["metadata"] = json!({"resourceVersion": item.revision.to_string()});
    answer::value(StatusCode::OK, &table)
}

pub(super) async fn delete_collection(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let (context, options) = objects::delete_options(call, request).await?;
    let kind = call.resource.kind;
    let deleted = call.rest.registry.delete_collection(&context, kind, &list_query(call)?, &options).await?;
    let revision = deleted.iter().map(|deleted| deleted.object.revision).max().unwrap_or(0);
    let items = deleted.into_iter().map(|deleted| deleted.object).collect();
    let page = ListPage { revision, items, continue_token: String::new(), remaining: None };
    Ok(answer::text(StatusCode::OK, list_text(kind, &page)))
}
