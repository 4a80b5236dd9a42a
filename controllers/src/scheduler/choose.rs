//! The choice of a node: a pure function of the container's demands and the nodes.

use std::collections::BTreeMap;

/// What a container demands of its node.
pub(super) struct Demand<'a> {
    /// `spec.nodeName`.
    pub(super) pin: Option<&'a str>,
    /// `spec.nodeSelector`.
    pub(super) selector: &'a BTreeMap<String, String>,
    /// Its volumes.
    pub(super) volumes: Vec<VolumeDemand>,
}

/// What one volume demands of the node.
pub(super) struct VolumeDemand {
    pub(super) name: String,
    pub(super) exists: bool,
    /// Where its data is or will be, when that is settled.
    pub(super) node: Option<String>,
    /// The container that has it to itself.
    pub(super) held_by: Option<String>,
}

/// A node as far as the choice is concerned.
pub(super) struct Candidate<'a> {
    pub(super) name: &'a str,
    pub(super) labels: Option<&'a BTreeMap<String, String>>,
    pub(super) ready: bool,
    pub(super) schedulable: bool,
    /// How many containers are bound to it.
    pub(super) containers: usize,
}

/// The outcome.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This node.
    Node(String),
    /// None, and why.
    None(Unfit),
}

/// Why no node fits, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    /// CamelCase word.
    pub(super) reason: &'static str,
    /// One sentence.
    pub(super) message: String,
}

impl Choice {
    fn none(reason: &'static str, message: String) -> Self {
        Self::None(Unfit { reason, message })
    }
}

/// Chooses the node with the fewest containers among those that fit; the first by name among equals.
///
/// A pin overrides `unschedulable`, as Kubernetes' does, but not readiness.
pub(super) fn choose_node(demand: &Demand<'_>, nodes: &[Candidate<'_>]) -> Choice {
    if let Some((volume, holder)) = demand.volumes.iter().find_map(|volume| Some((volume, volume.held_by.as_ref()?))) {
        let message = format!(
            "volume \"{}\" is ReadWriteOnce and container \"{holder}\" has it; delete that container or use another volume",
            volume.name
        );
        return Choice::none("VolumeInUse", message);
    }
    let required = match required_node(demand) {
        Ok(required) => required,
        Err(unfit) => return Choice::None(unfit),
    };
    if let Some((required, why)) = &required
        && !nodes.iter().any(|node| node.name == required)
    {
        let message = format!("{why} names node \"{required}\", which does not exist; create the node or change {why}");
        return Choice::none("NodeNotFound", message);
    }
    if nodes.is_empty() {
        return Choice::none("NoReadyNode", "there is no node yet; start an agent".to_owned());
    }
    let mut fitting: Vec<&Candidate<'_>> = Vec::new();
    let mut rejected = Rejected::default();
    for node in nodes {
        match rejected.admit(demand, required.as_ref().map(|(name, _)| name.as_str()), node) {
            true => fitting.push(node),
            false => continue,
        }
    }
    if let ([_, _, ..], Some(missing)) = (fitting.as_slice(), demand.volumes.iter().find(|volume| !volume.exists)) {
        let message = format!("volume \"{}\" does not exist, and where it will be decides the node; create it", missing.name);
        return Choice::none("VolumeNotFound", message);
    }
    match fitting.into_iter().min_by_key(|node| (node.containers, node.name)) {
        Some(node) => Choice::Node(node.name.to_owned()),
        None => Choice::None(rejected.explain(demand)),
    }
}

/// The one node that pin and volumes leave, if they do, and which of them says so.
fn required_node(demand: &Demand<'_>) -> Result<Option<(String, String)>, Unfit> {
    let mut required = demand.pin.map(|pin| (pin.to_owned(), "spec.nodeName".to_owned()));
    for volume in &demand.volumes {
        let Some(node) = &volume.node else { continue };
        let why = format!("volume \"{}\"", volume.name);
        match &required {
            Some((other, other_why)) if other != node => {
                let message = format!("{why} is on node \"{node}\" but {other_why} requires node \"{other}\"; change one of them");
                return Err(Unfit { reason: "VolumeNodeConflict", message });
            }
            Some(_) => {}
            None => required = Some((node.clone(), why)),
        }
    }
    Ok(required)
}

/// How many nodes were ruled out, by what.
#[derive(Default)]
struct Rejected {
    elsewhere: usize,
    selector: usize,
    unready: usize,
    unschedulable: usize,
}

