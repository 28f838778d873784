//! Commands in containers, connections to containers and to ports of pods: checked here, then handed through to the agent
//! that runs the pod, frame by frame. Nothing is kept: what a client does not read waits with the one who writes it.
//!
//! **Invariant:** the agent's stream lives no longer than the client's: dropping what is returned here resets it, and the
//! agent hangs up on the command.

use std::error::Error;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use tonic::{Status, Streaming};
use weir_proto::Resource;
use weir_proto::core::v1::{Pod, PodSpec};
use weir_proto::status::ApiError;
use weir_proto::weir::v1::streams_client::StreamsClient;
use weir_proto::weir::v1::{
    AttachRequest, ExecRequest, ForwardInput, ForwardOutput, ForwardRequest, SessionInput, SessionOutput,
    forward_input, session_input, session_output,
};

use crate::agents::{Agents, causes};
use crate::auth;
use crate::registry::{Context, Registry, Target};

/// Names the container that is meant where a request names none.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

pub(crate) type Outputs = BoxStream<'static, Result<SessionOutput, ApiError>>;

/// What a session is for.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Exec(ExecRequest),
    Attach(AttachRequest),
}

/// A request that may be made, of a pod that could serve it.
#[derive(Debug)]
pub(crate) struct Checked {
    request: Request,
    node: String,
}

/// Who may, which pod, which container, which node.
pub(crate) async fn check(
    registry: &Registry,
    context: &Context,
    mut request: Request,
) -> Result<Checked, ApiError> {
    let (subresource, namespace, name, container) = match &mut request {
        Request::Exec(exec) => ("exec", &exec.namespace, &exec.pod, &mut exec.container),
        Request::Attach(attach) => ("attach", &attach.namespace, &attach.pod, &mut attach.container),
    };
    let pod = authorized_pod(registry, context, subresource, namespace, name).await?;
    *container = container_of(&pod, container)?;
    let node = node_of(&pod)?;
    if let Request::Exec(ExecRequest { command, .. }) = &request
        && command.is_empty()
    {
        return Err(ApiError::bad_request("you must specify at least one command for the container"));
    }
    Ok(Checked { request, node })
}

/// Asks the agent. What it refuses is an error here; what goes wrong later ends the stream with one.
pub(crate) async fn open(
    agents: &Agents,
    checked: Checked,
    inputs: impl Stream<Item = SessionInput> + Send + 'static,
) -> Result<Outputs, ApiError> {
    let Checked { request, node } = checked;
    let mut agent = StreamsClient::new(agents.connect(&node).await?);
    let first = |frame| SessionInput { frame: Some(frame) };
    let outputs = match request {
        Request::Exec(exec) => {
            let first = first(session_input::Frame::Exec(exec));
            agent.exec(stream::once(async { first }).chain(inputs)).await
        }
        Request::Attach(attach) => {
            let first = first(session_input::Frame::Attach(attach));
            agent.attach(stream::once(async { first }).chain(inputs)).await
        }
    };
    let outputs = outputs.map_err(|status| lost(&node, status))?.into_inner();
    Ok(until_exit(outputs, node))
}

/// The frames of a session. An end without an exit is an error: the agent, or the way to it, is gone.
fn until_exit(outputs: Streaming<SessionOutput>, node: String) -> Outputs {
    stream::unfold(Some((outputs, node)), |state| async {
        let (mut outputs, node) = state?;
        match outputs.message().await {
            Ok(Some(output)) if matches!(output.frame, Some(session_output::Frame::Exit(_))) => {
                Some((Ok(output), None))
            }
            Ok(Some(output)) => Some((Ok(output), Some((outputs, node)))),
            Ok(None) => {
                let message = format!("the agent of node {node:?} ended the session without a result");
                Some((Err(ApiError::unavailable(message)), None))
            }
            Err(status) => Some((Err(lost(&node, status)), None)),
        }
    })
    .boxed()
}

/// A status with details is the agent's own word; another comes from the connection.
pub(crate) fn lost(node: &str, status: Status) -> ApiError {
    if !status.details().is_empty() {
        return status.into();
    }
    let reason = match status.source() {
        // What stands behind "transport error".
        Some(error) => causes(error),
        None => status.message().to_owned(),
    };
    ApiError::unavailable(format!("the connection to the agent of node {node:?} was lost: {reason}"))
}

