//! A watch that goes on where the server ended it.

use std::time::Duration;

use anyhow::Result;
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use gantry_client::{ClientError, DynamicApi, WatchEvent, WatchParams};
use serde_json::Value;

/// The pause before a watch is opened again that brought nothing.
const PAUSE: Duration = Duration::from_secs(1);

/// What of the objects is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The server's table of one row.
    Table,
    /// The objects.
    Objects,
}

struct State {
    api: DynamicApi,
    params: WatchParams,
    form: Form,
    open: Option<BoxStream<'static, Result<WatchEvent<Value>, ClientError>>>,
    /// Whether the open stream has brought something.
    fruitful: bool,
    failed: bool,
}

/// What happens to the objects, each as `ADDED`, `MODIFIED` or `DELETED`; ends after an error.
pub(crate) fn follow(api: DynamicApi, params: WatchParams, form: Form) -> BoxStream<'static, Result<(&'static str, Value)>> {
    let state = State { api, params, form, open: None, fruitful: true, failed: false };
    unfold(state, |mut state| async {
        if state.failed {
            return None;
        }
        let event = state.next().await;
        state.failed = event.is_err();
        Some((event, state))
    })
    .boxed()
}

impl State {
    async fn next(&mut self) -> Result<(&'static str, Value)> {
        loop {
            let event = match &mut self.open {
                Some(open) => open.next().await,
                None => {
                    self.reopen().await.map_err(explained)?;
                    continue;
                }
            };
            let (what, piece) = match event {
                None => {
                    self.open = None;
                    continue;
                }
                Some(Err(error)) => return Err(explained(error)),
                Some(Ok(WatchEvent::Bookmark(version))) => {
                    self.reached(version);
                    continue;
                }
                Some(Ok(WatchEvent::Added(piece))) => ("ADDED", piece),
                Some(Ok(WatchEvent::Modified(piece))) => ("MODIFIED", piece),
                Some(Ok(WatchEvent::Deleted(piece))) => ("DELETED", piece),
            };
            if let Some(version) = version_of(self.form, &piece) {
                self.reached(version);
            }
            return Ok((what, piece));
        }
    }

    fn reached(&mut self, version: String) {
        self.params.resource_version = Some(version);
        self.fruitful = true;
    }

    async fn reopen(&mut self) -> Result<(), ClientError> {
        if !std::mem::take(&mut self.fruitful) {
            tokio::time::sleep(PAUSE).await;
        }
        self.open = Some(match self.form {
            Form::Table => self.api.watch_table(&self.params).await?,
            Form::Objects => self.api.watch(&self.params).await?,
        });
        Ok(())
    }
}

fn explained(error: ClientError) -> anyhow::Error {
    let expired = error.is_expired();
    let error = anyhow::Error::new(error);
    if expired { error.context("the watch fell too far behind; begin it again") } else { error }
}

fn version_of(form: Form, piece: &Value) -> Option<String> {
    let object = if form == Form::Table { &piece["rows"][0]["object"] } else { piece };
    object["metadata"]["resourceVersion"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use futures_util::future::BoxFuture;
    use gantry_client::{Body, Client, Resource, Transport, body};
    use http::{Request, Response};

    use super::*;

    /// Answers with what comes next, and remembers what was asked.
    struct Script {
        answers: Mutex<VecDeque<&'static str>>,
        asked: Mutex<Vec<String>>,
    }

    impl Transport for Script {
        fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
            self.asked.lock().unwrap().push(request.uri().to_string());
            let answer = self.answers.lock().unwrap().pop_front().expect("no more was to be asked");
            Box::pin(async move { Ok(Response::new(body::full(answer))) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_goes_on_where_it_ended_until_that_is_too_long_ago() {
        let answers = [
            "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"5\"}}}\n",
            "",
            "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n",
            "{\"type\":\"DELETED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"10\"}}}\n",
            "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\",\"message\":\"too old\"}}\n",
        ];
        let script = Arc::new(Script { answers: Mutex::new(answers.into()), asked: Mutex::default() });
        let resource = Resource { group: String::new(), version: "v1".into(), plural: "configmaps".into(), namespaced: false };
        let api = DynamicApi::new(&Client::new(script.clone(), "test"), resource, None);
        let params = WatchParams { resource_version: Some("1".into()), ..WatchParams::default() };
        let mut events = follow(api, params, Form::Objects);
        assert_eq!(events.next().await.unwrap().unwrap().0, "ADDED");
        assert_eq!(events.next().await.unwrap().unwrap().0, "DELETED");
        assert!(events.next().await.unwrap().unwrap_err().to_string().contains("begin it again"));
        assert!(events.next().await.is_none());
        let versions: Vec<String> = script.asked.lock().unwrap().iter().map(|uri| uri.rsplit('=').next().unwrap().to_owned()).collect();
        assert_eq!(versions, ["1", "5", "5", "9", "10"]);
    }
}
