//! The choice of a container's addresses: pure functions of the wish and of what is taken.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_api::kinds::container::NetworkEndpoint;

use super::cidr::Cidr;

/// Most endpoints of one bridge: the kernel takes 1,024 ports, and some are needed besides.
pub(super) const MAX_ENDPOINTS: usize = 1000;

/// A Network that has its subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkFacts {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) subnet: Cidr,
    pub(super) gateway: Ipv4Addr,
    /// Without a default route.
    pub(super) internal: bool,
}

/// Addresses of one network that other containers hold, with the container's name.
pub(super) type Holders = BTreeMap<Ipv4Addr, String>;

/// Why a container cannot have an address, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The endpoint of a container on `network`: the one it has (`current`) while it still fits the wish, the fixed address it asks for, or the
/// next free one after `cursor`.
///
/// Free addresses are given out in a circle, so that one that was just released is not met again while others remember its last holder.
pub(super) fn plan_endpoint(
    network: &NetworkFacts,
    fixed: Option<&str>,
    current: Option<&NetworkEndpoint>,
    holders: &Holders,
    cursor: Option<Ipv4Addr>,
) -> Result<NetworkEndpoint, Refusal> {
    let fixed = fixed.map(|text| fixed_address(network, text)).transpose()?;
    let kept = current.and_then(address_of).filter(|address| usable(network, *address) && !holders.contains_key(address));
    let address = match (fixed, kept) {
        (Some(fixed), _) => match holders.get(&fixed) {
            Some(holder) => return Err(in_use(network, fixed, holder)),
            None => fixed,
        },
        (None, Some(kept)) => kept,
        (None, None) => next_free(network, holders, cursor)?,
    };
    if kept.is_none() && holders.len() >= MAX_ENDPOINTS {
        return Err(full(network));
    }
    Ok(endpoint(network, address))
}

/// The IPv4 address of an endpoint, without its prefix length.
pub(super) fn address_of(endpoint: &NetworkEndpoint) -> Option<Ipv4Addr> {
    let text = endpoint.ipv4_address.as_deref()?;
    text.split_once('/').map_or(text, |(address, _)| address).parse().ok()
}

fn usable(network: &NetworkFacts, address: Ipv4Addr) -> bool {
    network.subnet.is_host(address) && address != network.gateway
}

fn fixed_address(network: &NetworkFacts, text: &str) -> Result<Ipv4Addr, Refusal> {
    let plain = text.split_once('/').map_or(text, |(address, _)| address);
    plain.parse().ok().filter(|address| usable(network, *address)).ok_or_else(|| Refusal {
        reason: "AddressInvalid",
        message: format!(
            "address {text} is not a free host address of network \"{}\" ({}, gateway {}); choose another or leave ipv4Address out",
            network.name, network.subnet, network.gateway
        ),
    })
}

fn in_use(network: &NetworkFacts, address: Ipv4Addr, holder: &str) -> Refusal {
    let message = format!(
        "address {address} of network \"{}\" is held by container \"{holder}\"; choose another or leave ipv4Address out",
        network.name
    );
    Refusal { reason: "AddressInUse", message }
}

fn full(network: &NetworkFacts) -> Refusal {
    let message = format!("network \"{}\" has {MAX_ENDPOINTS} containers, the most a bridge carries; use another network", network.name);
    Refusal { reason: "NetworkFull", message }
}

fn next_free(network: &NetworkFacts, holders: &Holders, cursor: Option<Ipv4Addr>) -> Result<Ipv4Addr, Refusal> {
    let first = network.subnet.first().to_bits();
    let last = network.subnet.last().to_bits();
    // After a restart the circle goes on behind the highest address in use.
    let start = cursor.or_else(|| holders.keys().next_back().copied()).map_or(first, Ipv4Addr::to_bits).clamp(first, last);
    let circle = (start.saturating_add(1)..last).chain(first.saturating_add(1)..=start);
    circle.map(Ipv4Addr::from_bits).find(|address| usable(network, *address) && !holders.contains_key(address)).ok_or_else(|| Refusal {
        reason: "AddressesExhausted",
        message: format!(
            "every address of network \"{}\" ({}) is taken; delete a container or use another network",
            network.name, network.subnet
        ),
    })
}

