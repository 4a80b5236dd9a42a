//! One task per shim: it passes the shim's news on, and notices its death by its handle.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use gantry_shim::protocol::{Answer, Exit, Operation, Phase};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::{ASK_LIMIT, Shared, convert};
use crate::ids::ContainerUid;
use crate::readiness::readable;
use crate::runtime::RuntimeEvent;

/// Between attempts to subscribe to a shim that lives and does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Watches a shim unless that is done already. The handle is the shim's own; an end that `phase` tells is no news.
pub(super) fn ensure(shared: &Arc<Shared>, uid: &ContainerUid, pidfd: Option<OwnedFd>, phase: Phase) {
    let Some(pidfd) = pidfd.and_then(|pidfd| readable(pidfd).ok()) else { return };
    let mut watches = shared.watches.lock().unwrap_or_else(PoisonError::into_inner);
    if watches.get(uid).is_some_and(|watch| !watch.is_cancelled()) {
        return;
    }
    let cancel = shared.cancel.child_token();
    watches.insert(uid.clone(), cancel.clone());
    // Owned by the token: it ends with the container's removal or the runtime's end. It holds no strong reference to the runtime.
    let known = match phase {
        Phase::Exited(exit) => Some(exit),
        _ => None,
    };
    tokio::spawn(watch(Arc::downgrade(shared), uid.clone(), pidfd, known, cancel));
}

/// Ends the task of a container that is being removed.
pub(super) fn stop(shared: &Shared, uid: &ContainerUid) {
    let mut watches = shared.watches.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cancel) = watches.remove(uid) {
        cancel.cancel();
    }
}

async fn watch(
    shared: std::sync::Weak<Shared>,
    uid: ContainerUid,
    pidfd: AsyncFd<OwnedFd>,
    known: Option<Exit>,
    cancel: CancellationToken,
) {
    let news = async {
        let mut last = known;
        while let Some(dir) = shared.upgrade().map(|shared| shared.dir(&uid)) {
            let _ = follow(&shared, &uid, &dir, &mut last).await;
            tokio::time::sleep(RETRY).await;
        }
    };
    let dead = tokio::select! {
        () = news => false,
        ready = pidfd.readable() => ready.is_ok(),
        () = cancel.cancelled() => false,
    };
    reap_later(dead, pidfd).await;
    if dead && let Some(shared) = shared.upgrade() {
        stop(&shared, &uid);
        let _ = shared.events.send(RuntimeEvent::Lost { uid });
    }
}

/// A shim that this process has spawned is its child and must be waited for; an adopted one is not, and the kernel says so.
async fn reap_later(dead: bool, pidfd: AsyncFd<OwnedFd>) {
    if !dead && tokio::time::timeout(super::KILL_LIMIT, pidfd.readable()).await.is_err() {
        return;
    }
    let _ = waitid(Id::PIDFd(pidfd.get_ref().as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
}

/// Passes on each end once, until the connection breaks.
async fn follow(shared: &std::sync::Weak<Shared>, uid: &ContainerUid, dir: &std::path::Path, last: &mut Option<Exit>) -> io::Result<()> {
    let opened = async {
        let mut connection = Connection::open(dir).await?;
        connection.send(Operation::Subscribe, b"{}", &[]).await?;
        Ok::<_, io::Error>(connection)
    };
    let mut connection = tokio::time::timeout(ASK_LIMIT, opened).await??;
    loop {
        let (answer, _) = connection.receive().await?;
        let Answer::State(state) = answer else { return Err(io::ErrorKind::InvalidData.into()) };
        let Phase::Exited(exit) = state.phase else { continue };
        if *last == Some(exit) {
            continue;
        }
        *last = Some(exit);
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        let _ = shared.events.send(RuntimeEvent::Exited { uid: uid.clone(), exit: convert::exit(exit) });
    }
}
