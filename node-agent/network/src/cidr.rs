//! An IPv4 range in CIDR notation.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

/// A range of IPv4 addresses; host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: Ipv4Addr,
    length: u8,
}

/// Why a text is not a [`Cidr`].
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CidrError {
    #[error("{0:?} is not an address range like 10.32.1.0/24")]
    Malformed(String),
    #[error("{0:?} is an IPv6 range; only IPv4 is supported")]
    Ipv6(String),
    #[error("{0:?} has bits set beyond its prefix")]
    HostBits(String),
}

impl Cidr {
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    pub fn prefix_length(self) -> u8 {
        self.length
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.length) == u32::from(self.network)
    }

    /// The first and last address a pod may have: all but the network's own and the broadcast address.
    /// `None` for ranges too small to hold any (/31, /32).
    pub(crate) fn host_range(self) -> Option<(u32, u32)> {
        let first = u32::from(self.network);
        let last = first | !mask(self.length);
        (last - first > 2).then(|| (first + 1, last - 1))
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        if text.contains(':') {
            return Err(CidrError::Ipv6(text.to_owned()));
        }
        let malformed = || CidrError::Malformed(text.to_owned());
        let (network, length) = text.split_once('/').ok_or_else(malformed)?;
        let network: Ipv4Addr = network.parse().map_err(|_| malformed())?;
        let length: u8 = length.parse().map_err(|_| malformed())?;
        if length > 32 {
            return Err(malformed());
        }
        if u32::from(network) & !mask(length) != 0 {
            return Err(CidrError::HostBits(text.to_owned()));
        }
        Ok(Self { network, length })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_printed_alike() {
        for text in ["10.32.1.0/24", "0.0.0.0/0", "10.32.1.7/32", "10.32.1.4/30"] {
            assert_eq!(text.parse::<Cidr>().map(|cidr| cidr.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_no_range_is_refused_with_the_reason() {
        let cases = [
            ("10.32.1.0", CidrError::Malformed("10.32.1.0".into())),
            ("10.32.1/24", CidrError::Malformed("10.32.1/24".into())),
            ("10.32.1.0/33", CidrError::Malformed("10.32.1.0/33".into())),
            ("10.32.1.1/24", CidrError::HostBits("10.32.1.1/24".into())),
            ("fd00::/64", CidrError::Ipv6("fd00::/64".into())),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Cidr>(), Err(error));
        }
    }

    #[test]
    fn pods_get_neither_the_network_nor_the_broadcast_address() {
        let range = |text: &str| text.parse::<Cidr>().ok().and_then(Cidr::host_range);
        let ip = |a, b, c, d| u32::from(Ipv4Addr::new(a, b, c, d));
        assert_eq!(range("10.32.1.0/24"), Some((ip(10, 32, 1, 1), ip(10, 32, 1, 254))));
        assert_eq!(range("10.32.1.4/30"), Some((ip(10, 32, 1, 5), ip(10, 32, 1, 6))));
        assert_eq!(range("10.32.1.4/31"), None);
    }
}
