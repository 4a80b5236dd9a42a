//! What must be there before a container can be started, and what to say while it is not.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use gantry_api::Kind as _;
use gantry_api::ObjectKey;
use gantry_api::kinds::container::{Container, ContainerSpec, NetworkMode};
use gantry_api::kinds::image::{Image, ImageNodePhase};
use gantry_api::kinds::network::Network;
use gantry_api::meta::{ConditionStatus, find_condition};
use gantry_api::reference::ImageReference;

use super::status::{Aspect, Finding};
use super::{Context, Informers};
use crate::image::{ImageService, LocalImage};
use crate::network::{InterfaceWish, NetworkWish, PortWish, Subnet};
use crate::volume::{VolumeError, VolumeWish};

/// The images that are unpacked on this node.
pub trait LocalImages: Send + Sync + 'static {
    /// The image with this manifest digest, `None` when it is not here whole.
    fn local<'a>(&'a self, digest: &'a str) -> BoxFuture<'a, Option<LocalImage>>;
}

impl LocalImages for ImageService {
    fn local<'a>(&'a self, digest: &'a str) -> BoxFuture<'a, Option<LocalImage>> {
        Box::pin(Self::local(self, digest))
    }
}

/// Why a start must wait.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Blocked(pub(crate) Finding);

/// The container's image, once it is here.
pub(crate) async fn image(context: &Context, container: &Container) -> Result<LocalImage, Blocked> {
    let image = image_object(&context.informers, container)?;
    let name = image.name();
    let status = image.status.clone().unwrap_or_default();
    let resolved = find_condition(&status.conditions, "Resolved");
    let Some(digest) = status.digest else {
        let failed = resolved.filter(|condition| condition.status == ConditionStatus::False);
        let (reason, message) = failed.map_or_else(
            || ("ImageResolving", format!("image `{name}` is being resolved")),
            |condition| (condition.reason.as_str(), format!("image `{name}`: {}", condition.message)),
        );
        return Err(Blocked(Finding::bad(Aspect::ImageReady, reason, message).because("Image", name, "Resolved")));
    };
    if let Some(local) = context.drivers.images.local(&digest).await {
        return Ok(local);
    }
    let here = status.nodes.iter().find(|node| node.name == context.instance.node_name);
    let (reason, message) = match here.map(|node| (node.phase, &node.message)) {
        Some((ImageNodePhase::Failed, why)) => {
            let why = why.clone().unwrap_or_else(|| "the pull failed".to_owned());
            (resolved.filter(|c| !c.is_true()).map_or("ImagePullFailed", |c| c.reason.as_str()), format!("image `{name}`: {why}"))
        }
        Some((ImageNodePhase::Unpacking, _)) => ("ImageUnpacking", format!("image `{name}` is being unpacked")),
        _ => ("ImagePulling", format!("image `{name}` is being pulled")),
    };
    Err(Blocked(Finding::bad(Aspect::ImageReady, reason, message).because("Image", name, "Ready")))
}

/// The Image object that the container's spec stands for.
///
/// `status.imageObjectName` is written by the image controller, some moments after an edit of the spec: it counts only while it fits.
fn image_object(informers: &Informers, container: &Container) -> Result<std::sync::Arc<Image>, Blocked> {
    let namespace = container.metadata.namespace.as_deref().unwrap_or_default();
    let named = container.status.as_ref().and_then(|status| status.image_object_name.as_deref());
    let name = match (&container.spec.image_name, named) {
        (Some(name), _) => name.as_str(),
        (None, Some(name)) => name,
        (None, None) => return Err(waiting_for_image(container)),
    };
    let found = informers.images.get(&ObjectKey::new(namespace, name));
    match found {
        Some(image) if container.spec.image_name.is_some() || stands_for(&image, container.spec.image.as_deref()) => Ok(image),
        Some(_) => Err(waiting_for_image(container)),
        None if container.spec.image_name.is_some() => Err(Blocked(
            Finding::bad(
                Aspect::ImageReady,
                "ImageNotFound",
                format!("image `{name}` not found in namespace `{namespace}`; create the Image, or use `image` with a reference"),
            )
            .because("Image", name, "Ready"),
        )),
        None => Err(waiting_for_image(container)),
    }
}

