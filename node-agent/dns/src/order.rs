//! Endpoints in a random order: clients that take the first address of an answer are spread over all.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Shuffles; not for secrets.
pub(crate) fn shuffle<T>(items: &mut [T]) {
    if items.len() < 2 {
        return;
    }
    let mut state = SEED.hash_one(CALLS.fetch_add(1, Ordering::Relaxed));
    for last in (1..items.len()).rev() {
        items.swap(last, below(&mut state, last + 1));
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014), cut down to `0..bound`.
fn below(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let scaled = (u128::from(mixed) * bound as u128) >> 64;
    // Less than `bound`, which is one.
    scaled as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_comes_first_sometimes() {
        let mut first = [0; 4];
        for _ in 0..1000 {
            let mut items = [0, 1, 2, 3];
            shuffle(&mut items);
            first[items[0]] += 1;
            items.sort_unstable();
            assert_eq!(items, [0, 1, 2, 3], "none is lost");
        }
        assert!(first.iter().all(|times| *times > 100), "{first:?}");
    }
}
