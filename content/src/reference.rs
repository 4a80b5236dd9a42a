//! References in archives, as Docker writes them, in the one form that the index keeps.

/// `[domain/]path:tag` with Docker Hub's domain, `library/` and the tag `latest` filled in; `None` when it is not a reference with a name.
pub(crate) fn normalize(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > 400 || text.contains('@') {
        return None;
    }
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (text, "latest"),
    };
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    let path = if domain == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
    let good_domain = domain.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]".contains(&b));
    let good_tag = (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let good_part = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    (good_domain && good_tag && path.split('/').all(good_part)).then(|| format!("{domain}/{path}:{tag}"))
}

#[cfg(test)]
mod tests {
    use super::normalize;

    #[test]
    fn as_docker_does() {
        for (text, wanted) in [
            ("busybox", Some("docker.io/library/busybox:latest")),
            ("busybox:1", Some("docker.io/library/busybox:1")),
            ("team/web:1", Some("docker.io/team/web:1")),
            ("docker.io/busybox", Some("docker.io/library/busybox:latest")),
            ("localhost/quickstart/busybox:1", Some("localhost/quickstart/busybox:1")),
            ("localhost:5000/a", Some("localhost:5000/a:latest")),
            ("", None),
            ("Upper", None),
            ("a/../b:1", None),
            ("a:-x", None),
            ("a b", None),
        ] {
            assert_eq!(normalize(text).as_deref(), wanted, "{text}");
        }
    }
}
