//! Whether the node is under pressure, and which threshold something has to be done about. Pure: `now` is an input.
//!
//! - A pressure shows as soon as a threshold is crossed and for `transition` after it was crossed last, so that it does not
//!   flicker.
//! - Something is done once the threshold's grace period is over, and until what it keeps, and `min_reclaim` more, is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::signals::{Observations, Pressure, Signal, Threshold};

#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// By index of the threshold: since when it has been crossed.
    since: BTreeMap<usize, Timestamp>,
    /// Those for which something was done and whose reclaim is not reached.
    acting: BTreeSet<usize>,
    /// When a pressure was last there.
    pressed: BTreeMap<Pressure, Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) pressures: BTreeSet<Pressure>,
    /// The threshold to keep, if there is one to be acted for now.
    pub(crate) act: Option<Threshold>,
}

impl Memory {
    pub(crate) fn decide(
        &mut self,
        thresholds: &[Threshold],
        seen: &Observations,
        transition: Duration,
        now: Timestamp,
    ) -> Decision {
        let mut crossed = BTreeSet::new();
        for (index, threshold) in thresholds.iter().enumerate() {
            if is_crossed(threshold, seen, self.acting.contains(&index)) {
                crossed.insert(index);
            }
        }
        self.since.retain(|index, _| crossed.contains(index));
        for index in &crossed {
            self.since.entry(*index).or_insert(now);
            self.pressed.insert(thresholds[*index].limit.signal.pressure(), now);
        }
        let lasting = |at: &Timestamp| elapsed(*at, now) < transition || *at == now;
        self.pressed.retain(|_, at| lasting(at));
        let due = |index: &usize| elapsed(self.since[index], now) >= thresholds[*index].grace;
        self.acting = crossed.into_iter().filter(due).collect();
        // Memory first: it runs out fastest.
        let first = self
            .acting
            .iter()
            .min_by_key(|index| (thresholds[**index].limit.signal != Signal::Memory, **index));
        Decision {
            pressures: self.pressed.keys().copied().collect(),
            act: first.map(|index| thresholds[*index]),
        }
    }
}

/// Whether the threshold is crossed; one that is being acted for also until its reclaim is reached.
pub(crate) fn is_crossed(threshold: &Threshold, seen: &Observations, acting: bool) -> bool {
    let Some(observation) = seen.get(&threshold.limit.signal) else { return false };
    let reclaim =
        threshold.min_reclaim.filter(|_| acting).map_or(0, |amount| amount.of(observation.capacity));
    observation.available < threshold.limit.below.of(observation.capacity).saturating_add(reclaim)
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::signals::{Observation, thresholds};
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn memory(available: u64) -> Observations {
        [(Signal::Memory, Observation { available, capacity: 1000 })].into()
    }

    fn limits(texts: &[&str]) -> Vec<super::super::signals::Limit> {
        texts.iter().map(|text| text.parse().expect("a limit")).collect()
    }

    #[test]
    fn a_hard_threshold_is_acted_for_at_once_and_the_pressure_lingers() {
        let thresholds = thresholds(&limits(&["memory.available<100"]), &[], &[], &[]).expect("thresholds");
        let mut past = Memory::default();
        let mut decide = |available, second| past.decide(&thresholds, &memory(available), MINUTE, at(second));
        assert_eq!(decide(100, 0), Decision::default());
        let pressed = decide(99, 10);
        assert!(pressed.act.is_some() && pressed.pressures.contains(&Pressure::Memory));
        let after = decide(500, 20);
        assert!(after.act.is_none() && after.pressures.contains(&Pressure::Memory));
        assert!(decide(500, 69).pressures.contains(&Pressure::Memory));
        assert_eq!(decide(500, 70), Decision::default());
    }

    #[test]
    fn a_soft_threshold_waits_for_its_time_which_begins_anew_when_it_was_kept() {
        let grace = [(Signal::Memory, MINUTE)];
        let thresholds =
            thresholds(&[], &limits(&["memory.available<200"]), &grace, &[]).expect("thresholds");
        let mut past = Memory::default();
        let mut acts = |available, second| {
            past.decide(&thresholds, &memory(available), MINUTE, at(second)).act.is_some()
        };
        assert!(!acts(150, 0) && !acts(150, 59));
        assert!(!acts(250, 60), "kept again");
        assert!(!acts(150, 70) && !acts(150, 129) && acts(150, 130));
    }

    #[test]
    fn more_than_the_threshold_must_come_back_where_that_is_asked_for() {
        let reclaim = [(Signal::Memory, "100".parse().expect("an amount"))];
        let thresholds =
            thresholds(&limits(&["memory.available<100"]), &[], &[], &reclaim).expect("thresholds");
        let mut past = Memory::default();
        let mut acts = |available, second| {
            past.decide(&thresholds, &memory(available), MINUTE, at(second)).act.is_some()
        };
        assert!(!acts(150, 0), "not crossed yet");
        assert!(acts(99, 1) && acts(199, 2) && !acts(200, 3) && !acts(150, 4));
    }

    #[test]
    fn memory_comes_first_and_what_cannot_be_read_never() {
        let hard = limits(&["nodefs.available<10%", "memory.available<10%", "pid.available<50%"]);
        let thresholds = thresholds(&hard, &[], &[], &[]).expect("thresholds");
        let mut seen = memory(1);
        seen.insert(Signal::NodeDisk, Observation { available: 1, capacity: 1000 });
        let decision = Memory::default().decide(&thresholds, &seen, MINUTE, at(0));
        assert_eq!(decision.act.map(|act| act.limit.signal), Some(Signal::Memory));
        assert_eq!(decision.pressures, [Pressure::Memory, Pressure::Disk].into());
    }

    proptest! {
        #[test]
        fn nothing_is_done_without_a_crossed_threshold(
            steps in proptest::collection::vec((0_u64..400, 0_i64..90), 1..30),
        ) {
            let grace = [(Signal::Memory, MINUTE)];
            let reclaim = [(Signal::Memory, "50".parse().expect("an amount"))];
            let hard = limits(&["memory.available<100"]);
            let thresholds =
                thresholds(&hard, &limits(&["memory.available<200"]), &grace, &reclaim).expect("thresholds");
            let (mut past, mut now) = (Memory::default(), 0);
            for (available, wait) in steps {
                now += wait;
                let decision = past.decide(&thresholds, &memory(available), MINUTE, at(now));
                if available >= 250 {
                    prop_assert!(decision.act.is_none());
                }
                if available < 100 {
                    prop_assert!(decision.act.is_some());
                }
                if decision.act.is_some() {
                    prop_assert!(decision.pressures.contains(&Pressure::Memory));
                }
            }
        }
    }
}
