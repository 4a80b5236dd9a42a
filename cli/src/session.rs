//! Which engine and namespace a command is about, and what is told of its requests.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use gantry_client::config::{Config, Options};
use gantry_client::{Body, Client, ClientError, Transport};
use http::{Request, Response, header};

/// `fieldManager` of what this program writes.
const MANAGER: &str = "gantry";
/// From this level of `-v` on, each request is shown.
const SHOW_REQUESTS: u8 = 6;

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
    /// How much to tell on stderr; 6 and more: each request (a client), or what its parts do (the engine)
    #[arg(short, long, global = true, value_name = "LEVEL", num_args = 0..=1, require_equals = true, default_missing_value = "6",
        default_value_t = 0, hide_default_value = true, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// A client, and the namespace of this command.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl Session {
    /// Finds the server; nothing is connected yet.
    pub(crate) fn open(global: &Global) -> anyhow::Result<Self> {
        let options = Options { host: global.host.clone(), kubeconfig: global.kubeconfig.clone(), context: global.context.clone() };
        let config = Config::find(&options, |name| std::env::var(name).ok()).context("find the engine")?;
        let inner = config.client(MANAGER).transport();
        let client = Client::new(Arc::new(Told { inner, requests: global.verbose >= SHOW_REQUESTS }), MANAGER);
        let namespace = global.namespace.clone().or(config.namespace).unwrap_or_else(|| "default".to_owned());
        Ok(Self { client, namespace })
    }
}

/// Passes requests on; tells of the server's warnings, and of the requests when asked to.
struct Told {
    inner: Arc<dyn Transport>,
    requests: bool,
}

impl Transport for Told {
    fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
        Box::pin(async move {
            let what = self.requests.then(|| format!("{} {}", request.method(), request.uri()));
            let begun = tokio::time::Instant::now();
            let answer = self.inner.send(request).await;
            if let Some(what) = what {
                let status = answer.as_ref().map_or("no answer".to_owned(), |answer| answer.status().as_u16().to_string());
                tell(&format!("{what} {status} in {} ms", begun.elapsed().as_millis()));
            }
            if let Ok(answer) = &answer {
                let warnings = answer.headers().get_all(header::WARNING).iter().filter_map(|value| value.to_str().ok());
                warnings.for_each(|warning| tell(&format!("warning: {}", warning_text(warning))));
            }
            answer
        })
    }
}

fn tell(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The text of `299 - "text"`.
fn warning_text(header: &str) -> String {
    match header.split_once('"') {
        Some((_, rest)) => rest.trim_end().strip_suffix('"').unwrap_or(rest).replace("\\\"", "\"").replace("\\\\", "\\"),
        None => header.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_warning_is_unquoted() {
        assert_eq!(warning_text(r#"299 - "unknown field \"spec.x\"""#), "unknown field \"spec.x\"");
        assert_eq!(warning_text("odd"), "odd");
    }
}
