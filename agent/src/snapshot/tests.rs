//! What both snapshotters promise, and what layers do on a real disk.

use std::io::{Cursor, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use gantry_content::Digest;
use tar::{EntryType, Header};

use super::{LayerLimits, MemorySnapshotter, OverlaySnapshotter, SnapshotError, Snapshotter};
use crate::ids::ContainerUid;

/// One raw entry: names and numbers as they are, however wrong.
struct Raw<'a> {
    kind: u8,
    name: &'a str,
    link: &'a str,
    content: &'a [u8],
    uid: u64,
    mode: u32,
    pax: &'a [(&'a str, &'a str)],
}

impl Default for Raw<'_> {
    fn default() -> Self {
        Self { kind: b'0', name: "a", link: "", content: b"", uid: 0, mode: 0o644, pax: &[] }
    }
}

fn file<'a>(name: &'a str, content: &'a [u8]) -> Raw<'a> {
    Raw { name, content, ..Raw::default() }
}

fn link<'a>(kind: u8, name: &'a str, link: &'a str) -> Raw<'a> {
    Raw { kind, name, link, ..Raw::default() }
}

fn dir(name: &str) -> Raw<'_> {
    Raw { kind: b'5', name, mode: 0o755, ..Raw::default() }
}

fn block(tar: &mut Vec<u8>, kind: u8, raw: &Raw<'_>, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::new(kind));
    header.as_old_mut().name[..raw.name.len()].copy_from_slice(raw.name.as_bytes());
    header.as_old_mut().linkname[..raw.link.len()].copy_from_slice(raw.link.as_bytes());
    header.set_mode(raw.mode);
    header.set_uid(raw.uid);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.extend(header.as_bytes());
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn tar_of(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for raw in entries {
        let mut records = Vec::new();
        for (key, value) in raw.pax {
            let bare = key.len() + value.len() + 3;
            let length = (bare + 1..).find(|length| bare + length.to_string().len() == *length).unwrap();
            writeln!(records, "{length} {key}={value}").unwrap();
        }
        if !records.is_empty() {
            block(&mut tar, b'x', &Raw { name: "pax", ..Raw::default() }, &records);
        }
        block(&mut tar, raw.kind, raw, raw.content);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

async fn unpack(snapshotter: &dyn Snapshotter, tar: Vec<u8>) -> Result<String, SnapshotError> {
    let diff_id = Digest::of(&tar).to_string();
    snapshotter.unpack_layer(&diff_id, Box::new(Cursor::new(tar)), Box::new(|| Ok(()))).await?;
    Ok(diff_id)
}

fn layer_dir(dir: &Path, diff_id: &str) -> std::path::PathBuf {
    dir.join("layers").join(diff_id.trim_start_matches("sha256:"))
}

async fn contract(snapshotter: &dyn Snapshotter) {
    let uid = ContainerUid::new("5f1c").unwrap();
    let lower = unpack(snapshotter, tar_of(&[file("a", b"1")])).await.unwrap();
    let upper = unpack(snapshotter, tar_of(&[file("a", b"2")])).await.unwrap();
    assert!(snapshotter.has_layer(&lower).await && !snapshotter.has_layer("../..").await);
    let missing = Digest::of(b"no").to_string();
    let refused = snapshotter.prepare(&uid, &[lower.clone(), missing.clone()]).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::MissingLayer { diff_id } if diff_id == missing));
    assert_eq!(snapshotter.list().await.unwrap(), []);
    let rootfs = snapshotter.prepare(&uid, &[lower.clone(), upper.clone(), lower.clone()]).await.unwrap();
    assert_eq!(rootfs.lowers.len(), 2, "a layer that comes twice is mounted once");
    assert_eq!(snapshotter.prepare(&uid, &[lower.clone(), upper.clone(), lower.clone()]).await.unwrap(), rootfs);
    assert_eq!(snapshotter.list().await.unwrap(), std::slice::from_ref(&uid));
    let refuse = Box::new(|| Err(std::io::Error::other("no")));
    assert!(snapshotter.unpack_layer(&missing, Box::new(Cursor::new(tar_of(&[]))), refuse).await.is_err());
    assert!(!snapshotter.has_layer(&missing).await);
    let broken = tar_of(&[file("a", &[1; 2000])])[..1000].to_vec();
    assert!(matches!(unpack(snapshotter, broken).await, Err(SnapshotError::BadLayer { .. })));
    let mut layers = vec![lower.clone(), upper.clone()];
    layers.sort();
    assert_eq!(snapshotter.list_layers().await.unwrap(), layers);
    for _ in 0..2 {
        snapshotter.remove(&uid).await.unwrap();
        snapshotter.remove_layer(&lower).await.unwrap();
    }
    assert_eq!(snapshotter.list().await.unwrap(), []);
    assert_eq!(snapshotter.list_layers().await.unwrap(), [upper]);
}

#[tokio::test]
async fn both_keep_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract(&OverlaySnapshotter::open(dir.path()).unwrap()).await;
    contract(&MemorySnapshotter::default()).await;
}

