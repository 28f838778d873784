//! From a frontend to one of its backends.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use weir_ebpf_common::{DropReason, Frontend, Service, Slot};

use crate::maps::{SERVICES, SLOTS};

/// Readings of a table before giving up. The first fails only in the instant in which the agent exchanges a table and
/// its memory is used again.
const READINGS: u32 = 2;

/// Whether there is a service at `frontend` that clients outside the node may use.
#[inline(always)]
pub(crate) fn is_external(frontend: &Frontend) -> bool {
    lookup(frontend).is_some_and(|service| service.is_external())
}

#[inline(always)]
fn lookup(frontend: &Frontend) -> Option<Service> {
    for _ in 0..READINGS {
        // SAFETY: the kernel keeps the element's memory while the program runs; it may be used again meanwhile, so the
        // value is copied at once, and looked at afterwards.
        let service = unsafe { *SERVICES.get_ptr(frontend)? };
        if service.is_of(frontend) {
            return Some(service);
        }
    }
    None
}

/// Any backend of the service at `frontend`.
#[inline(always)]
pub(crate) fn pick(frontend: &Frontend) -> Result<Option<(Service, Slot)>, DropReason> {
    for _ in 0..READINGS {
        let Some(service) = lookup(frontend) else { return Ok(None) };
        if service.length() == 0 {
            return Err(DropReason::NoBackend);
        }
        // SAFETY: a plain call.
        let random = unsafe { bpf_get_prandom_u32() };
        let index = service.offset() + random % service.length();
        if let Some(slot) = SLOTS.get(index)
            && slot.service() == service.id()
        {
            return Ok(Some((service, *slot)));
        }
    }
    Err(DropReason::TableChanged)
}
