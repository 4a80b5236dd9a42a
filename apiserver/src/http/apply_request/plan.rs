//! What becomes of every object of a file, and the operations that bring it about.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use gantry_api::patch::apply as apply_patch;
use gantry_api::references::references;
use gantry_api::registry::{KindInfo, KindRef, kinds};
use serde_json::Value;

use super::super::AppState;
use super::super::body::Decoded;
use super::super::delete::marked;
use super::super::dispatch::permit;
use super::super::error::ApiError;
use super::super::options::WriteOptions;
use super::super::patch::{check_config, failure};
use super::super::write::operation;
use super::Asked;
use super::defined::Defined;
use super::result::{refusal, refused, result};
use super::set::Set;
use crate::admission::{check_namespace, check_write};
use crate::auth::{Attributes, Identity};
use crate::definitions::{check_definition, room};
use crate::store::{Expect, Key, Op};
use crate::strategy::object::{decode_as, key, meta_text};
use crate::strategy::{self, Part, Prepared, claims};

/// What comes of a request.
pub(super) struct Planned {
    pub(super) results: Vec<Value>,
    pub(super) ops: Vec<Op>,
    /// Whether CustomResourceDefinitions are among the objects.
    pub(super) defines: bool,
}

/// One object of the file.
struct Item {
    kind: KindRef,
    namespace: String,
    name: String,
    config: Decoded,
    warnings: Vec<String>,
}

/// What becomes of one object.
pub(super) struct Step {
    pub(super) kind: KindRef,
    pub(super) key: Key,
    pub(super) old: Option<Value>,
    pub(super) prepared: Prepared,
    pub(super) warnings: Vec<String>,
    /// It leaves, for it has left the set.
    pub(super) pruned: bool,
    op: Option<Op>,
    checks: Vec<Op>,
}

/// Who asks, and how everything of the request is written.
#[derive(Clone, Copy)]
struct Context<'a> {
    server: &'a AppState,
    identity: &'a Identity,
    options: &'a WriteOptions,
    /// Namespaces that the file itself declares.
    declared: &'a BTreeSet<String>,
    /// Of objects that name none.
    namespace: &'a str,
    /// Kinds that the file itself defines.
    defined: &'a Defined,
}

/// The results and the operations of the whole request.
///
/// # Errors
/// All errors of all objects at once.
pub(super) fn plan(server: &AppState, identity: &Identity, asked: &Asked) -> Result<Planned, ApiError> {
    let declared = namespaces_of(&asked.objects);
    let defined = Defined::by(server, &asked.objects);
    let context =
        Context { server, identity, options: &asked.options, declared: &declared, namespace: &asked.namespace, defined: &defined };
    let mut file = File::default();
    for (object, duplicates) in asked.objects.iter().zip(&asked.duplicates) {
        let planned = identity_of(context, object).and_then(|(kind, namespace, name)| {
            let key = key(&kind, namespace, name);
            if !file.keys.insert(key.clone()) {
                return Err(ApiError::bad_request(format!("{} {name:?} stands twice in the request", kind.qualified())));
            }
            one(context, item(object, (kind, namespace, name), duplicates, asked)?, key, asked.set.as_ref())
        });
        file.add(object, planned);
    }
    let mut parent = None;
    if let Some(set) = &asked.set {
        parent = Some(file.keep_set(context, set, asked.prune)?);
    }
    file.check_together(server);
    file.warn_of_names(server);
    file.finish(parent)
}

/// Everything planned so far, in the order of the file; what is pruned comes after it.
#[derive(Default)]
struct File {
    keys: BTreeSet<Key>,
    steps: Vec<Result<Step, (Value, ApiError)>>,
}

impl File {
    fn add(&mut self, object: &Value, planned: Result<Step, ApiError>) {
        self.steps.push(planned.map_err(|error| (refusal(object, &error), error)));
    }

    fn planned(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter_map(|step| step.as_ref().ok())
    }

