//! Server-side apply by several random appliers: what must hold whatever they wish.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod schemas;

use std::collections::{BTreeMap, BTreeSet};

use gantry_api::patch::{PatchError, Writer, apply};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, Value, json};

/// Rounds with `GANTRY_TEST_FULL`; a twentieth without.
const ROUNDS: u64 = 4_000;

fn rounds() -> u64 {
    if std::env::var_os("GANTRY_TEST_FULL").is_some() { ROUNDS } else { ROUNDS / 20 }
}

fn seeded() -> StdRng {
    let given = std::env::var("GANTRY_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::try_from(Timestamp::now().as_microsecond()).unwrap());
    eprintln!("seed: GANTRY_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn schema() -> Value {
    let mut schema = schemas::named("leaves");
    for other in ["things", "tools", "struct"] {
        let more = schemas::named(other);
        schema["properties"].as_object_mut().unwrap().extend(more["properties"].as_object().unwrap().clone());
    }
    schema
}

fn by(manager: &str, second: i64, force: bool) -> Writer<'_> {
    Writer { manager, api_version: "v1", subresource: "", time: Timestamp::from_second(second).unwrap(), force }
}

/// A random configuration; names of items, values and keys begin with `prefix`.
fn config(random: &mut StdRng, prefix: &str) -> Value {
    let mut fields = Map::new();
    let names = |random: &mut StdRng| -> Vec<String> {
        let mut names: Vec<String> = ["a", "b", "c", "d", "e"].iter().map(|name| format!("{prefix}{name}")).collect();
        names.retain(|_| random.random_bool(0.5));
        for at in (1..names.len()).rev() {
            names.swap(at, random.random_range(0..=at));
        }
        names
    };
    if prefix.is_empty() {
        for name in ["size", "on"] {
            if random.random_bool(0.4) {
                fields.insert(name.into(), if name == "on" { json!(random.random_bool(0.5)) } else { json!(random.random_range(0..3)) });
            }
        }
        if random.random_bool(0.4) {
            fields.insert("struct".into(), json!({"size": random.random_range(0..2)}));
        }
        if random.random_bool(0.3) {
            fields.insert("words".into(), json!(["x", random.random_range(0..2).to_string()]));
        }
    }
    if random.random_bool(0.6) {
        fields.insert("tags".into(), json!(names(random)));
    }
    if random.random_bool(0.6) {
        let entries = names(random).into_iter().map(|name| (name, json!(random.random_range(0..2).to_string())));
        fields.insert("free".into(), Value::Object(entries.collect()));
    }
    if random.random_bool(0.6) {
        let wished = names(random);
        let tool = |name: String| match random.random_range(0..3) {
            0 => json!({"name": name}),
            1 => json!({"name": name, "value": random.random_range(0..2)}),
            _ => json!({"name": name, "value": random.random_range(0..2), "other": random.random_range(0..2)}),
        };
        let tools: Vec<Value> = wished.into_iter().map(tool).collect();
        fields.insert("tools".into(), json!(tools));
    }
    let mut object = json!({"apiVersion": "v1", "kind": "Case", "metadata": {"name": "case"}});
    object.as_object_mut().unwrap().extend(fields);
    object
}

/// What an object says, by path; the order of lists apart.
fn leaves(object: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (name, field) in object.as_object().unwrap() {
        match name.as_str() {
            "apiVersion" | "kind" | "metadata" => {}
            "tags" | "tools" if field.as_array().unwrap().is_empty() => drop(found.insert(format!("f:{name}"), json!([]))),
            "tags" => field.as_array().unwrap().iter().for_each(|tag| drop(found.insert(format!("f:tags/v:{tag}"), Value::Null))),
            "free" | "struct" if field.as_object().unwrap().is_empty() => drop(found.insert(format!("f:{name}"), json!({}))),
            "free" | "struct" => {
                field.as_object().unwrap().iter().for_each(|(key, value)| drop(found.insert(format!("f:{name}/f:{key}"), value.clone())));
            }
            "tools" => {
                for tool in field.as_array().unwrap() {
                    let item = format!("f:tools/k:{}", json!({"name": tool["name"]}));
                    found.insert(item.clone(), Value::Null);
                    tool.as_object().unwrap().iter().for_each(|(key, value)| drop(found.insert(format!("{item}/f:{key}"), value.clone())));
                }
            }
            _ => drop(found.insert(format!("f:{name}"), field.clone())),
        }
    }
    found
}

fn owned(object: &Value) -> BTreeMap<String, BTreeSet<String>> {
    fn walk(prefix: &str, fields: &Value, paths: &mut BTreeSet<String>) {
        let fields = fields.as_object().unwrap();
        if !prefix.is_empty() && (fields.is_empty() || fields.contains_key(".")) {
            paths.insert(prefix.to_owned());
        }
        for (key, below) in fields.iter().filter(|(key, _)| *key != ".") {
            let slash = if prefix.is_empty() { "" } else { "/" };
            walk(&format!("{prefix}{slash}{key}"), below, paths);
        }
    }
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let owner = |entry: &Value| {
        let mut paths = BTreeSet::new();
        walk("", &entry["fieldsV1"], &mut paths);
        (entry["manager"].as_str().unwrap().to_owned(), paths)
    };
    entries.iter().map(owner).collect()
}

#[test]
fn appliers_share_an_object() {
    let (mut random, schema) = (seeded(), schema());
    for round in 0..rounds() {
        let mut live: Option<Value> = None;
        for step in 1..=8 {
            let manager = ["one", "two", "three"][random.random_range(0..3)];
            let wish = config(&mut random, "");
            let force = random.random_bool(0.4);
            let before = live.clone();
            let result = apply(live.as_ref(), &wish, &schema, &by(manager, step, force));
            let context = || format!("round {round} step {step}: {manager} applies {wish}\nto {}", before.as_ref().unwrap_or(&Value::Null));
            match result {
                Err(PatchError::Conflicts(conflicts)) => {
                    let before = before.as_ref().unwrap();
                    assert!(!force && !conflicts.is_empty(), "{}", context());
                    // Refused for a reason: somebody else owns a field that has another value.
                    let (held, wished) = (leaves(before), leaves(&wish));
                    let others = owned(before).into_iter().filter(|(owner, _)| owner != manager);
                    let contested = |path: &&String| wished.get(*path).is_some_and(|value| held.get(*path) != Some(value));
                    assert!(others.into_iter().any(|(_, paths)| paths.iter().any(|path| contested(&path))), "{}: {conflicts:?}", context());
                }
                Err(error) => panic!("{}: {error}", context()),
                Ok(object) => {
                    check(&object, manager, &wish, &context);
                    let again = apply(Some(&object), &wish, &schema, &by(manager, 100, false)).unwrap();
                    assert_eq!(again, object, "{}: applying twice", context());
                    live = Some(object);
                }
            }
        }
    }
}

fn hollow(value: &Value) -> bool {
    *value == json!({}) || *value == json!([])
}

/// What holds of an object that appliers alone have written.
fn check(object: &Value, manager: &str, wish: &Value, context: &dyn Fn() -> String) {
    let (held, owners) = (leaves(object), owned(object));
    for (path, value) in leaves(wish) {
        assert_eq!(held.get(&path), Some(&value).filter(|value| !hollow(value)).or(held.get(&path)), "{}: {path}", context());
    }
    let mine: BTreeSet<String> = leaves(wish).into_keys().collect();
    assert_eq!(owners.get(manager).cloned().unwrap_or_default(), mine, "{}: owns what it wishes", context());
    let all: BTreeSet<&String> = owners.values().flatten().collect();
    for path in held.keys() {
        // A container that has lost its last field may stay, empty, for who owns it.
        assert!(all.contains(path), "{}: nobody owns {path}, and it is there: {object}", context());
    }
    for path in &all {
        assert!(
            held.contains_key(*path) || held.keys().any(|key| key.starts_with(path.as_str())),
            "{}: {path} is owned, and gone",
            context()
        );
    }
}

#[test]
fn the_same_wish_is_shared_and_the_order_of_strangers_does_not_matter() {
    let (mut random, schema) = (seeded(), schema());
    for round in 0..rounds() {
        let wishes = [config(&mut random, ""), config(&mut random, "x-"), config(&mut random, "y-")];
        let run = |order: [usize; 3]| {
            let mut live = None;
            for at in order {
                live = Some(apply(live.as_ref(), &wishes[at], &schema, &by(["one", "two", "three"][at], 1, false)).unwrap());
            }
            live.unwrap()
        };
        let first = run([0, 1, 2]);
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let other = run(order);
            assert_eq!(leaves(&first), leaves(&other), "round {round} {order:?}: {wishes:?}");
            assert_eq!(first["metadata"], other["metadata"], "round {round} {order:?}: {wishes:?}");
        }
        let shared = apply(Some(&first), &wishes[0], &schema, &by("four", 2, false)).unwrap();
        assert_eq!(leaves(&first), leaves(&shared), "round {round}: {}", wishes[0]);
        assert_eq!(owned(&shared).get("four"), owned(&first).get("one"), "round {round}: {}", wishes[0]);
        // Each gives up: what is left is the others'.
        let empty = json!({"apiVersion": "v1", "kind": "Case", "metadata": {"name": "case"}});
        let mut live = shared;
        for manager in ["one", "two", "three", "four"] {
            live = apply(Some(&live), &empty, &schema, &by(manager, 3, false)).unwrap();
        }
        assert_eq!(live, empty, "round {round}: {wishes:?}");
    }
}
