//! A deployment that is resized in the middle of a rollout (or while it is paused) keeps its mixture: every set grows
//! or shrinks in proportion, so that the risk stays what it was.

use weir_proto::apps::v1::ReplicaSet;

use super::limits::Limits;
use super::sets::{Sets, note, noted_desired, noted_most, resize, wanted};

/// The deployment's size has changed since its sets were sized.
pub(super) fn is_due(sets: &Sets, limits: Limits) -> bool {
    let active = sets.all().filter(|set| wanted(set) > 0);
    active.filter_map(noted_desired).any(|desired| desired != limits.replicas)
}

pub(super) fn scale(sets: &mut Sets, limits: Limits, rolling: bool) {
    // A set that loses its last pod may leave another alone, which is then to have them all. Twice at most: after
    // that the sum is what it should be.
    for _ in 0..3 {
        let before = sets.sizes();
        scale_once(sets, limits, rolling);
        if sets.sizes() == before {
            return;
        }
    }
}

fn scale_once(sets: &mut Sets, limits: Limits, rolling: bool) {
    let active = sets.all().filter(|set| wanted(set) > 0).count();
    if active <= 1 {
        if let Some(only) = active_or_latest(sets) {
            resize(only, limits.replicas, limits);
        }
        return;
    }
    if sets.new.as_ref().is_some_and(|new| is_saturated(new, limits.replicas)) {
        for set in sets.old.iter_mut().filter(|set| wanted(set) > 0) {
            resize(set, 0, limits);
        }
        return;
    }
    if rolling {
        spread(sets, limits);
    }
}

/// The one that has pods, or else the newest.
fn active_or_latest(sets: &mut Sets) -> Option<&mut ReplicaSet> {
    if let Some(index) = sets.old.iter().position(|set| wanted(set) > 0) {
        return sets.old.get_mut(index);
    }
    sets.new.as_mut().or(sets.old.last_mut())
}

/// All its pods are wanted, there and available.
fn is_saturated(set: &ReplicaSet, replicas: i32) -> bool {
    wanted(set) == replicas
        && noted_desired(set) == Some(replicas)
        && set.status().available_replicas == replicas
}

fn spread(sets: &mut Sets, limits: Limits) {
    let allowed = if limits.replicas > 0 { limits.most() } else { 0 };
    let mut to_add = allowed - sets.total_wanted();
    let growing = to_add > 0;
    let mut active: Vec<&mut ReplicaSet> = sets.all_mut().filter(|set| wanted(set) > 0).collect();
    // Largest first; among equals the newer grows first and the older shrinks first.
    active.sort_by(|a, b| {
        let by_age = a.meta().creation_timestamp.cmp(&b.meta().creation_timestamp);
        wanted(b).cmp(&wanted(a)).then(if growing { by_age.reverse() } else { by_age })
    });
    for set in &mut active {
        let by = share(set, limits, to_add);
        resize(set, wanted(set) + by, limits);
        to_add -= by;
    }
    // What rounding has left over goes to the largest, as far as it can take it.
    for set in active {
        let by = to_add.max(-wanted(set));
        resize(set, wanted(set) + by, limits);
        to_add -= by;
        note(set, limits);
    }
}

/// The set's part of a change, by its part of the pods that the deployment could have when it was sized.
fn share(set: &ReplicaSet, limits: Limits, to_add: i32) -> i32 {
    if to_add == 0 {
        return 0;
    }
    let most = noted_most(set).filter(|most| *most > 0).unwrap_or_else(|| limits.most());
    let scaled = f64::from(wanted(set)) * f64::from(limits.most()) / f64::from(most.max(1));
    let target = if limits.replicas > 0 { scaled.round() as i32 } else { 0 };
    let by = target - wanted(set);
    if to_add > 0 { by.clamp(0, to_add) } else { by.clamp(to_add.max(-wanted(set)), 0) }
}
