//! Which container a request means.

use std::sync::Arc;

use weir_proto::Resource;
use weir_proto::core::v1::Pod;
use weir_proto::status::ApiError;
use weir_runtime::{ContainerState, ContainerStatus};

use super::Sources;
use crate::pods::mirror::local_uid;

pub(super) fn pod(sources: &Sources, namespace: &str, name: &str) -> Result<Arc<Pod>, ApiError> {
    sources.pods.get(namespace, name).ok_or_else(|| ApiError::not_found(Pod::KIND, name))
}

/// The latest run of a container, over or not.
pub(super) fn latest_run(sources: &Sources, pod: &Pod, container: &str) -> Result<ContainerStatus, ApiError> {
    let name = container_name(pod, container)?;
    let runs = sources.runtime.list_pod(local_uid(pod)).into_iter();
    let latest = runs.filter(|run| run.key.name == name).max_by_key(|run| run.key.restart);
    latest.ok_or_else(|| {
        let message = format!("container \"{name}\" in pod \"{}\" is waiting to start", pod.meta().name);
        ApiError::bad_request(message)
    })
}

/// The latest run of a container, which must be under way.
pub(super) fn running(sources: &Sources, pod: &Pod, container: &str) -> Result<ContainerStatus, ApiError> {
    let run = latest_run(sources, pod, container)?;
    let state = match &run.state {
        ContainerState::Running { .. } => return Ok(run),
        ContainerState::Created { .. } => "has not started yet".to_owned(),
        ContainerState::Exited(exit) => format!("has ended with exit code {}", exit.code),
    };
    let message =
        format!("container \"{}\" in pod \"{}\" is not running: it {state}", run.key.name, pod.meta().name);
    Err(ApiError::bad_request(message))
}

fn container_name(pod: &Pod, wanted: &str) -> Result<String, ApiError> {
    let spec = pod.spec();
    let others =
        || spec.containers.iter().chain(&spec.init_containers).map(|container| container.name.clone());
    let all = || others().chain(spec.ephemeral_containers.iter().map(|container| container.name.clone()));
    let names = || all().collect::<Vec<_>>().join(" ");
    let pod = &pod.meta().name;
    if wanted.is_empty() {
        return match &spec.containers[..] {
            [only] => Ok(only.name.clone()),
            _ => Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {pod}, choose one of: [{}]",
                names()
            ))),
        };
    }
    let found = all().find(|name| name == wanted);
    found.ok_or_else(|| {
        ApiError::bad_request(format!(
            "container {wanted} is not valid for pod {pod}, which has: [{}]",
            names()
        ))
    })
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::Container;

    use super::*;

    fn pod(containers: &[&str]) -> Pod {
        let mut pod = Pod::default();
        pod.meta_mut().name = "web".to_owned();
        let container = |name: &&str| Container { name: (*name).to_owned(), ..Container::default() };
        pod.spec_mut().containers = containers.iter().map(container).collect();
        pod
    }

    #[test]
    fn a_container_is_named_or_alone() {
        assert_eq!(container_name(&pod(&["a"]), ""), Ok("a".to_owned()));
        assert_eq!(container_name(&pod(&["a", "b"]), "b"), Ok("b".to_owned()));
        let message =
            |pod: &Pod, wanted: &str| container_name(pod, wanted).expect_err("refused").message().to_owned();
        assert_eq!(
            message(&pod(&["a", "b"]), ""),
            "a container name must be specified for pod web, choose one of: [a b]"
        );
        assert_eq!(message(&pod(&["a"]), "x"), "container x is not valid for pod web, which has: [a]");
    }
}
