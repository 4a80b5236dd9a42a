//! `gantry teardown`: ends the engine and its containers, and takes everything of this instance off the host.

use std::process::ExitCode;

use crate::engine::config::InstanceArgs;
use crate::engine::teardown;

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    instance: InstanceArgs,
    /// Remove objects and data as well: store, images, volumes, keys
    #[arg(long)]
    purge: bool,
}

/// Runs the command.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (data_dir, run_dir, instance) = args.instance.resolve()?;
    teardown::run(&data_dir, &run_dir, &instance, args.purge).await?;
    Ok(ExitCode::SUCCESS)
}
