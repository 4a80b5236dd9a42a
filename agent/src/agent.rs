//! The agent as a whole: its informers, and the controllers of this node.

use std::sync::Arc;
use std::time::Duration;

use gantry_client::{Api, Client, Informer, ListParams};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::container::{self, Context, Drivers, Informers};
use crate::ids::{Clock, Instance, chain};
use crate::image::{self, ImageService};
use crate::node;
use crate::volume::controller::VolumeController;

/// Delay before the node is registered again after a failure.
const REGISTER_AGAIN: Duration = Duration::from_millis(500);

/// The agent of one node.
pub struct Agent {
    /// Names and directories.
    pub instance: Instance,
    /// The API.
    pub client: Client,
    /// What carries out its decisions.
    pub drivers: Drivers,
    /// Pulls images; `None` where a simulation does that in its own way.
    pub images: Option<Arc<ImageService>>,
    /// The wall clock.
    pub clock: Clock,
}

impl Agent {
    /// Runs until `stop`. Containers go on running afterwards.
    pub async fn run(self, stop: CancellationToken) {
        if !self.register(&stop).await {
            return;
        }
        let node_name = self.instance.node_name.clone();
        let informers = self.informers(&node_name, &stop);
        let volumes = VolumeController {
            client: self.client.clone(),
            volumes: informers.volumes.clone(),
            driver: self.drivers.volumes.clone(),
            node_name: node_name.clone(),
            clock: self.clock.clone(),
        };
        let images = {
            let (client, informers, stop) = (self.client.clone(), informers.clone(), stop.clone());
            async move {
                if let Some(service) = self.images {
                    image::run(client, service, node_name, informers.images, informers.containers, stop).await;
                }
            }
        };
        let context = Context { instance: self.instance, client: self.client, drivers: self.drivers, informers, clock: self.clock };
        let containers = async {
            if let Err(failure) = container::run(context, stop.clone()).await {
                error!(error = chain(&failure), "the containers of this node cannot be looked after");
            }
        };
        tokio::join!(containers, volumes.run(stop.clone()), images);
    }

    /// Whether the node was registered before `stop`.
    async fn register(&self, stop: &CancellationToken) -> bool {
        loop {
            let subnets = self.drivers.network.host_subnets().await.unwrap_or_else(|error| {
                warn!(error = chain(&error), "read the host's routes; allocation may collide with them");
                Vec::new()
            });
            match node::register(&self.client, &self.instance.node_name, &subnets, &self.clock).await {
                Ok(()) => return true,
                Err(error) => warn!(error = chain(&error), "the node could not be registered; it is tried again"),
            }
            tokio::select! {
                () = tokio::time::sleep(REGISTER_AGAIN) => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    fn informers(&self, node_name: &str, stop: &CancellationToken) -> Informers {
        let mine = ListParams { fields: Some(format!("status.nodeName={node_name}")), ..ListParams::default() };
        let leaving = ListParams { fields: Some(format!("status.formerNodeName={node_name}")), ..ListParams::default() };
        Informers {
            containers: Informer::start(Api::all(&self.client), mine, stop.clone()),
            leaving: Informer::start(Api::all(&self.client), leaving, stop.clone()),
            images: Informer::start(Api::all(&self.client), ListParams::default(), stop.clone()),
            networks: Informer::start(Api::all(&self.client), ListParams::default(), stop.clone()),
            volumes: Informer::start(Api::all(&self.client), ListParams::default(), stop.clone()),
        }
    }
}
