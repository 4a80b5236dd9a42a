//! What a URL is about.

use super::error::ApiError;
use super::params::decode;

/// The resource part of a URL: `/api/v1/…` or `/apis/{group}/{version}/…`, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    /// `None`: the cluster, or all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) plural: String,
    /// `None`: the collection.
    pub(crate) name: Option<String>,
    /// What follows the name, with slashes.
    pub(crate) subresource: Option<String>,
}

/// A URL that is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`: what is in it.
    Resources(String, String),
    /// Objects.
    Resource(ResourcePath),
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/…`: the path of a group version.
    OpenApi(String),
    /// `/version`
    Version,
    /// `/livez`, `/readyz`, `/healthz`
    Health(String),
    /// `/metrics`
    Metrics,
    /// `/backup`: all objects as one file.
    Backup,
}

/// Understands a path; slashes at the end do not matter.
///
/// # Errors
/// 404 for a path that is nothing, 400 when it is not percent-encoded UTF-8.
pub(crate) fn parse(path: &str) -> Result<Route, ApiError> {
    let parts = path.split('/').filter(|part| !part.is_empty()).map(segment).collect::<Result<Vec<_>, _>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["api"] => Ok(Route::CoreVersions),
        ["apis"] => Ok(Route::Groups),
        ["apis", group] => Ok(Route::Group((*group).to_owned())),
        ["api", version] => Ok(Route::Resources(String::new(), (*version).to_owned())),
        ["apis", group, version] => Ok(Route::Resources((*group).to_owned(), (*version).to_owned())),
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        ["openapi", "v3"] => Ok(Route::OpenApiIndex),
        ["openapi", "v3", rest @ ..] => Ok(Route::OpenApi(rest.join("/"))),
        ["metrics"] => Ok(Route::Metrics),
        ["version"] => Ok(Route::Version),
        ["backup"] => Ok(Route::Backup),
        ["livez" | "readyz" | "healthz", ..] => Ok(Route::Health(parts[0].to_owned())),
        _ => Err(ApiError::no_such_resource()),
    }
}

/// A path segment, where unlike in a query a plus is itself.
fn segment(text: &str) -> Result<String, ApiError> {
    decode(&text.replace('+', "%2B"))
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Result<Route, ApiError> {
    let of_namespace = |part: &str| group.is_empty() && matches!(part, "status" | "finalize");
    let (namespace, rest) = match rest {
        ["namespaces", _, part] if of_namespace(part) => (None, rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        _ => (None, rest),
    };
    let [plural, rest @ ..] = rest else { return Err(ApiError::no_such_resource()) };
    let (name, rest) = match rest {
        [] => (None, rest),
        [name, rest @ ..] => (Some((*name).to_owned()), rest),
    };
    let subresource = (!rest.is_empty()).then(|| rest.join("/"));
    let (group, version, plural) = (group.to_owned(), version.to_owned(), (*plural).to_owned());
    Ok(Route::Resource(ResourcePath { group, version, namespace, plural, name, subresource }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> (Option<String>, String, Option<String>, Option<String>) {
        match parse(path).unwrap() {
            Route::Resource(r) => (r.namespace, r.plural, r.name, r.subresource),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn namespaces_are_both_a_resource_and_a_place() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(at("/api/v1/namespaces"), (None, "namespaces".into(), None, None));
        assert_eq!(at("/api/v1/namespaces/a"), (None, "namespaces".into(), some("a"), None));
        assert_eq!(at("/api/v1/namespaces/a/finalize"), (None, "namespaces".into(), some("a"), some("finalize")));
        assert_eq!(at("/api/v1/namespaces/a/status/"), (None, "namespaces".into(), some("a"), some("status")));
        assert_eq!(at("/api/v1/namespaces/a/secrets"), (some("a"), "secrets".into(), None, None));
        assert_eq!(at("/apis/g/v1/namespaces/a/b/c/status"), (some("a"), "b".into(), some("c"), some("status")));
        assert_eq!(at("/apis/g/v1/b/c%2Dd"), (None, "b".into(), some("c-d"), None));
    }

    #[test]
    fn what_is_nothing_is_404() {
        for path in ["/", "/apix", "/openapi/v2", "/version/x/y"] {
            assert_eq!(parse(path).unwrap_err().code.as_u16(), 404, "{path}");
        }
        assert_eq!(parse("/version/").unwrap(), Route::Version);
    }
}
