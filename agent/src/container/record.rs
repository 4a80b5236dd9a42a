//! What a container was started from: kept beside its shim, and beside its writable layer for after a reboot.

use std::io;
use std::path::{Path, PathBuf};

use gantry_api::kinds::container::ContainerSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::ContainerUid;
use crate::network::PortPublished;
use crate::runtime::{Exit, IdRange};

/// What a container was started from.
///
/// Unknown fields are kept out and missing ones defaulted, so that an older or newer engine reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Record {
    /// Namespace of the object, for people and for leftovers whose object is gone.
    pub(crate) namespace: String,
    /// Name of the object.
    pub(crate) name: String,
    /// 64 hexadecimal digits, new at each replacement.
    pub(crate) container_id: String,
    /// Generation of the spec.
    pub(crate) generation: i64,
    /// The declared spec, defaults applied, as JSON: newer fields survive an older engine.
    pub(crate) spec: Value,
    /// The field paths that the engine which started it knew; others count as unchanged.
    pub(crate) knew: Vec<String>,
    /// Digest of the image manifest.
    pub(crate) image_digest: String,
    /// Layers, lowest first.
    pub(crate) diff_ids: Vec<String>,
    /// Signal that asks it to stop, by number: the image's or the spec's.
    pub(crate) stop_signal: i32,
    /// Host ids given to it.
    pub(crate) id_range: Option<IdRange>,
    /// Chosen host ports, so that they stay.
    pub(crate) ports: Vec<RecordedPort>,
    /// Restarts by policy so far.
    pub(crate) restarts: u32,
    /// Why its process was asked to end, if it was: such an end is not the policy's business.
    pub(crate) stopping: Option<StopReason>,
    /// The last end, so that a finished container stays finished after a reboot.
    pub(crate) exit: Option<Exit>,
}

/// Why a process was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StopReason {
    /// `desiredState: Stopped`.
    Stopped,
    /// A change that needs a new process in the same writable layer.
    Restart,
    /// A change that needs a new container.
    Replace,
    /// The object is being deleted or has left this node.
    Remove,
}

/// A published port, to be published on the same host port again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RecordedPort {
    /// First port inside.
    pub(crate) container_port: u16,
    /// `tcp` or `udp`.
    pub(crate) protocol: gantry_api::kinds::container::Protocol,
    /// First port on the node.
    pub(crate) host_port: u16,
}

impl From<&PortPublished> for RecordedPort {
    fn from(port: &PortPublished) -> Self {
        Self { container_port: port.wish.container_port, protocol: port.wish.protocol, host_port: port.host_port }
    }
}

impl Record {
    /// From what a shim kept; a record that cannot be read is as good as none.
    pub(crate) fn from_value(value: &Value) -> Option<Self> {
        serde_json::from_value(value.clone()).ok().filter(|record: &Self| !record.container_id.is_empty())
    }

    /// For a shim to keep.
    pub(crate) fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The spec as this engine understands it; defaults where it does not.
    pub(crate) fn typed_spec(&self) -> ContainerSpec {
        serde_json::from_value(self.spec.clone()).unwrap_or_default()
    }
}

/// The records that lie beside writable layers: `<data-dir>/records/<uid>.json`.
///
/// They matter only when the run directory is gone (a reboot). They are replaced atomically but not synced: after a power cut an
/// older one may be found, which is a spec that the writable layer was once started from.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    /// In `data_dir`, which exists.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join("records");
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn path(&self, uid: &ContainerUid) -> PathBuf {
        self.dir.join(format!("{uid}.json"))
    }

    /// The record of a container, if one is there and can be read.
    pub(crate) fn load(&self, uid: &ContainerUid) -> Option<Record> {
        let bytes = std::fs::read(self.path(uid)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Replaces the record of a container.
    pub(crate) fn save(&self, uid: &ContainerUid, record: &Record) -> io::Result<()> {
        let temporary = self.dir.join(format!("{uid}.json.new"));
        std::fs::write(&temporary, serde_json::to_vec(record)?)?;
        std::fs::rename(&temporary, self.path(uid))
    }

    /// Removes the record of a container. Idempotent.
    pub(crate) fn remove(&self, uid: &ContainerUid) -> io::Result<()> {
        match std::fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Containers that have a record here.
    pub(crate) fn list(&self) -> Vec<ContainerUid> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        entries.filter_map(|entry| ContainerUid::new(entry.ok()?.file_name().to_str()?.strip_suffix(".json")?)).collect()
    }
}
