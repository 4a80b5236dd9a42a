//! Every kind that is watched, behind one object-safe interface.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use gantry_api::kinds::core::{ConfigMap, Lease, Namespace, Node, Secret, ServiceAccount};
use gantry_api::{Container, Image, Kind, Network, ObjectKey, ObjectMeta, Volume};
use gantry_client::{Client, ClientError, DeleteParams, Informer, ListParams, Patch, WriteParams};
use serde_json::Value;

use super::Item;
use super::graph::Graph;
use crate::context::Context;
use crate::runtime::status::api;
use crate::runtime::{AnyObject, CustomKind, CustomKinds, Definition, Partial, Sources};

/// Objects deleted by one request. Between two the server has time for others.
const SLICE: u32 = 500;
/// What goes from a namespace that is being emptied is looked at once in a while, not for every object.
pub(crate) const EMPTYING_STEP: Duration = Duration::from_millis(100);

/// The objects of one kind, as far as owners are concerned.
pub(crate) trait Access: Send + Sync + 'static {
    /// CamelCase name.
    fn kind(&self) -> &str;
    /// Whether it is meant by this `apiVersion` and kind.
    fn is_called(&self, api_version: &str, kind: &str) -> bool;
    /// Whether objects live in a namespace.
    fn namespaced(&self) -> bool;
    /// Metadata as the informer shows it.
    fn cached(&self, key: &ObjectKey) -> Option<ObjectMeta>;
    /// How many objects are in `namespace` as the informer shows them, and how many of them nobody has asked to delete yet.
    fn count(&self, namespace: &str) -> (usize, usize);
    /// Metadata as the server has it now.
    fn live<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<ObjectMeta>, ClientError>>;
    /// Whether the server has any object in `namespace` now.
    fn any_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<bool, ClientError>>;
    /// Asks for deletion.
    fn delete<'a>(&'a self, key: &'a ObjectKey, params: &'a DeleteParams) -> BoxFuture<'a, Result<(), ClientError>>;
    /// Asks for deletion of all in `namespace`, in slices.
    fn delete_all<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<(), ClientError>>;
    /// Merge patch.
    fn patch<'a>(&'a self, key: &'a ObjectKey, patch: Value) -> BoxFuture<'a, Result<(), ClientError>>;
}

/// A built-in kind, which is there from the start.
pub(crate) trait Watched: Access {
    /// Feeds the graph from this kind, as kind number `kind`.
    fn watch(&self, sources: Sources<Item>, kind: usize, graph: Arc<Mutex<Graph>>) -> Sources<Item>;
    /// Queues the key of the namespace of each changed object that `concerned` says yes to, a moment later: one look for many.
    fn watch_namespaces(&self, sources: Sources<ObjectKey>, concerned: fn(&Context, &str) -> bool, context: &Context)
    -> Sources<ObjectKey>;
}

/// All kinds that may own or be owned: the built-in ones by their place in the list, and those that are there now of the others.
#[derive(Clone)]
pub(crate) struct Accesses {
    pub(crate) built_in: Arc<[Arc<dyn Watched>]>,
    custom: CustomKinds,
}

impl Accesses {
    /// The kind of this number, unless it is gone.
    pub(crate) fn get(&self, number: usize) -> Option<Arc<dyn Access>> {
        let custom = || self.custom.now().values().find(|kind| kind.id == number).map(|kind| Arc::clone(kind) as Arc<dyn Access>);
        self.built_in.get(number).map(|access| Arc::clone(access) as Arc<dyn Access>).or_else(custom)
    }

    /// All that are there now.
    pub(crate) fn all(&self) -> Vec<Arc<dyn Access>> {
        let built_in = self.built_in.iter().map(|access| Arc::clone(access) as Arc<dyn Access>);
        built_in.chain(self.custom.now().values().map(|kind| Arc::clone(kind) as Arc<dyn Access>)).collect()
    }
}

/// All kinds that may own or be owned. Events are left out: they have no owners, and are many.
pub(crate) fn accesses(context: &Context) -> Accesses {
    let (client, informers) = (&context.client, &context.informers);
    let built_in = [
        of::<Partial<ConfigMap>>(client, &informers.config_maps),
        of::<Container>(client, &informers.containers),
        of::<Image>(client, &informers.images),
        of::<Partial<Lease>>(client, &informers.leases),
        of::<Namespace>(client, &informers.namespaces),
        of::<Network>(client, &informers.networks),
        of::<Node>(client, &informers.nodes),
        of::<Partial<Secret>>(client, &informers.secrets),
        of::<Partial<ServiceAccount>>(client, &informers.service_accounts),
        of::<Volume>(client, &informers.volumes),
        of::<Definition>(client, &informers.definitions),
    ];
    Accesses { built_in: built_in.into(), custom: context.custom_kinds.clone() }
}

fn of<K: Kind>(client: &Client, informer: &Informer<K>) -> Arc<dyn Watched> {
    Arc::new(Typed { client: client.clone(), informer: informer.clone() })
}

/// Requests need only metadata, whatever the informer keeps.
struct Typed<K: Kind> {
    client: Client,
    informer: Informer<K>,
}

/// Asks for the deletion of all objects of a kind in `namespace`, in slices.
pub(crate) async fn delete_all<K: Kind>(client: &Client, namespace: &str) -> Result<(), ClientError> {
    let mut slice = ListParams { limit: Some(SLICE), ..ListParams::default() };
    loop {
        slice.continue_token = api::<K>(client, namespace).delete_collection(&slice, &DeleteParams::default()).await?;
        if slice.continue_token.is_none() {
            return Ok(());
        }
    }
}

/// Answers are decoded to metadata alone.
type Bare<K> = Partial<K>;

