//! A registry that cuts, lies and limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gantry_content::Digest;
use gantry_content::manifest::OCI_MANIFEST;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::super::{ImageError, LocalImage, Progress, Reason};
use super::{Node, gzip, request, small_image};

/// How it misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Each connection for a blob carries so many bytes and breaks.
    Cut(usize),
    /// The layer is another's.
    WrongLayer,
    /// The layer ends early and nothing more comes.
    Truncated,
    /// The manifest's own digest header is wrong.
    WrongManifestDigest,
    /// The first answers are 429 with `Retry-After: 0`.
    Busy(usize),
    /// It asks to come again in an hour.
    BusyForLong,
    /// Always 503.
    Down,
    /// The manifest is no JSON.
    Garbage,
    /// An index without this platform.
    OtherPlatform,
    /// The configuration names another diff id.
    WrongDiffId,
    /// A layer of compressed garbage.
    BrokenGzip,
}

struct Image {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
    fault: Fault,
    requests: AtomicUsize,
}

struct Request {
    path: String,
    offset: usize,
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|count| *count > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut offset = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok().filter(|count| *count > 0)?;
        if header == "\r\n" {
            return Some(Request { path, offset });
        }
        if let Some(range) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
            offset = range.trim_end().trim_end_matches('-').parse().ok()?;
        }
    }
}

impl Image {
    fn new(fault: Fault) -> Self {
        let content: Vec<u8> = (0..600_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
        let (plain, mut config) = small_image(&content);
        if fault == Fault::WrongDiffId {
            config = small_image(b"other").1;
        }
        let mut layer = gzip(&plain);
        if fault == Fault::BrokenGzip {
            layer[1000..2000].fill(0xff);
        }
        let descriptor = |media_type: &str, bytes: &[u8]| {
            format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#, Digest::of(bytes), bytes.len())
        };
        let config_part = descriptor("application/vnd.oci.image.config.v1+json", &config);
        let layer_part = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer);
        let manifest = match fault {
            Fault::Garbage => "not JSON".to_owned(),
            Fault::OtherPlatform => format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":2,"platform":{{"os":"linux","architecture":"s390x"}}}}]}}"#,
                Digest::of(b"{}")
            ),
            _ => format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config_part},"layers":[{layer_part}]}}"#),
        };
        let true_layer = layer.clone();
        let layer = match fault {
            Fault::WrongLayer => true_layer.iter().map(|byte| byte ^ 1).collect(),
            Fault::Truncated => true_layer[..true_layer.len() / 2].to_vec(),
            _ => true_layer,
        };
        // A truncating registry still serves the layer under the digest of the whole.
        Self { manifest: manifest.into_bytes(), config, layer, fault, requests: AtomicUsize::new(0) }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        let request = read_request(&mut stream).await?;
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let (mut head, body, cut) = self.answer(&request, number);
        head.push_str("Connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(&body[..cut.min(body.len())]).await.ok()?;
        stream.shutdown().await.ok()
    }

    /// Head without its end, body, and how much of the body is sent.
    fn answer(&self, request: &Request, number: usize) -> (String, Vec<u8>, usize) {
        let status = match self.fault {
            Fault::Down => Some("503 Service Unavailable\r\n".to_owned()),
            Fault::Busy(times) if number < times => Some("429 Too Many Requests\r\nRetry-After: 0\r\n".to_owned()),
            Fault::BusyForLong => Some("429 Too Many Requests\r\nRetry-After: 3600\r\n".to_owned()),
            _ => None,
        };
        if let Some(status) = status {
            return (format!("HTTP/1.1 {status}Content-Length: 0\r\n"), Vec::new(), 0);
        }
        if request.path.contains("/manifests/") {
            let digest = if self.fault == Fault::WrongManifestDigest { Digest::of(b"x") } else { Digest::of(&self.manifest) };
            let head = format!("HTTP/1.1 200 OK\r\nDocker-Content-Digest: {digest}\r\nContent-Length: {}\r\n", self.manifest.len());
            return (head, self.manifest.clone(), usize::MAX);
        }
        let is_config = request.path.ends_with(&Digest::of(&self.config).to_string());
        let blob = if is_config { &self.config } else { &self.layer };
        let body = blob[request.offset.min(blob.len())..].to_vec();
        let status = if request.offset > 0 {
            format!("206 Partial Content\r\nContent-Range: bytes {}-{}/{}", request.offset, blob.len() - 1, blob.len())
        } else {
            "200 OK".to_owned()
        };
        let cut = match self.fault {
            Fault::Cut(bytes) if !is_config => bytes,
            _ => usize::MAX,
        };
        (format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len()), body, cut)
    }
}

/// Pulls from a registry with the fault: what came of it, on which node, after how many requests.
async fn pull(fault: Fault) -> (Result<LocalImage, ImageError>, Node, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let image = Arc::new(Image::new(fault));
    let served = image.clone();
    let server = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(served.clone().serve(stream));
        }
    });
    let node = Node::new();
    let request = request(&format!("127.0.0.1:{port}/a:1"), None, None);
    let result = match node.service.resolve(&request).await {
        Ok(resolved) => node.service.ensure_unpacked(&request, &resolved.digest, &Progress::default()).await,
        Err(error) => Err(error),
    };
    server.abort();
    (result, node, image.requests.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_cut_download_is_resumed_at_the_byte() {
    let size = Image::new(Fault::Cut(100_000)).layer.len();
    let (result, node, requests) = pull(Fault::Cut(100_000)).await;
    let local = result.unwrap();
    assert!(node.layer(&local.diff_ids[0]).join("bin/program").exists());
    assert_eq!(requests, 2 + size.div_ceil(100_000), "manifest, configuration, and each part of the layer once");
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    assert!(pull(Fault::Busy(2)).await.0.is_ok());
}

#[tokio::test]
async fn faults_are_named_and_leave_nothing() {
    let cases = [
        (Fault::WrongLayer, Reason::DigestMismatch, "expected sha256:"),
        (Fault::Truncated, Reason::RegistryUnavailable, "cut at byte"),
        (Fault::WrongManifestDigest, Reason::DigestMismatch, "/manifests/1"),
        (Fault::BusyForLong, Reason::TooManyRequests, "429"),
        (Fault::Down, Reason::RegistryUnavailable, "503"),
        (Fault::Garbage, Reason::BadManifest, "not a manifest"),
        (Fault::OtherPlatform, Reason::PlatformNotFound, "linux/s390x"),
        (Fault::WrongDiffId, Reason::DigestMismatch, "diff id"),
        (Fault::BrokenGzip, Reason::BadLayer, "corrupt deflate stream"),
    ];
    for (fault, reason, part) in cases {
        let (result, node, _) = pull(fault).await;
        let error = result.unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        node.assert_no_layer();
        if fault == Fault::WrongLayer {
            let wanted = Image::new(Fault::Cut(1)).layer;
            assert!(!node.content.has(&Digest::of(&wanted)));
        }
    }
}
