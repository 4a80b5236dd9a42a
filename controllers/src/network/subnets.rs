//! The choice of a Network's subnet and gateway: pure functions of the wish and of what is taken.

use std::net::Ipv4Addr;

use gantry_api::kinds::network::NetworkSpec;

use super::cidr::Cidr;

/// Where subnets of Networks that name none come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubnetPool {
    range: Cidr,
    /// Prefix length of each subnet.
    step: u8,
}

/// A pool that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetPoolError {
    /// Not an IPv4 CIDR.
    #[error("`{range}` is not an IPv4 range such as 10.88.0.0/14")]
    Range {
        /// What was given.
        range: String,
    },
    /// The subnets would be larger than the range, or too small for a gateway and a container.
    #[error("subnets of /{step} do not fit: the length must be between that of `{range}` and 29")]
    Step {
        /// The range.
        range: String,
        /// What was given.
        step: u8,
    },
}

impl SubnetPool {
    /// Subnets of `step` bits out of `range`, a CIDR.
    ///
    /// # Errors
    /// When `range` is no IPv4 CIDR, or `step` is not between its length and 29.
    pub fn new(range: &str, step: u8) -> Result<Self, SubnetPoolError> {
        let parsed: Cidr = range.parse().map_err(|_| SubnetPoolError::Range { range: range.to_owned() })?;
        if !(parsed.length()..=29).contains(&step) {
            return Err(SubnetPoolError::Step { range: range.to_owned(), step });
        }
        Ok(Self { range: parsed, step })
    }
}

impl Default for SubnetPool {
    fn default() -> Self {
        Self::new("10.88.0.0/14", 20).expect("a constant that parses")
    }
}

/// A subnet that is in use, and what it is, for people.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) subnet: Cidr,
    pub(super) by: String,
}

/// A Network's subnet and the gateway in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) subnet: Cidr,
    pub(super) gateway: Ipv4Addr,
}

/// Why a Network cannot have what it asks for, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The subnet that `spec` names, or a free one of the pool.
///
/// `current` is what the Network has already: it is kept while the spec agrees, whatever has come to overlap it since, because
/// containers run with addresses out of it.
pub(super) fn plan_subnet(spec: &NetworkSpec, current: Option<Assigned>, pool: SubnetPool, taken: &[Taken]) -> Result<Assigned, Refused> {
    let explicit = explicit_subnet(spec)?;
    let subnet = match (explicit, current) {
        (Some(explicit), Some(current)) if explicit == current.subnet => explicit,
        (None, Some(current)) => current.subnet,
        (Some(explicit), _) => match taken.iter().find(|taken| taken.subnet.overlaps(explicit)) {
            Some(other) => return Err(conflict(explicit, other)),
            None => explicit,
        },
        (None, None) => free_subnet(pool, taken)?,
    };
    Ok(Assigned { subnet, gateway: gateway(spec, subnet)? })
}

fn conflict(subnet: Cidr, other: &Taken) -> Refused {
    let message = format!(
        "subnet {subnet} overlaps {}, which is {}; choose another spec.subnets, or leave it out to have one allocated",
        other.subnet, other.by
    );
    Refused { reason: "SubnetConflict", message }
}

fn explicit_subnet(spec: &NetworkSpec) -> Result<Option<Cidr>, Refused> {
    let [text] = spec.subnets.as_slice() else {
        return match spec.subnets.as_slice() {
            [] => Ok(None),
            all => Err(unsupported(&all.join(", "))),
        };
    };
    match text.parse::<Cidr>() {
        Ok(subnet) if subnet.length() <= 30 => Ok(Some(subnet)),
        Ok(_) => {
            let message = format!("subnet {text} has no room for a gateway and a container; choose a prefix length of at most 30");
            Err(Refused { reason: "SubnetTooSmall", message })
        }
        Err(_) => Err(unsupported(text)),
    }
}

fn unsupported(text: &str) -> Refused {
    Refused { reason: "SubnetUnsupported", message: format!("a bridge carries one IPv4 subnet; spec.subnets is {text}") }
}

fn free_subnet(pool: SubnetPool, taken: &[Taken]) -> Result<Cidr, Refused> {
    let free = |subnet: &Cidr| !taken.iter().any(|taken| taken.subnet.overlaps(*subnet));
    pool.range.subnets(pool.step).find(free).ok_or_else(|| Refused {
        reason: "SubnetsExhausted",
        message: format!("all /{} subnets of {} are taken; set spec.subnets, or delete a Network", pool.step, pool.range),
    })
}

