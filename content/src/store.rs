//! The directory of blobs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::digest::Digest;
use crate::error::ContentError;
use crate::ingest::{AsyncIngest, Ingest};

/// All content of one host. Cheap to clone; several processes may have the same directory open.
#[derive(Debug, Clone)]
pub struct ContentStore {
    pub(crate) root: Arc<Path>,
}

impl ContentStore {
    /// Opens the store in `dir`, which is made when missing (mode 0700), and removes what imports cut by a crash left behind.
    pub fn open(dir: &Path) -> Result<Self, ContentError> {
        use std::os::unix::fs::DirBuilderExt as _;
        for part in ["blobs/sha256", "ingest", "index"] {
            let path = dir.join(part);
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(&path).map_err(ContentError::io(format!("create {}", path.display())))?;
        }
        let store = Self { root: dir.into() };
        crate::archive::clean_imports(&store)?;
        Ok(store)
    }

    /// Whether the blob is here, whole and verified.
    pub fn has(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Size of the blob in bytes, `None` when it is not here.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, ContentError> {
        match fs::metadata(self.blob_path(digest)) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ContentError::Io { step: format!("look at blob {digest}"), source }),
        }
    }

    /// The blob, opened for reading. It stays readable when it is removed meanwhile.
    pub fn reader(&self, digest: &Digest) -> Result<File, ContentError> {
        File::open(self.blob_path(digest)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ContentError::NotFound { digest: *digest },
            _ => ContentError::Io { step: format!("open blob {digest}"), source },
        })
    }

    /// The blob, opened for asynchronous reading, and its size in bytes.
    pub async fn async_reader(&self, digest: &Digest) -> Result<(tokio::fs::File, u64), ContentError> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || {
            let file = store.reader(&digest)?;
            let size = file.metadata().map_err(ContentError::io(format!("look at blob {digest}")))?.len();
            Ok((tokio::fs::File::from_std(file), size))
        })
        .await
    }

    /// The whole of a blob that must not be larger than `limit` bytes.
    pub fn read_small(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ContentError> {
        let mut bytes = Vec::new();
        let file = self.reader(digest)?;
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(ContentError::io(format!("read blob {digest}")))?;
        if bytes.len() as u64 > limit {
            return Err(ContentError::TooLarge { what: format!("blob {digest}"), limit });
        }
        Ok(bytes)
    }

    /// Begins or resumes the ingest `key`.
    ///
    /// `expected`: what the bytes must hash to. `limit`: the most bytes that are taken. An unfinished ingest is kept and resumed by the
    /// next writer with the same key; `Busy` while another writer, in any process, has it open.
    pub fn writer(&self, key: &str, expected: Option<Digest>, limit: u64) -> Result<Ingest, ContentError> {
        Ingest::open(self, key, expected, limit)
    }

    /// [`ContentStore::writer`] for asynchronous callers.
    pub async fn async_writer(&self, key: &str, expected: Option<Digest>, limit: u64) -> Result<AsyncIngest, ContentError> {
        let (store, key) = (self.clone(), key.to_owned());
        Ok(AsyncIngest::new(blocking(move || store.writer(&key, expected, limit)).await?))
    }

    /// Stores a small blob at once and gives its digest.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        let digest = Digest::of(bytes);
        if self.keep(&digest)? {
            return Ok(digest);
        }
        let mut ingest = self.writer(&format!("put-{}", uuid::Uuid::new_v4()), Some(digest), bytes.len() as u64)?;
        ingest.write(bytes)?;
        ingest.commit()?;
        Ok(digest)
    }

    /// Makes the blob young again, so that no sweep takes it before its owner is written down. False when it is not here.
    pub fn keep(&self, digest: &Digest) -> Result<bool, ContentError> {
        let _shared = self.lock_shared()?;
        match File::open(self.blob_path(digest)) {
            Ok(file) => {
                file.set_modified(now()).map_err(ContentError::io(format!("touch blob {digest}")))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(ContentError::Io { step: format!("open blob {digest}"), source }),
        }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// Held shared by those who add or touch blobs, so that a sweep decides on what it then removes.
    pub(crate) fn lock_shared(&self) -> Result<File, ContentError> {
        let file = self.lock_file()?;
        file.lock_shared().map_err(ContentError::io("lock the content store"))?;
        Ok(file)
    }

    pub(crate) fn lock_file(&self) -> Result<File, ContentError> {
        let path = self.root.join("sweep.lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        open.map_err(ContentError::io(format!("open {}", path.display())))
    }
}

/// Now, as file times are written.
pub(crate) fn now() -> SystemTime {
    jiff::Timestamp::now().into()
}

/// Makes a rename in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), ContentError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(ContentError::io(format!("sync directory {}", dir.display())))
}

/// Runs blocking work off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ContentError> + Send + 'static,
) -> Result<T, ContentError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ContentError::Io { step: "run blocking work".to_owned(), source: io::Error::other(error) }),
    }
}
