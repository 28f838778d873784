//! `weir.v1.Maintenance`: what whoever runs the cluster asks of a control plane at work.

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use weir_proto::status::ApiError;
use weir_proto::weir::v1 as pb;
use weir_proto::weir::v1::maintenance_server::Maintenance;
use weir_store::backup::{self, BackupError};

use super::caller;
use crate::auth::MASTERS;
use crate::registry::Registry;
use crate::store_error;

#[derive(Debug, Clone)]
pub(crate) struct MaintenanceFace {
    pub(crate) registry: Registry,
    pub(crate) draining: CancellationToken,
}

#[tonic::async_trait]
impl Maintenance for MaintenanceFace {
    type BackupStream = BoxStream<'static, Result<pb::BackupChunk, Status>>;

    /// Everything in the store, the cluster's signing key among it: for masters alone.
    async fn backup(
        &self,
        request: Request<pb::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let user = caller(request.extensions())?;
        if !user.is_in(MASTERS) {
            let message = format!("User {:?} cannot back up the store", user.name);
            return Err(ApiError::forbidden(message).into());
        }
        tracing::info!(user = user.name, "the store is being backed up");
        let chunks = backup::stream(self.registry.store()).map(|chunk| match chunk {
            Ok(data) => Ok(pb::BackupChunk { data: data.to_vec() }),
            Err(error) => Err(Status::from(told(error))),
        });
        // A stream that is cut off lacks its end, by which the reader notices.
        Ok(Response::new(chunks.take_until(self.draining.clone().cancelled_owned()).boxed()))
    }
}

fn told(error: BackupError) -> ApiError {
    match error {
        BackupError::Store(error) => store_error::during("back up")(error),
        error @ BackupError::Overtaken { .. } => ApiError::expired(error.to_string()),
        error => ApiError::internal(error.to_string()),
    }
}
