//! The resolver of an Image and its summary condition: pure functions of what is reported.

use gantry_api::Kind as _;
use gantry_api::kinds::image::{Image, ImageNodePhase, ImageStatus};
use gantry_api::meta::{Condition, ConditionStatus, Time, find_condition};

use crate::runtime::Severity;

/// A node as far as resolving is concerned.
pub(super) struct NodeFacts<'a> {
    pub(super) name: &'a str,
    pub(super) ready: bool,
}

/// The node that resolves: the present one while it exists, else that of a waiting container, else the first ready one.
pub(super) fn choose_resolver(current: Option<&str>, waiting: Option<&str>, nodes: &[NodeFacts<'_>]) -> Option<String> {
    let exists = |name: &&str| nodes.iter().any(|node| node.name == *name);
    let first_ready = || nodes.iter().filter(|node| node.ready).map(|node| node.name).min();
    current.filter(exists).or_else(|| waiting.filter(exists)).or_else(first_ready).map(ToOwned::to_owned)
}

/// The condition `Ready`, without generation and time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) status: ConditionStatus,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Summary {
    fn new(status: ConditionStatus, reason: &str, message: String) -> Self {
        Self { status, reason: reason.to_owned(), message }
    }

    fn not_ready(reason: &str, message: String) -> Self {
        Self::new(ConditionStatus::False, reason, message)
    }

    pub(super) fn condition(self, generation: i64, now: Time) -> Condition {
        Condition::new("Ready", self.status, &self.reason, self.message, generation, now)
    }

    /// How an event tells of it; `None` when people need not hear of it.
    pub(super) fn severity(&self) -> Option<Severity> {
        match self.reason.as_str() {
            "Present" => Some(Severity::Normal),
            "Resolving" | "Pulling" | "Unpacking" => None,
            _ => Some(Severity::Warning),
        }
    }
}

/// Ready when the resolver has resolved this generation and holds the image; else what it waits for, or the agent's own words.
pub(super) fn summarize(image: &Image, status: &ImageStatus) -> Summary {
    let Some(resolver) = status.resolver_node_name.as_deref() else {
        return Summary::not_ready("NoReadyNode", "no node is there to fetch the image; start an agent".to_owned());
    };
    let resolved = find_condition(&status.conditions, "Resolved");
    // A verdict on an earlier spec says nothing of this one.
    let current = resolved.filter(|condition| condition.observed_generation.is_none_or(|seen| seen >= image.generation()));
    match current {
        None => return Summary::not_ready("Resolving", format!("node \"{resolver}\" resolves the image")),
        Some(resolved) if !resolved.is_true() => return Summary::not_ready(&resolved.reason, resolved.message.clone()),
        Some(_) => {}
    }
    let Some(node) = status.nodes.iter().find(|node| node.name == resolver) else {
        return Summary::not_ready("Pulling", format!("node \"{resolver}\" is about to fetch the image"));
    };
    match node.phase {
        ImageNodePhase::Present => Summary::new(ConditionStatus::True, "Present", format!("resolved, and present on node \"{resolver}\"")),
        ImageNodePhase::Pulling => Summary::not_ready("Pulling", format!("node \"{resolver}\" fetches the image")),
        ImageNodePhase::Unpacking => Summary::not_ready("Unpacking", format!("node \"{resolver}\" unpacks the image")),
        ImageNodePhase::Failed => {
            let message = node.message.clone().unwrap_or_else(|| format!("node \"{resolver}\" could not fetch the image; see its events"));
            Summary::not_ready("PullFailed", message)
        }
    }
}

#[cfg(test)]
mod tests {
    use gantry_api::kinds::image::{ImageNodeStatus, ImageSpec};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_resolver_moves_only_when_its_node_is_gone() {
        let nodes = [NodeFacts { name: "b", ready: true }, NodeFacts { name: "a", ready: true }, NodeFacts { name: "0", ready: false }];
        let choose = |current, waiting| choose_resolver(current, waiting, &nodes);
        assert_eq!(choose(Some("0"), Some("b")).as_deref(), Some("0"));
        assert_eq!(choose(Some("gone"), Some("b")).as_deref(), Some("b"));
        assert_eq!(choose(None, Some("gone")).as_deref(), Some("a"));
        assert_eq!(choose(None, None).as_deref(), Some("a"));
        assert_eq!(choose_resolver(Some("gone"), None, &[]), None);
    }

    fn resolved(status: ConditionStatus, reason: &str, message: &str, generation: i64) -> Condition {
        Condition::new("Resolved", status, reason, message, generation, Time(Timestamp::UNIX_EPOCH))
    }

    fn reason(conditions: Vec<Condition>, phase: Option<ImageNodePhase>, resolver: Option<&str>) -> (ConditionStatus, String) {
        let mut image = Image::new("ns", "web", ImageSpec::default());
        image.metadata.generation = Some(2);
        let node = |phase| ImageNodeStatus { name: "n".into(), phase, progress: None, message: Some("disk full".into()), since: None };
        let status = ImageStatus {
            resolver_node_name: resolver.map(Into::into),
            conditions,
            nodes: phase.map(node).into_iter().collect(),
            ..ImageStatus::default()
        };
        let summary = summarize(&image, &status);
        (summary.status, summary.reason)
    }

    #[test]
    fn ready_needs_a_verdict_on_this_generation_and_the_content() {
        use ConditionStatus::{False, True};
        let yes = || vec![resolved(True, "Resolved", "", 2)];
        let cases = [
            (reason(vec![], None, None), (False, "NoReadyNode")),
            (reason(vec![], None, Some("n")), (False, "Resolving")),
            (reason(vec![resolved(True, "Resolved", "", 1)], Some(ImageNodePhase::Present), Some("n")), (False, "Resolving")),
            (reason(vec![resolved(False, "Unauthorized", "401", 2)], None, Some("n")), (False, "Unauthorized")),
            (reason(yes(), None, Some("n")), (False, "Pulling")),
            (reason(yes(), Some(ImageNodePhase::Unpacking), Some("n")), (False, "Unpacking")),
            (reason(yes(), Some(ImageNodePhase::Failed), Some("n")), (False, "PullFailed")),
            (reason(yes(), Some(ImageNodePhase::Present), Some("n")), (True, "Present")),
            (reason(yes(), Some(ImageNodePhase::Present), Some("other")), (False, "Pulling")),
        ];
        for ((status, reason), expected) in &cases {
            assert_eq!((*status, reason.as_str()), *expected);
        }
    }
}
