//! Reading a container's log: old files first, then the current one, then what is appended.
//!
//! Lines are as CRI writes them (`<RFC 3339 time> stdout|stderr F|P <text>`, Kubernetes' `logs.go`); `P` is a part of a line that goes on.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Name of the file that is written now.
const CURRENT: &str = "current.log";
/// Longest line that is read as one; the shim writes shorter ones.
const MAX_LINE: u64 = 256 * 1024;
/// Size of one chunk handed on.
const CHUNK: usize = 32 * 1024;

/// What to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// Go on with what is appended.
    pub follow: bool,
    /// Only the last so many lines of what is there.
    pub tail_lines: Option<usize>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// At most so many bytes.
    pub limit_bytes: Option<usize>,
}

/// Reads the log in `dir`, in chunks of whole lines, until its end, or with `follow` until the receiver goes or `stop`.
pub fn read(dir: PathBuf, options: ReadOptions, stop: CancellationToken) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = run(&dir, options, &sender) => outcome,
            () = stop.cancelled() => Ok(()),
            () = sender.closed() => Ok(()),
        };
        if let Err(error) = outcome {
            let _ = sender.send(Err(error)).await;
        }
    });
    receiver
}

async fn run(dir: &Path, options: ReadOptions, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    // Watching begins before the first look, so that nothing falls between.
    let watch = if options.follow { Some(DirWatch::new(dir)?) } else { None };
    let mut reader = Reader { dir: dir.to_owned(), options, position: None, left: options.limit_bytes };
    let mut first = true;
    loop {
        loop {
            let chunk;
            (reader, chunk) = tokio::task::spawn_blocking(move || {
                let chunk = reader.next_chunk(first);
                (reader, chunk)
            })
            .await
            .map_err(io::Error::other)?;
            first = false;
            let chunk = chunk?;
            if chunk.is_empty() {
                break;
            }
            if sender.send(Ok(chunk)).await.is_err() || reader.left == Some(0) {
                return Ok(());
            }
        }
        match &watch {
            Some(watch) => watch.changed().await?,
            None => return Ok(()),
        }
    }
}

/// Where reading stands: a file, known by its inode since rotation renames it, and an offset.
#[derive(Debug, Clone, Copy)]
struct Position {
    inode: u64,
    offset: u64,
}

struct Reader {
    dir: PathBuf,
    options: ReadOptions,
    position: Option<Position>,
    left: Option<usize>,
}

impl Reader {
    /// The next lines, empty when there are none for now.
    fn next_chunk(&mut self, first: bool) -> io::Result<Bytes> {
        let files = log_files(&self.dir)?;
        if first && let Some(lines) = self.options.tail_lines {
            self.position = tail_position(&files, lines, self.options.since)?;
        }
        let start = self.position.and_then(|position| files.iter().position(|(inode, _)| *inode == position.inode)).unwrap_or(0);
        for (inode, path) in &files[start.min(files.len())..] {
            let offset = self.position.filter(|position| position.inode == *inode).map_or(0, |position| position.offset);
            let (chunk, offset) = self.read_file(path, offset)?;
            self.position = Some(Position { inode: *inode, offset });
            if !chunk.is_empty() {
                return Ok(chunk);
            }
        }
        Ok(Bytes::new())
    }

    /// Up to [`CHUNK`] bytes of whole lines from `offset`, and the offset after them.
    fn read_file(&mut self, path: &Path, mut offset: u64) -> io::Result<(Bytes, u64)> {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut lines = BufReader::new(file);
        let (mut chunk, mut line) = (BytesMut::new(), Vec::new());
        while chunk.len() < CHUNK && self.left != Some(0) {
            line.clear();
            let read = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') && (read as u64) < MAX_LINE {
                break;
            }
            offset += read as u64;
            self.append(&mut chunk, &line);
        }
        Ok((chunk.freeze(), offset))
    }

    fn append(&mut self, chunk: &mut BytesMut, line: &[u8]) {
        let Some(parsed) = Line::parse(line) else { return };
        if self.options.since.is_some_and(|since| parsed.time().is_some_and(|time| time < since)) {
            return;
        }
        let start = chunk.len();
        if self.options.timestamps {
            chunk.extend_from_slice(parsed.time);
            chunk.extend_from_slice(b" ");
        }
        chunk.extend_from_slice(parsed.text);
        if !parsed.partial {
            chunk.extend_from_slice(b"\n");
        }
        if let Some(left) = &mut self.left {
            chunk.truncate(chunk.len().min(start + *left));
            *left -= chunk.len() - start;
        }
    }
}

