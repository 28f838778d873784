//! `DataplaneService`: one session per node.
//!
//! The node says who it is and then acknowledges; it is sent a snapshot and then every change. What it does not
//! read in time is not kept for it: the ring moves on, and it gets a snapshot instead.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weir_proto::core::v1::Service;
use weir_proto::meta::v1::MicroTime;
use weir_proto::net::v1alpha1::DataplaneNodeStatus;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::dataplane_report::Report;
use weir_proto::weir::v1::dataplane_service_server::{DataplaneService, DataplaneServiceServer};
use weir_proto::weir::v1::{DataplaneBatch, DataplaneReport};

use super::hub::Hub;
use super::status;
use crate::auth::{MASTERS, User};
use crate::cache::KindCache;
use crate::registry::Registry;

/// Batches handed to the connection ahead of what it has sent.
const AHEAD: usize = 4;

/// The service's face; cheap to clone.
#[derive(Clone, Debug)]
pub struct Dataplane {
    hub: Arc<Hub>,
    registry: Registry,
    draining: CancellationToken,
}

impl Dataplane {
    /// Sessions end when `draining` is cancelled; nodes then turn to another server.
    pub fn new(hub: Arc<Hub>, registry: Registry, draining: CancellationToken) -> Self {
        Self { hub, registry, draining }
    }

    pub fn into_server(self) -> DataplaneServiceServer<Self> {
        DataplaneServiceServer::new(self)
    }
}

type Batches = mpsc::Sender<Result<DataplaneBatch, Status>>;

#[tonic::async_trait]
impl DataplaneService for Dataplane {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<DataplaneBatch, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<DataplaneReport>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let user = request.extensions().get::<User>().cloned();
        let user = user.ok_or_else(|| Status::from(ApiError::unauthorized("the caller is not known")))?;
        let (batches, stream) = mpsc::channel(AHEAD);
        let services = self.registry.cache_of::<Service>()?;
        services.check_present()?;
        let (hub, registry) = (self.hub.clone(), self.registry.clone());
        let session = Session { hub, registry, services: services.clone(), user };
        let draining = self.draining.clone();
        // Answered before the node has said anything: it may wait for the answer before it speaks.
        tokio::spawn(async move {
            let ended = tokio::select! {
                () = session.run(request.into_inner(), batches.clone()) => return,
                () = draining.cancelled() => Status::unavailable("the server is shutting down"),
                away = services.left() => Status::from(away),
            };
            // An error only means that the node has gone.
            let _ = batches.send(Err(ended)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

struct Session {
    hub: Arc<Hub>,
    registry: Registry,
    services: Arc<KindCache>,
    user: User,
}

impl Session {
    async fn run(self, mut reports: Streaming<DataplaneReport>, batches: Batches) {
        let node_name = match self.greet(&mut reports).await {
            Ok(node_name) => node_name,
            Err(status) => {
                // An error only means that the caller has gone.
                let _ = batches.send(Err(status)).await;
                return;
            }
        };
        tracing::info!(node = node_name, "a dataplane has connected");
        // Whatever this node, or any other, was told by another server came from the store: to begin with less would
        // take back what others rely on.
        let from = match self.services.store_revision().await {
            Ok(revision) => revision,
            Err(error) => {
                let _ = batches.send(Err(error.into())).await;
                return;
            }
        };
        let (states, seen) = watch::channel(status::known(&self.registry, &node_name));
        tokio::spawn(status::write_all(self.registry, node_name.clone(), seen));
        let ended = tokio::select! {
            () = feed(&self.hub, from, &batches) => None,
            ended = listen(&mut reports, &states) => Some(ended),
            () = batches.closed() => None,
        };
        match ended {
            Some(Err(status)) => {
                tracing::info!(node = node_name, %status, "a dataplane's connection broke");
                let _ = batches.send(Err(status)).await;
            }
            _ => tracing::info!(node = node_name, "a dataplane has gone"),
        }
    }

    /// Who the node says it is must be who it is.
    async fn greet(&self, reports: &mut Streaming<DataplaneReport>) -> Result<String, Status> {
        let hello = match reports.message().await? {
            Some(DataplaneReport { report: Some(Report::Hello(hello)) }) => hello,
            _ => return Err(ApiError::bad_request("the first report must be a hello").into()),
        };
        if hello.node_name.is_empty() {
            return Err(ApiError::bad_request("hello: nodeName is required").into());
        }
        if self.user.node_name() == Some(&*hello.node_name) || self.user.is_in(MASTERS) {
            return Ok(hello.node_name);
        }
        Err(Status::permission_denied(format!(
            "user {:?} may not follow the dataplane of node {:?}",
            self.user.name, hello.node_name
        )))
    }
}

/// Sends what the hub has, as fast as the node reads it, until it has gone.
async fn feed(hub: &Arc<Hub>, from: i64, batches: &Batches) {
    let mut subscription = hub.subscribe(from).await;
    // Room first: while there is none, batches wait in the shared ring.
    while let Ok(room) = batches.reserve().await {
        let batch = subscription.next().await;
        room.send(Ok((*batch).clone()));
    }
}

/// Takes acknowledgements until the node has no more to say.
async fn listen(
    reports: &mut Streaming<DataplaneReport>,
    states: &watch::Sender<DataplaneNodeStatus>,
) -> Result<(), Status> {
    while let Some(report) = reports.message().await? {
        match report.report {
            Some(Report::Ack(ack)) => {
                states.send_modify(|state| *state = status::after(state, &ack, MicroTime::now()));
            }
            Some(Report::Hello(_)) => {
                return Err(ApiError::bad_request("only the first report is a hello").into());
            }
            None => return Err(ApiError::bad_request("an empty report").into()),
        }
    }
    Ok(())
}
