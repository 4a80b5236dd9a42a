//! `/version`, `/livez`, `/readyz`, `/healthz`.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use gantry_api::registry::find_resource;
use serde_json::json;

use super::AppState;
use super::params::Params;
use super::render;
use crate::store::Health;
use crate::strategy::object::key;

/// The Kubernetes API that clients may expect; tools parse it as a version number.
const KUBERNETES_MINOR: &str = "33";

/// What this server is.
pub(super) fn version() -> Response<Body> {
    let info = json!({
        "major": "1", "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0+gantry.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform_arch()),
    });
    render::json(StatusCode::OK, info.to_string())
}

/// The architecture as Go and OCI name it.
fn platform_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn has_default_namespace(server: &AppState) -> bool {
    let namespaces = find_resource("", "v1", "namespaces");
    namespaces.is_some_and(|namespaces| server.cache.get(&key(namespaces, "", "default")).is_some())
}

/// Whether the server works; `?verbose` says what was looked at, `?exclude=` leaves a check out. 503 when something does not work.
pub(super) fn health(server: &AppState, endpoint: &str, params: &Params) -> Response<Body> {
    // The cache is behind when the store has changes that it did not take in for some reason: watches would be stale.
    let store = *server.cache.store().revision().borrow();
    let cache = server.cache.revision();
    let alive = endpoint == "livez";
    let (store_check, takes_writes) = match &*server.cache.store().health().borrow() {
        Health::Healthy => ("store", true),
        // A restart makes no room, and reads go on.
        Health::DiskFull => ("store (the disk is full: writes are refused)", alive),
        Health::Failed { .. } => ("store (its file cannot be used)", false),
    };
    let checks = [
        ("ping", true),
        (store_check, takes_writes),
        ("watch-cache", alive || cache >= store || store.0 - cache.0 < 1_000),
        // Nothing can be applied before the controllers have made it.
        ("namespace-default", alive || has_default_namespace(server)),
    ];
    let is_excluded = |name: &str| params.all("exclude").any(|excluded| name.split(' ').next() == Some(excluded));
    let checks: Vec<_> = checks.into_iter().filter(|(name, _)| !is_excluded(name)).collect();
    let healthy = checks.iter().all(|(_, ok)| *ok);
    let verbose = params.all("verbose").next().is_some();
    let text = if healthy && !verbose {
        "ok".to_owned()
    } else {
        let lines: String =
            checks.iter().map(|(name, ok)| if *ok { format!("[+]{name} ok\n") } else { format!("[-]{name} failed\n") }).collect();
        format!("{lines}{endpoint} check {}\n", if healthy { "passed" } else { "failed" })
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
