//! `gantry doctor`: what this machine can do, what is wrong, and how to mend it.

use std::process::ExitCode;

use crate::engine::config::InstanceArgs;
use crate::engine::host;

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    instance: InstanceArgs,
}

/// Prints one line for each thing looked at; fails when something that the engine needs is missing.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (data_dir, ..) = args.instance.resolve()?;
    let findings = tokio::task::spawn_blocking(move || host::examine(&data_dir)).await?;
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in &findings {
        let mark = if finding.good { "ok     " } else { "missing" };
        text.push_str(&format!("{mark}  {:<width$}  {}\n", finding.what, finding.sentence));
    }
    crate::output::print(&text)?;
    Ok(if findings.iter().all(|finding| finding.good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
