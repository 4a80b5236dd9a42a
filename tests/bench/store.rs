//! The API and its store: writes, reads, lists, watchers, and what grows with the number of objects, beside etcd on the same disk.

mod etcd;
mod growth;
mod watchers;

use std::time::{Duration, Instant};

use gantry_api::k8s_openapi::api::core::v1::ConfigMap;
use gantry_client::{Api, Client, WriteParams};
use gantry_tests::host::Host;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::table::Table;
use etcd::Etcd;
pub(crate) use growth::growth;

const WRITERS: [usize; 4] = [1, 8, 64, 256];
const WRITES: usize = 8_000;
/// One writer waits for the disk each time.
const SERIAL_WRITES: usize = 1_000;
const READS: usize = 2_000;
const LISTS: usize = 100;
/// Objects of a list.
const LISTED: usize = 1_000;
/// Requests of which a whole list is made.
const APPLIED: usize = 500;
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn object(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map.data = Some([("value".to_owned(), "x".repeat(1024))].into());
    map
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// All rows but those of growth; the engine and etcd take turns.
pub(crate) async fn rows(host: &Host, table: &mut Table) -> anyhow::Result<()> {
    let client = Client::unix(&host.socket(), "bench");
    let etcd = Etcd::start(host)?;
    for writers in WRITERS {
        write(&client, writers, table).await?;
        peer(etcd.as_ref(), host, &["write", &writers.to_string()], &format!("durable write of 1 KiB, {writers} writers"), table)?;
    }
    read(&client, table).await?;
    peer(etcd.as_ref(), host, &["read"], "read one", table)?;
    fill(&client, "lists", 0..LISTED).await?;
    list(&client, "lists", None, &format!("list {LISTED}"), table).await?;
    peer(etcd.as_ref(), host, &["list", &LISTED.to_string()], &format!("list {LISTED}"), table)?;
    list(&client, "lists", Some(TABLE), &format!("list {LISTED} as a table"), table).await?;
    for count in watchers::COUNTS {
        watchers::one_event_at_a_time(&client, host, count, table).await?;
        peer(etcd.as_ref(), host, &["watch", &count.to_string()], &format!("write to its event, {count} watchers"), table)?;
    }
    watchers::beside_stalled(&client, host, table).await
}

/// The same measure on etcd, where it is installed.
fn peer(etcd: Option<&Etcd>, host: &Host, section: &[&str], what: &str, table: &mut Table) -> anyhow::Result<()> {
    let Some(etcd) = etcd else { return Ok(()) };
    for (measure, unit, sample) in etcd.run(host, section)? {
        table.add(&format!("{what}: {measure}"), "etcd", unit, sample);
    }
    Ok(())
}

/// Creates objects from many writers at once.
async fn write(client: &Client, writers: usize, table: &mut Table) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let each = if writers == 1 { SERIAL_WRITES } else { WRITES / writers };
    let begin = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let api = api.clone();
        tokio::spawn(async move {
            let mut took = Vec::with_capacity(each);
            for n in 0..each {
                let since = Instant::now();
                api.create(&object(&format!("w{writers}-{writer}-{n}")), &WriteParams::default()).await?;
                took.push(since.elapsed());
            }
            Ok::<_, gantry_client::ClientError>(took)
        })
    });
    let mut all = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        all.extend(task.await??);
    }
    let what = format!("durable write of 1 KiB, {writers} writers");
    table.add(&format!("{what}: rate"), "gantry", "/s", all.len() as f64 / begin.elapsed().as_secs_f64());
    all.into_iter().for_each(|took| table.add(&format!("{what}: latency"), "gantry", "ms", milliseconds(took)));
    Ok(())
}

/// Asks, and reads the answer to its end without decoding it; gives back its length.
async fn ask(client: &Client, path: &str, accept: Option<&str>) -> anyhow::Result<usize> {
    let mut request = http::Request::builder().method(Method::GET).uri(path);
    if let Some(accept) = accept {
        request = request.header("accept", accept);
    }
    let answer = client.request(request.body(gantry_client::body::empty())?).await?;
    let (mut body, mut length) = (answer.into_body(), 0);
    while let Some(frame) = body.frame().await {
        length += frame.map_err(anyhow::Error::from_boxed)?.data_ref().map_or(0, |data| data.len());
    }
    Ok(length)
}

async fn read(client: &Client, table: &mut Table) -> anyhow::Result<()> {
    Api::namespaced(client, "default").create(&object("read"), &WriteParams::default()).await?;
    for _ in 0..READS {
        let begin = Instant::now();
        ask(client, "/api/v1/namespaces/default/configmaps/read", None).await?;
        table.add("read one: latency", "gantry", "ms", milliseconds(begin.elapsed()));
    }
    Ok(())
}

/// Makes objects of a namespace, many at once.
async fn fill(client: &Client, namespace: &str, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
    let all: Vec<usize> = numbers.collect();
    for some in all.chunks(APPLIED) {
        let mut objects = vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})];
        objects.extend(some.iter().map(|n| {
            let metadata = json!({"name": format!("o{n:06}"), "namespace": namespace});
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": "x".repeat(1024)}})
        }));
        let request = json!({"spec": {"objects": objects, "fieldManager": "bench"}});
        client.request_json(Method::POST, "/apis/gantry.dev/v1/applyrequests", Some(&request)).await?;
    }
    Ok(())
}

async fn list(client: &Client, namespace: &str, accept: Option<&str>, what: &str, table: &mut Table) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    for _ in 0..LISTS {
        let begin = Instant::now();
        anyhow::ensure!(ask(client, &path, accept).await? > LISTED * 100, "the list is too short");
        table.add(&format!("{what}: latency"), "gantry", "ms", milliseconds(begin.elapsed()));
    }
    Ok(())
}
