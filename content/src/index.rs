//! Which manifest a reference stands for in a namespace of this host.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::ContentError;
use crate::store::{ContentStore, sync_dir};

/// One reference and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Normalised reference, such as `docker.io/library/nginx:1.27`.
    pub reference: String,
    /// Digest of the image manifest, never of an index.
    pub manifest_digest: Digest,
    /// Media type of the manifest.
    pub media_type: String,
    /// When it was recorded: RFC 3339, UTC.
    pub at: String,
}

/// The most bytes that a record is read to.
const RECORD_LIMIT: u64 = 64 * 1024;

impl ContentStore {
    /// Records what `reference` (normalised) stands for in `namespace`, replacing what it stood for.
    pub fn record_reference(
        &self,
        namespace: &str,
        reference: &str,
        manifest_digest: Digest,
        media_type: &str,
    ) -> Result<(), ContentError> {
        let dir = self.index_dir(namespace)?;
        let step = || format!("record reference `{reference}` in namespace `{namespace}`");
        fs::create_dir_all(&dir).map_err(ContentError::io(step()))?;
        let record = Record {
            reference: reference.to_owned(),
            manifest_digest,
            media_type: media_type.to_owned(),
            at: jiff::Timestamp::now().to_string(),
        };
        let bytes = serde_json::to_vec(&record).map_err(|e| ContentError::Io { step: step(), source: e.into() })?;
        let temporary = dir.join(format!(".{}", uuid::Uuid::new_v4()));
        let written = fs::File::create(&temporary).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, dir.join(file_name(reference)))
        });
        if let Err(source) = written {
            let _ = fs::remove_file(&temporary);
            return Err(ContentError::Io { step: step(), source });
        }
        sync_dir(&dir)
    }

    /// What `reference` (normalised) stands for in `namespace`.
    pub fn find_reference(&self, namespace: &str, reference: &str) -> Result<Option<Record>, ContentError> {
        let path = self.index_dir(namespace)?.join(file_name(reference));
        Ok(read_record(&path)?.filter(|record| record.reference == reference))
    }

    /// All references of `namespace`, in order. A broken record is left out and said in the log.
    pub fn list_references(&self, namespace: &str) -> Result<Vec<Record>, ContentError> {
        let dir = self.index_dir(namespace)?;
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(ContentError::Io { step: format!("list {}", dir.display()), source }),
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(ContentError::io(format!("list {}", dir.display())))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                records.extend(read_record(&path)?);
            }
        }
        records.sort_by(|a: &Record, b| a.reference.cmp(&b.reference));
        Ok(records)
    }

    /// Namespaces that have references here.
    pub fn list_namespaces(&self) -> Result<Vec<String>, ContentError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join("index")).map_err(ContentError::io("list the local index"))? {
            names.extend(entry.map_err(ContentError::io("list the local index"))?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Forgets a reference. Idempotent.
    pub fn remove_reference(&self, namespace: &str, reference: &str) -> Result<(), ContentError> {
        match fs::remove_file(self.index_dir(namespace)?.join(file_name(reference))) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ContentError::Io { step: format!("remove reference `{reference}` from namespace `{namespace}`"), source })
            }
            _ => Ok(()),
        }
    }

    fn index_dir(&self, namespace: &str) -> Result<PathBuf, ContentError> {
        let plain = namespace.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-');
        if !plain || !(1..=63).contains(&namespace.len()) {
            return Err(ContentError::InvalidNamespace { namespace: namespace.chars().take(100).collect() });
        }
        Ok(self.root.join("index").join(namespace))
    }
}

fn file_name(reference: &str) -> String {
    format!("{}.json", Digest::of(reference.as_bytes()).hex())
}

fn read_record(path: &std::path::Path) -> Result<Option<Record>, ContentError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(RECORD_LIMIT).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ContentError::Io { step: format!("read {}", path.display()), source }),
    }
    let parsed = serde_json::from_slice(&bytes);
    if let Err(error) = &parsed {
        tracing::warn!(path = %path.display(), %error, "a broken record of the local index is ignored");
    }
    Ok(parsed.ok())
}
