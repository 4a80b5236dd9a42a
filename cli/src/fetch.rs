//! Files that are named by a URL.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may come.
const NO_PROGRESS: Duration = Duration::from_secs(30);
/// Redirections that are followed.
const REDIRECTIONS: usize = 10;

/// Whether a file is named by a URL.
pub(crate) fn is_url(file: &str) -> bool {
    file.starts_with("http://") || file.starts_with("https://")
}

/// The text at `url`, of at most `limit` bytes.
pub(crate) async fn text(url: &str, limit: u64) -> Result<String> {
    let context = || format!("fetch {url}");
    // Fails when it is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redirects = reqwest::redirect::Policy::custom(|attempt| {
        let downgraded = attempt.url().scheme() == "http" && attempt.previous().iter().any(|url| url.scheme() == "https");
        match (downgraded, attempt.previous().len()) {
            (true, _) => attempt.error("redirected from https to plain http"),
            (_, REDIRECTIONS..) => attempt.error("redirected too often"),
            _ => attempt.follow(),
        }
    });
    let client = reqwest::Client::builder()
        .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(NO_PROGRESS)
        .redirect(redirects)
        .build()
        .with_context(context)?;
    let mut answer = client.get(url).send().await.map_err(reqwest::Error::without_url).with_context(context)?;
    if !answer.status().is_success() {
        bail!("fetch {url}: {}", answer.status());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url).with_context(context)? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            bail!("{url} is longer than {} MiB", limit >> 20);
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).with_context(|| format!("{url} is not text"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Answers one request on a port of this machine.
    async fn serve(answer: &'static str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x.yaml", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /x.yaml HTTP/1.1"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        url
    }

    #[tokio::test]
    async fn a_file_is_fetched_within_bounds() {
        let found = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\na: 1\n";
        assert_eq!(text(&serve(found).await, 5).await.unwrap(), "a: 1\n");
        assert!(text(&serve(found).await, 4).await.unwrap_err().to_string().contains("longer than"));
        let url = serve("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert_eq!(text(&url, 9).await.unwrap_err().to_string(), format!("fetch {url}: 404 Not Found"));
    }
}
