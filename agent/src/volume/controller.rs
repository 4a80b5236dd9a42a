//! Volumes of this node: their directories are made as soon as they are bound here, and reclaimed when they are deleted.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::kinds::volume::{DATA_FINALIZER, IN_USE_FINALIZER, ReclaimPolicy, Volume};
use gantry_api::meta::{Condition, ConditionStatus, Time, set_condition};
use gantry_api::{Kind as _, ObjectKey};
use gantry_client::{Api, Client, ClientError, Informer, Patch};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{VolumeDriver, VolumeError};
use crate::ids::{Clock, chain};

/// Delay before a volume whose turn failed is looked at again.
const RETRY: Duration = Duration::from_secs(2);

/// Follows the Volumes bound to this node, until `stop`.
pub struct VolumeController {
    /// The API.
    pub client: Client,
    /// All Volumes.
    pub volumes: Informer<Volume>,
    /// Where the data lies.
    pub driver: Arc<dyn VolumeDriver>,
    /// This node.
    pub node_name: String,
    /// The wall clock.
    pub clock: Clock,
}

/// Why a turn failed.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error("write Volume")]
    Api(#[from] ClientError),
    #[error("reclaim its data")]
    Driver(#[from] VolumeError),
}

impl VolumeController {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        self.volumes.synced().await;
        let mut changes = self.volumes.changes();
        let mut again: Vec<ObjectKey> = Vec::new();
        loop {
            let keys = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                key = changes.recv() => match key { Some(key) => vec![key], None => return },
                () = tokio::time::sleep(RETRY), if !again.is_empty() => std::mem::take(&mut again),
            };
            for key in keys {
                if let Err(error) = self.turn(&key).await {
                    warn!(volume = %key, error = chain(&error), "a volume could not be brought in order; it is tried again");
                    again.push(key);
                }
            }
        }
    }

    async fn turn(&self, key: &ObjectKey) -> Result<(), TurnError> {
        let Some(volume) = self.volumes.get(key) else { return Ok(()) };
        if volume.status.as_ref().and_then(|status| status.node_name.as_deref()) != Some(&self.node_name) {
            return Ok(());
        }
        if volume.is_terminating() {
            return self.reclaim(&volume).await;
        }
        let (status, reason, message) = match crate::container::volume_wish(&volume) {
            Err(message) => (ConditionStatus::False, "VolumeInvalid", message),
            Ok(wish) => match self.driver.ensure(&wish).await {
                Ok(_) => (ConditionStatus::True, "Present", "the directory is on its node".to_owned()),
                Err(error) => (ConditionStatus::False, "VolumeFailed", chain(&error)),
            },
        };
        let condition = Condition::new("DataReady", status, reason, message, volume.generation(), Time((self.clock)()));
        self.write(&volume, condition).await
    }

    async fn write(&self, volume: &Volume, condition: Condition) -> Result<(), TurnError> {
        let mut conditions = volume.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        if !set_condition(&mut conditions, condition) {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": volume.metadata.resource_version, "uid": volume.metadata.uid},
            "status": {"conditions": conditions},
        });
        match self.api(volume).patch_status(volume.name(), &Patch::Merge(patch)).await {
            Ok(written) => self.volumes.observe_write(written),
            // A newer version is on its way and gets its own turn.
            Err(error) if error.is_conflict() || error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Data goes only when no container uses it any more.
    async fn reclaim(&self, volume: &Volume) -> Result<(), TurnError> {
        if volume.has_finalizer(IN_USE_FINALIZER) || !volume.has_finalizer(DATA_FINALIZER) {
            return Ok(());
        }
        self.driver.reclaim(volume.uid(), volume.spec.reclaim_policy == ReclaimPolicy::Retain).await?;
        let left: Vec<&String> = volume.metadata.finalizers.iter().flatten().filter(|name| *name != DATA_FINALIZER).collect();
        let patch = json!({"metadata": {
            "finalizers": left, "resourceVersion": volume.metadata.resource_version, "uid": volume.metadata.uid,
        }});
        match self.api(volume).patch(volume.name(), &Patch::Merge(patch), &Default::default()).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn api(&self, volume: &Volume) -> Api<Volume> {
        Api::namespaced(&self.client, volume.metadata.namespace.as_deref().unwrap_or_default())
    }
}