#[tokio::test]
async fn what_a_crash_left_is_gone_after_opening() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("tmp/x/root")).unwrap();
    OverlaySnapshotter::open(dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn hostile_layers_are_refused_and_nothing_is_written_outside() {
    let long = "n".repeat(300);
    let long = [("path", long.as_str())];
    let cases: Vec<(&str, Vec<Raw<'_>>)> = vec![
        ("..", vec![file("../outside", b"x")]),
        ("..", vec![file("a/../../outside", b"x")]),
        ("root is a directory", vec![file(".", b"")]),
        ("root is a directory", vec![link(b'2', "./", "/etc")]),
        ("hard link's target", vec![link(b'1', "a", "/outside")]),
        ("..", vec![link(b'1', "a", "../../outside")]),
        ("hard link's target", vec![link(b'2', "l", "../../.."), link(b'1', "a", "l/outside")]),
        ("hard link to the root", vec![link(b'1', "a", "/")]),
        ("hard link to a directory", vec![dir("d"), link(b'1', "a", "d")]),
        ("resolve the parent", vec![link(b'2', "l", "l"), file("l/x", b"")]),
        ("resolve the parent", vec![file("f", b""), file("f/x", b"")]),
        ("create the parent", vec![link(b'2', "l", "/nowhere"), file("l/x", b"")]),
        ("resolve the parent", vec![link(b'6', "p", ""), file("p/x", b"")]),
        ("whiteout of the root", vec![file(".wh..wh..opq", b"")]),
        ("directory itself", vec![file(".wh.", b"")]),
        ("directory itself", vec![file("d/.wh...", b"")]),
        ("255 bytes", vec![Raw { pax: &long, ..Raw::default() }]),
        (
            "uid 70000 is above 65535, the largest that a container's user namespace maps; `chown`",
            vec![Raw { uid: 70_000, ..Raw::default() }],
        ),
        ("uid 4294967295", vec![Raw { pax: &[("uid", "4294967295")], ..Raw::default() }]),
        ("overlayfs' own", vec![Raw { pax: &[("SCHILY.xattr.trusted.overlay.redirect", "/x")], ..Raw::default() }]),
        ("unknown type", vec![Raw { kind: b'Z', ..Raw::default() }]),
        ("bytes of content", vec![Raw { pax: &[("GNU.sparse.map", "0,0"), ("GNU.sparse.size", "99999999999999")], ..Raw::default() }]),
        ("link to nothing", vec![link(b'2', "l", "")]),
        ("more than 50 entries", (0..60).map(|_| file("a", b"")).collect()),
    ];
    for (wanted, entries) in cases {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("outside"), "safe").unwrap();
        let mut limits = LayerLimits::default();
        limits.tar.entries = 50;
        let snapshotter = OverlaySnapshotter::with_limits(&dir.path().join("s"), limits).unwrap();
        let Err(error) = unpack(&snapshotter, tar_of(&entries)).await else { panic!("accepted, wanted: {wanted}") };
        assert!(matches!(error, SnapshotError::BadLayer { .. }), "{wanted}: {error:?}");
        assert!(error.to_string().contains(wanted), "{error} / {wanted}");
        assert_eq!(std::fs::read_to_string(dir.path().join("outside")).unwrap(), "safe");
        for part in ["layers", "tmp"] {
            assert_eq!(std::fs::read_dir(dir.path().join("s").join(part)).unwrap().count(), 0, "{wanted}: {part}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "{wanted}");
    }
}

#[tokio::test]
async fn links_lead_inside_and_entries_replace() {
    let dir_ = tempfile::tempdir().unwrap();
    let snapshotter = OverlaySnapshotter::open(dir_.path()).unwrap();
    let tar = tar_of(&[
        dir("etc/"),
        link(b'2', "abs", "/etc"),
        file("abs/inside", b"1"),
        link(b'2', "up", "../../../../etc"),
        file("up/too", b"2"),
        file("/rooted", b"3"),
        dir("d"),
        file("d/child", b"x"),
        file("d", b"file now"),
        file("twice", b"old"),
        link(b'1', "other", "twice"),
        file("twice", b"new"),
        link(b'1', "twice", "twice"),
        file("deep/er/file", b"y"),
    ]);
    let diff_id = unpack(&snapshotter, tar).await.unwrap();
    let root = layer_dir(dir_.path(), &diff_id);
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    assert_eq!([read("etc/inside"), read("etc/too"), read("rooted")], ["1", "2", "3"]);
    assert_eq!([read("d"), read("twice"), read("other"), read("deep/er/file")], ["file now", "new", "old", "y"]);
    assert_eq!(std::fs::metadata(root.join("deep")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(root.join("etc")).unwrap().mtime(), 1_000_000_000, "set after what is inside");
}

fn opaque(path: &Path) -> bool {
    let mut value = [0_u8; 8];
    rustix::fs::getxattr(path.as_os_str().as_bytes(), "trusted.overlay.opaque", &mut value[..]).is_ok_and(|count| &value[..count] == b"y")
}

#[tokio::test]
async fn whiteouts_and_special_files_are_overlayfs_and_linux_own() {
    let dir_ = tempfile::tempdir().unwrap();
    let snapshotter = OverlaySnapshotter::open(dir_.path()).unwrap();
    let capability = "\u{1}\0\0\u{2}\0\u{4}\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tar = tar_of(&[
        file("d/.wh.gone", b""),
        file("o/.wh..wh..opq", b""),
        file("o/kept", b""),
        file("n/.wh.back", b""),
        dir("n/back"),
        link(b'6', "fifo", ""),
        Raw { name: "su", mode: 0o4755, uid: 33, ..Raw::default() },
        Raw { name: "ping", pax: &[("SCHILY.xattr.security.capability", capability), ("mtime", "5.25")], ..Raw::default() },
    ]);
    let diff_id = unpack(&snapshotter, tar).await.unwrap();
    let root = layer_dir(dir_.path(), &diff_id);
    let look = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
    assert!(look("d/gone").file_type().is_char_device() && look("d/gone").rdev() == 0);
    assert!(opaque(&root.join("o")) && opaque(&root.join("n/back")) && !opaque(&root.join("d")));
    assert!(look("fifo").file_type().is_fifo());
    assert_eq!((look("su").mode() & 0o7777, look("su").uid()), (0o4755, 33));
    assert_eq!((look("ping").mtime(), look("ping").mtime_nsec()), (5, 250_000_000));
    let mut value = [0_u8; 64];
    let count = rustix::fs::getxattr(root.join("ping").as_os_str().as_bytes(), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..count], capability.as_bytes());
}

