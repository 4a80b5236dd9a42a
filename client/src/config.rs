//! Finding the server: a socket, an address, or a context of a kubeconfig file.

use std::path::{Path, PathBuf};

use base64::Engine;
use serde::Deserialize;

use crate::connect::TlsEndpoint;
use crate::transport::Client;

/// Where the engine of this machine listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/gantry/gantry.sock";

/// What the user said about the server; all optional.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `unix:///path`, or the path of a socket.
    pub host: Option<String>,
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig file instead of its current one.
    pub context: Option<String>,
}

/// How to reach a server, and the namespace that goes with it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The way to it.
    pub server: Server,
    /// The context's namespace.
    pub namespace: Option<String>,
}

/// The way to a server.
#[derive(Debug, Clone)]
pub enum Server {
    /// A Unix socket.
    Unix(PathBuf),
    /// TLS.
    Tls(Box<TlsEndpoint>),
}

/// Why the server could not be found.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not a kubeconfig.
    #[error("parse {path} as a kubeconfig: {message}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong, and where.
        message: String,
    },
    /// What was asked for makes no sense or is not there.
    #[error("{0}")]
    Invalid(String),
}

impl Config {
    /// Finds the server. The first that is given counts: `options.host`; a kubeconfig or context of `options`; `GANTRY_HOST`;
    /// `GANTRY_KUBECONFIG`; the current context of [`own_file`]; the socket of this machine's engine. A context that is named is
    /// looked up in [`own_file`], then in `KUBECONFIG` or `~/.kube/config`: these count only then, so that nothing meant for this
    /// engine ever reaches a Kubernetes cluster by accident.
    pub fn find(options: &Options, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        if let Some(host) = &options.host {
            return Self::from_host(host);
        }
        if let Some(file) = &options.kubeconfig {
            return Self::from_file(file, options.context.as_deref());
        }
        let own = own_file(env);
        if let Some(context) = &options.context {
            let named = own.filter(|file| env("GANTRY_KUBECONFIG").is_some() || has_context(file, context));
            let file = named.or_else(|| env("KUBECONFIG").map(PathBuf::from));
            let file = file.or_else(|| env("HOME").map(|home| Path::new(&home).join(".kube/config")));
            let file = file.filter(|file| file.exists());
            let file =
                file.ok_or_else(|| ConfigError::Invalid(format!("there is no context {context:?}, and no kubeconfig that could have it")))?;
            return Self::from_file(&file, Some(context));
        }
        if let Some(host) = env("GANTRY_HOST") {
            return Self::from_host(&host);
        }
        if let Some(file) = env("GANTRY_KUBECONFIG") {
            return Self::from_file(Path::new(&file), None);
        }
        match own.filter(|file| parse(file).is_ok_and(|file| !file.current_context.is_empty())) {
            Some(file) => Self::from_file(&file, None),
            None => Self::from_host(DEFAULT_SOCKET),
        }
    }

    /// From `unix:///path` or an absolute path.
    pub fn from_host(host: &str) -> Result<Self, ConfigError> {
        let path = host.strip_prefix("unix://").unwrap_or(host);
        if !path.starts_with('/') {
            return Err(ConfigError::Invalid(format!(
                "host {host:?} is neither unix:///path nor the path of a socket; a server behind TLS is named by --kubeconfig or --context"
            )));
        }
        Ok(Self { server: Server::Unix(path.into()), namespace: None })
    }

    /// From a kubeconfig file, by its current context or the one named.
    pub fn from_file(path: &Path, context: Option<&str>) -> Result<Self, ConfigError> {
        parse(path)?.select(context, path)
    }

    /// A client of the server found, under a field manager. Nothing is connected yet.
    pub fn client(&self, manager: &str) -> Client {
        match &self.server {
            Server::Unix(path) => Client::unix(path, manager),
            Server::Tls(endpoint) => Client::tls((**endpoint).clone(), manager),
        }
    }
}

/// The file with the contexts of this user's engines, in the form of a kubeconfig: `GANTRY_KUBECONFIG`, else `gantry/config` in the
/// user's folder for configuration (XDG base directories). `None` when the user has no such folder.
pub fn own_file(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(file) = env("GANTRY_KUBECONFIG") {
        return Some(file.into());
    }
    let folder = env("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")));
    folder.map(|folder| folder.join("gantry/config"))
}

