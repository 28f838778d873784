//! Creating subresources: a pod's `binding` puts it on a node, its `eviction` deletes it; a service account's `token` is
//! made elsewhere ([`crate::tokens`]).

use weir_proto::Object;
use weir_proto::core::v1::{Binding, Pod, PodCondition};
use weir_proto::meta::v1::Time;
use weir_proto::policy::v1::Eviction;
use weir_proto::status::ApiError;

use super::create::expect_body;
use super::update::Change;
use super::{Context, DeleteOptions, Propagation, Registry, Target, Written};
use crate::auth::Verb;

impl Registry {
    pub(super) async fn create_subresource(
        &self,
        context: &Context,
        target: &Target,
        body: Box<dyn Object>,
    ) -> Result<Written, ApiError> {
        self.authorize(context, Verb::Create, target).await?;
        self.check_target(target)?;
        match target.subresource.as_str() {
            "binding" => self.bind(context, target, expect_body(body)?).await,
            "token" => self.issue_token(context, target, expect_body(body)?).await,
            "eviction" => self.evict(context, target, &expect_body(body)?).await,
            other => Err(ApiError::method_not_allowed(format!("create of {}/{other}", target.kind.plural))),
        }
    }

    async fn bind(&self, context: &Context, target: &Target, binding: Binding) -> Result<Written, ApiError> {
        let node = binding.target.map(|target| target.name).unwrap_or_default();
        if node.is_empty() {
            return Err(ApiError::bad_request("target.name: Required value: the node to bind to"));
        }
        let meta = binding.metadata.unwrap_or_default();
        let (uid, annotations) = (meta.uid, meta.annotations);
        let object = self
            .change(context, target, |current| {
                let refuse = |why: String| Err(ApiError::conflict(target.kind, &target.name, &why));
                let Some(pod) = current.typed::<Pod>() else {
                    return Err(ApiError::bad_request("only pods are bound"));
                };
                // The scheduler decided about one pod, not about whoever bears its name by now.
                if !uid.is_empty() && pod.meta().uid != uid {
                    return refuse(format!("pod {} is another by now: its uid is not {uid}", target.name));
                }
                if pod.meta().deletion_timestamp.is_some() {
                    return refuse(format!(
                        "pod {} is being deleted, cannot be assigned to a host",
                        target.name
                    ));
                }
                let mut pod = pod.clone();
                let spec = pod.spec.get_or_insert_default();
                if !spec.node_name.is_empty() {
                    return refuse(format!(
                        "pod {} is already assigned to node {:?}",
                        target.name, spec.node_name
                    ));
                }
                if !spec.scheduling_gates.is_empty() {
                    return refuse(format!("pod {} has non-empty .spec.schedulingGates", target.name));
                }
                spec.node_name.clone_from(&node);
                pod.metadata.get_or_insert_default().annotations.extend(annotations.clone());
                set_scheduled(&mut pod);
                // What was held for the pod it has got now.
                pod.status_mut().nominated_node_name.clear();
                Ok(Change::Put(Box::new(pod)))
            })
            .await?;
        Ok(Written { object, warnings: Vec::new() })
    }

    async fn evict(
        &self,
        context: &Context,
        target: &Target,
        eviction: &Eviction,
    ) -> Result<Written, ApiError> {
        let given = eviction.delete_options.as_ref();
        let preconditions = given.and_then(|given| given.preconditions.as_ref());
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let options = DeleteOptions {
            grace_period_seconds: given.and_then(|given| given.grace_period_seconds),
            propagation: Propagation::Default,
            uid: text(preconditions.and_then(|given| given.uid.as_ref())),
            resource_version: text(preconditions.and_then(|given| given.resource_version.as_ref())),
        };
        let pod = Target { subresource: String::new(), ..target.clone() };
        let deleted = self.delete(context, &pod, &options).await?;
        Ok(Written { object: deleted.object, warnings: Vec::new() })
    }
}

fn set_scheduled(pod: &mut Pod) {
    let conditions = &mut pod.status.get_or_insert_default().conditions;
    conditions.retain(|condition| condition.r#type != "PodScheduled");
    conditions.push(PodCondition {
        r#type: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time::now()),
        ..PodCondition::default()
    });
}
