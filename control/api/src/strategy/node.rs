//! Nodes.

use std::collections::BTreeSet;

use weir_proto::core::v1::Node;

use super::{Strategy, pod_spec};
use crate::validation::{Errors, Path, Shown};

pub(super) struct Nodes;

impl Strategy for Nodes {
    type Object = Node;

    fn copy_status(&self, to: &mut Node, from: &Node) {
        to.status.clone_from(&from.status);
    }

    fn validate(&self, node: &Node, errors: &mut Errors) {
        if let Some(spec) = &node.spec {
            let path = Path::root("spec");
            let mut taken = BTreeSet::new();
            for (index, taint) in spec.taints.iter().enumerate() {
                let taints = path.child("taints");
                let path = taints.index(index);
                pod_spec::validate_taint(taint, &path, errors);
                if !taken.insert((&taint.key, &taint.effect)) {
                    errors.duplicate(&path, &format!("{}:{}", taint.key, taint.effect));
                }
            }
            for (index, cidr) in spec.pod_cidrs.iter().enumerate() {
                validate_cidr(cidr, &path.child("podCIDRs").index(index), errors);
            }
            if !spec.pod_cidr.is_empty() && spec.pod_cidrs.first() != Some(&spec.pod_cidr) {
                let detail = "must be the first of podCIDRs";
                errors.invalid(&path.child("podCIDR"), &spec.pod_cidr, detail);
            }
        }
        if let Some(status) = &node.status {
            let path = Path::root("status");
            pod_spec::validate_quantities(&status.capacity, &path.child("capacity"), errors);
            pod_spec::validate_quantities(&status.allocatable, &path.child("allocatable"), errors);
            let mut taken = BTreeSet::new();
            for (index, address) in status.addresses.iter().enumerate() {
                if !taken.insert((&address.r#type, &address.address)) {
                    errors.duplicate(&path.child("addresses").index(index), &address.address);
                }
            }
        }
    }

    fn validate_update(&self, new: &Node, old: &Node, errors: &mut Errors) {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
        let path = Path::root("spec");
        if !old.pod_cidrs.is_empty() && new.pod_cidrs != old.pod_cidrs {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&path.child("podCIDRs"), detail);
        }
        if !old.provider_id.is_empty() && new.provider_id != old.provider_id {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden(&path.child("providerID"), detail);
        }
    }

    fn fill_defaults(&self, node: &mut Node) {
        let spec = node.spec.get_or_insert_default();
        if spec.pod_cidrs.is_empty() && !spec.pod_cidr.is_empty() {
            spec.pod_cidrs = vec![spec.pod_cidr.clone()];
        }
        if spec.pod_cidr.is_empty()
            && let Some(first) = spec.pod_cidrs.first()
        {
            spec.pod_cidr.clone_from(first);
        }
        // What is not kept for the system may be given to pods.
        if let Some(status) = &mut node.status {
            for (name, capacity) in &status.capacity {
                if !status.allocatable.contains_key(name) {
                    status.allocatable.insert(name.clone(), *capacity);
                }
            }
        }
    }
}

fn validate_cidr(cidr: &str, path: &Path<'_>, errors: &mut Errors) {
    let valid = cidr.split_once('/').is_some_and(|(address, bits)| {
        let longest = match address.parse() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= longest)
    });
    if !valid {
        errors.invalid(
            path,
            Shown::Text(cidr),
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        );
    }
}
