//! What the rest of the agent asks for: an image resolved, an image runnable here.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use gantry_api::kinds::image::{ImageConfig, ImageLayer, ImagePullPolicy, ImageSpec};
use gantry_api::reference::ImageReference;
use gantry_content::manifest::{self, CONFIG_LIMIT, Config, Descriptor, Index, MANIFEST_LIMIT, Manifest, Platform};
use gantry_content::{ContentStore, Digest};

use super::auth::DockerConfig;
use super::error::{ImageError, Reason};
use super::progress::Progress;
use super::pull::{SingleFlight, blocking, fetch, unpack};
use super::registry::{Registry, RegistryConfig, Repository};
use crate::snapshot::Snapshotter;

/// Layers of one image that are worked on at once.
const PARALLEL_LAYERS: usize = 4;
/// How deep an index may lie within an index.
const INDEX_DEPTH: u32 = 3;

/// Which image is meant, and as whom it is asked for.
#[derive(Debug, Clone)]
pub struct ResolveRequest {
    /// Namespace of the Image: whose local index is used and written.
    pub namespace: String,
    /// Spec of the Image.
    pub spec: ImageSpec,
    /// The pull Secret's credentials.
    pub credentials: Option<DockerConfig>,
}

/// What an image resolved to.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// Digest of the image manifest.
    pub digest: String,
    /// Normalised references by which the image is known.
    pub references: Vec<String>,
    /// Sum of the compressed layers and the config, in bytes.
    pub size_bytes: i64,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// What the image says of its process.
    pub config: ImageConfig,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<String>,
}

/// An image whose layers are all unpacked on this node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalImage {
    /// Digest of its manifest.
    pub digest: String,
    /// Layers, lowest first.
    pub diff_ids: Vec<String>,
    /// What it says of its process.
    pub config: ImageConfig,
}

/// Images of this node. All calls are idempotent and may be dropped at any point.
pub struct ImageService {
    content: ContentStore,
    snapshotter: Arc<dyn Snapshotter>,
    registry: Registry,
    flights: SingleFlight,
}

/// A manifest with its configuration, both in the content store.
struct Known {
    digest: Digest,
    media_type: String,
    manifest: Manifest,
    config: Config,
}

impl ImageService {
    /// Over the host's content and the node's snapshots.
    pub fn new(content: ContentStore, snapshotter: Arc<dyn Snapshotter>, config: RegistryConfig) -> Self {
        Self { content, snapshotter, registry: Registry::new(config), flights: SingleFlight::default() }
    }

    /// Finds out what the request stands for: from the namespace's local index where the policy lets it, else from the registry.
    pub async fn resolve(&self, request: &ResolveRequest) -> Result<Resolved, ImageError> {
        if let Some(archive) = &request.spec.source.archive {
            return self.resolve_archive(request, &archive.digest).await;
        }
        let reference = reference_of(&request.spec)?;
        let text = reference.to_string();
        let policy = policy_of(&request.spec, &reference);
        if policy != ImagePullPolicy::Always
            && let Some(known) = self.find_local(&request.namespace, &text).await?
        {
            return self.resolved(request, known, &text).await;
        }
        if policy == ImagePullPolicy::Never {
            return Err(ImageError::new(Reason::NotPresent, format!("image `{text}` is not here and imagePullPolicy is Never")));
        }
        let repository = Repository::new(&reference, request.credentials.as_ref());
        let what = reference.digest.as_deref().or(reference.tag.as_deref()).unwrap_or("latest");
        let known = self.ask(&repository, what, &platform_of(&request.spec)?).await?;
        self.resolved(request, known, &text).await
    }

