//! Watches: one JSON object per line and event, each sent at once.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use futures_util::stream;
use gantry_api::validate::FieldErrorReason;
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::AppState;
use super::dispatch::Target;
use super::error::ApiError;
use super::flow::WatchPlace;
use super::frames::FrameType;
use super::negotiate::Form;
use super::render::{self, View};
use crate::cache::{WatchEnd, WatchError, WatchEvent, WatchStart, Watcher};
use crate::store::Revision;
use crate::strategy::object::resource;

/// How long a request waits for a revision that lies ahead.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between bookmarks of a quiet watch.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// How long a watch lasts that does not say: half an hour, and up to as much again so that not all end together.
const DEFAULT_TIMEOUT_SECONDS: u64 = 30 * 60;
/// The longest that a watch may last.
const MAX_TIMEOUT_SECONDS: u64 = 24 * 60 * 60;

/// Waits until the cache has a revision.
///
/// # Errors
/// 504 when it does not come.
pub(super) async fn reach(target: &Target, revision: Revision) -> Result<(), ApiError> {
    let cache = &target.server.cache;
    match tokio::time::timeout(REACH_TIMEOUT, cache.wait_for(revision)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ApiError::from_read(&error)),
        Err(_) => Err(ApiError::too_large_resource_version(revision, cache.revision())),
    }
}

/// The changes of the selected objects, until the client leaves or time is up.
pub(super) async fn watch(target: &Target) -> Result<Response<Body>, ApiError> {
    let view = target.view(true)?;
    let selection = target.selection()?;
    let params = &target.params;
    let bookmarks = params.flag("allowWatchBookmarks");
    let initial_events = check_initial_events(target)?;
    let start = match params.get("resourceVersion") {
        _ if initial_events == Some(true) => WatchStart::Initial,
        None | Some("0") if initial_events == Some(false) => WatchStart::Now,
        None | Some("0") => WatchStart::Initial,
        Some(text) => {
            let revision = Revision::parse(text).ok_or_else(|| ApiError::bad_request(format!("invalid resource version {text:?}")))?;
            WatchStart::After(revision)
        }
    };
    let asked = params.integer("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let seconds = asked.unwrap_or_else(|| {
        let random = u64::try_from((target.server.random)() % u128::from(DEFAULT_TIMEOUT_SECONDS)).unwrap_or_default();
        DEFAULT_TIMEOUT_SECONDS + random
    });
    let resource = resource(&target.kind);
    if let WatchStart::After(revision) = start {
        reach(target, revision).await?;
    }
    let stream = match target.server.cache.watch(&resource, selection, start) {
        Ok(watcher) => {
            let lasting = Duration::from_secs(seconds.min(MAX_TIMEOUT_SECONDS));
            let place = target.server.flow.watch(&target.identity)?;
            Frames::new(target, view, (watcher, place), bookmarks, initial_events == Some(true), lasting)
        }
        // A stream that says why it ended, as Kubernetes does: reflectors list again.
        Err(error @ WatchError::Expired { .. }) => {
            return Ok(render::json(StatusCode::OK, Body::from(error_frame(&ApiError::from_watch(&error)))));
        }
        Err(error) => return Err(ApiError::from_watch(&error)),
    };
    let body = Body::from_stream(stream::unfold(stream, |mut frames| async move {
        let frame = frames.next().await?;
        Some((Ok::<_, std::convert::Infallible>(frame), frames))
    }));
    Ok(render::json(StatusCode::OK, body))
}

