//! Blobs into the content store, layers out of it into the snapshotter.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use gantry_content::manifest::Descriptor;
use gantry_content::{ContentError, ContentStore, Digest, Hasher};
use tokio::sync::OwnedMutexGuard;

use super::error::{ImageError, Reason};
use super::progress::Progress;
use super::registry::{Registry, Repository};
use crate::snapshot::Snapshotter;

/// A layer may inflate to this many bytes whatever its size.
const FREE_PLAIN_BYTES: u64 = 1 << 30;
/// Beyond that, to so many times its size.
const MAX_RATIO: u64 = 200;
/// Bytes of one hand-over between the threads that inflate and extract.
const CHUNK: usize = 256 * 1024;
/// Hand-overs that may wait.
const CHUNKS: usize = 8;

/// Lets one worker at a time work on a thing; who comes second finds it done.
#[derive(Default)]
pub(crate) struct SingleFlight {
    running: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl SingleFlight {
    pub(crate) async fn enter(&self, key: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|_, lock| lock.strong_count() > 0);
            let known = running.get(key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                running.insert(key.to_owned(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// Brings a blob into the content store, unless it is there.
pub(crate) async fn fetch(
    content: &ContentStore,
    registry: &Registry,
    flights: &SingleFlight,
    repository: &Repository,
    blob: &Descriptor,
    progress: &Progress,
) -> Result<(), ImageError> {
    let _alone = flights.enter(&format!("blob {}", blob.digest)).await;
    let (store, digest) = (content.clone(), blob.digest);
    if blocking(move || store.keep(&digest)).await? {
        progress.add(blob.size);
        return Ok(());
    }
    let key = format!("blob-{}", blob.digest);
    let mut ingest = loop {
        match content.async_writer(&key, Some(blob.digest), blob.size).await {
            // Another process of this host fetches the same: what it got is taken over when it is done.
            Err(ContentError::Busy { .. }) => tokio::time::sleep(Duration::from_millis(200)).await,
            other => break other?,
        }
    };
    progress.add(ingest.offset());
    registry.blob(repository, &blob.digest, blob.size, &mut ingest, progress).await?;
    ingest.commit().await?;
    Ok(())
}

/// Unpacks a layer from the content store, unless it is unpacked. What it inflates to is checked against `diff_id`.
pub(crate) async fn unpack(
    content: &ContentStore,
    snapshotter: &Arc<dyn Snapshotter>,
    flights: &SingleFlight,
    blob: Digest,
    diff_id: Digest,
) -> Result<(), ImageError> {
    let name = diff_id.to_string();
    let _alone = flights.enter(&format!("layer {name}")).await;
    if snapshotter.has_layer(&name).await {
        return Ok(());
    }
    let store = content.clone();
    let file = blocking(move || store.reader(&blob)).await?;
    let (sender, receiver) = sync_channel(CHUNKS);
    let verdict = Arc::new(OnceLock::new());
    let inflater = tokio::task::spawn_blocking(move || inflate_into(file, &sender));
    let asked = verdict.clone();
    let commit = Box::new(move || match asked.get() {
        Some(actual) if *actual == diff_id => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the content is not what its diff id says")),
    });
    let reader = Box::new(ChunkReader { receiver, chunk: Vec::new(), at: 0, hasher: Some(Hasher::default()), verdict: verdict.clone() });
    let unpacked = snapshotter.unpack_layer(&name, reader, commit).await;
    // Ends by itself: its receiver is gone, or it sent the end.
    let _ = inflater.await;
    match (unpacked, verdict.get()) {
        (Err(_), Some(actual)) if *actual != diff_id => {
            let message = format!("layer {blob}: it inflates to {actual}, not to its diff id {diff_id}");
            Err(ImageError::new(Reason::DigestMismatch, message))
        }
        (result, _) => Ok(result?),
    }
}

/// What the inflating thread hands over.
enum Chunk {
    Bytes(Vec<u8>),
    Failed(io::Error),
    End,
}

fn inflate_into(file: File, sender: &SyncSender<Chunk>) {
    let end = inflate_chunks(file, sender).map_or_else(Chunk::Failed, |()| Chunk::End);
    // Nobody listens any more when the extractor refused the layer.
    let _ = sender.send(end);
}

/// Ends early when the other side has gone.
fn inflate_chunks(file: File, sender: &SyncSender<Chunk>) -> io::Result<()> {
    let limit = file.metadata()?.len().saturating_mul(MAX_RATIO).max(FREE_PLAIN_BYTES);
    let mut plain = inflate(file)?;
    let mut total = 0;
    loop {
        let mut chunk = vec![0; CHUNK];
        let mut filled = 0;
        while filled < CHUNK {
            match plain.read(&mut chunk[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        chunk.truncate(filled);
        total += filled as u64;
        if total > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it inflates to more than {limit} bytes")));
        }
        if sender.send(Chunk::Bytes(chunk)).is_err() {
            return Ok(());
        }
    }
}

/// By the first bytes: media types are often wrong.
fn inflate(mut file: File) -> io::Result<Box<dyn Read>> {
    let mut head = Vec::new();
    file.by_ref().take(4).read_to_end(&mut head)?;
    let gzip = head.starts_with(&[0x1f, 0x8b]);
    let zstd = head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    let whole = io::BufReader::with_capacity(CHUNK, io::Cursor::new(head).chain(file));
    Ok(match (gzip, zstd) {
        (true, _) => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        (_, true) => Box::new(zstd::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}

/// The extracting thread's end. It hashes as well: inflating costs about as much as the two together.
struct ChunkReader {
    receiver: Receiver<Chunk>,
    chunk: Vec<u8>,
    at: usize,
    /// `None` after the end.
    hasher: Option<Hasher>,
    /// Gets the digest of all that was read, at the end.
    verdict: Arc<OnceLock<Digest>>,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len()
            && let Some(mut hasher) = self.hasher.take()
        {
            match self.receiver.recv() {
                Ok(Chunk::Bytes(chunk)) => {
                    hasher.update(&chunk);
                    (self.chunk, self.at, self.hasher) = (chunk, 0, Some(hasher));
                }
                Ok(Chunk::End) => {
                    let _ = self.verdict.set(hasher.finish());
                }
                Ok(Chunk::Failed(error)) => return Err(error),
                Err(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the inflating thread is gone")),
            }
        }
        let count = (self.chunk.len() - self.at).min(buffer.len());
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Runs a call of the content store off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ContentError> + Send + 'static) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(ImageError::new(Reason::DiskError, format!("run blocking work: {error}"))),
    }
}
