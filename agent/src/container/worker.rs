//! The worker of one container: looks at the world, takes the next step, writes what it found, and sleeps until something concerns it.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::effects::{self, Change, Effect};
use gantry_api::kinds::container::{AGENT_FINALIZER, Container, ContainerPhase, DesiredState, PublishedPort, UpdatePolicy};
use gantry_api::{Kind as _, ObjectKey};
use gantry_client::{Api, Informer, Patch};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::dispatch::Shared;
use super::needs::{self, NetworkNeeds};
use super::oci;
use super::plan::{Here, Step, Wish, plan};
use super::record::{Record, StopReason};
use super::status::{Aspect, Finding, Report};
use crate::ids::{ContainerUid, chain};
use crate::network::{EndpointWish, PortPublished};
use crate::runtime::{Exit, Observed, ObservedState, Started};

/// How long a killed process may take to go before it is looked at again.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// First and longest delay after a step that failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What a worker is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again at once.
    Again,
    /// Sleep until woken.
    Idle,
    /// Sleep until woken, but no longer than until then.
    Until(Instant),
    /// Nothing of the container is left: the worker ends.
    Finished,
}

/// One container of this node.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) uid: ContainerUid,
    pub(super) key: ObjectKey,
    pub(super) record: Option<Record>,
    pub(super) backoff: Backoff,
    /// The start that the policy's back-off allows next, and the end it was computed for.
    pub(super) due: Option<(Exit, Instant)>,
    /// What the network driver was last told.
    pub(super) ensured: Option<NetworkNeeds>,
    pub(super) ports: Vec<PortPublished>,
    /// When a process that was asked to end is killed.
    kill_at: Option<Instant>,
    failures: u32,
    /// The last start that failed, and when it may be tried again.
    pub(super) failed: Option<(Finding, Instant)>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, uid: ContainerUid, key: ObjectKey) -> Self {
        Self {
            shared,
            uid,
            key,
            record: None,
            backoff: Backoff::default(),
            due: None,
            ensured: None,
            ports: Vec::new(),
            kill_at: None,
            failures: 0,
            failed: None,
        }
    }

    /// Works until nothing of the container is left, or `stop`. `first_pass` is told once the world was looked at once.
    pub(super) async fn run(mut self, wake: Arc<Notify>, first_pass: tokio::sync::oneshot::Sender<()>, stop: CancellationToken) {
        let mut first_pass = Some(first_pass);
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = self.reconcile() => next,
            };
            if matches!(next, Next::Finished) {
                return;
            }
            if next == Next::Again {
                continue;
            }
            if let Some(told) = first_pass.take() {
                // The receiver is gone when nobody waits for the first pass any more.
                let _ = told.send(());
            }
            let until = if let Next::Until(until) = next { Some(until) } else { None };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = wake.notified() => {}
                () = async { tokio::time::sleep_until(until.unwrap_or_else(Instant::now)).await }, if until.is_some() => {}
            }
        }
    }

    /// The object, if it is the one that this worker is for.
    fn object(&self) -> Option<Arc<Container>> {
        let informers = &self.shared.context.informers;
        let ours = |informer: &Informer<Container>| informer.get(&self.key).filter(|object| object.uid() == self.uid.as_str());
        ours(&informers.containers).or_else(|| ours(&informers.leaving))
    }

    /// Whether the object is here to stay on this node.
    fn is_mine(&self, object: &Container) -> bool {
        let bound = object.status.as_ref().and_then(|status| status.node_name.as_deref());
        !object.is_terminating() && bound == Some(self.shared.context.instance.node_name.as_str())
    }

    /// Whether it is this node that has to let go of the container.
    fn is_bound_or_leaving(&self, object: &Container) -> bool {
        let node = self.shared.context.instance.node_name.as_str();
        object.status.as_ref().is_some_and(|status| {
            let bound = status.node_name.as_deref();
            bound.or(status.former_node_name.as_deref()) == Some(node)
        })
    }

    async fn reconcile(&mut self) -> Next {
        let object = self.object();
        let observed = match self.shared.context.drivers.runtime.inspect(&self.uid).await {
            Ok(observed) => observed,
            Err(error) => return self.failed_step("inspect", &chain(&error)),
        };
        self.remember(observed.as_ref());
        let mine = object.as_deref().filter(|object| self.is_mine(object));
        let changes = mine.map_or_else(Vec::new, |object| self.changes(object));
        let wish = mine
            .map_or(Wish::Gone, |object| Wish::Present { state: object.spec.desired_state, restart_policy: object.spec.restart_policy });
        let state = observed.as_ref().map(|observed| &observed.state);
        let step = plan(wish, Here { state, record: self.record.as_ref(), changes: &changes });
        debug!(container = %self.key, uid = %self.uid, ?step, "next step");
        self.take(step, object.as_deref(), &changes).await
    }

    /// Takes over what the shim kept, and lays down an end that happened while nobody looked.
    fn remember(&mut self, observed: Option<&Observed>) {
        let kept = observed.and_then(|observed| Record::from_value(&observed.record));
        if self.record.is_none() {
            self.record = kept.or_else(|| self.shared.records.load(&self.uid));
            if let Some(range) = self.record.as_ref().and_then(|record| record.id_range).filter(|_| observed.is_some()) {
                self.shared.ranges.adopt(&self.uid, range);
            }
        }
        let ended = match observed.map(|observed| &observed.state) {
            Some(ObservedState::Exited(exit)) => Some(*exit),
            _ => return,
        };
        if self.record.as_ref().is_some_and(|record| record.exit != ended) {
            self.update_record(|record| record.exit = ended);
        }
    }

    /// Changes the record in memory and beside the writable layer.
    pub(super) fn update_record(&mut self, change: impl FnOnce(&mut Record)) {
        let Some(record) = &mut self.record else { return };
        change(record);
        if let Err(error) = self.shared.records.save(&self.uid, record) {
            warn!(container = %self.key, %error, "keep what the container was started from");
        }
    }

    /// What differs between the spec it was started from and the wished one.
    fn changes(&self, object: &Container) -> Vec<Change> {
        let Some(record) = &self.record else { return Vec::new() };
        let wished = serde_json::to_value(&object.spec).unwrap_or_default();
        let mut changes = effects::changes(&record.spec, &wished, &record.knew);
        if object.spec.update_policy == UpdatePolicy::OnImageChange
            && let Some(digest) = needs::current_digest(&self.shared.context.informers, object)
            && digest != record.image_digest
        {
            let (old, new) = (Value::String(record.image_digest.clone()), Value::String(digest));
            changes.push(Change { path: "status.imageDigest".to_owned(), effect: Effect::Replace, old, new });
        }
        changes
    }

    async fn take(&mut self, step: Step, object: Option<&Container>, changes: &[Change]) -> Next {
        if !matches!(step, Step::Stop(_)) {
            self.kill_at = None;
        }
        match (step, object) {
            (Step::TearDown, object) => self.tear_down(object).await,
            (Step::Stop(reason), object) => self.stop(reason, object).await,
            (Step::RemoveSandbox, _) => self.remove_sandbox().await,
            (Step::Discard, _) => self.discard().await,
            (Step::KeepRunning(started), Some(object)) => self.keep_running(object, started).await,
            (Step::KeepStopped(exit), Some(object)) => self.keep_stopped(object, exit).await,
            (Step::ApplyLive, Some(object)) => self.apply_live(object, changes).await,
            (Step::Start(reason), Some(object)) => self.start(object, reason).await,
            (_, None) => Next::Idle,
        }
    }

    async fn keep_running(&mut self, object: &Container, started: Started) -> Next {
        self.failures = 0;
        self.failed = None;
        match self.ensure_network(object).await {
            Ok(()) => {
                let report = self.running_report(object, started);
                self.write(&report).await
            }
            Err(finding) => {
                let mut report = self.running_report(object, started);
                report.findings.retain(|kept| kept.aspect != finding.aspect && kept.aspect != Aspect::Ready);
                report.findings.extend([finding.as_ready(), finding]);
                self.write(&report).await;
                Next::Until(self.retry_at())
            }
        }
    }

    async fn keep_stopped(&mut self, object: &Container, exit: Option<Exit>) -> Next {
        let (phase, reason, message) = match (object.spec.desired_state, exit) {
            (DesiredState::Stopped, _) => {
                (ContainerPhase::Exited, "Stopped", "stopped as wished; set spec.desiredState to Running to start it".to_owned())
            }
            (_, Some(exit)) if exit.code == 0 => (ContainerPhase::Exited, "Completed", "it ended with exit code 0".to_owned()),
            (_, Some(exit)) => (ContainerPhase::Exited, "Failed", describe_exit(&exit)),
            (_, None) => (
                ContainerPhase::Exited,
                "Lost",
                "its node or its shim went away while it ran; restartPolicy Never keeps it ended".to_owned(),
            ),
        };
        let mut report = self.report(object, phase);
        report.exit = exit;
        match self.failed.clone() {
            Some((finding, _)) => {
                report.phase = ContainerPhase::Failed;
                report.findings.extend([finding.as_ready(), finding]);
            }
            None => report.findings.push(Finding::bad(Aspect::Ready, reason, message)),
        }
        self.write(&report).await
    }

    async fn apply_live(&mut self, object: &Container, changes: &[Change]) -> Next {
        let runtime = &self.shared.context.drivers.runtime;
        if changes.iter().any(|change| change.path.starts_with("spec.resources"))
            && let Err(error) = runtime.update(&self.uid, &oci::limits(&object.spec)).await
        {
            let mut report = self.report(object, ContainerPhase::Running);
            report.findings.push(Finding::bad(Aspect::Ready, "LimitsNotApplied", chain(&error)));
            self.write(&report).await;
            return Next::Until(self.retry_at());
        }
        info!(container = %self.key, changes = changes.len(), "applied to the running container");
        let generation = object.generation();
        let spec = serde_json::to_value(&object.spec).unwrap_or_default();
        self.update_record(|record| {
            record.spec = spec;
            record.generation = generation;
            record.knew = effects::known_paths().iter().map(|path| (*path).to_owned()).collect();
        });
        self.keep_record().await;
        Next::Again
    }

    /// Puts the record beside the shim. A failure is no harm: the next change is computed from the older record and does the same again.
    async fn keep_record(&self) {
        let Some(record) = &self.record else { return };
        if let Err(error) = self.shared.context.drivers.runtime.set_record(&self.uid, &record.to_value()).await {
            warn!(container = %self.key, error = chain(&error), "keep the record beside the shim");
        }
    }

    async fn stop(&mut self, reason: StopReason, object: Option<&Container>) -> Next {
        let now = Instant::now();
        let runtime = self.shared.context.drivers.runtime.clone();
        match self.kill_at {
            Some(at) if now < at => return Next::Until(at),
            Some(_) => {
                if let Err(error) = runtime.signal(&self.uid, nix::libc::SIGKILL, true).await {
                    return self.failed_step("kill", &chain(&error));
                }
                self.kill_at = Some(now + KILL_PATIENCE);
                return Next::Until(now + KILL_PATIENCE);
            }
            None => {}
        }
        if self.record.as_ref().is_some_and(|record| record.stopping != Some(reason)) {
            self.update_record(|record| record.stopping = Some(reason));
            self.keep_record().await;
        }
        let grace = self.grace(object);
        let signal = self.record.as_ref().map_or(nix::libc::SIGTERM, |record| record.stop_signal);
        let (signal, all) = if grace.is_zero() { (nix::libc::SIGKILL, true) } else { (signal, false) };
        info!(container = %self.key, ?reason, signal, "stopping");
        if let Err(error) = runtime.signal(&self.uid, signal, all).await {
            return self.failed_step("signal", &chain(&error));
        }
        let at = Instant::now() + if grace.is_zero() { KILL_PATIENCE } else { grace };
        self.kill_at = Some(at);
        if let Some(object) = object.filter(|object| reason == StopReason::Remove && self.is_bound_or_leaving(object)) {
            let mut report = self.report(object, ContainerPhase::Terminating);
            report.findings.push(Finding::bad(Aspect::Ready, "Terminating", "it is being stopped and taken off the node"));
            self.write(&report).await;
        }
        Next::Until(at)
    }

    /// Seconds between the stop signal and SIGKILL: those of the deletion, else of the spec, else of the spec it was started from.
    fn grace(&self, object: Option<&Container>) -> Duration {
        let deletion = object.and_then(|object| object.metadata.deletion_grace_period_seconds.filter(|_| object.is_terminating()));
        let declared = object.map(|object| object.spec.stop.grace_period_seconds);
        let recorded = || self.record.as_ref().map(|record| record.typed_spec().stop.grace_period_seconds);
        Duration::from_secs(deletion.or(declared).or_else(recorded).and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(10))
    }

    async fn remove_sandbox(&mut self) -> Next {
        info!(container = %self.key, "its shim is gone: taking the sandbox away");
        match self.shared.context.drivers.runtime.remove(&self.uid).await {
            Ok(()) => {
                self.ensured = None;
                self.shared.ranges.release(&self.uid);
                Next::Again
            }
            Err(error) => self.failed_step("remove the sandbox", &chain(&error)),
        }
    }

    /// Takes sandbox and writable layer away, so that the container is made anew.
    async fn discard(&mut self) -> Next {
        info!(container = %self.key, "replacing");
        let drivers = &self.shared.context.drivers;
        if let Err(error) = drivers.runtime.remove(&self.uid).await {
            return self.failed_step("remove the sandbox", &chain(&error));
        }
        if let Err(error) = drivers.snapshotter.remove(&self.uid).await {
            return self.failed_step("remove the writable layer", &chain(&error));
        }
        if let Err(error) = self.shared.records.remove(&self.uid) {
            return self.failed_step("remove the record", &chain(&error));
        }
        self.shared.ranges.release(&self.uid);
        self.record = None;
        self.ensured = None;
        self.due = None;
        self.failed = None;
        self.backoff.reset();
        Next::Again
    }

    /// Takes everything of the container away, then lets the record go.
    async fn tear_down(&mut self, object: Option<&Container>) -> Next {
        let drivers = &self.shared.context.drivers;
        let mut errors = Vec::new();
        errors.extend(drivers.runtime.remove(&self.uid).await.err().map(|error| chain(&error)));
        errors.extend(drivers.network.remove_endpoint(&self.uid).await.err().map(|error| chain(&error)));
        errors.extend(drivers.snapshotter.remove(&self.uid).await.err().map(|error| chain(&error)));
        errors.extend(self.shared.logs.remove(&self.uid).await.err().map(|error| chain(&error)));
        errors.extend(self.shared.remove_mounts(&self.uid).await.err().map(|error| chain(&error)));
        errors.extend(self.shared.records.remove(&self.uid).err().map(|error| chain(&error)));
        if !errors.is_empty() {
            return self.failed_step("take it off the node", &errors.join("; "));
        }
        self.shared.ranges.release(&self.uid);
        info!(container = %self.key, uid = %self.uid, "gone from this node");
        match object.filter(|object| object.has_finalizer(AGENT_FINALIZER) && self.is_bound_or_leaving(object)) {
            Some(object) => self.let_go(object).await,
            None => Next::Finished,
        }
    }

    async fn let_go(&mut self, object: &Container) -> Next {
        let left: Vec<&String> = object.metadata.finalizers.iter().flatten().filter(|name| *name != AGENT_FINALIZER).collect();
        let patch = json!({"metadata": {"finalizers": left, "resourceVersion": object.metadata.resource_version, "uid": self.uid}});
        let api: Api<Container> = Api::namespaced(&self.shared.context.client, &self.key.namespace);
        match api.patch(&self.key.name, &Patch::Merge(patch), &Default::default()).await {
            Ok(_) => Next::Finished,
            Err(error) if error.is_not_found() => Next::Finished,
            // A newer version is on its way to the informer and wakes us.
            Err(error) if error.is_conflict() => Next::Until(self.retry_at()),
            Err(error) => self.failed_step("remove the finalizer", &chain(&error)),
        }
    }

    /// Tells the network driver what the container should have, when that changed or this engine has not told it yet.
    pub(super) async fn ensure_network(&mut self, object: &Container) -> Result<(), Finding> {
        let context = &self.shared.context;
        let needs = match needs::network(&context.informers, object) {
            Ok(needs) => self.with_kept_ports(needs),
            // A running container keeps what it has while its networks are being changed.
            Err(_) if self.ensured.is_some() => return Ok(()),
            Err(blocked) => return Err(blocked.0),
        };
        if self.ensured.as_ref() == Some(&needs) {
            return Ok(());
        }
        if !needs.interfaces.is_empty() {
            let spec = self.shared.sandbox_spec(object, &self.uid, self.record.as_ref());
            let sandbox = context.drivers.runtime.ensure_sandbox(&spec).await;
            let sandbox = sandbox.map_err(|error| Finding::bad(Aspect::NetworkReady, "SandboxFailed", chain(&error)))?;
            if let Some(network_namespace) = sandbox.network_namespace {
                self.ports = self.shared.ensure_endpoint(&self.uid, &needs, network_namespace).await?;
                let recorded = self.ports.iter().map(Into::into).collect();
                if self.record.as_ref().is_some_and(|record| record.ports != recorded) {
                    self.update_record(|record| record.ports = recorded);
                    self.keep_record().await;
                }
            }
        }
        self.ensured = Some(needs);
        Ok(())
    }

    /// Chosen host ports stay the same over restarts of container and engine.
    pub(super) fn with_kept_ports(&self, mut needs: NetworkNeeds) -> NetworkNeeds {
        let kept = self.record.iter().flat_map(|record| &record.ports);
        for wish in needs.ports.iter_mut().filter(|wish| wish.host_port == 0) {
            if let Some(port) = kept.clone().find(|port| port.container_port == wish.container_port && port.protocol == wish.protocol) {
                wish.host_port = port.host_port;
            }
        }
        needs
    }

    /// What is the same in every report.
    pub(super) fn report(&self, object: &Container, phase: ContainerPhase) -> Report {
        let record = self.record.as_ref();
        Report {
            generation: object.generation(),
            phase,
            container_id: record.map(|record| record.container_id.clone()),
            image_digest: record.map(|record| record.image_digest.clone()),
            running: None,
            exit: record.and_then(|record| record.exit),
            restart_count: record.and_then(|record| i32::try_from(record.restarts).ok()).unwrap_or(0),
            ports: None,
            findings: Vec::new(),
        }
    }

    fn running_report(&self, object: &Container, started: Started) -> Report {
        let mut report = self.report(object, ContainerPhase::Running);
        report.running = Some(started);
        report.ports = Some(self.ports.iter().map(published).collect());
        report.findings = vec![
            super::start::image_present(),
            super::start::volumes_present(),
            Finding::good(Aspect::NetworkReady, "Configured", "links, addresses and ports are made"),
            Finding::good(Aspect::Started, "Started", "the process was started"),
            Finding::good(Aspect::Ready, "Running", "the process runs"),
        ];
        report
    }

    pub(super) async fn write(&mut self, report: &Report) -> Next {
        match self.shared.status.write(&self.key, self.uid.as_str(), report).await {
            Ok(()) => Next::Idle,
            Err(error) => self.failed_step("write the status", &chain(&error)),
        }
    }

    pub(super) fn failed_step(&mut self, what: &'static str, error: &str) -> Next {
        warn!(container = %self.key, uid = %self.uid, step = what, error, "a step failed; it is tried again");
        Next::Until(self.retry_at())
    }

    pub(super) fn retry_at(&mut self) -> Instant {
        let delay = RETRY.0.saturating_mul(1 << self.failures.min(8)).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        Instant::now() + delay
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.failed = None;
    }
}

