//! Digests of keys, kept in values.
//!
//! A program reads an element of a hash map without a lock. The agent or another program may remove or exchange it in that
//! instant, and its memory belongs to the next element at once: the reader would take one flow's entry for another's. So
//! values of maps that change under packets say which key they belong to, in the two bytes that they have to spare.

use crate::Address;

/// Odd, and without a pattern, so that neighbouring addresses and ports do not cancel out.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Never 0, which values have that were made by version 0.1.0.
#[inline(always)]
pub(crate) fn of<const N: usize>(
    addresses: &[Address; N],
    ports: &[[u8; 2]; N],
    protocol: [u8; 1],
) -> [u8; 2] {
    let mut digest = u64::from(protocol[0]);
    for (address, port) in addresses.iter().zip(ports) {
        let (high, low) = address.halves();
        for word in [high, low, u64::from(u16::from_ne_bytes(*port))] {
            digest = digest.wrapping_mul(SPREAD).rotate_left(29) ^ word;
        }
    }
    let digest = digest.wrapping_mul(SPREAD) >> 48;
    ((digest as u16) | 1).to_be_bytes()
}

/// Whether a value may be its key's.
#[inline(always)]
pub(crate) fn fits(held: [u8; 2], wanted: [u8; 2]) -> bool {
    held == [0; 2] || held == wanted
}
