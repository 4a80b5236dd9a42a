//! Image references: Docker's grammar and its way of filling in what was left out.
//!
//! `nginx` means `docker.io/library/nginx:latest`. Source: the grammar of `github.com/distribution/reference`.

use std::fmt;

use sha2::{Digest, Sha256};

/// Registry that a reference without one means.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const MAX_NAME: usize = 255;

/// A reference with nothing left out: registry, repository, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    /// Host and optional port, such as `docker.io` or `registry:5000`.
    pub registry: String,
    /// Path within the registry, such as `library/nginx`.
    pub repository: String,
    /// Tag; `latest` when neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest such as `sha256:…`.
    pub digest: Option<String>,
}

/// Why a text is no image reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was written.
    #[error("image reference is empty")]
    Empty,
    /// Registry and repository are too long together.
    #[error("image name is longer than 255 characters")]
    TooLong,
    /// The registry is no host name, address or `host:port`.
    #[error("registry of the image reference must be a host name with an optional port, such as registry.example.com:5000")]
    Registry,
    /// A path component breaks the grammar.
    #[error("repository of the image reference must be lower-case letters and digits, separated by '/', '.', '_', '__' or '-'")]
    Repository,
    /// The tag breaks the grammar.
    #[error("tag of the image reference must be at most 128 letters, digits, '_', '.' or '-', not starting with '.' or '-'")]
    Tag,
    /// The digest breaks the grammar.
    #[error("digest of the image reference must be sha256: and 64 hexadecimal digits")]
    Digest,
    /// Sixty-four hexadecimal digits alone could be an id.
    #[error("image reference must not be 64 hexadecimal digits alone")]
    Identifier,
}

impl ImageReference {
    /// Parses and fills in what was left out.
    ///
    /// # Errors
    /// The first rule of the grammar that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > 1024 {
            return Err(ReferenceError::TooLong);
        }
        if text.len() == 64 && text.bytes().all(is_lower_hex) {
            return Err(ReferenceError::Identifier);
        }
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (text, None),
        };
        let path_start = named.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match named[path_start..].find(':') {
            Some(colon) => (&named[..path_start + colon], Some(&named[path_start + colon + 1..])),
            None => (named, None),
        };
        let (registry, repository) = split_registry(name);
        if name.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        if !is_registry(&registry) {
            return Err(ReferenceError::Registry);
        }
        if !repository.split('/').all(is_component) {
            return Err(ReferenceError::Repository);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag);
        }
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(ReferenceError::Digest);
        }
        let tag = tag.or(digest.is_none().then_some("latest"));
        Ok(Self { registry, repository, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for ImageReference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Name of the Image object that stands for a reference that no Image claims: `ref-` and ten hexadecimal digits of its hash.
pub fn generated_image_name(reference: &ImageReference) -> String {
    let hash = Sha256::digest(reference.to_string().as_bytes());
    let hex: String = hash.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("ref-{hex}")
}

/// Whether `text` is `sha256:` and 64 lower-case hexadecimal digits.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_lower_hex))
}

/// The first component is a registry when it could not be one of a path: it has a dot, a port, upper case, or is `localhost`.
fn split_registry(name: &str) -> (String, String) {
    let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase());
    let (registry, rest) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let official = registry == DEFAULT_REGISTRY && !rest.contains('/');
    (registry.to_owned(), if official { format!("library/{rest}") } else { rest.to_owned() })
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_registry(text: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let port_good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse::<std::net::Ipv6Addr>().is_ok() && port_good;
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        let edges = !label.starts_with('-') && !label.ends_with('-');
        !label.is_empty() && edges && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let edges = bytes.first().is_some_and(|byte| is_alphanumeric(*byte)) && bytes.last().is_some_and(|byte| is_alphanumeric(*byte));
    edges
        && bytes
            .split(|byte| is_alphanumeric(*byte))
            .filter(|gap| !gap.is_empty())
            .all(|gap| matches!(gap, b"." | b"_" | b"__") || gap.iter().all(|byte| *byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|byte| is_word(*byte))
        && bytes.iter().all(|byte| is_word(*byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn fills_in_what_docker_fills_in() {
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".to_owned()),
            ("team/web", "docker.io/team/web:latest".to_owned()),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest".to_owned()),
            ("localhost/a/b:1", "localhost/a/b:1".to_owned()),
            ("registry:5000/web", "registry:5000/web:latest".to_owned()),
            ("[::1]:5000/web:2", "[::1]:5000/web:2".to_owned()),
            ("ghcr.io/a/b__c-d--e", "ghcr.io/a/b__c-d--e:latest".to_owned()),
            (&format!("nginx@{HASH}"), format!("docker.io/library/nginx@{HASH}")),
            (&format!("r.io/x:1@{HASH}"), format!("r.io/x:1@{HASH}")),
        ] {
            let parsed = ImageReference::parse(text).unwrap();
            assert_eq!(parsed.to_string(), full, "{text}");
            assert_eq!(ImageReference::parse(&full), Ok(parsed), "normal form is its own normal form");
        }
    }

    #[test]
    fn refuses_what_docker_refuses() {
        let id = "a".repeat(64);
        let long = format!("r.io/{}", "a".repeat(300));
        for (text, why) in [
            ("", ReferenceError::Empty),
            (&id, ReferenceError::Identifier),
            (&long, ReferenceError::TooLong),
            ("Nginx", ReferenceError::Repository),
            ("a//b", ReferenceError::Repository),
            ("a.-b", ReferenceError::Repository),
            ("a___b", ReferenceError::Repository),
            ("../etc", ReferenceError::Registry),
            ("web:", ReferenceError::Tag),
            ("web:-x", ReferenceError::Tag),
            ("web@sha256:abc", ReferenceError::Digest),
            ("web@md5:abc", ReferenceError::Digest),
            ("r.io:99999/web", ReferenceError::Registry),
            ("web image", ReferenceError::Repository),
            ("wéb", ReferenceError::Repository),
        ] {
            assert_eq!(ImageReference::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn generated_names_are_stable_and_follow_the_normal_form() {
        let of = |text: &str| generated_image_name(&ImageReference::parse(text).unwrap());
        assert_eq!(of("nginx"), of("docker.io/library/nginx:latest"));
        assert_ne!(of("nginx"), of("nginx:1"));
        assert_eq!(of("nginx").len(), 14);
    }
}
