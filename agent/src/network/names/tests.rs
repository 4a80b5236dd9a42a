//! The real name server in network namespaces of the tests' own, asked with plain packets.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::super::{InterfaceWish, Subnet};
use super::*;

const LEFT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const RIGHT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const UPSTREAM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const LIMIT: Duration = Duration::from_secs(10);

/// Runs in a fresh network namespace whose `lo` is up, with a run directory that is cleaned up whatever happens.
fn alone<F: Future<Output = ()>>(name: &'static str, test: impl FnOnce(Instance) -> F + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network run as root");
        gantry_sys::interface::raise_loopback().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance { name: name.into(), data_dir: dir.path().into(), run_dir: dir.path().into(), node_name: "node".into() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _cleanup = Cleanup(instance.clone());
        runtime.block_on(test(instance));
    };
    std::thread::spawn(run).join().unwrap();
}

struct Cleanup(Instance);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stopped = runtime.block_on(async { Names::new(&self.0).unwrap().stop().await });
        assert!(std::thread::panicking() || stopped.is_ok(), "{stopped:?}");
    }
}

fn one(address: Ipv4Addr, names: &[(&str, &str)]) -> Table {
    let mut table = Table { upstream: Some(vec![UPSTREAM.into()]), ..Table::default() };
    table.listen.push(Listen { network_uid: "left".into(), address: address.into(), internal: false });
    let names = names.iter().map(|(name, address)| ((*name).to_owned(), vec![address.parse().unwrap()])).collect();
    table.names.insert("left".into(), names);
    table
}

fn query(name: &str) -> Vec<u8> {
    let mut packet = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// The code, and the address if there is one.
fn meaning(query: &[u8], answer: &[u8]) -> (u8, Option<Ipv4Addr>) {
    assert_eq!(answer[..2], query[..2], "the id");
    let address = answer.get(query.len() + 12..query.len() + 16).map(|bytes| Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]));
    (answer[3] & 15, address)
}

async fn ask_once(server: Ipv4Addr, name: &str) -> io::Result<(u8, Option<Ipv4Addr>)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect((server, 53)).await?;
    let (query, mut buffer) = (query(name), [0; 512]);
    socket.send(&query).await?;
    let length = tokio::time::timeout(Duration::from_secs(6), socket.recv(&mut buffer)).await??;
    Ok(meaning(&query, &buffer[..length]))
}

