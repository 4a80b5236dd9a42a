//! The ServiceAccount `default` of each Namespace, as Kubernetes has it: users put `imagePullSecrets` there.

use gantry_api::kinds::core::ServiceAccount;
use gantry_api::{Kind, ObjectKey};
use gantry_client::{Api, WriteParams};

use crate::context::Context;
use crate::runtime::{Action, ClientResultExt, Manager, ReconcileError, Reconciler, Sources};
use crate::table::ControllerInfo;

pub(crate) const INFO: ControllerInfo = ControllerInfo {
    name: "service-account",
    purpose: "makes the ServiceAccount `default` of each Namespace",
    watches: &["Namespace", "ServiceAccount"],
    writes: &[("ServiceAccount", "(create)")],
};

const DEFAULT: &str = "default";

pub(crate) fn start(manager: &mut Manager, context: &Context) {
    let sources = Sources::of(&context.informers.namespaces).watch(&context.informers.service_accounts, |key, account| {
        let is_missing = key.name == DEFAULT && account.is_none();
        is_missing.then(|| ObjectKey::new("", &key.namespace)).into_iter().collect()
    });
    manager.add(ServiceAccounts { context: context.named(INFO.name) }, sources, 1);
}

struct ServiceAccounts {
    context: Context,
}

impl Reconciler for ServiceAccounts {
    /// The key of a Namespace.
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        INFO.name
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let informers = &self.context.informers;
        let is_active = informers.namespaces.get(key).is_some_and(|namespace| !namespace.is_terminating());
        if !is_active || informers.service_accounts.get(&ObjectKey::new(&key.name, DEFAULT)).is_some() {
            return Ok(Action::Done);
        }
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(DEFAULT.to_owned());
        match Api::<ServiceAccount>::namespaced(&self.context.client, &key.name).create(&account, &WriteParams::default()).await {
            Err(error) if !error.is_already_exists() => {
                Err(error).doing(|| format!("create ServiceAccount {DEFAULT} of Namespace {}", key.name))
            }
            _ => Ok(Action::Done),
        }
    }
}
