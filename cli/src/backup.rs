//! `gantry backup`: a consistent copy of all objects, made while the engine goes on.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use gantry_apiserver::store::backup::{Header, Reader};
use gantry_client::{Body, body};
use http::Method;
use http_body_util::BodyExt as _;

use crate::output;
use crate::session::{Global, Session};

/// What the command takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "The copy holds every object, Secrets in plain text. Images, volumes and logs are not in it: \
they lie in the data directory.\nRestore it with `gantry restore` while no engine runs.")]
pub(crate) struct Args {
    /// File to write, readable by its owner only; `-` for standard output
    #[arg(value_name = "FILE")]
    file: String,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    anyhow::ensure!(args.file != "-" || !std::io::stdout().is_terminal(), "a backup is no text: redirect it, or name a file");
    let session = Session::open(global)?;
    let answer = session.client.request_raw(Method::GET, "/backup", None, body::empty()).await?;
    if args.file == "-" {
        copy(answer.into_body(), &mut std::io::stdout().lock()).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let header = to_file(answer.into_body(), Path::new(&args.file)).await.with_context(|| format!("write the backup `{}`", args.file))?;
    output::print(&format!("{}: {} objects at revision {}\n", args.file, header.objects, header.revision))?;
    Ok(ExitCode::SUCCESS)
}

/// Removes the file that was begun, unless it got its name.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After the renaming there is none.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes beside the file, verifies what was written, and then gives it its name: a name never stands for half a backup.
async fn to_file(body: Body, path: &Path) -> Result<Header> {
    let name = path.file_name().context("it names no file")?.to_string_lossy().into_owned();
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let partial = Partial(dir.join(format!(".{name}.{}.partial", std::process::id())));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial.0)?;
    copy(body, &mut file).await?;
    file.sync_all()?;
    drop(file);
    let mut written = Reader::open(BufReader::new(File::open(&partial.0)?))?;
    while written.next_object()?.is_some() {}
    std::fs::rename(&partial.0, path)?;
    File::open(dir)?.sync_all()?;
    Ok(written.header().clone())
}

async fn copy(mut body: Body, to: &mut impl Write) -> Result<()> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow::anyhow!("the server's copy broke off: {error}"))?;
        if let Some(data) = frame.data_ref() {
            to.write_all(data)?;
        }
    }
    to.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_no_backup_gets_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.backup");
        std::fs::write(&path, "the last one").unwrap();
        let error = to_file(body::full("half a backup"), &path).await.unwrap_err();
        assert_eq!(error.to_string(), "this is no backup of a Gantry store");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "the last one");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "something was left behind");
        assert_ne!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0);
    }
}