/// Asks until a server is there.
async fn ask(server: Ipv4Addr, name: &str) -> (u8, Option<Ipv4Addr>) {
    let limit = Instant::now() + LIMIT;
    loop {
        match ask_once(server, name).await {
            Ok(answer) => return answer,
            Err(error) if Instant::now() > limit => panic!("{name} at {server}: {error}"),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn ask_until(server: Ipv4Addr, name: &str, wanted: (u8, Option<Ipv4Addr>)) {
    let limit = Instant::now() + LIMIT;
    loop {
        let found = ask(server, name).await;
        if found == wanted {
            return;
        }
        assert!(Instant::now() < limit, "{name} at {server}: {found:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn ask_stream(stream: &mut TcpStream, name: &str) -> (u8, Option<Ipv4Addr>) {
    let query = query(name);
    stream.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
    stream.write_all(&query).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    meaning(&query, &answer)
}

/// The query as an answer with one address.
fn answered(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut answer = query.to_vec();
    (answer[2], answer[7]) = (0x81, 1);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
    answer.extend(address);
    answer
}

/// A resolver that has 9.9.9.1 for every name over UDP and 9.9.9.2 over TCP.
async fn upstream() -> (JoinHandle<()>, JoinHandle<()>) {
    let (datagram, listener) = (UdpSocket::bind((UPSTREAM, 53)).await.unwrap(), TcpListener::bind((UPSTREAM, 53)).await.unwrap());
    let datagrams = tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = datagram.recv_from(&mut buffer).await {
            let mut forged = answered(&buffer[..length], [6, 6, 6, 6]);
            forged[0] ^= 1;
            datagram.send_to(&forged, client).await.unwrap();
            datagram.send_to(&answered(&buffer[..length], [9, 9, 9, 1]), client).await.unwrap();
        }
    });
    let streams = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let answer = answered(&query, [9, 9, 9, 2]);
            stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    (datagrams, streams)
}

fn ip(text: &str) -> Option<Ipv4Addr> {
    Some(text.parse().unwrap())
}

#[test]
fn names_are_answered_and_replaced_while_it_runs() {
    alone("nd1", |instance| async move {
        let mut names = Names::new(&instance).unwrap();
        names.publish_table(&one(LEFT, &[("web", "10.0.0.2")])).unwrap();
        assert_eq!(ask(LEFT, "WEB").await, (0, ip("10.0.0.2")));
        assert_eq!(ask(LEFT, "store").await, (3, None));
        let mut stream = TcpStream::connect((LEFT, 53)).await.unwrap();
        assert_eq!(ask_stream(&mut stream, "web").await, (0, ip("10.0.0.2")));
        let mut table = one(LEFT, &[("web", "10.0.0.3")]);
        table.listen.push(Listen { network_uid: "right".into(), address: RIGHT.into(), internal: true });
        table.names.insert("right".into(), BTreeMap::from([("store".into(), vec![IpAddr::from([10, 1, 0, 2])])]));
        names.publish_table(&table).unwrap();
        ask_until(LEFT, "web", (0, ip("10.0.0.3"))).await;
        assert_eq!(ask(RIGHT, "store").await, (0, ip("10.1.0.2")));
        assert_eq!(ask(LEFT, "store").await, (3, None));
        assert_eq!(ask(RIGHT, "example.org").await, (5, None));
        assert_eq!(ask_stream(&mut stream, "web").await, (0, ip("10.0.0.3")), "the connection goes on");
        for packet in [&[][..], &[0; 12], &[0xff; 300]] {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            socket.send_to(packet, (LEFT, 53)).await.unwrap();
        }
        let mut hostile = TcpStream::connect((LEFT, 53)).await.unwrap();
        hostile.write_all(&[0xff; 64]).await.unwrap();
        assert_eq!(hostile.read(&mut [0; 8]).await.unwrap_or(0), 0, "closed");
        assert_eq!(ask(LEFT, "web").await, (0, ip("10.0.0.3")));
    });
}

#[test]
fn a_program_of_others_finds_names() {
    alone("nd2", |instance| async move {
        let mut names = Names::new(&instance).unwrap();
        names.publish_table(&one(LEFT, &[("web", "10.0.0.2")])).unwrap();
        ask(LEFT, "web").await;
        #[expect(clippy::disallowed_methods, reason = "the judge is a program of others")]
        let output = Command::new("busybox").args(["nslookup", "web", "127.0.0.2"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("10.0.0.2"), "{text}");
    });
}

#[test]
fn other_names_are_asked_elsewhere() {
    alone("nd3", |instance| async move {
        let mut names = Names::new(&instance).unwrap();
        names.publish_table(&one(LEFT, &[])).unwrap();
        assert_eq!(ask(LEFT, "example.org").await, (2, None), "nobody is there to be asked, and that shows at once");
        let (datagrams, streams) = upstream().await;
        assert_eq!(ask(LEFT, "example.org").await, (0, ip("9.9.9.1")));
        let mut stream = TcpStream::connect((LEFT, 53)).await.unwrap();
        assert_eq!(ask_stream(&mut stream, "example.org").await, (0, ip("9.9.9.2")));
        assert_eq!(ask_stream(&mut stream, "example.net").await, (0, ip("9.9.9.2")));
        streams.abort();
        let _ = streams.await;
        assert_eq!(ask_stream(&mut stream, "example.com").await, (2, None));
        datagrams.abort();
    });
}

#[test]
fn a_silent_resolver_takes_nobodys_place() {
    alone("nd4", |instance| async move {
        let silent = UdpSocket::bind((UPSTREAM, 53)).await.unwrap();
        let mut names = Names::new(&instance).unwrap();
        names.publish_table(&one(LEFT, &[("web", "10.0.0.2")])).unwrap();
        ask(LEFT, "web").await;
        let crowd = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 50), 0)).await.unwrap();
        let (flood, mut buffer, mut refused) = (query("slow.example"), [0; 512], 0);
        for _ in 0..300 {
            crowd.send_to(&flood, (LEFT, 53)).await.unwrap();
            assert_eq!(ask(LEFT, "web").await, (0, ip("10.0.0.2")));
            while crowd.try_recv_from(&mut buffer).is_ok() {
                refused += 1;
            }
        }
        assert!((40..=44).contains(&refused), "{refused} of 300 were more than one client may have under way");
        let started = Instant::now();
        assert_eq!(ask_once(LEFT, "slow.example").await.unwrap(), (2, None), "another client has its turn, and an answer at last");
        assert!(started.elapsed() > Duration::from_secs(4));
        drop(silent);
    });
}

#[test]
fn it_outlives_the_engine_and_is_met_again() {
    alone("nd5", |instance| async move {
        let dir = instance.run_dir.join(DIR);
        let mut names = Names::new(&instance).unwrap();
        names.publish_table(&one(LEFT, &[("web", "10.0.0.2")])).unwrap();
        ask(LEFT, "web").await;
        let pid = process::holder(&dir).unwrap().unwrap();
        drop(names);
        assert_eq!(ask(LEFT, "web").await, (0, ip("10.0.0.2")));
        let mut next = Names::new(&instance).unwrap();
        next.publish(&BTreeMap::new(), &BTreeMap::new()).unwrap();
        assert_eq!(ask(LEFT, "web").await, (0, ip("10.0.0.2")), "kept until everything was told anew");
        assert_eq!(process::holder(&dir).unwrap(), Some(pid));
        next.home.ensure().unwrap();
        let kept = Kept::open(carried_again(&next)).unwrap();
        tokio::time::timeout(LIMIT, kept.end()).await.expect("a second one ends at once");
        pidfd_signal(pidfd_open(pid).unwrap().as_fd(), Signal::SIGHUP as i32).unwrap();
        assert_eq!(ask(LEFT, "web").await, (0, ip("10.0.0.2")));

        let killed = Instant::now();
        pidfd_signal(pidfd_open(pid).unwrap().as_fd(), Signal::SIGKILL as i32).unwrap();
        let died = Kept::open(pid);
        if let Ok(died) = died {
            died.end().await;
        }
        assert_eq!(ask(LEFT, "web").await, (0, ip("10.0.0.2")));
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
        assert_ne!(process::holder(&dir).unwrap(), Some(pid));

        let cgroup = process::cgroup(&instance.name).unwrap();
        assert!(cgroup.exists());
        let pid = process::holder(&dir).unwrap().unwrap();
        next.stop().await.unwrap();
        assert!(!cgroup.exists() && !dir.exists() && pidfd_open(pid).is_err());
        next.stop().await.unwrap();
    });
}

fn carried_again(names: &Names) -> i32 {
    let dir = &names.home.dir;
    let text = |bytes: &[u8]| CString::new(bytes).unwrap();
    let args = [c"gantry-netd".to_owned(), text(dir.as_os_str().as_bytes()), text(names.home.instance.as_bytes())];
    carried::spawn(names.home.program.as_fd(), &args, &dir.join(process::LOG), None).unwrap()
}

#[test]
fn an_address_may_come_later_and_go() {
    alone("nd6", |instance| async move {
        let gateway = Ipv4Addr::new(10, 77, 0, 1);
        let mut names = Names::new(&instance).unwrap();
        let mut table = one(gateway, &[("web", "10.77.0.2")]);
        table.listen.push(Listen { network_uid: "left".into(), address: LEFT.into(), internal: false });
        names.publish_table(&table).unwrap();
        ask(LEFT, "web").await;
        for change in ["add", "del", "add"] {
            #[expect(clippy::disallowed_methods, reason = "what changes the host is a program of others")]
            let status = Command::new("ip").args(["address", change, "10.77.0.1/32", "dev", "lo"]).status().unwrap();
            assert!(status.success());
        }
        assert_eq!(ask_once(gateway, "web").await.unwrap(), (0, ip("10.77.0.2")));
    });
}

#[test]
fn a_missing_directory_ends_it() {
    alone("nd7", |instance| async move {
        let dir = instance.run_dir.join(DIR);
        let mut names = Names::new(&instance).unwrap();
        names.publish_table(&one(LEFT, &[])).unwrap();
        ask(LEFT, "web").await;
        let kept = names.home.find().unwrap().unwrap();
        let keeper = names.keeper.take().unwrap();
        keeper.cancel.cancel();
        assert!(keeper.task.await.unwrap().is_some());
        fs::remove_dir_all(&dir).unwrap();
        tokio::time::timeout(LIMIT, kept.end()).await.unwrap();
    });
}

#[test]
fn the_table_says_what_the_driver_was_told() {
    let subnet = |address: [u8; 4]| Subnet { address: address.into(), prefix: 24 };
    let wish = |uid: &str, gateway, internal| {
        let wish = NetworkWish { uid: uid.into(), bridge: uid.into(), gateways: vec![subnet(gateway)], internal, mtu: 1500 };
        (uid.to_owned(), wish)
    };
    let networks = BTreeMap::from([wish("left", [10, 0, 0, 1], false), wish("right", [10, 1, 0, 1], true)]);
    let interface = |network_uid: &str, address| {
        let (network_uid, address) = (network_uid.to_owned(), subnet(address));
        InterfaceWish { network_uid, address, mac: [2; 6], gateway: None }
    };
    let endpoint = |uid: &str, interfaces| {
        let uid = ContainerUid::new(uid).unwrap();
        let network_namespace = fs::File::open("/proc/self/ns/net").unwrap().into();
        (uid.clone(), EndpointWish { uid, network_namespace, interfaces, ports: Vec::new() })
    };
    let both = vec![interface("left", [10, 0, 0, 2]), interface("right", [10, 1, 0, 2])];
    let endpoints = BTreeMap::from([endpoint("both", both), endpoint("one", vec![interface("left", [10, 0, 0, 3])])]);
    let record = |network_uid: &str, name: &str, address: [u8; 4]| NameRecord {
        network_uid: network_uid.into(),
        name: name.into(),
        addresses: vec![address.into()],
    };
    let records = [record("left", "Web", [10, 0, 0, 3]), record("left", "web", [10, 0, 0, 2]), record("gone", "web", [10, 9, 0, 2])];
    let mut found = table(&networks, &endpoints, &records);
    let wanted = serde_json::json!({
        "listen": [
            {"networkUid": "left", "address": "10.0.0.1", "internal": false},
            {"networkUid": "right", "address": "10.1.0.1", "internal": true},
        ],
        "names": {"left": {"web": ["10.0.0.3", "10.0.0.2"]}},
        "also": {"10.0.0.2": ["right"], "10.1.0.2": ["left"]},
    });
    assert_eq!(serde_json::to_value(&found).unwrap(), wanted);

    let adopted = table(&BTreeMap::from([wish("old", [10, 8, 0, 1], false)]), &BTreeMap::new(), &[record("old", "cache", [10, 8, 0, 2])]);
    add_adopted(&mut found, &adopted);
    assert_eq!((found.listen.len(), found.names["old"].len(), found.names["left"].len()), (3, 1, 1));
    let same = found.clone();
    add_adopted(&mut found, &same);
    assert_eq!(found, same);
}
