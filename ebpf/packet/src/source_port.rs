//! Source ports for translated flows.

use weir_ebpf_common::limits;

/// A port of the node's range, each as likely as another.
#[inline(always)]
pub fn from_random(random: u32) -> u16 {
    let (first, last) = limits::SOURCE_PORTS;
    let size = u32::from(last - first) + 1;
    first + (random % size) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_in_their_range_and_reach_both_ends() {
        let (first, last) = limits::SOURCE_PORTS;
        assert_eq!(from_random(0), first);
        assert_eq!(from_random(16383), last);
        assert_eq!(from_random(16384), first);
        assert!((first..=last).contains(&from_random(u32::MAX)));
    }
}
