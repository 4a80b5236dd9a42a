//! What an engine is started with: flags, environment and `/etc/gantry/config.yaml`, merged once and checked once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Read unless `--config` names another file; a missing default file is no error.
const DEFAULT_FILE: &str = "/etc/gantry/config.yaml";
/// Longest path of a Unix socket (unix(7)), the final NUL included.
const SOCKET_PATH_MAX: usize = 108;

/// Names and directories by which one engine is told from another. All have twins in the environment and in the configuration file.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct InstanceArgs {
    /// What survives a reboot: store, content, snapshots, volumes, pki [default: /var/lib/gantry]
    #[arg(long, env = "GANTRY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What does not: sockets, shims [default: /run/gantry]
    #[arg(long, env = "GANTRY_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Prefix of bridges, nft table and cgroups: 1 to 8 of a-z and 0-9 [default: gantry]
    #[arg(long, env = "GANTRY_INSTANCE", value_name = "NAME")]
    instance: Option<String>,
}

/// Everything that `gantry serve` takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    /// TLS address of the API; repeatable; `none` for the Unix socket only [default: 127.0.0.1:7443]
    #[arg(long, env = "GANTRY_LISTEN", value_name = "ADDRESS", value_delimiter = ',')]
    listen: Vec<String>,
    /// Name of this machine's Node object [default: the host name]
    #[arg(long, env = "GANTRY_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Folder of manifests that are applied at start and whenever they change
    #[arg(long, env = "GANTRY_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Where objects are kept: `redb`, a file in the data directory [default: redb]
    #[arg(long, env = "GANTRY_STORE", value_name = "STORE")]
    store: Option<String>,
    /// Registries spoken to over plain HTTP, as host or host:port; repeatable. Loopback registries are always
    #[arg(long, env = "GANTRY_INSECURE_REGISTRY", value_name = "HOST", value_delimiter = ',')]
    insecure_registry: Vec<String>,
    /// Form of the engine's own log: `text` or `json` [default: text]
    #[arg(long, env = "GANTRY_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Configuration file [default: /etc/gantry/config.yaml]
    #[arg(long, env = "GANTRY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the merged configuration and exit
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// The configuration file: the flags' names in camel case.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FileConfig {
    data_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    instance: Option<String>,
    listen: Vec<String>,
    node_name: Option<String>,
    manifests: Option<PathBuf>,
    store: Option<String>,
    insecure_registry: Vec<String>,
    log_format: Option<LogFormat>,
}

/// Form of the engine's own log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What the engine runs with: everything decided, everything checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EngineConfig {
    pub(crate) data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) instance: String,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) node_name: String,
    pub(crate) manifests: Option<PathBuf>,
    pub(crate) store: String,
    pub(crate) insecure_registry: Vec<String>,
    pub(crate) log_format: LogFormat,
}

impl InstanceArgs {
    fn or(self, file: &FileConfig) -> Self {
        Self {
            data_dir: self.data_dir.or_else(|| file.data_dir.clone()),
            run_dir: self.run_dir.or_else(|| file.run_dir.clone()),
            instance: self.instance.or_else(|| file.instance.clone()),
        }
    }

    /// Flags over environment over the default configuration file over defaults.
    pub(crate) fn resolve(self) -> anyhow::Result<(PathBuf, PathBuf, String)> {
        self.or(&read_file(None)?).checked()
    }

    /// With defaults, checked.
    fn checked(self) -> anyhow::Result<(PathBuf, PathBuf, String)> {
        let data_dir = absolute(&self.data_dir.unwrap_or_else(|| "/var/lib/gantry".into()))?;
        let run_dir = absolute(&self.run_dir.unwrap_or_else(|| "/run/gantry".into()))?;
        let instance = self.instance.unwrap_or_else(|| "gantry".to_owned());
        let plain = instance.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        anyhow::ensure!(plain && (1..=8).contains(&instance.len()), "--instance `{instance}`: use 1 to 8 of a-z and 0-9");
        // The longest socket below the run directory: containers/<uid>/shim.sock.
        let longest = run_dir.as_os_str().len() + "/containers/".len() + 36 + "/shim.sock".len() + 1;
        anyhow::ensure!(
            longest <= SOCKET_PATH_MAX,
            "--run-dir `{}` is too long for Unix sockets below it; use a path of at most {} bytes",
            run_dir.display(),
            SOCKET_PATH_MAX - (longest - run_dir.as_os_str().len()),
        );
        Ok((data_dir, run_dir, instance))
    }
}

