//! Which pod, and which of its containers.

use anyhow::{Context, Result, bail};
use weir_client::ListOptions;
use weir_proto::Resource;
use weir_proto::core::v1::Pod;

use crate::session::Session;
use crate::target;
use crate::verbs::logs::{DEFAULT_CONTAINER, selector_of};

/// The pod named, or one of the pods of a Deployment, ReplicaSet or Service: a ready one if there is any.
pub(crate) async fn pod_of(session: &Session, word: &str) -> Result<Pod> {
    let api = session.client.namespaced::<Pod>(&session.namespace);
    let (kind, name) = match word.contains('/') {
        true => target::parse_named(&[word.to_owned()])?.pop().context("which pod?")?,
        false => (Pod::KIND, word.to_owned()),
    };
    if kind == Pod::KIND {
        return Ok(api.get(&name).await?);
    }
    let object = session.api(kind, "").get(&name).await?.to_json();
    let mut pods = api.list(&ListOptions::labels(selector_of(word, &object)?)).await?.items;
    pods.retain(is_running);
    pods.sort_by_key(|pod| (!is_ready(pod), pod.meta().name.clone()));
    match pods.into_iter().next() {
        Some(pod) => Ok(pod),
        None => bail!("{word} has no running pods"),
    }
}

fn is_running(pod: &Pod) -> bool {
    pod.meta().deletion_timestamp.is_none()
        && pod.status.as_ref().is_some_and(|status| status.phase == "Running")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
}

/// The container named, or the pod's default, or its first; says so where there was a choice.
pub(crate) fn container(session: &Session, pod: &Pod, wanted: Option<&str>, quiet: bool) -> Result<String> {
    let name = &pod.meta().name;
    if let Some(phase @ ("Succeeded" | "Failed")) = pod.status.as_ref().map(|status| status.phase.as_str()) {
        bail!("cannot exec into a container in a completed pod; current phase is {phase}");
    }
    let main: Vec<&str> = pod.spec().containers.iter().map(|container| container.name.as_str()).collect();
    if let Some(wanted) = wanted {
        let init = pod.spec().init_containers.iter().map(|container| container.name.as_str());
        let ephemeral = pod.spec().ephemeral_containers.iter().map(|container| container.name.as_str());
        if main.iter().copied().chain(init).chain(ephemeral).any(|known| known == wanted) {
            return Ok(wanted.to_owned());
        }
        bail!("container {wanted} is not valid for pod {name} out of: {}", main.join(", "));
    }
    let annotated = pod.meta().annotations.get(DEFAULT_CONTAINER).map(String::as_str);
    if let Some(container) = annotated.filter(|container| main.contains(container)) {
        return Ok(container.to_owned());
    }
    let first = main.first().with_context(|| format!("pod {name} has no containers"))?;
    if main.len() > 1 && !quiet {
        session.note(format_args!("Defaulted container {first:?} out of: {}", main.join(", ")));
    }
    Ok((*first).to_owned())
}
