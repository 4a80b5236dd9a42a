//! The agent's part of a Container's status, written only when something changed.

use gantry_api::kinds::container::{Container, ContainerPhase, ContainerStatus, PublishedPort};
use gantry_api::meta::{Condition, ConditionCause, ConditionStatus, Time, set_condition};
use gantry_api::{Kind, ObjectKey};
use gantry_client::{Api, Client, ClientError, Informer, Patch};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::ids::Clock;
use crate::runtime::{Exit, Started};

/// How often a write that lost a race is tried again before the next look at the world.
const ATTEMPTS: u32 = 8;

/// The conditions that the agent writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Aspect {
    /// The image is on this node.
    ImageReady,
    /// All volumes and mounts are here.
    VolumesReady,
    /// Links, addresses and ports are made.
    NetworkReady,
    /// The process was started.
    Started,
    /// It does what was wished.
    Ready,
}

impl Aspect {
    fn type_(self) -> &'static str {
        match self {
            Self::ImageReady => "ImageReady",
            Self::VolumesReady => "VolumesReady",
            Self::NetworkReady => "NetworkReady",
            Self::Started => "Started",
            Self::Ready => "Ready",
        }
    }
}

/// One condition as it should be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finding {
    pub(crate) aspect: Aspect,
    pub(crate) status: ConditionStatus,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) caused_by: Option<ConditionCause>,
}

impl Finding {
    pub(crate) fn good(aspect: Aspect, reason: &str, message: impl Into<String>) -> Self {
        Self { aspect, status: ConditionStatus::True, reason: reason.to_owned(), message: message.into(), caused_by: None }
    }
    pub(crate) fn bad(aspect: Aspect, reason: &str, message: impl Into<String>) -> Self {
        Self { aspect, status: ConditionStatus::False, reason: reason.to_owned(), message: message.into(), caused_by: None }
    }
    pub(crate) fn because(mut self, kind: &str, name: &str, condition: &str) -> Self {
        self.caused_by = Some(ConditionCause { kind: kind.to_owned(), name: name.to_owned(), condition: condition.to_owned() });
        self
    }
    /// The same finding as the summary `Ready`.
    pub(crate) fn as_ready(&self) -> Self {
        Self { aspect: Aspect::Ready, ..self.clone() }
    }
}

/// What the agent has to say of a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) generation: i64,
    pub(crate) phase: ContainerPhase,
    pub(crate) container_id: Option<String>,
    pub(crate) image_digest: Option<String>,
    pub(crate) running: Option<Started>,
    pub(crate) exit: Option<Exit>,
    pub(crate) restart_count: i32,
    /// `None`: as they were.
    pub(crate) ports: Option<Vec<PublishedPort>>,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    /// `status` with this report in it.
    fn applied_to(&self, mut status: ContainerStatus, now: Timestamp) -> ContainerStatus {
        status.observed_generation = Some(self.generation);
        status.phase = Some(self.phase);
        status.container_id.clone_from(&self.container_id);
        status.image_digest.clone_from(&self.image_digest);
        status.restart_count = self.restart_count;
        status.pid = self.running.map(|started| started.pid);
        if let Some(started) = self.running.or(self.exit.map(|exit| exit.started)) {
            status.started_at = time(started.at_unix_nanos);
        }
        status.finished_at = self.exit.and_then(|exit| time(exit.at_unix_nanos));
        status.exit_code = self.exit.map(|exit| exit.code);
        status.signal = self.exit.and_then(|exit| exit.signal).map(super::signals::name);
        status.oom_killed = self.exit.is_some_and(|exit| exit.oom_killed);
        if let Some(ports) = &self.ports {
            status.ports.clone_from(ports);
        }
        for finding in &self.findings {
            let mut condition = Condition::new(
                finding.aspect.type_(),
                finding.status,
                &finding.reason,
                finding.message.clone(),
                self.generation,
                Time(now),
            );
            condition.caused_by.clone_from(&finding.caused_by);
            set_condition(&mut status.conditions, condition);
        }
        status
    }
}

