//! Rules of Networks.

use std::net::IpAddr;

use super::Errors;
use crate::kinds::network::Network;

/// Everything wrong with a Network's spec, and with a change of it.
pub(super) fn check(new: &Network, old: Option<&Network>, errors: &mut Errors) {
    let spec = &new.spec;
    let mut subnets: Vec<Subnet> = Vec::new();
    for (index, text) in spec.subnets.iter().enumerate() {
        let path = format!("spec.subnets[{index}]");
        match Subnet::parse(text) {
            Err(message) => errors.bad(&path, text, message),
            Ok(subnet) if subnets.iter().any(|other| other.bits == subnet.bits) => {
                errors.bad(&path, text, "must be the only subnet of its address family");
            }
            Ok(subnet) => subnets.push(subnet),
        }
    }
    let mut families = Vec::new();
    for (index, text) in spec.gateways.iter().enumerate() {
        let path = format!("spec.gateways[{index}]");
        let Ok(address) = text.parse::<IpAddr>() else {
            errors.bad(&path, text, "must be an IP address");
            continue;
        };
        if !subnets.iter().any(|subnet| subnet.has_host(address)) {
            errors.bad(&path, text, "must be a host address within one of the subnets");
        } else if families.contains(&address.is_ipv4()) {
            errors.bad(&path, text, "must be the only gateway of its subnet");
        }
        families.push(address.is_ipv4());
    }
    if let Some(mtu) = spec.mtu.filter(|mtu| !(576..=65535).contains(mtu)) {
        errors.bad("spec.mtu", &mtu.to_string(), "must be from 576 to 65535");
    }
    if !spec.options.is_empty() {
        errors.forbidden("spec.options", "the driver bridge has no options");
    }
    let Some(old) = old else { return };
    errors.immutable("spec.driver", &old.spec.driver, &spec.driver);
    if !old.spec.subnets.is_empty() {
        errors.immutable("spec.subnets", &old.spec.subnets, &spec.subnets);
    }
    if !old.spec.gateways.is_empty() {
        errors.immutable("spec.gateways", &old.spec.gateways, &spec.gateways);
    }
}

/// First address and number of its bits that are the network's; `bits` is 32 or 128.
struct Subnet {
    first: u128,
    prefix: u32,
    bits: u32,
}

impl Subnet {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let syntax = "must be a subnet in CIDR notation, such as 10.88.0.0/20";
        let (address, prefix) = text.split_once('/').ok_or(syntax)?;
        let address: IpAddr = address.parse().map_err(|_| syntax)?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u32 = prefix.parse().ok().filter(|_| digits).ok_or(syntax)?;
        let (first, bits) = number(address);
        let range = if bits == 32 { 8..=30 } else { 16..=126 };
        if !range.contains(&prefix) {
            return Err("must have a prefix length from 8 to 30 (IPv6: 16 to 126)");
        }
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
            return Err("must not be loopback, multicast or unspecified");
        }
        let subnet = Self { first, prefix, bits };
        if first & subnet.host_mask() != 0 {
            return Err("must be the first address of the subnet: no bits set beyond the prefix");
        }
        Ok(subnet)
    }

    fn host_mask(&self) -> u128 {
        (1_u128 << (self.bits - self.prefix)) - 1
    }

    /// Within the subnet, and neither its first address nor (IPv4) its broadcast address.
    fn has_host(&self, address: IpAddr) -> bool {
        let (number, bits) = number(address);
        let host = number & self.host_mask();
        bits == self.bits && number - host == self.first && host != 0 && (bits == 128 || host != self.host_mask())
    }
}

fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}
