//! From nothing, or from an ended process, to a running one.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use gantry_api::Kind as _;
use gantry_api::effects;
use gantry_api::kinds::container::{Container, ContainerPhase, NetworkMode};
use gantry_api::meta::ConditionStatus;
use tokio::time::Instant;
use tracing::info;

use super::backoff::Delay;
use super::dispatch::Shared;
use super::environment::{self, References};
use super::needs::{self, Blocked, NetworkNeeds, VolumeSource};
use super::oci::{self, BindSource};
use super::plan::StartReason;
use super::record::Record;
use super::status::{Aspect, Finding};
use super::worker::{Next, Worker, describe_exit};
use crate::ids::{ContainerUid, chain};
use crate::image::LocalImage;
use crate::runtime::{Bundle, EtcFile, Exit, IdRange, LogTarget, RuntimeError, SandboxSpec, Started};
use crate::snapshot::{Rootfs, SnapshotError};

/// How soon a start that waits for something that cannot be watched is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Exit codes of a program that is not there or cannot be executed (POSIX shell, Docker).
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// All that a start needs, found.
struct Ready {
    image: LocalImage,
    volumes: Vec<VolumeSource>,
    network: NetworkNeeds,
}

impl Worker {
    /// Starts the process once the back-off allows it and everything it needs is there.
    pub(super) async fn start(&mut self, object: &Container, reason: StartReason) -> Next {
        if let Some(wait) = self.wait_for_backoff(object, reason).await {
            return wait;
        }
        let ready = match self.ready(object).await {
            Ok(ready) => ready,
            Err(findings) => {
                let waits_for_objects =
                    findings.iter().all(|finding| finding.status == ConditionStatus::True || finding.caused_by.is_some());
                self.report_blocked(object, findings).await;
                return if waits_for_objects { Next::Idle } else { Next::Until(Instant::now() + LOOK_AGAIN) };
            }
        };
        match self.launch(object, &ready, reason).await {
            Ok(started) => {
                self.succeeded();
                self.due = None;
                info!(container = %self.key, uid = %self.uid, pid = started.pid, "started");
                Next::Again
            }
            Err(finding) => {
                let at = self.retry_at();
                self.failed = Some((finding.clone(), at));
                let mut findings = vec![image_present(), volumes_present()];
                findings.retain(|passed| passed.aspect != finding.aspect);
                findings.push(finding);
                self.report_blocked(object, findings).await;
                Next::Until(at)
            }
        }
    }

    /// `Some` while the start is not due yet.
    async fn wait_for_backoff(&mut self, object: &Container, reason: StartReason) -> Option<Next> {
        if let Some((_, at)) = self.failed.as_ref().filter(|(_, at)| Instant::now() < *at) {
            return Some(Next::Until(*at));
        }
        let StartReason::Policy(exit) = reason else {
            if reason == StartReason::Wished {
                self.backoff.reset();
            }
            return None;
        };
        if self.due.is_none_or(|(known, _)| known != exit) {
            let ran = Duration::from_nanos(u64::try_from(exit.at_unix_nanos - exit.started.at_unix_nanos).unwrap_or(0));
            let Delay::After(delay) = self.backoff.next(&object.spec.restart_backoff, ran) else {
                return Some(self.given_up(object, exit).await);
            };
            self.due = Some((exit, Instant::now() + delay));
        }
        let (_, at) = self.due?;
        if Instant::now() >= at {
            return None;
        }
        let mut report = self.report(object, ContainerPhase::Restarting);
        let again = format!("{}; it is started again after the back-off", describe_exit(&exit));
        report.findings.push(match self.failed.take() {
            Some((finding, _)) => finding.as_ready(),
            None => Finding::bad(Aspect::Ready, "BackOff", again),
        });
        self.write(&report).await;
        Some(Next::Until(at))
    }

    async fn given_up(&mut self, object: &Container, exit: Exit) -> Next {
        let mut report = self.report(object, ContainerPhase::Failed);
        let message = format!("{}; spec.restartBackoff.maxRetries is reached, restart it by hand", describe_exit(&exit));
        report.findings.push(Finding::bad(Aspect::Ready, "RestartLimitReached", message));
        self.write(&report).await
    }

    /// Finds everything; the parts do not wait for one another, so that all that is missing is said at once.
    async fn ready(&self, object: &Container) -> Result<Ready, Vec<Finding>> {
        let context = &self.shared.context;
        let (image, volumes) = tokio::join!(needs::image(context, object), needs::volumes(context, object));
        match (image, volumes, needs::network(&context.informers, object)) {
            (Ok(image), Ok(volumes), Ok(network)) => Ok(Ready { image, volumes, network: self.with_kept_ports(network) }),
            (image, volumes, network) => {
                let or = |blocked: Option<Blocked>, good: Finding| blocked.map_or(good, |Blocked(finding)| finding);
                let mut findings = vec![or(image.err(), image_present()), or(volumes.err(), volumes_present())];
                findings.extend(network.err().map(|Blocked(finding)| finding));
                Err(findings)
            }
        }
    }

