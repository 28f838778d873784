//! Which parts of the `SLOTS` map are taken.
//!
//! Best fit, with free neighbours merged. A table's old range is freed only when no program can still be reading it;
//! that waiting is the caller's, see `services`.

use std::collections::{BTreeMap, BTreeSet};

/// A run of slots. An empty one takes no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Range {
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl Range {
    pub(crate) const EMPTY: Self = Self { offset: 0, length: 0 };

    fn end(self) -> u32 {
        self.offset + self.length
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// Offset → length, of free runs. No two touch.
    by_offset: BTreeMap<u32, u32>,
    /// The same as (length, offset).
    by_length: BTreeSet<(u32, u32)>,
}

impl Slots {
    pub(crate) fn new(capacity: u32) -> Self {
        let mut slots = Self { by_offset: BTreeMap::new(), by_length: BTreeSet::new() };
        slots.insert(Range { offset: 0, length: capacity });
        slots
    }

    /// The smallest free run that has room. `None` when there is none.
    pub(crate) fn allocate(&mut self, length: u32) -> Option<Range> {
        if length == 0 {
            return Some(Range::EMPTY);
        }
        let (found, offset) = *self.by_length.range((length, 0)..).next()?;
        self.remove(Range { offset, length: found });
        self.insert(Range { offset: offset + length, length: found - length });
        Some(Range { offset, length })
    }

    /// Takes a range that is known to be in use. False if it is not free, or not within the map.
    #[must_use]
    pub(crate) fn reserve(&mut self, range: Range) -> bool {
        if range.length == 0 {
            return true;
        }
        let Some((&offset, &length)) = self.by_offset.range(..=range.offset).next_back() else {
            return false;
        };
        let free = Range { offset, length };
        if range.offset.checked_add(range.length).is_none_or(|end| end > free.end()) {
            return false;
        }
        self.remove(free);
        self.insert(Range { offset, length: range.offset - offset });
        self.insert(Range { offset: range.end(), length: free.end() - range.end() });
        true
    }

    /// Gives back a range that was allocated or reserved.
    pub(crate) fn free(&mut self, range: Range) {
        if range.length == 0 {
            return;
        }
        let mut merged = range;
        if let Some((&offset, &length)) = self.by_offset.range(..range.offset).next_back()
            && offset + length == range.offset
        {
            self.remove(Range { offset, length });
            merged = Range { offset, length: length + merged.length };
        }
        if let Some(&length) = self.by_offset.get(&range.end()) {
            self.remove(Range { offset: range.end(), length });
            merged.length += length;
        }
        self.insert(merged);
    }

    /// Slots that are free, in however many runs.
    pub(crate) fn available(&self) -> u32 {
        self.by_offset.values().sum()
    }

    fn insert(&mut self, free: Range) {
        if free.length > 0 {
            self.by_offset.insert(free.offset, free.length);
            self.by_length.insert((free.length, free.offset));
        }
    }

    fn remove(&mut self, free: Range) {
        self.by_offset.remove(&free.offset);
        self.by_length.remove(&(free.length, free.offset));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: u32 = 64;

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u32),
        Free(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..24_u32).prop_map(Step::Allocate),
            any::<prop::sample::Index>().prop_map(Step::Free),
        ];
        proptest::collection::vec(step, 0..64)
    }

    /// Runs the steps; returns the allocator with the ranges that are taken.
    fn play(steps: Vec<Step>) -> (Slots, Vec<Range>) {
        let (mut slots, mut taken) = (Slots::new(CAPACITY), Vec::new());
        for step in steps {
            match step {
                Step::Allocate(length) => taken.extend(slots.allocate(length)),
                Step::Free(index) if !taken.is_empty() => {
                    slots.free(taken.swap_remove(index.index(taken.len())))
                }
                Step::Free(_) => {}
            }
        }
        (slots, taken)
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_none_is_lost(steps in steps()) {
            let (slots, taken) = play(steps);
            let mut owned = vec![false; CAPACITY as usize];
            for range in &taken {
                for slot in range.offset..range.end() {
                    prop_assert!(!std::mem::replace(&mut owned[slot as usize], true), "slot {slot} given twice");
                }
            }
            let used: u32 = taken.iter().map(|range| range.length).sum();
            prop_assert_eq!(slots.available(), CAPACITY - used);
        }

        #[test]
        fn freeing_all_makes_one_run_again(steps in steps()) {
            let (mut slots, taken) = play(steps);
            taken.into_iter().for_each(|range| slots.free(range));
            prop_assert_eq!(slots.allocate(CAPACITY), Some(Range { offset: 0, length: CAPACITY }));
        }

        #[test]
        fn an_allocator_rebuilt_from_its_ranges_is_the_same(steps in steps()) {
            let (slots, taken) = play(steps);
            let mut rebuilt = Slots::new(CAPACITY);
            for range in taken {
                prop_assert!(rebuilt.reserve(range));
            }
            prop_assert_eq!(rebuilt.by_offset, slots.by_offset);
            prop_assert_eq!(rebuilt.by_length, slots.by_length);
        }
    }

    #[test]
    fn what_is_taken_or_outside_is_not_reserved() {
        let mut slots = Slots::new(CAPACITY);
        assert!(slots.reserve(Range { offset: 10, length: 4 }));
        assert!(!slots.reserve(Range { offset: 12, length: 4 }));
        assert!(!slots.reserve(Range { offset: 8, length: 4 }));
        assert!(!slots.reserve(Range { offset: 60, length: 5 }));
        assert!(!slots.reserve(Range { offset: 60, length: u32::MAX }));
    }
}
