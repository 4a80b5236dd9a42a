//! Talks to registries: manifests and blobs of one repository at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use gantry_api::reference::ImageReference;
use gantry_content::manifest::{DOCKER_LIST, DOCKER_MANIFEST, MANIFEST_LIMIT, OCI_INDEX, OCI_MANIFEST};
use gantry_content::{AsyncIngest, Digest};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::auth::{Challenge, Credentials, DockerConfig};
use super::error::{ImageError, Reason};
use super::progress::Progress;
use crate::ids::chain;

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// `host` or `host:port` of registries that are spoken to without TLS, besides loopback ones.
    pub plain_http: Vec<String>,
}

impl RegistryConfig {
    /// Whether the authority (`host[:port]`) is spoken to without TLS. Loopback ones are, as Docker does.
    fn is_plain(&self, authority: &str) -> bool {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        loopback || self.plain_http.iter().any(|known| known == authority || known == host)
    }
}

/// Requests are tried so often when nothing came of them.
const ATTEMPTS: u32 = 4;
/// The first wait between attempts; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// A registry that asks for a longer wait is reported instead of waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// A connection is given up when no byte came for so long.
const NO_PROGRESS: Duration = Duration::from_secs(30);
/// The most bytes of a token service's answer.
const TOKEN_LIMIT: u64 = 64 * 1024;
/// The most tokens that are remembered.
const TOKENS: usize = 1000;

/// A client of all registries.
pub(crate) struct Registry {
    config: Arc<RegistryConfig>,
    http: OnceLock<Client>,
    /// Stands in for plain HTTP while the node trusts no certificate authority.
    http_without_authorities: OnceLock<Client>,
    tokens: Mutex<HashMap<TokenKey, (HeaderValue, Instant)>>,
}

/// Tokens are kept apart by whose they are.
#[derive(PartialEq, Eq, Hash, Clone)]
struct TokenKey {
    authority: String,
    path: String,
    credentials: Option<Credentials>,
}

/// A repository, and as whom it is asked.
#[derive(Clone)]
pub(crate) struct Repository {
    authority: String,
    path: String,
    credentials: Option<Credentials>,
}

impl Repository {
    pub(crate) fn new(reference: &ImageReference, credentials: Option<&DockerConfig>) -> Self {
        let domain = reference.registry.as_str();
        let path = reference.repository.clone();
        let credentials = credentials.and_then(|config| config.find(domain, &path)).cloned();
        let authority = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
        Self { authority: authority.to_owned(), path, credentials }
    }

    fn token_key(&self) -> TokenKey {
        TokenKey { authority: self.authority.clone(), path: self.path.clone(), credentials: self.credentials.clone() }
    }
}

/// A manifest or index as it came.
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MediaTypeOnly {
    media_type: Option<String>,
}

impl Registry {
    pub(crate) fn new(config: RegistryConfig) -> Self {
        Self {
            config: Arc::new(config),
            http: OnceLock::new(),
            http_without_authorities: OnceLock::new(),
            tokens: Mutex::new(HashMap::new()),
        }
    }

