//! `weir.v1.Resources`: the eight verbs.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};
use weir_proto::status::ApiError;
use weir_proto::weir::v1 as pb;
use weir_proto::weir::v1::resources_server::Resources;

use super::{caller, respond, wire};
use crate::cache::Watcher;
use crate::metrics;
use crate::registry::{
    CLAIM_METADATA, Claim, Context, DeleteOptions, ListQuery, PatchType, Propagation, Registry, Version,
    WatchQuery, Written,
};

/// Ends when the server drains.
#[derive(Debug, Clone)]
pub(crate) struct ResourcesFace {
    pub(crate) registry: Registry,
    pub(crate) draining: CancellationToken,
}

fn context<T>(request: &Request<T>, dry_run: bool) -> Result<Context, ApiError> {
    if dry_run {
        metrics::note_dry_run();
    }
    let claim = match request.metadata().get_bin(CLAIM_METADATA).map(MetadataValue::to_bytes) {
        None => None,
        Some(Ok(bytes)) => Some(Arc::new(Claim::parse(&bytes)?)),
        Some(Err(error)) => return Err(ApiError::bad_request(format!("{CLAIM_METADATA}: {error}"))),
    };
    Ok(Context { dry_run, claim, ..Context::new(caller(request.extensions())?) })
}

fn written(written: &Written, mut warnings: Vec<String>) -> Result<Response<pb::Object>, Status> {
    warnings.extend(written.warnings.iter().cloned());
    respond(wire::to_wire(&written.object), &warnings)
}

#[tonic::async_trait]
impl Resources for ResourcesFace {
    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::Object>, Status> {
        let context = context(&request, false)?;
        let target = wire::target(request.into_inner().r#ref)?;
        let object = self.registry.get(&context, &target).await?;
        metrics::note_size(object.protobuf().len());
        Ok(Response::new(wire::to_wire(&object)))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        let context = context(&request, false)?;
        let request = request.into_inner();
        let kind = wire::kind(request.kind.as_ref())?;
        let limit = usize::try_from(request.limit)
            .map_err(|_| ApiError::bad_request("limit: must be greater than or equal to 0"))?;
        let query = ListQuery {
            namespace: request.namespace,
            label_selector: request.label_selector,
            field_selector: request.field_selector,
            limit,
            continue_token: request.continue_token,
            version: Version::Newest,
        };
        let page = self.registry.list(&context, kind, &query).await?;
        metrics::note_size(page.items.iter().map(|object| object.protobuf().len()).sum());
        Ok(Response::new(pb::ListResponse {
            resource_version: page.revision.to_string(),
            items: page.items.iter().map(|object| wire::to_wire(object)).collect(),
            continue_token: page.continue_token,
            remaining: page.remaining.unwrap_or(0),
        }))
    }

    type WatchStream = BoxStream<'static, Result<pb::WatchEvent, Status>>;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let context = context(&request, false)?;
        let request = request.into_inner();
        let kind = wire::kind(request.kind.as_ref())?;
        let query = WatchQuery {
            namespace: request.namespace,
            label_selector: request.label_selector,
            field_selector: request.field_selector,
            resource_version: request.resource_version,
            bookmarks: request.bookmarks,
        };
        let watcher = self.registry.watch(&context, kind, &query).await?;
        Ok(Response::new(events(watcher, self.draining.clone())))
    }

    async fn create(&self, request: Request<pb::CreateRequest>) -> Result<Response<pb::Object>, Status> {
        let context = context(&request, request.get_ref().dry_run)?;
        let request = request.into_inner();
        let target = wire::target(request.r#ref)?;
        let mut warnings = Vec::new();
        let object = wire::object(&context, &target, request.object, &mut warnings)?;
        let done = self.registry.create(&context, &target, object).await?;
        written(&done, warnings)
    }

    async fn update(&self, request: Request<pb::UpdateRequest>) -> Result<Response<pb::Object>, Status> {
        let context = context(&request, request.get_ref().dry_run)?;
        let request = request.into_inner();
        let target = wire::target(request.r#ref)?;
        let mut warnings = Vec::new();
        let object = wire::object(&context, &target, request.object, &mut warnings)?;
        let done = self.registry.update(&context, &target, object).await?;
        written(&done, warnings)
    }

    async fn patch(&self, request: Request<pb::PatchRequest>) -> Result<Response<pb::Object>, Status> {
        use pb::patch_request::Type;
        let context = context(&request, request.get_ref().dry_run)?;
        let request = request.into_inner();
        let patch_type = match request.r#type() {
            Type::Json => PatchType::Json,
            Type::Merge => PatchType::Merge,
            Type::StrategicMerge => PatchType::Strategic,
            Type::Unspecified => return Err(ApiError::bad_request("type: Required value").into()),
        };
        let target = wire::target(request.r#ref)?;
        let done = self.registry.patch(&context, &target, patch_type, &request.patch).await?;
        written(&done, Vec::new())
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let context = context(&request, request.get_ref().dry_run)?;
        let request = request.into_inner();
        let target = wire::target(request.r#ref)?;
        let options = DeleteOptions {
            grace_period_seconds: request.grace_period_seconds,
            propagation: Propagation::parse(&request.propagation_policy)?,
            uid: request.uid,
            resource_version: request.resource_version,
        };
        let deleted = self.registry.delete(&context, &target, &options).await?;
        Ok(Response::new(pb::DeleteResponse { object: Some(wire::to_wire(&deleted.object)) }))
    }

    async fn delete_collection(
        &self,
        request: Request<pb::DeleteCollectionRequest>,
    ) -> Result<Response<pb::DeleteCollectionResponse>, Status> {
        let context = context(&request, false)?;
        let request = request.into_inner();
        let kind = wire::kind(request.kind.as_ref())?;
        let query = ListQuery {
            namespace: request.namespace,
            label_selector: request.label_selector,
            field_selector: request.field_selector,
            ..ListQuery::default()
        };
        let options = DeleteOptions {
            grace_period_seconds: request.grace_period_seconds,
            propagation: Propagation::parse(&request.propagation_policy)?,
            ..DeleteOptions::default()
        };
        let deleted = self.registry.delete_collection(&context, kind, &query, &options).await?;
        let deleted = i64::try_from(deleted.len()).unwrap_or(i64::MAX);
        Ok(Response::new(pb::DeleteCollectionResponse { deleted }))
    }
}

/// The watcher's events until it is cut, the client leaves, or the server drains.
fn events(
    watcher: Watcher,
    draining: CancellationToken,
) -> BoxStream<'static, Result<pb::WatchEvent, Status>> {
    Box::pin(stream::unfold((watcher, draining), |(mut watcher, draining)| async move {
        let next = tokio::select! {
            biased;
            () = draining.cancelled() => None,
            next = watcher.next() => next,
        };
        let event = next?.map(|event| wire::event(&event)).map_err(Status::from);
        Some((event, (watcher, draining)))
    }))
}
