//! Which names of a CustomResourceDefinition are accepted, and the conditions that say so.
//!
//! Source: `k8s.io/apiextensions-apiserver/pkg/controller/status`, the naming controller.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::node::texts;

/// Condition: all names are its own.
const ACCEPTED: &str = "NamesAccepted";
/// Condition: it is served.
pub(super) const ESTABLISHED: &str = "Established";

/// The status that a definition should have beside `others`, whose accepted names are taken. `now`: a time in RFC 3339, for conditions
/// that change.
pub fn settle(definition: &Value, others: &[&Value], now: &str) -> Value {
    let taken = Taken::by(definition, others);
    let spec = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let mut accepted = definition.pointer("/status/acceptedNames").filter(|names| names.is_object()).cloned().unwrap_or_else(|| json!({}));
    let mut problem: Option<(&str, String)> = None;
    let mut refuse = |reason, message: String| problem = problem.take().or(Some((reason, message)));
    for (field, reason, names) in [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ] {
        let wanted = spec[field].as_str().unwrap_or_default();
        if names.contains(wanted) {
            refuse(reason, format!("{wanted:?} is already in use"));
        } else {
            accepted[field] = spec[field].clone();
        }
    }
    let short = texts(spec.get("shortNames"));
    match short.iter().find(|name| taken.resources.contains(*name)) {
        Some(name) => refuse("ShortNamesConflict", format!("{name:?} is already in use")),
        None => copy(&spec, &mut accepted, "shortNames"),
    }
    copy(&spec, &mut accepted, "categories");
    let mut status = definition.get("status").filter(|status| status.is_object()).cloned().unwrap_or_else(|| json!({}));
    status["acceptedNames"] = accepted;
    let was_established = is_established(definition);
    let (names, established) = match problem {
        None => {
            let established = ("True", "InitialNamesAccepted", "the initial names have been accepted".to_owned());
            (("True", "NoConflicts", "no conflicts found".to_owned()), established)
        }
        Some((reason, message)) => (("False", reason, message), ("False", "NotAccepted", "not all names are accepted".to_owned())),
    };
    set_condition(&mut status, ACCEPTED, names, now);
    if !was_established {
        set_condition(&mut status, ESTABLISHED, established, now);
    }
    status
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    match (from.get(field), to.as_object_mut()) {
        (Some(value), _) => to[field] = value.clone(),
        (None, Some(fields)) => drop(fields.remove(field)),
        (None, None) => {}
    }
}

/// Whether a definition is served. Once it was, it stays so.
pub fn is_established(definition: &Value) -> bool {
    conditions(definition).any(|condition| condition["type"] == ESTABLISHED && condition["status"] == "True")
}

/// Whether a definition has all names that it asks for, so that nothing is left to decide: nobody else can get them.
pub fn is_settled(definition: &Value) -> bool {
    let accepted = conditions(definition).any(|condition| condition["type"] == ACCEPTED && condition["status"] == "True");
    let names = |pointer: &str, field: &str| definition.pointer(pointer).and_then(|names| names.get(field)).cloned();
    let same = |field: &&str| names("/spec/names", field) == names("/status/acceptedNames", field);
    let fields = ["plural", "singular", "kind", "listKind", "shortNames", "categories"];
    accepted && is_established(definition) && fields.iter().all(same)
}

fn conditions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

/// Sets a condition; its time changes with its status only.
pub fn set_condition(status: &mut Value, type_: &str, (value, reason, message): (&str, &str, String), now: &str) {
    let mut condition = json!({"type": type_, "status": value, "reason": reason, "message": message, "lastTransitionTime": now});
    let list = status.get_mut("conditions").map(Value::take).unwrap_or_default();
    let mut list: Vec<Value> = if let Value::Array(list) = list { list } else { Vec::new() };
    match list.iter_mut().find(|old| old["type"] == type_) {
        Some(old) => {
            if old["status"] == value {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => list.push(condition),
    }
    status["conditions"] = list.into();
}

/// Names that others have in the same group.
struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    fn by(definition: &Value, others: &[&Value]) -> Self {
        let mut taken = Self { resources: BTreeSet::new(), kinds: BTreeSet::new() };
        let same = |other: &&&Value| {
            other.pointer("/metadata/name") != definition.pointer("/metadata/name")
                && other.pointer("/spec/group") == definition.pointer("/spec/group")
        };
        for names in others.iter().filter(same).filter_map(|other| other.pointer("/status/acceptedNames")) {
            let text = |field: &str| names.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
            taken.resources.extend(text("plural").into_iter().chain(text("singular")).chain(texts(names.get("shortNames"))));
            taken.kinds.extend(text("kind").into_iter().chain(text("listKind")));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, kind: &str, short: &[&str], status: &Value) -> Value {
        json!({"metadata": {"name": name}, "spec": {"group": "example.com", "names": {"plural": name, "singular": kind.to_lowercase(), "kind": kind,
            "listKind": format!("{kind}List"), "shortNames": short}}, "status": status})
    }

    fn said(status: &Value, type_: &str) -> (String, String) {
        let condition = status["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == type_).unwrap();
        (condition["status"].as_str().unwrap().to_owned(), condition["reason"].as_str().unwrap().to_owned())
    }

    #[test]
    fn the_first_has_its_names_and_the_second_says_which_it_lacks() {
        let mut first = definition("widgets", "Widget", &["wd"], &Value::Null);
        first["status"] = settle(&first, &[], "t1");
        assert_eq!(said(&first["status"], "Established"), ("True".to_owned(), "InitialNamesAccepted".to_owned()));
        assert_eq!(first["status"]["acceptedNames"]["shortNames"], json!(["wd"]));
        for (second, reason) in [
            (definition("gadgets", "Gadget", &["wd"], &Value::Null), "ShortNamesConflict"),
            (definition("gadgets", "Widget", &[], &Value::Null), "SingularConflict"),
            (definition("wd", "Gadget", &[], &Value::Null), "PluralConflict"),
        ] {
            let status = settle(&second, &[&first, &second], "t2");
            assert_eq!(said(&status, "NamesAccepted"), ("False".to_owned(), reason.to_owned()));
            assert_eq!(said(&status, "Established").0, "False");
        }
        let mut elsewhere = definition("wd", "Widget", &[], &Value::Null);
        elsewhere["spec"]["group"] = json!("other.example.com");
        assert_eq!(said(&settle(&elsewhere, &[&first], "t2"), "Established").0, "True");
    }

    #[test]
    fn what_was_established_stays_so_and_times_stay_with_statuses() {
        let mut first = definition("widgets", "Widget", &[], &Value::Null);
        first["status"] = settle(&first, &[], "t1");
        let other = definition("gadgets", "Gadget", &[], &json!({"acceptedNames": {"plural": "gadgets", "shortNames": ["g"]}}));
        first["spec"]["names"]["shortNames"] = json!(["g"]);
        let status = settle(&first, &[&other], "t2");
        assert_eq!(said(&status, "NamesAccepted").0, "False");
        assert_eq!(said(&status, "Established").0, "True");
        assert_eq!(status["acceptedNames"].get("shortNames"), Some(&json!([])), "the old ones stay");
        assert_eq!(settle(&first, &[], "t3")["conditions"][1]["lastTransitionTime"], "t1");
    }
}
