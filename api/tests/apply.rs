//! Server-side apply against tables of cases: `apply/*.table`, one heading and a few lines a case.
//!
//! ```text
//! == heading: the rule
//! schemas NAME…                 run with each of these schemas
//! ONE applies|forces|updates {…}  [but TWO has .path; … | but wrong path]
//! becomes NAME | becomes version V
//! holds {…}                     the object, without its metadata
//! ONE owns .path …              exactly these; all owners are named once any is
//! nobody owns
//! ```

#![expect(clippy::unwrap_used, reason = "a test")]

mod schemas;

use std::collections::BTreeMap;

use gantry_api::patch::{PatchError, Writer, apply, track_update};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The state of one case.
struct Case {
    schema: Value,
    version: String,
    live: Option<Value>,
    /// Each step is a second.
    clock: i64,
}

impl Case {
    fn writer<'a>(&'a self, manager: &'a str, force: bool) -> Writer<'a> {
        let time = Timestamp::from_second(self.clock).unwrap();
        Writer { manager, api_version: &self.version, subresource: "", time, force }
    }

    fn object(&self, fields: &Value) -> Value {
        let mut object = json!({"apiVersion": self.version, "kind": "Case", "metadata": {"name": "case"}});
        object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        object
    }

    fn write(&mut self, manager: &str, verb: &str, rest: &str) -> Result<(), String> {
        let (fields, but) = rest.split_once(" but ").map_or((rest, None), |(fields, but)| (fields, Some(but)));
        let fields: Value = serde_saphyr::from_str(fields).map_err(|error| error.to_string())?;
        let config = self.object(&fields);
        self.clock += 1;
        let writer = self.writer(manager, verb == "forces");
        let result = if verb == "updates" {
            let mut new = config;
            if let Some(live) = &self.live {
                new["metadata"] = live["metadata"].clone();
            }
            track_update(self.live.as_ref(), &mut new, &self.schema, &writer);
            Ok(new)
        } else {
            apply(self.live.as_ref(), &config, &self.schema, &writer)
        };
        let refused = match &result {
            Ok(_) => None,
            Err(PatchError::Conflicts(conflicts)) => {
                let mut all: Vec<String> =
                    conflicts.iter().map(|c| format!("{} has {}", c.manager.split('"').nth(1).unwrap(), c.field)).collect();
                all.sort();
                Some(all.join("; "))
            }
            Err(PatchError::Invalid { path, .. }) => Some(format!("wrong {path}")),
            Err(error) => Some(error.to_string()),
        };
        if refused.as_deref() != but {
            return Err(format!("refused: {refused:?}, expected {but:?}"));
        }
        if let Ok(object) = result {
            self.live = Some(object);
        }
        self.check_invariants()
    }

    /// What holds after every write: nobody owns what is not there.
    fn check_invariants(&self) -> Result<(), String> {
        let Some(live) = &self.live else { return Ok(()) };
        for (owner, paths) in self.owners() {
            let mut there = Vec::new();
            every_path(live, &mut there);
            let fields = |path: &&String| !path.contains('[');
            if let Some(path) = paths.iter().filter(fields).find(|path| !there.contains(path)) {
                return Err(format!("{owner} owns {path}, which is not there: {live}"));
            }
        }
        Ok(())
    }

    fn owners(&self) -> BTreeMap<String, Vec<String>> {
        let entries = self.live.as_ref().and_then(|live| live["metadata"]["managedFields"].as_array().cloned()).unwrap_or_default();
        let owner = |entry: &Value| {
            let mut paths = Vec::new();
            written("", &entry["fieldsV1"], &mut paths);
            paths.sort();
            (entry["manager"].as_str().unwrap().to_owned(), paths)
        };
        entries.iter().map(owner).collect()
    }

