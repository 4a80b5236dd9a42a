use std::convert::Infallible;
use std::path::Path;

use axum::body::Body;
use axum::extract::Extension;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::auth::Identity;

/// A served router, and what one needs to reach it.
struct Served {
    dir: TempDir,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// `/who` says who asks, `/watch` never ends by itself, `/echo` upgrades and echoes.
fn router() -> Router {
    Router::new()
        .route("/who", get(|identity: Option<Extension<Identity>>| async { identity.map_or("nobody".to_owned(), |i| i.0.user) }))
        .route("/watch", get(watch))
        .route("/stuck", get(|| async { std::future::pending::<()>().await }))
        .route("/echo", get(echo))
}

async fn watch(Extension(Stopping(stop)): Extension<Stopping>) -> Body {
    let first = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"first\n"))]);
    let last = futures_util::stream::once(async move {
        stop.cancelled().await;
        Ok(Bytes::from_static(b"last\n"))
    });
    Body::from_stream(futures_util::StreamExt::chain(first, last))
}

async fn echo(request: Request<Body>) -> Response<Body> {
    tokio::spawn(async move {
        let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).await.unwrap();
        stream.write_all(&buffer).await.unwrap();
    });
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    response.header("connection", "upgrade").header("upgrade", "echo").body(Body::empty()).unwrap()
}

async fn serve_router() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(dir.path());
    config.socket = Some(socket(dir.path()));
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.grace = Duration::from_millis(300);
    let listeners = Listeners::bind(&config, jiff::Timestamp::now()).await.unwrap();
    let (address, stop) = (listeners.addresses()[0], CancellationToken::new());
    let task = tokio::spawn(listeners.serve(router(), stop.clone()));
    Served { dir, address, stop, task }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("gantry.sock")
}

/// Which certificate a client shows.
enum Show<'a> {
    Nothing,
    AdminOf(&'a Path),
}

