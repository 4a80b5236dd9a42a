//! A streaming reader of tar archives with hard limits: ustar, GNU and PAX, with long names, sparse files and extended attributes.
//!
//! Headers are parsed by the `tar` crate; the loop around them is ours, because extension headers are hostile input too: the crate reads
//! one of any size into memory, passes over PAX sparse files and hands nanoseconds to nobody. Nothing here touches a file system.

use std::io::{self, Read};

use tar::Header;

const BLOCK: usize = 512;

/// What a reader accepts.
#[derive(Debug, Clone, Copy)]
pub struct TarLimits {
    /// Most entries.
    pub entries: u64,
    /// Most bytes of a name or of a link's target.
    pub name_bytes: usize,
    /// Most bytes of one extension header.
    pub extension_bytes: u64,
    /// Most parts of one sparse file.
    pub sparse_parts: usize,
    /// Most bytes of file content in all, holes included.
    pub content_bytes: u64,
}

impl Default for TarLimits {
    fn default() -> Self {
        Self { entries: 2_000_000, name_bytes: 4096, extension_bytes: 1 << 20, sparse_parts: 65_536, content_bytes: 64 << 30 }
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name of an earlier entry.
    HardLink,
    /// A symbolic link.
    SymbolicLink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry's header. Its content is read from the [`TarReader`] until the next [`TarReader::next_entry`].
#[derive(Debug, Clone)]
pub struct Entry {
    /// Name, as it stands in the archive.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits with suid, sgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Device number.
    pub device: (u32, u32),
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Where the bytes that the reader yields belong, as offset and length; `None`: one after another from 0.
    pub sparse: Option<Vec<(u64, u64)>>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after another; as [`Read`] it yields the content of the current one.
pub struct TarReader<R> {
    inner: R,
    limits: TarLimits,
    content_left: u64,
    padding: u64,
    entries: u64,
    content_bytes: u64,
    global: Extensions,
    ended: bool,
}

/// What extension headers say of the entry that follows.
#[derive(Debug, Clone, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

/// GNU's three ways to write a sparse file in PAX records.
#[derive(Debug, Clone, Default)]
struct PaxSparse {
    version_1: bool,
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    offset: Option<u64>,
    parts: Option<Vec<(u64, u64)>>,
}

impl<R: Read> TarReader<R> {
    /// A reader of the plain tar that `inner` yields.
    pub fn new(inner: R, limits: TarLimits) -> Self {
        let global = Extensions::default();
        Self { inner, limits, content_left: 0, padding: 0, entries: 0, content_bytes: 0, global, ended: false }
    }

    /// The next entry, `None` at the end. `InvalidData` says what is wrong with the archive.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        self.skip_content()?;
        let mut extensions = self.global.clone();
        loop {
            let Some(header) = self.read_header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(bad(format!("more than {} entries", self.limits.entries)));
            }
            match header.entry_type().as_byte() {
                b'x' => parse_pax(&self.read_extension(&header)?, &mut extensions, &self.limits)?,
                b'g' => {
                    let records = self.read_extension(&header)?;
                    parse_pax(&records, &mut self.global, &self.limits)?;
                    parse_pax(&records, &mut extensions, &self.limits)?;
                }
                b'L' => extensions.path = Some(without_nul(self.read_extension(&header)?)),
                b'K' => extensions.link = Some(without_nul(self.read_extension(&header)?)),
                b'V' => {
                    self.begin_content(content_size(&header)?);
                    self.skip_content()?;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// Gives back what is read from, to read what follows the archive's end.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> io::Result<Entry> {
        let path = extensions.sparse.name.clone().or(extensions.path).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions.link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default();
        if path.len() > self.limits.name_bytes || link.len() > self.limits.name_bytes {
            return Err(bad(format!("a name of more than {} bytes", self.limits.name_bytes)));
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(bad("a name with a NUL byte"));
        }
        let raw = header.as_old();
        let mut kind = kind_of(header.entry_type().as_byte())?;
        if kind == EntryKind::File && path.ends_with(b"/") {
            kind = EntryKind::Directory;
        }
        let stored = match kind {
            EntryKind::File | EntryKind::Directory => extensions.size.map_or_else(|| content_size(header), Ok)?,
            _ => 0,
        };

        let mut entry = Entry {
            kind,
            link,
            mode: u32::try_from(number(&raw.mode, "mode")? & 0o7777).map_err(|_| bad("a broken mode"))?,
            uid: extensions.uid.map_or_else(|| number(&raw.uid, "owner"), Ok)?,
            gid: extensions.gid.map_or_else(|| number(&raw.gid, "group"), Ok)?,
            mtime: extensions.mtime.map_or_else(|| header_time(&raw.mtime), Ok)?,
            device: device_of(header, kind)?,
            size: stored,
            sparse: None,
            xattrs: extensions.xattrs,
            path,
        };
        self.begin_content(stored);
        if header.entry_type().as_byte() == b'S' {
            self.old_sparse(header, &mut entry)?;
        } else {
            self.pax_sparse(extensions.sparse, &mut entry)?;
        }
        self.check_content(&entry)?;
        Ok(entry)
    }

    fn check_content(&mut self, entry: &Entry) -> io::Result<()> {
        if let Some(parts) = &entry.sparse {
            let mut end = 0;
            for (offset, length) in parts {
                let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= entry.size);
                end = next.ok_or_else(|| bad("a sparse file whose parts overlap or reach beyond its end"))?;
            }
            if parts.iter().map(|(_, length)| length).sum::<u64>() != self.content_left {
                return Err(bad("a sparse file whose parts are not what is stored"));
            }
        }
        self.content_bytes = self.content_bytes.saturating_add(entry.size);
        if self.content_bytes > self.limits.content_bytes {
            return Err(bad(format!("more than {} bytes of content", self.limits.content_bytes)));
        }
        Ok(())
    }

    /// The map stands in the header, and in blocks after it.
    fn old_sparse(&mut self, header: &Header, entry: &mut Entry) -> io::Result<()> {
        let gnu = header.as_gnu().ok_or_else(|| bad("a sparse entry without a GNU header"))?;
        let mut parts = Vec::new();
        let mut take = |sparse: &tar::GnuSparseHeader| -> io::Result<()> {
            if !sparse.is_empty() {
                parts.push((number(&sparse.offset, "sparse map")?, number(&sparse.numbytes, "sparse map")?));
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut take)?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            blocks += 1;
            if blocks * 21 > self.limits.sparse_parts {
                return Err(bad("too many parts of a sparse file"));
            }
            let mut extension = tar::GnuExtSparseHeader::new();
            self.inner.read_exact(extension.as_mut_bytes())?;
            extension.sparse().iter().try_for_each(&mut take)?;
            more = extension.is_extended();
        }
        entry.size = number(&gnu.realsize, "size")?;
        parts.retain(|(_, length)| *length > 0);
        entry.sparse = Some(parts);
        Ok(())
    }

    fn pax_sparse(&mut self, sparse: PaxSparse, entry: &mut Entry) -> io::Result<()> {
        let parts = if sparse.version_1 { Some(self.sparse_map()?) } else { sparse.parts };
        if let Some(mut parts) = parts {
            parts.retain(|(_, length)| *length > 0);
            entry.size = sparse.real_size.ok_or_else(|| bad("a sparse file without its size"))?;
            entry.sparse = Some(parts);
        }
        Ok(())
    }

    /// Format 1.0: decimal lines at the head of the content, padded to a block.
    fn sparse_map(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut numbers = Vec::new();
        let mut wanted = 1;
        let mut number: Option<u64> = None;
        while numbers.len() < wanted {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            for byte in block {
                if numbers.len() == wanted {
                    break;
                }
                match (byte, number) {
                    (b'0'..=b'9', _) => {
                        let next = number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(u64::from(byte - b'0')));
                        number = Some(next.ok_or_else(|| bad("a broken sparse map"))?);
                    }
                    (b'\n', Some(value)) => {
                        numbers.push(value);
                        number = None;
                        if numbers.len() == 1 {
                            let parts = usize::try_from(value).ok().filter(|parts| *parts <= self.limits.sparse_parts);
                            wanted = 1 + 2 * parts.ok_or_else(|| bad("too many parts of a sparse file"))?;
                        }
                    }
                    _ => return Err(bad("a broken sparse map")),
                }
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn read_header(&mut self) -> io::Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let got = read_up_to(&mut self.inner, header.as_mut_bytes())?;
        if got == 0 || (got == BLOCK && header.as_bytes().iter().all(|byte| *byte == 0)) {
            self.ended = true;
            return Ok(None);
        }
        if got < BLOCK {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a header"));
        }
        let bytes = header.as_bytes();
        let sum = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
        if number(&header.as_old().cksum, "checksum")? != u64::from(sum) {
            return Err(bad("a header with a wrong checksum"));
        }
        Ok(Some(header))
    }

    fn read_extension(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = content_size(header)?;
        if size > self.limits.extension_bytes {
            return Err(bad(format!("an extension header of more than {} bytes", self.limits.extension_bytes)));
        }
        self.begin_content(size);
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| bad("an extension header of an impossible size"))?];
        self.read_exact(&mut bytes)?;
        self.skip_content()?;
        Ok(bytes)
    }

    fn begin_content(&mut self, size: u64) {
        self.content_left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_content(&mut self) -> io::Result<()> {
        let rest = self.content_left.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        if skipped < rest {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within an entry"));
        }
        (self.content_left, self.padding) = (0, 0);
        Ok(())
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.content_left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let got = self.inner.read(&mut buffer[..wanted])?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within an entry"));
        }
        self.content_left -= got as u64;
        Ok(got)
    }
}

/// Octal text, or base 256 when the top bit is set; blank counts as 0, as GNU tar reads it.
fn number(field: &[u8], what: &str) -> io::Result<u64> {
    let broken = || bad(format!("a header with a broken {what}"));
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len().saturating_sub(8));
        let padding = high.iter().enumerate().all(|(at, byte)| if at == 0 { *byte == 0x80 } else { *byte == 0 });
        let first = if high.is_empty() { 0x7f } else { 0xff };
        let fold = |value: u64, (at, byte): (usize, &u8)| (value << 8) | u64::from(if at == 0 { *byte & first } else { *byte });
        return if padding { Ok(low.iter().enumerate().fold(0, fold)) } else { Err(broken()) };
    }
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = field[..end].trim_ascii();
    let digit = |value: u64, byte: &u8| match byte {
        b'0'..=b'7' => value.checked_mul(8).map(|value| value + u64::from(byte - b'0')),
        _ => None,
    };
    text.iter().try_fold(0, digit).ok_or_else(broken)
}

