//! Addresses as maps hold them: IPv6, with IPv4 mapped into it (RFC 4291, 2.5.5.2).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::layout;

pub type Mac = [u8; 6];

#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    octets: [u8; 16],
}
layout!(Address, 16);

impl Address {
    pub const UNSPECIFIED: Self = Self { octets: [0; 16] };

    #[inline(always)]
    pub const fn new(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self { octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] }
    }

    #[inline(always)]
    pub const fn octets(&self) -> [u8; 16] {
        self.octets
    }

    /// The last four bytes: the IPv4 address, when it is one.
    #[inline(always)]
    pub const fn low(&self) -> [u8; 4] {
        let [.., a, b, c, d] = self.octets;
        [a, b, c, d]
    }

    /// Both halves as numbers of no particular meaning: for digests.
    #[inline(always)]
    pub(crate) const fn halves(&self) -> (u64, u64) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.octets;
        (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p]))
    }

    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        u128::from_be_bytes(self.octets) >> 32 == 0xffff
    }

    /// The address as people know it; a mapped IPv4 address comes out as IPv4.
    pub fn ip(&self) -> IpAddr {
        if self.is_v4() { Ipv4Addr::from(self.low()).into() } else { Ipv6Addr::from(self.octets).into() }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::new(v6.octets()),
        }
    }
}