/// Connections to ports of a pod.
pub(crate) async fn forward(
    registry: &Registry,
    agents: &Agents,
    context: &Context,
    request: ForwardRequest,
    inputs: impl Stream<Item = ForwardInput> + Send + 'static,
) -> Result<BoxStream<'static, Result<ForwardOutput, ApiError>>, ApiError> {
    let pod = authorized_pod(registry, context, "portforward", &request.namespace, &request.pod).await?;
    let node = node_of(&pod)?;
    let mut agent = StreamsClient::new(agents.connect(&node).await?);
    let first = ForwardInput { frame: Some(forward_input::Frame::Forward(request)) };
    let outputs = agent.port_forward(stream::once(async { first }).chain(inputs)).await;
    let outputs = outputs.map_err(|status| lost(&node, status))?.into_inner();
    Ok(outputs.map(move |output| output.map_err(|status| lost(&node, status))).boxed())
}

async fn authorized_pod(
    registry: &Registry,
    context: &Context,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<Pod, ApiError> {
    let access = auth::Access {
        verb: auth::Verb::Create,
        kind: Pod::KIND,
        namespace,
        name,
        subresource,
        filter: None,
    };
    auth::authorize(&context.user, &access, registry).await?;
    let found = registry.get(&Context::system(), &Target::new(Pod::KIND, namespace, name)).await?;
    let pod = found.typed::<Pod>().filter(|pod| pod.spec.is_some()).cloned();
    pod.ok_or_else(|| ApiError::internal(format!("pod {name:?} has no spec")))
}

fn node_of(pod: &Pod) -> Result<String, ApiError> {
    let node = &pod.spec().node_name;
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", pod.meta().name)));
    }
    if let Some(phase @ ("Succeeded" | "Failed")) = pod.status.as_ref().map(|status| status.phase.as_str()) {
        let message = format!("pod {} has ended; its phase is {phase}", pod.meta().name);
        return Err(ApiError::bad_request(message));
    }
    Ok(node.clone())
}

/// The container that is meant: the one named, the pod's default, or its only one.
fn container_of(pod: &Pod, wanted: &str) -> Result<String, ApiError> {
    let spec: &PodSpec = pod.spec();
    let main = || spec.containers.iter().map(|container| container.name.as_str());
    let init = spec.init_containers.iter().map(|container| container.name.as_str());
    let ephemeral = spec.ephemeral_containers.iter().map(|container| container.name.as_str());
    let name = &pod.meta().name;
    if !wanted.is_empty() {
        if main().chain(init).chain(ephemeral).any(|known| known == wanted) {
            return Ok(wanted.to_owned());
        }
        let all: Vec<_> = main().collect();
        return Err(ApiError::bad_request(format!(
            "container {wanted} is not valid for pod {name}, choose one of: [{}]",
            all.join(" ")
        )));
    }
    let annotated = pod.meta().annotations.get(DEFAULT_CONTAINER).map(String::as_str);
    if let Some(container) = annotated.filter(|wanted| main().any(|known| known == *wanted)) {
        return Ok(container.to_owned());
    }
    match &spec.containers[..] {
        [only] => Ok(only.name.clone()),
        _ => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            main().collect::<Vec<_>>().join(" ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::Container;

    use super::*;

    #[test]
    fn a_container_is_named_annotated_or_alone() {
        let mut pod = Pod::default();
        pod.meta_mut().name = "web".to_owned();
        let container = |name: &str| Container { name: name.to_owned(), ..Container::default() };
        pod.spec_mut().containers = vec![container("a")];
        pod.spec_mut().init_containers = vec![container("i")];
        assert_eq!(container_of(&pod, ""), Ok("a".to_owned()));
        assert_eq!(container_of(&pod, "i"), Ok("i".to_owned()));
        pod.spec_mut().containers.push(container("b"));
        let ambiguous = container_of(&pod, "").expect_err("ambiguous");
        assert_eq!(
            ambiguous.message(),
            "a container name must be specified for pod web, choose one of: [a b]"
        );
        pod.meta_mut().annotations.insert(DEFAULT_CONTAINER.to_owned(), "b".to_owned());
        assert_eq!(container_of(&pod, ""), Ok("b".to_owned()));
        let unknown = container_of(&pod, "x").expect_err("unknown");
        assert_eq!(unknown.message(), "container x is not valid for pod web, choose one of: [a b]");
    }
}
