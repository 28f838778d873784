//! Address ranges and their parts of equal size.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// "10.32.0.0/16". The host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CidrError {
    #[error("{0:?} is not an address range such as 10.32.0.0/16")]
    Malformed(String),
    #[error("{0:?} has bits set beyond its prefix length")]
    HostBits(String),
    #[error("{range} cannot be cut into parts of /{length}")]
    Parts { range: Cidr, length: u8 },
}

impl Cidr {
    fn new(bits: u128, length: u8, v4: bool) -> Cidr {
        let address = match v4 {
            true => IpAddr::V4(Ipv4Addr::from(bits as u32)),
            false => IpAddr::V6(Ipv6Addr::from(bits)),
        };
        Cidr { address, length }
    }

    fn bits(self) -> u128 {
        match self.address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        }
    }

    /// Of an address of this family.
    fn width(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// How many parts of /`length` it has; no more than there could be nodes for.
    pub(crate) fn parts(self, length: u8) -> Result<u64, CidrError> {
        if length < self.length || length > self.width() {
            return Err(CidrError::Parts { range: self, length });
        }
        Ok(1u64.checked_shl(u32::from(length - self.length)).unwrap_or(u64::MAX).min(1 << 24))
    }

    /// The part of /`length` with this number.
    pub(crate) fn part(self, length: u8, index: u64) -> Cidr {
        let offset = u128::from(index).checked_shl(u32::from(self.width() - length)).unwrap_or(0);
        Cidr::new(self.bits() | offset, length, self.address.is_ipv4())
    }

    /// The numbers of the parts of /`length` that `other` overlaps; None where it overlaps none.
    pub(crate) fn overlap(self, length: u8, other: Cidr) -> Option<std::ops::RangeInclusive<u64>> {
        let parts = self.parts(length).ok()?;
        if self.width() != other.width() {
            return None;
        }
        let (first, last) = (other.bits(), other.last());
        if last < self.bits() || first > self.last() {
            return None;
        }
        let index = |bits: u128| {
            let offset = bits.clamp(self.bits(), self.last()) - self.bits();
            offset.checked_shr(u32::from(self.width() - length)).unwrap_or(0)
        };
        let most = u128::from(parts - 1);
        Some(index(first).min(most) as u64..=index(last).min(most) as u64)
    }

    fn last(self) -> u128 {
        let hosts = self.width() - self.length;
        self.bits() | 1u128.checked_shl(u32::from(hosts)).map_or(u128::MAX, |size| size - 1)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let length: u8 = length.parse().map_err(|_| malformed())?;
        let cidr = Cidr { address, length };
        if length > cidr.width() {
            return Err(malformed());
        }
        let hosts = u32::from(cidr.width() - length);
        let mask = 1u128.checked_shl(hosts).map_or(u128::MAX, |size| size - 1);
        if cidr.bits() & mask != 0 {
            return Err(CidrError::HostBits(text.to_owned()));
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_cut_into_parts() {
        let cluster = cidr("10.32.0.0/16");
        assert_eq!(cluster.parts(24), Ok(256));
        assert_eq!(cluster.part(24, 0).to_string(), "10.32.0.0/24");
        assert_eq!(cluster.part(24, 255).to_string(), "10.32.255.0/24");
        assert_eq!(cidr("fd00::/48").part(64, 3).to_string(), "fd00:0:0:3::/64");
        assert_eq!(cluster.parts(16), Ok(1));
        assert_eq!(cluster.part(16, 0), cluster);
        assert!(cluster.parts(15).is_err());
        assert!(cluster.parts(33).is_err());
        assert_eq!(cidr("0.0.0.0/0").part(32, 7).to_string(), "0.0.0.7/32");
    }

    #[test]
    fn overlaps_are_found_whatever_the_size() {
        let cluster = cidr("10.32.0.0/16");
        assert_eq!(cluster.overlap(24, cidr("10.32.7.0/24")), Some(7..=7));
        assert_eq!(cluster.overlap(24, cidr("10.32.8.0/22")), Some(8..=11));
        assert_eq!(cluster.overlap(24, cidr("10.32.9.128/25")), Some(9..=9));
        assert_eq!(cluster.overlap(24, cidr("10.0.0.0/8")), Some(0..=255));
        assert_eq!(cluster.overlap(24, cidr("10.33.0.0/24")), None);
        assert_eq!(cluster.overlap(24, cidr("fd00::/48")), None);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "x/8", "fd00::/129"] {
            assert!(matches!(text.parse::<Cidr>(), Err(CidrError::Malformed(_))), "{text}");
        }
        assert_eq!("10.0.0.1/8".parse::<Cidr>(), Err(CidrError::HostBits("10.0.0.1/8".to_owned())));
    }
}
