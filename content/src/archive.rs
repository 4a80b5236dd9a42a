//! Archives of images: what `docker save` writes, and OCI layouts.
//!
//! The archive is read once, front to back, into a directory of its own under `ingest/`. Entries are stored under numbers and known by
//! their names only in memory: nothing is ever extracted by path. When manifest and configuration were read and checked, the blobs that
//! they name take their places, and last of all the references are recorded; before that nothing is visible.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::PathBuf;

use serde::Deserialize;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use crate::digest::{Digest, Hasher};
use crate::error::ContentError;
use crate::manifest::{self, CONFIG_LIMIT, Config, Descriptor, Index, MANIFEST_LIMIT, Manifest, Platform};
use crate::reference::normalize;
use crate::store::{ContentStore, blocking, sync_dir};
use crate::tarball::{Entry, EntryKind, TarLimits, TarReader};

/// One image that an archive held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Normalised reference under which it was recorded; `None` when the archive names none.
    pub reference: Option<String>,
    /// Digest of the image manifest.
    pub digest: Digest,
    /// Media type of the image manifest.
    pub media_type: String,
}

/// What an import accepts.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveLimits {
    /// Most entries of the archive.
    pub entries: u64,
    /// Most bytes of all entries together.
    pub total_bytes: u64,
    /// Most images.
    pub images: usize,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self { entries: 10_000, total_bytes: 64 << 30, images: 100 }
    }
}

/// How deep an index may lie within an index.
const INDEX_DEPTH: u32 = 3;
/// How many links a name may lead through.
const LINK_DEPTH: u32 = 4;

impl ContentStore {
    /// Imports all images of an archive (plain, gzip or zstd) and records their references in `namespace`.
    ///
    /// From an index by platform the manifest for this host is taken. A failed or cut import leaves nothing visible.
    pub async fn import_archive(
        &self,
        namespace: &str,
        reader: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<Vec<Imported>, ContentError> {
        let (store, namespace) = (self.clone(), namespace.to_owned());
        let bridge = SyncIoBridge::new(reader);
        blocking(move || store.import_archive_blocking(&namespace, bridge, &ArchiveLimits::default())).await
    }

    /// Imports all images of an archive that was uploaded as a blob.
    pub async fn import_archive_blob(&self, namespace: &str, digest: &Digest) -> Result<Vec<Imported>, ContentError> {
        let (store, namespace, digest) = (self.clone(), namespace.to_owned(), *digest);
        blocking(move || {
            let file = store.reader(&digest)?;
            store.import_archive_blocking(&namespace, file, &ArchiveLimits::default())
        })
        .await
    }

    /// [`ContentStore::import_archive`] for callers on a thread of their own.
    pub fn import_archive_blocking(
        &self,
        namespace: &str,
        reader: impl Read,
        limits: &ArchiveLimits,
    ) -> Result<Vec<Imported>, ContentError> {
        self.list_references(namespace)?;
        let mut staging = Staging::new(self)?;
        staging.read(inflate(reader)?, limits)?;
        let images = staging.images(limits)?;
        staging.adopt(images.iter().flat_map(|image| &image.blobs))?;
        let mut imported = Vec::new();
        for image in images {
            let digest = self.put(&image.manifest)?;
            let references: Vec<_> = image.references.iter().filter_map(|text| normalize(text)).collect();
            for reference in &references {
                self.record_reference(namespace, reference, digest, &image.media_type)?;
            }
            let named = references.into_iter().map(Some).collect::<Vec<_>>();
            for reference in if named.is_empty() { vec![None] } else { named } {
                imported.push(Imported { reference, digest, media_type: image.media_type.clone() });
            }
        }
        Ok(imported)
    }
}

/// Removes what imports that nobody runs any more left behind.
pub(crate) fn clean_imports(store: &ContentStore) -> Result<(), ContentError> {
    for entry in fs::read_dir(store.ingest_dir()).map_err(ContentError::io("list ingests"))? {
        let path = entry.map_err(ContentError::io("list ingests"))?.path();
        if !path.is_dir() {
            continue;
        }
        let free = File::open(&path).is_ok_and(|dir| dir.try_lock().is_ok());
        if free {
            fs::remove_dir_all(&path).map_err(ContentError::io(format!("remove {}", path.display())))?;
        }
    }
    Ok(())
}

/// One image found in the archive, ready to take its place.
struct Found {
    manifest: Vec<u8>,
    media_type: String,
    blobs: Vec<Digest>,
    references: Vec<String>,
}

/// What an entry's name stands for.
enum Staged {
    Blob(Digest, u64),
    Link(String),
}

/// An archive on disk, by number; its directory goes with it.
struct Staging {
    store: ContentStore,
    dir: PathBuf,
    _lock: File,
    names: HashMap<String, Staged>,
    files: HashMap<Digest, PathBuf>,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "what an import left behind is removed at the next start");
        }
    }
}