    /// Says what holds the start up; the first finding that is not good is the summary.
    async fn report_blocked(&mut self, object: &Container, findings: Vec<Finding>) {
        let restarting = self.record.as_ref().is_some_and(|record| record.exit.is_some());
        let bad = findings.iter().find(|finding| finding.status != ConditionStatus::True).cloned();
        let phase = match (bad.as_ref().map(|finding| finding.aspect), restarting) {
            (Some(Aspect::Started), _) => ContainerPhase::Failed,
            (_, true) => ContainerPhase::Restarting,
            (_, false) => ContainerPhase::Pending,
        };
        let mut report = self.report(object, phase);
        report.findings.extend(bad.map(|finding| finding.as_ready()));
        report.findings.extend(findings);
        self.write(&report).await;
    }

    async fn launch(&mut self, object: &Container, ready: &Ready, reason: StartReason) -> Result<Started, Finding> {
        let record = self.new_record(object, ready, reason)?;
        let sandbox_spec = self.shared.sandbox_spec(object, &self.uid, Some(&record));
        let drivers = &self.shared.context.drivers;
        let (sandbox, rootfs) =
            tokio::join!(drivers.runtime.ensure_sandbox(&sandbox_spec), drivers.snapshotter.prepare(&self.uid, &ready.image.diff_ids),);
        let sandbox = sandbox.map_err(|error| start_finding(&error))?;
        let rootfs = rootfs.map_err(|error| snapshot_finding(&error))?;
        self.populate_volumes(object, ready, &rootfs).await?;
        // On disk before anything runs, so that what runs is never without a record.
        self.record = Some(record);
        self.update_record(|_| {});
        let endpoint = async {
            match sandbox.network_namespace {
                Some(namespace) if !ready.network.interfaces.is_empty() && self.ensured.as_ref() != Some(&ready.network) => {
                    self.shared.ensure_endpoint(&self.uid, &ready.network, namespace).await.map(Some)
                }
                _ => Ok(None),
            }
        };
        let (ports, bundle) = tokio::join!(endpoint, self.bundle(object, ready, rootfs));
        if let Some(ports) = ports? {
            self.ports = ports;
            self.ensured = Some(ready.network.clone());
        }
        let mut bundle = bundle?;
        let recorded = self.ports.iter().map(Into::into).collect();
        self.update_record(|record| record.ports = recorded);
        bundle.record = self.record.as_ref().map(Record::to_value).unwrap_or_default();
        let started = self.shared.context.drivers.runtime.start(&self.uid, &bundle).await;
        started.map_err(|error| self.start_failed(object, &error))
    }

    /// What it is being started from. A restart keeps its id and counts; a first start or a replacement begins afresh.
    fn new_record(&self, object: &Container, ready: &Ready, reason: StartReason) -> Result<Record, Finding> {
        let previous = self.record.as_ref();
        let image_signal = ready.image.config.stop_signal.as_deref();
        let stop_signal = object.spec.stop.signal.as_deref().or(image_signal).unwrap_or("SIGTERM");
        let stop_signal = super::signals::number(stop_signal).ok_or_else(|| {
            Finding::bad(Aspect::Started, "InvalidStopSignal", format!("there is no signal `{stop_signal}`; set spec.stop.signal"))
        })?;
        let by_policy = matches!(reason, StartReason::Policy(_) | StartReason::Lost);
        Ok(Record {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            container_id: previous.map_or_else(new_container_id, |record| record.container_id.clone()),
            generation: object.generation(),
            spec: serde_json::to_value(&object.spec).unwrap_or_default(),
            knew: effects::known_paths().iter().map(|path| (*path).to_owned()).collect(),
            image_digest: ready.image.digest.clone(),
            diff_ids: ready.image.diff_ids.clone(),
            stop_signal,
            id_range: self.id_range(object)?,
            ports: previous.map_or_else(Vec::new, |record| record.ports.clone()),
            restarts: previous.map_or(0, |record| record.restarts + u32::from(by_policy)),
            stopping: None,
            exit: None,
        })
    }

