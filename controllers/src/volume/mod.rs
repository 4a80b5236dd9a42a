//! Volumes: where the data is, who uses it, and that it does not vanish under its users.
//!
//! A Volume is bound once: to the node that its spec names, else to that of the first Container that mounts it. While a Container mounts it
//! the finalizer `gantry.dev/in-use` holds it; once it has a node, `gantry.dev/volume-data` does too, which the node's agent removes when
//! the data has been retained or removed. `Ready` follows the agent's `DataReady`.

use std::collections::BTreeSet;

use gantry_api::kinds::container::Container;
use gantry_api::kinds::volume::{DATA_FINALIZER, IN_USE_FINALIZER, Volume, VolumePhase, VolumeStatus};
use gantry_api::meta::{Condition, ConditionStatus, find_condition, set_condition};
use gantry_api::{Kind, ObjectKey};

use crate::context::Context;
use crate::runtime::{Action, Manager, ReconcileError, Reconciler, References, Severity, Sources, finalizer, status};
use crate::scheduler::volume_names;
use crate::table::ControllerInfo;

pub(crate) const INFO: ControllerInfo = ControllerInfo {
    name: "volume",
    purpose: "binds Volumes to nodes, says who uses them, keeps them while they are used",
    watches: &["Volume", "Container"],
    writes: &[
        ("Volume", "status.phase"),
        ("Volume", "status.nodeName"),
        ("Volume", "status.usedBy"),
        ("Volume", "status.observedGeneration"),
        ("Volume", "status.conditions[Ready]"),
        ("Volume", "metadata.finalizers[gantry.dev/in-use]"),
        ("Volume", "metadata.finalizers[gantry.dev/volume-data] (added)"),
    ],
};

pub(crate) fn start(manager: &mut Manager, context: &Context) {
    let mut mounted = References::new();
    let sources = Sources::of(&context.informers.volumes)
        .watch(&context.informers.containers, move |key, container| mounted.update(key, container.map(|container| mounts_of(container))));
    manager.add(Volumes { context: context.named(INFO.name) }, sources, 4);
}

fn mounts_of(container: &Container) -> BTreeSet<ObjectKey> {
    let namespace = container.key().namespace;
    volume_names(container).map(|name| ObjectKey::new(namespace.clone(), name)).collect()
}

struct Volumes {
    context: Context,
}

impl Reconciler for Volumes {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        INFO.name
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(volume) = self.context.informers.volumes.get(key) else { return Ok(Action::Done) };
        let users = self.users(key);
        let plan = plan(&volume, &users);
        // The data is held before its node is told to make it; a use is held before it can be seen.
        let mut held = vec![(IN_USE_FINALIZER, !users.is_empty())];
        if plan.node_name.is_some() && !volume.is_terminating() {
            held.push((DATA_FINALIZER, true));
        }
        if finalizer::ensure(&self.context.client, &self.context.informers.volumes, &*volume, &held).await? {
            return Ok(Action::Done);
        }
        let old = volume.status.clone().unwrap_or_default();
        let mut new = VolumeStatus {
            phase: Some(plan.phase),
            node_name: plan.node_name,
            used_by: users.into_iter().map(|user| user.name).collect(),
            observed_generation: Some(volume.generation()),
            ..old.clone()
        };
        let before = find_condition(&old.conditions, "Ready").map(|condition| condition.reason.clone());
        let now = self.context.config.clock.now();
        let condition = Condition::new("Ready", plan.status, &plan.reason, plan.message.clone(), volume.generation(), now);
        set_condition(&mut new.conditions, condition);
        status::write(&self.context.client, &self.context.informers.volumes, &*volume, &old, &new).await?;
        if let Some(severity) = plan.severity.filter(|_| before.as_deref() != Some(plan.reason.as_str())) {
            self.context.recorder.record(INFO.name, &self.context.config.clock, &*volume, severity, &plan.reason, plan.message);
        }
        Ok(Action::Done)
    }
}

/// A Container that mounts the volume.
struct User {
    name: String,
    node: Option<String>,
    /// Seconds since 1970; the first user decides where an unbound volume goes.
    created: i64,
}

impl Volumes {
    fn users(&self, key: &ObjectKey) -> Vec<User> {
        let containers = self.context.informers.containers.list();
        let mounting = containers.iter().filter(|container| mounts_of(container).contains(key));
        mounting
            .map(|container| User {
                name: container.name().to_owned(),
                node: container.status.as_ref().and_then(|status| status.node_name.clone()),
                created: container.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()).unwrap_or_default(),
            })
            .collect()
    }
}

/// What a volume's status should say.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    phase: VolumePhase,
    node_name: Option<String>,
    status: ConditionStatus,
    reason: String,
    message: String,
    severity: Option<Severity>,
}

fn plan(volume: &Volume, users: &[User]) -> Plan {
    let old = volume.status.as_ref();
    let bound = old.and_then(|status| status.node_name.clone());
    let first_user = || users.iter().filter(|user| user.node.is_some()).min_by_key(|user| (user.created, &user.name))?.node.clone();
    let node_name = bound.or_else(|| volume.spec.node_name.clone()).or_else(first_user);
    let data = old.and_then(|status| find_condition(&status.conditions, "DataReady"));
    let failed = data.is_some_and(|data| data.status == ConditionStatus::False);
    let phase = match (&node_name, failed, users) {
        (None, ..) => VolumePhase::Pending,
        (Some(_), true, _) => VolumePhase::Failed,
        (Some(_), false, []) => VolumePhase::Bound,
        (Some(_), false, _) => VolumePhase::InUse,
    };
    let (status, reason, message, severity) = readiness(volume, users, node_name.as_deref(), data);
    Plan { phase, node_name, status, reason, message, severity }
}

