//! Typed access to the objects of one kind.

use std::marker::PhantomData;

use futures_util::stream::BoxStream;
use gantry_api::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ClientError;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// They are deleted afterwards.
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
    pub async fn get(&self, _name: &str) -> Result<K, ClientError> {
        unimplemented!()
    }
    /// The object, `None` when absent.
    pub async fn find(&self, _name: &str) -> Result<Option<K>, ClientError> {
        unimplemented!()
    }
    /// The objects, at one revision.
    pub async fn list(&self, _params: &ListParams) -> Result<List<K>, ClientError> {
        unimplemented!()
    }
    /// The changes. The stream ends when the server ends it; a 410 comes as an error.
    pub async fn watch(&self, _params: &WatchParams) -> Result<BoxStream<'static, Result<WatchEvent<K>, ClientError>>, ClientError> {
        unimplemented!()
    }
    /// Creates; the namespace of the `Api` is filled in.
    pub async fn create(&self, _object: &K, _params: &WriteParams) -> Result<K, ClientError> {
        unimplemented!()
    }
    /// Replaces, by `metadata.resourceVersion`.
    pub async fn update(&self, _object: &K, _params: &WriteParams) -> Result<K, ClientError> {
        unimplemented!()
    }
    /// Replaces the status, by `metadata.resourceVersion`.
    pub async fn update_status(&self, _object: &K) -> Result<K, ClientError> {
        unimplemented!()
    }
    /// Changes parts.
    pub async fn patch(&self, _name: &str, _patch: &Patch, _params: &WriteParams) -> Result<K, ClientError> {
        unimplemented!()
    }
    /// Changes parts of the status.
    pub async fn patch_status(&self, _name: &str, _patch: &Patch) -> Result<K, ClientError> {
        unimplemented!()
    }
    /// Posts to a subresource such as `binding`.
    pub async fn post_subresource(&self, _name: &str, _subresource: &str, _body: &Value) -> Result<Value, ClientError> {
        unimplemented!()
    }
    /// Deletes, or asks for deletion when finalizers are there.
    pub async fn delete(&self, _name: &str, _params: &DeleteParams) -> Result<(), ClientError> {
        unimplemented!()
    }
    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// The namespace, `None` for all.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}