/// Times before 1970 are written in base 256 with the sign extended.
fn header_time(field: &[u8; 12]) -> io::Result<(i64, u32)> {
    if field[0] == 0xff {
        let low: [u8; 8] = field[4..].try_into().map_err(|_| bad("a header with a broken time"))?;
        return Ok((i64::from_be_bytes(low), 0));
    }
    Ok((i64::try_from(number(field, "time")?).map_err(|_| bad("a header with a broken time"))?, 0))
}

fn content_size(header: &Header) -> io::Result<u64> {
    number(&header.as_old().size, "size")
}

fn kind_of(byte: u8) -> io::Result<EntryKind> {
    Ok(match byte {
        0 | b'0' | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::SymbolicLink,
        b'3' => EntryKind::CharDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => return Err(bad(format!("an entry of the unknown type `{}`", other.escape_ascii()))),
    })
}

fn device_of(header: &Header, kind: EntryKind) -> io::Result<(u32, u32)> {
    if !matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
        return Ok((0, 0));
    }
    let part = |offset: usize| number(&header.as_bytes()[offset..offset + 8], "device").ok().and_then(|n| u32::try_from(n).ok());
    // `ustar` and GNU headers have both numbers at the same places; older ones have none.
    part(329).zip(part(337)).ok_or_else(|| bad("a header with a broken device"))
}

