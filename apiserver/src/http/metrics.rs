//! `/metrics`: what the server does and holds, as OpenMetrics text. Kubernetes' names where Kubernetes has the thing.
//!
//! Every label has a bounded number of values: resources and subresources are those of the registry, whatever URLs are asked for.

mod process;

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use gantry_api::registry::find_resource;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, NoLabelSet, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use super::AppState;
use super::error::ApiError;
use super::route::ResourcePath;
use crate::definitions::Kinds;
use crate::store::Health;
use crate::store::redb::Histogram as StoreHistogram;

/// Seconds: from a read of the cache to a disk that struggles.
const BUCKETS: [f64; 13] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// What a request is counted as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    /// As in Kubernetes' metrics: `GET`, `LIST`, `WATCH`, `POST`, `PUT`, `PATCH`, `DELETE`, `DELETECOLLECTION`, `CONNECT`.
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    /// Empty for what is not about objects.
    resource: &'static str,
    subresource: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    #[prometheus(flatten)]
    request: RequestLabels,
    code: u32,
}

impl RequestLabels {
    /// A request about objects.
    pub(crate) fn of(verb: &str, path: &ResourcePath, kinds: &Kinds) -> Self {
        let subresource = path.subresource.as_deref().unwrap_or_default();
        let connects = matches!(subresource, "exec" | "attach" | "portforward");
        let verb = match verb {
            _ if connects => "CONNECT",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "",
        };
        let Some(kind) = find_resource(&path.group, &path.version, &path.plural) else {
            // Custom kinds come and go: all together are one resource here.
            let is_custom = kinds.find_resource(&path.group, &path.version, &path.plural).is_some();
            return Self { verb, resource: if is_custom { "customresources" } else { "" }, ..Self::default() };
        };
        let known = kind.subresources.iter().map(|s| s.name).chain(["status", "finalize"]).find(|name| *name == subresource);
        Self { verb, group: &kind.group, version: &kind.version, resource: &kind.plural, subresource: known.unwrap_or_default() }
    }
}

/// What is counted as it happens.
pub(crate) struct RequestMetrics {
    requests: Family<Answered, Counter>,
    durations: Family<RequestLabels, Histogram, fn() -> Histogram>,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self { requests: Family::default(), durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)) }
    }
}

impl RequestMetrics {
    /// Counts an answer; of watches and streams, which last as long as they last, only that they began.
    pub(crate) fn record(&self, request: RequestLabels, code: StatusCode, took: Duration) {
        self.requests.get_or_create(&Answered { request, code: code.as_u16().into() }).inc();
        if !matches!(request.verb, "WATCH" | "CONNECT") {
            self.durations.get_or_create(&request).observe(took.as_secs_f64());
        }
    }
}

/// The answer to `/metrics`.
///
/// # Errors
/// 500 when the text cannot be made.
pub(super) fn answer(server: &AppState) -> Result<Response<Body>, ApiError> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(server.clone())));
    let mut page = String::new();
    text::encode(&mut page, &registry).map_err(|error| ApiError::internal(format!("encode the metrics: {error}")))?;
    let mut response = Response::new(Body::from(page));
    let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

/// All figures at one moment.
struct Scrape(AppState);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

