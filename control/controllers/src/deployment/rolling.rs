//! The arithmetic of a rolling update: grow the new set as far as the surge allows, shrink the old ones as far as
//! enough pods stay available.
//!
//! **Invariants**, for whatever the sets report: growing never brings the pods (those that sets have, or will have)
//! above `replicas + surge`; shrinking never brings the available pods that stay below `replicas - unavailable`,
//! unless they were below before, and then it takes only pods that are not available.

use super::limits::Limits;
use super::sets::{Sets, available, note, resize, wanted};

pub(super) fn step(sets: &mut Sets, limits: Limits) {
    // What shrinks makes room to grow where its pods were never made. It ends: the new set only grows towards its
    // size, the old ones only shrink.
    loop {
        let before = sets.sizes();
        grow_new(sets, limits);
        shrink_old(sets, limits);
        if sets.sizes() == before {
            return;
        }
    }
}

fn grow_new(sets: &mut Sets, limits: Limits) {
    let room = limits.most() - sets.total_present();
    let Some(new) = &mut sets.new else { return };
    let now = wanted(new);
    if now > limits.replicas {
        resize(new, limits.replicas, limits);
    } else if now < limits.replicas && room > 0 {
        resize(new, now + room.min(limits.replicas - now), limits);
    } else {
        note(new, limits);
    }
}

/// First pods that are not available go, from the oldest set on: they hold the rollout up and serve nobody.
fn shrink_old(sets: &mut Sets, limits: Limits) {
    let new_unavailable = sets.new.as_ref().map_or(0, |new| wanted(new) - available(new));
    let mut budget = sets.total_wanted() - limits.least_available() - new_unavailable;
    for set in &mut sets.old {
        let unavailable = wanted(set) - available(set);
        budget -= shrink(set, unavailable.min(budget), limits);
    }
    let mut spare = (sets.total_available() - limits.least_available()).min(budget);
    for set in &mut sets.old {
        spare -= shrink(set, wanted(set).min(spare), limits);
    }
}

/// How many it took.
fn shrink(set: &mut weir_proto::apps::v1::ReplicaSet, by: i32, limits: Limits) -> i32 {
    if by <= 0 {
        return 0;
    }
    let now = wanted(set);
    resize(set, now - by, limits);
    by
}