/// Everything that GNU tar sets, for each path below `root`.
fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let target = std::fs::read_link(&path).unwrap_or_default();
            let content = if meta.is_file() { Digest::of(&std::fs::read(&path).unwrap()).hex() } else { String::new() };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            lines.push(format!(
                "{} {:o} {}:{} {} {}.{} {links} {} {content}",
                path.strip_prefix(root).unwrap().display(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.rdev(),
                meta.mtime(),
                meta.mtime_nsec(),
                target.display()
            ));
            if meta.is_dir() {
                waiting.push(path);
            }
        }
    }
    lines.sort();
    lines
}

fn gnu_tar(arguments: &[&str]) {
    #[expect(clippy::disallowed_methods, reason = "GNU tar is the judge here")]
    let mut command = std::process::Command::new("tar");
    assert!(command.args(arguments).status().unwrap().success());
}

#[tokio::test]
async fn a_real_tree_comes_out_as_gnu_tar_does_it() {
    let dir_ = tempfile::tempdir().unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let source = dir_.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let sparse = std::fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 5 << 20).unwrap();
    std::fs::write(source.join("x".repeat(200)), "a long name").unwrap();
    for format in ["gnu", "pax"] {
        let (archive, judge) = (dir_.path().join(format!("{format}.tar")), dir_.path().join(format!("judge-{format}")));
        std::fs::create_dir(&judge).unwrap();
        let (archive_text, format) = (text(&archive), format!("--format={format}"));
        let members = ["-C", &text(&source), ".", "-C", "/", "usr/share/zoneinfo", "usr/bin/tar", "etc/alternatives"];
        let here = |member: &&str| !member.contains('/') || Path::new("/").join(member).exists();
        let members: Vec<_> = members.into_iter().filter(here).collect();
        gnu_tar(&[&["--sparse", &format, "-cf", &archive_text][..], &members[..]].concat());
        gnu_tar(&["-xpf", &archive_text, "-C", &text(&judge)]);
        let snapshotter = OverlaySnapshotter::open(&dir_.path().join("s")).unwrap();
        let diff_id = unpack(&snapshotter, std::fs::read(&archive).unwrap()).await.unwrap();
        let (ours, theirs) = (listing(&layer_dir(&dir_.path().join("s"), &diff_id)), listing(&judge));
        // Parents that the archive does not hold get the time of their making.
        let parents = |lines: Vec<String>| -> Vec<String> {
            let implied = ["usr ", "usr/share ", "usr/bin ", "etc "];
            lines.into_iter().filter(|line| !implied.iter().any(|name| line.starts_with(name))).collect()
        };
        let (ours, theirs) = (parents(ours), parents(theirs));
        assert!(ours.len() > 2);
        for (our, their) in ours.iter().zip(&theirs) {
            assert_eq!(our, their);
        }
        assert_eq!(ours.len(), theirs.len());
    }
}
