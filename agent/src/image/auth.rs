//! Credentials of a `kubernetes.io/dockerconfigjson` Secret, and a registry's challenges.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::error::{ImageError, Reason};

/// Credentials by registry, as Docker's `config.json` has them. Shows no secret in `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DockerConfig {
    entries: BTreeMap<String, Credentials>,
}

/// A user and a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
}

#[derive(Deserialize)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl DockerConfig {
    /// Reads the value of the key `.dockerconfigjson`.
    pub fn parse(json: &[u8]) -> Result<Self, ImageError> {
        // The parser's own message may quote what stands there, which is secret.
        let invalid = |what: &str| ImageError::new(Reason::InvalidPullSecret, format!("the pull Secret's .dockerconfigjson {what}"));
        let file: ConfigFile = serde_json::from_slice(json).map_err(|_| invalid("is not Docker's config.json"))?;
        let mut entries = BTreeMap::new();
        for (key, entry) in file.auths {
            let credentials = match (entry.username, entry.password, entry.auth) {
                (Some(username), Some(password), _) => Credentials { username, password },
                (_, _, Some(auth)) => decode(&auth).ok_or_else(|| invalid("has an `auth` that is not base64 of user:password"))?,
                _ => continue,
            };
            entries.insert(normal_key(&key), credentials);
        }
        Ok(Self { entries })
    }

    /// The credentials for a repository: the longest key that is its registry, or its registry and a part of its path.
    pub(crate) fn find(&self, domain: &str, path: &str) -> Option<&Credentials> {
        let whole = format!("{domain}/{path}");
        let fits = |key: &str| whole.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.entries.iter().filter(|(key, _)| fits(key)).max_by_key(|(key, _)| key.len()).map(|(_, credentials)| credentials)
    }
}

/// Docker writes `https://index.docker.io/v1/` for its own hub, and others with or without a scheme.
fn normal_key(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    if matches!(bare, "index.docker.io" | "registry-1.docker.io") { "docker.io".to_owned() } else { bare.to_owned() }
}

fn decode(auth: &str) -> Option<Credentials> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credentials { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

/// What a registry asks for in `WWW-Authenticate`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// Where tokens are given out.
        realm: String,
        /// For whom.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads one header value.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest);
        let realm = parameters.remove("realm")?;
        Some(Self::Bearer { realm, service: parameters.remove("service"), scope: parameters.remove("scope") })
    }
}

/// `name="value with, commas"` pairs.
fn parameters(mut rest: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(name, value.to_owned());
        rest = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_credentials_as_docker_and_kubernetes_do() {
        let json = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnA6dw=="},
            "localhost:5000":{"username":"a","password":"b"},"localhost:5000/team":{"username":"c","password":"d"}}}"#;
        let config = DockerConfig::parse(json).unwrap();
        let user = |domain, path| config.find(domain, path).map(|c| (c.username.as_str(), c.password.as_str()));
        assert_eq!(user("docker.io", "library/x"), Some(("hub", "p:w")));
        assert_eq!(user("localhost:5000", "x"), Some(("a", "b")));
        assert_eq!(user("localhost:5000", "team/x"), Some(("c", "d")));
        assert_eq!(user("localhost:5000", "teammate/x"), Some(("a", "b")));
        assert_eq!(user("localhost:50001", "x"), None);
        assert!(!format!("{config:?}").contains("p:w"));
    }

    #[test]
    fn a_broken_secret_is_said_without_quoting_it() {
        for json in [&b"hunter2"[..], br#"{"auths":{"a":{"auth":"aHVudGVyMg=="}}}"#] {
            let error = DockerConfig::parse(json).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidPullSecret);
            assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("aHVudGVy"));
        }
    }

    #[test]
    fn reads_challenges() {
        let text = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let wanted = Challenge::Bearer {
            realm: "https://auth.docker.io/token".to_owned(),
            service: Some("registry.docker.io".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        assert_eq!(Challenge::parse(text), Some(wanted));
        assert_eq!(Challenge::parse("basic realm=x"), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer x"), None);
    }
}
