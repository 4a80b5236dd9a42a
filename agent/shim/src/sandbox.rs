//! The namespaces that outlive a restart of the container: user and network.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use gantry_sys::interface::raise_loopback;
use gantry_sys::process::{Cloned, SingleThread, clone_process, exit_now};
use nix::libc;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::protocol::{Failure, IdRange, step};

/// Held open for as long as the shim lives.
pub(crate) struct Namespaces {
    pub(crate) user: Option<OwnedFd>,
    pub(crate) network: Option<OwnedFd>,
}

/// One line of an id map: ids inside, ids outside, how many.
pub(crate) type MapLine = (u32, u32, u32);

/// The map of a container's range.
pub(crate) fn range_map(range: IdRange) -> Vec<MapLine> {
    vec![(0, range.first, range.count)]
}

/// Makes the sandbox's namespaces: `lo` is up, ports below 1024 and ping are free for all users inside, as under Docker.
pub(crate) fn make(single: &SingleThread, range: Option<IdRange>, own_network: bool) -> Result<Namespaces, Failure> {
    let mut flags = 0;
    if range.is_some() {
        flags |= libc::CLONE_NEWUSER;
    }
    if own_network {
        flags |= libc::CLONE_NEWNET;
    }
    if flags == 0 {
        return Ok(Namespaces { user: None, network: None });
    }
    let map = range.map(range_map);
    let last_group = range.map_or(i32::MAX.cast_unsigned(), |range| range.count.saturating_sub(1).min(i32::MAX.cast_unsigned()));
    let set_up = || if own_network { prepare_network(last_group) } else { Ok(()) };
    let (user, network) = with_child(single, flags, map.as_deref().map(|map| (map, map)), set_up, |pid| {
        let open = |name: &str| fs::File::open(format!("/proc/{pid}/ns/{name}")).map(OwnedFd::from);
        let user = if range.is_some() { Some(open("user")?) } else { None };
        let network = if own_network { Some(open("net")?) } else { None };
        Ok((user, network))
    })?;
    Ok(Namespaces { user, network })
}

/// A user namespace that only serves to ID-map a mount.
pub(crate) fn make_id_map(single: &SingleThread, uids: &[MapLine], gids: &[MapLine]) -> Result<OwnedFd, Failure> {
    let open = |pid: i32| fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from);
    with_child(single, libc::CLONE_NEWUSER, Some((uids, gids)), || Ok(()), open)
}

/// Runs a short-lived child in new namespaces: `inside` runs in it once its maps are written, `take` opens what is kept of it.
fn with_child<T>(
    single: &SingleThread,
    flags: libc::c_int,
    maps: Option<(&[MapLine], &[MapLine])>,
    inside: impl FnOnce() -> io::Result<()>,
    take: impl FnOnce(i32) -> io::Result<T>,
) -> Result<T, Failure> {
    let (mut go_reader, go_writer) = io::pipe().map_err(step("make a pipe"))?;
    let (mut done_reader, mut done_writer) = io::pipe().map_err(step("make a pipe"))?;
    let pid = match clone_process(single, flags, None).map_err(step("make the user and network namespace"))? {
        Cloned::Child => {
            drop((go_writer, done_reader));
            let mut byte = [0; 1];
            if !matches!(go_reader.read(&mut byte), Ok(1)) {
                exit_now(1);
            }
            let errno = inside().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
            let _ = done_writer.write_all(&errno.to_le_bytes());
            // Waits until the parent has taken its handles and closes the pipe.
            let _ = go_reader.read(&mut byte);
            exit_now(0);
        }
        Cloned::Parent(pid) => pid,
    };
    drop((go_reader, done_writer));
    let result = drive_child(pid, maps, go_writer, &mut done_reader, take);
    let _ = waitpid(Pid::from_raw(pid), None);
    result
}

fn drive_child<T>(
    pid: i32,
    maps: Option<(&[MapLine], &[MapLine])>,
    mut go: io::PipeWriter,
    done: &mut io::PipeReader,
    take: impl FnOnce(i32) -> io::Result<T>,
) -> Result<T, Failure> {
    if let Some((uids, gids)) = maps {
        fs::write(format!("/proc/{pid}/uid_map"), text(uids)).map_err(step("write the uid map"))?;
        fs::write(format!("/proc/{pid}/gid_map"), text(gids)).map_err(step("write the gid map"))?;
    }
    go.write_all(b"g").map_err(step("start the sandbox's child"))?;
    let mut errno = [0; 4];
    done.read_exact(&mut errno).map_err(step("wait for the sandbox's child"))?;
    match i32::from_le_bytes(errno) {
        0 => take(pid).map_err(step("open the sandbox's namespaces")),
        errno => Err(Failure::Step { step: "prepare the network namespace (lo, sysctls)".to_owned(), errno }),
    }
}

fn text(map: &[MapLine]) -> String {
    map.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect()
}

fn prepare_network(last_group: u32) -> io::Result<()> {
    raise_loopback()?;
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    fs::write("/proc/sys/net/ipv4/ping_group_range", format!("0 {last_group}"))
}
