//! The container's output: `<dir>/current.log`, rotated to `<dir>/<n>.log` with n counting up, lines as CRI writes them.
//!
//! A line longer than [`MAX_LINE`] is cut into parts tagged `P`. The number of files is bounded; what does not fit any more goes,
//! oldest first. A full disk loses output and never stops the container.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use nix::time::{ClockId, clock_gettime};

/// Longest part of a line, in bytes.
pub const MAX_LINE: usize = 16 << 10;

/// Which of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The wall clock, in nanoseconds since the Unix epoch.
pub fn now_unix_nanos() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}

/// Writes the log of one container.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    max_size: u64,
    max_files: u32,
    file: Option<(File, u64)>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl LogWriter {
    /// Opens nothing yet.
    pub fn new(dir: PathBuf, max_size_bytes: u64, max_files: u32) -> Self {
        Self { dir, max_size: max_size_bytes.max(1), max_files: max_files.max(1), file: None, stdout: Vec::new(), stderr: Vec::new() }
    }

    /// Takes what was read from an output; whole lines are written, the rest waits for its end of line.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], at_unix_nanos: i64) {
        let mut pending = std::mem::take(self.pending(stream));
        pending.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(bytes.len() + 64);
        let mut rest = pending.as_slice();
        let head = Head::new(stream, at_unix_nanos);
        loop {
            match rest.iter().take(MAX_LINE).position(|byte| *byte == b'\n') {
                Some(end) => {
                    head.line(&mut out, 'F', rest.get(..end).unwrap_or_default());
                    rest = rest.get(end + 1..).unwrap_or_default();
                }
                None if rest.len() >= MAX_LINE => {
                    let (part, left) = rest.split_at(MAX_LINE);
                    head.line(&mut out, 'P', part);
                    rest = left;
                }
                None => break,
            }
        }
        *self.pending(stream) = rest.to_vec();
        self.append(&out);
    }

    /// Writes what waits for an end of line that will not come.
    pub fn finish(&mut self, at_unix_nanos: i64) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(self.pending(stream));
            if !rest.is_empty() {
                let mut out = Vec::new();
                Head::new(stream, at_unix_nanos).line(&mut out, 'F', &rest);
                self.append(&out);
            }
        }
    }

    fn pending(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Output that cannot be written is lost: the container must not wait for a disk.
    fn append(&mut self, lines: &[u8]) {
        let mut rest = lines;
        while !rest.is_empty() {
            let room = match self.current() {
                Ok((_, size)) => self.max_size.saturating_sub(size),
                Err(_) => return,
            };
            let fits = whole_lines(rest, usize::try_from(room).unwrap_or(usize::MAX));
            if fits == 0 && room < self.max_size {
                self.rotate();
                continue;
            }
            // A single line above the limit gets a file of its own.
            let fits = if fits == 0 { rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1) } else { fits };
            let (now, later) = rest.split_at(fits);
            rest = later;
            let Some((file, size)) = self.file.as_mut() else { return };
            if file.write_all(now).is_err() {
                self.file = None;
                return;
            }
            *size += now.len() as u64;
        }
    }

    fn current(&mut self) -> io::Result<(&mut File, u64)> {
        if self.file.is_none() {
            fs::create_dir_all(&self.dir)?;
            let file = OpenOptions::new().create(true).append(true).open(self.dir.join("current.log"))?;
            let size = file.metadata()?.len();
            self.file = Some((file, size));
        }
        let (file, size) = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        Ok((file, *size))
    }

    fn rotate(&mut self) {
        self.file = None;
        let mut numbers = self.numbers();
        let next = numbers.last().map_or(1, |last| last + 1);
        if fs::rename(self.dir.join("current.log"), self.dir.join(format!("{next}.log"))).is_err() {
            // Without a rename the bound is kept by giving up what is there.
            let _ = fs::remove_file(self.dir.join("current.log"));
            return;
        }
        numbers.push(next);
        let kept = usize::try_from(self.max_files - 1).unwrap_or(usize::MAX);
        let excess = numbers.len().saturating_sub(kept);
        for number in numbers.into_iter().take(excess) {
            let _ = fs::remove_file(self.dir.join(format!("{number}.log")));
        }
    }

    fn numbers(&self) -> Vec<u64> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut numbers: Vec<u64> = names.filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// How many of the first `room` bytes are whole lines.
fn whole_lines(lines: &[u8], room: usize) -> usize {
    let window = lines.get(..room.min(lines.len())).unwrap_or_default();
    window.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

/// What precedes each line.
struct Head(String);

impl Head {
    fn new(stream: Stream, at_unix_nanos: i64) -> Self {
        Self(format!("{} {} ", rfc3339(at_unix_nanos), stream.name()))
    }

    fn line(&self, out: &mut Vec<u8>, tag: char, text: &[u8]) {
        out.extend_from_slice(self.0.as_bytes());
        out.extend_from_slice(&[u8::try_from(tag).unwrap_or(b'F'), b' ']);
        out.extend_from_slice(text);
        out.push(b'\n');
    }
}

/// `2026-01-31T23:59:59.000000001Z`; the date by Howard Hinnant's `civil_from_days`.
fn rfc3339(at_unix_nanos: i64) -> String {
    let (seconds, nanos) = (at_unix_nanos.div_euclid(1_000_000_000), at_unix_nanos.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let mut text = String::with_capacity(30);
    let _ = write!(text, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    let _ = write!(text, ".{nanos:09}Z");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(rfc3339(1_798_761_599_999_999_999), "2026-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn lines_are_exact_and_parts_are_tagged() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path().into(), 1 << 20, 3);
        log.write(Stream::Stdout, b"one\ntw", 0);
        log.write(Stream::Stderr, b"err\n", 0);
        log.write(Stream::Stdout, b"o\n\nlast", 1);
        log.finish(2);
        let text = fs::read_to_string(dir.path().join("current.log")).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(lines, ["stdout F one", "stderr F err", "stdout F two", "stdout F ", "stdout F last"]);
        log.write(Stream::Stdout, &[b'x'; MAX_LINE + 1], 3);
        log.write(Stream::Stdout, b"\n", 3);
        let text = fs::read_to_string(dir.path().join("current.log")).unwrap();
        let long: Vec<usize> = text.lines().skip(5).map(|line| line.len() - rfc3339(3).len() - 10).collect();
        assert_eq!(long, [MAX_LINE, 1]);
        assert!(text.lines().nth(5).unwrap().contains(" stdout P "));
    }

    #[test]
    fn files_are_bounded_in_size_and_number_and_lose_only_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path().into(), 200, 3);
        for number in 0..100 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes(), 0);
        }
        log.write(Stream::Stdout, format!("{}\n", "y".repeat(500)).as_bytes(), 0);
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        let mut numbers = log.numbers();
        assert_eq!(numbers.len(), 2);
        let last = numbers.pop().unwrap();
        let before = fs::read_to_string(dir.path().join(format!("{last}.log"))).unwrap();
        assert!(before.ends_with(" line 99\n") && before.len() <= 200, "{before}");
        assert!(fs::read_to_string(dir.path().join("current.log")).unwrap().len() > 500);
    }
}
