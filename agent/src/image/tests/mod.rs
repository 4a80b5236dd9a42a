//! Pulls from Debian's registry, and from one that misbehaves.

mod misbehaving;
mod real;
mod status;

use std::path::Path;
use std::sync::Arc;

use gantry_api::kinds::image::{ImagePullPolicy, ImageSource, ImageSpec, RegistrySource};
use gantry_content::{ContentStore, Digest};

use super::{DockerConfig, ImageService, RegistryConfig, ResolveRequest};
use crate::snapshot::OverlaySnapshotter;

/// A node's disk, and the service on it.
struct Node {
    dir: tempfile::TempDir,
    content: ContentStore,
    service: ImageService,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let content = ContentStore::open(&dir.path().join("content")).unwrap();
        let snapshotter = OverlaySnapshotter::open(&dir.path().join("snapshots")).unwrap();
        let service = ImageService::new(content.clone(), Arc::new(snapshotter), RegistryConfig::default());
        Self { dir, content, service }
    }

    fn layer(&self, diff_id: &str) -> std::path::PathBuf {
        self.dir.path().join("snapshots/layers").join(diff_id.trim_start_matches("sha256:"))
    }

    fn assert_no_layer(&self) {
        for part in ["snapshots/layers", "snapshots/tmp"] {
            assert_eq!(std::fs::read_dir(self.dir.path().join(part)).unwrap().count(), 0, "{part}");
        }
    }
}

fn request(reference: &str, policy: Option<ImagePullPolicy>, credentials: Option<DockerConfig>) -> ResolveRequest {
    let registry = RegistrySource { reference: reference.to_owned(), pull_secret_name: None };
    let source = ImageSource { registry: Some(registry), archive: None };
    let spec = ImageSpec { source, image_pull_policy: policy, ..Default::default() };
    ResolveRequest { namespace: "default".to_owned(), spec, credentials }
}

/// A layer with one file of some size, and an image configuration over it.
fn small_image(content: &[u8]) -> (Vec<u8>, Vec<u8>) {
    small_image_of(content, 0)
}

/// [`small_image`] whose file belongs to `uid`.
fn small_image_of(content: &[u8], uid: u64) -> (Vec<u8>, Vec<u8>) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_uid(uid);
    header.set_gid(0);
    builder.append_data(&mut header, "bin/program", content).unwrap();
    let layer = builder.into_inner().unwrap();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/bin/program"],"Env":["A=b"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(&layer)
    );
    (layer, config.into_bytes())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// A `docker save` archive of the image.
fn saved(path: &Path, layer: &[u8], config: &[u8]) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    let manifest = br#"[{"Config":"c.json","RepoTags":["localhost/test:1"],"Layers":["l.tar"]}]"#;
    for (name, bytes) in [("manifest.json", &manifest[..]), ("c.json", config), ("l.tar", layer)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    builder.finish().unwrap();
}
