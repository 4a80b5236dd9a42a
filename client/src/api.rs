//! Typed access to the objects of one kind.

use std::marker::PhantomData;

use futures_util::stream::BoxStream;
use gantry_api::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dynamic::{DynamicApi, Resource};
use crate::endpoint::Endpoint;
use crate::error::ClientError;
use crate::request::JSON;
use crate::transport::Client;

/// Access to the objects of kind `K`, in one namespace or in all. Cheap to clone.
pub struct Api<K> {
    client: Client,
    namespace: Option<String>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), namespace: self.namespace.clone(), kind: PhantomData }
    }
}

/// Which objects a list or watch is about.
#[derive(Debug, Clone, Default)]
pub struct ListParams {
    /// Label selector.
    pub labels: Option<String>,
    /// Field selector.
    pub fields: Option<String>,
    /// Page size.
    pub limit: Option<u32>,
    /// Token of the next page.
    pub continue_token: Option<String>,
    /// `resourceVersion` of the request.
    pub resource_version: Option<String>,
}

/// Which changes a watch is about.
#[derive(Debug, Clone, Default)]
pub struct WatchParams {
    /// Label selector.
    pub labels: Option<String>,
    /// Field selector.
    pub fields: Option<String>,
    /// After this version; `None`: begins with everything as ADDED.
    pub resource_version: Option<String>,
    /// Whether to send bookmarks.
    pub bookmarks: bool,
    /// The stream ends after so many seconds.
    pub timeout_seconds: Option<u32>,
}

/// How to write.
#[derive(Debug, Clone, Default)]
pub struct WriteParams {
    /// Validate and compute everything, store nothing.
    pub dry_run: bool,
    /// `Strict`, `Warn` or `Ignore`.
    pub field_validation: Option<String>,
    /// Take fields over from other appliers.
    pub force: bool,
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteParams {
    /// Only this incarnation.
    pub uid: Option<String>,
    /// Only this version.
    pub resource_version: Option<String>,
    /// What becomes of dependents. Default: Background.
    pub propagation: Option<Propagation>,
    /// Overrides the object's own grace.
    pub grace_period_seconds: Option<i64>,
    /// Check only.
    pub dry_run: bool,
}

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// They are deleted afterwards.
    #[default]
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// A partial change.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(Value),
    /// Kubernetes' strategic merge; own kinds refuse it.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

/// A list at one revision.
#[derive(Debug, Clone)]
pub struct List<K> {
    /// The objects.
    pub items: Vec<K>,
    /// The revision at which all of them stood so.
    pub resource_version: String,
    /// Token of the next page.
    pub continue_token: Option<String>,
}

/// One change.
#[derive(Debug, Clone)]
pub enum WatchEvent<K> {
    /// New, or new to the selection.
    Added(K),
    /// Changed.
    Modified(K),
    /// Gone, or gone from the selection; the last state.
    Deleted(K),
    /// Everything up to this version has been delivered.
    Bookmark(String),
}

impl<K: Kind> Api<K> {
    /// All namespaces, or a cluster-scoped kind.
    pub fn all(client: &Client) -> Self {
        Self { client: client.clone(), namespace: None, kind: PhantomData }
    }
    /// One namespace.
    pub fn namespaced(client: &Client, namespace: &str) -> Self {
        Self { client: client.clone(), namespace: Some(namespace.to_owned()), kind: PhantomData }
    }
    /// The object; 404 when absent.
    pub async fn get(&self, name: &str) -> Result<K, ClientError> {
        self.endpoint().get(&self.client, name, JSON).await
    }
    /// The object, `None` when absent.
    pub async fn find(&self, name: &str) -> Result<Option<K>, ClientError> {
        match self.get(name).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }
    /// The objects, at one revision.
    pub async fn list(&self, params: &ListParams) -> Result<List<K>, ClientError> {
        self.endpoint().list(&self.client, params).await
    }
    /// The changes. The stream ends when the server ends it; a 410 comes as an error.
    pub async fn watch(&self, params: &WatchParams) -> Result<BoxStream<'static, Result<WatchEvent<K>, ClientError>>, ClientError> {
        self.endpoint().watch(&self.client, params, JSON).await
    }
    /// Creates; the namespace of the `Api` is filled in.
    pub async fn create(&self, object: &K, params: &WriteParams) -> Result<K, ClientError> {
        let mut object = object.clone();
        if object.meta().namespace.is_none() {
            object.meta_mut().namespace = self.namespace.clone();
        }
        self.endpoint_of(&object).create(&self.client, &object, params).await
    }
    /// Replaces, by `metadata.resourceVersion`.
    pub async fn update(&self, object: &K, params: &WriteParams) -> Result<K, ClientError> {
        self.endpoint_of(object).update(&self.client, (object.name(), None), object, params).await
    }
    /// Replaces the status, by `metadata.resourceVersion`.
    pub async fn update_status(&self, object: &K) -> Result<K, ClientError> {
        self.endpoint_of(object).update(&self.client, (object.name(), Some("status")), object, &WriteParams::default()).await
    }
    /// Changes parts.
    pub async fn patch(&self, name: &str, patch: &Patch, params: &WriteParams) -> Result<K, ClientError> {
        self.endpoint().patch(&self.client, (name, None), patch, params).await
    }
    /// Changes parts of the status.
    pub async fn patch_status(&self, name: &str, patch: &Patch) -> Result<K, ClientError> {
        // The parts of the engine own their status fields; nobody else's claim may stop them.
        let params = WriteParams { force: true, ..WriteParams::default() };
        self.endpoint().patch(&self.client, (name, Some("status")), patch, &params).await
    }
    /// Posts to a subresource such as `binding`.
    pub async fn post_subresource(&self, name: &str, subresource: &str, body: &Value) -> Result<Value, ClientError> {
        self.endpoint().post_subresource(&self.client, (name, subresource), body).await
    }
    /// Deletes, or asks for deletion when finalizers are there.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<(), ClientError> {
        self.endpoint().delete(&self.client, name, params).await.map(drop)
    }
    /// Deletes what `which` selects, or asks for its deletion: at most `which.limit` objects at once. Gives back the token to go on
    /// with when there are more.
    pub async fn delete_collection(&self, which: &ListParams, params: &DeleteParams) -> Result<Option<String>, ClientError> {
        self.endpoint().delete_collection(&self.client, which, params).await
    }
    /// The same without the type.
    pub(crate) fn into_dynamic(self) -> DynamicApi {
        DynamicApi::of(self.client, Resource::of::<K>(), self.namespace.filter(|_| K::NAMESPACED))
    }
    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// The namespace, `None` for all.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
    /// The address of the collection in this `Api`'s namespace.
    pub(crate) fn endpoint(&self) -> Endpoint<'_> {
        Endpoint { group: K::GROUP, version: K::VERSION, plural: K::PLURAL, namespace: self.namespace.as_deref().filter(|_| K::NAMESPACED) }
    }
    /// The address of the collection that `object` belongs to: its own namespace, when this `Api` has none.
    fn endpoint_of<'a>(&'a self, object: &'a K) -> Endpoint<'a> {
        let namespace = self.namespace.as_deref().or(object.meta().namespace.as_deref());
        Endpoint { namespace: namespace.filter(|_| K::NAMESPACED), ..self.endpoint() }
    }
}
