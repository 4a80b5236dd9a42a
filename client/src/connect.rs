//! HTTP/1.1 over a Unix socket or TLS. Idle connections are kept and reused; HTTP/1.1 because each connection must be able to
//! become a stream (exec), and because a watch may hold one for long.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::{
    Client as Pool,
    connect::{Connected, Connection},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::body::{Body, BoxError};
use crate::error::ClientError;
use crate::transport::Transport;

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of an answer may take to a request with a small body; none applies to uploads.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bodies up to this many bytes are under [`ANSWER_TIMEOUT`].
const SMALL_BODY: u64 = 4 << 20;
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A server reached over TLS and how to prove who one is.
#[derive(Clone, Default)]
pub struct TlsEndpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name to expect in the server's certificate, if not `host`.
    pub server_name: Option<String>,
    /// PEM of the authorities that may sign the server's certificate.
    pub authority: Vec<u8>,
    /// PEM of the client's certificate chain and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Bearer token.
    pub token: Option<String>,
}

impl std::fmt::Debug for TlsEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys and tokens never reach a log.
        f.debug_struct("TlsEndpoint").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl TlsEndpoint {
    fn client_config(&self) -> Result<Arc<rustls::ClientConfig>, BoxError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.authority) {
            roots.add(certificate.map_err(|error| format!("read the certificate authority: {error}"))?)?;
        }
        if roots.is_empty() {
            return Err("no certificate authority is given for this server (certificate-authority-data)".into());
        }
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| format!("read the client certificate: {error}"))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("read the client key: {error}"))?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Where to connect to.
enum Target {
    Unix(PathBuf),
    Tls { endpoint: TlsEndpoint, config: Mutex<Option<Arc<rustls::ClientConfig>>> },
}

impl Target {
    async fn connect(&self) -> Result<Stream, BoxError> {
        match self {
            Self::Unix(path) => Ok(Stream::Unix(TokioIo::new(UnixStream::connect(path).await?))),
            Self::Tls { endpoint, config } => {
                let config = lazily(config, endpoint)?;
                let name = endpoint.server_name.as_deref().unwrap_or(&endpoint.host);
                let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())?;
                let tcp = TcpStream::connect((endpoint.host.trim_matches(['[', ']']), endpoint.port)).await?;
                tcp.set_nodelay(true)?;
                Ok(Stream::Tls(Box::new(TokioIo::new(TlsConnector::from(config).connect(name, tcp).await?))))
            }
        }
    }
}

/// The TLS configuration, made at the first connection: it costs time and memory that a socket user never pays.
fn lazily(slot: &Mutex<Option<Arc<rustls::ClientConfig>>>, endpoint: &TlsEndpoint) -> Result<Arc<rustls::ClientConfig>, BoxError> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(config) = &*slot {
        return Ok(config.clone());
    }
    let config = endpoint.client_config()?;
    *slot = Some(config.clone());
    Ok(config)
}

/// An open connection.
enum Stream {
    Unix(TokioIo<UnixStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl hyper::rt::Read for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(io) => Pin::new(io).poll_read(context, buffer),
            Self::Tls(io) => Pin::new(io).poll_read(context, buffer),
        }
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(io) => Pin::new(io).poll_write(context, data),
            Self::Tls(io) => Pin::new(io).poll_write(context, data),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(io) => Pin::new(io).poll_flush(context),
            Self::Tls(io) => Pin::new(io).poll_flush(context),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(io) => Pin::new(io).poll_shutdown(context),
            Self::Tls(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Makes connections for the pool.
#[derive(Clone)]
struct Connector(Arc<Target>);

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let target = self.0.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, target.connect()).await {
                Ok(result) => result,
                Err(_) => Err(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()).into()),
            }
        })
    }
}

/// A server behind a socket.
pub(crate) struct Http {
    pool: Pool<Connector, Body>,
    /// Scheme and authority put before each path.
    origin: String,
    /// How people call the server.
    display: String,
    authorization: Option<HeaderValue>,
}

impl Http {
    pub(crate) fn unix(socket: &Path) -> Self {
        Self::new(Target::Unix(socket.to_owned()), "http://gantry".to_owned(), socket.display().to_string(), None)
    }

    pub(crate) fn tls(endpoint: TlsEndpoint) -> Self {
        let origin = format!("https://{}:{}", endpoint.host, endpoint.port);
        let authorization = endpoint.token.as_ref().and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        Self::new(Target::Tls { endpoint, config: Mutex::new(None) }, origin.clone(), origin, authorization)
    }

    fn new(target: Target, origin: String, display: String, authorization: Option<HeaderValue>) -> Self {
        let authorization = authorization.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(Connector(Arc::new(target)));
        Self { pool, origin, display, authorization }
    }

    fn address(&self, request: &mut Request<Body>) -> Result<(), ClientError> {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        *request.uri_mut() = Uri::try_from(format!("{}{path}", self.origin))
            .map_err(|error| ClientError::transport(format!("address a request to {}", self.display), error))?;
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, value.clone());
        }
        Ok(())
    }
}

impl Transport for Http {
    fn send(&self, mut request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
        Box::pin(async move {
            self.address(&mut request)?;
            let what = format!("{} {}", request.method(), request.uri().path());
            let small = request.body().size_hint().upper().is_some_and(|size| size <= SMALL_BODY);
            let answer = self.pool.request(request);
            let answer = if small {
                tokio::time::timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| ClientError::Transport {
                    message: format!("{what}: {} gave no answer within {} s", self.display, ANSWER_TIMEOUT.as_secs()),
                    source: None,
                })?
            } else {
                answer.await
            };
            let answer = answer.map_err(|error| {
                let doing = if error.is_connect() { format!("connect to {}", self.display) } else { format!("{what} at {}", self.display) };
                ClientError::transport(doing, error)
            })?;
            Ok(answer.map(|body| body.map_err(BoxError::from).boxed()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_absent_socket_is_named() {
        let http = Http::unix(Path::new("/nonexistent/gantry.sock"));
        let error = http.send(Request::new(crate::body::empty())).await.unwrap_err();
        assert_eq!(error.to_string(), "connect to /nonexistent/gantry.sock");
        assert!(error.is_unreachable());
    }

    #[tokio::test]
    async fn tls_without_an_authority_is_refused() {
        let endpoint = TlsEndpoint { host: "127.0.0.1".into(), port: 1, ..TlsEndpoint::default() };
        let error = endpoint.client_config().unwrap_err();
        assert!(error.to_string().contains("certificate authority"), "{error}");
    }

    #[test]
    fn debug_hides_secrets() {
        let endpoint = TlsEndpoint { token: Some("s3cret".into()), ..TlsEndpoint::default() };
        assert!(!format!("{endpoint:?}").contains("s3cret"));
    }
}
