//! The names that containers look up: a table for `gantry-netd`, and the process kept up.
//!
//! The process belongs to its directory, not to this engine: it goes on when the engine ends, and the next engine finds it by the lock
//! that it holds. What is here writes the table, starts the process when there is none, and starts it again when it dies.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_netd::process;
use gantry_netd::table::{self, Listen, Table};
use gantry_sys::process::{pidfd_open, pidfd_signal};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::firewall::step;
use super::{EndpointWish, NameRecord, NetworkError, NetworkWish};
use crate::carried;
use crate::ids::{ContainerUid, Instance, chain};
use crate::readiness::readable;

/// The name server, built beside the agent.
static PROGRAM: &[u8] = include_bytes!(env!("GANTRY_NETD_BIN"));
/// Name of its directory below the run directory.
const DIR: &str = "netd";
/// Log that is begun anew at a start, in bytes.
const MAX_LOG: u64 = 64 << 10;
/// A process that lived shorter than this is started again only after a while.
const SETTLED: Duration = Duration::from_secs(5);
/// The longest such while.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How long the process may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Between looks at what gives no sign.
const LOOK: Duration = Duration::from_millis(10);

/// The table and the process of one instance. Dropping it leaves both as they are.
#[derive(Debug)]
pub(crate) struct Names {
    home: Arc<Home>,
    /// `None` until the first are set.
    records: Option<Vec<NameRecord>>,
    /// What an earlier engine wrote: it is answered too, until this one has been told everything.
    adopted: Option<Table>,
    settled: bool,
    written: Option<Vec<u8>>,
    keeper: Option<Keeper>,
}

/// The task that keeps the process up. Cancelled, it gives the process back.
#[derive(Debug)]
struct Keeper {
    task: JoinHandle<Option<Kept>>,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct Home {
    dir: PathBuf,
    instance: String,
    program: OwnedFd,
}

impl Names {
    /// Reads what an earlier engine has left; changes nothing on the host.
    pub(crate) fn new(instance: &Instance) -> Result<Self, NetworkError> {
        let program = carried::sealed(c"gantry-netd", PROGRAM).map_err(|source| step("putting the name server into memory", source))?;
        let home = Arc::new(Home { dir: instance.run_dir.join(DIR), instance: instance.name.clone(), program });
        let adopted = gantry_shim::files::read_json(&home.dir, table::FILE).ok();
        Ok(Self { home, records: None, adopted, settled: false, written: None, keeper: None })
    }

    /// Replaces the names; [`Names::publish`] tells the name server.
    pub(crate) fn set(&mut self, records: &[NameRecord]) {
        self.records = Some(records.to_vec());
    }

    /// Tells the name server what there is, if that has changed, and sees to it that there is one. Returns when the table is in place.
    ///
    /// Until names were set there is none to tell, unless an earlier engine has started one.
    pub(crate) fn publish(
        &mut self,
        networks: &BTreeMap<String, NetworkWish>,
        endpoints: &BTreeMap<ContainerUid, EndpointWish>,
    ) -> Result<(), NetworkError> {
        if self.records.is_none() && !self.home.dir.exists() {
            return Ok(());
        }
        let mut table = table(networks, endpoints, self.records.as_deref().unwrap_or_default());
        if self.settled && self.records.is_some() {
            self.adopted = None;
        }
        if let Some(adopted) = &self.adopted {
            add_adopted(&mut table, adopted);
        }
        self.publish_table(&table)
    }

    /// Networks and endpoints have all been told anew. Once the names have been as well, what an earlier engine wrote is forgotten by
    /// [`Names::publish`].
    pub(crate) fn settle(&mut self) {
        self.settled = true;
    }

    fn publish_table(&mut self, table: &Table) -> Result<(), NetworkError> {
        let text = serde_json::to_vec(table).map_err(|error| step("encoding the table of names", error.into()))?;
        if self.written.as_ref() != Some(&text) {
            self.home
                .replace(&text)
                .map_err(|source| step(&format!("writing the table of names in `{}`", self.home.dir.display()), source))?;
            self.written = Some(text);
        }
        if self.keeper.as_ref().is_none_or(|keeper| keeper.task.is_finished()) {
            let kept = self.home.ensure().map_err(|source| step("starting the name server", source))?;
            let cancel = CancellationToken::new();
            self.keeper = Some(Keeper { task: tokio::spawn(keep(self.home.clone(), kept, cancel.clone())), cancel });
        }
        Ok(())
    }

    /// Ends the process and removes its directory and cgroup. Idempotent.
    pub(crate) async fn stop(&mut self) -> Result<(), NetworkError> {
        (self.written, self.adopted, self.records) = (None, None, None);
        let ended = self.end().await.map_err(|source| step("ending the name server", source));
        let removed = match fs::remove_dir_all(&self.home.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(step(&format!("removing `{}`", self.home.dir.display()), error)),
            _ => Ok(()),
        };
        ended.and(removed).and(self.home.remove_cgroup().await)
    }

