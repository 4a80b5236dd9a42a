//! From a write to its events, over one connection for each watcher.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use gantry_api::k8s_openapi::api::core::v1::ConfigMap;
use gantry_client::{Api, Client, Lines, Patch, WriteParams};
use gantry_tests::host::Host;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{milliseconds, object};
use crate::table::Table;

/// How many watch the same objects.
pub(super) const COUNTS: [usize; 3] = [1, 100, 1_000];
const EVENTS: usize = 100;
/// The longest event.
const LINE: usize = 1 << 20;
/// Clients that open a watch and read nothing.
const STALLED: usize = 50;

/// Watchers of the ConfigMaps of namespace `default`, each telling when it has an event.
async fn watchers(host: &Host, count: usize) -> anyhow::Result<(JoinSet<()>, mpsc::UnboundedReceiver<Instant>)> {
    let (sender, heard) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        // A client of its own: a connection of its own.
        let client = Client::unix(&host.socket(), "watcher");
        let path = "/api/v1/namespaces/default/configmaps?watch=true&fieldSelector=metadata.name%3Dwatched&resourceVersion=";
        let from = Api::<ConfigMap>::namespaced(&client, "default").get("watched").await?.metadata.resource_version.unwrap_or_default();
        let answer = client.request_raw(http::Method::GET, &format!("{path}{from}"), None, gantry_client::body::empty()).await?;
        let sender = sender.clone();
        tasks.spawn(async move {
            let mut lines = Lines::new(answer.into_body(), LINE);
            while let Ok(Some(_)) = lines.next().await {
                if sender.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
    }
    Ok((tasks, heard))
}

/// Changes the watched object, and waits until all have the event; tells when the first and the last had it.
async fn round(client: &Client, count: usize, n: usize, heard: &mut mpsc::UnboundedReceiver<Instant>) -> anyhow::Result<(f64, f64)> {
    let begin = Instant::now();
    let patch = Patch::Merge(json!({"data": {"n": n.to_string()}}));
    Api::<ConfigMap>::namespaced(client, "default").patch("watched", &patch, &WriteParams::default()).await?;
    let (mut first, mut last) = (0.0, 0.0);
    for nth in 0..count {
        let at = heard.recv().await.ok_or_else(|| anyhow::anyhow!("the watchers are gone"))?;
        last = milliseconds(at - begin);
        first = if nth == 0 { last } else { first };
    }
    Ok((first, last))
}

async fn prepare(client: &Client) -> anyhow::Result<()> {
    match Api::namespaced(client, "default").create(&object("watched"), &WriteParams::default()).await {
        Err(error) if !error.is_already_exists() => Err(error.into()),
        _ => Ok(()),
    }
}

/// From a write to the first and the last of its watchers.
pub(super) async fn one_event_at_a_time(client: &Client, host: &Host, count: usize, table: &mut Table) -> anyhow::Result<()> {
    prepare(client).await?;
    let (_tasks, mut heard) = watchers(host, count).await?;
    for n in 0..EVENTS {
        let (first, last) = round(client, count, n, &mut heard).await?;
        table.add(&format!("write to its event, {count} watchers: first"), "gantry", "ms", first);
        table.add(&format!("write to its event, {count} watchers: last"), "gantry", "ms", last);
    }
    Ok(())
}

/// The same for one watcher while others have stopped reading.
pub(super) async fn beside_stalled(client: &Client, host: &Host, table: &mut Table) -> anyhow::Result<()> {
    prepare(client).await?;
    let (_tasks, mut heard) = watchers(host, 1).await?;
    let mut stalled = Vec::new();
    for what in ["alone", "beside stalled ones"] {
        for n in 0..10 * EVENTS {
            let (first, _) = round(client, 1, n, &mut heard).await?;
            table.add(&format!("write to its event, {what}"), "gantry", "ms", first);
        }
        while what == "alone" && stalled.len() < STALLED {
            let mut stream = UnixStream::connect(host.socket())?;
            stream.write_all(b"GET /api/v1/configmaps?watch=true HTTP/1.1\r\nhost: gantry\r\n\r\n")?;
            stalled.push(stream);
        }
    }
    Ok(())
}