    /// Sees to it that all layers of a resolved image are unpacked here.
    pub async fn ensure_unpacked(&self, request: &ResolveRequest, digest: &str, progress: &Progress) -> Result<LocalImage, ImageError> {
        if let Some(local) = self.local(digest).await {
            return Ok(local);
        }
        let wanted: Digest = digest.parse()?;
        let repository = reference_of(&request.spec).ok().map(|reference| Repository::new(&reference, request.credentials.as_ref()));
        let known = match (self.load(wanted).await?, &repository) {
            (Some(known), _) => known,
            (None, Some(repository)) => self.ask(repository, digest, &platform_of(&request.spec)?).await?,
            (None, None) => return Err(ImageError::new(Reason::NotPresent, format!("manifest {digest} is not here"))),
        };
        self.unpack_all(&known, repository.as_ref(), progress).await?;
        Ok(known.local())
    }

    /// The image with this manifest digest, when all its layers are unpacked here.
    pub async fn local(&self, digest: &str) -> Option<LocalImage> {
        let known = self.load(digest.parse().ok()?).await.ok()??;
        let local = known.local();
        for diff_id in &local.diff_ids {
            if !self.snapshotter.has_layer(diff_id).await {
                return None;
            }
        }
        Some(local)
    }

    async fn resolve_archive(&self, request: &ResolveRequest, digest: &str) -> Result<Resolved, ImageError> {
        let archive: Digest = digest.parse()?;
        if !self.content.has(&archive) {
            let message = format!("archive {digest} was not uploaded");
            return Err(ImageError::new(Reason::NotPresent, message));
        }
        let imported = self.content.import_archive_blob(&request.namespace, &archive).await?;
        let first = imported.first().ok_or_else(|| ImageError::new(Reason::BadArchive, "no image is in it"))?;
        let gone = || ImageError::new(Reason::NotPresent, format!("image {} of the archive is gone again", first.digest));
        let known = self.load(first.digest).await?.ok_or_else(gone)?;
        let mut resolved = known.resolved(Vec::new());
        resolved.references = imported.iter().filter(|one| one.digest == first.digest).filter_map(|one| one.reference.clone()).collect();
        self.record_tags(request, &known, &mut resolved).await?;
        Ok(resolved)
    }

    async fn resolved(&self, request: &ResolveRequest, known: Known, reference: &str) -> Result<Resolved, ImageError> {
        let (store, namespace, text) = (self.content.clone(), request.namespace.clone(), reference.to_owned());
        let (digest, media_type) = (known.digest, known.media_type.clone());
        blocking(move || match store.find_reference(&namespace, &text)? {
            Some(record) if record.manifest_digest == digest => Ok(()),
            _ => store.record_reference(&namespace, &text, digest, &media_type),
        })
        .await?;
        let mut resolved = known.resolved(vec![reference.to_owned()]);
        self.record_tags(request, &known, &mut resolved).await?;
        Ok(resolved)
    }

    /// Further references are known here as well.
    async fn record_tags(&self, request: &ResolveRequest, known: &Known, resolved: &mut Resolved) -> Result<(), ImageError> {
        for tag in &request.spec.tags {
            let text = parse_reference(tag)?.to_string();
            if !resolved.references.contains(&text) {
                resolved.references.push(text.clone());
            }
            let (store, namespace) = (self.content.clone(), request.namespace.clone());
            let (digest, media_type) = (known.digest, known.media_type.clone());
            blocking(move || store.record_reference(&namespace, &text, digest, &media_type)).await?;
        }
        Ok(())
    }

    /// What the local index says, if every byte of it is here.
    async fn find_local(&self, namespace: &str, reference: &str) -> Result<Option<Known>, ImageError> {
        let (store, namespace, reference) = (self.content.clone(), namespace.to_owned(), reference.to_owned());
        let Some(record) = blocking(move || store.find_reference(&namespace, &reference)).await? else { return Ok(None) };
        let Some(known) = self.load(record.manifest_digest).await? else { return Ok(None) };
        for (layer, diff_id) in known.manifest.layers.iter().zip(&known.config.rootfs.diff_ids) {
            let here = self.content.has(&layer.digest) || self.snapshotter.has_layer(&diff_id.to_string()).await;
            if !here {
                return Ok(None);
            }
        }
        Ok(Some(known))
    }