fn waiting_for_image(container: &Container) -> Blocked {
    let wanted = container.spec.image.as_deref().or(container.spec.image_name.as_deref()).unwrap_or_default();
    Blocked(Finding::bad(Aspect::ImageReady, "ImagePending", format!("waiting for an Image object for `{wanted}`")))
}

/// Whether the Image is known by the reference that a container names.
fn stands_for(image: &Image, reference: Option<&str>) -> bool {
    let Some(wanted) = reference.and_then(|text| ImageReference::parse(text).ok()) else { return false };
    let source = image.spec.source.registry.iter().map(|registry| &registry.reference);
    source.chain(&image.spec.tags).any(|known| ImageReference::parse(known).is_ok_and(|known| known == wanted))
}

/// Digest that the container's Image stands for now, once it is resolved.
pub(crate) fn current_digest(informers: &Informers, container: &Container) -> Option<String> {
    image_object(informers, container).ok()?.status.as_ref()?.digest.clone()
}

/// One mount of the container, with its source found on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeSource {
    /// Index into `spec.mounts`.
    pub(crate) mount: usize,
    /// Directory on the node.
    pub(crate) path: PathBuf,
}

/// Ensures the directories of all Volumes that the container mounts.
pub(crate) async fn volumes(context: &Context, container: &Container) -> Result<Vec<VolumeSource>, Blocked> {
    let namespace = container.metadata.namespace.as_deref().unwrap_or_default();
    let mut sources = Vec::new();
    for (mount, source) in container.spec.mounts.iter().enumerate().filter_map(|(i, mount)| Some((i, mount.volume.as_ref()?))) {
        let key = ObjectKey::new(namespace, &source.name);
        let volume = context.informers.volumes.get(&key).filter(|volume| !volume.is_terminating()).ok_or_else(|| {
            let message = format!("volume `{}` not found in namespace `{namespace}`; create the Volume", source.name);
            Blocked(Finding::bad(Aspect::VolumesReady, "VolumeNotFound", message).because("Volume", &source.name, "Ready"))
        })?;
        let node = volume.status.as_ref().and_then(|status| status.node_name.as_deref());
        match node {
            Some(node) if node == context.instance.node_name => {}
            Some(node) => {
                let message =
                    format!("volume `{}` is on node `{node}`; this container is on `{}`", source.name, context.instance.node_name);
                return Err(Blocked(Finding::bad(Aspect::VolumesReady, "VolumeElsewhere", message).because(
                    "Volume",
                    &source.name,
                    "Ready",
                )));
            }
            None => {
                let message = format!("volume `{}` has no node yet", source.name);
                return Err(Blocked(Finding::bad(Aspect::VolumesReady, "VolumePending", message).because("Volume", &source.name, "Ready")));
            }
        }
        let wish = volume_wish(&volume).map_err(|message| Blocked(Finding::bad(Aspect::VolumesReady, "VolumeInvalid", message)))?;
        let path = context.drivers.volumes.ensure(&wish).await.map_err(|error| volume_failed(&source.name, &error))?;
        sources.push(VolumeSource { mount, path });
    }
    Ok(sources)
}

/// The driver's view of a Volume object.
pub(crate) fn volume_wish(volume: &gantry_api::Volume) -> Result<VolumeWish, String> {
    let owner = volume.spec.owner.as_ref();
    let mode = owner.and_then(|owner| owner.mode.as_deref()).map(|text| u32::from_str_radix(text, 8)).transpose();
    let mode = mode.map_err(|_| format!("volume `{}`: spec.owner.mode is not octal", volume.key()))?;
    Ok(VolumeWish {
        uid: volume.uid().to_owned(),
        name: volume.key().to_string(),
        owner: owner.map(|owner| (owner.uid, owner.gid, mode)),
        capacity_bytes: volume.spec.capacity.as_ref().and_then(|capacity| u64::try_from(capacity.to_value()?).ok()),
    })
}

