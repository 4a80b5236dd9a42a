//! Image references as Docker normalises them.

use sha2::{Digest as _, Sha256};

/// `registry/repository:tag` or `registry/repository@digest` in full; `None` when `text` is no reference.
pub(super) fn normalize(text: &str) -> Option<String> {
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("docker.io", rest),
    };
    let (repository, tag) = path.rsplit_once(':').map_or((path, None), |(repository, tag)| (repository, Some(tag)));
    if host.is_empty() || repository.is_empty() || tag == Some("") || digest == Some("") || text.contains(char::is_whitespace) {
        return None;
    }
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    let library = if host == "docker.io" && !repository.contains('/') { "library/" } else { "" };
    Some(match (tag, digest) {
        (_, Some(digest)) => format!("{host}/{library}{repository}@{digest}"),
        (tag, None) => format!("{host}/{library}{repository}:{}", tag.unwrap_or("latest")),
    })
}

/// Name of the Image that is made for a reference: `ref-` and 10 hexadecimal digits of the SHA-256 of its normal form.
pub(super) fn generated_name(normalized: &str) -> String {
    let digest = Sha256::digest(normalized.as_bytes());
    let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("ref-{hex}")
}
