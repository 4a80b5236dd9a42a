//! The peer: etcd on the host's loopback and disk, measured by `etcdbench` over its own protocol.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::Context as _;
use gantry_tests::host::{Host, PATIENCE};
use gantry_tests::wait::until;

const ENDPOINT: &str = "http://127.0.0.1:23790";
const PEER: &str = "http://127.0.0.1:23800";

/// A server that runs, and the program that measures it.
pub(super) struct Etcd {
    child: Child,
    program: PathBuf,
}

impl Etcd {
    /// `None` when etcd is not installed, or its bench was not built (`ETCDBENCH` names it).
    pub(super) fn start(host: &Host) -> anyhow::Result<Option<Self>> {
        let installed = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join("etcd").exists());
        let Some(program) = std::env::var_os("ETCDBENCH").map(PathBuf::from).filter(|program| installed && program.exists()) else {
            return Ok(None);
        };
        let mut command = host.command("etcd");
        command.arg("--data-dir").arg(host.dir().join("etcd"));
        command.args(["--listen-client-urls", ENDPOINT, "--advertise-client-urls", ENDPOINT, "--listen-peer-urls", PEER]);
        command.args(["--initial-advertise-peer-urls", PEER, "--initial-cluster"]).arg(format!("default={PEER}"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        until("etcd", PATIENCE, || host.fetch(&format!("{ENDPOINT}/health")).map(|_| ()));
        Ok(Some(Self { child, program }))
    }

    /// The samples of one section: measure, unit, value.
    pub(super) fn run(&self, host: &Host, section: &[&str]) -> anyhow::Result<Vec<(String, &'static str, f64)>> {
        let output = host.command(&self.program).arg(ENDPOINT).args(section).stderr(Stdio::inherit()).output()?;
        anyhow::ensure!(output.status.success(), "etcdbench {section:?}: {}", output.status);
        let text = String::from_utf8(output.stdout)?;
        let sample = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [measure, value, unit] = fields.as_slice() else { anyhow::bail!("etcdbench says {line:?}") };
            let unit = if *unit == "ms" { "ms" } else { "/s" };
            Ok(((*measure).to_owned(), unit, value.parse().context("a sample of etcdbench")?))
        };
        text.lines().map(sample).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
