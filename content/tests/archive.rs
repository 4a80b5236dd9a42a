//! Archives made by hand and by skopeo, whole and broken.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use gantry_content::manifest::Manifest;
use gantry_content::{ArchiveLimits, ContentError, ContentStore, Digest, Imported};

/// A tar of files by name.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Names that a builder would refuse are written as they are.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn config(diff_ids: &[Digest]) -> Vec<u8> {
    let ids: Vec<_> = diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
    let head = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["#;
    format!("{head}{}]}}}}", ids.join(",")).into_bytes()
}

/// What `docker save localhost/quickstart/busybox:1` would write.
fn saved() -> Vec<u8> {
    let layer = tar_of(&[("bin/sh", b"#!")]);
    let config = config(&[Digest::of(&layer)]);
    let manifest = br#"[{"Config":"c.json","RepoTags":["localhost/quickstart/busybox:1","web"],"Layers":["l/layer.tar"]}]"#;
    tar_of(&[("l/layer.tar", &layer), ("c.json", &config), ("../../etc/evil", b"x"), ("manifest.json", manifest)])
}

struct Place {
    dir: tempfile::TempDir,
    store: ContentStore,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&dir.path().join("content")).unwrap();
        Self { dir, store }
    }
    fn import(&self, archive: &[u8]) -> Result<Vec<Imported>, ContentError> {
        self.store.import_archive_blocking("default", archive, &ArchiveLimits::default())
    }
    fn manifest(&self, digest: &Digest) -> Manifest {
        serde_json::from_slice(&self.store.read_small(digest, 1 << 20).unwrap()).unwrap()
    }
    fn assert_nothing_visible(&self) {
        assert_eq!(self.store.list_references("default").unwrap(), []);
        assert_eq!(std::fs::read_dir(self.dir.path().join("content/ingest")).unwrap().count(), 0);
    }
}

#[test]
fn docker_save_gets_a_manifest_of_its_own() {
    let place = Place::new();
    let imported = place.import(&saved()).unwrap();
    let references: Vec<_> = imported.iter().map(|i| i.reference.as_deref().unwrap()).collect();
    assert_eq!(references, ["localhost/quickstart/busybox:1", "docker.io/library/web:latest"]);
    let manifest = place.manifest(&imported[0].digest);
    assert!(place.store.has(&manifest.config.digest) && place.store.has(&manifest.layers[0].digest));
    assert_eq!(place.import(&saved()).unwrap(), imported, "the same archive gives the same digest");
    let found = place.store.find_reference("default", "localhost/quickstart/busybox:1").unwrap().unwrap();
    assert_eq!(found.manifest_digest, imported[0].digest);
}

#[test]
fn compressed_archives_are_inflated() {
    let place = Place::new();
    let plain = place.import(&saved()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &saved()).unwrap();
    assert_eq!(place.import(&gzip.finish().unwrap()).unwrap(), plain);
    assert_eq!(place.import(&zstd::encode_all(saved().as_slice(), 1).unwrap()).unwrap(), plain);
}

#[test]
fn broken_archives_leave_nothing_visible() {
    let layer = tar_of(&[("bin/sh", b"#!")]);
    let good = config(&[Digest::of(&layer)]);
    let named = |layers: &str| format!(r#"[{{"Config":"c.json","RepoTags":["a:1"],"Layers":[{layers}]}}]"#).into_bytes();
    let blob = format!("blobs/sha256/{}", Digest::of(b"m").hex());
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1}}]}}"#, Digest::of(b"m"));
    let big = vec![b' '; 5 << 20];
    let whole = saved();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("neither", tar_of(&[("a", b"b")])),
        ("is not in it", tar_of(&[("manifest.json", &named("\"gone\"")), ("c.json", &good)])),
        ("configuration names 1", tar_of(&[("manifest.json", &named("")), ("c.json", &good)])),
        ("mismatch", tar_of(&[("manifest.json", &named("\"l\"")), ("c.json", &config(&[Digest::of(b"")])), ("l", &layer)])),
        ("manifest.json is not", tar_of(&[("manifest.json", b"{}")])),
        ("larger than", tar_of(&[("manifest.json", &big)])),
        ("mismatch", tar_of(&[("index.json", index.as_bytes()), (&blob, b"other")])),
        ("is not in it", tar_of(&[("index.json", index.as_bytes())])),
        ("ends within", whole[..700].to_vec()),
        ("checksum", vec![b'x'; 2000]),
    ];
    for (wanted, archive) in cases {
        let place = Place::new();
        let error = place.import(&archive).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error} / {wanted}");
        place.assert_nothing_visible();
    }
}

#[test]
fn limits_hold() {
    let place = Place::new();
    let limits = [ArchiveLimits { entries: 3, ..Default::default() }, ArchiveLimits { total_bytes: 100, ..Default::default() }];
    for limits in limits {
        let refused = place.store.import_archive_blocking("default", saved().as_slice(), &limits);
        assert!(refused.unwrap_err().to_string().contains("more than"));
        place.assert_nothing_visible();
    }
}

#[test]
fn what_a_crash_left_is_cleaned_and_what_runs_is_not() {
    let place = Place::new();
    let ingest = place.dir.path().join("content/ingest");
    std::fs::create_dir(ingest.join("import-dead")).unwrap();
    std::fs::create_dir(ingest.join("import-alive")).unwrap();
    let alive = std::fs::File::open(ingest.join("import-alive")).unwrap();
    alive.lock_shared().unwrap();
    ContentStore::open(&place.dir.path().join("content")).unwrap();
    assert!(!ingest.join("import-dead").exists() && ingest.join("import-alive").exists());
}

/// Converts the archive with skopeo, an independent reader and writer.
fn skopeo(from: &Path, to: &str) {
    #[expect(clippy::disallowed_methods, reason = "skopeo is the judge here")]
    let mut command = std::process::Command::new("skopeo");
    let output = command.args(["--insecure-policy", "copy", "-q", &format!("docker-archive:{}", from.display()), to]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "current_thread")]
async fn what_skopeo_writes_is_read() {
    let place = Place::new();
    let source = place.dir.path().join("source.tar");
    // skopeo wants one tag when it is not told which image.
    let layer = tar_of(&[("bin/sh", b"#!")]);
    let manifest = br#"[{"Config":"c.json","RepoTags":["localhost/a:1"],"Layers":["l.tar"]}]"#;
    std::fs::write(&source, tar_of(&[("manifest.json", manifest), ("c.json", &config(&[Digest::of(&layer)])), ("l.tar", &layer)])).unwrap();
    for kind in ["docker-archive", "oci-archive"] {
        let path = place.dir.path().join(kind);
        skopeo(&source, &format!("{kind}:{}:localhost/{kind}:1", path.display()));
        let file = tokio::fs::File::open(&path).await.unwrap();
        let imported = place.store.import_archive("default", file).await.unwrap();
        assert_eq!(imported.len(), 1);
        assert_eq!(imported[0].reference, Some(format!("localhost/{kind}:1")));
        let manifest = place.manifest(&imported[0].digest);
        assert!(manifest.layers.iter().all(|layer| place.store.has(&layer.digest)));
    }
}
