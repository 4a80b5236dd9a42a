//! `gantry restore`: a store from what `gantry backup` wrote, while no engine runs.

use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use gantry_apiserver::store::redb::{RestoreError, Restored, restore};
use jiff::Timestamp;

use crate::engine::lock::{self, Taken};
use crate::output;

/// What the command takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "The file is verified to its last byte before anything is replaced. Every watch begins again afterwards, and no \
revision that a client may have seen comes twice.")]
pub(crate) struct Args {
    /// File that `gantry backup` wrote; `-` for standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// The engine's data directory [default: /var/lib/gantry]
    #[arg(long, env = "GANTRY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Replace the store that is there; its file is kept beside the new one
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let data_dir = std::path::absolute(args.data_dir.unwrap_or_else(|| "/var/lib/gantry".into()))?;
    let from: Box<dyn Read + Send> = if args.file == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(&args.file).with_context(|| format!("read the backup `{}`", args.file))?)
    };
    let _lock = match lock::take(&data_dir)? {
        Taken::Ours(lock) => lock,
        Taken::Other(pid) => {
            let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            anyhow::bail!("an engine{pid} is running on `{}`; stop it first", data_dir.display())
        }
    };
    let dir = data_dir.join("store");
    let done = tokio::task::spawn_blocking(move || restore(&dir, BufReader::new(from), args.force, Timestamp::now())).await?;
    match done {
        Ok(restored) => output::print(&render(&restored))?,
        Err(error @ RestoreError::Exists { .. }) => anyhow::bail!("{error}; --force puts it aside"),
        Err(error) => return Err(error).with_context(|| format!("restore `{}`", args.file)),
    }
    Ok(ExitCode::SUCCESS)
}

fn render(restored: &Restored) -> String {
    let header = &restored.header;
    let mut text = format!(
        "{} objects restored, as of {:.0} (revision {}); the store goes on from revision {}\n",
        header.objects, header.time, header.revision, restored.revision
    );
    if let Some(kept) = &restored.kept {
        text.push_str(&format!("the store that was there is kept in {}\n", kept.display()));
    }
    text
}
