//! A disk in memory that fails, fills up, and writes down all that is done to it.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Builder, StorageBackend};

use super::super::file::whole_pages;
use super::super::tables::{Opened, verified};
use super::super::{Backing, OpenError, RedbConfig, RedbStore};
use super::trace::{Step, Walk};

/// The file and its state; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

/// What may be done to the storage, and fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Len,
    Read,
    SetLen,
    Sync,
    Write,
}

/// Operations that fail, counted from the moment when the fault is planned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    /// The first one that fails, counting from 0.
    pub(super) first: u64,
    /// How many fail, `u64::MAX` for all after it.
    pub(super) count: u64,
    /// As a full disk fails: only what needs room, and with its error.
    pub(super) no_space: bool,
}

#[derive(Debug, Default)]
struct State {
    contents: Vec<u8>,
    /// When recording began.
    start: Vec<u8>,
    /// Since recording was asked for.
    trace: Option<Vec<Step>>,
    operations: u64,
    fault: Option<Fault>,
    /// The operations that failed.
    failed: Vec<Access>,
    used_bytes: u64,
    /// What redb may keep in memory; [`CACHE_BYTES`] unless said.
    cache_bytes: Option<usize>,
}

/// Holds all that most tests have on the disk.
const CACHE_BYTES: usize = 1 << 20;

impl Disk {
    /// An empty disk of which next to nothing is kept in memory, so that commits read it too.
    pub(super) fn uncached() -> Self {
        Self(Arc::new(Mutex::new(State { cache_bytes: Some(0), ..State::default() })))
    }

    /// A disk that holds `contents` and writes down what is done from now on.
    pub(super) fn recording(contents: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { start: contents.clone(), contents, trace: Some(Vec::new()), ..State::default() })))
    }

    pub(super) fn start(&self) -> RedbStore {
        self.try_start(RedbConfig::default()).unwrap()
    }

    pub(super) fn try_start(&self, config: RedbConfig) -> Result<RedbStore, OpenError> {
        RedbStore::start(Box::new(self.clone()), config, Path::new("test disk"))
    }

    /// Writes down that everything up to this revision is acknowledged.
    pub(super) fn acknowledge(&self, revision: u64) {
        if let Some(trace) = &mut self.state().trace {
            trace.push(Step::Acknowledged(revision));
        }
    }

    pub(super) fn take_trace(&self) -> Vec<Step> {
        self.state().trace.take().unwrap_or_default()
    }

    /// What is durable now: all that was not synced since the recording began is lost.
    pub(super) fn synced(&self) -> Vec<u8> {
        let state = self.state();
        let Some(trace) = &state.trace else { return state.contents.clone() };
        let upto = trace.iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
        let mut walk = Walk::new(state.start.clone(), &trace[..upto]);
        while walk.next_write().is_some() {}
        walk.all()
    }

    /// From now on operations fail as planned, until [`Disk::mend`].
    pub(super) fn plan(&self, fault: Fault) {
        let mut state = self.state();
        state.operations = 0;
        state.failed.clear();
        state.fault = Some(fault);
    }

    /// The disk works again; what failed.
    pub(super) fn mend(&self) -> Vec<Access> {
        let mut state = self.state();
        state.fault = None;
        std::mem::take(&mut state.failed)
    }

    /// So many bytes of the file system are taken by others.
    pub(super) fn set_used_bytes(&self, used_bytes: u64) {
        self.state().used_bytes = used_bytes;
    }

    /// As the directory does it before it opens the file.
    fn drop_torn_tail(&self) {
        let mut state = self.state();
        let whole = usize::try_from(whole_pages(state.contents.len() as u64)).unwrap();
        if whole < state.contents.len() {
            state.contents.truncate(whole);
            Self::record(&mut state, Step::SetLen(whole));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn operate<T>(&self, access: Access, operate: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        if let Some(fault) = state.fault {
            let is_due = number >= fault.first && number - fault.first < fault.count;
            let needs_room = matches!(access, Access::SetLen | Access::Sync | Access::Write);
            if is_due && (needs_room || !fault.no_space) {
                state.failed.push(access);
                return Err(if fault.no_space { io::ErrorKind::StorageFull.into() } else { io::Error::other("told to fail") });
            }
        }
        operate(&mut state)
    }

    fn record(state: &mut State, step: Step) {
        if let Some(trace) = &mut state.trace {
            trace.push(step);
        }
    }
}

/// Writes into a file's contents, which grow as a file grows.
pub(super) fn put(contents: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[offset..end].copy_from_slice(data);
}

impl Backing for Disk {
    fn open(&mut self, deeply: bool) -> Result<Opened, OpenError> {
        let dir = Path::new("test disk");
        self.drop_torn_tail();
        let refused = |error: redb::DatabaseError| OpenError::Database { dir: dir.to_owned(), source: Box::new(error.into()) };
        let cache_bytes = self.state().cache_bytes.unwrap_or(CACHE_BYTES);
        let database = Builder::new().set_cache_size(cache_bytes).create_with_backend(self.clone()).map_err(refused)?;
        verified(database, deeply, None, dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX - self.state().used_bytes)
    }

    fn file_bytes(&self) -> u64 {
        self.state().contents.len() as u64
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        self.operate(Access::Len, |state| Ok(state.contents.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.operate(Access::Read, |state| {
            let offset = usize::try_from(offset).unwrap();
            let read = state.contents.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(read);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.operate(Access::SetLen, |state| {
            let len = usize::try_from(len).unwrap();
            state.contents.resize(len, 0);
            Self::record(state, Step::SetLen(len));
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.operate(Access::Sync, |state| {
            Self::record(state, Step::Sync);
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.operate(Access::Write, |state| {
            let offset = usize::try_from(offset).unwrap();
            put(&mut state.contents, offset, data);
            Self::record(state, Step::Write { offset, data: data.into() });
            Ok(())
        })
    }
}
