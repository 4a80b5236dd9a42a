//! Who is asked for the names that are not ours: the resolvers of the host.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The host's own list (resolv.conf(5)).
const FILE: &str = "/etc/resolv.conf";
/// As many as the C library looks at.
const MAX_SERVERS: usize = 3;
/// Longest file that is read, in bytes.
const MAX_LEN: u64 = 64 << 10;
/// The file may be a link into a directory of somebody else's, so it is looked at when it is needed, this often at most.
const LOOK: Duration = Duration::from_secs(1);

type Stamp = (u64, u64, i64, i64, u64);

/// The list, and what it was read from.
#[derive(Debug)]
pub(crate) struct Resolvers {
    file: PathBuf,
    stamp: Option<Stamp>,
    looked: Option<Instant>,
    servers: Vec<SocketAddr>,
    fixed: Option<Vec<IpAddr>>,
    random: RandomState,
    count: u64,
}

impl Resolvers {
    pub(crate) fn new() -> Self {
        let random = RandomState::new();
        Self { file: PathBuf::from(FILE), stamp: None, looked: None, servers: Vec::new(), fixed: None, random, count: 0 }
    }

    /// Asks these instead of the host's.
    pub(crate) fn fix(&mut self, servers: Option<Vec<IpAddr>>) {
        self.fixed = servers;
    }

    /// The servers to ask, in order, without those that we are ourselves.
    pub(crate) fn servers<T>(&mut self, now: Instant, own: &BTreeMap<IpAddr, T>) -> Rc<[SocketAddr]> {
        let fixed = self.fixed.as_ref().map(|fixed| fixed.iter().map(|address| SocketAddr::new(*address, 53)).collect());
        let servers: Vec<SocketAddr> = fixed.unwrap_or_else(|| self.host(now));
        servers.into_iter().filter(|server| !own.contains_key(&server.ip())).take(MAX_SERVERS).collect()
    }

    fn host(&mut self, now: Instant) -> Vec<SocketAddr> {
        if self.looked.is_some_and(|looked| now.duration_since(looked) < LOOK) {
            return self.servers.clone();
        }
        self.looked = Some(now);
        let stamp = fs::metadata(&self.file).ok().filter(|data| data.len() <= MAX_LEN);
        let stamp = stamp.map(|data| (data.dev(), data.ino(), data.mtime(), data.mtime_nsec(), data.len()));
        if stamp != self.stamp {
            let text = stamp.and_then(|_| fs::read_to_string(&self.file).ok());
            self.servers = parse(&text.unwrap_or_default());
            self.stamp = stamp;
        }
        self.servers.clone()
    }

    /// An id that an outsider cannot guess: keys of the kernel's randomness over a counter.
    pub(crate) fn id(&mut self) -> u16 {
        self.count = self.count.wrapping_add(1);
        let [first, second, ..] = self.random.hash_one(self.count).to_ne_bytes();
        u16::from_ne_bytes([first, second])
    }
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    let values = lines.filter(|rest| rest.starts_with([' ', '\t'])).filter_map(|rest| rest.split_whitespace().next());
    values.filter_map(address).collect()
}

fn address(text: &str) -> Option<SocketAddr> {
    let Some((address, link)) = text.split_once('%') else { return Some(SocketAddr::new(text.parse().ok()?, 53)) };
    let scope = link.parse().ok().or_else(|| nix::net::if_::if_nametoindex(link).ok())?;
    Some(SocketAddrV6::new(address.parse::<Ipv6Addr>().ok()?, 53, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_the_c_library_reads_it() {
        let text = "# a comment\nsearch lan\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1 # second\nnameserverx 1.1.1.1\nnameserver nonsense\n\
            nameserver fe80::1%7\n;nameserver 9.9.9.9\n";
        let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"]);
    }

    #[test]
    fn a_changed_file_is_read_again_and_we_never_ask_ourselves() {
        let dir = tempfile::tempdir().unwrap();
        let mut resolvers = Resolvers { file: dir.path().join("resolv.conf"), ..Resolvers::new() };
        let own = BTreeMap::from([(IpAddr::from([10, 0, 0, 1]), ())]);
        let now = Instant::now();
        assert!(resolvers.servers(now, &own).is_empty());
        fs::write(&resolvers.file, "nameserver 10.0.0.1\nnameserver 10.0.0.2\n").unwrap();
        assert!(resolvers.servers(now, &own).is_empty(), "not yet looked at again");
        assert_eq!(*resolvers.servers(now + LOOK, &own), ["10.0.0.2:53".parse().unwrap()]);
        resolvers.fix(Some(vec![IpAddr::from([10, 0, 0, 9])]));
        assert_eq!(*resolvers.servers(now, &own), ["10.0.0.9:53".parse().unwrap()]);
    }

    #[test]
    fn ids_differ_between_processes_and_queries() {
        let (mut one, mut other) = (Resolvers::new(), Resolvers::new());
        let ids = |resolvers: &mut Resolvers| (0..16).map(|_| resolvers.id()).collect::<Vec<_>>();
        assert_ne!(ids(&mut one), ids(&mut one));
        assert_ne!(ids(&mut one), ids(&mut other));
    }
}