fn volume_failed(name: &str, error: &VolumeError) -> Blocked {
    let reason = match error {
        VolumeError::Unsupported { .. } => "VolumeUnsupported",
        VolumeError::Io { .. } => "VolumeFailed",
    };
    Blocked(
        Finding::bad(Aspect::VolumesReady, reason, format!("volume `{name}`: {}", crate::ids::chain(error)))
            .because("Volume", name, "Ready"),
    )
}

/// What the network driver is to make for the container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NetworkNeeds {
    /// The bridges.
    pub(crate) networks: Vec<NetworkWish>,
    /// The links, in order.
    pub(crate) interfaces: Vec<InterfaceWish>,
    /// The published ports.
    pub(crate) ports: Vec<PortWish>,
    /// Where names are asked.
    pub(crate) resolvers: Vec<IpAddr>,
}

/// Names of the networks that the container joins.
pub(crate) fn network_names(spec: &ContainerSpec) -> Vec<&str> {
    match spec.network_mode {
        NetworkMode::Networks if spec.networks.is_empty() => vec!["default"],
        NetworkMode::Networks => spec.networks.iter().map(|network| network.name.as_str()).collect(),
        NetworkMode::Host | NetworkMode::None => Vec::new(),
    }
}

/// The container's addresses, once the network controller has allocated them.
pub(crate) fn network(informers: &Informers, container: &Container) -> Result<NetworkNeeds, Blocked> {
    let namespace = container.metadata.namespace.as_deref().unwrap_or_default();
    let status = container.status.as_ref();
    let mut needs = NetworkNeeds { ports: port_wishes(&container.spec), ..NetworkNeeds::default() };
    for name in network_names(&container.spec) {
        let network = informers.networks.get(&ObjectKey::new(namespace, name)).ok_or_else(|| {
            let message = format!("network `{name}` not found in namespace `{namespace}`; create the Network");
            Blocked(Finding::bad(Aspect::NetworkReady, "NetworkNotFound", message).because("Network", name, "Ready"))
        })?;
        let wish = network_wish(&network).ok_or_else(|| not_ready(&network))?;
        let endpoint = status.and_then(|status| status.networks.iter().find(|e| e.name == name && e.network_uid == network.uid()));
        let endpoint = endpoint.ok_or_else(|| no_address(container, name))?;
        let interface = interface_wish(&wish, endpoint).ok_or_else(|| {
            Blocked(Finding::bad(
                Aspect::NetworkReady,
                "AddressInvalid",
                format!("the address allocated on network `{name}` cannot be used"),
            ))
        })?;
        needs.resolvers.extend(wish.gateways.iter().map(|gateway| gateway.address));
        needs.networks.push(wish);
        needs.interfaces.push(interface);
    }
    Ok(needs)
}

fn not_ready(network: &Network) -> Blocked {
    let name = network.name();
    let ready = network.status.as_ref().and_then(|status| find_condition(&status.conditions, "Ready"));
    let (reason, message) = ready.filter(|condition| !condition.is_true()).map_or_else(
        || ("NetworkPending", format!("network `{name}` has no addresses yet")),
        |condition| (condition.reason.as_str(), format!("network `{name}`: {}", condition.message)),
    );
    Blocked(Finding::bad(Aspect::NetworkReady, reason, message).because("Network", name, "Ready"))
}

fn no_address(container: &Container, network: &str) -> Blocked {
    let refused =
        container.status.as_ref().and_then(|status| status.condition("NetworkAllocated")).filter(|condition| !condition.is_true());
    let (reason, message) = refused.map_or_else(
        || ("AddressPending", format!("waiting for an address on network `{network}`")),
        |condition| (condition.reason.as_str(), condition.message.clone()),
    );
    Blocked(Finding::bad(Aspect::NetworkReady, reason, message).because("Network", network, "Ready"))
}