fn readiness(
    volume: &Volume,
    users: &[User],
    node: Option<&str>,
    data: Option<&Condition>,
) -> (ConditionStatus, String, String, Option<Severity>) {
    if volume.is_terminating() {
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        let (reason, message) = match (names.as_slice(), node) {
            ([], Some(node)) => ("Deleting", format!("is being deleted; node \"{node}\" takes care of the data")),
            ([], None) => ("Deleting", "is being deleted".to_owned()),
            _ => ("InUse", format!("is being deleted once these containers are gone: {}; delete them", names.join(", "))),
        };
        return (ConditionStatus::False, reason.to_owned(), message, (reason == "InUse").then_some(Severity::Warning));
    }
    if let (Some(pin), Some(node)) = (volume.spec.node_name.as_deref(), node)
        && pin != node
    {
        let message = format!("the data is on node \"{node}\" but spec.nodeName is \"{pin}\"; set it back, or make a new volume there");
        return (ConditionStatus::False, "NodeNameChanged".to_owned(), message, Some(Severity::Warning));
    }
    match (node, data) {
        (None, _) => {
            let message = "no container mounts it yet; it is made on the node of the first one that does, or set spec.nodeName".to_owned();
            (ConditionStatus::False, "WaitForFirstConsumer".to_owned(), message, None)
        }
        (Some(node), None) => (ConditionStatus::False, "Creating".to_owned(), format!("node \"{node}\" makes the directory"), None),
        (Some(node), Some(data)) if data.is_true() => {
            (ConditionStatus::True, "DataReady".to_owned(), format!("the data is on node \"{node}\""), Some(Severity::Normal))
        }
        (Some(_), Some(data)) => (data.status, data.reason.clone(), data.message.clone(), Some(Severity::Warning)),
    }
}

#[cfg(test)]
mod tests {
    use gantry_api::kinds::volume::VolumeSpec;
    use gantry_api::meta::Time;
    use jiff::Timestamp;

    use super::*;

    fn volume(pin: Option<&str>, node: Option<&str>, data: Option<(ConditionStatus, &str)>) -> Volume {
        let mut volume = Volume::new("ns", "v", VolumeSpec { node_name: pin.map(Into::into), ..VolumeSpec::default() });
        let condition =
            |(status, reason): (ConditionStatus, &str)| Condition::new("DataReady", status, reason, "m", 1, Time(Timestamp::UNIX_EPOCH));
        volume.status = Some(VolumeStatus {
            node_name: node.map(Into::into),
            conditions: data.map(condition).into_iter().collect(),
            ..VolumeStatus::default()
        });
        volume
    }

    fn user(name: &str, node: Option<&str>, created: i64) -> User {
        User { name: name.into(), node: node.map(Into::into), created }
    }

    #[test]
    fn it_is_bound_once_to_its_pin_or_its_first_user() {
        let users = [user("a", Some("late"), 9), user("b", Some("early"), 3), user("c", None, 1)];
        let node = |volume: &Volume| plan(volume, &users).node_name;
        assert_eq!(node(&volume(None, None, None)).as_deref(), Some("early"));
        assert_eq!(node(&volume(Some("pin"), None, None)).as_deref(), Some("pin"));
        assert_eq!(node(&volume(None, Some("bound"), None)).as_deref(), Some("bound"));
        assert_eq!(plan(&volume(None, None, None), &users[2..]).node_name, None);
    }

    #[test]
    fn phase_and_ready_follow_users_and_data() {
        use ConditionStatus::{False, True};
        let users = [user("a", Some("n"), 1)];
        for (volume, users, phase, status, reason) in [
            (volume(None, None, None), &users[..0], VolumePhase::Pending, False, "WaitForFirstConsumer"),
            (volume(None, Some("n"), None), &users[..0], VolumePhase::Bound, False, "Creating"),
            (volume(None, Some("n"), Some((True, "Made"))), &users[..0], VolumePhase::Bound, True, "DataReady"),
            (volume(None, Some("n"), Some((True, "Made"))), &users[..], VolumePhase::InUse, True, "DataReady"),
            (volume(None, Some("n"), Some((False, "DiskFull"))), &users[..], VolumePhase::Failed, False, "DiskFull"),
            (volume(Some("m"), Some("n"), Some((True, "Made"))), &users[..], VolumePhase::InUse, False, "NodeNameChanged"),
        ] {
            let plan = plan(&volume, users);
            assert_eq!((plan.phase, plan.status, plan.reason.as_str()), (phase, status, reason));
        }
    }

    #[test]
    fn a_volume_on_its_way_out_says_whom_it_waits_for() {
        let mut volume = volume(None, Some("n"), None);
        volume.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let waiting = plan(&volume, &[user("web", Some("n"), 1), user("db", None, 2)]);
        assert_eq!(waiting.reason, "InUse");
        assert!(waiting.message.contains("web, db"), "{}", waiting.message);
        assert_eq!(plan(&volume, &[]).reason, "Deleting");
    }
}
