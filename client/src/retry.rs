//! Requests that the server asks to send again later (`Retry-After`), as client-go does it.
//!
//! A 429 says that nothing was done, so any request whose body is still at hand can be sent again. A 5xx with `Retry-After` says
//! only that later may be better: it is heeded for requests that change nothing.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};

use crate::backoff::Backoff;
use crate::body::{self, Body};
use crate::error::ClientError;
use crate::transport::Client;

/// How often a request is sent again.
const RETRIES: u32 = 8;
/// The longest pause that is heeded.
const LONGEST: Duration = Duration::from_secs(30);

/// The pause that an answer asks for, if its request may be sent again.
fn pause(method: &Method, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let is_read = method == Method::GET || method == Method::HEAD;
    if status != StatusCode::TOO_MANY_REQUESTS && !(status.is_server_error() && is_read) {
        return None;
    }
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds)).filter(|pause| *pause <= LONGEST)
}

impl Client {
    /// Sends a request made of `head` and `body`, and again as long as the server asks for that and patience lasts; gives back the
    /// last answer.
    ///
    /// # Cancel safety
    /// Dropping the future between two attempts sends nothing more.
    pub(crate) async fn send_again(&self, head: &Request<()>, body: Option<&Bytes>) -> Result<Response<Body>, ClientError> {
        let mut jitter = Backoff::new(self.seed, head.uri());
        for _ in 0..RETRIES {
            let answer = self.send(with_body(head, body)).await?;
            let Some(pause) = pause(head.method(), answer.status(), answer.headers()) else { return Ok(answer) };
            tracing::debug!(method = %head.method(), path = head.uri().path(), status = answer.status().as_u16(), "the server asks to try again");
            drop(answer);
            // Later than asked for, so that all who were refused do not come back at once.
            tokio::time::sleep(pause + pause.mul_f64(jitter.fraction() / 2.0)).await;
        }
        self.send(with_body(head, body)).await
    }
}

fn with_body(head: &Request<()>, bytes: Option<&Bytes>) -> Request<Body> {
    head.clone().map(|()| bytes.map_or_else(body::empty, |bytes| body::full(bytes.clone())))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    /// A server that refuses the first requests with a status, asking to come back after two seconds if `asks`.
    fn refusing(times: u32, status: u16, asks: bool) -> (Client, Arc<AtomicU32>) {
        let seen = Arc::new(AtomicU32::new(0));
        let counter = seen.clone();
        let service = tower::service_fn(move |_: Request<Body>| {
            let refuse = counter.fetch_add(1, Ordering::Relaxed) < times;
            let mut response = Response::builder().status(if refuse { status } else { 200 });
            if refuse && asks {
                response = response.header(header::RETRY_AFTER, "2");
            }
            async move { Ok::<_, Infallible>(response.body(body::full("{}")).unwrap()) }
        });
        (Client::in_process(service, "test", |_| {}), seen)
    }

    async fn ask(client: &Client, method: Method) -> Option<u16> {
        let body = (method != Method::GET).then(|| json!({}));
        client.request_json(method, "/x", body.as_ref()).await.err().and_then(|error| error.code())
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_sent_again_when_the_server_says() {
        for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE] {
            let (client, seen) = refusing(3, 429, true);
            let begin = Instant::now();
            assert_eq!(ask(&client, method.clone()).await, None, "{method}");
            assert_eq!(seen.load(Ordering::Relaxed), 4);
            assert!((6.0..=9.0).contains(&begin.elapsed().as_secs_f64()), "{:?}", begin.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let (client, seen) = refusing(u32::MAX, 429, true);
        assert_eq!((ask(&client, Method::POST).await, seen.load(Ordering::Relaxed)), (Some(429), RETRIES + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_been_done_is_not_sent_again() {
        for (method, status, asks) in
            [(Method::POST, 503, true), (Method::GET, 503, false), (Method::GET, 429, false), (Method::GET, 409, true)]
        {
            let (client, seen) = refusing(1, status, asks);
            assert_eq!((ask(&client, method).await, seen.load(Ordering::Relaxed)), (Some(status), 1));
        }
        let (client, seen) = refusing(1, 503, true);
        assert_eq!((ask(&client, Method::GET).await, seen.load(Ordering::Relaxed)), (None, 2));
    }
}
