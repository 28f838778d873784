//! Pods get the number and the preemption policy of their priority class, as by Kubernetes' plugin `Priority`.
//!
//! They are copied when the pod is made: a class that goes or comes later changes no pod that is there.

use weir_proto::Resource;
use weir_proto::core::v1::Pod;
use weir_proto::scheduling::v1::PriorityClass;
use weir_proto::status::ApiError;

use crate::auth::forbidden;
use crate::cache::Filter;
use crate::registry::{Context, Registry, Target};

const PREEMPT: &str = "PreemptLowerPriority";

pub(super) async fn admit_pod(registry: &Registry, pod: &mut Pod) -> Result<(), ApiError> {
    let name = pod.meta().name.clone();
    let refuse = |why: String| Err(forbidden(Pod::KIND, &name, &why));
    let spec = pod.spec.get_or_insert_default();
    let (value, policy) = match spec.priority_class_name.as_str() {
        "" => match default_class(registry) {
            Some(class) => {
                spec.priority_class_name = class.meta().name.clone();
                (class.value, class.preemption_policy)
            }
            None => (0, Some(PREEMPT.to_owned())),
        },
        wanted => match class(registry, wanted).await? {
            Some(class) => (class.value, class.preemption_policy),
            None => return refuse(format!("no PriorityClass with name {wanted} was found")),
        },
    };
    if let Some(given) = spec.priority.filter(|given| *given != value) {
        return refuse(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        ));
    }
    spec.priority = Some(value);
    let Some(policy) = policy else { return Ok(()) };
    if let Some(given) = spec.preemption_policy.as_ref().filter(|given| **given != policy) {
        return refuse(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        ));
    }
    spec.preemption_policy = Some(policy);
    Ok(())
}

pub(super) fn admit_class(registry: &Registry, class: &PriorityClass) -> Result<(), ApiError> {
    let name = &class.meta().name;
    match default_class(registry) {
        Some(default) if class.global_default && default.meta().name != *name => {
            let default = &default.meta().name;
            let why =
                format!("PriorityClass {default} is already marked as default. Only one default can exist");
            Err(forbidden(PriorityClass::KIND, name, &why))
        }
        _ => Ok(()),
    }
}

/// Two may have been made default at the same moment: then it is the lower one.
fn default_class(registry: &Registry) -> Option<PriorityClass> {
    let classes = registry.peek_all::<PriorityClass>(&Filter::default());
    let classes = classes.iter().filter_map(|class| class.typed::<PriorityClass>());
    classes.filter(|class| class.global_default).min_by_key(|class| class.value).cloned()
}

async fn class(registry: &Registry, name: &str) -> Result<Option<PriorityClass>, ApiError> {
    if let Some(known) = registry.peek::<PriorityClass>("", name) {
        return Ok(known.typed::<PriorityClass>().cloned());
    }
    // It may have been created a moment ago.
    let target = Target::new(PriorityClass::KIND, "", name);
    match registry.get(&Context::system(), &target).await {
        Ok(class) => Ok(class.typed::<PriorityClass>().cloned()),
        Err(error) if error.is_not_found() || error.code() == 400 => Ok(None),
        Err(error) => Err(error),
    }
}
