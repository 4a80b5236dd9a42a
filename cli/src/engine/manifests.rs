//! `--manifests DIR`: what lies in a folder is applied at start and whenever it changes.
//!
//! The whole folder is one transaction, so that a mistake in one file changes nothing. Objects whose file goes away stay, as
//! after `gantry apply`.

use std::fs::DirEntry;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_agent::readiness::readable;
use gantry_client::Client;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use crate::apply::request::{self, ApplyArgs};
use crate::manifest;

/// Who owns the fields that the folder's files declare.
const MANAGER: &str = "gantry-manifests";
/// First and longest pause before what the server refused is tried again.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// Folders watched at most.
const FOLDERS: usize = 1_000;

/// Applies the folder until `stop`. Mistakes are logged, and mended by the next change.
pub(super) async fn run(client: Client, folder: PathBuf, stop: CancellationToken) {
    let applying = async {
        loop {
            if let Err(error) = follow(&client, &folder).await {
                tracing::error!(folder = %folder.display(), %error, "the manifests' folder cannot be watched; trying again");
            }
            tokio::time::sleep(RETRY[1]).await;
        }
    };
    tokio::select! {
        () = applying => {}
        () = stop.cancelled() => {}
    }
}

/// Applies after each change; ends only when the folder cannot be watched.
async fn follow(client: &Client, folder: &Path) -> io::Result<()> {
    let watch = Watch::new()?;
    let (mut pause, mut told) = (RETRY[0], String::new());
    loop {
        // Before the read, so that no change is missed between the two.
        watch.add(folder)?;
        let applied = apply(client, folder).await;
        let why = applied.as_ref().err().map(ToString::to_string).unwrap_or_default();
        if why != told {
            (pause, told) = (RETRY[0], why);
            if !told.is_empty() {
                tracing::error!(folder = %folder.display(), "the manifests were not applied: {told}");
            }
        }
        if let Err(Refusal::Server(_)) = applied {
            // In time or not: another attempt is due.
            tokio::time::timeout(pause, watch.changed()).await.unwrap_or(Ok(()))?;
            pause = (pause * 2).min(RETRY[1]);
        } else {
            watch.changed().await?;
        }
    }
}

/// Why the folder was not applied.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Only another content can help.
    #[error("{0:#}")]
    Files(anyhow::Error),
    /// May pass: the disk is full, a namespace is still missing.
    #[error("{0:#}")]
    Server(anyhow::Error),
}

async fn apply(client: &Client, folder: &Path) -> Result<(), Refusal> {
    let path = folder.to_owned();
    let read = tokio::task::spawn_blocking(move || manifest::read_folder(&path, "default"));
    let manifests = read.await.unwrap_or_else(|error| Err(error.into())).map_err(Refusal::Files)?;
    if manifests.is_empty() {
        return Ok(());
    }
    // The folder is the wish: what somebody else set of its fields meanwhile does not stand against it.
    let how = ApplyArgs { force: true, field_manager: MANAGER.to_owned(), set: None, prune: false };
    let sent = request::send(client, "default", &manifests, &how, false).await.map_err(Refusal::Server)?;
    if sent.refused {
        return Err(Refusal::Server(anyhow::anyhow!("{}", sent.why())));
    }
    for outcome in sent.outcomes.iter().filter(|outcome| !outcome.is_unchanged()) {
        tracing::info!("--manifests: {}", request::summary(outcome, false));
    }
    Ok(())
}

/// The kernel's news of a folder and those below it.
struct Watch {
    inotify: Inotify,
    readable: AsyncFd<OwnedFd>,
}

impl Watch {
    fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let readable = readable(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self { inotify, readable })
    }

    /// Watches `folder` and all below. To watch one again changes nothing, inotify_add_watch(2).
    fn add(&self, folder: &Path) -> io::Result<()> {
        // Not IN_MODIFY: a file is read when its writer is done with it.
        let news = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        let mut folders = vec![folder.to_owned()];
        for at in 0..FOLDERS {
            let Some(folder) = folders.get(at).cloned() else { return Ok(()) };
            match self.inotify.add_watch(&folder, news) {
                Ok(_) => folders.extend(folders_in(&folder)),
                // Gone since it was listed: that is news, too, which the parent tells.
                Err(nix::errno::Errno::ENOENT) if at > 0 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other(format!("more than {FOLDERS} folders")))
    }

    /// Returns after a change.
    async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.readable.readable().await?;
            match self.inotify.read_events() {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry: DirEntry| entry.path()).collect()
}
