//! Making the sockets, and accepting on them.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::connection::Connections;
use crate::auth::Peer;

const BACKLOG: i32 = 1024;
/// After a failed accept, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The socket's name in the file system; removed when dropped, unless somebody else has taken the name since.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // Nothing is lost when it stays: the next engine replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on a Unix socket: mode 0660, of the group if there is one. A name left behind is replaced; one on which somebody
/// answers is in use.
pub(super) fn bind_unix(path: &Path, group: &str) -> io::Result<(UnixListener, SocketFile)> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server answers there"));
    }
    // Under another name until owner and mode are right: nobody can connect in between, and the name never is missing.
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&temporary)?;
    let finish = || {
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
        if let Some(group) = nix::unistd::Group::from_name(group)? {
            nix::unistd::chown(&temporary, None, Some(group.gid))?;
        }
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o660))?;
        let inode = fs::symlink_metadata(&temporary)?.ino();
        fs::rename(&temporary, path)?;
        Ok(SocketFile { path: path.to_owned(), inode })
    };
    let file = finish().inspect_err(|_: &io::Error| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    })?;
    listener.set_nonblocking(true)?;
    Ok((UnixListener::from_std(listener)?, file))
}

/// Listens on a TCP address. An address is taken again at once after a restart; `[::]` is for IPv6 only, so that both may be
/// listed.
pub(super) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

pub(super) async fn serve_unix(listener: UnixListener, mut connections: Connections) {
    while let Some(permit) = connections.admit().await {
        let Some(accepted) = connections.until_stop(listener.accept()).await else { break };
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let credentials = stream.peer_cred();
        connections.spawn(permit, move |serving| async move {
            let peer = credentials.map_or(Peer::Unknown, |c| Peer::Unix { uid: c.uid(), gid: c.gid() });
            let identity = serving.identify_local(peer).await;
            serving.run(stream, identity).await;
        });
    }
    connections.finish().await;
}

pub(super) async fn serve_tls(listener: TcpListener, config: Arc<rustls::ServerConfig>, mut connections: Connections) {
    let acceptor = TlsAcceptor::from(config);
    while let Some(permit) = connections.admit().await {
        let Some(accepted) = connections.until_stop(listener.accept()).await else { break };
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let acceptor = acceptor.clone();
        connections.spawn(permit, move |serving| async move {
            // Small answers and watch events should not wait for more.
            let _ = stream.set_nodelay(true);
            let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
                Err(_elapsed) => return tracing::debug!("TLS handshake took too long"),
            };
            // The verifier has found it signed by our authority and valid.
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let identity = certificate.and_then(|der| crate::auth::identity_of_certificate(der));
            serving.run(stream, identity).await;
        });
    }
    connections.finish().await;
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "accepting a connection failed");
    tokio::time::sleep(PAUSE).await;
}
