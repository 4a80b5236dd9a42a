//! A local copy of the objects of one kind, kept current by a watch.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use gantry_api::{Kind, ObjectKey};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::{Api, ListParams, WatchEvent, WatchParams};
use crate::backoff::Backoff;
use crate::cache::{Cache, Changes};
use crate::dynamic::DynamicApi;
use crate::error::ClientError;
use crate::wait::is_transient;

/// Objects a page of the first list.
const PAGE: u32 = 500;
/// The shortest life of a watch that the server is asked for, in seconds; up to twice as long.
const WATCH_SECONDS: u32 = 300;
/// How long after its end a watch is given up that the server did not end.
const WATCH_GRACE: Duration = Duration::from_secs(30);

/// A local copy of the objects of one kind, kept current by list and watch for ever: a cut watch resumes, a 410 lists again,
/// an unreachable server is tried again with back-off. Each object is decoded once. Cheap to clone; the last clone to go stops it.
pub struct Informer<K> {
    cache: Arc<Cache<K>>,
    /// Only objects of this namespace are here; `None`: of all.
    namespace: Option<Arc<str>>,
    /// Whether a selector limits what is here.
    selective: bool,
    _owner: Arc<DropGuard>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), namespace: self.namespace.clone(), selective: self.selective, _owner: self._owner.clone() }
    }
}

impl<K: Kind> Informer<K> {
    /// Starts following what `params` select, until `stop`. Page size, token and version in `params` are ignored.
    pub fn start(api: Api<K>, params: ListParams, stop: CancellationToken) -> Self {
        Self::follow(api.into_dynamic(), params, stop)
    }
    /// The same of a resource that is known at run time only; `K` is what is kept of its objects, and its names do not matter.
    pub fn follow(api: DynamicApi, params: ListParams, stop: CancellationToken) -> Self {
        let cache = Arc::new(Cache::default());
        let dropped = CancellationToken::new();
        let informer = Self {
            cache: cache.clone(),
            namespace: api.namespace().map(Into::into),
            selective: params.labels.is_some() || params.fields.is_some(),
            _owner: Arc::new(dropped.clone().drop_guard()),
        };
        tokio::spawn(async move {
            let follower = Follower { backoff: Backoff::new(api.client().seed, &api.resource().plural), api, params, cache: cache.clone() };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = dropped.cancelled() => {}
                () = follower.run() => {}
            }
            cache.close();
        });
        informer
    }
    /// Resolves once the first list is in, or the informer has been stopped (see [`Informer::is_synced`]).
    pub async fn synced(&self) {
        self.cache.synced().await;
    }
    /// Whether the first list is in.
    pub fn is_synced(&self) -> bool {
        self.cache.is_synced()
    }
    /// One object as last seen.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.cache.get(key)
    }
    /// All objects as last seen, in order of their keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.cache.list()
    }
    /// Keys that changed, from now on; every key that is here is sent first. What waits is bounded by coalescing:
    /// a key that is waiting to be received is not queued twice. Objects are read by [`Informer::get`] (`None`: deleted).
    pub fn changes(&self) -> Changes<K> {
        Cache::subscribe(&self.cache)
    }
    /// The object as a write that this process just made left it, so that the next read does not go back in time.
    /// Ignored when the watch has delivered a newer version. An object that is not here yet is taken in only when no selector could
    /// exclude it.
    pub fn observe_write(&self, object: K) {
        let elsewhere = self.namespace.as_deref().is_some_and(|ours| object.meta().namespace.as_deref() != Some(ours));
        if !elsewhere {
            self.cache.observe(object, !self.selective);
        }
    }
}

/// The task behind an informer.
struct Follower<K> {
    api: DynamicApi,
    params: ListParams,
    cache: Arc<Cache<K>>,
    backoff: Backoff,
}

/// Why a watch ended.
enum Ended {
    /// It can be taken up where it ended.
    Resume { progress: bool },
    /// The server no longer has the history, or there is none to resume from.
    ListAgain,
}

impl<K: Kind> Follower<K> {
    async fn run(mut self) {
        loop {
            let version = match self.list().await {
                Ok(version) => version,
                Err(error) => {
                    self.pause("list", &error).await;
                    continue;
                }
            };
            self.backoff.reset();
            self.follow(version).await;
        }
    }