/// The driver's view of a Network object, once subnets are allocated.
pub(crate) fn network_wish(network: &Network) -> Option<NetworkWish> {
    let status = network.status.as_ref()?;
    let gateways: Option<Vec<Subnet>> =
        status.subnets.iter().zip(&status.gateways).map(|(subnet, gateway)| with_prefix(gateway, parse_subnet(subnet)?.prefix)).collect();
    let gateways = gateways.filter(|gateways| !gateways.is_empty())?;
    Some(NetworkWish {
        uid: network.uid().to_owned(),
        bridge: status.bridge.clone()?,
        gateways,
        internal: network.spec.internal,
        mtu: network.spec.mtu.and_then(|mtu| u32::try_from(mtu).ok()).unwrap_or(1500),
    })
}

fn interface_wish(network: &NetworkWish, endpoint: &gantry_api::kinds::container::NetworkEndpoint) -> Option<InterfaceWish> {
    let gateway = endpoint.gateway.as_deref().and_then(|text| text.parse::<Ipv4Addr>().ok());
    Some(InterfaceWish {
        network_uid: network.uid.clone(),
        address: parse_subnet(endpoint.ipv4_address.as_deref()?)?,
        mac: parse_mac(endpoint.mac_address.as_deref()?)?,
        gateway: gateway.filter(|_| !network.internal),
    })
}

fn port_wishes(spec: &ContainerSpec) -> Vec<PortWish> {
    let published = spec.ports.iter().filter_map(|port| {
        let host_port = port.host_port?;
        let last = port.end_port.unwrap_or(port.container_port).max(port.container_port);
        Some(PortWish {
            container_port: port.container_port,
            count: last - port.container_port + 1,
            host_port,
            host_ip: port.host_ip.as_deref().and_then(|text| text.parse().ok()),
            exposure: port.exposure,
            protocol: port.protocol,
        })
    });
    published.collect()
}

fn parse_subnet(text: &str) -> Option<Subnet> {
    let (address, prefix) = text.split_once('/')?;
    with_prefix(address, prefix.parse().ok()?)
}

fn with_prefix(address: &str, prefix: u8) -> Option<Subnet> {
    let address: IpAddr = address.split('/').next()?.parse().ok()?;
    Some(Subnet { address, prefix })
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use gantry_api::kinds::container::{ContainerPort, Exposure, Protocol};
    use gantry_api::kinds::image::{ImageSource, ImageSpec, RegistrySource};

    use super::*;

    #[test]
    fn hardware_addresses_have_six_bytes() {
        assert_eq!(parse_mac("02:00:0a:58:00:02"), Some([2, 0, 10, 88, 0, 2]));
        for bad in ["02:00:0a:58:00", "02:00:0a:58:00:02:03", "02:00:0a:58:00:zz", ""] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_ports_with_a_host_port_are_published() {
        let port = |host_port| ContainerPort { container_port: 80, end_port: Some(82), host_port, ..Default::default() };
        let spec = ContainerSpec { ports: vec![port(None), port(Some(0))], ..Default::default() };
        let wish =
            PortWish { container_port: 80, count: 3, host_port: 0, host_ip: None, exposure: Exposure::Loopback, protocol: Protocol::TCP };
        assert_eq!(port_wishes(&spec), [wish]);
    }

    #[test]
    fn an_image_stands_for_a_reference_in_any_spelling() {
        let registry = Some(RegistrySource { reference: "nginx".into(), pull_secret_name: None });
        let spec = ImageSpec { source: ImageSource { registry, archive: None }, tags: vec!["localhost/a:1".into()], ..Default::default() };
        let image = Image::new("default", "web", spec);
        assert!(stands_for(&image, Some("docker.io/library/nginx:latest")));
        assert!(stands_for(&image, Some("localhost/a:1")));
        assert!(!stands_for(&image, Some("nginx:1.27")));
        assert!(!stands_for(&image, None));
    }
}