/// One line of the log file, split.
struct Line<'a> {
    time: &'a [u8],
    partial: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (time, _stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { time, partial: tag == b"P", text: parts.next().unwrap_or_default() })
    }

    fn time(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.time).ok()?.parse().ok()
    }
}

/// The files of a log with their inodes, oldest first: `1.log`, `2.log`, …, `current.log`.
fn log_files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let number = if name == CURRENT { Some(u64::MAX) } else { name.strip_suffix(".log").and_then(|number| number.parse().ok()) };
        if let (Some(number), Ok(metadata)) = (number, entry.metadata()) {
            files.push((number, metadata.ino(), entry.path()));
        }
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|(_, inode, path)| (inode, path)).collect())
}

/// Where the last `lines` lines begin.
fn tail_position(files: &[(u64, PathBuf)], lines: usize, since: Option<Timestamp>) -> io::Result<Option<Position>> {
    let mut starts: VecDeque<Position> = VecDeque::new();
    let mut end = None;
    for (inode, path) in files {
        let mut reader = BufReader::new(std::fs::File::open(path)?);
        let (mut offset, mut line, mut begins) = (0, Vec::new(), true);
        loop {
            line.clear();
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            let parsed = Line::parse(&line);
            let wanted = since.is_none_or(|since| parsed.as_ref().and_then(Line::time).is_some_and(|time| time >= since));
            if begins && wanted {
                starts.push_back(Position { inode: *inode, offset });
                if starts.len() > lines {
                    starts.pop_front();
                }
            }
            begins = parsed.is_none_or(|parsed| !parsed.partial);
            offset += read as u64;
        }
        end = Some(Position { inode: *inode, offset });
    }
    Ok(starts.front().copied().or(end))
}

/// Tells when something in a directory was written, made or renamed.
struct DirWatch {
    notify: AsyncFd<OwnedFd>,
}

impl DirWatch {
    fn new(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(dir, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        let descriptor = inotify.as_fd().try_clone_to_owned()?;
        Ok(Self { notify: crate::readiness::readable(descriptor)? })
    }

    async fn changed(&self) -> io::Result<()> {
        let mut ready = self.notify.readable().await?;
        let mut events = [0_u8; 4096];
        loop {
            match nix::unistd::read(self.notify.get_ref(), &mut events) {
                Ok(read) if read == events.len() => {}
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EAGAIN) => {
                    debug_assert!(self.notify.get_ref().as_raw_fd() >= 0);
                    ready.clear_ready();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn log(dir: &Path, name: &str, lines: &[&str]) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(dir.join(name)).unwrap();
        for line in lines {
            writeln!(file, "2026-01-02T03:04:05.000000006Z stdout {line}").unwrap();
        }
    }

    async fn all(dir: &Path, options: ReadOptions) -> String {
        let mut receiver = read(dir.to_owned(), options, CancellationToken::new());
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn rotated_files_come_first_and_parts_are_joined() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), "9.log", &["F one"]);
        log(dir.path(), "10.log", &["P tw", "F o"]);
        log(dir.path(), CURRENT, &["F three", "F "]);
        assert_eq!(all(dir.path(), ReadOptions::default()).await, "one\ntwo\nthree\n\n");
        assert_eq!(all(dir.path(), ReadOptions { tail_lines: Some(3), ..Default::default() }).await, "two\nthree\n\n");
        assert_eq!(all(dir.path(), ReadOptions { tail_lines: Some(0), ..Default::default() }).await, "");
        assert_eq!(all(dir.path(), ReadOptions { limit_bytes: Some(5), ..Default::default() }).await, "one\nt");
        let stamped = all(dir.path(), ReadOptions { tail_lines: Some(2), timestamps: true, ..Default::default() }).await;
        assert!(stamped.starts_with("2026-01-02T03:04:05.000000006Z three\n"), "{stamped}");
    }

    #[tokio::test]
    async fn a_log_that_is_not_there_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(all(&dir.path().join("none"), ReadOptions::default()).await, "");
    }

    #[tokio::test]
    async fn following_goes_on_over_a_rotation_and_doubles_nothing() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), CURRENT, &["F a"]);
        let mut receiver = read(dir.path().to_owned(), ReadOptions { follow: true, ..Default::default() }, CancellationToken::new());
        let mut text = receiver.recv().await.unwrap().unwrap().to_vec();
        log(dir.path(), CURRENT, &["F b"]);
        std::fs::rename(dir.path().join(CURRENT), dir.path().join("1.log")).unwrap();
        log(dir.path(), CURRENT, &["F c"]);
        while text.len() < 6 {
            text.extend_from_slice(&receiver.recv().await.unwrap().unwrap());
        }
        assert_eq!(text, b"a\nb\nc\n");
    }
}
