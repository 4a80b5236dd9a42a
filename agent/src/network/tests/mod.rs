//! The bridge driver against the real kernel: each test on a host of its own, which is a fresh network namespace.
//!
//! Judges are traffic, `nft` and `ip`, not the driver's own reading.

mod drift;
mod measure;
mod place;
mod ports;
mod table;
mod traffic;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use gantry_api::kinds::container::{Exposure, Protocol};

use super::bridge::BridgeDriver;
use super::{EndpointWish, InterfaceWish, NetworkDriver, NetworkError, NetworkEvent, NetworkWish, PortPublished, PortWish, Subnet};
use crate::ids::{ContainerUid, Instance};
use place::Place;

/// The driver of an instance. Nothing is written to its directories as long as no names are set.
fn driver_of(instance: &str) -> BridgeDriver {
    let (data_dir, run_dir) = ("/nonexistent".into(), "/nonexistent".into());
    BridgeDriver::new(&Instance { name: instance.to_owned(), data_dir, run_dir, node_name: "node".to_owned() }).unwrap()
}

fn driver() -> BridgeDriver {
    driver_of("gtest")
}

/// Runs a test on a host of its own.
fn on_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    Place::new().run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
}

/// The `number`th network: 10.90.`number`.0/24.
fn network(number: u8) -> NetworkWish {
    let gateway = Subnet { address: Ipv4Addr::new(10, 90, number, 1).into(), prefix: 24 };
    let bridge = format!("gtest-{number:08x}");
    NetworkWish { uid: format!("network-{number}"), bridge, gateways: vec![gateway], internal: false, mtu: 1500 }
}

/// A container's namespace, and what is wished for it.
struct Container {
    place: Place,
    uid: ContainerUid,
    interfaces: Vec<InterfaceWish>,
    ports: Vec<PortWish>,
}

impl Container {
    /// One on network `number`, with address 10.90.`number`.`host`.
    fn new(number: u8, host: u8) -> Self {
        let uid = ContainerUid::new(&format!("container-{number}-{host}")).unwrap();
        Self { place: Place::new(), uid, interfaces: vec![interface(number, host)], ports: Vec::new() }
    }

    fn with_ports(mut self, ports: impl IntoIterator<Item = PortWish>) -> Self {
        self.ports = ports.into_iter().collect();
        self
    }

    fn wish(&self) -> EndpointWish {
        let (interfaces, ports) = (self.interfaces.clone(), self.ports.clone());
        EndpointWish { uid: self.uid.clone(), network_namespace: self.place.namespace(), interfaces, ports }
    }

    async fn ensure(&self, driver: &impl NetworkDriver) -> Result<Vec<PortPublished>, NetworkError> {
        driver.ensure_endpoint(&self.wish()).await
    }

    fn address(&self) -> Ipv4Addr {
        match self.interfaces[0].address.address {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => unreachable!("tests use IPv4"),
        }
    }
}

fn interface(number: u8, host: u8) -> InterfaceWish {
    InterfaceWish {
        network_uid: format!("network-{number}"),
        address: Subnet { address: Ipv4Addr::new(10, 90, number, host).into(), prefix: 24 },
        mac: [2, 0, 10, 90, number, host],
        gateway: Some(Ipv4Addr::new(10, 90, number, 1)),
    }
}

fn port(container_port: u16, host_port: u16, exposure: Exposure) -> PortWish {
    PortWish { container_port, count: 1, host_port, host_ip: None, exposure, protocol: Protocol::TCP }
}

/// Waits until something holds; fails with what it last said.
async fn eventually(limit: Duration, mut probe: impl FnMut() -> Result<(), String>) -> Duration {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(()) => return start.elapsed(),
            Err(last) if start.elapsed() > limit => panic!("not within {limit:?}; last state: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Waits for a repair that names `what`.
async fn repaired(events: &mut tokio::sync::broadcast::Receiver<NetworkEvent>, what: &str) {
    let found = tokio::time::timeout(Duration::from_secs(2), async {
        let mut seen = Vec::new();
        loop {
            match events.recv().await.unwrap() {
                NetworkEvent::Repaired { what: found, .. } if found.contains(what) => return,
                other => seen.push(other),
            }
        }
    });
    assert!(found.await.is_ok(), "no event of a repair of {what}");
}