    /// Lists everything, page by page at one revision; each object is decoded by itself, so that one bad one hides no other.
    async fn list(&self) -> Result<u64, ClientError> {
        let mut params = ListParams { limit: Some(PAGE), ..self.params.clone() };
        (params.continue_token, params.resource_version) = (None, None);
        let mut objects = Vec::new();
        loop {
            let page = self.api.endpoint().list::<Box<RawValue>>(self.api.client(), &params).await?;
            objects.extend(page.items.iter().filter_map(|raw| decode::<K>(raw.get())));
            if page.continue_token.is_none() {
                let version = version_of(&page.resource_version);
                self.cache.replace(objects, version);
                return Ok(version);
            }
            params.continue_token = page.continue_token;
        }
    }

    /// Watches from `version` on, again and again, until the history is lost.
    async fn follow(&mut self, mut version: u64) {
        loop {
            match self.watch(version).await {
                Ok(Ended::ListAgain) => return,
                Ok(Ended::Resume { progress }) => {
                    if progress {
                        self.backoff.reset();
                    } else {
                        tokio::time::sleep(self.backoff.next()).await;
                    }
                }
                Err(error) if error.is_expired() => return,
                Err(error) => {
                    let listless = !is_transient(&error);
                    self.pause("watch", &error).await;
                    if listless {
                        return;
                    }
                }
            }
            version = self.cache.version();
        }
    }

    /// One watch, until it ends.
    async fn watch(&mut self, version: u64) -> Result<Ended, ClientError> {
        let seconds = WATCH_SECONDS + (self.backoff.fraction() * f64::from(WATCH_SECONDS)) as u32;
        let params = WatchParams {
            labels: self.params.labels.clone(),
            fields: self.params.fields.clone(),
            resource_version: Some(version.to_string()),
            bookmarks: true,
            timeout_seconds: Some(seconds),
        };
        let mut events = self.api.endpoint().watch::<Box<RawValue>>(self.api.client(), &params, crate::request::JSON).await?;
        let deadline = tokio::time::sleep(Duration::from_secs(seconds.into()) + WATCH_GRACE);
        tokio::pin!(deadline);
        let mut progress = false;
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                // A peer that vanished without a word would otherwise be listened to for ever.
                () = &mut deadline => return Ok(Ended::Resume { progress: true }),
            };
            match event {
                None => return Ok(Ended::Resume { progress }),
                Some(Err(ClientError::Decode { request, source })) => {
                    tracing::error!(%request, error = %source, "an event could not be read; listing again");
                    return Ok(Ended::ListAgain);
                }
                Some(event) => self.take(event?),
            }
            progress = true;
        }
    }

    fn take(&self, event: WatchEvent<Box<RawValue>>) {
        match event {
            WatchEvent::Added(raw) | WatchEvent::Modified(raw) => match decode::<K>(raw.get()) {
                Some(object) => self.cache.put(object),
                // What cannot be read is as good as absent; keeping the older state would pretend that it still holds.
                None => self.forget(raw.get()),
            },
            WatchEvent::Deleted(raw) => self.forget(raw.get()),
            WatchEvent::Bookmark(version) => self.cache.advance(version_of(&version)),
        }
    }

    fn forget(&self, raw: &str) {
        let Ok(object) = serde_json::from_str::<Value>(raw) else { return };
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        self.cache.remove(&ObjectKey::new(text("namespace"), text("name")), version_of(&text("resourceVersion")));
    }

    async fn pause(&mut self, doing: &str, error: &ClientError) {
        let pause = self.backoff.next();
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        tracing::warn!(kind = K::KIND, %error, cause, retry_in_ms = pause.as_millis() as u64, "could not {doing}");
        tokio::time::sleep(pause).await;
    }
}

fn decode<K: Kind>(raw: &str) -> Option<K> {
    match serde_json::from_str(raw) {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::error!(kind = K::KIND, %error, "an object could not be read and is treated as absent");
            None
        }
    }
}

