//! Namespaces: two are always there, and one that is deleted is emptied before it goes.
//!
//! The server marks a deleted Namespace as Terminating and admits no new objects; this controller asks for the deletion of everything in it,
//! waits for what has finalizers, and then takes `kubernetes` out of `spec.finalizers`, which removes the record.

use gantry_api::kinds::core::{Event, Namespace};
use gantry_api::{Kind, ObjectKey};
use gantry_client::{Api, WriteParams};
use http::Method;
use serde_json::json;
use tracing::info;

use crate::context::Context;
use crate::garbage_collector::access::{Accesses, EMPTYING_STEP, accesses, delete_all};
use crate::runtime::status::precondition;
use crate::runtime::{Action, ClientResultExt, Manager, ReconcileError, Reconciler, Sources};
use crate::table::ControllerInfo;

pub(crate) const INFO: ControllerInfo = ControllerInfo {
    name: "namespace",
    purpose: "makes `default` and `gantry-system`; empties and finalizes Namespaces that are being deleted",
    watches: &[
        "Namespace",
        "ConfigMap",
        "Container",
        "Image",
        "Lease",
        "Network",
        "Secret",
        "ServiceAccount",
        "Volume",
        "every kind that is added at run time",
    ],
    writes: &[("Namespace", "(create)"), ("Namespace", "spec.finalizers"), ("any in the Namespace", "(delete)")],
};

/// Namespaces that are always there.
const ALWAYS: [&str; 2] = ["default", "gantry-system"];
/// Finalizer in `spec.finalizers` of every Namespace.
const FINALIZER: &str = "kubernetes";

pub(crate) fn start(manager: &mut Manager, context: &Context) {
    let context = context.named(INFO.name);
    let accesses = accesses(&context);
    let always = ALWAYS.map(|name| ObjectKey::new("", name)).to_vec();
    let mut sources = Sources::of(&context.informers.namespaces).initially(always);
    for access in accesses.built_in.iter().filter(|access| access.namespaced()) {
        sources = access.watch_namespaces(sources, is_terminating, &context);
    }
    let known = context.clone();
    sources = sources.watch_custom(EMPTYING_STEP, &context.custom_kinds, move |kind, key, _| {
        let concerned = kind.resource.namespaced && is_terminating(&known, &key.namespace);
        concerned.then(|| ObjectKey::new("", key.namespace.clone())).into_iter().collect()
    });
    manager.add(Namespaces { context, accesses }, sources, 2);
}

fn is_terminating(context: &Context, namespace: &str) -> bool {
    context.informers.namespaces.get(&ObjectKey::new("", namespace)).is_some_and(|namespace| namespace.is_terminating())
}

struct Namespaces {
    context: Context,
    accesses: Accesses,
}

impl Reconciler for Namespaces {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        INFO.name
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        match self.context.informers.namespaces.get(key) {
            None if ALWAYS.contains(&key.name.as_str()) => self.create(&key.name).await?,
            None => {}
            Some(namespace) if namespace.is_terminating() => self.remove(&namespace).await?,
            Some(_) => {}
        }
        Ok(Action::Done)
    }
}

impl Namespaces {
    async fn create(&self, name: &str) -> Result<(), ReconcileError> {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        match Api::<Namespace>::all(&self.context.client).create(&namespace, &WriteParams::default()).await {
            Ok(created) => self.context.informers.namespaces.observe_write(created),
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error).doing(|| format!("create Namespace {name}")),
        }
        Ok(())
    }

    async fn remove(&self, namespace: &Namespace) -> Result<(), ReconcileError> {
        if self.empty(namespace.name()).await? { self.finalize(namespace).await } else { Ok(()) }
    }

    /// Asks for the deletion of everything in the namespace. Returns whether nothing is left; what is left brings the key back when it goes.
    async fn empty(&self, namespace: &str) -> Result<bool, ReconcileError> {
        let mut left = 0;
        for access in self.accesses.all().iter().filter(|access| access.namespaced()) {
            let (all, staying) = access.count(namespace);
            left += all;
            if staying > 0 {
                access.delete_all(namespace).await.doing(|| format!("delete every {} of Namespace {namespace}", access.kind()))?;
            }
        }
        if left > 0 {
            return Ok(false);
        }
        delete_all::<Event>(&self.context.client, namespace).await.doing(|| format!("delete the Events of Namespace {namespace}"))?;
        Ok(true)
    }

    /// Takes the finalizer out. The server has the last word: informers may not show yet what was created just before the deletion.
    async fn finalize(&self, namespace: &Namespace) -> Result<(), ReconcileError> {
        let name = namespace.name();
        for access in self.accesses.all().iter().filter(|access| access.namespaced()) {
            if access.any_live(name).await.doing(|| format!("list {} of Namespace {name}", access.kind()))? {
                return Err(ReconcileError::Conflict { doing: format!("empty Namespace {name}") });
            }
        }
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        let kept: Vec<String> = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
        let mut metadata = precondition(namespace);
        metadata.insert("name".to_owned(), json!(name));
        let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata, "spec": { "finalizers": kept } });
        let path = format!("/api/v1/namespaces/{name}/finalize");
        match self.context.client.request_json(Method::PUT, &path, Some(&body)).await {
            Err(error) if !error.is_not_found() => Err(error).doing(|| format!("finalize Namespace {name}")),
            _ => {
                info!(controller = INFO.name, namespace = name, "namespace emptied and removed");
                Ok(())
            }
        }
    }
}
