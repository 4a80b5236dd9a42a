//! One connection to a shim.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_shim::files;
use gantry_shim::protocol::{Answer, HEADER_LEN, Header, Operation, message};
use gantry_sys::fd::{recv_with_fds, send_with_fds};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Open until dropped; the shim then forgets it.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Connection {
    /// Through a handle of the directory: a socket's path may have 107 bytes at most, a run directory may be deeper.
    pub(super) async fn open(dir: &Path) -> io::Result<Self> {
        let handle = std::fs::File::open(dir)?;
        let path = format!("/proc/self/fd/{}/{}", std::os::fd::AsRawFd::as_raw_fd(&handle), files::SOCKET);
        Ok(Self { stream: UnixStream::connect(path).await?, buffer: Vec::new(), fds: Vec::new() })
    }

    pub(super) async fn send(&mut self, operation: Operation, body: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
        let bytes = message(operation, body).ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EMSGSIZE))?;
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut sent = 0;
        while sent < bytes.len() {
            let (rest, with) = (bytes.get(sent..).unwrap_or_default(), if sent == 0 { borrowed.as_slice() } else { &[] });
            sent += self.stream.async_io(Interest::WRITABLE, || send_with_fds(self.stream.as_fd(), rest, with)).await?;
        }
        Ok(())
    }

    pub(super) async fn receive(&mut self) -> io::Result<(Answer, Vec<OwnedFd>)> {
        loop {
            if let Some(answer) = self.take_answer()? {
                return Ok((answer, std::mem::take(&mut self.fds)));
            }
            let mut chunk = [0_u8; 4096];
            let read = self.stream.async_io(Interest::READABLE, || recv_with_fds(self.stream.as_fd(), &mut chunk)).await;
            let (count, fds) = read?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
            self.fds.extend(fds);
        }
    }

    fn take_answer(&mut self) -> io::Result<Option<Answer>> {
        let Some(head) = self.buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::parse(*head).ok_or(io::ErrorKind::InvalidData)?;
        let Some(body) = self.buffer.get(HEADER_LEN..HEADER_LEN + header.length) else { return Ok(None) };
        let answer = serde_json::from_slice(body)?;
        self.buffer.drain(..HEADER_LEN + header.length);
        Ok(Some(answer))
    }
}
