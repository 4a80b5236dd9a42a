//! The driver for Linux bridges.
//!
//! One thread owns everything: it enters containers' network namespaces for as long as opening a socket takes, which a thread of the
//! engine's runtime must not, and it waits for the kernel there. Callers send it a wish and wait for the answer.
//!
//! `net.ipv4.ip_forward` is switched on when the first network is ensured, and stays on; it is the only setting of the host that changes.

use std::io;

use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::firewall::step;
use super::names::Names;
use super::node::Node;
pub use super::probe::probe;
use super::{EndpointWish, NameRecord, NetworkDriver, NetworkError, NetworkEvent, NetworkWish, PortPublished, Subnet};
use crate::ids::{ContainerUid, Instance};

/// Wishes that may wait; more make their callers wait.
const QUEUE: usize = 256;
/// Where an answer goes; a caller that went away does not want it.
pub(super) type Answer<T> = oneshot::Sender<Result<T, NetworkError>>;

/// What callers ask the thread for.
#[derive(Debug)]
pub(super) enum Command {
    EnsureNetwork(NetworkWish, Answer<()>),
    RemoveNetwork(String, Answer<()>),
    EnsureEndpoint(EndpointWish, Answer<Vec<PortPublished>>),
    RemoveEndpoint(ContainerUid, Answer<()>),
    SetNames(Vec<NameRecord>, Answer<()>),
    Settle(Answer<()>),
    Teardown(Answer<()>),
    HostSubnets(Answer<Vec<Subnet>>),
}

/// Bridges, veth pairs and nft rules of this host.
#[derive(Debug)]
pub struct BridgeDriver {
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<NetworkEvent>,
}

impl BridgeDriver {
    /// Starts the driver's thread, in the network namespace of the caller. It ends when the driver is dropped; nothing on the host is removed then.
    ///
    /// # Errors
    /// The kernel has no nf_tables or rtnetlink for us: no privilege, or no such module.
    pub fn new(instance: &Instance) -> Result<Self, NetworkError> {
        let (commands, received) = mpsc::channel(QUEUE);
        let events = broadcast::Sender::new(QUEUE);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (name, names, sender) = (instance.name.clone(), Names::new(instance)?, events.clone());
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(source) => return drop(ready.send(Err(step("making the network thread's runtime", source)))),
            };
            runtime.block_on(async move {
                match Node::open(name, names, sender) {
                    Ok((node, watched)) => {
                        let _ = ready.send(Ok(()));
                        node.serve(received, watched).await;
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
        };
        std::thread::Builder::new().name("network".to_owned()).spawn(run).map_err(|source| step("starting the network thread", source))?;
        is_ready.recv().map_err(|_| gone())??;
        Ok(Self { commands, events })
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command + Send) -> Result<T, NetworkError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn gone() -> NetworkError {
    step("asking the network thread", io::Error::other("it has ended"))
}

impl NetworkDriver for BridgeDriver {
    fn ensure_network<'a>(&'a self, network: &'a NetworkWish) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(self.ask(|answer| Command::EnsureNetwork(network.clone(), answer)))
    }

    fn remove_network<'a>(&'a self, network_uid: &'a str) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(self.ask(|answer| Command::RemoveNetwork(network_uid.to_owned(), answer)))
    }

    fn ensure_endpoint<'a>(&'a self, endpoint: &'a EndpointWish) -> BoxFuture<'a, Result<Vec<PortPublished>, NetworkError>> {
        Box::pin(async move {
            let network_namespace =
                endpoint.network_namespace.try_clone().map_err(|source| step("keeping the network namespace", source))?;
            let (interfaces, ports) = (endpoint.interfaces.clone(), endpoint.ports.clone());
            let wish = EndpointWish { uid: endpoint.uid.clone(), network_namespace, interfaces, ports };
            self.ask(|answer| Command::EnsureEndpoint(wish, answer)).await
        })
    }

    fn remove_endpoint<'a>(&'a self, uid: &'a ContainerUid) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(self.ask(|answer| Command::RemoveEndpoint(uid.clone(), answer)))
    }

    fn set_names<'a>(&'a self, names: &'a [NameRecord]) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(self.ask(|answer| Command::SetNames(names.to_vec(), answer)))
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(self.ask(Command::Settle))
    }

    fn teardown(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(self.ask(Command::Teardown))
    }

    fn host_subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, NetworkError>> {
        Box::pin(self.ask(Command::HostSubnets))
    }

    fn events(&self) -> broadcast::Receiver<NetworkEvent> {
        self.events.subscribe()
    }
}