fn has_context(path: &Path, name: &str) -> bool {
    parse(path).is_ok_and(|file| file.contexts.iter().any(|context| context.name == name))
}

fn parse(path: &Path) -> Result<Kubeconfig, ConfigError> {
    let text = read(path)?;
    serde_saphyr::from_str(&String::from_utf8_lossy(&text))
        .map_err(|error| ConfigError::Parse { path: path.display().to_string(), message: error.to_string() })
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    current_context: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Debug, Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

impl Kubeconfig {
    fn select(self, context: Option<&str>, path: &Path) -> Result<Config, ConfigError> {
        let file = path.display();
        let wanted = context.unwrap_or(&self.current_context);
        let Some(context) = self.contexts.iter().find(|c| c.name == wanted).map(|c| &c.context) else {
            let known: Vec<&str> = self.contexts.iter().map(|c| c.name.as_str()).collect();
            return Err(ConfigError::Invalid(format!("{file} has no context {wanted:?}; it has: {}", known.join(", "))));
        };
        let cluster = self.clusters.iter().find(|c| c.name == context.cluster).map(|c| &c.cluster);
        let cluster = cluster.ok_or_else(|| ConfigError::Invalid(format!("{file} has no cluster {:?}", context.cluster)))?;
        let namespace = context.namespace.clone().filter(|n| !n.is_empty());
        if cluster.server.starts_with("unix://") {
            return Ok(Config { namespace, ..Config::from_host(&cluster.server)? });
        }
        let user = self.users.iter().find(|u| u.name == context.user).map(|u| &u.user);
        let user = user.ok_or_else(|| ConfigError::Invalid(format!("{file} has no user {:?}", context.user)))?;
        let endpoint = endpoint(cluster, user, path)?;
        Ok(Config { server: Server::Tls(Box::new(endpoint)), namespace })
    }
}

fn endpoint(cluster: &Cluster, user: &User, path: &Path) -> Result<TlsEndpoint, ConfigError> {
    if cluster.insecure_skip_tls_verify {
        return Err(ConfigError::Invalid(format!(
            "{} says insecure-skip-tls-verify, which is not supported; give certificate-authority-data",
            path.display()
        )));
    }
    let (host, port) = host_and_port(&cluster.server)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let authority = material(folder, cluster.certificate_authority_data.as_ref(), cluster.certificate_authority.as_ref())?;
    let certificate = material(folder, user.client_certificate_data.as_ref(), user.client_certificate.as_ref())?;
    let key = material(folder, user.client_key_data.as_ref(), user.client_key.as_ref())?;
    let token = match (&user.token, &user.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(file)) => Some(String::from_utf8_lossy(&read(&folder.join(file))?).trim().to_owned()),
        (None, None) => None,
    };
    Ok(TlsEndpoint {
        host,
        port,
        server_name: cluster.tls_server_name.clone(),
        authority: authority.unwrap_or_default(),
        identity: certificate.zip(key),
        token,
    })
}

fn host_and_port(server: &str) -> Result<(String, u16), ConfigError> {
    let invalid = || ConfigError::Invalid(format!("server {server:?} is neither https://host[:port] nor unix:///path"));
    let uri: http::Uri = server.parse().map_err(|_| invalid())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => Ok((host.to_owned(), uri.port_u16().unwrap_or(443))),
        _ => Err(invalid()),
    }
}

