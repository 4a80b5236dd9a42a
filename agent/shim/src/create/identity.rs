//! Who a process is inside: `user` as declared, looked up in the image's own files, and its groups.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_sys::mount::open_in_root;
use nix::fcntl::OFlag;
use oci_spec::runtime::Process;

use crate::protocol::{Failure, errno_step, step};

/// Longest passwd or group file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most supplementary groups (`NGROUPS_MAX` is 65536; images have a handful).
const MAX_GROUPS: usize = 1024;

/// Ids inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// Home directory, from the passwd file.
    pub(super) home: Option<String>,
}

/// Looks the user up below `root`, as Docker does: `name`, `uid`, `name:group`, `uid:gid`.
///
/// Without `user` the ids of the spec are taken as they are.
pub(super) fn find(root: &OwnedFd, user: Option<&str>, process: Option<&Process>) -> Result<Identity, Failure> {
    let passwd = read_file(root, "/etc/passwd")?;
    let group = read_file(root, "/etc/group")?;
    let declared = user.filter(|user| !user.is_empty());
    let mut identity = match declared {
        Some(user) => look_up(user, &passwd, &group).ok_or_else(|| Failure::UserNotFound { user: user.to_owned() })?,
        None => {
            let user = process.map(Process::user);
            let (uid, gid) = user.map_or((0, 0), |user| (user.uid(), user.gid()));
            let entry = passwd_entries(&passwd).find(|entry| entry.uid == uid);
            let groups = entry.as_ref().map_or_else(Vec::new, |entry| memberships(entry.name, &group));
            Identity { uid, gid, groups, home: entry.map(|entry| entry.home.to_owned()) }
        }
    };
    let extra = process.and_then(|process| process.user().additional_gids().clone()).unwrap_or_default();
    identity.groups.extend(extra);
    // The primary group among them, or a set-group-id program could drop it to get past a denial (CVE-2022-36109).
    identity.groups.push(identity.gid);
    identity.groups.sort_unstable();
    identity.groups.dedup();
    identity.groups.truncate(MAX_GROUPS);
    Ok(identity)
}

fn look_up(user: &str, passwd: &str, group: &str) -> Option<Identity> {
    let (user, wanted_group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let number = id(user);
    let entry = passwd_entries(passwd).find(|entry| entry.name == user || (number == Some(entry.uid)));
    let uid = entry.as_ref().map(|entry| entry.uid).or(number)?;
    let home = entry.as_ref().map(|entry| entry.home.to_owned());
    if let Some(wanted) = wanted_group.filter(|wanted| !wanted.is_empty()) {
        let named = group_entries(group).find(|entry| entry.name == wanted).map(|entry| entry.gid);
        return Some(Identity { uid, gid: named.or_else(|| id(wanted))?, groups: Vec::new(), home });
    }
    let gid = entry.as_ref().map_or(0, |entry| entry.gid);
    let groups = entry.map_or_else(Vec::new, |entry| memberships(entry.name, group));
    Some(Identity { uid, gid, groups, home })
}

/// A plain number up to 2^31 - 1: above it lies -1 in one notation or another (CVE-2024-40635).
fn id(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<u32>().ok().filter(|id| plain && *id <= i32::MAX.cast_unsigned())
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
        Some(PasswdEntry { name, uid, gid, home: fields.nth(1).filter(|home| !home.is_empty()).unwrap_or("/") })
    })
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(GroupEntry { name, gid: id(fields.next()?)?, members: fields.next().unwrap_or_default() })
    })
}

fn memberships(user: &str, group: &str) -> Vec<u32> {
    group_entries(group).filter(|entry| entry.members.split(',').any(|member| member == user)).map(|entry| entry.gid).collect()
}

/// The text of a file of the image: regular, bounded, opened without waiting (CVE-2024-9676); empty when missing.
fn read_file(root: &OwnedFd, path: &str) -> Result<String, Failure> {
    // First a handle that opens nothing: a device or a pipe of the image must not be touched.
    let handle = match open_in_root(root.as_fd(), Path::new(path), OFlag::O_PATH) {
        Ok(handle) => handle,
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENOTDIR)) => return Ok(String::new()),
        Err(error) => return Err(step(format!("open `{path}` of the image"))(error)),
    };
    let mode = nix::sys::stat::fstat(&handle).map_err(errno_step(format!("look at `{path}` of the image")))?.st_mode;
    if mode & nix::libc::S_IFMT != nix::libc::S_IFREG {
        return Err(Failure::Step { step: format!("read `{path}` of the image: it is not a regular file"), errno: nix::libc::EINVAL });
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = open_in_root(root.as_fd(), Path::new(path), flags).map_err(step(format!("open `{path}` of the image")))?;
    let mode = nix::sys::stat::fstat(&file).map_err(errno_step(format!("look at `{path}` of the image")))?.st_mode;
    if mode & nix::libc::S_IFMT != nix::libc::S_IFREG {
        return Err(Failure::Step { step: format!("read `{path}` of the image: it is not a regular file"), errno: nix::libc::EINVAL });
    }
    let mut bytes = Vec::new();
    File::from(file).take(MAX_FILE).read_to_end(&mut bytes).map_err(step(format!("read `{path}` of the image")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/var/www:/bin/false\nbroken\nbig:x:4294967295:0::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:4:other,web\nmail:x:8:web\n";

    fn found(user: &str) -> Option<(u32, u32, Vec<u32>)> {
        look_up(user, PASSWD, GROUP).map(|identity| (identity.uid, identity.gid, identity.groups))
    }

    #[test]
    fn users_are_found_as_docker_finds_them() {
        assert_eq!(found("web"), Some((33, 34, vec![4, 8])));
        assert_eq!(found("33"), Some((33, 34, vec![4, 8])));
        assert_eq!(found("web:log"), Some((33, 4, vec![])));
        assert_eq!(found("web:77"), Some((33, 77, vec![])));
        assert_eq!(found("1000"), Some((1000, 0, vec![])));
        assert_eq!(found("1000:1001"), Some((1000, 1001, vec![])));
        for nobody in ["nobody", "web:nogroup", "-1", "+5", "2147483648", "4294967296", "big"] {
            assert_eq!(found(nobody), None, "{nobody}");
        }
        assert_eq!(look_up("web", PASSWD, GROUP).unwrap().home.as_deref(), Some("/var/www"));
    }

    #[test]
    fn a_pipe_or_a_link_that_leads_out_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(File::open(dir.path()).unwrap());
        assert_eq!(find(&root, Some("7"), None).unwrap().uid, 7, "no files at all");
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("etc/passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(find(&root, Some("7"), None), Err(Failure::Step { .. })));
        std::fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/../../../../../etc/passwd", dir.path().join("etc/passwd")).unwrap();
        assert!(find(&root, Some("root"), None).is_err(), "the link stays inside, where it points to itself");
    }
}
