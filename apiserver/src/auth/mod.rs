//! Who asks, and whether they may.
//!
//! A listener finds out who is at the other end once per connection ([`authenticate`]) and puts the [`Identity`] into the
//! extensions of each request; a caller in the engine's own process puts there what it is. A request without one is anonymous.
//! Whether an identity may do something is for the one [`Authorizer`] to say.

mod authenticate;
mod authorize;

use std::fmt;

pub use authenticate::{Peer, authenticate, identity_of_certificate};
pub use authorize::{Attributes, Authorizer, Decision, FixedAuthorizer};

/// Members may do everything.
pub const ADMINS_GROUP: &str = "gantry:admins";
/// Everyone whose identity is known.
pub const AUTHENTICATED_GROUP: &str = "system:authenticated";
/// Everyone else.
pub const ANONYMOUS_USER: &str = "system:anonymous";
/// The group of anonymous requests.
pub const UNAUTHENTICATED_GROUP: &str = "system:unauthenticated";
/// The group of the agents.
pub const NODES_GROUP: &str = "system:nodes";
/// The controllers of the engine.
pub const CONTROLLERS_USER: &str = "system:controllers";
/// The API server itself.
pub const APISERVER_USER: &str = "system:apiserver";
/// The agent of node `NAME` is `system:node:NAME`.
pub const NODE_USER_PREFIX: &str = "system:node:";

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name, such as `admin` or `system:node:here`.
    pub user: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl Identity {
    /// A known user in these groups, and in that of all known users.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().chain([&AUTHENTICATED_GROUP]).map(|group| (*group).to_owned()).collect();
        Self { user: user.into(), groups }
    }

    /// The administrator.
    pub fn admin() -> Self {
        Self::new("admin", &[ADMINS_GROUP])
    }

    /// Nobody known.
    pub fn anonymous() -> Self {
        Self { user: ANONYMOUS_USER.to_owned(), groups: vec![UNAUTHENTICATED_GROUP.to_owned()] }
    }

    /// The controllers of this engine.
    pub fn controllers() -> Self {
        Self::new(CONTROLLERS_USER, &[])
    }

    /// The API server's own errands.
    pub fn apiserver() -> Self {
        Self::new(APISERVER_USER, &[])
    }

    /// The agent of a node.
    pub fn node(name: &str) -> Self {
        Self::new(format!("{NODE_USER_PREFIX}{name}"), &[NODES_GROUP])
    }

    /// Whether it is a member of `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|member| member == group)
    }

    /// Whether it is a part of the engine, and no user.
    pub(crate) fn is_of_the_engine(&self) -> bool {
        self.component() != Component::None || (self.user == APISERVER_USER && !self.is_in(ADMINS_GROUP))
    }

    /// Whether nobody is known to ask.
    pub fn is_anonymous(&self) -> bool {
        self.user == ANONYMOUS_USER
    }
}

/// Which part of the engine an identity is, as far as that limits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Component<'a> {
    /// The agent of this node.
    Node(&'a str),
    /// The controllers.
    Controllers,
    /// A user, or the API server.
    None,
}

impl Identity {
    /// The part of the engine that it is. Administrators are users, whatever they are called.
    pub(crate) fn component(&self) -> Component<'_> {
        if self.is_in(ADMINS_GROUP) {
            return Component::None;
        }
        match self.user.strip_prefix(NODE_USER_PREFIX).filter(|_| self.is_in(NODES_GROUP)) {
            Some(node) => Component::Node(node),
            None if self.user == CONTROLLERS_USER => Component::Controllers,
            None => Component::None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.user)
    }
}
