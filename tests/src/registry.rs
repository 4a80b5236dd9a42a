//! A real registry: Debian's `docker-registry`, on the loopback of a test's host.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::host::{Host, PATIENCE, run};
use crate::wait::until;

/// A running registry. Dropping it ends it.
pub struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    /// Starts one on `127.0.0.1:port` of the host, plain HTTP; with `htpasswd` a file of users is asked.
    pub fn start(host: &Host, port: u16, htpasswd: Option<&Path>) -> Self {
        let dir = host.dir().join(format!("registry-{port}"));
        std::fs::create_dir_all(&dir).expect("make the registry's directory");
        let auth = htpasswd.map_or_else(String::new, |file| format!("auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n", file.display()));
        let config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{auth}",
            dir.join("data").display(),
        );
        let file: PathBuf = dir.join("config.yml");
        std::fs::write(&file, config).expect("write the registry's configuration");
        let log = std::fs::File::create(dir.join("log")).expect("make the registry's log");
        let mut command = host.command("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("start docker-registry");
        let address = format!("127.0.0.1:{port}");
        let url = format!("http://{address}/v2/");
        until("the registry", PATIENCE, || {
            let output = host
                .command("curl")
                .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])
                .output()
                .map_err(|error| error.to_string())?;
            let code = String::from_utf8_lossy(&output.stdout).into_owned();
            if code == "200" || code == "401" { Ok(()) } else { Err(code) }
        });
        Self { child, address }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Pushes an image archive, as `docker save` writes it, as `name:tag`.
    pub fn push(&self, host: &Host, archive: &Path, name: &str, credentials: Option<&str>) {
        let mut command: Command = host.command("skopeo");
        command.args(["copy", "-q", "--insecure-policy", "--dest-tls-verify=false"]);
        if let Some(credentials) = credentials {
            command.args(["--dest-creds", credentials]);
        }
        command.arg(format!("docker-archive:{}", archive.display())).arg(format!("docker://{}/{name}", self.address));
        run(&mut command);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of an htpasswd file, hashed with bcrypt, which is all that docker-registry takes.
pub fn htpasswd_line(user: &str, password: &str) -> String {
    run(Command::new("htpasswd").args(["-Bbn", user, password]))
}
