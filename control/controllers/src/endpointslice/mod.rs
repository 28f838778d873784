//! EndpointSlices: the pods behind each Service that has a selector.
//!
//! Services without a selector, and those that are only a name, are left to whoever writes their slices.

mod endpoint;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use weir_client::{Change, Client, DeleteOptions, ObjectKey, Recorder};
use weir_proto::core::v1::{Node, Pod, Service};
use weir_proto::discovery::v1::EndpointSlice;

use crate::caches::{Caches, NAMESPACE, SERVICE, SERVICE_NAME};
use crate::runner::{Controller, Next, Runner};
use crate::{Error, pods};

/// How long the local copy may take to show what was written.
const VISIBLE: Duration = Duration::from_secs(10);

pub(crate) struct EndpointSliceController {
    client: Client,
    caches: Caches,
    events: Recorder,
}

/// The loop: every service, whenever it, one of its slices, or a pod that it selects (or did) changes in a way that
/// endpoints show.
pub(crate) fn runner(client: &Client, caches: &Caches, workers: usize) -> Runner<impl Controller> {
    let events = Recorder::new(client, "endpoint-slice-controller", "");
    let controller = EndpointSliceController { client: client.clone(), caches: caches.clone(), events };
    let (of_pod, all) = (caches.clone(), caches.clone());
    Runner::new(controller, workers)
        .on_each(&caches.services)
        .on(&caches.nodes, move |change| if has_moved(change) { all_services(&all) } else { Vec::new() })
        .on(&caches.slices, |change| change.states().filter_map(|slice| service_of(slice)).collect())
        .on(&caches.pods, move |change| services_of(&of_pod, change))
}

fn all_services(caches: &Caches) -> Vec<ObjectKey> {
    caches.services.list().iter().map(|service| ObjectKey::of(service.as_ref())).collect()
}

/// Into another zone.
fn has_moved(change: &Change<Node>) -> bool {
    let zone = |node: &Option<Arc<Node>>| {
        node.as_ref().and_then(|node| node.meta().labels.get(endpoint::ZONE).cloned())
    };
    zone(&change.old) != zone(&change.new)
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.meta().labels.get(SERVICE_NAME)?;
    Some(ObjectKey::new(&slice.meta().namespace, name))
}

fn services_of(caches: &Caches, change: &Change<Pod>) -> Vec<ObjectKey> {
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && shown(old) == shown(new)
    {
        return Vec::new();
    }
    let Some(namespace) = change.states().next().map(|pod| &pod.meta().namespace) else { return Vec::new() };
    let services = caches.services.by_index(NAMESPACE, namespace);
    let concerned = services.iter().filter(|service| change.states().any(|pod| selects(service, pod)));
    concerned.map(|service| ObjectKey::of(service.as_ref())).collect()
}

/// All of a pod that an endpoint or its choice depends on, but for the spec, which does not change once it has an
/// address.
fn shown(pod: &Pod) -> impl PartialEq + '_ {
    let (meta, status) = (pod.meta(), pod.status());
    let states = (pods::is_ready(pod), pods::is_terminating(pod), pods::is_terminal(pod));
    (&meta.uid, &meta.labels, &pod.spec().node_name, &status.pod_ips, &status.pod_ip, states)
}

/// Whether the service has this controller put its pods, and so this one, into slices.
pub(crate) fn serves(service: &Service, pod: &Pod) -> bool {
    is_ours(service) && selects(service, pod)
}

/// Whether a slice of the service should name the pod, ready or not.
pub(crate) fn has_endpoint(service: &Service, pod: &Pod) -> bool {
    endpoint::families(service)
        .into_iter()
        .any(|family| endpoint::endpoint(service, pod, None, family).is_some())
}

fn is_ours(service: &Service) -> bool {
    let spec = service.spec();
    let going = service.meta().deletion_timestamp.is_some();
    !(spec.selector.is_empty() || spec.r#type == "ExternalName" || going)
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = &service.spec().selector;
    let labels = &pod.meta().labels;
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpointslice"
    }

    fn keys(&self) -> Vec<ObjectKey> {
        all_services(&self.caches)
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        // Its slices are for the garbage collector.
        let Some(service) = self.caches.services.get_key(key) else { return Ok(Next::Change) };
        if !is_ours(&service) {
            return Ok(Next::Change);
        }
        let pods = self.caches.pods.by_index(NAMESPACE, &key.namespace);
        let selected: Vec<&Pod> =
            pods.iter().map(AsRef::as_ref).filter(|pod| selects(&service, pod)).collect();
        let nodes = self.caches.nodes.list();
        let nodes: HashMap<&str, &Node> =
            nodes.iter().map(|n| (n.meta().name.as_str(), n.as_ref())).collect();
        let slices = slices(&self.caches, key);
        let slices: Vec<&EndpointSlice> = slices.iter().map(AsRef::as_ref).collect();
        let observed = plan::Observed { service: &service, pods: &selected, nodes: &nodes, slices: &slices };
        let answer = self.perform(key, plan::plan(&observed)).await;
        if let Err(error) = &answer
            && !error.is_expected()
        {
            let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
            self.events.warning(service.as_ref(), "FailedToUpdateEndpointSlices", message);
        }
        answer.map(|()| Next::Change)
    }
}

/// The service's slices: only those that this controller made; users and other controllers may have their own.
pub(crate) fn slices(caches: &Caches, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
    let mut slices = caches.slices.by_index(SERVICE, &service.to_string());
    slices.retain(|slice| slice.meta().labels.get(plan::MANAGED_BY).is_some_and(|by| by == plan::MANAGER));
    slices
}

impl EndpointSliceController {
    /// New endpoints first, so that a service is never without those it keeps.
    async fn perform(&self, key: &ObjectKey, plan: plan::Plan) -> Result<(), Error> {
        let api = self.client.namespaced::<EndpointSlice>(&key.namespace);
        let mut written = None;
        for slice in &plan.create {
            written = Some(api.create(slice).await?.meta().resource_version.clone());
        }
        for slice in &plan.update {
            written = Some(api.update(slice).await?.meta().resource_version.clone());
        }
        for slice in &plan.delete {
            match api.delete(&slice.meta().name, &DeleteOptions::only(&slice.meta().uid)).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        if let Some(written) = written {
            // The next plan must see these slices, or it would make them again.
            self.caches.slices.reached(&written, VISIBLE).await?;
        }
        Ok(())
    }
}