    /// Prunes, and brings the set's parent up to date. Answers the operation on the parent.
    fn keep_set(&mut self, context: Context<'_>, set: &Set, prune: bool) -> Result<Step, ApiError> {
        let known = set.known(&context.server.cache, context.options.force)?;
        let parent = set.key();
        if self.keys.contains(&parent) {
            return Err(ApiError::bad_request(format!("{} is the parent of the set and cannot be in it", set.shown())));
        }
        let members: Vec<(KindRef, String)> = self.planned().map(|step| (step.kind.clone(), step.key.namespace.to_string())).collect();
        let left_over = if prune { set.left_over(context.server, &known, &self.keys) } else { Vec::new() };
        for (kind, entry) in left_over {
            let object = decode_as(&kind, &entry).map_err(|_| ApiError::internal("a stored object cannot be decoded"))?;
            let step = leave(context, kind, entry.key.clone(), &object, entry.revision);
            self.add(&object, step);
        }
        let config = set.parent(&members, if prune { None } else { Some(&known) });
        let manager = format!("{}-applyset", context.options.manager);
        let mut options = WriteOptions::internal(&manager, context.options.dry_run);
        (options.force, options.applied) = (true, true);
        let item = Item {
            kind: set.kind.clone(),
            namespace: set.namespace.clone(),
            name: set.name.clone(),
            config: Decoded { value: config, duplicates: Vec::new() },
            warnings: Vec::new(),
        };
        one(Context { options: &options, ..context }, item, parent, None)
    }

    /// Rules between objects, over the state that the whole file leaves.
    fn check_together(&mut self, server: &AppState) {
        let mut refused = Vec::new();
        {
            let changed: BTreeMap<Key, Option<&Value>> =
                self.planned().map(|step| (step.key.clone(), (!step.pruned).then_some(&step.prepared.object))).collect();
            for (at, step) in self.steps.iter().enumerate() {
                let Ok(step) = step else { continue };
                if let Err(error) = claims::check_among(&server.cache, &step.kind, &step.prepared.object, &changed)
                    && !step.pruned
                {
                    refused.push((at, (refusal(&step.prepared.object, &error), error)));
                }
            }
        }
        for (at, error) in refused {
            self.steps[at] = Err(error);
        }
    }

    /// A name that means nothing is no error, as what it means may come later; but it is said.
    fn warn_of_names(&mut self, server: &AppState) {
        let there: BTreeMap<Key, bool> = self.planned().map(|step| (step.key.clone(), !step.pruned)).collect();
        for step in self.steps.iter_mut().filter_map(|step| step.as_mut().ok()).filter(|step| !step.pruned) {
            for reference in references(&step.kind, &step.prepared.object) {
                let Some(kind) = kinds().iter().find(|kind| kind.group == reference.group && kind.kind == reference.kind) else { continue };
                let key = key(kind, &step.key.namespace, &reference.name);
                if !there.get(&key).copied().unwrap_or_else(|| server.cache.get(&key).is_some()) {
                    let (path, kind, name) = (reference.path, reference.kind, reference.name);
                    step.warnings.push(format!("{path}: there is no {kind} {name:?}, neither in this request nor on the server"));
                }
            }
        }
    }

    fn finish(self, parent: Option<Step>) -> Result<Planned, ApiError> {
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        let defines = self.planned().any(|step| step.kind.is_definition());
        let (mut ops, mut checks) = (Vec::new(), Vec::<Op>::new());
        for (at, step) in self.steps.into_iter().enumerate() {
            match step {
                Ok(step) => {
                    results.push(result(&step));
                    ops.extend(step.op);
                    checks.extend(step.checks);
                }
                Err((refusal, error)) => {
                    results.push(refusal);
                    errors.push((at, error));
                }
            }
        }
        if !errors.is_empty() {
            return Err(refused(&errors, results));
        }
        if let Some(parent) = parent {
            ops.extend(parent.op);
            checks.extend(parent.checks);
        }
        checks.retain(|check| !ops.iter().any(|op: &Op| op.key() == check.key()));
        checks.sort_by(|a, b| a.key().cmp(b.key()));
        checks.dedup_by(|a, b| a.key() == b.key());
        if !ops.is_empty() {
            ops.extend(checks);
        }
        Ok(Planned { results, ops, defines })
    }
}

fn namespaces_of(objects: &[Value]) -> BTreeSet<String> {
    let declared = objects.iter().filter(|o| o["kind"] == "Namespace" && o["apiVersion"] == "v1");
    declared.map(|o| meta_text(o, "name").to_owned()).collect()
}

