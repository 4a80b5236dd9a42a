//! The names that containers can look up: each running container under its own name and its aliases, on each of its networks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use gantry_api::Kind as _;
use gantry_api::kinds::container::{Container, ContainerPhase};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::dispatch::Shared;
use crate::ids::chain;
use crate::network::NameRecord;

/// Publishes the names whenever they change, until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let informer = shared.context.informers.containers.clone();
    let mut changes = informer.changes();
    let mut published: Option<Vec<NameRecord>> = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = changes.recv() => if changed.is_none() { return },
        }
        while changes.try_recv().is_ok() {}
        let names = records(&informer.list());
        if published.as_ref() == Some(&names) {
            continue;
        }
        match shared.context.drivers.network.set_names(&names).await {
            Ok(()) => published = Some(names),
            Err(error) => warn!(error = chain(&error), "publish the containers' names"),
        }
    }
}

/// One record for each network and name, in a stable order.
fn records(containers: &[Arc<Container>]) -> Vec<NameRecord> {
    let mut addresses: BTreeMap<(String, String), Vec<IpAddr>> = BTreeMap::new();
    for container in containers {
        let Some(status) = container.status.as_ref().filter(|status| status.phase == Some(ContainerPhase::Running)) else { continue };
        for endpoint in &status.networks {
            let Some(address) = endpoint.ipv4_address.as_deref().and_then(parse_address) else { continue };
            let membership = container.spec.networks.iter().find(|network| network.name == endpoint.name);
            let aliases = membership.iter().flat_map(|network| network.aliases.iter().map(String::as_str));
            for name in std::iter::once(container.name()).chain(aliases) {
                addresses.entry((endpoint.network_uid.clone(), name.to_ascii_lowercase())).or_default().push(address);
            }
        }
    }
    let record = |((network_uid, name), mut addresses): ((String, String), Vec<IpAddr>)| {
        addresses.sort_unstable();
        addresses.dedup();
        NameRecord { network_uid, name, addresses }
    };
    addresses.into_iter().map(record).collect()
}

fn parse_address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use gantry_api::kinds::container::{ContainerNetwork, ContainerSpec, ContainerStatus, NetworkEndpoint};

    use super::*;

    fn container(name: &str, address: &str, alias: Option<&str>, phase: ContainerPhase) -> Arc<Container> {
        let network = ContainerNetwork { name: "n".into(), aliases: alias.into_iter().map(Into::into).collect(), ipv4_address: None };
        let mut container = Container::new("default", name, ContainerSpec { networks: vec![network], ..Default::default() });
        let endpoint =
            NetworkEndpoint { name: "n".into(), network_uid: "u".into(), ipv4_address: Some(address.into()), ..Default::default() };
        container.status = Some(ContainerStatus { phase: Some(phase), networks: vec![endpoint], ..Default::default() });
        Arc::new(container)
    }

    #[test]
    fn running_containers_are_found_by_name_and_alias() {
        let all = [
            container("a", "10.0.0.2/24", Some("Web"), ContainerPhase::Running),
            container("b", "10.0.0.3/24", Some("web"), ContainerPhase::Running),
            container("c", "10.0.0.4/24", None, ContainerPhase::Exited),
        ];
        let found: Vec<(String, usize)> = records(&all).into_iter().map(|record| (record.name, record.addresses.len())).collect();
        assert_eq!(found, [("a".to_owned(), 1), ("b".to_owned(), 1), ("web".to_owned(), 2)]);
    }
}