impl Staging {
    fn new(store: &ContentStore) -> Result<Self, ContentError> {
        let dir = store.ingest_dir().join(format!("import-{}", uuid::Uuid::new_v4()));
        let step = || format!("create {}", dir.display());
        fs::create_dir(&dir).map_err(ContentError::io(step()))?;
        let lock = File::open(&dir).map_err(ContentError::io(step()))?;
        lock.lock_shared().map_err(ContentError::io(step()))?;
        Ok(Self { store: store.clone(), dir, _lock: lock, names: HashMap::new(), files: HashMap::new() })
    }

    fn read(&mut self, reader: impl Read, limits: &ArchiveLimits) -> Result<(), ContentError> {
        let tar_limits = TarLimits { entries: limits.entries, content_bytes: limits.total_bytes, name_bytes: 512, ..TarLimits::default() };
        let mut tar = TarReader::new(reader, tar_limits);
        while let Some(entry) = tar.next_entry().map_err(read_error)? {
            let Some(name) = clean_name(&entry.path) else { continue };
            match entry.kind {
                EntryKind::File => {
                    let staged = self.stage(&entry, &mut tar)?;
                    self.names.insert(name, staged);
                }
                EntryKind::SymbolicLink => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
                    self.link(name, &parent, &entry.link);
                }
                EntryKind::HardLink => self.link(name, "", &entry.link),
                _ => {}
            }
        }
        Ok(())
    }

    /// Older `docker save` writes equal layers once and links to them.
    fn link(&mut self, name: String, base: &str, target: &[u8]) {
        let joined = [base.as_bytes(), b"/", target].concat();
        if let Some(target) = clean_name(&joined) {
            self.names.insert(name, Staged::Link(target));
        }
    }

    fn stage(&mut self, entry: &Entry, content: &mut impl Read) -> Result<Staged, ContentError> {
        if entry.sparse.is_some() {
            return Err(ContentError::archive("a sparse entry; write the archive without sparse files"));
        }
        let path = self.dir.join(self.files.len().to_string());
        let step = || format!("write {}", path.display());
        let mut file = File::create(&path).map_err(ContentError::io(step()))?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = content.read(&mut buffer).map_err(read_error)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(ContentError::io(step()))?;
        }
        let digest = hasher.finish();
        self.files.insert(digest, path);
        Ok(Staged::Blob(digest, entry.size))
    }

    fn find(&self, name: &str) -> Option<(Digest, u64)> {
        let mut name = clean_name(name.as_bytes())?;
        for _ in 0..LINK_DEPTH {
            match self.names.get(&name)? {
                Staged::Blob(digest, size) => return Some((*digest, *size)),
                Staged::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    fn bytes(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ContentError> {
        let Some(path) = self.files.get(digest) else { return self.store.read_small(digest, limit) };
        let mut bytes = Vec::new();
        let step = || format!("read {}", path.display());
        let file = File::open(path).map_err(ContentError::io(step()))?;
        file.take(limit + 1).read_to_end(&mut bytes).map_err(ContentError::io(step()))?;
        if bytes.len() as u64 > limit {
            return Err(ContentError::TooLarge { what: format!("{digest} in the archive"), limit });
        }
        Ok(bytes)
    }

    fn images(&self, limits: &ArchiveLimits) -> Result<Vec<Found>, ContentError> {
        let layout = self.find("index.json").map(|(digest, _)| self.layout_images(&digest, limits)).transpose()?;
        let saved = self.find("manifest.json");
        let images = match (layout, saved) {
            (Some(found), None) => found,
            (Some(found), Some(_)) if found.iter().all(|image| !image.references.is_empty()) => found,
            (_, Some((digest, _))) => self.saved_images(&digest, limits)?,
            (None, None) => {
                return Err(ContentError::archive("neither manifest.json (docker save) nor index.json (OCI layout) is in it"));
            }
        };
        if images.is_empty() {
            return Err(ContentError::archive("no image is in it"));
        }
        Ok(images)
    }

    fn layout_images(&self, index: &Digest, limits: &ArchiveLimits) -> Result<Vec<Found>, ContentError> {
        let index: Index = parse("index.json", &self.bytes(index, MANIFEST_LIMIT)?)?;
        if index.manifests.len() > limits.images {
            return Err(ContentError::archive(format!("index.json names more than {} images", limits.images)));
        }
        index.manifests.iter().map(|descriptor| self.layout_image(descriptor, INDEX_DEPTH)).collect()
    }

    fn layout_image(&self, descriptor: &Descriptor, depth: u32) -> Result<Found, ContentError> {
        let annotation = |key: &str| descriptor.annotations.get(key).cloned();
        // A bare tag (`latest`) names no image; skopeo and containerd write whole references.
        let named = annotation("io.containerd.image.name")
            .or_else(|| annotation("org.opencontainers.image.ref.name").filter(|text| text.contains([':', '/'])));
        let bytes = self.layout_blob(&descriptor.digest, MANIFEST_LIMIT)?;
        if manifest::is_index(&descriptor.media_type) {
            let index: Index = parse("an index", &bytes)?;
            let platform = Platform::host();
            let chosen = index
                .choose(&platform)
                .ok_or_else(|| ContentError::archive(format!("no image for {platform} is in it; it has: {}", index.platforms())))?;
            let depth = depth.checked_sub(1).ok_or_else(|| ContentError::archive("indexes are nested too deeply"))?;
            let mut found = self.layout_image(chosen, depth)?;
            found.references.extend(named);
            return Ok(found);
        }
        let parsed: Manifest = parse("a manifest", &bytes)?;
        manifest::check(&parsed).map_err(ContentError::archive)?;
        let config: Config = parse("a configuration", &self.layout_blob(&parsed.config.digest, CONFIG_LIMIT)?)?;
        check_diff_ids(&config, &parsed.layers)?;
        for layer in &parsed.layers {
            if !self.files.contains_key(&layer.digest) && !self.store.has(&layer.digest) {
                return Err(ContentError::archive(format!("layer {} is not in it", layer.digest)));
            }
        }
        let blobs = std::iter::once(parsed.config.digest).chain(parsed.layers.iter().map(|layer| layer.digest)).collect();
        let media_type = parsed.media_type.unwrap_or_else(|| descriptor.media_type.clone());
        Ok(Found { manifest: bytes, media_type, blobs, references: named.into_iter().collect() })
    }

    /// A blob of the layout. What stands under its name must have its digest.
    fn layout_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ContentError> {
        let found = self.find(&format!("blobs/sha256/{}", digest.hex()));
        match found {
            Some((actual, _)) if actual != *digest => Err(ContentError::DigestMismatch { expected: *digest, actual }),
            Some(_) => self.bytes(digest, limit),
            None if self.store.has(digest) => self.store.read_small(digest, limit),
            None => Err(ContentError::archive(format!("blob {digest} is not in it"))),
        }
    }

    fn saved_images(&self, digest: &Digest, limits: &ArchiveLimits) -> Result<Vec<Found>, ContentError> {
        let saved: Vec<SavedImage> = parse("manifest.json", &self.bytes(digest, MANIFEST_LIMIT)?)?;
        if saved.len() > limits.images {
            return Err(ContentError::archive(format!("manifest.json names more than {} images", limits.images)));
        }
        saved.into_iter().map(|image| self.saved_image(image)).collect()
    }

    fn saved_image(&self, image: SavedImage) -> Result<Found, ContentError> {
        let missing = |name: &str| ContentError::archive(format!("`{}` is not in it", name.escape_debug()));
        let (config_digest, config_size) = self.find(&image.config).ok_or_else(|| missing(&image.config))?;
        let config: Config = parse("a configuration", &self.bytes(&config_digest, CONFIG_LIMIT)?)?;
        let mut layers = Vec::new();
        for name in &image.layers {
            let (digest, size) = self.find(name).ok_or_else(|| missing(name))?;
            layers.push(descriptor(&self.layer_media_type(&digest)?, digest, size));
        }
        check_diff_ids(&config, &layers)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(manifest::OCI_MANIFEST.to_owned()),
            config: descriptor(manifest::OCI_CONFIG, config_digest, config_size),
            layers,
        };
        manifest::check(&manifest).map_err(ContentError::archive)?;
        let blobs = std::iter::once(config_digest).chain(manifest.layers.iter().map(|layer| layer.digest)).collect();
        let bytes = serde_json::to_vec(&manifest).map_err(|e| ContentError::archive(e.to_string()))?;
        let references = image.repo_tags.unwrap_or_default();
        Ok(Found { manifest: bytes, media_type: manifest::OCI_MANIFEST.to_owned(), blobs, references })
    }

    /// By its first bytes: `docker save` does not say how a layer is compressed.
    fn layer_media_type(&self, digest: &Digest) -> Result<String, ContentError> {
        let path = self.files.get(digest).ok_or_else(|| ContentError::archive(format!("blob {digest} is not in it")))?;
        let mut head = Vec::new();
        let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut head));
        read.map_err(ContentError::io(format!("read {}", path.display())))?;
        let suffix = match Compression::of(&head) {
            Compression::None => "",
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
        };
        Ok(format!("{}{suffix}", manifest::OCI_LAYER))
    }

    fn adopt<'a>(&self, blobs: impl Iterator<Item = &'a Digest>) -> Result<(), ContentError> {
        for digest in blobs {
            if self.store.keep(digest)? {
                continue;
            }
            let path = self.files.get(digest).ok_or_else(|| ContentError::archive(format!("blob {digest} is not in it")))?;
            let step = || format!("adopt blob {digest}");
            File::open(path).and_then(|file| file.sync_all()).map_err(ContentError::io(step()))?;
            let _shared = self.store.lock_shared()?;
            fs::rename(path, self.store.blob_path(digest)).map_err(ContentError::io(step()))?;
        }
        sync_dir(&self.store.root.join("blobs/sha256"))
    }
}

