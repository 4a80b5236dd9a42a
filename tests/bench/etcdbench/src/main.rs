//! `etcdbench ENDPOINT SECTION COUNT`: measures etcd as the benchmark measures the engine, with objects of 1 KiB. Prints one sample a
//! line: measure, tab, value, tab, unit.
//!
//! Sections: `write WRITERS`, `read`, `list OBJECTS`, `watch WATCHERS`.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, WatchOptions};
use tokio::sync::{Semaphore, mpsc};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Connections that concurrent writers and watchers share.
const CONNECTIONS: usize = 8;
const WRITES: usize = 8_000;
const SERIAL_WRITES: usize = 1_000;
const READS: usize = 2_000;
const LISTS: usize = 100;
const EVENTS: usize = 100;

fn value() -> Vec<u8> {
    vec![b'v'; 1024]
}

fn tell(measure: &str, took: Duration) {
    println!("{measure}\t{:.4}\tms", took.as_secs_f64() * 1e3);
}

async fn connections(endpoint: &str, users: usize) -> Result<Vec<Client>, Box<dyn Error + Send + Sync>> {
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS.min(users) {
        all.push(Client::connect([endpoint], None).await?);
    }
    Ok(all)
}

async fn write(endpoint: &str, writers: usize) -> Outcome {
    let each = if writers == 1 { SERIAL_WRITES } else { WRITES / writers };
    let connections = connections(endpoint, writers).await?;
    let begin = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let mut client = connections[writer % connections.len()].clone();
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(each);
                for n in 0..each {
                    let begin = Instant::now();
                    client.put(format!("/write/{writers}/{writer}/{n}"), value(), None).await?;
                    took.push(begin.elapsed());
                }
                Ok::<_, etcd_client::Error>(took)
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        for took in task.await?? {
            tell("latency", took);
            count += 1;
        }
    }
    println!("rate\t{:.1}\t/s", f64::from(count) / begin.elapsed().as_secs_f64());
    Ok(())
}

async fn read(endpoint: &str) -> Outcome {
    let mut client = Client::connect([endpoint], None).await?;
    client.put("/read", value(), None).await?;
    for _ in 0..READS {
        let begin = Instant::now();
        client.get("/read", None).await?;
        tell("latency", begin.elapsed());
    }
    Ok(())
}

async fn list(endpoint: &str, objects: usize) -> Outcome {
    let mut client = Client::connect([endpoint], None).await?;
    let prefix = format!("/list/{objects}/");
    for n in 0..objects {
        client.put(format!("{prefix}{n:06}"), value(), None).await?;
    }
    for _ in 0..LISTS {
        let begin = Instant::now();
        let answer = client.get(prefix.as_str(), Some(GetOptions::new().with_prefix())).await?;
        assert_eq!(answer.kvs().len(), objects);
        tell("latency", begin.elapsed());
    }
    Ok(())
}

async fn watch(endpoint: &str, watchers: usize) -> Outcome {
    let prefix = format!("/watch/{watchers}/");
    let (sender, mut heard) = mpsc::unbounded_channel();
    let (connections, ready) = (connections(endpoint, watchers).await?, Arc::new(Semaphore::new(0)));
    for watcher in 0..watchers {
        let mut client = connections[watcher % connections.len()].clone();
        let (sender, ready, prefix) = (sender.clone(), ready.clone(), prefix.clone());
        tokio::spawn(async move {
            let mut stream = client.watch(prefix, Some(WatchOptions::new().with_prefix())).await?;
            ready.add_permits(1);
            while let Some(message) = stream.message().await? {
                for _ in message.events() {
                    if sender.send(Instant::now()).is_err() {
                        return Ok(());
                    }
                }
            }
            Ok::<_, etcd_client::Error>(())
        });
    }
    let _all = ready.acquire_many(u32::try_from(watchers)?).await?;
    let mut client = Client::connect([endpoint], None).await?;
    for n in 0..EVENTS {
        let begin = Instant::now();
        client.put(format!("{prefix}{}", n % 10), value(), None).await?;
        for nth in 0..watchers {
            let at = heard.recv().await.ok_or("the watchers are gone")? - begin;
            if nth == 0 {
                tell("first", at);
            }
            if nth + 1 == watchers {
                tell("last", at);
            }
        }
    }
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [endpoint, "write", writers] => write(endpoint, writers.parse()?).await,
        [endpoint, "read"] => read(endpoint).await,
        [endpoint, "list", objects] => list(endpoint, objects.parse()?).await,
        [endpoint, "watch", watchers] => watch(endpoint, watchers.parse()?).await,
        _ => Err("usage: etcdbench ENDPOINT (write WRITERS | read | list OBJECTS | watch WATCHERS)".into()),
    }
}
