//! IPv4 prefixes.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 prefix with its host bits clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Cidr {
    network: u32,
    /// 0 to 32.
    length: u8,
}

impl Cidr {
    /// The prefix of `length` bits that holds `address`; `None` when `length` is above 32.
    pub(crate) fn of(address: Ipv4Addr, length: u8) -> Option<Self> {
        (length <= 32).then(|| Self { network: address.to_bits() & mask(length), length })
    }

    /// Bits of the prefix.
    pub(crate) fn length(self) -> u8 {
        self.length
    }

    /// The network address.
    pub(crate) fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network)
    }

    /// The broadcast address.
    pub(crate) fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | !mask(self.length))
    }

    /// Whether `address` is in it.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.length) == self.network
    }

    /// Whether it and `other` share an address.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }

    /// Whether `address` can be given to a host: neither the network nor the broadcast address.
    pub(crate) fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.first() && address != self.last()
    }

    /// The subnets of `length` bits, lowest first; none when `length` is shorter than its own or above 32.
    pub(crate) fn subnets(self, length: u8) -> impl Iterator<Item = Self> {
        let fits = length >= self.length && length <= 32;
        let (first, last) = (u64::from(self.network), u64::from(self.last().to_bits()));
        let step = 1_usize.checked_shl(32 - u32::from(length.min(32))).unwrap_or(usize::MAX);
        let bits = (first..=last).step_by(step).map(|network| u32::try_from(network).unwrap_or(u32::MAX));
        bits.take_while(move |_| fits).map(move |network| Self { network, length })
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.length)
    }
}

/// The text is not an IPv4 address, a slash and a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotACidr;

impl FromStr for Cidr {
    type Err = NotACidr;

    /// Accepts host bits, and clears them.
    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let (address, length) = text.split_once('/').ok_or(NotACidr)?;
        let length = length.parse().map_err(|_| NotACidr)?;
        Self::of(address.parse().map_err(|_| NotACidr)?, length).ok_or(NotACidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        assert_eq!(cidr("10.88.3.4/20").to_string(), "10.88.0.0/20");
        assert_eq!(cidr("0.0.0.0/0").last(), Ipv4Addr::BROADCAST);
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "fd00::/64", "10.0.0.0/8/8"] {
            assert_eq!(bad.parse::<Cidr>(), Err(NotACidr), "{bad}");
        }
    }

    #[test]
    fn overlap_is_symmetric() {
        for (a, b, expected) in [
            ("10.0.0.0/8", "10.88.0.0/20", true),
            ("10.88.0.0/20", "10.88.16.0/20", false),
            ("0.0.0.0/0", "192.168.1.0/24", true),
            ("10.88.0.1/32", "10.88.0.0/31", true),
        ] {
            assert_eq!(cidr(a).overlaps(cidr(b)), expected, "{a} {b}");
            assert_eq!(cidr(b).overlaps(cidr(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn subnets_are_all_there_in_order() {
        let all: Vec<String> = cidr("10.88.0.0/18").subnets(20).map(|subnet| subnet.to_string()).collect();
        assert_eq!(all, ["10.88.0.0/20", "10.88.16.0/20", "10.88.32.0/20", "10.88.48.0/20"]);
        assert_eq!(cidr("255.255.255.0/24").subnets(25).count(), 2);
        assert_eq!(cidr("10.0.0.0/24").subnets(20).count(), 0);
        assert_eq!(cidr("10.0.0.0/31").subnets(32).count(), 2);
    }
}
