//! Durable writes of 1 KiB objects over HTTP, beside etcd's own HTTP gateway where etcd is installed.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_api::k8s_openapi::api::core::v1::ConfigMap;
use gantry_client::{Api, Client, WriteParams};
use gantry_tests::host::{Host, PATIENCE};
use gantry_tests::wait::until;
use serde_json::json;

use crate::table::Table;

const WRITERS: [usize; 3] = [1, 8, 64];
const WRITES: usize = 1600;
const ETCD: &str = "http://127.0.0.1:23790";

fn object(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map.data = Some([("value".to_owned(), "x".repeat(1024))].into());
    map
}

/// Creates objects from 1, 8 and 64 writers at once.
pub(crate) async fn writes(host: &Host, table: &mut Table) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(&Client::unix(&host.socket(), "bench"), "default");
    let mut etcd = Etcd::start(host)?;
    for writers in WRITERS {
        let begin = Instant::now();
        let each = WRITES / writers;
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
        report(table, "gantry", writers, &all, begin.elapsed());
        if let Some(etcd) = &mut etcd {
            etcd.writes(host, writers, table)?;
        }
    }
    Ok(())
}

fn report(table: &mut Table, peer: &str, writers: usize, took: &[Duration], all: Duration) {
    for one in took {
        table.add(&format!("durable write of 1 KiB, {writers} writers: latency"), peer, "ms", one.as_secs_f64() * 1000.0);
    }
    table.add(&format!("durable write of 1 KiB, {writers} writers: rate"), peer, "/s", took.len() as f64 / all.as_secs_f64());
}

/// etcd on the host's loopback, asked through its HTTP and JSON gateway.
struct Etcd {
    child: std::process::Child,
}

impl Etcd {
    /// `None` when etcd is not installed.
    fn start(host: &Host) -> anyhow::Result<Option<Self>> {
        let installed = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join("etcd").exists());
        if !installed {
            return Ok(None);
        }
        let mut command = host.command("etcd");
        command.arg("--data-dir").arg(host.dir().join("etcd"));
        command.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD, "--listen-peer-urls", "http://127.0.0.1:23800"]);
        command.args(["--initial-advertise-peer-urls", "http://127.0.0.1:23800", "--initial-cluster", "default=http://127.0.0.1:23800"]);
        let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
        until("etcd", PATIENCE, || host.fetch(&format!("{ETCD}/health")).map(|_| ()));
        Ok(Some(Self { child }))
    }

    /// The same number of writes by `curl`, which keeps its connections, in as many processes as writers.
    fn writes(&mut self, host: &Host, writers: usize, table: &mut Table) -> anyhow::Result<()> {
        let each = WRITES / writers;
        let value = STANDARD.encode("x".repeat(1024));
        let mut children = Vec::new();
        let begin = Instant::now();
        for writer in 0..writers {
            let config = host.dir().join(format!("etcd-{writer}.curl"));
            let puts = (0..each).map(|n| {
                let body = json!({"key": STANDARD.encode(format!("w{writers}-{writer}-{n}")), "value": value}).to_string();
                format!("url = \"{ETCD}/v3/kv/put\"\ndata = {}\noutput = /dev/null\nwrite-out = \"%{{time_total}}\\n\"\n", json!(body))
            });
            let text = puts.collect::<Vec<_>>().join("next\n");
            std::fs::write(&config, text)?;
            children.push(host.command("curl").arg("-sS").arg("-K").arg(&config).stdout(std::process::Stdio::piped()).spawn()?);
        }
        let mut took = Vec::new();
        for child in children {
            let output = child.wait_with_output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            took.extend(text.lines().filter_map(|line| line.parse().ok()).map(Duration::from_secs_f64));
        }
        report(table, "etcd", writers, &took, begin.elapsed());
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
