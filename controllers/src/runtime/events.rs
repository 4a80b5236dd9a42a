//! Events for people: what changed, on which object, how often.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use gantry_api::Kind;
use gantry_api::k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use gantry_api::meta::Time;
use gantry_client::{Api, Client, ClientError, Patch, WriteParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::clock::Clock;

/// Events that wait to be written; when full, further ones are dropped.
const QUEUE_LENGTH: usize = 512;
/// Shortest time between two writes of the same event.
const INTERVAL: Duration = Duration::from_secs(1);
/// Events whose count is remembered; of others it is read from the server.
const REMEMBERED: usize = 1024;

/// Whether an event calls for attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Things go their way.
    Normal,
    /// A person may have to act.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Records events without ever delaying its caller: they are queued, and dropped when the queue is full.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Occurrence>,
}

/// What makes two occurrences the same event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Subject {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    component: &'static str,
    severity: Severity,
    reason: String,
}

#[derive(Debug)]
struct Occurrence {
    subject: Subject,
    message: String,
    at: Time,
}

impl Recorder {
    /// A recorder, and the task that writes what it records until `stop`.
    pub(crate) fn new(client: Client, stop: CancellationToken) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, occurrences) = mpsc::channel(QUEUE_LENGTH);
        let writer = Writer { client, pending: BTreeMap::new(), written: HashMap::new(), order: VecDeque::new() };
        (Self { queue }, writer.run(occurrences, stop))
    }

    /// Records that `reason` happened to `object`; `message` is one sentence for people.
    pub(crate) fn record<K: Kind>(
        &self,
        component: &'static str,
        clock: &Clock,
        object: &K,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let key = object.key();
        let subject = Subject {
            api_version: K::api_version(),
            kind: K::KIND.to_owned(),
            namespace: key.namespace,
            name: key.name,
            uid: object.uid().to_owned(),
            component,
            severity,
            reason: reason.to_owned(),
        };
        if self.queue.try_send(Occurrence { subject, message: message.into(), at: clock.now() }).is_err() {
            debug!(controller = component, reason, "event dropped");
        }
    }
}

/// Occurrences of one event that are not written yet.
struct Pending {
    count: i32,
    message: String,
    first: Time,
    last: Time,
    due: Instant,
}

/// What was last written of an event.
struct Written {
    count: i32,
    at: Instant,
}

struct Writer {
    client: Client,
    pending: BTreeMap<Subject, Pending>,
    written: HashMap<Subject, Written>,
    /// The members of `written`, oldest first.
    order: VecDeque<Subject>,
}

impl Writer {
    async fn run(mut self, mut occurrences: mpsc::Receiver<Occurrence>, stop: CancellationToken) {
        loop {
            let due = self.pending.values().map(|pending| pending.due).min();
            let flush = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                occurrence = occurrences.recv(), if self.pending.len() < QUEUE_LENGTH => match occurrence {
                    Some(occurrence) => self.add(occurrence),
                    None => return,
                },
                () = flush => {
                    if stop.run_until_cancelled(self.write_due()).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    fn add(&mut self, occurrence: Occurrence) {
        let now = Instant::now();
        let due = self.written.get(&occurrence.subject).map_or(now, |written| now.max(written.at + INTERVAL));
        let pending = self.pending.entry(occurrence.subject).or_insert_with(|| Pending {
            count: 0,
            message: String::new(),
            first: occurrence.at.clone(),
            last: occurrence.at.clone(),
            due,
        });
        pending.count = pending.count.saturating_add(1);
        pending.message = occurrence.message;
        pending.last = occurrence.at;
    }

    async fn write_due(&mut self) {
        let now = Instant::now();
        let due: Vec<Subject> = self.pending.iter().filter(|(_, pending)| pending.due <= now).map(|(subject, _)| subject.clone()).collect();
        for subject in due {
            let Some(pending) = self.pending.remove(&subject) else { continue };
            match self.write(&subject, &pending).await {
                Ok(count) => self.remember(subject, count),
                // Events are hints: one that cannot be written (its namespace is going away, the server is busy) is let go.
                Err(error) => debug!(controller = subject.component, reason = subject.reason, %error, "event not written"),
            }
        }
    }

    /// Adds to the stored event, or creates it; returns its count.
    async fn write(&self, subject: &Subject, pending: &Pending) -> Result<i32, ClientError> {
        let api: Api<Event> = Api::namespaced(&self.client, subject.event_namespace());
        let name = subject.event_name();
        let before = match self.written.get(subject) {
            Some(written) => Some(written.count),
            None => api.find(&name).await?.map(|event| event.count.unwrap_or(1)),
        };
        if let Some(before) = before {
            let count = before.saturating_add(pending.count);
            let patch = json!({ "count": count, "lastTimestamp": pending.last, "message": pending.message });
            match api.patch(&name, &Patch::Merge(patch), &WriteParams::default()).await {
                Ok(_) => return Ok(count),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        api.create(&subject.event(name, pending), &WriteParams::default()).await?;
        Ok(pending.count)
    }

    fn remember(&mut self, subject: Subject, count: i32) {
        let written = Written { count, at: Instant::now() };
        if self.written.insert(subject.clone(), written).is_some() {
            return;
        }
        self.order.push_back(subject);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.written.remove(&oldest);
        }
    }
}

impl Subject {
    /// Events about cluster-scoped objects are kept in `default`, as in Kubernetes.
    fn event_namespace(&self) -> &str {
        if self.namespace.is_empty() { "default" } else { &self.namespace }
    }

    /// The same for the same event in every process, so that counting goes on after a restart.
    fn event_name(&self) -> String {
        let parts = [&self.uid, self.component, self.severity.as_str(), &self.reason];
        format!("{}.{:016x}", self.name.chars().take(200).collect::<String>(), fnv1a(&parts.join("\0")))
    }

    fn event(&self, name: String, pending: &Pending) -> Event {
        Event {
            metadata: gantry_api::ObjectMeta { name: Some(name), namespace: Some(self.event_namespace().to_owned()), ..Default::default() },
            involved_object: ObjectReference {
                api_version: Some(self.api_version.clone()),
                kind: Some(self.kind.clone()),
                namespace: (!self.namespace.is_empty()).then(|| self.namespace.clone()),
                name: Some(self.name.clone()),
                uid: Some(self.uid.clone()),
                ..Default::default()
            },
            reason: Some(self.reason.clone()),
            message: Some(pending.message.clone()),
            type_: Some(self.severity.as_str().to_owned()),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: None }),
            reporting_component: Some(self.component.to_owned()),
            first_timestamp: Some(pending.first.clone()),
            last_timestamp: Some(pending.last.clone()),
            count: Some(pending.count),
            ..Default::default()
        }
    }
}

/// FNV-1a, 64 bits: stable over processes and versions, which the standard library's hasher is not.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_is_the_published_function() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }
}
