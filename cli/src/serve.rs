//! `gantry serve`: API server, controllers and this node's agent in one process, in the foreground.

use std::process::ExitCode;

use crate::engine::config::ServeArgs;
use crate::engine::{self, journal};
use crate::session::Global;

pub(crate) type Args = ServeArgs;

/// Runs the engine until SIGTERM or SIGINT; containers go on running afterwards.
pub(crate) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let print_only = args.print_config;
    let config = args.resolve()?;
    if print_only {
        crate::output::print(&serde_saphyr::to_string(&config)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    journal::init(config.log_format, global.verbose);
    engine::host::require(&config)?;
    engine::run(config).await?;
    Ok(ExitCode::SUCCESS)
}
