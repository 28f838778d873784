//! Kinds with little to show: namespaces, configuration, accounts, leases, priority classes.

use super::{age, or};
use crate::coordination::v1::Lease;
use crate::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use crate::meta::v1::Time;
use crate::scheduling::v1::PriorityClass;

pub(super) fn namespace_cells(namespace: &Namespace, now: Time) -> Vec<String> {
    vec![namespace.status().phase.clone(), age(namespace.meta(), now)]
}

pub(super) fn config_map_cells(map: &ConfigMap, now: Time) -> Vec<String> {
    vec![(map.data.len() + map.binary_data.len()).to_string(), age(map.meta(), now)]
}

pub(super) fn secret_cells(secret: &Secret, now: Time) -> Vec<String> {
    vec![or(&secret.r#type, "Opaque"), secret.data.len().to_string(), age(secret.meta(), now)]
}

pub(super) fn service_account_cells(account: &ServiceAccount, now: Time) -> Vec<String> {
    vec![account.secrets.len().to_string(), age(account.meta(), now)]
}

pub(super) fn lease_cells(lease: &Lease, now: Time) -> Vec<String> {
    vec![lease.spec().holder_identity().to_owned(), age(lease.meta(), now)]
}

pub(super) fn priority_class_cells(class: &PriorityClass, now: Time) -> Vec<String> {
    vec![
        class.value.to_string(),
        class.global_default.to_string(),
        age(class.meta(), now),
        class.preemption_policy().to_owned(),
    ]
}