fn parse_pax(mut records: &[u8], into: &mut Extensions, limits: &TarLimits) -> io::Result<()> {
    while !records.is_empty() && records[0] != 0 {
        let broken = || bad("a broken PAX record");
        let space = records.iter().take(20).position(|byte| *byte == b' ').ok_or_else(broken)?;
        let length = decimal(&records[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(broken)?;
        let record = records.get(space + 1..length).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(broken)?;
        records = &records[length..];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        pax_record(&record[..equals], &record[equals + 1..], into, limits)?;
    }
    Ok(())
}

fn pax_record(key: &[u8], value: &[u8], into: &mut Extensions, limits: &TarLimits) -> io::Result<()> {
    let number = || decimal(value).map(Some).ok_or_else(|| bad("a PAX record with a broken number"));
    match key {
        b"path" => into.path = Some(value.to_vec()),
        b"linkpath" => into.link = Some(value.to_vec()),
        b"size" => into.size = number()?,
        b"uid" => into.uid = number()?,
        b"gid" => into.gid = number()?,
        b"mtime" => into.mtime = Some(pax_time(value).ok_or_else(|| bad("a PAX record with a broken time"))?),
        b"GNU.sparse.major" => into.sparse.version_1 = value == b"1",
        b"GNU.sparse.name" => into.sparse.name = Some(value.to_vec()),
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => into.sparse.real_size = number()?,
        b"GNU.sparse.offset" => into.sparse.offset = number()?,
        b"GNU.sparse.numbytes" => {
            let part = into.sparse.offset.take().zip(number()?).ok_or_else(|| bad("a broken sparse map"))?;
            into.sparse.parts.get_or_insert_default().push(part);
        }
        b"GNU.sparse.map" => {
            let numbers: Option<Vec<u64>> = value.split(|byte| *byte == b',').filter(|text| !text.is_empty()).map(decimal).collect();
            let numbers = numbers.filter(|all| all.len() % 2 == 0).ok_or_else(|| bad("a broken sparse map"))?;
            into.sparse.parts = Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
        }
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                into.xattrs.retain(|(old, _)| old != name);
                into.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    if into.sparse.parts.as_ref().is_some_and(|parts| parts.len() > limits.sparse_parts) {
        return Err(bad("too many parts of a sparse file"));
    }
    Ok(())
}

/// Seconds with a fraction, possibly negative, as nanoseconds after a whole second.
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let mut halves = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(halves.next()?)?).ok()?;
    let mut nanoseconds = 0;
    let mut unit = 100_000_000;
    for byte in halves.next().unwrap_or_default() {
        nanoseconds += u32::from(byte.checked_sub(b'0').filter(|digit| *digit < 10)?) * unit;
        unit /= 10;
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match reader.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn bad(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(key: &str, value: &str) -> String {
        let bare = key.len() + value.len() + 3;
        let mut length = bare + 1;
        while bare + length.to_string().len() != length {
            length = bare + length.to_string().len();
        }
        format!("{length} {key}={value}\n")
    }

    fn entry(kind: u8, name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn first(bytes: Vec<u8>) -> io::Result<Option<Entry>> {
        TarReader::new(io::Cursor::new(bytes), TarLimits::default()).next_entry()
    }

    #[test]
    fn pax_records_override_the_header() {
        let records = pax("path", "long/name") + &pax("mtime", "-1.25") + &pax("uid", "70000") + &pax("SCHILY.xattr.user.a", "b=c\n");
        let bytes = [entry(b'x', "x", records.as_bytes()), entry(b'0', "short", b"hello")].concat();
        let found = first(bytes).unwrap().unwrap();
        assert_eq!((found.path.as_slice(), found.mtime, found.uid), (b"long/name".as_slice(), (-2, 750_000_000), 70_000));
        assert_eq!(found.xattrs, [(b"user.a".to_vec(), b"b=c\n".to_vec())]);
    }

    #[test]
    fn sparse_1_0_map_is_taken_from_the_content() {
        let records = pax("GNU.sparse.major", "1") + &pax("GNU.sparse.name", "hole") + &pax("GNU.sparse.realsize", "10000");
        let mut content = b"2\n0\n3\n5000\n2\n".to_vec();
        content.resize(BLOCK, 0);
        content.extend(b"abcde");
        let bytes = [entry(b'x', "x", records.as_bytes()), entry(b'0', "n", &content), entry(b'0', "next", b"")].concat();
        let mut reader = TarReader::new(io::Cursor::new(bytes), TarLimits::default());
        let found = reader.next_entry().unwrap().unwrap();
        assert_eq!((found.size, found.sparse), (10_000, Some(vec![(0, 3), (5000, 2)])));
        let mut stored = Vec::new();
        reader.read_to_end(&mut stored).unwrap();
        assert_eq!(stored, b"abcde");
        assert_eq!(reader.next_entry().unwrap().unwrap().path, b"next");
    }

    #[test]
    fn refuses_what_would_eat_memory_or_lie() {
        let mut huge = entry(b'L', "l", b"");
        let mut header = Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&huge[..BLOCK]);
        header.set_size(1 << 40);
        header.set_cksum();
        huge[..BLOCK].copy_from_slice(header.as_bytes());
        let mut flipped = entry(b'0', "a", b"");
        flipped[0] ^= 1;
        let cases = [
            (huge, "extension header"),
            (flipped, "checksum"),
            (entry(b'0', "a", b"x")[..600].to_vec(), "ends within"),
            (entry(b'0', "a", b"x")[..100].to_vec(), "ends within"),
            (entry(b'Z', "a", b""), "unknown type"),
            (entry(b'x', "x", b"999 path=a\n"), "PAX"),
            (entry(b'x', "x", b"garbage"), "PAX"),
            ([entry(b'L', "l", &[b'a'; 5000]), entry(b'0', "a", b"")].concat(), "name of more"),
        ];
        for (bytes, wanted) in cases {
            let mut reader = TarReader::new(io::Cursor::new(bytes), TarLimits::default());
            let error = loop {
                match reader.next_entry() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("accepted, wanted: {wanted}"),
                    Err(error) => break error.to_string(),
                }
            };
            assert!(error.contains(wanted), "{error} / {wanted}");
        }
    }

    #[test]
    fn sparse_parts_must_be_what_is_stored() {
        let records = pax("GNU.sparse.size", "100") + &pax("GNU.sparse.map", "0,50,40,10");
        let bytes = [entry(b'x', "x", records.as_bytes()), entry(b'0', "n", &[1; 60])].concat();
        assert!(first(bytes).unwrap_err().to_string().contains("overlap"));
        let records = pax("GNU.sparse.size", "100") + &pax("GNU.sparse.map", "0,50");
        let bytes = [entry(b'x', "x", records.as_bytes()), entry(b'0', "n", &[1; 60])].concat();
        assert!(first(bytes).unwrap_err().to_string().contains("stored"));
    }
}