/// The number in a `resourceVersion`; the server counts all writes with one counter.
pub(crate) fn version_of(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use gantry_api::kinds::core::ConfigMap;
    use http::{Request, Response};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::body::{BoxError, from_unshared, full};
    use crate::transport::{Body, Client, Transport};

    /// What the server sends next, and the requests that it got.
    #[derive(Default)]
    struct Script {
        answers: Mutex<VecDeque<Answer>>,
        requests: Mutex<Vec<String>>,
    }

    enum Answer {
        Whole(u16, String),
        /// These lines and then silence.
        Open(String),
        Refused,
    }

    impl Transport for Script {
        fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
            self.requests.lock().unwrap().push(request.uri().to_string());
            let answer = self.answers.lock().unwrap().pop_front();
            Box::pin(async move {
                let (code, body) = match answer {
                    None => return std::future::pending().await,
                    Some(Answer::Refused) => return Err(ClientError::transport("connect", "refused")),
                    Some(Answer::Whole(code, text)) => (code, full(text)),
                    Some(Answer::Open(text)) => {
                        let first = futures_util::stream::once(async move { Ok::<_, BoxError>(Frame::data(Bytes::from(text))) });
                        (200, from_unshared(StreamBody::new(Box::pin(first.chain(futures_util::stream::pending())))))
                    }
                };
                Ok(Response::builder().status(code).body(body).unwrap())
            })
        }
    }

    fn object(name: &str, version: u64) -> String {
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"n","resourceVersion":"{version}"}}}}"#)
    }

    fn list(items: &[String], version: u64, next: &str) -> Answer {
        let items = items.join(",");
        Answer::Whole(200, format!(r#"{{"metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{items}]}}"#))
    }

    fn event(type_: &str, object: &str) -> String {
        format!("{{\"type\":\"{type_}\",\"object\":{object}}}\n")
    }

    fn start(answers: Vec<Answer>) -> (Arc<Script>, Informer<ConfigMap>) {
        let script = Arc::new(Script { answers: Mutex::new(answers.into()), ..Script::default() });
        let client = Client::new(script.clone(), "test").with_seed(1);
        (script, Informer::start(Api::all(&client), ListParams::default(), CancellationToken::new()))
    }

    async fn until(informer: &Informer<ConfigMap>, wanted: &[(&str, &str)]) {
        let mut changes = informer.changes();
        loop {
            let now = informer.list();
            let now: Vec<_> = now.iter().map(|o| (o.name(), o.metadata.resource_version.as_deref().unwrap_or_default())).collect();
            if now == wanted {
                return;
            }
            let change = tokio::time::timeout(Duration::from_secs(3600), changes.recv()).await;
            assert!(change.is_ok(), "wanted {wanted:?}, last seen {now:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_joined_and_a_cut_watch_resumes_where_it_ended() {
        let (script, informer) = start(vec![
            Answer::Refused,
            list(&[object("a", 1)], 5, "more"),
            list(&[object("b", 2), "{\"kind\":7}".into()], 5, ""),
            Answer::Whole(200, event("MODIFIED", &object("a", 8)) + &event("BOOKMARK", r#"{"metadata":{"resourceVersion":"9"}}"#)),
            Answer::Refused,
            Answer::Open(event("DELETED", &object("b", 10))),
        ]);
        until(&informer, &[("a", "8")]).await;
        assert!(informer.is_synced());
        let requests = script.requests.lock().unwrap().clone();
        assert!(requests[2].contains("continue=more"), "{requests:?}");
        assert!(requests[3].contains("resourceVersion=5"), "{requests:?}");
        assert!(requests[5].contains("resourceVersion=9"), "{requests:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_watch_lists_again() {
        let gone = r#"{"kind":"Status","code":410,"reason":"Expired","message":"too old"}"#;
        let (_, informer) = start(vec![
            list(&[object("a", 1), object("b", 2)], 5, ""),
            Answer::Whole(200, event("ERROR", gone)),
            list(&[object("b", 2), object("c", 30)], 40, ""),
            Answer::Whole(410, gone.into()),
            list(&[object("c", 30)], 50, ""),
        ]);
        until(&informer, &[("c", "30")]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up() {
        let (script, informer) = start(vec![list(&[], 5, ""), Answer::Open(String::new()), Answer::Open(event("ADDED", &object("a", 6)))]);
        until(&informer, &[("a", "6")]).await;
        assert!(script.requests.lock().unwrap()[2].contains("resourceVersion=5"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_stops_with_its_last_clone() {
        let (_, informer) = start(vec![list(&[object("a", 1)], 5, ""), Answer::Open(String::new())]);
        informer.synced().await;
        let mut changes = informer.clone().changes();
        assert_eq!(changes.recv().await.map(|key| key.name).as_deref(), Some("a"));
        drop(informer);
        assert_eq!(changes.recv().await, None);
    }
}