impl Rejected {
    /// Whether `node` fits; counts why not.
    fn admit(&mut self, demand: &Demand<'_>, required: Option<&str>, node: &Candidate<'_>) -> bool {
        let selected = demand.selector.iter().all(|(key, value)| node.labels.and_then(|labels| labels.get(key)) == Some(value));
        let counter = if required.is_some_and(|required| required != node.name) {
            &mut self.elsewhere
        } else if !selected {
            &mut self.selector
        } else if !node.ready {
            &mut self.unready
        } else if !node.schedulable && demand.pin.is_none() {
            &mut self.unschedulable
        } else {
            return true;
        };
        *counter += 1;
        false
    }

    fn explain(&self, demand: &Demand<'_>) -> Unfit {
        let counts = [
            (self.unready, "not ready (start its agent, or see its conditions)"),
            (self.unschedulable, "unschedulable (uncordon it)"),
            (self.selector, "without the labels of spec.nodeSelector (label a node, or change the selector)"),
            (self.elsewhere, "not the one that its pin or its volumes require"),
        ];
        let parts: Vec<String> = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        let only_unready = self.unready > 0 && self.selector == 0 && self.unschedulable == 0;
        let reason = if only_unready && demand.selector.is_empty() { "NoReadyNode" } else { "NoNodeFits" };
        Unfit { reason, message: format!("no node fits: {}", parts.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, containers: usize) -> Candidate<'_> {
        Candidate { name, labels: None, ready: true, schedulable: true, containers }
    }

    fn volume(name: &str, node: Option<&str>) -> VolumeDemand {
        VolumeDemand { name: name.into(), exists: true, node: node.map(Into::into), held_by: None }
    }

    fn choose(pin: Option<&str>, selector: &[(&str, &str)], volumes: Vec<VolumeDemand>, nodes: &[Candidate<'_>]) -> Result<String, Unfit> {
        let selector = selector.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        match choose_node(&Demand { pin, selector: &selector, volumes }, nodes) {
            Choice::Node(node) => Ok(node),
            Choice::None(unfit) => Err(unfit),
        }
    }

    fn reason(outcome: Result<String, Unfit>) -> &'static str {
        outcome.expect_err("no node should fit").reason
    }

    #[test]
    fn the_emptiest_node_wins_then_the_first_by_name() {
        assert_eq!(choose(None, &[], vec![], &[node("a", 2), node("b", 1), node("c", 1)]).unwrap(), "b");
    }

    #[test]
    fn pins_selectors_and_volumes_narrow_the_choice() {
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        let nodes = [node("a", 0), Candidate { labels: Some(&labels), ..node("b", 9) }];
        assert_eq!(choose(Some("b"), &[], vec![], &nodes).unwrap(), "b");
        assert_eq!(choose(None, &[("disk", "ssd")], vec![], &nodes).unwrap(), "b");
        assert_eq!(choose(None, &[], vec![volume("v", None), volume("w", Some("b"))], &nodes).unwrap(), "b");
        assert_eq!(reason(choose(None, &[("disk", "hdd")], vec![], &nodes)), "NoNodeFits");
        assert_eq!(reason(choose(Some("a"), &[], vec![volume("w", Some("b"))], &nodes)), "VolumeNodeConflict");
        assert_eq!(reason(choose(None, &[], vec![volume("v", Some("a")), volume("w", Some("b"))], &nodes)), "VolumeNodeConflict");
        assert_eq!(reason(choose(Some("z"), &[], vec![], &nodes)), "NodeNotFound");
        assert_eq!(reason(choose(None, &[], vec![volume("v", Some("z"))], &nodes)), "NodeNotFound");
    }

    #[test]
    fn nodes_that_take_none_are_left_out() {
        assert_eq!(reason(choose(None, &[], vec![], &[])), "NoReadyNode");
        let unready = [Candidate { ready: false, ..node("a", 0) }];
        assert_eq!(reason(choose(None, &[], vec![], &unready)), "NoReadyNode");
        assert_eq!(reason(choose(Some("a"), &[], vec![], &unready)), "NoReadyNode");
        let cordoned = [Candidate { schedulable: false, ..node("a", 0) }];
        assert_eq!(reason(choose(None, &[], vec![], &cordoned)), "NoNodeFits");
        assert_eq!(choose(Some("a"), &[], vec![], &cordoned).unwrap(), "a");
    }

    #[test]
    fn a_missing_volume_holds_back_only_a_choice_that_it_could_change() {
        let missing = || vec![VolumeDemand { exists: false, ..volume("v", None) }];
        assert_eq!(choose(None, &[], missing(), &[node("a", 0)]).unwrap(), "a");
        assert_eq!(reason(choose(None, &[], missing(), &[node("a", 0), node("b", 0)])), "VolumeNotFound");
    }

    #[test]
    fn an_exclusive_volume_has_one_container() {
        let held = vec![VolumeDemand { held_by: Some("other".into()), ..volume("v", Some("a")) }];
        assert_eq!(reason(choose(None, &[], held, &[node("a", 0)])), "VolumeInUse");
    }
}
