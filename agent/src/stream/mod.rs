//! What the API server asks of a node on a client's behalf: logs and exec.
//!
//! | path | what |
//! |---|---|
//! | `GET /containers/{uid}/log` | the log as `text/plain`; `follow`, `tailLines`, `timestamps`, `sinceSeconds`, `sinceTime`, `limitBytes` |
//! | `GET /containers/{uid}/exec` | a further process, over a WebSocket with subprotocol `v5.channel.k8s.io`; `command` (repeated), `stdin`, `stdout`, `stderr` |

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::ids::{Clock, ContainerUid};
use crate::logs::LogStore;
use crate::logs::read::{ReadOptions, read};
use crate::runtime::Runtime;

mod exec;

/// What the streams are made from.
#[derive(Clone)]
pub struct Streams {
    /// Processes.
    pub runtime: Arc<dyn Runtime>,
    /// Logs.
    pub logs: LogStore,
    /// The wall clock.
    pub clock: Clock,
    /// Ends all streams.
    pub stop: CancellationToken,
}

/// The node's stream endpoints.
pub fn router(streams: Streams) -> Router {
    Router::new().route("/containers/{uid}/log", get(log)).route("/containers/{uid}/exec", get(exec::exec)).with_state(streams)
}

async fn log(State(streams): State<Streams>, Path(uid): Path<String>, RawQuery(query): RawQuery) -> Response {
    let Some(uid) = ContainerUid::new(&uid) else {
        return failure(StatusCode::BAD_REQUEST, "BadRequest", "the container uid is malformed");
    };
    let options = match log_options(query.as_deref().unwrap_or_default(), (streams.clock)()) {
        Ok(options) => options,
        Err(message) => return failure(StatusCode::BAD_REQUEST, "BadRequest", &message),
    };
    let receiver = read(streams.logs.dir(&uid), options, streams.stop);
    let chunks = futures_util::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(chunks.boxed())).into_response()
}

/// The query of Kubernetes' `pods/log` (`PodLogOptions`).
fn log_options(query: &str, now: Timestamp) -> Result<ReadOptions, String> {
    let mut options = ReadOptions::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let bad = || format!("query parameter {name}: `{value}` is not valid");
        match &*name {
            "follow" => options.follow = flag(&value).ok_or_else(bad)?,
            "timestamps" => options.timestamps = flag(&value).ok_or_else(bad)?,
            "tailLines" => options.tail_lines = Some(value.parse().map_err(|_| bad())?),
            "limitBytes" => options.limit_bytes = Some(value.parse().map_err(|_| bad())?),
            "sinceTime" => options.since = Some(value.parse().map_err(|_| bad())?),
            "sinceSeconds" => {
                let seconds: i64 = value.parse().map_err(|_| bad())?;
                options.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
            }
            "previous" if flag(&value) == Some(true) => {
                return Err("previous is not needed: the log of a container goes on over its restarts; leave it out".to_owned());
            }
            _ => {}
        }
    }
    Ok(options)
}

/// A boolean as Go's clients write it.
fn flag(value: &str) -> Option<bool> {
    match value {
        "true" | "1" | "" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A Kubernetes Status.
fn failure(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "message": message, "code": code.as_u16(),
    });
    (code, [(header::CONTENT_TYPE, "application/json")], status.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_kubernetes_writes_them() {
        let now = Timestamp::from_second(1000).unwrap();
        let options = log_options("follow=true&tailLines=5&sinceSeconds=10&timestamps=false&container=main", now).unwrap();
        assert!(options.follow && !options.timestamps);
        assert_eq!(options.tail_lines, Some(5));
        assert_eq!(options.since, Timestamp::from_second(990).ok());
        for bad in ["tailLines=-1", "follow=maybe", "sinceTime=yesterday", "previous=true"] {
            assert!(log_options(bad, now).is_err(), "{bad}");
        }
    }
}
