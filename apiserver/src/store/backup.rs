//! A copy of all objects as one stream of bytes: written from a snapshot while writes go on, verified to the last byte when read.
//!
//! ```text
//! "GANTRYBK"
//! header    length: u32, JSON: version, revision, objects, time, engine
//! object    length: u32 (never 0), then: key length: u32, key bytes, revision: u64, object JSON; once for each
//! end       0: u32, number of objects: u64
//! checksum  SHA-256 of all bytes before it: 32 bytes, and nothing after it
//! ```
//!
//! All numbers are little-endian. Only the objects are in it: the log belongs to the clients of the engine that wrote it.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::key::{Key, Revision};
use super::{MAX_OBJECT_BYTES, ReadError, Snapshot, Store};

const MAGIC: &[u8; 8] = b"GANTRYBK";
/// The version of the layout that this code writes.
pub const VERSION: u32 = 1;
const MAX_HEADER_BYTES: usize = 64 * 1024;
const MAX_RECORD_BYTES: usize = MAX_OBJECT_BYTES + 64 * 1024;
const CHECKSUM_BYTES: usize = 32;
/// Objects read at a time: at most so many of the largest are in memory.
const PAGE: usize = 16;
/// Chunks that wait for the reader.
const CHUNKS: usize = 4;
/// A reader that takes nothing for so long is given up: its snapshot holds back the reuse of space.
const STALL: Duration = Duration::from_secs(60);

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Of the layout.
    pub version: u32,
    /// At which all objects stood so.
    pub revision: u64,
    /// How many there are.
    pub objects: u64,
    /// When it was made.
    pub time: Timestamp,
    /// The engine that made it.
    pub engine: String,
}

/// One object of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub key: Key,
    /// Its last change.
    pub revision: Revision,
    /// The whole object as JSON.
    pub bytes: Bytes,
}

/// A backup that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It is something else.
    #[error("this is no backup of a Gantry store")]
    Foreign,
    /// A newer engine wrote it.
    #[error("the backup has version {found}, this engine knows versions up to {VERSION}; use the engine that wrote it")]
    Version {
        /// What it says.
        found: u32,
    },
    /// Its end is missing.
    #[error("the backup is truncated after {bytes} bytes")]
    Truncated {
        /// What there is.
        bytes: u64,
    },
    /// It is not what was written.
    #[error("the backup is corrupt: {why}")]
    Corrupt {
        /// What does not fit.
        why: &'static str,
    },
    /// It cannot be read.
    #[error("read the backup")]
    Io(#[source] io::Error),
}

/// Begins a backup of the objects as they stand now. Dropping the stream ends it.
///
/// # Errors
/// When the store cannot be read. A failure later on is an error in the stream; what came before it is then no backup.
pub async fn stream(store: &dyn Store, time: Timestamp, engine: &str) -> Result<impl Stream<Item = io::Result<Bytes>> + use<>, ReadError> {
    let snapshot = store.snapshot().await?;
    let header =
        Header { version: VERSION, revision: snapshot.revision().0, objects: snapshot.objects().await?, time, engine: engine.to_owned() };
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        if let Err(error) = send(&*snapshot, &header, &chunks).await {
            tracing::warn!(%error, "a backup was not finished");
            // Whoever reads is told, if anybody still does.
            let _ = chunks.try_send(Err(error));
        }
    });
    Ok(futures_util::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }))
}

