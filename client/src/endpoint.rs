//! The verbs of one resource over any type of object: typed access and access by name of the kind are both made of it.

use futures_util::stream::BoxStream;
use http::Method;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::api::{DeleteParams, List, ListParams, Patch, WatchEvent, WatchParams, WriteParams};
use crate::body::Lines;
use crate::error::{ClientError, Status};
use crate::request::{JSON, PathBuilder, encode};
use crate::transport::Client;

/// The longest line of a watch, in bytes: an object may have 3 MiB, its JSON escapes a little more.
const WATCH_LINE_LIMIT: usize = 16 << 20;

/// Metadata will do.
const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// Where the objects of one resource are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) plural: &'a str,
    pub(crate) namespace: Option<&'a str>,
}

impl Endpoint<'_> {
    pub(crate) fn collection(&self) -> PathBuilder {
        let path = if self.group.is_empty() { PathBuilder::new("/api") } else { PathBuilder::new("/apis").segment(self.group) };
        let path = path.segment(self.version);
        let path = match self.namespace {
            Some(namespace) => path.segment("namespaces").segment(namespace),
            None => path,
        };
        path.segment(self.plural)
    }

    fn object(&self, name: &str, subresource: Option<&str>) -> Result<PathBuilder, ClientError> {
        if name.is_empty() {
            return Err(ClientError::Transport { message: format!("address one of {}: the name is empty", self.plural), source: None });
        }
        let path = self.collection().segment(name);
        Ok(match subresource {
            Some(subresource) => path.segment(subresource),
            None => path,
        })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, client: &Client, name: &str, accept: &str) -> Result<T, ClientError> {
        client.exchange(Method::GET, &self.object(name, None)?.finish(), accept, JSON, None).await
    }

    pub(crate) async fn list<T: DeserializeOwned>(&self, client: &Client, params: &ListParams) -> Result<List<T>, ClientError> {
        let raw: RawList<T> = client.exchange(Method::GET, &self.list_path(params), JSON, JSON, None).await?;
        Ok(List {
            items: raw.items.unwrap_or_default(),
            resource_version: raw.metadata.resource_version,
            continue_token: Some(raw.metadata.continue_token).filter(|token| !token.is_empty()),
        })
    }

    pub(crate) fn list_path(&self, params: &ListParams) -> String {
        self.list_query(params).finish()
    }

    pub(crate) fn list_query(&self, params: &ListParams) -> PathBuilder {
        self.collection()
            .maybe("labelSelector", params.labels.as_deref())
            .maybe("fieldSelector", params.fields.as_deref())
            .maybe("limit", params.limit.map(|n| n.to_string()).as_deref())
            .maybe("continue", params.continue_token.as_deref())
            .maybe("resourceVersion", params.resource_version.as_deref())
    }

    pub(crate) async fn watch<T: DeserializeOwned + Send + 'static>(
        &self,
        client: &Client,
        params: &WatchParams,
        accept: &str,
    ) -> Result<BoxStream<'static, Result<WatchEvent<T>, ClientError>>, ClientError> {
        let path = self
            .collection()
            .query("watch", "true")
            .maybe("labelSelector", params.labels.as_deref())
            .maybe("fieldSelector", params.fields.as_deref())
            .maybe("resourceVersion", params.resource_version.as_deref())
            .maybe("allowWatchBookmarks", params.bookmarks.then_some("true"))
            .maybe("timeoutSeconds", params.timeout_seconds.map(|n| n.to_string()).as_deref())
            .finish();
        let body = client.open(&path, accept).await?;
        Ok(events(Lines::new(body, WATCH_LINE_LIMIT), path))
    }

    pub(crate) async fn create<T: DeserializeOwned>(
        &self,
        client: &Client,
        object: &impl Serialize,
        params: &WriteParams,
    ) -> Result<T, ClientError> {
        let path = write_query(self.collection(), client, params).finish();
        client.exchange(Method::POST, &path, JSON, JSON, Some(encode(object, &path)?)).await
    }

    pub(crate) async fn update<T: DeserializeOwned>(
        &self,
        client: &Client,
        (name, subresource): (&str, Option<&str>),
        object: &impl Serialize,
        params: &WriteParams,
    ) -> Result<T, ClientError> {
        let path = write_query(self.object(name, subresource)?, client, params).finish();
        client.exchange(Method::PUT, &path, JSON, JSON, Some(encode(object, &path)?)).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        client: &Client,
        (name, subresource): (&str, Option<&str>),
        patch: &Patch,
        params: &WriteParams,
    ) -> Result<T, ClientError> {
        let path = write_query(self.object(name, subresource)?, client, params);
        let (content_type, body, path) = match patch {
            Patch::Merge(body) => ("application/merge-patch+json", body, path),
            Patch::Json(body) => ("application/json-patch+json", body, path),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body, path),
            Patch::Apply(body) => ("application/apply-patch+yaml", body, path.query("force", if params.force { "true" } else { "false" })),
        };
        let path = path.finish();
        client.exchange(Method::PATCH, &path, JSON, content_type, Some(encode(body, &path)?)).await
    }

    pub(crate) async fn post_subresource(
        &self,
        client: &Client,
        (name, subresource): (&str, &str),
        body: &Value,
    ) -> Result<Value, ClientError> {
        let path = write_query(self.object(name, Some(subresource))?, client, &WriteParams::default()).finish();
        client.exchange(Method::POST, &path, JSON, JSON, Some(encode(body, &path)?)).await
    }

    pub(crate) async fn delete(&self, client: &Client, name: &str, params: &DeleteParams) -> Result<Value, ClientError> {
        let path = self.object(name, None)?.finish();
        client.exchange(Method::DELETE, &path, JSON, JSON, Some(encode(&delete_options(params), &path)?)).await
    }

    /// Gives back the token to go on with, if the limit left any.
    pub(crate) async fn delete_collection(
        &self,
        client: &Client,
        which: &ListParams,
        params: &DeleteParams,
    ) -> Result<Option<String>, ClientError> {
        let path = self.list_path(which);
        let body = encode(&delete_options(params), &path)?;
        let list: RawList<IgnoredAny> = client.exchange(Method::DELETE, &path, PARTIAL, JSON, Some(body)).await?;
        Ok(Some(list.metadata.continue_token).filter(|token| !token.is_empty()))
    }
}