/// One sentence on how a process ended.
pub(super) fn describe_exit(exit: &Exit) -> String {
    match (exit.oom_killed, exit.signal) {
        (true, _) => "it used more memory than resources.limits.memory allows and was killed; raise the limit".to_owned(),
        (false, Some(signal)) => format!("it was ended by {}", super::signals::name(signal)),
        (false, None) => format!("it ended with exit code {}", exit.code),
    }
}

fn published(port: &PortPublished) -> PublishedPort {
    PublishedPort {
        container_port: port.wish.container_port,
        host_ip: port.host_ip.to_string(),
        host_port: port.host_port,
        count: port.wish.count,
        protocol: port.wish.protocol,
    }
}

impl Shared {
    /// Ensures bridges, links, addresses and ports; the error is what to say of it.
    pub(super) async fn ensure_endpoint(
        &self,
        uid: &ContainerUid,
        needs: &NetworkNeeds,
        network_namespace: std::os::fd::OwnedFd,
    ) -> Result<Vec<PortPublished>, Finding> {
        let driver = &self.context.drivers.network;
        for network in &needs.networks {
            driver.ensure_network(network).await.map_err(|error| network_finding(&error))?;
        }
        let wish = EndpointWish { uid: uid.clone(), network_namespace, interfaces: needs.interfaces.clone(), ports: needs.ports.clone() };
        driver.ensure_endpoint(&wish).await.map_err(|error| network_finding(&error))
    }
}

fn network_finding(error: &crate::network::NetworkError) -> Finding {
    use crate::network::NetworkError;
    let reason = match error {
        NetworkError::PortTaken { .. } => "PortTaken",
        NetworkError::SubnetTaken { .. } => "SubnetConflict",
        NetworkError::MissingNetwork { .. } => "NetworkPending",
        NetworkError::Unsupported { .. } => "NetworkUnsupported",
        NetworkError::Step { .. } => "NetworkFailed",
    };
    let remedy = if reason == "PortTaken" { "; free it, or choose another hostPort" } else { "" };
    Finding::bad(Aspect::NetworkReady, reason, format!("{}{remedy}", chain(error)))
}