/// `sendInitialEvents` with its company.
fn check_initial_events(target: &Target) -> Result<Option<bool>, ApiError> {
    let params = &target.params;
    let invalid = |field: &str, reason, message: &str| Err(ApiError::invalid_options("ListOptions", field, reason, message));
    let asked = params.has("sendInitialEvents").then(|| params.flag("sendInitialEvents"));
    match (asked, params.get("resourceVersionMatch")) {
        (None, Some(_)) => invalid(
            "resourceVersionMatch",
            FieldErrorReason::Forbidden,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (Some(_), Some("NotOlderThan")) if asked == Some(true) && !params.flag("allowWatchBookmarks") => {
            invalid("allowWatchBookmarks", FieldErrorReason::Forbidden, "sendInitialEvents needs allowWatchBookmarks")
        }
        (Some(_), Some("NotOlderThan")) | (None, None) => Ok(asked),
        (Some(_), _) => invalid(
            "resourceVersionMatch",
            FieldErrorReason::Forbidden,
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
    }
}

/// The frames of one watch.
struct Frames {
    server: AppState,
    view: View,
    watcher: Watcher,
    _place: WatchPlace,
    bookmarks: Option<Interval>,
    /// The bookmark that ends the initial events is marked as such.
    mark_initial_end: bool,
    deadline: Instant,
    stopping: CancellationToken,
    /// Parts of frames that are ready.
    ready: VecDeque<Bytes>,
    told: Option<Revision>,
    over: bool,
}

impl Frames {
    fn new(
        target: &Target,
        view: View,
        (watcher, place): (Watcher, WatchPlace),
        bookmarks: bool,
        mark_initial_end: bool,
        lasting: Duration,
    ) -> Self {
        let start = Instant::now();
        let bookmarks = bookmarks.then(|| {
            let mut interval = interval_at(start + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        let deadline = start + lasting;
        Self {
            server: target.server.clone(),
            view,
            watcher,
            _place: place,
            bookmarks,
            mark_initial_end,
            deadline,
            stopping: target.stopping.clone(),
            ready: VecDeque::new(),
            told: None,
            over: false,
        }
    }

    /// The next piece to send; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            if self.over {
                return None;
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        let bookmark = async {
            match &mut self.bookmarks {
                Some(interval) => interval.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => self.over = true,
            () = sleep_until(self.deadline) => {
                self.bookmark();
                self.over = true;
            }
            event = self.watcher.next() => match event {
                Ok(event) => self.tell(event),
                Err(WatchEnd::Closed) => self.over = true,
                Err(end @ WatchEnd::Expired) => self.fail(&ApiError::expired(end.to_string(), None)),
            },
            _ = bookmark => self.bookmark(),
        }
    }

    fn tell(&mut self, event: WatchEvent) {
        let is_live = self.watcher.is_live();
        let (type_, entry) = match event {
            WatchEvent::Added(entry) => (FrameType::Added, entry),
            WatchEvent::Modified(entry) => (FrameType::Modified, entry),
            WatchEvent::Deleted(entry) => (FrameType::Deleted, entry),
            WatchEvent::InitialEnd(revision) => {
                if self.mark_initial_end {
                    let annotations = json!({"k8s.io/initial-events-end": "true"});
                    let metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null, "annotations": annotations});
                    self.push_bookmark(&self.view.bookmark(&metadata));
                }
                return;
            }
        };
        self.view.now = self.server.now();
        let frames = &self.server.frames;
        // The first one of a table says what the columns are. What a watch begins with is its own; what happens is everybody's.
        let names_columns = std::mem::take(&mut self.view.columns) && matches!(self.view.form, Form::Table(_));
        let frame = if names_columns || !is_live {
            frames.encode(type_, &entry, &View { columns: names_columns, ..self.view.clone() })
        } else {
            frames.shared(type_, &entry, &self.view)
        };
        match frame {
            Ok(frame) => self.ready.push_back(frame),
            Err(error) => self.fail(&error),
        }
    }

    fn bookmark(&mut self) {
        if self.bookmarks.is_none() {
            return;
        }
        let Some(revision) = self.watcher.bookmark().filter(|revision| self.told != Some(*revision)) else { return };
        self.told = Some(revision);
        self.push_bookmark(&self.view.bookmark(&json!({"resourceVersion": revision.to_string(), "creationTimestamp": null})));
    }

    fn push_bookmark(&mut self, object: &str) {
        self.ready.push_back(format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n").into());
    }

    fn fail(&mut self, error: &ApiError) {
        self.ready.push_back(error_frame(error));
        self.over = true;
    }
}

fn error_frame(error: &ApiError) -> Bytes {
    format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", error.status()).into()
}