/// What a figure is for, and how it is written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauges<L: EncodeLabelSet>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (L, usize)>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.into_iter().try_for_each(|(labels, value)| ConstGauge::new(value as f64).encode(metric.encode_family(&labels)?))
    }

    fn counters<L: EncodeLabelSet>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (L, u64)>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.into_iter().try_for_each(|(labels, value)| ConstCounter::new(value).encode(metric.encode_family(&labels)?))
    }

    fn requests(&mut self, server: &AppState) -> fmt::Result {
        let metrics = &server.metrics;
        let help = "Requests answered, by what they were about and the code of the answer";
        metrics.requests.encode(self.0.encode_descriptor("apiserver_request", help, None, Counter::<u64>::TYPE)?)?;
        let help = "Time until the head of the answer; without watches and streams";
        metrics.durations.encode(self.0.encode_descriptor("apiserver_request_duration_seconds", help, None, Histogram::TYPE)?)
    }

    fn flow(&mut self, server: &AppState) -> fmt::Result {
        let loads = server.flow.loads();
        let labels = |load: &super::flow::Load| [("request_kind", load.kind), ("who", load.who)];
        let busy = loads.iter().map(|load| (labels(load), load.busy));
        self.gauges("apiserver_current_inflight_requests", "Requests that are worked on", busy)?;
        let waiting = loads.iter().map(|load| (labels(load), load.waiting));
        self.gauges("apiserver_current_inqueue_requests", "Requests that wait for their turn", waiting)?;
        let watches = server.flow.watches().map(|(who, count)| ([("verb", "WATCH"), ("who", who)], count));
        self.gauges("apiserver_longrunning_requests", "Watches that go on", watches)?;
        let refused = server.flow.refused().map(|(reason, count)| ([("reason", reason)], count));
        self.counters("apiserver_flowcontrol_rejected_requests", "Requests refused with 429", refused)
    }

    fn cache(&mut self, server: &AppState) -> fmt::Result {
        let stats = server.cache.stats();
        let objects = stats.objects.iter().map(|(resource, count)| ([("resource", &**resource)], *count));
        self.gauges("apiserver_storage_objects", "Objects", objects)?;
        self.gauge("gantry_watch_cache_revision", "The newest change that can be read", stats.revision.0 as f64)?;
        self.gauge("gantry_watch_cache_history_events", "Changes kept for watches that resume", stats.history_events as f64)?;
        self.gauge("gantry_watch_cache_history_bytes", "Bytes of the objects in the kept changes", stats.history_bytes as f64)?;
        self.gauge("gantry_watch_cache_watchers", "Watchers that events are handed to", stats.watchers as f64)?;
        self.counter("gantry_watch_cache_slow_watchers", "Watches ended because their queue was full", stats.ended_slow as f64)?;
        self.counter(
            "gantry_watch_frames_encoded",
            "Watch frames encoded; each is shared by all who see it",
            server.frames.encoded() as f64,
        )
    }

    fn store(&mut self, server: &AppState) -> fmt::Result {
        let revision = *server.cache.store().revision().borrow();
        self.gauge("gantry_store_revision", "The newest durable change", revision.0 as f64)?;
        let is_healthy = *server.cache.store().health().borrow() == Health::Healthy;
        self.gauge("gantry_store_healthy", "1 while the store takes writes", f64::from(u8::from(is_healthy)))?;
        let Some(stats) = server.store_stats.as_ref().map(|stats| stats()) else { return Ok(()) };
        self.gauge("apiserver_storage_size_bytes", "Length of the store's file", stats.file_bytes as f64)?;
        self.gauge("gantry_store_objects", "Objects", stats.objects as f64)?;
        self.gauge("gantry_store_object_bytes", "Bytes of the objects", stats.object_bytes as f64)?;
        self.gauge("gantry_store_log_events", "Changes in the store's log", stats.log_events as f64)?;
        self.gauge("gantry_store_log_bytes", "Bytes of the store's log", stats.log_bytes as f64)?;
        self.counter("gantry_store_transactions", "Transactions of the store, each durable as a whole", stats.transactions as f64)?;
        self.counter("gantry_store_changes", "Changes of objects", stats.changes as f64)?;
        self.counter("gantry_store_failures", "Times that the storage failed", stats.failures as f64)?;
        self.counter("gantry_store_reopened", "Times that the file was opened again after a failure", stats.reopened as f64)?;
        self.counter("gantry_store_refused_full", "Commits refused because the disk was full", stats.refused_full as f64)?;
        self.histogram("gantry_store_group_commits", "Commits that shared a transaction", &stats.group_commits, 1.0)?;
        self.histogram("gantry_store_sync_seconds", "Time to make a transaction durable", &stats.sync_micros, 1e-6)
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &StoreHistogram, unit: f64) -> fmt::Result {
        let bound = |power: usize| if power + 1 == histogram.counts.len() { f64::INFINITY } else { (1_u64 << power) as f64 * unit };
        let buckets: Vec<(f64, u64)> = histogram.counts.iter().enumerate().map(|(power, count)| (bound(power), *count)).collect();
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(histogram.sum as f64 * unit, histogram.count(), &buckets, None)
    }

    fn process(&mut self) -> fmt::Result {
        let Some(process) = process::Figures::read() else { return Ok(()) };
        self.gauge("process_resident_memory_bytes", "Resident memory", process.resident_bytes)?;
        self.gauge("process_virtual_memory_bytes", "Virtual memory", process.virtual_bytes)?;
        self.gauge("process_open_fds", "Open file descriptors", process.open_fds)?;
        self.gauge("process_max_fds", "Most file descriptors that may be open", process.max_fds)?;
        self.gauge("process_threads", "Threads", process.threads)?;
        self.counter("process_cpu_seconds", "Processor time, of user and system", process.cpu_seconds)
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.requests(&self.0)?;
        page.flow(&self.0)?;
        page.cache(&self.0)?;
        page.store(&self.0)?;
        page.process()
    }
}
