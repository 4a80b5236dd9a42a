//! gzip of large answers, for clients that offer it: lists, discovery, OpenAPI. Never of watches, logs and upgrades, where each piece
//! must arrive at once.

use std::io::{self, Write as _};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt as _, stream};

/// Smaller answers go as they are (Kubernetes' bound: `apiserver endpoints/handlers/responsewriters/writers.go`).
const MIN_BYTES: usize = 128 * 1024;

/// The answer, compressed when the client offers it and it is large: `bytes` is about how large. Says that it depends on the offer.
pub(crate) fn compress(headers: &HeaderMap, bytes: usize, mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if bytes < MIN_BYTES || !response.status().is_success() || !is_offered(headers) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, gzip(body))
}

/// Whether `Accept-Encoding` has gzip, and not with the weight 0 (RFC 9110, section 12.5.3).
pub(super) fn is_offered(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |text| text.trim().parse::<f32>().ok());
        is_gzip && weight.is_some_and(|weight| weight > 0.0)
    })
}

fn gzip(body: Body) -> Body {
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let start = (Some(encoder), body.into_data_stream());
    Body::from_stream(stream::try_unfold(start, |(encoder, mut pieces)| async move {
        let Some(mut encoder) = encoder else { return Ok(None) };
        loop {
            let Some(piece) = pieces.next().await else {
                return Ok(Some((Bytes::from(encoder.finish()?), (None, pieces))));
            };
            encoder.write_all(&piece.map_err(io::Error::other)?)?;
            let ready = std::mem::take(encoder.get_mut());
            if !ready.is_empty() {
                return Ok::<_, io::Error>(Some((Bytes::from(ready), (Some(encoder), pieces))));
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_read_with_their_weights() {
        for (offer, offered) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("deflate", false),
            ("x-gzipped", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(offer))]);
            assert_eq!(is_offered(&headers), offered, "{offer}");
        }
    }
}
