//! From the facts of a connection to an identity.

use nix::unistd::{Gid, Group, Uid, User};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{AUTHENTICATED_GROUP, Identity};

/// What a listener knows of the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer<'a> {
    /// A process on this machine, by `SO_PEERCRED` (unix(7)): the credentials when it connected.
    Unix {
        /// Effective user.
        uid: u32,
        /// Effective group.
        gid: u32,
    },
    /// The holder of a client certificate that our authority signed and that is valid now, as DER.
    Certificate(&'a [u8]),
    /// Nothing.
    Unknown,
}

/// Who that is. `None`: nobody known. May look into the user database, so it blocks.
pub fn authenticate(peer: Peer<'_>, admin_group: &str) -> Option<Identity> {
    match peer {
        Peer::Unix { uid, gid } => is_admin(Uid::from_raw(uid), Gid::from_raw(gid), admin_group).then(Identity::admin),
        Peer::Certificate(der) => identity_of_certificate(der),
        Peer::Unknown => None,
    }
}

/// uid 0, or a member of the group by the user database or by the process' own group.
fn is_admin(uid: Uid, gid: Gid, admin_group: &str) -> bool {
    if uid.is_root() {
        return true;
    }
    let Ok(Some(group)) = Group::from_name(admin_group) else { return false };
    let is_named = || User::from_uid(uid).ok().flatten().is_some_and(|user| user.gid == group.gid || group.mem.contains(&user.name));
    gid == group.gid || is_named()
}

/// The common name is the user, each organisation a group, as in Kubernetes. `None` without exactly one common name.
pub fn identity_of_certificate(der: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let mut names = subject.iter_common_name();
    let user = names.next()?.as_str().ok()?.to_owned();
    if user.is_empty() || names.next().is_some() {
        return None;
    }
    let mut groups = Vec::new();
    for organisation in subject.iter_organization() {
        groups.push(organisation.as_str().ok()?.to_owned());
    }
    groups.push(AUTHENTICATED_GROUP.to_owned());
    Some(Identity { user, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_members_of_the_group_are_admins() {
        // Every system has these: root's group 0, and `daemon` (1:1) of which uid 65534 is no member.
        let daemon = nix::unistd::Group::from_gid(Gid::from_raw(1)).unwrap().unwrap().name;
        let unix = |uid, gid, group: &str| authenticate(Peer::Unix { uid, gid }, group);
        assert_eq!(unix(0, 0, "no such group"), Some(Identity::admin()));
        assert_eq!(unix(4_000_000, 1, &daemon), Some(Identity::admin()));
        assert_eq!(unix(1, 4_000_000, &daemon), Some(Identity::admin()));
        assert_eq!(unix(65_534, 65_534, &daemon), None);
        assert_eq!(unix(65_534, 65_534, "no such group"), None);
        assert_eq!(authenticate(Peer::Unknown, &daemon), None);
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        assert_eq!(identity_of_certificate(b"x"), None);
        assert_eq!(identity_of_certificate(b""), None);
    }
}