impl ServeArgs {
    /// Flags over environment over file over defaults.
    pub(crate) fn resolve(self) -> anyhow::Result<EngineConfig> {
        let file = read_file(self.config.as_deref())?;
        let (data_dir, run_dir, instance) = self.instance.or(&file).checked()?;
        let listen = first_given(self.listen, file.listen, || vec!["127.0.0.1:7443".to_owned()]);
        let store = self.store.or(file.store).unwrap_or_else(|| "redb".to_owned());
        anyhow::ensure!(store == "redb", "--store `{store}`: this build has only `redb`");
        let node_name = self.node_name.or(file.node_name).map_or_else(host_name, Ok)?;
        gantry_api::validate::name::subdomain(&node_name).map_err(|why| anyhow::anyhow!("--node-name `{node_name}`: {why}"))?;
        let manifests = self.manifests.or(file.manifests).map(|folder| folder_of_manifests(&folder)).transpose()?;
        Ok(EngineConfig {
            data_dir,
            run_dir,
            instance,
            listen: addresses(&listen)?,
            node_name,
            manifests,
            store,
            insecure_registry: first_given(self.insecure_registry, file.insecure_registry, Vec::new),
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
        })
    }
}

fn first_given(flags: Vec<String>, file: Vec<String>, default: impl FnOnce() -> Vec<String>) -> Vec<String> {
    match (flags.is_empty(), file.is_empty()) {
        (false, _) => flags,
        (true, false) => file,
        (true, true) => default(),
    }
}

fn addresses(listen: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    if listen.iter().any(|address| address == "none") {
        anyhow::ensure!(listen.len() == 1, "--listen none goes with no other --listen");
        return Ok(Vec::new());
    }
    let parse = |address: &String| {
        address.parse().map_err(|_| anyhow::anyhow!("--listen `{address}`: use ADDRESS:PORT, such as 127.0.0.1:7443, or none"))
    };
    listen.iter().map(parse).collect()
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).map_err(|error| anyhow::anyhow!("`{}`: {error}", path.display()))
}

fn folder_of_manifests(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = absolute(folder)?;
    anyhow::ensure!(folder.is_dir(), "--manifests `{}` is no folder; make it first, or name another", folder.display());
    Ok(folder)
}

fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().map_err(|error| anyhow::anyhow!("read the host name: {error}; set --node-name"))?;
    Ok(name.to_string_lossy().to_ascii_lowercase())
}

fn read_file(named: Option<&Path>) -> anyhow::Result<FileConfig> {
    let path = named.unwrap_or_else(|| Path::new(DEFAULT_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(FileConfig::default()),
        Err(error) => anyhow::bail!("read `{}`: {error}", path.display()),
    };
    serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("`{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "instance: other\nlisten: ['127.0.0.1:1']\nlogFormat: json\nnodeName: n\n").unwrap();
        let instance = InstanceArgs { instance: Some("mine".into()), ..Default::default() };
        let config = ServeArgs { instance, config: Some(file), ..Default::default() }.resolve().unwrap();
        assert_eq!((config.instance.as_str(), config.listen.len(), config.log_format), ("mine", 1, LogFormat::Json));
        assert_eq!(config.data_dir, Path::new("/var/lib/gantry"));
    }

    #[test]
    fn wrong_values_are_named() {
        let with = |change: fn(&mut ServeArgs)| {
            let mut args = ServeArgs { node_name: Some("n".into()), config: Some("/dev/null".into()), ..Default::default() };
            change(&mut args);
            args.resolve().unwrap_err().to_string()
        };
        assert!(with(|args| args.instance.instance = Some("Not-Good".into())).contains("--instance"));
        assert!(with(|args| args.listen = vec!["here".into()]).contains("--listen `here`"));
        assert!(with(|args| args.manifests = Some("/no/such/folder".into())).contains("--manifests"));
        assert!(with(|args| args.store = Some("floppy".into())).contains("--store"));
        assert!(with(|args| args.instance.run_dir = Some("/very".repeat(20).into())).contains("--run-dir"));
        assert!(with(|args| args.config = Some("/no/such/file".into())).contains("/no/such/file"));
    }
}
