//! The listeners: a Unix socket and TLS, both serving one router.
//!
//! ```text
//! Listeners::bind(config)  the keys (pki), the sockets (listen); every address is known now
//!     .serve(router, stop) accepts until `stop`, then lets requests finish for a moment, ends watches and returns
//! ```
//!
//! Each request carries in its extensions the [`crate::auth::Identity`] of its connection, if it is known, and a [`Stopping`],
//! which endless answers end on.

mod connection;
mod listen;
mod opening;
pub mod pki;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use connection::{Connections, Limits};
use listen::SocketFile;
use pki::{Pki, PkiError};

/// What to listen on.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The engine's data; `pki/` and `admin.kubeconfig` are made in it.
    pub data_dir: PathBuf,
    /// The Unix socket; `None` for none.
    pub socket: Option<PathBuf>,
    /// TLS addresses; port 0 chooses one.
    pub listen: Vec<SocketAddr>,
    /// Further names and addresses by which clients reach this server, for its certificate.
    pub names: Vec<String>,
    /// The group whose members may use the socket and are administrators.
    pub admin_group: String,
    /// Connections at a time, per listener; more wait.
    pub max_connections: usize,
    /// How long requests may go on after the end was asked for.
    pub grace: Duration,
}

impl ServerConfig {
    /// The usual bounds; nothing to listen on yet.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            socket: None,
            listen: Vec::new(),
            names: Vec::new(),
            admin_group: "gantry".to_owned(),
            max_connections: 4_096,
            grace: Duration::from_secs(2),
        }
    }
}

/// Cancelled when the server is about to stop: in the extensions of every request, for answers that have no end of their own.
#[derive(Debug, Clone)]
pub struct Stopping(pub CancellationToken);

/// A listener that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("listen on `{path}`", path = path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The keys and certificates cannot be used.
    #[error("set up the server's certificates")]
    Pki(#[from] PkiError),
}

/// Sockets that listen already; connections wait until [`Listeners::serve`].
pub struct Listeners {
    unix: Option<(UnixListener, SocketFile)>,
    tls: Vec<TcpListener>,
    tls_config: Option<Arc<rustls::ServerConfig>>,
    addresses: Vec<SocketAddr>,
    limits: Limits,
    max_connections: usize,
}

impl Listeners {
    /// Makes or renews keys, certificates and `admin.kubeconfig`, and listens. Blocks for a few files.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(config: &ServerConfig, now: jiff::Timestamp) -> Result<Self, BindError> {
        let unix = match &config.socket {
            Some(path) => {
                let bound = listen::bind_unix(path, &config.admin_group);
                Some(bound.map_err(|source| BindError::Socket { path: path.clone(), source })?)
            }
            None => None,
        };
        let (mut tls, mut addresses) = (Vec::new(), Vec::new());
        for &address in &config.listen {
            let fail = |source| BindError::Address { address, source };
            let listener = listen::bind_tcp(address).map_err(fail)?;
            addresses.push(listener.local_addr().map_err(fail)?);
            tls.push(listener);
        }
        let tls_config = if tls.is_empty() {
            None
        } else {
            let (config, addresses) = (config.clone(), addresses.clone());
            let made = tokio::task::spawn_blocking(move || {
                let pki = Pki::ensure(&config.data_dir.join("pki"), &server_names(&config, &addresses), now)?;
                pki.write_kubeconfig(&config.data_dir.join("admin.kubeconfig"), addresses[0])?;
                pki.tls_config()
            });
            let made =
                made.await.map_err(|error| BindError::Pki(PkiError::Io { path: PathBuf::from("pki"), source: io::Error::other(error) }))?;
            Some(Arc::new(made?))
        };
        let limits = Limits { grace: config.grace, admin_group: config.admin_group.as_str().into() };
        Ok(Self { unix, tls, tls_config, addresses, limits, max_connections: config.max_connections })
    }

    /// The TLS addresses, with the ports that were chosen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `stop`, then ends: no new connections, [`Stopping`] is told, requests get the grace to finish.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let mut listeners = JoinSet::new();
        let connections = |limits: &Limits| Connections::new(router.clone(), limits.clone(), self.max_connections, stop.clone());
        let mut socket_file = None;
        if let Some((listener, file)) = self.unix {
            socket_file = Some(file);
            listeners.spawn(listen::serve_unix(listener, connections(&self.limits)));
        }
        if let Some(tls_config) = self.tls_config {
            for listener in self.tls {
                listeners.spawn(listen::serve_tls(listener, tls_config.clone(), connections(&self.limits)));
            }
        }
        while let Some(ended) = listeners.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a listener ended badly");
            }
        }
        drop(socket_file);
    }
}

/// Binds and serves in one step.
///
/// # Errors
/// See [`BindError`].
pub async fn serve(router: Router, config: &ServerConfig, now: jiff::Timestamp, stop: CancellationToken) -> Result<(), BindError> {
    Listeners::bind(config, now).await?.serve(router, stop).await;
    Ok(())
}

/// Everything by which a client may address this server.
fn server_names(config: &ServerConfig, addresses: &[SocketAddr]) -> Vec<String> {
    let mut names: Vec<String> = ["127.0.0.1", "::1", "localhost"].map(str::to_owned).to_vec();
    names.extend(nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()));
    names.extend(addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    names.extend(config.names.iter().cloned());
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests;