fn write_query(path: PathBuilder, client: &Client, params: &WriteParams) -> PathBuilder {
    path.query("fieldManager", client.manager())
        .maybe("dryRun", params.dry_run.then_some("All"))
        .maybe("fieldValidation", params.field_validation.as_deref())
}

fn delete_options(params: &DeleteParams) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": params.propagation.unwrap_or_default()});
    let mut preconditions = serde_json::Map::new();
    if let Some(uid) = &params.uid {
        preconditions.insert("uid".to_owned(), json!(uid));
    }
    if let Some(version) = &params.resource_version {
        preconditions.insert("resourceVersion".to_owned(), json!(version));
    }
    if !preconditions.is_empty() {
        options["preconditions"] = Value::Object(preconditions);
    }
    if let Some(seconds) = params.grace_period_seconds {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    if params.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct RawList<T> {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListMeta {
    #[serde(rename = "resourceVersion")]
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: String,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    type_: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Decodes the lines of a watch. A line that cannot be decoded is an error and the stream goes on; after a refusal by the server
/// or a broken connection it ends.
fn events<T: DeserializeOwned + Send + 'static>(lines: Lines, path: String) -> BoxStream<'static, Result<WatchEvent<T>, ClientError>> {
    let state = Some((lines, path));
    Box::pin(futures_util::stream::unfold(state, |state| async {
        let (mut lines, path) = state?;
        match lines.next().await {
            Ok(None) => None,
            Ok(Some(line)) => {
                let event = decode_event(&line, &path);
                let fatal = matches!(event, Err(ClientError::Api(_)));
                Some((event, (!fatal).then_some((lines, path))))
            }
            Err(error) => Some((Err(ClientError::transport(format!("watch {path}"), error)), None)),
        }
    }))
}

fn decode_event<T: DeserializeOwned>(line: &[u8], path: &str) -> Result<WatchEvent<T>, ClientError> {
    let failed = |source| ClientError::Decode { request: format!("WATCH {path}"), source };
    let event: RawEvent<'_> = serde_json::from_slice(line).map_err(failed)?;
    let object = || serde_json::from_str::<T>(event.object.get()).map_err(failed);
    match event.type_ {
        "ADDED" => object().map(WatchEvent::Added),
        "MODIFIED" => object().map(WatchEvent::Modified),
        "DELETED" => object().map(WatchEvent::Deleted),
        "BOOKMARK" => {
            let bookmark: RawList<serde::de::IgnoredAny> = serde_json::from_str(event.object.get()).map_err(failed)?;
            Ok(WatchEvent::Bookmark(bookmark.metadata.resource_version))
        }
        "ERROR" => {
            let status: Status = serde_json::from_str(event.object.get()).map_err(failed)?;
            Err(ClientError::Api(Box::new(status)))
        }
        other => Err(failed(serde::de::Error::custom(format!("unknown type of event {other:?}")))),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::body;

    #[test]
    fn paths_follow_group_and_namespace() {
        let ours = Endpoint { group: "gantry.dev", version: "v1", plural: "containers", namespace: Some("a") };
        assert_eq!(ours.object("web", Some("status")).unwrap().finish(), "/apis/gantry.dev/v1/namespaces/a/containers/web/status");
        let core = Endpoint { group: "", version: "v1", plural: "nodes", namespace: None };
        assert_eq!(core.collection().finish(), "/api/v1/nodes");
        assert!(core.object("", None).is_err(), "an empty name would address the collection");
    }

    #[tokio::test]
    async fn events_are_decoded_and_an_error_ends_the_watch() {
        let text = concat!(
            "{\"type\":\"ADDED\",\"object\":{\"n\":1}}\n{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"X\",\"metadata\":{\"resourceVersion\":\"7\"}}}\n",
            "{\"type\":\"MODIFIED\",\"object\":\"no object\"}\n{\"type\":\"DELETED\",\"object\":{\"n\":2}}\n",
            "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\",\"message\":\"too old\"}}\n{\"type\":\"ADDED\",\"object\":{}}\n"
        );
        let lines = Lines::new(body::full(text), 1000);
        let mut stream = events::<serde_json::Map<String, Value>>(lines, "/x".into());
        assert!(matches!(stream.next().await, Some(Ok(WatchEvent::Added(o))) if o["n"] == 1));
        assert!(matches!(stream.next().await, Some(Ok(WatchEvent::Bookmark(v))) if v == "7"));
        assert!(matches!(stream.next().await, Some(Err(ClientError::Decode { .. }))));
        assert!(matches!(stream.next().await, Some(Ok(WatchEvent::Deleted(o))) if o["n"] == 2));
        assert!(stream.next().await.unwrap().unwrap_err().is_expired());
        assert!(stream.next().await.is_none());
    }

    #[test]
    fn delete_options_hold_what_was_asked() {
        let params = DeleteParams { uid: Some("u".into()), dry_run: true, grace_period_seconds: Some(0), ..Default::default() };
        let options = delete_options(&params);
        assert_eq!(options["preconditions"], json!({"uid": "u"}));
        assert_eq!(options["dryRun"], json!(["All"]));
        assert_eq!((&options["gracePeriodSeconds"], &options["propagationPolicy"]), (&json!(0), &json!("Background")));
    }
}
