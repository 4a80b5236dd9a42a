//! Who may do what, until roles come: administrators everything, the engine's parts what their work needs, nobody else
//! anything.

use gantry_api::custom;

use super::{ADMINS_GROUP, APISERVER_USER, Component, Identity};

/// What a request wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'a str,
    /// API group; empty for core.
    pub group: &'a str,
    /// Plural; empty for a path that names no resource.
    pub resource: &'a str,
    /// Such as `status`; empty for the object itself.
    pub subresource: &'a str,
    /// Empty for cluster-scoped objects and for all namespaces.
    pub namespace: &'a str,
    /// Empty for collections and on create.
    pub name: &'a str,
    /// The URL's path: what counts when it names no resource.
    pub path: &'a str,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No; the reason is for the log and access reviews.
    Deny {
        /// Why not; may be empty.
        reason: &'static str,
    },
}

impl Decision {
    /// Whether it is a yes.
    pub fn is_allowed(&self) -> bool {
        *self == Self::Allow
    }
}

/// Decides whether an identity may do something. Pure and quick: it is asked for every request.
pub trait Authorizer: Send + Sync + 'static {
    /// May `identity` do this? Anonymous requests are asked for too: the caller turns their `Deny` into 401.
    fn authorize(&self, identity: &Identity, attributes: &Attributes<'_>) -> Decision;
}

/// The fixed rules of the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct FixedAuthorizer;

/// Health and version tell no secret, and probes bring no certificate.
const PUBLIC_PATHS: [&str; 6] = ["/healthz", "/livez", "/readyz", "/version", "/version/", "/favicon.ico"];
/// What every known client reads to find its way.
const DISCOVERY_PATHS: [&str; 3] = ["/api", "/apis", "/openapi"];

const OURS: &str = "gantry.dev";

impl Authorizer for FixedAuthorizer {
    fn authorize(&self, identity: &Identity, attributes: &Attributes<'_>) -> Decision {
        if identity.is_in(ADMINS_GROUP) || identity.user == APISERVER_USER || is_public(identity, attributes) {
            return Decision::Allow;
        }
        let allowed = match identity.component() {
            _ if attributes.resource.is_empty() => false,
            Component::Node(node) => node_may(node, attributes),
            Component::Controllers => controllers_may(attributes),
            Component::None => false,
        };
        if allowed { Decision::Allow } else { Decision::Deny { reason: "no rule allows it" } }
    }
}

fn is_public(identity: &Identity, attributes: &Attributes<'_>) -> bool {
    if asks_about_itself(attributes) {
        return !identity.is_anonymous();
    }
    if !attributes.resource.is_empty() || attributes.verb != "get" {
        return false;
    }
    let below = |root: &str| attributes.path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    PUBLIC_PATHS.iter().any(|path| below(path)) || (!identity.is_anonymous() && DISCOVERY_PATHS.iter().any(|path| below(path)))
}

/// Who one is and what one may: `kubectl auth whoami`, `kubectl auth can-i`.
fn asks_about_itself(attributes: &Attributes<'_>) -> bool {
    let reviews = match attributes.group {
        "authentication.k8s.io" => ["selfsubjectreviews"].as_slice(),
        "authorization.k8s.io" => &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        _ => return false,
    };
    attributes.verb == "create" && attributes.subresource.is_empty() && reviews.contains(&attributes.resource)
}

fn reads(verb: &str) -> bool {
    matches!(verb, "get" | "list" | "watch")
}

fn writes(verb: &str) -> bool {
    matches!(verb, "update" | "patch")
}

/// The controllers watch all kinds and complete what users declare; they make Images, Networks and Namespaces of their own. Which
/// fields they may change is admission's to say.
fn controllers_may(attributes: &Attributes<'_>) -> bool {
    let Attributes { verb, group, resource, subresource, .. } = *attributes;
    let tends = reads(verb) || matches!(verb, "update" | "patch" | "delete" | "deletecollection");
    match (group, resource, subresource) {
        (OURS, "images" | "networks", "") => tends || verb == "create",
        (OURS, "containers" | "volumes", "") => tends,
        (OURS, "containers", "binding") => verb == "create",
        (OURS, "containers" | "images" | "volumes" | "networks", "status") => reads(verb) || writes(verb),
        ("coordination.k8s.io", "leases", "") | ("events.k8s.io" | "", "events", "") => tends || verb == "create",
        ("", "secrets" | "configmaps" | "nodes", "") => tends,
        ("", "namespaces" | "serviceaccounts", "") => tends || verb == "create",
        ("", "namespaces", "status" | "finalize") => reads(verb) || writes(verb),
        // Kinds that were added at run time: they go with their owners and their namespace, as others do.
        (custom::GROUP, custom::PLURAL, "") => tends,
        (group, _, "") if custom::is_open_group(group) => tends,
        _ => false,
    }
}