/// PEM that is embedded in base64, or in a file beside the kubeconfig.
fn material(folder: &Path, data: Option<&String>, file: Option<&String>) -> Result<Option<Vec<u8>>, ConfigError> {
    match (data, file) {
        (Some(data), _) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(data.trim());
            bytes.map(Some).map_err(|error| ConfigError::Invalid(format!("decode the kubeconfig's embedded certificate or key: {error}")))
        }
        (None, Some(file)) => read(&folder.join(file)).map(Some),
        (None, None) => Ok(None),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::Read { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
apiVersion: v1
kind: Config
current-context: one
clusters:
- name: one
  cluster: {server: "https://127.0.0.1:7443", certificate-authority-data: "Y2E="}
- name: two
  cluster: {server: "unix:///run/other.sock"}
- name: bad
  cluster: {server: "https://[::1]", insecure-skip-tls-verify: true}
users:
- name: admin
  user: {client-certificate: cert.pem, client-key-data: "a2V5"}
contexts:
- name: one
  context: {cluster: one, user: admin, namespace: team}
- name: two
  context: {cluster: two, user: ""}
- name: bad
  context: {cluster: bad, user: admin}
"#;

    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, FILE).unwrap();
        std::fs::write(folder.path().join("cert.pem"), "cert").unwrap();
        (folder, path)
    }

    #[test]
    fn a_context_gives_address_keys_and_namespace() {
        let (_folder, path) = written();
        let config = Config::from_file(&path, None).unwrap();
        assert_eq!(config.namespace.as_deref(), Some("team"));
        let Server::Tls(endpoint) = config.server else { panic!("not TLS") };
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("127.0.0.1", 7443));
        assert_eq!((endpoint.authority, endpoint.identity), (b"ca".to_vec(), Some((b"cert".to_vec(), b"key".to_vec()))));
    }

    #[test]
    fn wrong_contexts_are_explained() {
        let (_folder, path) = written();
        let error = Config::from_file(&path, Some("three")).unwrap_err().to_string();
        assert!(error.contains("no context \"three\"; it has: one, two, bad"), "{error}");
        assert!(Config::from_file(&path, Some("bad")).unwrap_err().to_string().contains("insecure-skip-tls-verify"));
    }

    #[test]
    fn the_more_explicit_wins_and_a_cluster_is_never_used_by_accident() {
        let (_folder, path) = written();
        let file = path.display().to_string();
        let socket = |options: &Options, env: &[(&str, &str)]| {
            let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            match Config::find(options, env).unwrap().server {
                Server::Unix(path) => path.display().to_string(),
                Server::Tls(endpoint) => endpoint.host,
            }
        };
        let two = Options { context: Some("two".into()), ..Options::default() };
        assert_eq!(socket(&Options::default(), &[("KUBECONFIG", &file)]), DEFAULT_SOCKET);
        assert_eq!(socket(&Options::default(), &[("GANTRY_HOST", "unix:///a"), ("GANTRY_KUBECONFIG", &file)]), "/a");
        assert_eq!(socket(&Options::default(), &[("GANTRY_KUBECONFIG", &file)]), "127.0.0.1");
        assert_eq!(socket(&two, &[("KUBECONFIG", &file), ("GANTRY_HOST", "/a")]), "/run/other.sock");
        assert_eq!(socket(&Options { host: Some("/b".into()), ..two }, &[]), "/b");
        assert!(Config::from_host("tcp://x").is_err());
        let home = tempfile::tempdir().unwrap();
        let home_text = home.path().display().to_string();
        std::fs::create_dir_all(home.path().join("gantry")).unwrap();
        let own = home.path().join("gantry/config");
        let xdg: &[(&str, &str)] = &[("XDG_CONFIG_HOME", &home_text), ("KUBECONFIG", &file)];
        assert_eq!(socket(&Options::default(), xdg), DEFAULT_SOCKET, "there is no file");
        std::fs::write(
            &own,
            "{contexts: [{name: mine, context: {cluster: mine}}], clusters: [{name: mine, cluster: {server: 'unix:///mine'}}]}",
        )
        .unwrap();
        assert_eq!(socket(&Options::default(), xdg), DEFAULT_SOCKET, "no context is current");
        let mine = Options { context: Some("mine".into()), ..Options::default() };
        let two = Options { context: Some("two".into()), ..Options::default() };
        assert_eq!((socket(&mine, xdg).as_str(), socket(&two, xdg).as_str()), ("/mine", "/run/other.sock"));
        let text = std::fs::read_to_string(&own).unwrap();
        std::fs::write(&own, text.replacen('{', "{current-context: mine, ", 1)).unwrap();
        assert_eq!(socket(&Options::default(), xdg), "/mine");
    }
}