    /// The manifest or index that `what` (a tag or a digest) names.
    pub(crate) async fn manifest(&self, repository: &Repository, what: &str) -> Result<Fetched, ImageError> {
        let url = self.url(repository, &format!("manifests/{what}"))?;
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let mut answer = self.get(repository, &url, Some(&accept), None).await?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let said: Option<Digest> = header("docker-content-digest").and_then(|text| text.parse().ok());
        let content_type = header("content-type").unwrap_or_default();
        let bytes = read_limited(&mut answer, &url, MANIFEST_LIMIT).await?;
        let digest = Digest::of(&bytes);
        let wanted = what.parse::<Digest>().ok().or(said);
        if let Some(expected) = wanted.filter(|expected| *expected != digest) {
            return Err(ImageError::new(Reason::DigestMismatch, format!("GET {url}: expected {expected}, got {digest}")));
        }
        let inner: MediaTypeOnly = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::new(Reason::BadManifest, format!("GET {url}: not a manifest: {error}")))?;
        let outer = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        let media_type = inner.media_type.unwrap_or(outer);
        Ok(Fetched { bytes, digest, media_type })
    }

    /// Downloads a blob into `ingest`, from where it stands; a cut connection is resumed at the byte.
    pub(crate) async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        ingest: &mut AsyncIngest,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        let url = self.url(repository, &format!("blobs/{digest}"))?;
        let mut fruitless = 0;
        while ingest.offset() < size {
            let before = ingest.offset();
            let cut = self.blob_part(repository, &url, size, ingest, progress).await?;
            let Some(cut) = cut else { continue };
            fruitless = if ingest.offset() > before { 1 } else { fruitless + 1 };
            if fruitless >= ATTEMPTS {
                return Err(ImageError::new(Reason::RegistryUnavailable, format!("GET {url}: cut at byte {before} of {size}: {cut}")));
            }
            tracing::debug!(%url, at = ingest.offset(), cut, "resuming a blob");
            tokio::time::sleep(FIRST_WAIT * 2_u32.pow(fruitless - 1)).await;
        }
        Ok(())
    }

    /// One connection's worth; `Some` says how it was cut.
    async fn blob_part(
        &self,
        repository: &Repository,
        url: &Url,
        size: u64,
        ingest: &mut AsyncIngest,
        progress: &Progress,
    ) -> Result<Option<String>, ImageError> {
        let offset = ingest.offset();
        let range = (offset > 0).then(|| format!("bytes={offset}-"));
        let answer = self.get(repository, url, None, range.as_deref()).await?;
        if offset > 0 && (answer.status() != StatusCode::PARTIAL_CONTENT || !starts_at(&answer, offset)) {
            ingest.restart().await?;
            progress.take_back(offset);
            if answer.status() != StatusCode::OK {
                return Ok(Some("the registry does not resume".to_owned()));
            }
        }
        let mut stream = answer.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    ingest.flush().await?;
                    return Ok(Some(chain(&error)));
                }
            };
            let length = chunk.len() as u64;
            if ingest.offset() + length > size {
                let message = format!("GET {url}: more than the {size} bytes that the manifest says");
                return Err(ImageError::new(Reason::DigestMismatch, message));
            }
            ingest.write(chunk).await?;
            progress.add(length);
        }
        Ok((ingest.offset() < size).then(|| "the answer ended early".to_owned()))
    }

    fn url(&self, repository: &Repository, rest: &str) -> Result<Url, ImageError> {
        let scheme = if self.config.is_plain(&repository.authority) { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{}/{rest}", repository.authority, repository.path);
        Url::parse(&text).map_err(|error| ImageError::new(Reason::InvalidReference, format!("`{text}`: {error}")))
    }

    /// A successful answer; tried again while that may help, with a token when asked for one.
    async fn get(&self, repository: &Repository, url: &Url, accept: Option<&str>, range: Option<&str>) -> Result<Response, ImageError> {
        let mut wait = FIRST_WAIT;
        let mut authorized = false;
        let mut attempt = 1;
        loop {
            let error = match self.send(repository, url, accept, range).await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE => return Ok(answer),
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && !authorized => {
                    authorized = true;
                    self.authorize(repository, url, &answer).await?;
                    continue;
                }
                Ok(answer) => refusal(url, &answer),
                Err(error) => unreachable(url, &error),
            };
            let transient = matches!(error.reason, Reason::RegistryUnavailable | Reason::TooManyRequests);
            let pause = error.retry_after.unwrap_or(wait);
            if !transient || attempt >= ATTEMPTS || pause > LONGEST_WAIT {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            (attempt, wait) = (attempt + 1, wait * 2);
        }
    }

    async fn send(
        &self,
        repository: &Repository,
        url: &Url,
        accept: Option<&str>,
        range: Option<&str>,
    ) -> Result<Response, reqwest::Error> {
        let mut request = self.http(url)?.get(url.clone());
        if let Some(authorization) = self.remembered(&repository.token_key()) {
            request = request.header(AUTHORIZATION, authorization);
        }
        request = accept.into_iter().fold(request, |request, accept| request.header(ACCEPT, accept));
        request = range.into_iter().fold(request, |request, range| request.header(RANGE, range));
        request.send().await
    }

    /// Made on first use: the TLS client costs some MiB. A node without certificate authorities still speaks plain HTTP.
    fn http(&self, url: &Url) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.http.get() {
            return Ok(client);
        }
        let plain = url.scheme() == "http";
        if let Some(client) = self.http_without_authorities.get().filter(|_| plain) {
            return Ok(client);
        }
        match http_client().build() {
            Ok(client) => Ok(self.http.get_or_init(|| client)),
            Err(_) if plain => {
                let client = http_client().tls_certs_only([]).build()?;
                Ok(self.http_without_authorities.get_or_init(|| client))
            }
            Err(error) => Err(error),
        }
    }

    fn remembered(&self, key: &TokenKey) -> Option<HeaderValue> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(key).filter(|(_, until)| *until > Instant::now()).map(|(token, _)| token.clone())
    }

    fn remember(&self, key: TokenKey, token: HeaderValue, lifetime: Duration) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if tokens.len() >= TOKENS {
            tokens.retain(|_, (_, until)| *until > now);
        }
        if tokens.len() < TOKENS {
            tokens.insert(key, (token, now + lifetime));
        }
    }

    /// Answers the challenge; the authorization is remembered for the requests that follow.
    async fn authorize(&self, repository: &Repository, url: &Url, answer: &Response) -> Result<(), ImageError> {
        let challenges: Vec<_> = answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
        let challenge = challenges.iter().find_map(|text| Challenge::parse(text));
        let refused = |why: &str| ImageError::new(Reason::Unauthorized, format!("GET {url}: 401 Unauthorized{why}"));
        match (challenge, &repository.credentials) {
            (Some(Challenge::Basic), Some(credentials)) => {
                let header = basic(credentials).ok_or_else(|| refused(": the password cannot be sent"))?;
                self.remember(repository.token_key(), header, Duration::from_secs(3600));
                Ok(())
            }
            (Some(Challenge::Basic), None) => Err(refused(": it wants a user and a password")),
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", repository.path));
                let realm = self.token_url(&realm, service.as_deref(), &scope)?;
                self.fetch_token(repository, &realm).await
            }
            (None, _) => Err(refused(": no way to authenticate is offered")),
        }
    }

    fn token_url(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<Url, ImageError> {
        let violation = |why: &str| {
            let realm: String = realm.chars().take(200).collect();
            ImageError::new(Reason::ProtocolViolation, format!("token service `{realm}`: {why}"))
        };
        let parameters = service.map(|service| ("service", service)).into_iter().chain([("scope", scope)]);
        let url = Url::parse_with_params(realm, parameters).map_err(|error| violation(&error.to_string()))?;
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let authority = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        if url.scheme() != "https" && !(url.scheme() == "http" && self.config.is_plain(&authority)) {
            return Err(violation("credentials are not sent over plain HTTP"));
        }
        // Where clouds keep their machines' own credentials.
        let link_local = match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => ip.is_link_local(),
            Ok(IpAddr::V6(ip)) => ip.is_unicast_link_local(),
            Err(_) => false,
        };
        if link_local { Err(violation("a link-local address")) } else { Ok(url) }
    }

    async fn fetch_token(&self, repository: &Repository, realm: &Url) -> Result<(), ImageError> {
        let request = || -> Result<_, reqwest::Error> {
            let request = self.http(realm)?.get(realm.clone());
            Ok(match &repository.credentials {
                Some(credentials) => request.basic_auth(&credentials.username, Some(&credentials.password)),
                None => request,
            })
        };
        let sent = match request() {
            Ok(request) => request.send().await,
            Err(error) => Err(error),
        };
        let mut answer = sent.map_err(|error| unreachable(realm, &error))?;
        if !answer.status().is_success() {
            return Err(refusal(realm, &answer));
        }
        let bytes = read_limited(&mut answer, realm, TOKEN_LIMIT).await?;
        let violation = || ImageError::new(Reason::ProtocolViolation, format!("GET {realm}: the answer holds no token"));
        let parsed: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| violation())?;
        let token = parsed.token.or(parsed.access_token).filter(|token| !token.is_empty()).ok_or_else(violation)?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| violation())?;
        header.set_sensitive(true);
        // 60 seconds when nothing is said, as the token specification has it; some less, for the way.
        let lifetime = parsed.expires_in.unwrap_or(60).clamp(10, 3600) - 5;
        self.remember(repository.token_key(), header, Duration::from_secs(lifetime));
        Ok(())
    }
}

