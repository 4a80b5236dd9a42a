//! One informer per kind for the whole process.

use std::marker::PhantomData;

use gantry_api::kinds::core::{ConfigMap, Lease, Namespace, Node, Secret, ServiceAccount};
use gantry_api::{Container, Image, Kind, Network, ObjectMeta, Volume};
use gantry_client::{Api, Client, Informer, ListParams};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::custom::Definition;

/// An object of kind `K` of which only the metadata is kept: for controllers that follow owners and namespaces, not contents.
/// So the values of Secrets are never held by a controller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Partial<K> {
    /// The metadata.
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Partial<K> {
    fn clone(&self) -> Self {
        Self { metadata: self.metadata.clone(), kind: PhantomData }
    }
}

impl<K: Kind> Kind for Partial<K> {
    const GROUP: &'static str = K::GROUP;
    const VERSION: &'static str = K::VERSION;
    const KIND: &'static str = K::KIND;
    const PLURAL: &'static str = K::PLURAL;
    const NAMESPACED: bool = K::NAMESPACED;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The local copies that all controllers read.
#[derive(Clone)]
pub(crate) struct Informers {
    pub(crate) containers: Informer<Container>,
    pub(crate) images: Informer<Image>,
    pub(crate) networks: Informer<Network>,
    pub(crate) volumes: Informer<Volume>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) secrets: Informer<Partial<Secret>>,
    pub(crate) config_maps: Informer<Partial<ConfigMap>>,
    pub(crate) leases: Informer<Partial<Lease>>,
    pub(crate) definitions: Informer<Definition>,
    pub(crate) service_accounts: Informer<Partial<ServiceAccount>>,
}

impl Informers {
    /// Starts following every kind, until `stop`.
    pub(crate) fn start(client: &Client, stop: &CancellationToken) -> Self {
        Self {
            containers: follow(client, stop),
            images: follow(client, stop),
            networks: follow(client, stop),
            volumes: follow(client, stop),
            nodes: follow(client, stop),
            namespaces: follow(client, stop),
            secrets: follow(client, stop),
            config_maps: follow(client, stop),
            leases: follow(client, stop),
            definitions: follow(client, stop),
            service_accounts: follow(client, stop),
        }
    }
}

fn follow<K: Kind>(client: &Client, stop: &CancellationToken) -> Informer<K> {
    Informer::start(Api::all(client), ListParams::default(), stop.clone())
}