    async fn end(&mut self) -> io::Result<()> {
        if let Some(Keeper { task, cancel }) = self.keeper.take() {
            cancel.cancel();
            if let Ok(Some(kept)) = task.await {
                kept.stop().await?;
            }
        }
        match self.home.find()? {
            Some(kept) => kept.stop().await,
            None => Ok(()),
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.cancel.cancel();
        }
    }
}

/// What the name server has to know.
fn table(networks: &BTreeMap<String, NetworkWish>, endpoints: &BTreeMap<ContainerUid, EndpointWish>, records: &[NameRecord]) -> Table {
    let mut table = Table::default();
    for network in networks.values() {
        let listen = |address| Listen { network_uid: network.uid.clone(), address, internal: network.internal };
        table.listen.extend(network.gateways.iter().map(|gateway| listen(gateway.address)));
    }
    for record in records.iter().filter(|record| networks.contains_key(&record.network_uid)) {
        let names = table.names.entry(record.network_uid.clone()).or_default();
        names.entry(record.name.to_ascii_lowercase()).or_default().extend(&record.addresses);
    }
    for endpoint in endpoints.values() {
        for asking in &endpoint.interfaces {
            let others = endpoint.interfaces.iter().map(|other| &other.network_uid).filter(|other| **other != asking.network_uid);
            let others: Vec<String> = others.cloned().collect();
            if !others.is_empty() {
                table.also.insert(asking.address.address, others);
            }
        }
    }
    table
}

/// What an earlier engine had written and this one has not been told about yet.
fn add_adopted(table: &mut Table, adopted: &Table) {
    let known = |address| table.listen.iter().any(|listen| listen.address == address);
    let more: Vec<Listen> = adopted.listen.iter().filter(|listen| !known(listen.address)).cloned().collect();
    table.listen.extend(more);
    for (network, names) in &adopted.names {
        let known = table.names.entry(network.clone()).or_default();
        for (name, addresses) in names {
            known.entry(name.clone()).or_insert_with(|| addresses.clone());
        }
    }
    for (address, networks) in &adopted.also {
        table.also.entry(*address).or_insert_with(|| networks.clone());
    }
}

/// A name server that runs.
#[derive(Debug)]
struct Kept {
    pidfd: AsyncFd<OwnedFd>,
    since: Instant,
}

impl Kept {
    fn open(pid: i32) -> io::Result<Self> {
        Ok(Self { pidfd: readable(pidfd_open(pid)?)?, since: Instant::now() })
    }

    async fn end(&self) {
        if self.pidfd.readable().await.is_ok() {
            // Fails for an earlier engine's child, whose end is somebody else's to take.
            let _ = waitid(Id::PIDFd(self.pidfd.get_ref().as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
        }
    }

    async fn stop(&self) -> io::Result<()> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            match pidfd_signal(self.pidfd.get_ref().as_fd(), signal as i32) {
                Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(()),
                other => other?,
            }
            if tokio::time::timeout(STOP_LIMIT, self.end()).await.is_ok() {
                return Ok(());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Waits for the process to end and starts it again, until it is cancelled; then the process, if there is one.
async fn keep(home: Arc<Home>, mut kept: Kept, cancel: CancellationToken) -> Option<Kept> {
    let mut pause = Duration::ZERO;
    loop {
        if cancel.run_until_cancelled(kept.end()).await.is_none() {
            return Some(kept);
        }
        pause = if kept.since.elapsed() >= SETTLED { Duration::ZERO } else { (pause * 2).min(MAX_PAUSE) };
        kept = loop {
            cancel.run_until_cancelled(tokio::time::sleep(pause)).await?;
            match home.ensure() {
                Ok(kept) => break kept,
                Err(error) => warn!(error = chain(&error), "start the name server again"),
            }
            pause = (pause * 2).clamp(Duration::from_secs(1), MAX_PAUSE);
        };
        pause = pause.max(Duration::from_millis(100));
        info!("the name server had ended and was started again");
    }
}

impl Home {
    fn replace(&self, text: &[u8]) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        gantry_shim::files::replace(&self.dir, table::FILE, text)
    }

    /// The process that serves the directory; one is started when there is none.
    fn ensure(&self) -> io::Result<Kept> {
        if let Some(kept) = self.find()? {
            return Ok(kept);
        }
        let log = self.dir.join(process::LOG);
        if fs::metadata(&log).is_ok_and(|data| data.len() > MAX_LOG) {
            fs::write(&log, b"")?;
        }
        let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
        let args = [c"gantry-netd".to_owned(), text(self.dir.as_os_str().as_bytes())?, text(self.instance.as_bytes())?];
        Kept::open(carried::spawn(self.program.as_fd(), &args, &log, None)?)
    }

    /// The process that holds the lock, if one does.
    fn find(&self) -> io::Result<Option<Kept>> {
        let Some(pid) = process::holder(&self.dir)? else { return Ok(None) };
        let kept = match Kept::open(pid) {
            // It ended just now.
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(None),
            other => other?,
        };
        // The number could have been given to another process between the two steps.
        Ok((process::holder(&self.dir)? == Some(pid)).then_some(kept))
    }

    async fn remove_cgroup(&self) -> Result<(), NetworkError> {
        let cgroup = process::cgroup(&self.instance).map_err(|source| step("finding the cgroup hierarchies", source))?;
        let limit = Instant::now() + STOP_LIMIT;
        loop {
            let Err(errors) = cgroup.remove() else { return Ok(()) };
            // The kernel lets go of an ended process a moment after it tells.
            if Instant::now() < limit {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let Some(error) = errors.into_iter().next() else { return Ok(()) };
            return Err(step(&error.step, error.source));
        }
    }
}

#[cfg(test)]
mod tests;
