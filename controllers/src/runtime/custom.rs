//! Kinds that are added at run time: an informer of metadata for each, as long as its definition is established.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_api::{Kind, ObjectKey, ObjectMeta, custom};
use gantry_client::{Client, DynamicApi, Informer, ListParams, Resource};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A CustomResourceDefinition without its schemas.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Definition {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    spec: DefinitionSpec,
    #[serde(default)]
    status: DefinitionStatus,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct DefinitionSpec {
    group: String,
    scope: String,
    names: Names,
    versions: Vec<Version>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Names {
    plural: String,
    kind: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Version {
    name: String,
    served: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct DefinitionStatus {
    conditions: Vec<Value>,
}

impl Kind for Definition {
    const GROUP: &'static str = custom::GROUP;
    const VERSION: &'static str = custom::VERSION;
    const KIND: &'static str = custom::KIND;
    const PLURAL: &'static str = custom::PLURAL;
    const NAMESPACED: bool = false;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The metadata of an object of any kind; which one is known where it is read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct AnyObject {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
}

impl Kind for AnyObject {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "";
    const KIND: &'static str = "";
    const PLURAL: &'static str = "";
    const NAMESPACED: bool = true;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A kind that was added at run time.
pub(crate) struct CustomKind {
    /// Never used again for another one.
    pub(crate) id: usize,
    /// CamelCase name.
    pub(crate) kind: String,
    pub(crate) resource: Resource,
    /// All versions in which it is served.
    pub(crate) versions: Vec<String>,
    pub(crate) client: Client,
    pub(crate) informer: Informer<AnyObject>,
}

impl CustomKind {
    /// Access to its objects.
    pub(crate) fn api(&self, namespace: &str) -> DynamicApi {
        DynamicApi::new(&self.client, self.resource.clone(), (!namespace.is_empty()).then_some(namespace))
    }
}

/// By the uid of their definitions.
pub(crate) type Table = BTreeMap<String, Arc<CustomKind>>;

/// The kinds that are there now. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CustomKinds(watch::Receiver<Option<Arc<Table>>>);

impl CustomKinds {
    /// Follows the definitions until `stop`: the task to run, and what it finds.
    pub(crate) fn follow(client: Client, definitions: Informer<Definition>, stop: CancellationToken) -> (impl Future<Output = ()>, Self) {
        let (found, kinds) = watch::channel(None::<Arc<Table>>);
        let task = async move {
            definitions.synced().await;
            let mut changes = definitions.changes();
            let mut next_id = FIRST_ID;
            loop {
                let now = definitions.list();
                let old = found.borrow().clone().unwrap_or_default();
                let table = next_table(&client, &now, &old, &mut next_id, &stop);
                if found.borrow().is_none() || !table.keys().eq(old.keys()) || table.iter().any(|(uid, kind)| kind.id != old[uid].id) {
                    found.send_replace(Some(Arc::new(table)));
                }
                if !matches!(stop.run_until_cancelled(changes.recv()).await, Some(Some(_))) {
                    return;
                }
            }
        };
        (task, Self(kinds))
    }

    /// What is there now.
    pub(crate) fn now(&self) -> Arc<Table> {
        self.0.borrow().clone().unwrap_or_default()
    }

    /// Resolves when the kinds that were there at the start are known and their first lists are in.
    pub(crate) async fn synced(&self) {
        let mut kinds = self.0.clone();
        // An error means that everything is being stopped.
        let found = kinds.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        for kind in found.iter().flat_map(|table| table.values()) {
            kind.informer.synced().await;
        }
    }

    /// Calls `changed` with the kind and each of its keys that changed, every one that is there first; when a kind goes, with each key once
    /// more, after it is gone. Until `stop`.
    pub(crate) async fn changes(
        mut self,
        changed: impl Fn(&CustomKind, &ObjectKey, Option<&Arc<AnyObject>>) + Clone + Send + 'static,
        stop: CancellationToken,
    ) {
        let mut followed: BTreeMap<usize, CancellationToken> = BTreeMap::new();
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let now = self.0.borrow_and_update().clone().unwrap_or_default();
            followed.retain(|id, gone| {
                let stays = now.values().any(|kind| kind.id == *id);
                if !stays {
                    gone.cancel();
                }
                stays
            });
            for kind in now.values() {
                followed.entry(kind.id).or_insert_with(|| {
                    let gone = stop.child_token();
                    tasks.spawn(follow_one(Arc::clone(kind), changed.clone(), gone.clone()));
                    gone
                });
            }
            while tasks.try_join_next().is_some() {}
            if !matches!(stop.run_until_cancelled(self.0.changed()).await, Some(Ok(()))) {
                return;
            }
        }
    }
}

/// Above the numbers of built-in kinds.
const FIRST_ID: usize = 1_000;

/// The table that follows from the definitions; kinds whose definition says the same as before stay what they are.
fn next_table(client: &Client, definitions: &[Arc<Definition>], old: &Table, next_id: &mut usize, stop: &CancellationToken) -> Table {
    let mut table = Table::new();
    for definition in definitions {
        let established = definition.status.conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True");
        let versions: Vec<String> = definition.spec.versions.iter().filter(|v| v.served).map(|v| v.name.clone()).collect();
        let Some(version) = versions.first().filter(|_| established) else { continue };
        let spec = &definition.spec;
        let resource = Resource {
            group: spec.group.clone(),
            version: version.clone(),
            plural: spec.names.plural.clone(),
            namespaced: spec.scope == "Namespaced",
        };
        let uid = definition.metadata.uid.clone().unwrap_or_default();
        let known = old.get(&uid).filter(|kind| kind.resource == resource && kind.versions == versions).cloned();
        let kind = known.unwrap_or_else(|| {
            *next_id += 1;
            let informer = Informer::follow(DynamicApi::new(client, resource.clone(), None), ListParams::default(), stop.clone());
            Arc::new(CustomKind { id: *next_id, kind: spec.names.kind.clone(), resource, versions, client: client.clone(), informer })
        });
        table.insert(uid, kind);
    }
    table
}

async fn follow_one(kind: Arc<CustomKind>, changed: impl Fn(&CustomKind, &ObjectKey, Option<&Arc<AnyObject>>), gone: CancellationToken) {
    let mut changes = kind.informer.changes();
    let mut present = BTreeSet::new();
    while let Some(Some(key)) = gone.run_until_cancelled(changes.recv()).await {
        let object = kind.informer.get(&key);
        if object.is_some() {
            present.insert(key.clone())
        } else {
            present.remove(&key)
        };
        changed(&kind, &key, object.as_ref());
    }
    for key in present {
        changed(&kind, &key, None);
    }
}
