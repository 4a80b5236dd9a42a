//! Blobs on their way in.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use bytes::Bytes;

use crate::digest::{Digest, Hasher};
use crate::error::ContentError;
use crate::store::{ContentStore, blocking, sync_dir};

/// A blob that is being written. Dropped before [`Ingest::commit`], its bytes stay for a resume by the same key.
pub struct Ingest {
    store: ContentStore,
    key: String,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    offset: u64,
    expected: Option<Digest>,
    limit: u64,
}

impl Ingest {
    pub(crate) fn open(store: &ContentStore, key: &str, expected: Option<Digest>, limit: u64) -> Result<Self, ContentError> {
        let path = store.ingest_dir().join(Digest::of(key.as_bytes()).hex());
        let file = lock_current(&path, key)?;
        let mut ingest =
            Self { store: store.clone(), key: key.to_owned(), path, file, hasher: Hasher::default(), offset: 0, expected, limit };
        ingest.rehash()?;
        if ingest.offset > limit {
            ingest.restart()?;
        }
        Ok(ingest)
    }

    /// Bytes that are here: where the next write goes, and from where a source is to be asked on.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        let end = self.offset.saturating_add(bytes.len() as u64);
        if end > self.limit {
            return Err(ContentError::TooLarge { what: format!("ingest `{}`", self.key), limit: self.limit });
        }
        self.file.write_all(bytes).map_err(ContentError::io(format!("write ingest `{}`", self.key)))?;
        self.hasher.update(bytes);
        self.offset = end;
        Ok(())
    }

    /// Throws away what is here and begins anew.
    pub fn restart(&mut self) -> Result<(), ContentError> {
        let step = || format!("restart ingest `{}`", self.key);
        self.file.set_len(0).map_err(ContentError::io(step()))?;
        self.file.seek(SeekFrom::Start(0)).map_err(ContentError::io(step()))?;
        self.hasher = Hasher::default();
        self.offset = 0;
        Ok(())
    }

    /// Verifies, makes durable and gives the blob its final name. On a mismatch nothing is kept.
    pub fn commit(mut self) -> Result<Digest, ContentError> {
        let actual = std::mem::take(&mut self.hasher).finish();
        if let Some(expected) = self.expected.filter(|expected| *expected != actual) {
            self.discard()?;
            return Err(ContentError::DigestMismatch { expected, actual });
        }
        if self.store.keep(&actual)? {
            self.discard()?;
            return Ok(actual);
        }
        let step = || format!("commit blob {actual}");
        self.file.sync_all().map_err(ContentError::io(step()))?;
        let _shared = self.store.lock_shared()?;
        self.file.set_modified(crate::store::now()).map_err(ContentError::io(step()))?;
        let target = self.store.blob_path(&actual);
        fs::rename(&self.path, &target).map_err(ContentError::io(step()))?;
        sync_dir(&self.store.root.join("blobs/sha256"))?;
        Ok(actual)
    }

    /// Removes what is here.
    pub fn discard(self) -> Result<(), ContentError> {
        fs::remove_file(&self.path).map_err(ContentError::io(format!("remove ingest `{}`", self.key)))
    }

    fn rehash(&mut self) -> Result<(), ContentError> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = self.file.read(&mut buffer).map_err(ContentError::io(format!("read ingest `{}`", self.key)))?;
            if count == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..count]);
            self.offset += count as u64;
        }
    }
}

/// Opens the file and locks it; a file that was renamed or removed between the two is not the one at `path` any more.
fn lock_current(path: &std::path::Path, key: &str) -> Result<File, ContentError> {
    let step = || format!("open ingest `{key}`");
    loop {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(ContentError::io(step()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ContentError::Busy { key: key.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(ContentError::Io { step: step(), source }),
        }
        let ours = file.metadata().map_err(ContentError::io(step()))?.ino();
        if fs::metadata(path).is_ok_and(|there| there.ino() == ours) {
            return Ok(file);
        }
    }
}

/// [`Ingest`] for asynchronous callers. Dropped, or its future dropped, its bytes stay for a resume.
pub struct AsyncIngest {
    inner: Option<Ingest>,
    pending: Vec<Bytes>,
    pending_bytes: u64,
    offset: u64,
}

/// Chunks are written together once they are this many bytes: one hop to a blocking thread per batch, not per chunk.
const BATCH_BYTES: u64 = 1 << 20;

impl AsyncIngest {
    pub(crate) fn new(inner: Ingest) -> Self {
        Self { offset: inner.offset(), inner: Some(inner), pending: Vec::new(), pending_bytes: 0 }
    }

    /// Bytes that were taken in.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends `chunk`.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), ContentError> {
        self.offset += chunk.len() as u64;
        self.pending_bytes += chunk.len() as u64;
        self.pending.push(chunk);
        if self.pending_bytes >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Writes what waits. After an error or a dropped future the ingest is closed; open it again to go on.
    pub async fn flush(&mut self) -> Result<(), ContentError> {
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let mut ingest = self.take()?;
        let written = blocking(move || {
            for chunk in pending {
                ingest.write(&chunk)?;
            }
            Ok(ingest)
        });
        self.inner = Some(written.await?);
        Ok(())
    }

    /// Throws away what is here and begins anew.
    pub async fn restart(&mut self) -> Result<(), ContentError> {
        self.pending.clear();
        (self.pending_bytes, self.offset) = (0, 0);
        let mut ingest = self.take()?;
        let restarted = blocking(move || {
            ingest.restart()?;
            Ok(ingest)
        });
        self.inner = Some(restarted.await?);
        Ok(())
    }

    /// Verifies, makes durable and gives the blob its final name: its digest and its size in bytes.
    pub async fn commit(mut self) -> Result<(Digest, u64), ContentError> {
        self.flush().await?;
        let ingest = self.take()?;
        let size = ingest.offset();
        blocking(move || Ok((ingest.commit()?, size))).await
    }

    fn take(&mut self) -> Result<Ingest, ContentError> {
        let closed = || std::io::Error::other("the ingest was closed by an earlier error");
        self.inner.take().ok_or_else(|| ContentError::Io { step: "write ingest".to_owned(), source: closed() })
    }
}
