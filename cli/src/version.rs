//! `gantry version`.

use std::process::ExitCode;

use anyhow::Result;
use http::Method;
use serde_json::json;

use crate::output::{self, Format};
use crate::session::{Global, Session};

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not ask a server
    #[arg(long)]
    client: bool,
    /// json or yaml
    #[arg(short, long, value_name = "FORM")]
    output: Option<Format>,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let mut versions = json!({"clientVersion": {"gitVersion": format!("v{}", crate::VERSION)}});
    let mut answer = Ok(());
    if !args.client {
        match Session::open(global)?.client.request_json(Method::GET, "/version", None).await {
            Ok(version) => versions["serverVersion"] = version,
            // The client's own version is worth printing all the same.
            Err(error) => answer = Err(error),
        }
    }
    match args.output.as_ref().filter(|format| !format.is_table()) {
        Some(format) => output::print(&output::render(format, &versions)?)?,
        None => {
            let line = |who: &str, key: &str| versions[key]["gitVersion"].as_str().map(|version| format!("{who}: {version}\n"));
            let text: String = [line("Client", "clientVersion"), line("Server", "serverVersion")].into_iter().flatten().collect();
            output::print(&text)?;
        }
    }
    answer?;
    Ok(ExitCode::SUCCESS)
}
