//! A connection whose client must say something. Which HTTP it speaks is found out from its first bytes, and hyper waits for those for
//! ever; the time-out of headers begins only then.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How an HTTP/2 connection begins (RFC 9113, section 3.4); anything else is HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that fails when it does not show in time which HTTP it speaks.
pub(super) struct Opening<S> {
    stream: S,
    /// Bytes of the preface that have come.
    matched: usize,
    /// `None` once it is known.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Opening<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, matched: 0, deadline: Some(Box::pin(sleep(patience))) }
    }

    fn look_at(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if PREFACE.get(self.matched) != Some(byte) {
                self.deadline = None;
                return;
            }
            self.matched += 1;
        }
        if self.matched == PREFACE.len() {
            self.deadline = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(deadline) = &mut self.deadline else { return read };
        if read.is_pending() {
            ready!(deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client said nothing")));
        }
        self.look_at(buffer.filled().get(before..).unwrap_or_default());
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Whether a client that sends this, and then nothing, is cut off.
    async fn is_cut_off(sent: &[u8]) -> bool {
        let (mut client, server) = duplex(64);
        client.write_all(sent).await.unwrap();
        let mut opening = Opening::new(server, Duration::from_secs(15));
        let mut buffer = vec![0; 64];
        let reading = async { while matches!(opening.read(&mut buffer).await, Ok(1..)) {} };
        tokio::time::timeout(Duration::from_secs(16), reading).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_does_not_say_what_he_speaks_is_cut_off() {
        for sent in [b"".as_slice(), b"P", b"PRI * HTT"] {
            assert!(is_cut_off(sent).await, "{sent:?}");
        }
        for sent in [b"G".as_slice(), b"PO", b"GET / HTTP/1.1\r\n\r\n", PREFACE] {
            assert!(!is_cut_off(sent).await, "{sent:?}");
        }
    }
}