async fn connect(
    served: &Served,
    show: &Show<'_>,
    alpn: &str,
    version: &'static rustls::SupportedProtocolVersion,
) -> std::io::Result<TlsStream<TcpStream>> {
    let pem = |dir: &Path, name: &str| std::fs::read(dir.join("pki").join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem(served.dir.path(), "ca.crt")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots);
    let mut config = match show {
        Show::Nothing => config.with_no_client_auth(),
        Show::AdminOf(dir) => {
            let certificate = CertificateDer::from_pem_slice(&pem(dir, "admin.crt")).unwrap();
            let key = PrivateKeyDer::from_pem_slice(&pem(dir, "admin.key")).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let stream = TcpStream::connect(served.address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn text(response: Response<hyper::body::Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn request(path: &str) -> Request<Body> {
    let upgrade = if path == "/echo" { "upgrade" } else { "keep-alive" };
    Request::get(path).header("host", "gantry").header("connection", upgrade).header("upgrade", "echo").body(Body::empty()).unwrap()
}

/// One request over HTTP/1.1.
async fn ask(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    path: &str,
) -> Response<hyper::body::Incoming> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request(path)).await.unwrap()
}

#[tokio::test]
async fn a_client_certificate_tells_who_asks() {
    let served = serve_router().await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let admin = connect(&served, &Show::AdminOf(served.dir.path()), "http/1.1", version).await.unwrap();
        assert_eq!(text(ask(admin, "/who").await).await, "admin");
        let nobody = connect(&served, &Show::Nothing, "http/1.1", version).await.unwrap();
        assert_eq!(text(ask(nobody, "/who").await).await, "nobody");
    }
}

#[tokio::test]
async fn http2_is_spoken_when_asked_for() {
    let served = serve_router().await;
    let stream = connect(&served, &Show::AdminOf(served.dir.path()), "h2", &rustls::version::TLS13).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answers = (0..20).map(|_| sender.send_request(Request::get("https://gantry/who").body(Body::empty()).unwrap()));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(text(answer.unwrap()).await, "admin");
    }
}

#[tokio::test]
async fn another_authoritys_certificate_is_refused() {
    let (served, other) = (serve_router().await, serve_router().await);
    // With TLS 1.3 the client learns it at its first read.
    let stream = connect(&served, &Show::AdminOf(other.dir.path()), "http/1.1", &rustls::version::TLS13).await;
    let Ok(mut stream) = stream else { return };
    // Writing may succeed or not; no answer comes in any case.
    let _ = stream.write_all(b"GET /who HTTP/1.1\r\nhost: gantry\r\n\r\n").await;
    let mut answer = Vec::new();
    assert!(stream.read_to_end(&mut answer).await.is_err());
    assert!(answer.is_empty());
}

#[tokio::test]
async fn root_on_the_socket_is_admin_and_the_name_is_for_the_group() {
    use std::os::unix::fs::MetadataExt as _;
    let served = serve_router().await;
    let path = socket(served.dir.path());
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(text(ask(stream, "/who").await).await, "admin");

    let busy = listen::bind_unix(&path, "gantry").err().unwrap();
    assert_eq!(busy.kind(), io::ErrorKind::AddrInUse);
    served.stop.cancel();
    served.task.await.unwrap();
    assert!(!path.exists());
    assert_eq!(std::fs::read_dir(served.dir.path()).unwrap().count(), 2, "nothing but pki/ and admin.kubeconfig");
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket(dir.path());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (first, file) = listen::bind_unix(&path, "gantry").unwrap();
    drop(first);
    let (_second, _file) = listen::bind_unix(&path, "gantry").unwrap();
    drop(file);
    assert!(path.exists(), "the first owner must not take the second one's name away");
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn connections_upgrade_on_both_listeners() {
    let served = serve_router().await;
    let tls = connect(&served, &Show::Nothing, "http/1.1", &rustls::version::TLS13).await.unwrap();
    let unix = UnixStream::connect(socket(served.dir.path())).await.unwrap();
    for response in [ask(tls, "/echo").await, ask(unix, "/echo").await] {
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
    }
}

#[tokio::test]
async fn stopping_ends_watches_in_order_and_cuts_off_what_is_stuck() {
    let served = serve_router().await;
    let path = socket(served.dir.path());
    let mut watching = ask(UnixStream::connect(&path).await.unwrap(), "/watch").await;
    assert_eq!(watching.frame().await.unwrap().unwrap().into_data().unwrap(), "first\n");
    let (mut sender, connection) = http1::handshake(TokioIo::new(UnixStream::connect(&path).await.unwrap())).await.unwrap();
    tokio::spawn(connection);
    let stuck = tokio::spawn(async move { sender.send_request(request("/stuck")).await.is_err() });
    served.stop.cancel();
    assert_eq!(text(watching).await, "last\n");
    tokio::time::timeout(Duration::from_secs(10), served.task).await.expect("the server does not end").unwrap();
    assert!(stuck.await.unwrap());
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(dir.path());
    config.socket = Some(socket(dir.path()));
    config.max_connections = 1;
    let listeners = Listeners::bind(&config, jiff::Timestamp::now()).await.unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(listeners.serve(router(), stop.clone()));
    let first = UnixStream::connect(socket(dir.path())).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(first)).await.unwrap();
    let first = tokio::spawn(connection);
    assert_eq!(text(sender.send_request(request("/who")).await.unwrap()).await, "admin");
    let second = tokio::spawn(ask(UnixStream::connect(socket(dir.path())).await.unwrap(), "/who"));
    assert_eq!(text(sender.send_request(request("/who")).await.unwrap()).await, "admin");
    assert!(!second.is_finished());
    drop(sender);
    first.await.unwrap().unwrap();
    assert_eq!(text(second.await.unwrap()).await, "admin");
    stop.cancel();
    task.await.unwrap();
}
