//! What grows with the number of objects: memory, the time of one write and of one list, and of a start.

use std::path::Path;
use std::time::Instant;

use gantry_client::Client;
use gantry_tests::host::Host;

use super::{ask, fill, milliseconds, write};
use crate::memory::pss_mib;
use crate::plot::{Line, Plot};
use crate::table::Table;

/// Numbers of objects at which is measured.
const STEPS: [usize; 5] = [1_000, 10_000, 30_000, 60_000, 100_000];
const STARTS: usize = 5;
const LISTS: usize = 5;

/// Fills the engine step by step; writes the curves as SVG into `out`.
pub(crate) async fn growth(host: &mut Host, out: &Path, table: &mut Table) -> anyhow::Result<()> {
    let (mut memory, mut writes, mut lists) =
        (Line::new("PSS, MiB"), Line::new("one write, ms (median)"), Line::new("list of a namespace, ms"));
    remove_written(&Client::unix(&host.socket(), "bench")).await?;
    let before = pss_mib(host.engine_pid())?;
    let mut filled = 0;
    for step in STEPS {
        let client = Client::unix(&host.socket(), "bench");
        fill(&client, "growth", filled..step).await?;
        filled = step;
        let at = step as f64;
        let mut of_step = Table::default();
        write(&client, 1, &mut of_step).await?;
        writes.add(at, of_step.median("durable write of 1 KiB, 1 writers: latency"));
        for _ in 0..LISTS {
            let begin = Instant::now();
            ask(&client, "/api/v1/namespaces/growth/configmaps", None).await?;
            of_step.add("list", "gantry", "ms", milliseconds(begin.elapsed()));
        }
        lists.add(at, of_step.median("list"));
        memory.add(at, pss_mib(host.engine_pid())?);
        remove_written(&client).await?;
    }
    let grown = pss_mib(host.engine_pid())? - before;
    table.add(&format!("memory per object of 1 KiB, of {filled}"), "gantry", "KiB", grown * 1024.0 / filled as f64);
    for _ in 0..STARTS {
        host.stop_engine();
        let begin = Instant::now();
        host.serve();
        table.add(&format!("start with {filled} objects until ready"), "gantry", "ms", milliseconds(begin.elapsed()));
    }
    table.add(&format!("engine with {filled} objects, after a start: PSS"), "gantry", "MiB", pss_mib(host.engine_pid())?);
    for (file, title, line) in
        [("memory", "Memory by objects", memory), ("writes", "One write by objects", writes), ("lists", "One list by objects", lists)]
    {
        Plot { title, x: "objects", lines: vec![line] }.save(&out.join(format!("growth-{file}.svg")))?;
    }
    Ok(())
}

/// What [`write()`] made, so that the next step can make it again.
async fn remove_written(client: &Client) -> anyhow::Result<()> {
    client.request_json(http::Method::DELETE, "/api/v1/namespaces/default/configmaps", None).await?;
    Ok(())
}
