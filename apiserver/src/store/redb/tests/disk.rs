//! A disk that fails, fills up, and forgets in a crash what was not synced.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use redb::{Builder, Database, StorageBackend};

use super::super::file::{Extent, check};
use super::super::{Backing, OpenError, RedbConfig, RedbStore};

#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// As the process sees it.
    contents: Vec<u8>,
    /// As of the last sync.
    durable: Vec<u8>,
    /// Since then.
    unsynced: Vec<Unsynced>,
    operations: u64,
    fail_at: Option<u64>,
    failed: bool,
    crash_at: Option<u64>,
    no_space: bool,
    free_bytes: u64,
}

#[derive(Debug, Clone)]
enum Unsynced {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

impl Default for State {
    fn default() -> Self {
        Self {
            contents: Vec::new(),
            durable: Vec::new(),
            unsynced: Vec::new(),
            operations: 0,
            fail_at: None,
            failed: false,
            crash_at: None,
            no_space: false,
            free_bytes: u64::MAX,
        }
    }
}

impl Disk {
    pub(super) fn start(&self) -> RedbStore {
        self.try_start().unwrap()
    }

    pub(super) fn try_start(&self) -> Result<RedbStore, OpenError> {
        RedbStore::start(Box::new(self.clone()), RedbConfig::default(), Path::new("test disk"))
    }

    pub(super) fn set_no_space(&self, no_space: bool) {
        self.state().no_space = no_space;
    }

    pub(super) fn set_free_bytes(&self, free_bytes: u64) {
        self.state().free_bytes = free_bytes;
    }

    /// The operation fails that comes after `operations` more.
    pub(super) fn fail_at(&self, operations: u64) {
        let mut state = self.state();
        state.fail_at = Some(state.operations + operations);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// The machine stops after `operations` more: nothing works until [`Disk::reboot`].
    pub(super) fn crash_at(&self, operations: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + operations);
    }

    pub(super) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// What a machine finds after a power cut: all that was synced, and of the rest some, in any order, torn anywhere.
    pub(super) fn reboot(&self, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let state = self.state();
        let mut contents = state.durable.clone();
        let mut rest = state.unsynced.clone();
        while !rest.is_empty() {
            match rest.swap_remove(random.random_range(0..rest.len())) {
                _ if random.random_bool(0.4) => {}
                Unsynced::SetLen(len) => contents.resize(len, 0),
                Unsynced::Write { offset, mut data } => {
                    if random.random_bool(0.3) {
                        data.truncate(random.random_range(0..=data.len()));
                    }
                    put(&mut contents, offset, &data);
                }
            }
        }
        Self(Arc::new(Mutex::new(State { durable: contents.clone(), contents, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn operate<T>(&self, operate: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        if state.crash_at.is_some_and(|at| number >= at) {
            return Err(io::Error::other("the machine has stopped"));
        }
        if state.fail_at == Some(number) {
            state.failed = true;
            return Err(io::Error::other("told to fail"));
        }
        operate(&mut state)
    }
}

fn put(contents: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[offset..end].copy_from_slice(data);
}

impl Backing for Disk {
    fn open(&mut self, verify: bool) -> Result<(Database, Extent), OpenError> {
        let dir = Path::new("test disk");
        let refused = |error: redb::DatabaseError| OpenError::Database { dir: dir.to_owned(), source: Box::new(error.into()) };
        let mut database = Builder::new().set_cache_size(1 << 20).create_with_backend(self.clone()).map_err(refused)?;
        if verify {
            database.check_integrity().map_err(refused)?;
        }
        let extent = check(&database, dir)?;
        Ok((database, extent))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.state().free_bytes)
    }

    fn file_bytes(&self) -> u64 {
        self.state().contents.len() as u64
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        self.operate(|state| Ok(state.contents.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.operate(|state| {
            let offset = usize::try_from(offset).unwrap();
            let read = state.contents.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(read);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.operate(|state| {
            let len = usize::try_from(len).unwrap();
            state.contents.resize(len, 0);
            state.unsynced.push(Unsynced::SetLen(len));
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.operate(|state| {
            if state.no_space {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.durable = state.contents.clone();
            state.unsynced.clear();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.operate(|state| {
            if state.no_space {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let offset = usize::try_from(offset).unwrap();
            put(&mut state.contents, offset, data);
            state.unsynced.push(Unsynced::Write { offset, data: data.to_vec() });
            Ok(())
        })
    }
}
