//! Containers of this node: one worker each, woken by whatever may concern it, that looks at the world and takes the next step.
//!
//! | file | what it is about |
//! |---|---|
//! | `plan` | from wish and world to the next step, pure |
//! | `worker` | takes the steps of one container, one after the other |
//! | `start` | the steps from nothing to a running process |
//! | `needs` | what must be there before a start: image, volumes, addresses, Secrets |
//! | `oci` | from a Container's spec to an OCI runtime spec, pure |
//! | `record` | what a container was started from |
//! | `status` | the agent's part of the status |
//! | `dispatch` | who has a worker and who wakes it; leftovers of dead objects |
//! | `names` | the names that containers can look up |

use std::sync::Arc;

use gantry_api::kinds::{container::Container, image::Image, network::Network, volume::Volume};
use gantry_client::{Client, Informer};

use crate::ids::{Clock, Instance};
use crate::network::NetworkDriver;
use crate::runtime::Runtime;
use crate::snapshot::Snapshotter;
use crate::volume::VolumeDriver;

mod backoff;
mod dispatch;
mod environment;
mod id_ranges;
mod names;
mod needs;
mod oci;
mod plan;
mod record;
mod signals;
mod start;
mod status;
mod worker;

pub use dispatch::run;
pub use needs::LocalImages;
pub(crate) use needs::volume_wish;

/// What carries out the agent's decisions.
#[derive(Clone)]
pub struct Drivers {
    /// Processes.
    pub runtime: Arc<dyn Runtime>,
    /// Links, ports, names.
    pub network: Arc<dyn NetworkDriver>,
    /// Layers.
    pub snapshotter: Arc<dyn Snapshotter>,
    /// Data.
    pub volumes: Arc<dyn VolumeDriver>,
    /// Images of this node.
    pub images: Arc<dyn LocalImages>,
}

/// Local copies of the objects that concern this node.
#[derive(Clone)]
pub struct Informers {
    /// Containers bound to this node.
    pub containers: Informer<Container>,
    /// Containers that are to leave this node, and are bound to no other before they have.
    pub leaving: Informer<Container>,
    /// All Images.
    pub images: Informer<Image>,
    /// All Networks.
    pub networks: Informer<Network>,
    /// All Volumes.
    pub volumes: Informer<Volume>,
}

/// All that a worker works with.
pub struct Context {
    /// Names and directories.
    pub instance: Instance,
    /// The API.
    pub client: Client,
    /// Drivers.
    pub drivers: Drivers,
    /// Objects.
    pub informers: Informers,
    /// The wall clock.
    pub clock: Clock,
}