    fn step(&mut self, line: &str, owned: &mut Option<BTreeMap<String, Vec<String>>>) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap(), words.next().unwrap_or_default());
        let rest = |from: &str| line.split_once(from).map(|(_, rest)| rest.trim().to_owned()).unwrap_or_default();
        if second != "owns"
            && let Some(owned) = owned.take()
        {
            self.compare(&owned)?;
        }
        match (first, second) {
            ("becomes", "version") => self.version = words.next().unwrap().to_owned(),
            ("becomes", name) => self.schema = schemas::named(name),
            ("holds", _) => {
                let wanted = self.object(&serde_saphyr::from_str(&rest("holds")).map_err(|error| error.to_string())?);
                let mut held = self.live.clone().unwrap_or_else(|| self.object(&json!({})));
                held["metadata"] = json!({"name": "case"});
                held["apiVersion"] = json!(self.version);
                if held != wanted {
                    return Err(format!("holds {held}"));
                }
            }
            ("nobody", "owns") => *owned = Some(BTreeMap::new()),
            (owner, "owns") => {
                let mut paths: Vec<String> = words.map(str::to_owned).collect();
                paths.sort();
                owned.get_or_insert_default().insert(owner.to_owned(), paths);
            }
            (manager, verb @ ("applies" | "forces" | "updates")) => self.write(manager, verb, &rest(verb))?,
            _ => return Err("what does this line say?".to_owned()),
        }
        Ok(())
    }

    fn compare(&self, wanted: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
        let found = self.owners();
        if found == *wanted { Ok(()) } else { Err(format!("owners are {found:?}, expected {wanted:?}")) }
    }
}

/// The paths of FieldsV1, by a reader of the test's own.
fn written(prefix: &str, fields: &Value, paths: &mut Vec<String>) {
    let fields = fields.as_object().unwrap();
    if (fields.is_empty() || fields.contains_key(".")) && !prefix.is_empty() {
        paths.push(prefix.to_owned());
    }
    for (key, below) in fields.iter().filter(|(key, _)| *key != ".") {
        let step = match key.split_once(':').unwrap() {
            ("f", name) => format!(".{name}"),
            ("v", value) => format!("[={value}]"),
            ("k", keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap();
                format!("[{}]", keys.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","))
            }
            other => panic!("{other:?}"),
        };
        written(&format!("{prefix}{step}"), below, paths);
    }
}

/// The paths of an object's fields, lists not entered.
fn every_path(value: &Value, paths: &mut Vec<String>) {
    let mut open = vec![(String::new(), value)];
    while let Some((prefix, value)) = open.pop() {
        for (name, field) in value.as_object().into_iter().flatten() {
            let path = format!("{prefix}.{name}");
            paths.push(path.clone());
            open.push((path, field));
        }
    }
}

fn run(case: &str) -> Vec<String> {
    let mut lines = case.lines().map(str::trim).filter(|line| !line.is_empty());
    let heading = lines.next().unwrap();
    let names = lines.next().and_then(|line| line.strip_prefix("schemas ")).unwrap_or_else(|| panic!("{heading}: no schemas"));
    let steps: Vec<&str> = lines.collect();
    let mut failures = Vec::new();
    for name in names.split_whitespace() {
        let mut state = Case { schema: schemas::named(name), version: "v1".to_owned(), live: None, clock: 0 };
        let mut owned = None;
        let mut result = Ok(());
        for step in &steps {
            result = state.step(step, &mut owned).map_err(|error| format!("{heading} ({name})\n    {step}\n    {error}"));
            if result.is_err() {
                break;
            }
        }
        let end = owned.take().map_or(Ok(()), |owned| state.compare(&owned).map_err(|error| format!("{heading} ({name})\n    {error}")));
        failures.extend(result.and(end).err());
    }
    failures
}

#[test]
fn the_tables_hold() {
    let mut count = 0;
    let mut failures = Vec::new();
    for table in [
        include_str!("apply/scalars.table"),
        include_str!("apply/sets.table"),
        include_str!("apply/items.table"),
        include_str!("apply/nested.table"),
        include_str!("apply/changes.table"),
    ] {
        for case in table.split("\n== ").skip(1) {
            count += 1;
            failures.extend(run(case));
        }
    }
    assert!(failures.is_empty(), "{} of {count} cases fail:\n{}", failures.len(), failures.join("\n"));
    assert!(count > 60, "only {count} cases were read");
}
