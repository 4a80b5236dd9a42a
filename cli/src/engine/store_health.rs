//! Tells those who watch this machine's Node what its store went through.
//!
//! While the store takes no writes nothing can be written about it: `/readyz`, the log and the metrics tell then. Afterwards the Node gets
//! the condition `StoreReady` with the time and the reason, and an Event. A condition that is shown but not stored would have made reads
//! differ from watches.

use std::time::Duration;

use gantry_api::k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference};
use gantry_api::meta::Time;
use gantry_apiserver::store::Health;
use gantry_client::{Api, Client, ClientError, Patch, WriteParams};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const CONDITION: &str = "StoreReady";
const COMPONENT: &str = "gantry-apiserver";
/// Between two tries to write: the Node may not be registered yet, or the store may have failed again.
const RETRY: Duration = Duration::from_secs(1);

/// A time in which the store took no writes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outage {
    health: Health,
    from: Timestamp,
    to: Timestamp,
}

impl Outage {
    fn reason(&self) -> &'static str {
        match self.health {
            Health::DiskFull => "DiskFull",
            Health::Failed { .. } | Health::Healthy => "StorageError",
        }
    }

    fn message(&self) -> String {
        let why = match &self.health {
            Health::Failed { error } => format!("its storage failed ({error})"),
            _ => "the disk was full".to_owned(),
        };
        format!("the store took no writes from {:.0} to {:.0}: {why}", self.from, self.to)
    }
}

/// Runs until `stop`.
pub(crate) async fn tell(client: Client, node: String, mut health: watch::Receiver<Health>, stop: CancellationToken) {
    let told = async {
        write_until_it_works(&client, &node, None).await;
        loop {
            let Ok(ill) = health.wait_for(|health| *health != Health::Healthy).await.map(|health| health.clone()) else { return };
            let from = Timestamp::now();
            if health.wait_for(|health| *health == Health::Healthy).await.is_err() {
                return;
            }
            let outage = Outage { health: ill, from, to: Timestamp::now() };
            write_until_it_works(&client, &node, Some(&outage)).await;
        }
    };
    stop.run_until_cancelled(told).await;
}

async fn write_until_it_works(client: &Client, node: &str, outage: Option<&Outage>) {
    loop {
        match write(client, node, outage).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the Node cannot be told of its store yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Sets the condition, and makes the Event. Without an outage only where the condition is missing. `false` while the agent has not
/// registered the Node, as it writes all conditions then.
async fn write(client: &Client, name: &str, outage: Option<&Outage>) -> Result<bool, ClientError> {
    let nodes: Api<Node> = Api::all(client);
    let node = nodes.get(name).await?;
    let stored = serde_json::to_value(node.status.as_ref().and_then(|status| status.conditions.as_ref())).unwrap_or_default();
    let mut conditions = stored.as_array().cloned().unwrap_or_default();
    let has = |wanted: &str| conditions.iter().any(|condition| condition["type"] == wanted);
    if !has("Ready") || (outage.is_none() && has(CONDITION)) {
        return Ok(has("Ready"));
    }
    conditions.retain(|condition| condition["type"] != CONDITION);
    conditions.push(condition(outage));
    // With the version, so that the agent's conditions are not overwritten by older ones.
    let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "status": {"conditions": conditions}});
    nodes.patch_status(name, &Patch::Merge(patch)).await?;
    let Some(outage) = outage else { return Ok(true) };
    let events: Api<Event> = Api::namespaced(client, "default");
    match events.create(&event(&node, name, outage), &WriteParams::default()).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(true),
    }
}

fn condition(outage: Option<&Outage>) -> Value {
    let since = outage.map_or_else(Timestamp::now, |outage| outage.to);
    let message =
        outage.map_or_else(|| "the store takes writes".to_owned(), |outage| format!("the store takes writes; {}", outage.message()));
    json!({"type": CONDITION, "status": "True", "reason": "Ready", "message": message, "lastTransitionTime": Time(since)})
}

fn event(node: &Node, name: &str, outage: &Outage) -> Event {
    let mut event = Event::default();
    event.metadata.name = Some(format!("{name}.store.{:x}", outage.to.as_millisecond()));
    event.metadata.namespace = Some("default".to_owned());
    event.involved_object = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid: node.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    event.reason = Some(outage.reason().to_owned());
    event.message = Some(outage.message());
    event.type_ = Some("Warning".to_owned());
    event.source = Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(name.to_owned()) });
    event.reporting_component = Some(COMPONENT.to_owned());
    event.first_timestamp = Some(Time(outage.from));
    event.last_timestamp = Some(Time(outage.to));
    event.count = Some(1);
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_in_a_sentence() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let outage = Outage { health: Health::DiskFull, from: at(0), to: at(61) };
        assert_eq!(outage.message(), "the store took no writes from 2027-01-15T08:00:00Z to 2027-01-15T08:01:01Z: the disk was full");
        assert_eq!((outage.reason(), condition(Some(&outage))["status"].as_str()), ("DiskFull", Some("True")));
        let failed = Outage { health: Health::Failed { error: "no such device".to_owned() }, ..outage };
        assert!(failed.message().ends_with("its storage failed (no such device)") && failed.reason() == "StorageError");
    }
}