/// One element of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest, size, platform: None, annotations: std::collections::BTreeMap::new() }
}

/// A plain layer's digest is its diff id; a compressed one is checked when it is unpacked.
fn check_diff_ids(config: &Config, layers: &[Descriptor]) -> Result<(), ContentError> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != layers.len() {
        let reason = format!("the configuration names {} layers, the manifest {}", diff_ids.len(), layers.len());
        return Err(ContentError::archive(reason));
    }
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        if layer.media_type == manifest::OCI_LAYER && layer.digest != *diff_id {
            return Err(ContentError::DigestMismatch { expected: *diff_id, actual: layer.digest });
        }
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ContentError> {
    serde_json::from_slice(bytes).map_err(|error| ContentError::archive(format!("{what} is not what it should be: {error}")))
}

/// Lexically clean, relative, UTF-8; `None` for anything else, which is then nobody's name.
fn clean_name(name: &[u8]) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in std::str::from_utf8(name).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn read_error(source: io::Error) -> ContentError {
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
            ContentError::archive(source.to_string())
        }
        _ => ContentError::Io { step: "read the archive".to_owned(), source },
    }
}

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// By the stream's first bytes.
    pub(crate) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

fn inflate<'a>(mut reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ContentError> {
    let mut head = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut head).map_err(read_error)?;
    let compression = Compression::of(&head);
    let whole = io::Cursor::new(head).chain(reader);
    Ok(match compression {
        Compression::None => Box::new(io::BufReader::with_capacity(256 * 1024, whole)),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::Decoder::new(whole).map_err(read_error)?),
    })
}
