//! Which engine and namespace a command is about, and what is told of its requests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gantry_client::Client;
use gantry_client::config::{Config, Options};

use crate::duration;
use crate::kinds::Kinds;
use crate::requests::Told;

/// `fieldManager` of what this program writes.
const MANAGER: &str = "gantry";

/// Flags of every command.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Global {
    /// Namespace of the objects [default: the context's, else `default`]
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) namespace: Option<String>,
    /// The engine's socket: unix:///path or a path [env: GANTRY_HOST]
    #[arg(short = 'H', long, visible_alias = "socket", global = true, value_name = "SOCKET", help_heading = "Global options")]
    pub(crate) host: Option<String>,
    /// File with contexts, certificates and keys [env: GANTRY_KUBECONFIG]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) context: Option<String>,
    /// How long the server may take to begin its answer to a request; 0: the client's own limit
    #[arg(long, global = true, value_name = "DURATION", default_value = "0", hide_default_value = true, value_parser = duration::parse,
        help_heading = "Global options")]
    pub(crate) request_timeout: Duration,
    /// How much to tell on stderr: 6 each request, 7 its headers, 8 the bodies, 9 more of them (a client); what its parts do (the engine)
    #[arg(short, long, global = true, value_name = "LEVEL", num_args = 0..=1, require_equals = true, default_missing_value = "6",
        default_value_t = 0, hide_default_value = true, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// A client, the namespace of this command, and the kinds there are.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) kinds: Kinds,
}

impl Session {
    /// Finds the server; nothing is connected yet.
    pub(crate) fn open(global: &Global) -> anyhow::Result<Self> {
        let options = Options { host: global.host.clone(), kubeconfig: global.kubeconfig.clone(), context: global.context.clone() };
        let config = Config::find(&options, |name| std::env::var(name).ok()).context("find the engine")?;
        let told = Told::new(config.client(MANAGER).transport(), global.verbose, global.request_timeout);
        let client = Client::new(Arc::new(told), MANAGER);
        let namespace = global.namespace.clone().or(config.namespace).unwrap_or_else(|| "default".to_owned());
        Ok(Self { kinds: Kinds::new(client.clone()), client, namespace })
    }
}
