//! The controllers: each watches the kinds it cares about and writes the smallest change that brings an object closer to its wish.
//!
//! They meet the rest of the engine only in objects, through the API server, in the same process too. None waits for another:
//! binding, addresses and images of a new container come about at the same time, each as a write that the node's agent watches for.
//!
//! * [`table`]: who watches what and writes what; each field has one writer.
//! * `runtime`: informers, queues, back-off, events, finalizers, status writes.
//! * `scheduler`: binds Containers to nodes.
//! * `image`: finds or makes the Image of each Container, names its resolver, sums up `Ready`, collects generated Images.
//! * `network`: subnets of Networks and addresses of Containers.
//! * `volume`: nodes, users and finalizers of Volumes.
//! * `service_account`: the ServiceAccount `default` of each Namespace.
//! * `garbage_collector`: what goes with its owners. `namespace`: what goes with its Namespace. `node_lifecycle`: what goes with its Node.

mod context;
mod garbage_collector;
mod image;
mod namespace;
mod network;
mod node_lifecycle;
mod runtime;
mod scheduler;
mod service_account;
mod table;
mod volume;

use gantry_client::Client;
use tokio_util::sync::CancellationToken;

pub use context::Config;
pub use network::{SubnetPool, SubnetPoolError};
pub use runtime::Clock;
pub use table::{CONTROLLERS, ControllerInfo, table};

use context::Context;
use runtime::{CustomKinds, Informers, Manager, Recorder};

/// Runs all controllers until `stop` is cancelled and all their tasks have ended.
///
/// # Assumptions
/// No second set of controllers runs against the same server: allocation of subnets and addresses is serialised within this process.
///
/// # Cancel safety
/// Dropping the future stops all tasks where they are; the next start goes on from the objects.
pub async fn run(client: Client, config: Config, stop: CancellationToken) {
    let stop = stop.child_token();
    let mut manager = Manager::new(stop.clone(), config.seed);
    let (recorder, writer) = Recorder::new(client.clone(), stop.clone());
    manager.spawn(writer);
    let informers = Informers::start(&client, &stop);
    let (following, custom_kinds) = CustomKinds::follow(client.clone(), informers.definitions.clone(), stop.clone());
    manager.spawn(following);
    let context = Context { informers, custom_kinds, client, recorder, config };
    scheduler::start(&mut manager, &context);
    image::start(&mut manager, &context);
    network::start(&mut manager, &context);
    volume::start(&mut manager, &context);
    garbage_collector::start(&mut manager, &context);
    namespace::start(&mut manager, &context);
    node_lifecycle::start(&mut manager, &context);
    service_account::start(&mut manager, &context);
    manager.run().await;
    stop.cancel();
}
