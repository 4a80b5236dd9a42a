//! The benchmark: rows taken in turns from the engine and its peers, so that the machine's moods hit all of them alike.
//!
//! What counts is the ratio between rows of one run, never an absolute time.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a program that times other programs and prints a table")]

mod containers;
mod memory;
mod plot;
mod store;
mod table;

use std::path::PathBuf;

use gantry_tests::host::Host;

fn main() -> anyhow::Result<()> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/bench".to_owned()));
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut table = table::Table::default();
    let mut host = Host::new();
    host.serve();
    host.load_busybox(containers::IMAGE);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // `ONLY=store` or `ONLY=containers` takes a part.
    let only = std::env::var("ONLY").ok();
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    memory::idle(&host, &mut table)?;
    if wanted("store") {
        runtime.block_on(store::rows(&host, &mut table))?;
        runtime.block_on(store::growth(&mut host, &out, &mut table))?;
    }
    if wanted("containers") {
        runtime.block_on(containers::one_by_one(&host, rounds, &mut table))?;
        runtime.block_on(containers::fifty(&host, &mut table))?;
    }
    table.print();
    table.save(&out)?;
    Ok(())
}
