//! Leases: heartbeats of nodes, and who leads.

use weir_proto::coordination::v1::Lease;

use super::Strategy;
use crate::validation::{Errors, Path};

pub(super) struct Leases;

impl Strategy for Leases {
    type Object = Lease;

    fn validate(&self, lease: &Lease, errors: &mut Errors) {
        let Some(spec) = &lease.spec else { return };
        let path = Path::root("spec");
        if let Some(seconds) = spec.lease_duration_seconds
            && seconds <= 0
        {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(transitions) = spec.lease_transitions {
            errors.not_negative(&path.child("leaseTransitions"), transitions.into());
        }
    }

    /// Two who compete for it must not overwrite each other blindly.
    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
