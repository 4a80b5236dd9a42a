//! A host of its own for a test: directories, a network namespace, an instance name, and engines on it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::wait::until;

/// Longest wait for an engine to be ready, and for most other things, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A host of its own for a test. Dropping it takes everything off the real one.
pub struct Host {
    dir: TempDir,
    instance: String,
    netns: String,
    engine: Option<Child>,
    environment: Vec<(String, String)>,
}

impl Host {
    /// A new host. Fails without root.
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the suites run real containers: run them as root");
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let unique = std::process::id() * 16 + NUMBER.fetch_add(1, Ordering::Relaxed) % 16;
        let instance = format!("t{}", radix36(unique));
        let netns = format!("gantry-{instance}");
        let dir = tempfile::Builder::new().prefix("gt").tempdir_in("/tmp").expect("make a directory for the test");
        run(Command::new("ip").args(["netns", "add", &netns]));
        run(Command::new("ip").args(["-n", &netns, "link", "set", "lo", "up"]));
        Self { dir, instance, netns, engine: None, environment: Vec::new() }
    }

    /// A variable for the engines of this host.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Directory of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
    /// The engine's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }
    /// The engine's run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }
    /// The engine's Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("gantry.sock")
    }
    /// The engine's instance name.
    pub fn instance(&self) -> &str {
        &self.instance
    }
    /// Name of the network namespace that stands for the host's.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// The program under test.
    pub fn binary() -> PathBuf {
        let mut dir = std::env::current_exe().expect("the test's own path");
        dir.pop();
        if dir.ends_with("deps") {
            dir.pop();
        }
        let binary = dir.join("gantry");
        assert!(binary.exists(), "`{}` is missing: build the workspace first", binary.display());
        binary
    }

    /// A command that runs in this host's network namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program);
        command.stdin(Stdio::null());
        command
    }

    fn engine_arguments(&self) -> Vec<String> {
        let path = |path: PathBuf| path.display().to_string();
        ["--data-dir", &path(self.data_dir()), "--run-dir", &path(self.run_dir()), "--instance", &self.instance].map(str::to_owned).to_vec()
    }

    /// Starts an engine and waits until it is ready.
    pub fn serve(&mut self) {
        self.spawn_engine();
        self.wait_ready();
    }

    /// Starts an engine, and returns at once.
    pub fn spawn_engine(&mut self) {
        assert!(self.engine.is_none(), "an engine runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.engine_log()).expect("open the engine's log");
        let mut command = self.command(Self::binary());
        command.arg("serve").args(self.engine_arguments()).args(["--listen", "127.0.0.1:7443", "--node-name", "node"]);
        command.stdout(log.try_clone().expect("share the log")).stderr(log).process_group(0);
        command.env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.engine = Some(command.spawn().expect("start the engine"));
    }

    /// Waits until the engine answers.
    pub fn wait_ready(&mut self) {
        let log = self.engine_log();
        let socket = self.socket();
        let child = self.engine.as_mut().expect("an engine was started");
        until("the engine to be ready", PATIENCE, || {
            if let Ok(Some(status)) = child.try_wait() {
                return Ok(Err(format!("the engine ended with {status}: {}", tail(&log))));
            }
            let answer = Command::new("curl")
                .args(["-fsS", "--max-time", "5", "--unix-socket"])
                .arg(&socket)
                .arg("http://localhost/readyz?exclude=store")
                .output();
            match answer {
                Ok(output) if output.status.success() => Ok(Ok(())),
                Ok(output) => Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))),
                Err(error) => Err(error.to_string()),
            }
        })
        .unwrap_or_else(|error: String| panic!("{error}"));
    }

    /// What the engines of this host printed.
    pub fn engine_log(&self) -> PathBuf {
        self.dir.path().join("engine.log")
    }

    /// Process id of the running engine.
    pub fn engine_pid(&self) -> i32 {
        let child = self.engine.as_ref().expect("an engine runs");
        i32::try_from(child.id()).expect("a process id fits")
    }

    /// `kill -9` of the engine.
    pub fn kill_engine(&mut self) {
        if let Some(mut child) = self.engine.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and its exit status.
    pub fn stop_engine(&mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.engine_pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signal the engine");
        let mut child = self.engine.take().expect("an engine runs");
        until("the engine to stop", PATIENCE, || child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it runs".to_owned()))
    }

    /// Runs `gantry` as a client of this host's engine.
    pub fn gantry_output(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(Self::binary());
        command.args(arguments).env("GANTRY_HOST", format!("unix://{}", self.socket().display())).env("NO_COLOR", "1");
        command.output().expect("run gantry")
    }

    /// Runs `gantry` as a client and returns what it printed; panics when it fails.
    #[track_caller]
    pub fn gantry(&self, arguments: &[&str]) -> String {
        let output = self.gantry_output(arguments);
        assert!(
            output.status.success(),
            "gantry {arguments:?} ended with {}: {}{}\nengine: {}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            tail(&self.engine_log()),
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Applies manifests given as text; panics when it fails.
    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        let file = self.dir.path().join("manifest.yaml");
        std::fs::write(&file, yaml).expect("write the manifest");
        self.gantry(&["apply", "-f", &file.display().to_string()])
    }

    /// One object, `None` when it is not there.
    pub fn find(&self, kind: &str, name: &str) -> Option<Value> {
        let output = self.gantry_output(&["get", kind, name, "-o", "json"]);
        if output.status.success() { serde_json::from_slice(&output.stdout).ok() } else { None }
    }

    /// One object; panics when it is not there.
    #[track_caller]
    pub fn get(&self, kind: &str, name: &str) -> Value {
        self.find(kind, name).unwrap_or_else(|| panic!("{kind} {name} is not there"))
    }

    /// Waits until the object satisfies `wanted`, and returns it.
    #[track_caller]
    pub fn wait_for(&self, kind: &str, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{kind} {name}: {what}"), PATIENCE, || match self.find(kind, name) {
            Some(object) if wanted(&object) => Ok(object),
            Some(object) => Err(format!("{}\nengine: {}", object["status"], tail(&self.engine_log()))),
            None => Err("it is not there".to_owned()),
        })
    }

    /// Waits until the container runs and is ready, and returns it.
    #[track_caller]
    pub fn wait_running(&self, name: &str) -> Value {
        self.wait_for("container", name, "ready", |object| {
            condition(object, "Ready") == Some("True") && object["status"]["observedGeneration"] == object["metadata"]["generation"]
        })
    }

    /// Waits until the object is gone.
    #[track_caller]
    pub fn wait_gone(&self, kind: &str, name: &str) {
        until(&format!("{kind} {name} to be gone"), PATIENCE, || match self.find(kind, name) {
            None => Ok(()),
            Some(object) => Err(object.to_string()),
        });
    }

    /// Fetches a page from within this host.
    pub fn fetch(&self, url: &str) -> Result<String, String> {
        let output = self.command("curl").args(["-fsS", "--max-time", "5", url]).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Makes an image archive of busybox and loads it under `reference`.
    pub fn load_busybox(&self, reference: &str) {
        let file = self.dir.path().join("busybox.tar");
        busybox_archive(&file, reference);
        self.gantry(&["load", &file.display().to_string()]);
    }

    /// Takes the engine and everything of it off the host; with `purge` also its data.
    pub fn teardown(&mut self, purge: bool) {
        self.kill_engine();
        let mut command = self.command(Self::binary());
        command.arg("teardown").args(self.engine_arguments());
        if purge {
            command.arg("--purge");
        }
        run(&mut command);
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill_engine();
        if std::thread::panicking() {
            eprintln!("engine's last words: {}", tail(&self.engine_log()));
        }
        if self.data_dir().exists() {
            let mut command = self.command(Self::binary());
            match command.arg("teardown").args(self.engine_arguments()).arg("--purge").output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => eprintln!("teardown: {}", String::from_utf8_lossy(&output.stderr)),
                Err(error) => eprintln!("teardown: {error}"),
            }
        }
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}

/// Status of a condition.
pub fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == type_)?["status"].as_str()
}

/// Reason of a condition.
pub fn reason<'a>(object: &'a Value, type_: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == type_)?["reason"].as_str()
}

/// Makes an image archive, as `docker save` writes it, from Debian's busybox-static.
pub fn busybox_archive(file: &Path, reference: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/busybox-image");
    run(Command::new(script).arg(file).arg(reference));
}

/// Runs a command; panics with what it printed when it fails.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

fn radix36(mut number: u32) -> String {
    let digits: Vec<char> = "0123456789abcdefghijklmnopqrstuvwxyz".chars().collect();
    let mut text = String::new();
    loop {
        text.push(digits[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            return text;
        }
    }
}