    /// A manifest and its configuration from the content store.
    async fn load(&self, digest: Digest) -> Result<Option<Known>, ImageError> {
        let store = self.content.clone();
        let read = blocking(move || {
            if !store.has(&digest) {
                return Ok(None);
            }
            let bytes = store.read_small(&digest, MANIFEST_LIMIT)?;
            let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { return Ok(None) };
            if !store.has(&manifest.config.digest) {
                return Ok(None);
            }
            Ok(Some((store.read_small(&manifest.config.digest, CONFIG_LIMIT)?, manifest)))
        });
        let Some((config, manifest)) = read.await? else { return Ok(None) };
        let media_type = manifest.media_type.clone().unwrap_or_else(|| manifest::OCI_MANIFEST.to_owned());
        Known::checked(digest, media_type, manifest, &config).map(Some)
    }

    /// A manifest and its configuration from the registry, through indexes to the platform.
    async fn ask(&self, repository: &Repository, what: &str, platform: &Platform) -> Result<Known, ImageError> {
        let mut what = what.to_owned();
        for _ in 0..INDEX_DEPTH {
            let fetched = self.registry.manifest(repository, &what).await?;
            if !manifest::is_index(&fetched.media_type) {
                return self.take_in(repository, fetched).await;
            }
            let index: Index = parse("index", &fetched.bytes)?;
            let chosen = index.choose(platform).ok_or_else(|| {
                ImageError::new(Reason::PlatformNotFound, format!("no image for {platform}; it is made for: {}", index.platforms()))
            })?;
            what = chosen.digest.to_string();
        }
        Err(ImageError::new(Reason::BadManifest, format!("index {what} is nested too deeply")))
    }

    async fn take_in(&self, repository: &Repository, fetched: super::registry::Fetched) -> Result<Known, ImageError> {
        if !manifest::is_manifest(&fetched.media_type) {
            let message = format!("manifest {}: media type `{}` is not supported", fetched.digest, fetched.media_type.escape_debug());
            return Err(ImageError::new(Reason::BadManifest, message));
        }
        let manifest: Manifest = parse("manifest", &fetched.bytes)?;
        manifest::check(&manifest).map_err(|why| ImageError::new(Reason::BadManifest, format!("manifest {}: {why}", fetched.digest)))?;
        fetch(&self.content, &self.registry, &self.flights, repository, &manifest.config, &Progress::default()).await?;
        let (store, config) = (self.content.clone(), manifest.config.digest);
        let config = blocking(move || store.read_small(&config, CONFIG_LIMIT)).await?;
        let known = Known::checked(fetched.digest, fetched.media_type, manifest, &config)?;
        let store = self.content.clone();
        blocking(move || store.put(&fetched.bytes)).await?;
        Ok(known)
    }

    async fn unpack_all(&self, known: &Known, repository: Option<&Repository>, progress: &Progress) -> Result<(), ImageError> {
        let mut missing = Vec::new();
        for (layer, diff_id) in known.manifest.layers.iter().zip(&known.config.rootfs.diff_ids) {
            let twice = missing.iter().any(|(_, other): &(&Descriptor, Digest)| other == diff_id);
            if !twice && !self.snapshotter.has_layer(&diff_id.to_string()).await {
                missing.push((layer, *diff_id));
            }
        }
        progress.set_total(missing.iter().map(|(layer, _)| layer.size).sum());
        let mut layers: Vec<BoxFuture<'_, Result<(), ImageError>>> = Vec::new();
        for (layer, diff_id) in missing {
            layers.push(Box::pin(self.layer(layer, diff_id, repository, progress)));
        }
        futures_util::stream::iter(layers).buffer_unordered(PARALLEL_LAYERS).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    async fn layer(
        &self,
        layer: &Descriptor,
        diff_id: Digest,
        repository: Option<&Repository>,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        match repository {
            Some(repository) => fetch(&self.content, &self.registry, &self.flights, repository, layer, progress).await?,
            None if self.content.has(&layer.digest) => progress.add(layer.size),
            None => return Err(ImageError::new(Reason::NotPresent, format!("layer {} is not here", layer.digest))),
        }
        unpack(&self.content, &self.snapshotter, &self.flights, layer.digest, diff_id).await
    }
}

impl Known {
    fn checked(digest: Digest, media_type: String, manifest: Manifest, config: &[u8]) -> Result<Self, ImageError> {
        let config: Config = parse("configuration", config)?;
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            let message = format!("manifest {digest} has {layers} layers, its configuration {diff_ids}");
            return Err(ImageError::new(Reason::BadManifest, message));
        }
        Ok(Self { digest, media_type, manifest, config })
    }