/// An agent reads what containers are made of, and writes the status of what it makes, its own Node and its events. Which objects,
/// and which of their fields, is admission's to say.
fn node_may(node: &str, attributes: &Attributes<'_>) -> bool {
    let Attributes { verb, group, resource, subresource, name, .. } = *attributes;
    let object_or_status = matches!(subresource, "" | "status");
    match (group, resource) {
        (OURS, "networks") => reads(verb) && object_or_status,
        (OURS, "images") => (reads(verb) && object_or_status) || (writes(verb) && subresource == "status"),
        // Finalizers are metadata: a patch of the object itself.
        (OURS, "containers" | "volumes") => (reads(verb) || writes(verb)) && object_or_status,
        ("", "secrets" | "configmaps" | "namespaces") => reads(verb) && subresource.is_empty(),
        ("", "nodes") => reads(verb) || verb == "create" || (writes(verb) && name == node && object_or_status),
        ("", "events") => verb == "create" || writes(verb),
        ("coordination.k8s.io", "leases") => matches!(verb, "get" | "create") || (writes(verb) && name == node),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(identity: &Identity, verb: &str, what: &str) -> bool {
        let mut attributes = Attributes { verb, ..Attributes::default() };
        if what.starts_with('/') {
            attributes.path = what;
        } else {
            let mut parts = what.split(' ');
            attributes.group = parts.next().unwrap().trim_start_matches("core");
            attributes.resource = parts.next().unwrap();
            attributes.name = parts.next().unwrap_or("");
            attributes.subresource = parts.next().unwrap_or("");
        }
        FixedAuthorizer.authorize(identity, &attributes).is_allowed()
    }

    #[test]
    fn admins_may_do_everything() {
        for identity in [Identity::admin(), Identity::apiserver(), Identity::new("eve", &[ADMINS_GROUP])] {
            assert!(may(&identity, "delete", "core secrets x") && may(&identity, "get", "/metrics"), "{identity}");
        }
    }

    #[test]
    fn others_may_ask_for_health_and_find_their_way() {
        let (anonymous, known) = (Identity::anonymous(), Identity::new("eve", &["devs"]));
        for identity in [&anonymous, &known] {
            assert!(may(identity, "get", "/readyz/etcd") && may(identity, "get", "/version"));
            assert!(!may(identity, "get", "core secrets x") && !may(identity, "get", "/metrics") && !may(identity, "post", "/readyz"));
            assert!(!may(identity, "get", "/readyzz"));
        }
        assert!(may(&known, "get", "/apis/gantry.dev/v1") && !may(&anonymous, "get", "/apis"));
        let review = "authorization.k8s.io selfsubjectaccessreviews";
        assert!(may(&known, "create", review) && !may(&anonymous, "create", review) && !may(&known, "list", review));
    }

    #[test]
    fn a_name_alone_makes_no_node_and_no_anonymous_admin() {
        assert!(!may(&Identity::new("system:node:a", &[]), "get", "core secrets x"));
        assert!(may(&Identity::node("a"), "get", "core secrets x"));
        assert!(!may(&Identity::anonymous(), "list", "gantry.dev containers"));
    }

    #[test]
    fn a_node_writes_only_what_is_its_own() {
        let node = Identity::node("a");
        assert!(may(&node, "patch", "gantry.dev containers web status") && may(&node, "create", "core nodes"));
        assert!(may(&node, "patch", "core nodes a status") && !may(&node, "patch", "core nodes b status"));
        assert!(!may(&node, "update", "core secrets x") && !may(&node, "create", "gantry.dev containers"));
        assert!(!may(&node, "delete", "gantry.dev volumes data") && !may(&node, "create", "gantry.dev containers web binding"));
        assert!(may(&node, "update", "coordination.k8s.io leases a") && !may(&node, "update", "coordination.k8s.io leases b"));
    }

    #[test]
    fn a_node_gets_into_no_container_and_makes_or_removes_none() {
        let node = Identity::node("a");
        for (verb, what) in [
            ("get", "gantry.dev containers web exec"),
            ("create", "gantry.dev containers web exec"),
            ("get", "gantry.dev containers web log"),
            ("delete", "gantry.dev containers web"),
            ("patch", "gantry.dev images nginx"),
            ("patch", "gantry.dev networks default status"),
            ("create", "gantry.dev applyrequests"),
        ] {
            assert!(!may(&node, verb, what), "{verb} {what}");
        }
    }

    #[test]
    fn controllers_bind_but_make_no_secrets() {
        let controllers = Identity::controllers();
        assert!(
            may(&controllers, "create", "gantry.dev containers web binding") && may(&controllers, "update", "core namespaces x finalize")
        );
        assert!(!may(&controllers, "create", "core secrets x") && may(&controllers, "delete", "core secrets x"));
        assert!(!may(&controllers, "create", "gantry.dev containers") && may(&controllers, "create", "gantry.dev images"));
        assert!(
            !may(&controllers, "create", "gantry.dev containers web exec") && !may(&controllers, "get", "gantry.dev containers web log")
        );
        assert!(may(&controllers, "delete", "example.com widgets x") && !may(&controllers, "create", "example.com widgets x"));
        assert!(!may(&controllers, "patch", "example.com widgets x status") && !may(&Identity::node("a"), "get", "example.com widgets x"));
        assert!(!may(&controllers, "create", "gantry.dev applyrequests") && !may(&controllers, "patch", "core nodes a status"));
    }
}
