//! A real server from a real image of several layers, pulled from a real registry: served through a published port, its data kept.

#![expect(clippy::disallowed_methods, reason = "a test runs real programs")]

use std::path::Path;
use std::process::Command;

use gantry_tests::host::{Host, PATIENCE, run};
use gantry_tests::registry::Registry;
use gantry_tests::wait::until;

const PAGE: &str = "http://127.0.0.1:8080/";

fn manifest(edition: u32) -> String {
    format!(
        "apiVersion: gantry.dev/v1\nkind: Volume\nmetadata: {{name: html}}\nspec: {{}}\n---\n\
         apiVersion: gantry.dev/v1\nkind: Container\nmetadata: {{name: nginx}}\nspec:\n  image: 127.0.0.1:5000/team/nginx:1\n  \
         env: [{{name: EDITION, value: '{edition}'}}]\n  ports: [{{containerPort: 80, hostPort: 8080}}]\n  \
         mounts: [{{mountPath: /var/www/html, volume: {{name: html}}}}]\n"
    )
}

fn wait_page(host: &Host, wanted: &str) {
    until("the page", PATIENCE, || host.fetch(PAGE).and_then(|page| if page.contains(wanted) { Ok(()) } else { Err(page) }));
}

#[test]
fn a_debian_image_is_pulled_run_served_and_replaced_with_its_data_kept() {
    let mut host = Host::new();
    let archive = host.dir().join("nginx.tar");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/debian-image");
    // Beside the program under test: kept between runs, gone with `make clean`.
    let cache = Host::binary().parent().unwrap().to_owned();
    run(Command::new(script).arg(&archive).arg("localhost/nginx:1").env("CACHE", cache));
    let registry = Registry::start(&host, 5000, None);
    registry.push(&host, &archive, "team/nginx:1", None);
    std::fs::remove_file(&archive).unwrap();
    host.serve();
    host.apply(&manifest(1));
    let first = host.wait_running("nginx");
    wait_page(&host, "Hello from Debian");
    let listing = host.gantry(&["exec", "nginx", "--", "ls", "/var/www/html"]);
    assert_eq!(listing, "index.html\n", "a first use copies what the image shows, whiteouts minded");
    let workers = host.gantry(&["exec", "nginx", "--", "stat", "-c", "%U", "/var/lib/nginx/body"]);
    assert_eq!(workers, "www-data\n", "ids on disk are the container's");

    host.gantry(&["exec", "nginx", "--", "sh", "-c", "echo edited > /var/www/html/index.html"]);
    wait_page(&host, "edited");
    host.apply(&manifest(2));
    host.wait_for("container", "nginx", "replaced", |object| {
        object["status"]["containerID"] != first["status"]["containerID"] && object["status"]["phase"] == "Running"
    });
    wait_page(&host, "edited");
    host.gantry(&["delete", "container", "nginx", "--timeout", "30s"]);
}