    fn diff_ids(&self) -> Vec<String> {
        self.config.rootfs.diff_ids.iter().map(Digest::to_string).collect()
    }

    fn local(&self) -> LocalImage {
        LocalImage { digest: self.digest.to_string(), diff_ids: self.diff_ids(), config: image_config(&self.config) }
    }

    fn resolved(&self, references: Vec<String>) -> Resolved {
        let bytes = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        let diff_ids = self.diff_ids();
        let layer = |(layer, diff_id): (&Descriptor, &String)| ImageLayer {
            digest: layer.digest.to_string(),
            size_bytes: bytes(layer.size),
            diff_id: diff_id.clone(),
        };
        let size = self.manifest.layers.iter().map(|layer| layer.size).fold(self.manifest.config.size, u64::saturating_add);
        Resolved {
            digest: self.digest.to_string(),
            references,
            size_bytes: bytes(size),
            layers: self.manifest.layers.iter().zip(&diff_ids).map(layer).collect(),
            config: image_config(&self.config),
            diff_ids,
        }
    }
}

fn image_config(config: &Config) -> ImageConfig {
    let process = config.config.clone().unwrap_or_default();
    let text = |value: Option<String>| value.filter(|text| !text.is_empty());
    ImageConfig {
        entrypoint: process.entrypoint.unwrap_or_default(),
        cmd: process.cmd.unwrap_or_default(),
        env: process.env.unwrap_or_default(),
        user: text(process.user),
        working_dir: text(process.working_dir),
        exposed_ports: process.exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: process.volumes.unwrap_or_default().into_keys().collect(),
        labels: process.labels.unwrap_or_default(),
        stop_signal: text(process.stop_signal),
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::new(Reason::BadManifest, format!("read the {what}: {error}")))
}

fn parse_reference(text: &str) -> Result<ImageReference, ImageError> {
    ImageReference::parse(text).map_err(|error| ImageError::new(Reason::InvalidReference, format!("`{text}`: {error}")))
}

fn reference_of(spec: &ImageSpec) -> Result<ImageReference, ImageError> {
    let source = spec.source.registry.as_ref();
    let source = source.ok_or_else(|| ImageError::new(Reason::InvalidReference, "spec.source names no registry"))?;
    parse_reference(&source.reference)
}

fn platform_of(spec: &ImageSpec) -> Result<Platform, ImageError> {
    let Some(text) = &spec.platform else { return Ok(Platform::host()) };
    Platform::parse(text).ok_or_else(|| {
        ImageError::new(Reason::PlatformNotFound, format!("spec.platform `{text}` is not of the form os/architecture[/variant]"))
    })
}

/// Docker's and Kubernetes' default: `latest` may move, other tags stay.
fn policy_of(spec: &ImageSpec, reference: &ImageReference) -> ImagePullPolicy {
    let moves = reference.digest.is_none() && reference.tag.as_deref() == Some("latest");
    spec.image_pull_policy.unwrap_or(if moves { ImagePullPolicy::Always } else { ImagePullPolicy::IfNotPresent })
}