    /// The range of the sandbox that is up, else a new one.
    fn id_range(&self, object: &Container) -> Result<Option<IdRange>, Finding> {
        if !oci::has_user_namespace(&object.spec) {
            return Ok(None);
        }
        if let Some(held) = self.record.as_ref().and_then(|record| record.id_range) {
            self.shared.ranges.adopt(&self.uid, held);
            return Ok(Some(held));
        }
        let size = object.spec.security_context.user_namespace.size;
        let range = self.shared.ranges.allocate(&self.uid, size);
        range.map(Some).ok_or_else(|| {
            let message =
                "no free range of user ids is left on this node; delete containers, or set securityContext.userNamespace.mode: Host";
            Finding::bad(Aspect::Started, "UserNamespaceExhausted", message)
        })
    }

    async fn populate_volumes(&self, object: &Container, ready: &Ready, rootfs: &Rootfs) -> Result<(), Finding> {
        for source in &ready.volumes {
            let mount = &object.spec.mounts[source.mount];
            let name = mount.volume.as_ref().map_or("", |volume| volume.name.as_str());
            let volume = self.shared.context.informers.volumes.get(&gantry_api::ObjectKey::new(&self.key.namespace, name));
            let keep_owner = volume.is_some_and(|volume| volume.spec.owner.is_some());
            let (data, lowers, inside) = (source.path.clone(), rootfs.lowers.clone(), mount.mount_path.clone());
            let copied = tokio::task::spawn_blocking(move || crate::volume::populate::first_use(&data, &lowers, &inside, keep_owner)).await;
            copied.map_err(std::io::Error::other).flatten().map_err(|error| {
                let message = format!("copy the image's files at `{}` into volume `{name}`: {error}", mount.mount_path);
                Finding::bad(Aspect::VolumesReady, "VolumeCopyFailed", message)
            })?;
        }
        Ok(())
    }

    async fn bundle(&self, object: &Container, ready: &Ready, rootfs: Rootfs) -> Result<Bundle, Finding> {
        let hostname = hostname(object);
        let mut references = References::new(&self.shared.context.client, &self.key.namespace);
        let env = environment::environment(&ready.image.config.env, &object.spec, hostname, &mut references).await;
        let env = env.map_err(|error| Finding::bad(Aspect::Started, error.reason(), chain(&error)))?;
        let mounts = self.shared.bind_sources(object, &self.uid, &ready.volumes, &mut references).await?;
        let id_range = self.record.as_ref().and_then(|record| record.id_range);
        let source = oci::Source { spec: &object.spec, image: &ready.image.config, env, hostname, mounts, id_range };
        let spec = oci::spec(source).map_err(|error| Finding::bad(Aspect::Started, "InvalidSpec", error.to_string()))?;
        Ok(Bundle {
            spec,
            rootfs,
            files: etc_files(object, hostname, &ready.network),
            user: object.spec.user.clone().or_else(|| ready.image.config.user.clone()).filter(|user| !user.is_empty()),
            init: object.spec.init,
            record: serde_json::Value::Null,
        })
    }

    /// A program that cannot be executed counts as an end, so that the restart policy applies.
    fn start_failed(&mut self, object: &Container, error: &RuntimeError) -> Finding {
        let code = match error {
            RuntimeError::CommandNotFound { .. } => Some(NOT_FOUND),
            RuntimeError::CommandNotExecutable { .. } => Some(NOT_EXECUTABLE),
            _ => None,
        };
        if let Some(code) = code {
            let at = i64::try_from((self.shared.context.clock)().as_nanosecond()).unwrap_or(i64::MAX);
            let exit = Exit { code, signal: None, oom_killed: false, at_unix_nanos: at, started: Started { pid: 0, at_unix_nanos: at } };
            self.update_record(|record| record.exit = Some(exit));
        }
        info!(container = %object.key(), error = chain(error), "could not be started");
        start_finding(error)
    }
}

/// The image is on this node.
pub(super) fn image_present() -> Finding {
    Finding::good(Aspect::ImageReady, "Present", "the image is on this node")
}

/// All volumes are here.
pub(super) fn volumes_present() -> Finding {
    Finding::good(Aspect::VolumesReady, "Present", "all volumes are here")
}

fn hostname(object: &Container) -> &str {
    object.spec.hostname.as_deref().unwrap_or_else(|| object.name())
}

fn new_container_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, as Docker provides them.
fn etc_files(object: &Container, hostname: &str, network: &NetworkNeeds) -> Vec<EtcFile> {
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for interface in &network.interfaces {
        hosts.push_str(&format!("{}\t{hostname}\n", interface.address.address));
    }
    let resolv = match object.spec.network_mode {
        NetworkMode::Networks => resolv_conf(&network.resolvers),
        NetworkMode::Host => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        NetworkMode::None => String::new(),
    };
    let file = |path: &str, text: String| EtcFile { path: path.to_owned(), text };
    vec![file("/etc/hosts", hosts), file("/etc/hostname", format!("{hostname}\n")), file("/etc/resolv.conf", resolv)]
}