fn http_client() -> reqwest::ClientBuilder {
    // Fails when it is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redirects = reqwest::redirect::Policy::custom(|attempt| {
        let downgraded = attempt.url().scheme() == "http" && attempt.previous().iter().any(|url| url.scheme() == "https");
        match (downgraded, attempt.previous().len()) {
            (true, _) => attempt.error("redirected from https to plain http"),
            (_, 10..) => attempt.error("redirected more than 10 times"),
            _ => attempt.follow(),
        }
    });
    Client::builder()
        .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(NO_PROGRESS)
        .redirect(redirects)
}

fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    use base64::Engine as _;
    let text = format!("{}:{}", credentials.username, credentials.password);
    let mut header = HeaderValue::try_from(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Whether a partial answer begins where it was asked to.
fn starts_at(answer: &Response, offset: u64) -> bool {
    let range = answer.headers().get("content-range").and_then(|value| value.to_str().ok());
    range.and_then(|text| text.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok()) == Some(offset)
}

async fn read_limited(answer: &mut Response, url: &Url, limit: u64) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(url, &error))? {
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Err(ImageError::new(Reason::BadManifest, format!("GET {url}: more than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// An answer that is no success.
fn refusal(url: &Url, answer: &Response) -> ImageError {
    let status = answer.status();
    let reason = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Reason::Unauthorized,
        StatusCode::NOT_FOUND => Reason::ImageNotInRegistry,
        StatusCode::TOO_MANY_REQUESTS => Reason::TooManyRequests,
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => Reason::RegistryUnavailable,
        _ => Reason::ProtocolViolation,
    };
    let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut error = ImageError::new(reason, format!("GET {url}: {status}"));
    error.retry_after = seconds.map(Duration::from_secs);
    error
}

/// No answer at all.
fn unreachable(url: &Url, error: &reqwest::Error) -> ImageError {
    let reason = match (error.is_builder(), error.is_redirect()) {
        // Of all that the client is made from, only the host's certificates are not ours.
        (true, _) => Reason::NoCertificateAuthorities,
        (_, true) => Reason::ProtocolViolation,
        _ => Reason::RegistryUnavailable,
    };
    ImageError::new(reason, format!("GET {url}: {}", chain(error)))
}
