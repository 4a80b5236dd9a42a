//! What every controller is given.

use std::time::Duration;

use gantry_client::Client;

use crate::network::SubnetPool;
use crate::runtime::{Clock, CustomKinds, Informers, Recorder};

/// What can be chosen about the controllers.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the engine instance: the first part of bridge names. 1 to 8 characters of `[a-z0-9]`. Default: `gantry`.
    pub instance: String,
    /// Where times written to objects come from. Default: the machine's clock.
    pub clock: Clock,
    /// Seed of all jitter. Default: random.
    pub seed: u64,
    /// Subnets of Networks that name none are taken from here. Default: `10.88.0.0/14` in steps of /20.
    pub subnet_pool: SubnetPool,
    /// How long an Image that was made for a reference stays after its last Container, so that one that is deleted and applied again
    /// does not fetch it anew. Default: 30 s.
    pub unused_image_delay: Duration,
    /// How long a Node must have been absent before the Containers bound to it are given up. Default: 10 s.
    pub vanished_node_delay: Duration,
    /// Age at which Events are removed. Default: 1 h.
    pub event_lifetime: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instance: "gantry".to_owned(),
            clock: Clock::system(),
            seed: rand::random(),
            subnet_pool: SubnetPool::default(),
            unused_image_delay: Duration::from_secs(30),
            vanished_node_delay: Duration::from_secs(10),
            event_lifetime: Duration::from_secs(3600),
        }
    }
}

/// What every controller is given. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) custom_kinds: CustomKinds,
    pub(crate) recorder: Recorder,
    pub(crate) config: Config,
}

impl Context {
    /// The same, with the client of one controller: its name is the field manager of its writes.
    pub(crate) fn named(&self, controller: &str) -> Self {
        Self { client: self.client.with_manager(controller), ..self.clone() }
    }
}