fn endpoint(network: &NetworkFacts, address: Ipv4Addr) -> NetworkEndpoint {
    let [a, b, c, d] = address.octets();
    NetworkEndpoint {
        name: network.name.clone(),
        network_uid: network.uid.clone(),
        ipv4_address: Some(format!("{address}/{}", network.subnet.length())),
        ipv6_address: None,
        // Follows from the address, as Docker's: neighbours that remember it stay right over a restart.
        mac_address: Some(format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")),
        gateway: (!network.internal).then(|| network.gateway.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(subnet: &str) -> NetworkFacts {
        let subnet: Cidr = subnet.parse().unwrap();
        let gateway = Ipv4Addr::from_bits(subnet.first().to_bits() + 1);
        NetworkFacts { name: "net".into(), uid: "u".into(), subnet, gateway, internal: false }
    }

    fn holders(all: &[&str]) -> Holders {
        all.iter().map(|address| (address.parse().unwrap(), "other".to_owned())).collect()
    }

    fn address(outcome: Result<NetworkEndpoint, Refusal>) -> Result<String, &'static str> {
        outcome.map(|endpoint| endpoint.ipv4_address.unwrap()).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn an_endpoint_is_complete() {
        let endpoint = plan_endpoint(&network("10.88.0.0/20"), None, None, &holders(&[]), None).unwrap();
        assert_eq!(endpoint.ipv4_address.as_deref(), Some("10.88.0.2/20"));
        assert_eq!(endpoint.mac_address.as_deref(), Some("02:42:0a:58:00:02"));
        assert_eq!(endpoint.gateway.as_deref(), Some("10.88.0.1"));
        let internal = NetworkFacts { internal: true, ..network("10.88.0.0/20") };
        assert_eq!(plan_endpoint(&internal, None, None, &holders(&[]), None).unwrap().gateway, None);
    }

    #[test]
    fn free_addresses_go_round() {
        let net = network("10.0.0.0/29");
        let next = |taken: &[&str], cursor: &str| address(plan_endpoint(&net, None, None, &holders(taken), Some(cursor.parse().unwrap())));
        assert_eq!(next(&[], "10.0.0.3").unwrap(), "10.0.0.4/29");
        assert_eq!(next(&["10.0.0.4"], "10.0.0.3").unwrap(), "10.0.0.5/29");
        assert_eq!(next(&["10.0.0.2"], "10.0.0.6").unwrap(), "10.0.0.3/29");
        assert_eq!(next(&[], "10.9.9.9").unwrap(), "10.0.0.2/29");
        let all = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        assert_eq!(next(&all[..4], "10.0.0.5").unwrap(), "10.0.0.6/29");
        assert_eq!(next(&all[1..], "10.0.0.2").unwrap(), "10.0.0.2/29");
        assert_eq!(next(&all, "10.0.0.2"), Err("AddressesExhausted"));
        assert_eq!(address(plan_endpoint(&net, None, None, &holders(&["10.0.0.2", "10.0.0.4"]), None)).unwrap(), "10.0.0.5/29");
    }

    #[test]
    fn what_it_has_is_kept_while_it_fits() {
        let net = network("10.0.0.0/24");
        let has = |text: &str| NetworkEndpoint { ipv4_address: Some(text.into()), ..NetworkEndpoint::default() };
        let plan = |current: &str, taken: &[&str]| address(plan_endpoint(&net, None, Some(&has(current)), &holders(taken), None)).unwrap();
        assert_eq!(plan("10.0.0.77/24", &[]), "10.0.0.77/24");
        assert_eq!(plan("10.0.0.77/24", &["10.0.0.77"]), "10.0.0.78/24");
        assert_eq!(plan("10.0.1.77/24", &[]), "10.0.0.2/24");
        assert_eq!(plan("10.0.0.1/24", &[]), "10.0.0.2/24");
    }

    #[test]
    fn fixed_addresses_are_honoured_or_refused() {
        let net = network("10.0.0.0/24");
        let plan = |fixed: &str, taken: &[&str]| address(plan_endpoint(&net, Some(fixed), None, &holders(taken), None));
        assert_eq!(plan("10.0.0.9", &[]).unwrap(), "10.0.0.9/24");
        assert_eq!(plan("10.0.0.9", &["10.0.0.9"]), Err("AddressInUse"));
        for bad in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.1.0.9", "x"] {
            assert_eq!(plan(bad, &[]), Err("AddressInvalid"), "{bad}");
        }
    }

    #[test]
    fn a_bridge_has_room_for_a_thousand() {
        let net = network("10.88.0.0/20");
        let mut taken = Holders::new();
        for index in 0..MAX_ENDPOINTS {
            let endpoint = plan_endpoint(&net, None, None, &taken, None).unwrap();
            taken.insert(address_of(&endpoint).unwrap(), format!("c{index}"));
        }
        let refusal = plan_endpoint(&net, None, None, &taken, None).unwrap_err();
        assert_eq!(refusal.reason, "NetworkFull");
        assert!(refusal.message.contains("\"net\""));
    }
}