/// resolv.conf(5) honours the first three name servers.
fn resolv_conf(resolvers: &[IpAddr]) -> String {
    let mut text: String = resolvers.iter().take(3).map(|address| format!("nameserver {address}\n")).collect();
    text.push_str("options ndots:0\n");
    text
}

fn start_finding(error: &RuntimeError) -> Finding {
    let reason = match error {
        RuntimeError::CommandNotFound { .. } => "CommandNotFound",
        RuntimeError::CommandNotExecutable { .. } => "CommandNotExecutable",
        RuntimeError::UserNotFound { .. } => "UserNotFound",
        RuntimeError::Unsupported { .. } => "Unsupported",
        RuntimeError::ShimLost { .. } => "ShimLost",
        _ => "StartFailed",
    };
    let remedy = match reason {
        "CommandNotFound" => "; set spec.command to a program that the image has (exit code 127)",
        "CommandNotExecutable" => "; make it executable in the image, or set spec.command (exit code 126)",
        "UserNotFound" => "; set spec.user to a numeric uid, or to a name that the image knows",
        _ => "",
    };
    Finding::bad(Aspect::Started, reason, format!("{}{remedy}", chain(error)))
}

fn snapshot_finding(error: &SnapshotError) -> Finding {
    let reason = match error {
        SnapshotError::MissingLayer { .. } => "ImageLayerMissing",
        SnapshotError::BadLayer { .. } => "BadLayer",
        SnapshotError::Io { .. } => "SnapshotFailed",
    };
    Finding::bad(Aspect::ImageReady, reason, chain(error))
}

impl Shared {
    /// What the shim is made with. An existing sandbox is returned by the runtime as it is.
    pub(super) fn sandbox_spec(&self, object: &Container, uid: &ContainerUid, record: Option<&Record>) -> SandboxSpec {
        let logs = &object.spec.logs;
        SandboxSpec {
            uid: uid.clone(),
            hostname: hostname(object).to_owned(),
            user_namespace: record.and_then(|record| record.id_range),
            own_network: object.spec.network_mode != NetworkMode::Host,
            log: LogTarget {
                dir: self.logs.dir(uid),
                max_size_bytes: u64::try_from(logs.max_size_bytes).unwrap_or(64 << 20),
                max_files: u32::try_from(logs.max_files).unwrap_or(4),
            },
            record: record.map(Record::to_value).unwrap_or_default(),
        }
    }

    /// The sources on this node of all mounts but tmpfs.
    async fn bind_sources(
        &self,
        object: &Container,
        uid: &ContainerUid,
        volumes: &[VolumeSource],
        references: &mut References<'_>,
    ) -> Result<Vec<BindSource>, Finding> {
        let mut sources = Vec::new();
        for (index, mount) in object.spec.mounts.iter().enumerate() {
            let bind = |host: &Path| BindSource {
                host: mount.sub_path.as_deref().map_or_else(|| host.to_owned(), |sub_path| host.join(sub_path)),
                inside: mount.mount_path.clone(),
                read_only: mount.read_only || mount.secret.is_some() || mount.config_map.is_some(),
            };
            if let Some(volume) = volumes.iter().find(|volume| volume.mount == index) {
                sources.push(bind(&volume.path));
            } else if let Some(host_path) = &mount.host_path {
                let path = self.host_path(&host_path.path, host_path.create).await?;
                sources.push(bind(&path));
            } else if let Some((data, kind)) = projected(mount, references).await? {
                let dir = self.project(uid, index, kind, data).await;
                let dir = dir.map_err(|error| Finding::bad(Aspect::VolumesReady, "MountFailed", chain(&error)))?;
                sources.push(bind(&dir));
            }
        }
        Ok(sources)
    }
}

/// The data of a Secret or ConfigMap that is mounted, if the mount is one.
async fn projected(
    mount: &gantry_api::kinds::container::Mount,
    references: &mut References<'_>,
) -> Result<Option<(environment::Data, &'static str)>, Finding> {
    let found = match (&mount.secret, &mount.config_map) {
        (Some(secret), _) => references.secret(secret).await.map(|data| (data.cloned(), "Secret")),
        (_, Some(map)) => references.config_map(map).await.map(|data| (data.cloned(), "ConfigMap")),
        _ => return Ok(None),
    };
    let (data, kind) = found.map_err(|error| Finding::bad(Aspect::VolumesReady, error.reason(), chain(&error)))?;
    Ok(Some((data.unwrap_or_default(), kind)))
}