async fn send(snapshot: &dyn Snapshot, header: &Header, chunks: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut hash = Sha256::new();
    let send = async |chunk: Vec<u8>| match tokio::time::timeout(STALL, chunks.send(Ok(chunk.into()))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_gone)) => Err(io::Error::other("the reader went away")),
        Err(_stalled) => Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing")),
    };
    let mut chunk = MAGIC.to_vec();
    put(&mut chunk, &serde_json::to_vec(header)?)?;
    let (mut after, mut objects) = (None, 0_u64);
    loop {
        let page = snapshot.page(None, after.as_ref(), PAGE).await.map_err(io::Error::other)?;
        for record in &page.records {
            let key = record.key.to_bytes();
            let mut value = Vec::with_capacity(key.len() + record.bytes.len() + 12);
            put(&mut value, &key)?;
            value.extend_from_slice(&record.revision.0.to_le_bytes());
            value.extend_from_slice(&record.bytes);
            put(&mut chunk, &value)?;
            objects += 1;
        }
        if !page.more {
            break;
        }
        after = page.records.last().map(|record| record.key.clone());
        hash.update(&chunk);
        send(std::mem::take(&mut chunk)).await?;
    }
    chunk.extend_from_slice(&0_u32.to_le_bytes());
    chunk.extend_from_slice(&objects.to_le_bytes());
    hash.update(&chunk);
    chunk.extend_from_slice(&hash.finalize());
    send(chunk).await
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    out.extend_from_slice(&u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Reads a backup. What it gives is to be trusted only when it has given all: the checksum comes last.
pub struct Reader<R> {
    from: R,
    hash: Sha256,
    bytes: u64,
    header: Header,
    objects: u64,
    last: Option<Key>,
    is_over: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn open(from: R) -> Result<Self, BackupError> {
        let header = Header { version: 0, revision: 0, objects: 0, time: Timestamp::UNIX_EPOCH, engine: String::new() };
        let mut reader = Self { from, hash: Sha256::new(), bytes: 0, header, objects: 0, last: None, is_over: false };
        let mut magic = [0; MAGIC.len()];
        match reader.fill(&mut magic) {
            Ok(()) if &magic == MAGIC => {}
            Ok(()) | Err(BackupError::Truncated { .. }) => return Err(BackupError::Foreign),
            Err(error) => return Err(error),
        }
        let header = reader.take(MAX_HEADER_BYTES, "its header is too long")?;
        let header: serde_json::Value =
            serde_json::from_slice(&header).map_err(|_| BackupError::Corrupt { why: "its header is no JSON object" })?;
        // First, as the rest may be called otherwise in another version.
        let version = header["version"].as_u64().and_then(|version| u32::try_from(version).ok());
        match version {
            Some(VERSION) => {}
            Some(found) => return Err(BackupError::Version { found }),
            None => return Err(BackupError::Corrupt { why: "its header names no version" }),
        }
        reader.header = serde_json::from_value(header).map_err(|_| BackupError::Corrupt { why: "its header lacks something" })?;
        Ok(reader)
    }

    /// What the backup says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next object; `None` when all were read, nothing is missing and the checksum fits.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn next_object(&mut self) -> Result<Option<Stored>, BackupError> {
        if self.is_over {
            return Ok(None);
        }
        let value = self.take(MAX_RECORD_BYTES, "an object is too long")?;
        if value.is_empty() {
            self.end()?;
            return Ok(None);
        }
        let stored = stored(&value).ok_or(BackupError::Corrupt { why: "an object is not what it says" })?;
        if stored.revision.0 > self.header.revision || self.last.as_ref().is_some_and(|last| *last >= stored.key) {
            return Err(BackupError::Corrupt { why: "an object is out of its place" });
        }
        self.last = Some(stored.key.clone());
        self.objects += 1;
        Ok(Some(stored))
    }

    fn end(&mut self) -> Result<(), BackupError> {
        let mut objects = [0; 8];
        self.fill(&mut objects)?;
        let wanted = self.hash.clone().finalize();
        let mut checksum = [0; CHECKSUM_BYTES];
        self.fill(&mut checksum)?;
        if checksum[..] != wanted[..] {
            return Err(BackupError::Corrupt { why: "its checksum does not fit" });
        }
        if u64::from_le_bytes(objects) != self.objects || self.objects != self.header.objects {
            return Err(BackupError::Corrupt { why: "its number of objects does not fit" });
        }
        if self.from.read(&mut [0]).map_err(BackupError::Io)? != 0 {
            return Err(BackupError::Corrupt { why: "something follows its end" });
        }
        self.is_over = true;
        Ok(())
    }

    /// A length, and so many bytes.
    fn take(&mut self, most: usize, too_long: &'static str) -> Result<Vec<u8>, BackupError> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > most {
            return Err(BackupError::Corrupt { why: too_long });
        }
        let mut value = vec![0; length];
        self.fill(&mut value)?;
        Ok(value)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), BackupError> {
        match self.from.read_exact(out) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(BackupError::Truncated { bytes: self.bytes }),
            Err(error) => return Err(BackupError::Io(error)),
        }
        self.bytes += out.len() as u64;
        self.hash.update(&*out);
        Ok(())
    }
}

fn stored(value: &[u8]) -> Option<Stored> {
    let (length, rest) = value.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let (revision, bytes) = rest.split_first_chunk::<8>()?;
    Some(Stored { key: Key::from_bytes(key)?, revision: Revision(u64::from_le_bytes(*revision)), bytes: Bytes::copy_from_slice(bytes) })
}