impl<K: Kind> Access for Typed<K> {
    fn kind(&self) -> &str {
        K::KIND
    }
    fn is_called(&self, api_version: &str, kind: &str) -> bool {
        kind == K::KIND && api_version == K::api_version()
    }
    fn namespaced(&self) -> bool {
        K::NAMESPACED
    }
    fn cached(&self, key: &ObjectKey) -> Option<ObjectMeta> {
        self.informer.get(key).map(|object| object.meta().clone())
    }
    fn count(&self, namespace: &str) -> (usize, usize) {
        count(&self.informer, namespace)
    }
    fn live<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<ObjectMeta>, ClientError>> {
        Box::pin(async move { Ok(api::<Bare<K>>(&self.client, &key.namespace).find(&key.name).await?.map(|object| object.metadata)) })
    }
    fn any_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<bool, ClientError>> {
        let params = ListParams { limit: Some(1), ..ListParams::default() };
        Box::pin(async move { Ok(!api::<Bare<K>>(&self.client, namespace).list(&params).await?.items.is_empty()) })
    }
    fn delete<'a>(&'a self, key: &'a ObjectKey, params: &'a DeleteParams) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(async move { api::<Bare<K>>(&self.client, &key.namespace).delete(&key.name, params).await })
    }
    fn delete_all<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(delete_all::<Bare<K>>(&self.client, namespace))
    }
    fn patch<'a>(&'a self, key: &'a ObjectKey, patch: Value) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(async move {
            let patch = Patch::Merge(patch);
            api::<Bare<K>>(&self.client, &key.namespace).patch(&key.name, &patch, &WriteParams::default()).await.map(drop)
        })
    }
}

impl<K: Kind> Watched for Typed<K> {
    fn watch(&self, sources: Sources<Item>, kind: usize, graph: Arc<Mutex<Graph>>) -> Sources<Item> {
        sources.watch(&self.informer, move |key, object| {
            let item = Item { kind, key: key.clone() };
            graph.lock().unwrap_or_else(PoisonError::into_inner).update(&item, object.map(|object| object.meta()))
        })
    }
    fn watch_namespaces(
        &self,
        sources: Sources<ObjectKey>,
        concerned: fn(&Context, &str) -> bool,
        context: &Context,
    ) -> Sources<ObjectKey> {
        let context = context.clone();
        sources.watch_after(EMPTYING_STEP, &self.informer, move |key, _| {
            concerned(&context, &key.namespace).then(|| ObjectKey::new("", key.namespace.clone())).into_iter().collect()
        })
    }
}

fn count<K: Kind>(informer: &Informer<K>, namespace: &str) -> (usize, usize) {
    let objects = informer.list();
    let here = objects.iter().filter(|object| object.meta().namespace.as_deref() == Some(namespace));
    here.fold((0, 0), |(all, staying), object| (all + 1, staying + usize::from(!object.is_terminating())))
}

impl Access for CustomKind {
    fn kind(&self) -> &str {
        &self.kind
    }
    fn is_called(&self, api_version: &str, kind: &str) -> bool {
        let version = api_version.strip_prefix(self.resource.group.as_str()).and_then(|rest| rest.strip_prefix('/'));
        kind == self.kind && version.is_some_and(|version| self.versions.iter().any(|served| served == version))
    }
    fn namespaced(&self) -> bool {
        self.resource.namespaced
    }
    fn cached(&self, key: &ObjectKey) -> Option<ObjectMeta> {
        self.informer.get(key).map(|object| object.metadata.clone())
    }
    fn count(&self, namespace: &str) -> (usize, usize) {
        count(&self.informer, namespace)
    }
    fn live<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<ObjectMeta>, ClientError>> {
        Box::pin(async move {
            match self.api(&key.namespace).get(&key.name).await {
                Ok(object) => Ok(serde_json::from_value::<AnyObject>(object).ok().map(|object| object.metadata)),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        })
    }
    fn any_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<bool, ClientError>> {
        let params = ListParams { limit: Some(1), ..ListParams::default() };
        Box::pin(async move {
            match self.api(namespace).list(&params).await {
                Ok(list) => Ok(!list.items.is_empty()),
                // The kind is gone, and its objects with it.
                Err(error) if error.is_not_found() => Ok(false),
                Err(error) => Err(error),
            }
        })
    }
    fn delete<'a>(&'a self, key: &'a ObjectKey, params: &'a DeleteParams) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(async move { self.api(&key.namespace).delete(&key.name, params).await.map(drop) })
    }
    fn delete_all<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(async move {
            let api = self.api(namespace);
            let mut slice = ListParams { limit: Some(SLICE), ..ListParams::default() };
            loop {
                match api.delete_collection(&slice, &DeleteParams::default()).await {
                    Ok(Some(token)) => slice.continue_token = Some(token),
                    Ok(None) => return Ok(()),
                    Err(error) if error.is_not_found() => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        })
    }
    fn patch<'a>(&'a self, key: &'a ObjectKey, patch: Value) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(
            async move { self.api(&key.namespace).patch(&key.name, None, &Patch::Merge(patch), &WriteParams::default()).await.map(drop) },
        )
    }
}

#[cfg(test)]
mod tests {
    use gantry_api::registry::kinds;

    /// Kinds without stored objects, or that own nothing and are owned by nothing.
    const LEFT_OUT: &[&str] = &["Event", "Pod", "Service", "ApplyRequest"];

    #[test]
    fn every_stored_kind_is_collected() {
        for info in kinds().iter().filter(|info| !LEFT_OUT.contains(&info.kind.as_str())) {
            assert!(
                super::super::INFO.watches.contains(&info.kind.as_str()),
                "{} is missing from the table and from accesses()",
                info.kind
            );
        }
    }
}