/// Kind, namespace and name of an object of the file.
fn identity_of<'a>(context: Context<'a>, object: &'a Value) -> Result<(KindRef, &'a str, &'a str), ApiError> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let kind =
        context.defined.find_kind(api_version, kind).or_else(|| context.server.kinds.find_kind(api_version, kind)).ok_or_else(|| {
            let problem = context.defined.problem(api_version).map(|problem| format!(": {problem}")).unwrap_or_default();
            ApiError::bad_request(format!("no kind {kind:?} in version {api_version:?} is known here{problem}"))
        })?;
    let name = meta_text(object, "name");
    if name.is_empty() {
        return Err(ApiError::bad_request(format!("{}: metadata.name is required", kind.kind)));
    }
    let namespace = match (kind.namespaced, meta_text(object, "namespace")) {
        (false, _) => "",
        (true, "") => context.namespace,
        (true, given) => given,
    };
    Ok((kind, namespace, name))
}

fn item(object: &Value, (kind, namespace, name): (KindRef, &str, &str), duplicates: &[String], asked: &Asked) -> Result<Item, ApiError> {
    let mut value = object.clone();
    if let Some(set) = &asked.set {
        set.label(&mut value)?;
    }
    let config = Decoded { value, duplicates: duplicates.to_vec() };
    let (config, warnings) = check_config(&kind, namespace, name, &asked.options, config)?;
    Ok(Item { kind, namespace: namespace.to_owned(), name: name.to_owned(), config, warnings })
}

fn one(context: Context<'_>, item: Item, key: Key, set: Option<&Set>) -> Result<Step, ApiError> {
    let Context { server, identity, options, declared, .. } = context;
    let kind = &*item.kind;
    let entry = server.cache.get(&key);
    permit(server, identity, &attributes(if entry.is_some() { "patch" } else { "create" }, kind, &item.namespace, &item.name))?;
    let api_version = kind.api_version();
    let writer = options.writer(&api_version, Part::Main, server.now());
    let old = entry
        .as_ref()
        .map(|entry| decode_as(kind, entry))
        .transpose()
        .map_err(|_| ApiError::internal("a stored object cannot be decoded"))?;
    if let (Some(set), Some(old)) = (set, &old) {
        set.check_free(kind, old)?;
    }
    let new = apply_patch(old.as_ref(), &item.config.value, kind.schema(), &writer).map_err(|error| failure(kind, &item.name, error))?;
    let (strictness, duplicates) = (options.strictness(kind), &item.config.duplicates);
    let (prepared, expect, checks) = match (&old, &entry) {
        (Some(old), Some(entry)) => {
            let asked = meta_text(&item.config.value, "resourceVersion");
            if !asked.is_empty() && asked != entry.revision.to_string() {
                return Err(ApiError::modified(kind, &item.name));
            }
            let prepared = strategy::prepare_update(kind, Part::Main, old, new, duplicates, (strictness, None))?;
            (prepared, Expect::At(entry.revision), Vec::new())
        }
        _ => {
            let prepared = strategy::prepare_create(kind, new, duplicates, strictness, &writer, (server.uid(), true))?;
            let check = match check_namespace(&server.cache, kind, &item.name, &item.namespace) {
                Err(error) if error.code == StatusCode::NOT_FOUND && declared.contains(&item.namespace) => None,
                checked => checked?,
            };
            room(&server.cache, kind, &item.name)?;
            let definition = if context.defined.is_new(kind) { None } else { check_definition(&server.cache, kind)? };
            let checks = check.into_iter().chain(definition).collect();
            (prepared, Expect::Absent, checks)
        }
    };
    check_write(identity, kind, Part::Main, old.as_ref(), &prepared.object)?;
    let op = operation(kind, &prepared, expect)?;
    let warnings = item.warnings.into_iter().chain(prepared.warnings.iter().cloned()).collect();
    Ok(Step { kind: item.kind, key, old, prepared, warnings, pruned: false, op, checks })
}

/// The deletion of what has left the set.
fn leave(context: Context<'_>, kind: KindRef, key: Key, old: &Value, revision: crate::store::Revision) -> Result<Step, ApiError> {
    permit(context.server, context.identity, &attributes("delete", &kind, &key.namespace, &key.name))?;
    let (object, change) = marked(&kind, old, context.server.now());
    let prepared = Prepared { object, change, warnings: Vec::new() };
    let op = operation(&kind, &prepared, Expect::At(revision))?;
    Ok(Step { kind, key, old: Some(old.clone()), prepared, warnings: Vec::new(), pruned: true, op, checks: Vec::new() })
}

fn attributes<'a>(verb: &'a str, kind: &'a KindInfo, namespace: &'a str, name: &'a str) -> Attributes<'a> {
    Attributes { verb, group: &kind.group, resource: &kind.plural, namespace, name, ..Attributes::default() }
}