fn time(unix_nanos: i64) -> Option<Time> {
    // Kubernetes' Time has whole seconds on the wire; finer parts would be lost and found changed at every comparison.
    Timestamp::from_second(unix_nanos.div_euclid(1_000_000_000)).ok().map(Time)
}

/// Writes reports to the API.
#[derive(Clone)]
pub(crate) struct StatusWriter {
    client: Client,
    containers: Informer<Container>,
    now: Clock,
}

impl StatusWriter {
    pub(crate) fn new(client: Client, containers: Informer<Container>, now: Clock) -> Self {
        Self { client, containers, now }
    }

    /// Makes the stored status say what `report` says; no write when it does already.
    ///
    /// A status has several writers, each of its own fields, and conditions are one list: so the change is computed from the
    /// freshest object and tied to its version.
    pub(crate) async fn write(&self, key: &ObjectKey, uid: &str, report: &Report) -> Result<(), ClientError> {
        let api: Api<Container> = Api::namespaced(&self.client, &key.namespace);
        let mut object = self.containers.get(key).map(|cached| (*cached).clone());
        for _ in 0..ATTEMPTS {
            let current = match object.take() {
                Some(current) => current,
                None => match api.find(&key.name).await? {
                    Some(current) => current,
                    None => return Ok(()),
                },
            };
            if current.uid() != uid {
                return Ok(());
            }
            let Some(patch) = self.patch(&current, report) else { return Ok(()) };
            match api.patch_status(&key.name, &Patch::Merge(patch)).await {
                Ok(written) => {
                    self.containers.observe_write(written);
                    return Ok(());
                }
                Err(error) if error.is_conflict() => {}
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The merge patch from the stored status to the reported one, `None` when nothing differs.
    fn patch(&self, current: &Container, report: &Report) -> Option<Value> {
        let old_status = current.status.clone().unwrap_or_default();
        let new_status = report.applied_to(old_status.clone(), (self.now)());
        let old = serde_json::to_value(&old_status).ok()?;
        let new = serde_json::to_value(&new_status).ok()?;
        let changed = changed_members(&old, &new);
        if changed.is_empty() {
            return None;
        }
        Some(json!({
            "metadata": {"resourceVersion": current.metadata.resource_version, "uid": current.metadata.uid},
            "status": changed,
        }))
    }
}

/// Top-level members of `new` that differ from `old`, and nulls for those it no longer has.
fn changed_members(old: &Value, new: &Value) -> Map<String, Value> {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut changed: Map<String, Value> =
        new.iter().filter(|(name, value)| old.get(*name) != Some(value)).map(|(name, value)| (name.clone(), value.clone())).collect();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changed.insert(name.clone(), Value::Null);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_written() {
        let old = json!({"phase": "Creating", "pid": 7, "restartCount": 0});
        let new = json!({"phase": "Running", "restartCount": 0});
        assert_eq!(Value::Object(changed_members(&old, &new)), json!({"phase": "Running", "pid": null}));
        assert!(changed_members(&new, &new).is_empty());
    }

    #[test]
    fn a_report_keeps_the_fields_of_other_writers() {
        let status = ContainerStatus { node_name: Some("n".into()), image_object_name: Some("i".into()), ..Default::default() };
        let report = Report {
            generation: 3,
            phase: ContainerPhase::Running,
            container_id: Some("c".into()),
            image_digest: None,
            running: Some(Started { pid: 9, at_unix_nanos: 5_000_000_000 }),
            exit: None,
            restart_count: 1,
            ports: None,
            findings: vec![Finding::good(Aspect::Ready, "Running", "it runs")],
        };
        let status = report.applied_to(status, Timestamp::UNIX_EPOCH);
        assert_eq!(status.node_name.as_deref(), Some("n"));
        assert_eq!(status.image_object_name.as_deref(), Some("i"));
        assert_eq!(status.pid, Some(9));
        assert!(status.condition("Ready").is_some_and(Condition::is_true));
    }
}
