//! Debian's docker-registry as the judge, filled by skopeo.

#![expect(clippy::disallowed_methods, reason = "the judges are programs")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gantry_api::kinds::image::ImagePullPolicy;

use super::super::{DockerConfig, ImageError, Progress, Reason};
use super::{Node, request, saved, small_image};

/// `htpasswd -nbB user secret`, made once: the tool is not everywhere.
pub(super) const HTPASSWD: &str = "user:$2y$05$XNcgIlEJBaQTxrPD8JmXE.IHhLRtV3bjVnaS.ggUZ9cEprz7Lq0hi\n";

pub(super) struct Served {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Served {
    pub(super) async fn start(htpasswd: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let root = dir.path().display();
        let auth = htpasswd.map_or_else(String::new, |text| {
            std::fs::write(dir.path().join("htpasswd"), text).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {root}/htpasswd\n")
        });
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n{auth}"
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.path().join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let served = Self { child, port, dir };
        let listening = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), listening).await.expect("docker-registry listens");
        served
    }

    /// Pushes with skopeo.
    pub(super) fn push(&self, name: &str, layer: &[u8], config: &[u8], arguments: &[&str]) {
        let archive = self.dir.path().join("image.tar");
        saved(&archive, layer, config);
        let to = format!("docker://127.0.0.1:{}/{name}", self.port);
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]).args(arguments);
        let output = command.arg(format!("docker-archive:{}", archive.display())).arg(to).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub(super) fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }
}

async fn pull(node: &Node, request: &super::ResolveRequest) -> Result<super::super::LocalImage, ImageError> {
    let resolved = node.service.resolve(request).await?;
    node.service.ensure_unpacked(request, &resolved.digest, &Progress::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busybox_is_pulled_in_every_format() {
    let served = Served::start(None).await;
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let (layer, config) = small_image(&busybox);
    let formats: [&[&str]; 3] = [&["-f", "v2s2"], &["-f", "oci"], &["-f", "oci", "--dest-compress-format", "zstd"]];
    for (number, arguments) in formats.into_iter().enumerate() {
        let name = format!("team/busybox{number}:1");
        served.push(&name, &layer, &config, arguments);
        let node = Node::new();
        let request = request(&served.reference(&name), None, None);
        let resolved = node.service.resolve(&request).await.unwrap();
        assert_eq!(resolved.references, [served.reference(&name)]);
        assert_eq!(resolved.config.cmd, ["/bin/program"]);
        assert!(node.service.local(&resolved.digest).await.is_none());
        let progress = Progress::default();
        let local = node.service.ensure_unpacked(&request, &resolved.digest, &progress).await.unwrap();
        assert_eq!(node.service.local(&resolved.digest).await.as_ref(), Some(&local));
        let (current, total) = progress.bytes();
        assert!(current == total && total > 0, "{current} of {total}");
        let program = node.layer(&local.diff_ids[0]).join("bin/program");
        assert_eq!(std::fs::read(program).unwrap(), busybox);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_local_index_needs_no_registry() {
    let served = Served::start(None).await;
    let (layer, config) = small_image(b"x");
    served.push("a:1", &layer, &config, &[]);
    let node = Node::new();
    let reference = served.reference("a:1");
    let never = request(&reference, Some(ImagePullPolicy::Never), None);
    assert_eq!(pull(&node, &never).await.unwrap_err().reason, Reason::NotPresent);
    let first = pull(&node, &request(&reference, None, None)).await.unwrap();
    drop(served);
    for policy in [None, Some(ImagePullPolicy::IfNotPresent), Some(ImagePullPolicy::Never)] {
        assert_eq!(pull(&node, &request(&reference, policy, None)).await.unwrap(), first);
    }
    let mut elsewhere = request(&reference, Some(ImagePullPolicy::Never), None);
    elsewhere.namespace = "other".to_owned();
    assert_eq!(pull(&node, &elsewhere).await.unwrap_err().reason, Reason::NotPresent);
    let always = pull(&node, &request(&reference, Some(ImagePullPolicy::Always), None)).await.unwrap_err();
    assert_eq!(always.reason, Reason::RegistryUnavailable, "{always}");
    assert!(always.to_string().contains(&format!("GET http://{}", reference.split('/').next().unwrap())), "{always}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_needed_and_must_be_right() {
    let served = Served::start(Some(HTPASSWD)).await;
    let (layer, config) = small_image(b"x");
    served.push("private:1", &layer, &config, &["--dest-creds", "user:secret"]);
    let node = Node::new();
    let reference = served.reference("private:1");
    let login = |password: &str| {
        let json = format!(r#"{{"auths":{{"127.0.0.1:{}":{{"username":"user","password":"{password}"}}}}}}"#, served.port);
        Some(DockerConfig::parse(json.as_bytes()).unwrap())
    };
    for credentials in [None, login("wrong")] {
        let error = pull(&node, &request(&reference, None, credentials)).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unauthorized);
        let text = error.to_string();
        assert!(text.contains("pullSecretName") && text.contains("GET http://") && text.contains("401"), "{text}");
        assert!(!text.contains("wrong"));
    }
    pull(&node, &request(&reference, None, login("secret"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_named() {
    let served = Served::start(None).await;
    let node = Node::new();
    let error = pull(&node, &request(&served.reference("gone:1"), None, None)).await.unwrap_err();
    assert_eq!(error.reason, Reason::ImageNotInRegistry);
    assert!(error.to_string().contains("404"), "{error}");
    let error = pull(&node, &request("UPPER", None, None)).await.unwrap_err();
    assert_eq!(error.reason, Reason::InvalidReference);
}

/// Runs this very program's test of that name on a host whose certificates are `authorities`.
fn with_authorities(test: &str, authorities: &str) -> std::process::Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--include-ignored"]).env("SSL_CERT_FILE", authorities).env_remove("SSL_CERT_DIR");
    command.output().unwrap()
}

#[test]
fn without_certificate_authorities_plain_http_works_and_https_names_the_remedy() {
    for test in ["what_is_not_there_is_named", "https_names_the_missing_authorities"] {
        let output = with_authorities(&format!("image::tests::real::{test}"), "/dev/null");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}

#[tokio::test]
#[ignore = "runs where there are no certificate authorities, started by the test above"]
async fn https_names_the_missing_authorities() {
    let error = pull(&Node::new(), &request("registry.invalid/a:1", None, None)).await.unwrap_err();
    assert_eq!(error.reason, Reason::NoCertificateAuthorities);
    let text = error.to_string();
    assert!(text.contains("GET https://registry.invalid/v2/a/manifests/1") && text.contains("ca-certificates"), "{text}");
}
