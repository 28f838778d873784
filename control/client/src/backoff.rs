//! How long to wait before the next attempt: doubling, bounded, and spread so that many clients of a server that
//! came back do not all call at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Delays that double from `first` up to `limit`, each drawn from its upper half.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, limit: Duration) -> Backoff {
        Backoff { first, limit, next: first }
    }

    /// The delay to wait now; the one after is twice as long.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.limit);
        spread(delay)
    }

    /// After a success: begin again with the shortest.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A duration drawn evenly from [d/2, d).
pub(crate) fn spread(duration: Duration) -> Duration {
    // Every RandomState of a thread differs from the one before; that is all the chance that is needed here.
    let chance = RandomState::new().build_hasher().finish() >> 11;
    duration.mul_f64(0.5 + 0.5 * (chance as f64 / (1u64 << 53) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_start_over_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for expected in [100, 200, 350, 350] {
            let delay = backoff.delay();
            let top = Duration::from_millis(expected);
            assert!(delay >= top / 2 && delay <= top, "{delay:?} is not within the upper half of {top:?}");
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(100));
    }
}
