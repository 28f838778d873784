//! The Internet checksum, updated rather than computed anew (RFC 1624).

/// The sum of what was taken out and put in, as 16-bit words in memory's own byte order: one's complement addition
/// does not care which, as long as it is always the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    sum: u32,
}

impl Change {
    pub const NONE: Self = Self { sum: 0 };

    /// `old` gives way to `new`. `N` is even, and small enough for the sum not to overflow.
    #[inline(always)]
    pub fn replace<const N: usize>(old: &[u8; N], new: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(2) && N <= 64) };
        let mut sum = 0;
        let mut at = 0;
        while at < N {
            sum += u32::from(!u16::from_ne_bytes([old[at], old[at + 1]]));
            sum += u32::from(u16::from_ne_bytes([new[at], new[at + 1]]));
            at += 2;
        }
        Self { sum: fold(sum) }
    }

    /// Both changes.
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        Self { sum: fold(self.sum + other.sum) }
    }

    /// The change as the kernel's helpers take it.
    #[inline(always)]
    pub fn raw(self) -> u32 {
        self.sum
    }

    /// The checksum after the change. HC' = ~(~HC + ~m + m'), equation 3.
    #[inline(always)]
    pub fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = fold(self.sum + u32::from(!u16::from_ne_bytes(checksum)));
        (!(sum as u16)).to_ne_bytes()
    }
}

/// To 16 bits, carries added in. Two rounds are enough for any 32-bit sum.
#[inline(always)]
fn fold(sum: u32) -> u32 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::Change;

    #[test]
    fn the_example_of_rfc_1624_gives_its_result() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000.
        let change = Change::replace(&0x5555_u16.to_be_bytes(), &0x3285_u16.to_be_bytes());
        assert_eq!(change.apply(0xdd2f_u16.to_be_bytes()), [0, 0]);
    }

    #[test]
    fn no_change_leaves_a_checksum_alone() {
        for word in 0..=u16::MAX {
            let same = Change::NONE.apply(word.to_be_bytes());
            assert_eq!(same, word.to_be_bytes());
        }
    }
}
