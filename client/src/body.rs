//! Bodies of requests and answers, and reading them within bounds.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed body.
pub type Body = BoxBody<Bytes, BoxError>;

/// Bytes read from a file at a time when it is streamed.
const READ_CHUNK: usize = 64 * 1024;

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body that is at hand as a whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body that is read while it is sent, such as a file; the request is then sent in chunks.
pub fn from_reader(reader: impl AsyncRead + Send + 'static) -> Body {
    let frames = ReaderStream::with_capacity(reader, READ_CHUNK).map_ok(Frame::data).map_err(BoxError::from).boxed();
    from_unshared(StreamBody::new(frames))
}

/// Makes any body a [`Body`], also one that cannot be shared between threads, such as axum's.
pub(crate) fn from_unshared<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Unshared(Mutex::new(Box::pin(body))).boxed()
}

/// A body behind a mutex that is never locked: it makes the type `Sync`, and whoever polls has exclusive access anyway.
struct Unshared<B>(Mutex<Pin<Box<B>>>);

impl<B> http_body::Body for Unshared<B>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        body.as_mut().poll_frame(context).map_err(Into::into)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Reads all of `body`, or up to `limit` bytes and then fails.
pub(crate) async fn collect(mut body: Body, limit: usize) -> Result<Bytes, BoxError> {
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let held = first.as_ref().map_or(all.len(), Bytes::len);
        if held + data.len() > limit {
            return Err(format!("the answer is longer than {limit} bytes").into());
        }
        // The usual answer is one frame (always so in process): hand it on uncopied.
        match first.take() {
            None if all.is_empty() => first = Some(data),
            None => all.extend_from_slice(&data),
            Some(earlier) => {
                all.extend_from_slice(&earlier);
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// Cuts a body into lines, each of bounded length.
pub struct Lines {
    body: Body,
    held: BytesMut,
    /// How much of `held` is known to hold no line end.
    searched: usize,
    limit: usize,
    ended: bool,
}

impl Lines {
    /// The lines of `body`; a line longer than `limit` bytes is an error.
    pub fn new(body: Body, limit: usize) -> Self {
        Self { body, held: BytesMut::new(), searched: 0, limit, ended: false }
    }

    /// The next line without its end, `None` at the end of the body. A last line without an end is a line; empty lines are skipped.
    ///
    /// Errors are a broken connection and a line beyond the limit; nothing follows an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            if let Some(line) = self.take_line() {
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            if self.ended {
                self.searched = 0;
                let rest = self.held.split().freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            if self.held.len() > self.limit {
                self.ended = true;
                self.held.clear();
                return Err(format!("a line of the answer is longer than {} bytes", self.limit).into());
            }
            self.fill().await?;
        }
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let Some(at) = self.held[self.searched..].iter().position(|b| *b == b'\n') else {
            self.searched = self.held.len();
            return None;
        };
        let mut line = self.held.split_to(self.searched + at + 1);
        self.searched = 0;
        line.truncate(line.len() - 1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        Some(line.freeze())
    }

    async fn fill(&mut self) -> Result<(), BoxError> {
        match self.body.frame().await {
            None => self.ended = true,
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.held.extend_from_slice(&data);
                }
            }
            Some(Err(error)) => {
                self.ended = true;
                self.held.clear();
                return Err(error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(parts: &[&'static str]) -> Body {
        let frames: Vec<Result<_, BoxError>> = parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))).collect();
        from_unshared(StreamBody::new(futures_util::stream::iter(frames)))
    }

    async fn all_lines(parts: &[&'static str], limit: usize) -> Result<Vec<String>, BoxError> {
        let mut lines = Lines::new(chunks(parts), limit);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await? {
            found.push(String::from_utf8(line.to_vec())?);
        }
        Ok(found)
    }

    #[tokio::test]
    async fn lines_may_be_cut_anywhere() {
        assert_eq!(all_lines(&["ab", "c\nde\n\nf", "", "g\r", "\nlast"], 100).await.unwrap(), ["abc", "de", "fg", "last"]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_bounded() {
        let error = all_lines(&["ok\n", "12345", "67890", "12345"], 12).await.unwrap_err();
        assert!(error.to_string().contains("longer than 12"), "{error}");
    }

    #[tokio::test]
    async fn collect_joins_frames_and_keeps_the_limit() {
        assert_eq!(collect(chunks(&["ab", "c", "", "de"]), 5).await.unwrap(), "abcde");
        assert_eq!(collect(empty(), 0).await.unwrap(), "");
        assert!(collect(chunks(&["ab", "c", "def"]), 5).await.is_err());
    }

    #[tokio::test]
    async fn a_reader_streams_all_of_itself() {
        let data: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
        let sent = collect(from_reader(std::io::Cursor::new(data.clone())), 1 << 20).await.unwrap();
        assert_eq!(sent, data);
    }
}
