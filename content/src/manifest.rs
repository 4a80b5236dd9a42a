//! Manifests, indexes and image configurations, as far as the engine reads them.
//!
//! OCI's and Docker's forms differ in media types only. Unknown members are ignored, as the specification asks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The most bytes that a manifest or index may have.
pub const MANIFEST_LIMIT: u64 = 4 << 20;
/// The most bytes that an image configuration may have.
pub const CONFIG_LIMIT: u64 = 8 << 20;
/// The most layers that an image may have: overlayfs takes 500 lower directories.
pub const MAX_LAYERS: usize = 500;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, plain tar; `+gzip` and `+zstd` say how it is compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Says where content is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// What the content runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `linux`.
    #[serde(default)]
    pub os: String,
    /// Such as `amd64`, in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// Such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this host.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            other => (other, None),
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// Reads `os/architecture[/variant]`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next()?, parts.next()?, parts.next());
        if parts.next().is_some() || os.is_empty() || architecture.is_empty() || variant == Some("") {
            return None;
        }
        Some(Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) })
    }

    /// Whether an image for `self` is what `wanted` asks for; 2: exactly, 1: but for the variant, which one of them does not name.
    fn fits(&self, wanted: &Self) -> u8 {
        if self.os != wanted.os || self.architecture != wanted.architecture {
            return 0;
        }
        match (&self.variant, &wanted.variant) {
            (a, b) if a == b => 2,
            (None, _) | (_, None) => 1,
            _ => 0,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// An index: manifests by platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// The manifest for `wanted`: an exact match first, then one that leaves the variant open, then a lone manifest that names no platform.
    pub fn choose(&self, wanted: &Platform) -> Option<&Descriptor> {
        let fit = |d: &Descriptor| d.platform.as_ref().map_or(0, |platform| platform.fits(wanted));
        let best = self.manifests.iter().filter(|d| fit(d) > 0).reduce(|best, d| if fit(d) > fit(best) { d } else { best });
        best.or_else(|| self.manifests.first().filter(|d| self.manifests.len() == 1 && d.platform.is_none()))
    }

    /// The platforms that are offered, for a message.
    pub fn platforms(&self) -> String {
        let names: Vec<_> = self.manifests.iter().filter_map(|d| d.platform.as_ref()).take(20).map(Platform::to_string).collect();
        names.join(", ")
    }
}

/// Whether the media type is that of an index.
pub fn is_index(media_type: &str) -> bool {
    media_type == OCI_INDEX || media_type == DOCKER_LIST
}

/// Whether the media type is that of an image manifest.
pub fn is_manifest(media_type: &str) -> bool {
    media_type == OCI_MANIFEST || media_type == DOCKER_MANIFEST
}

/// An image configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What the image says of its process. `null` is as good as absent.
    #[serde(default)]
    pub config: Option<ProcessConfig>,
    /// Such as `linux`.
    #[serde(default)]
    pub os: String,
    /// Such as `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// The layers' plain digests.
    pub rootfs: RootFs,
}

/// The layers' plain digests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type", default)]
    pub type_: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// What an image says of its process. Members that are `null` count as absent, as Docker writes them so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProcessConfig {
    /// ENTRYPOINT.
    pub entrypoint: Option<Vec<String>>,
    /// CMD.
    pub cmd: Option<Vec<String>>,
    /// ENV.
    pub env: Option<Vec<String>>,
    /// USER.
    pub user: Option<String>,
    /// WORKDIR.
    pub working_dir: Option<String>,
    /// EXPOSE; the values are empty objects.
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    /// VOLUME; the values are empty objects.
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
    /// LABEL.
    pub labels: Option<BTreeMap<String, String>>,
    /// STOPSIGNAL.
    pub stop_signal: Option<String>,
}

/// Checks the shape of a manifest: version, number of layers, size of the configuration.
pub fn check(manifest: &Manifest) -> Result<(), String> {
    if manifest.schema_version != 2 {
        return Err(format!("schemaVersion {} is not supported; only 2 is", manifest.schema_version));
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(format!("{} layers are more than {MAX_LAYERS}", manifest.layers.len()));
    }
    if manifest.config.size > CONFIG_LIMIT {
        return Err(format!("the configuration's {} bytes are more than {CONFIG_LIMIT}", manifest.config.size));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(platform: Option<&str>, byte: u8) -> Descriptor {
        Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::of(&[byte]),
            size: 1,
            platform: platform.map(|text| Platform::parse(text).unwrap()),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn chooses_the_best_fit() {
        let manifests = vec![of(Some("unknown/unknown"), 0), of(Some("linux/arm64"), 1), of(Some("linux/arm64/v8"), 2), of(None, 3)];
        let index = Index { schema_version: 2, media_type: None, manifests };
        let choose = |text: &str| index.choose(&Platform::parse(text).unwrap()).map(|d| d.digest);
        assert_eq!(choose("linux/arm64/v8"), Some(Digest::of(&[2])));
        assert_eq!(choose("linux/arm64"), Some(Digest::of(&[1])));
        assert_eq!(choose("linux/arm64/v9"), Some(Digest::of(&[1])));
        assert_eq!(choose("linux/amd64"), None);
    }

    #[test]
    fn a_lone_manifest_without_platform_is_taken() {
        let index = Index { schema_version: 2, media_type: None, manifests: vec![of(None, 7)] };
        assert_eq!(index.choose(&Platform::host()).map(|d| d.digest), Some(Digest::of(&[7])));
    }

    #[test]
    fn null_members_are_absent() {
        let text = r#"{"config":{"Entrypoint":null,"Cmd":["sh"],"Env":null,"Volumes":null},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.config.unwrap().cmd, Some(vec!["sh".to_owned()]));
    }
}
