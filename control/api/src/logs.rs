//! Logs of containers, from the agent that runs them.

use futures::StreamExt;
use futures::stream::BoxStream;
use weir_proto::Resource;
use weir_proto::core::v1::{Pod, PodSpec};
use weir_proto::status::ApiError;
use weir_proto::weir::v1::streams_client::StreamsClient;
use weir_proto::weir::v1::{LogsChunk, LogsRequest};

use crate::agents::Agents;
use crate::auth;
use crate::registry::{Context, Registry, Target};

/// Checks the request, asks the pod's agent, and hands its answer on.
pub(crate) async fn open(
    registry: &Registry,
    agents: &Agents,
    context: &Context,
    mut request: LogsRequest,
) -> Result<BoxStream<'static, Result<LogsChunk, ApiError>>, ApiError> {
    let mut target = Target::new(Pod::KIND, &request.namespace, &request.pod);
    "log".clone_into(&mut target.subresource);
    let access = auth::Access {
        verb: auth::Verb::Get,
        kind: Pod::KIND,
        namespace: &request.namespace,
        name: &request.pod,
        subresource: "log",
        filter: None,
    };
    auth::authorize(&context.user, &access, registry).await?;
    target.subresource.clear();
    let found = registry.get(&Context::system(), &target).await?;
    let spec = found.typed::<Pod>().and_then(|pod| pod.spec.as_ref());
    let spec = spec.ok_or_else(|| ApiError::internal(format!("pod {:?} has no spec", request.pod)))?;
    request.container = container(spec, &request)?;
    if spec.node_name.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", request.pod)));
    }
    let channel = agents.connect(&spec.node_name).await?;
    let answer = StreamsClient::new(channel).logs(request).await.map_err(ApiError::from)?;
    Ok(answer.into_inner().map(|chunk| chunk.map_err(ApiError::from)).boxed())
}

/// The container that is meant.
fn container(spec: &PodSpec, request: &LogsRequest) -> Result<String, ApiError> {
    let names = |containers: &[weir_proto::core::v1::Container]| -> Vec<String> {
        containers.iter().map(|container| container.name.clone()).collect()
    };
    let (init, main) = (names(&spec.init_containers), names(&spec.containers));
    if !request.container.is_empty() {
        let ephemeral = spec.ephemeral_containers.iter().any(|container| container.name == request.container);
        if ephemeral || init.contains(&request.container) || main.contains(&request.container) {
            return Ok(request.container.clone());
        }
        let message = format!("container {} is not valid for pod {}", request.container, request.pod);
        return Err(ApiError::bad_request(message));
    }
    match &main[..] {
        [only] => Ok(only.clone()),
        _ => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            request.pod,
            main.join(" ")
        ))),
    }
}
