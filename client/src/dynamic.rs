//! Access to objects whose kind is known only at run time.

use futures_util::stream::BoxStream;
use gantry_api::Kind;
use gantry_api::registry::KindInfo;
use http::Method;
use serde_json::Value;

use crate::api::{DeleteParams, List, ListParams, Patch, WatchEvent, WatchParams, WriteParams};
use crate::endpoint::Endpoint;
use crate::error::ClientError;
use crate::request::JSON;
use crate::transport::Client;

/// `Accept` of a request for a table that the server renders.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// A resource: a kind as URLs call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Lower-case plural.
    pub plural: String,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
}

impl Resource {
    /// The resource of a kind that is known here.
    pub(crate) fn of<K: Kind>() -> Self {
        Self { group: K::GROUP.into(), version: K::VERSION.into(), plural: K::PLURAL.into(), namespaced: K::NAMESPACED }
    }
}

impl From<&KindInfo> for Resource {
    fn from(kind: &KindInfo) -> Self {
        Self { group: kind.group.clone(), version: kind.version.clone(), plural: kind.plural.clone(), namespaced: kind.namespaced }
    }
}

/// Access to the objects of one resource, in one namespace or in all, as JSON. Cheap to clone.
#[derive(Clone)]
pub struct DynamicApi {
    client: Client,
    resource: Resource,
    namespace: Option<String>,
}

impl DynamicApi {
    /// The same, of a resource whose namespace is settled.
    pub(crate) fn of(client: Client, resource: Resource, namespace: Option<String>) -> Self {
        Self { client, resource, namespace }
    }
    /// In `namespace`, or all; the namespace of a cluster-scoped resource is ignored.
    pub fn new(client: &Client, resource: Resource, namespace: Option<&str>) -> Self {
        let namespace = namespace.filter(|_| resource.namespaced).map(str::to_owned);
        Self { client: client.clone(), resource, namespace }
    }
    /// The object; 404 when absent.
    pub async fn get(&self, name: &str) -> Result<Value, ClientError> {
        self.endpoint().get(&self.client, name, JSON).await
    }
    /// The object as a table of one row.
    pub async fn get_table(&self, name: &str) -> Result<Value, ClientError> {
        self.endpoint().get(&self.client, name, TABLE).await
    }
    /// The objects, at one revision.
    pub async fn list(&self, params: &ListParams) -> Result<List<Value>, ClientError> {
        self.endpoint().list(&self.client, params).await
    }
    /// The objects as a table, with `metadata.resourceVersion` and `metadata.continue`.
    pub async fn list_table(&self, params: &ListParams) -> Result<Value, ClientError> {
        self.client.exchange(Method::GET, &self.endpoint().list_path(params), TABLE, JSON, None).await
    }
    /// The same with the whole object in each row, to order rows by what is not in their cells.
    pub async fn list_table_of_objects(&self, params: &ListParams) -> Result<Value, ClientError> {
        let path = self.endpoint().list_query(params).query("includeObject", "Object").finish();
        self.client.exchange(Method::GET, &path, TABLE, JSON, None).await
    }
    /// The changes. The stream ends when the server ends it; a 410 comes as an error.
    pub async fn watch(&self, params: &WatchParams) -> Result<BoxStream<'static, Result<WatchEvent<Value>, ClientError>>, ClientError> {
        self.endpoint().watch(&self.client, params, JSON).await
    }
    /// The changes, each as a table of one row.
    pub async fn watch_table(
        &self,
        params: &WatchParams,
    ) -> Result<BoxStream<'static, Result<WatchEvent<Value>, ClientError>>, ClientError> {
        self.endpoint().watch(&self.client, params, TABLE).await
    }
    /// Creates.
    pub async fn create(&self, object: &Value, params: &WriteParams) -> Result<Value, ClientError> {
        self.endpoint().create(&self.client, object, params).await
    }
    /// Replaces, by `metadata.resourceVersion`.
    pub async fn update(&self, name: &str, object: &Value, params: &WriteParams) -> Result<Value, ClientError> {
        self.endpoint().update(&self.client, (name, None), object, params).await
    }
    /// Changes parts of the object, or of its `subresource`.
    pub async fn patch(&self, name: &str, subresource: Option<&str>, patch: &Patch, params: &WriteParams) -> Result<Value, ClientError> {
        self.endpoint().patch(&self.client, (name, subresource), patch, params).await
    }
    /// Deletes, or asks for deletion when finalizers are there: the answer is a Status or the object that is going.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<Value, ClientError> {
        self.endpoint().delete(&self.client, name, params).await
    }
    /// Deletes what `which` selects, or asks for its deletion: at most `which.limit` objects at once. Gives back the token to go on
    /// with when there are more.
    pub async fn delete_collection(&self, which: &ListParams, params: &DeleteParams) -> Result<Option<String>, ClientError> {
        self.endpoint().delete_collection(&self.client, which, params).await
    }
    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// The resource.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }
    /// The namespace, `None` for all.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
    pub(crate) fn endpoint(&self) -> Endpoint<'_> {
        Endpoint {
            group: &self.resource.group,
            version: &self.resource.version,
            plural: &self.resource.plural,
            namespace: self.namespace.as_deref(),
        }
    }
}