fn gateway(spec: &NetworkSpec, subnet: Cidr) -> Result<Ipv4Addr, Refused> {
    let first = Ipv4Addr::from_bits(subnet.first().to_bits().saturating_add(1));
    let Some(text) = spec.gateways.first() else { return Ok(first) };
    match text.parse() {
        Ok(gateway) if spec.gateways.len() == 1 && subnet.is_host(gateway) => Ok(gateway),
        _ => Err(Refused {
            reason: "GatewayInvalid",
            message: format!("spec.gateways must be one address of {subnet} and is {}", spec.gateways.join(", ")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(all: &[&str]) -> Vec<Taken> {
        all.iter().map(|text| Taken { subnet: text.parse().unwrap(), by: format!("route {text}") }).collect()
    }

    fn spec(subnets: &[&str], gateways: &[&str]) -> NetworkSpec {
        let owned = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        NetworkSpec { subnets: owned(subnets), gateways: owned(gateways), ..NetworkSpec::default() }
    }

    fn plan(spec: &NetworkSpec, current: Option<&str>, others: &[&str]) -> Result<String, &'static str> {
        let current = current.map(|text| Assigned { subnet: text.parse().unwrap(), gateway: Ipv4Addr::UNSPECIFIED });
        plan_subnet(spec, current, SubnetPool::default(), &taken(others))
            .map(|assigned| format!("{} {}", assigned.subnet, assigned.gateway))
            .map_err(|refused| refused.reason)
    }

    #[test]
    fn allocates_the_first_free_one() {
        assert_eq!(plan(&spec(&[], &[]), None, &[]).unwrap(), "10.88.0.0/20 10.88.0.1");
        assert_eq!(plan(&spec(&[], &[]), None, &["10.88.0.0/20", "10.88.17.0/24"]).unwrap(), "10.88.32.0/20 10.88.32.1");
        assert_eq!(plan(&spec(&[], &[]), None, &["10.0.0.0/8"]), Err("SubnetsExhausted"));
    }

    #[test]
    fn what_is_allocated_stays() {
        assert_eq!(plan(&spec(&[], &[]), Some("10.91.0.0/20"), &["10.91.0.0/16"]).unwrap(), "10.91.0.0/20 10.91.0.1");
        assert_eq!(plan(&spec(&["10.1.0.0/24"], &[]), Some("10.1.0.0/24"), &["10.1.0.0/16"]).unwrap(), "10.1.0.0/24 10.1.0.1");
    }

    #[test]
    fn explicit_ones_are_checked() {
        assert_eq!(plan(&spec(&["172.20.0.0/24"], &["172.20.0.9"]), None, &["10.0.0.0/8"]).unwrap(), "172.20.0.0/24 172.20.0.9");
        assert_eq!(plan(&spec(&["172.20.0.0/24"], &[]), None, &["172.16.0.0/12"]), Err("SubnetConflict"));
        assert_eq!(plan(&spec(&["172.21.0.0/24"], &[]), Some("172.20.0.0/24"), &["172.21.0.0/16"]), Err("SubnetConflict"));
        assert_eq!(plan(&spec(&["172.20.0.0/24"], &["172.20.1.1"]), None, &[]), Err("GatewayInvalid"));
        assert_eq!(plan(&spec(&["172.20.0.0/24"], &["172.20.0.255"]), None, &[]), Err("GatewayInvalid"));
        assert_eq!(plan(&spec(&["fd00::/64"], &[]), None, &[]), Err("SubnetUnsupported"));
        assert_eq!(plan(&spec(&["172.20.0.0/24", "fd00::/64"], &[]), None, &[]), Err("SubnetUnsupported"));
        assert_eq!(plan(&spec(&["172.20.0.0/31"], &[]), None, &[]), Err("SubnetTooSmall"));
    }

    #[test]
    fn pools_are_checked() {
        assert!(matches!(SubnetPool::new("10.0.0.0", 20), Err(SubnetPoolError::Range { .. })));
        assert!(matches!(SubnetPool::new("10.0.0.0/21", 20), Err(SubnetPoolError::Step { .. })));
        assert!(matches!(SubnetPool::new("10.0.0.0/21", 30), Err(SubnetPoolError::Step { .. })));
    }
}
