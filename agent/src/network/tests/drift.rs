//! Adoption by the next engine, repair of what others broke, and leaving nothing behind.

use super::place::{Connection, Server, ask, ip, nft};
use super::*;

const SOON: Duration = Duration::from_secs(2);
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Ends an engine as a crash does, and waits until the kernel has its sockets back.
async fn end(driver: BridgeDriver) {
    let mut events = driver.events();
    drop(driver);
    let closed = tokio::time::timeout(SOON, async {
        while !matches!(events.recv().await, Err(tokio::sync::broadcast::error::RecvError::Closed)) {}
    });
    closed.await.expect("the network thread ends with its driver");
}

fn ours() -> String {
    format!("{}{}", ip("-o link"), nft("list tables"))
}

async fn web(driver: &BridgeDriver, host: u8, ports: impl IntoIterator<Item = PortWish>) -> (Container, Server) {
    let web = Container::new(1, host).with_ports(ports);
    web.ensure(driver).await.unwrap();
    let server = web.place.serve(80);
    (web, server)
}

#[test]
fn the_next_engine_adopts_what_it_finds_and_removes_what_is_not_wanted() {
    on_host(|| async {
        ip("link add gtest-lookalike type bridge");
        let first = driver();
        first.ensure_network(&network(1)).await.unwrap();
        first.ensure_network(&network(2)).await.unwrap();
        let (kept, _kept) = web(&first, 2, [port(80, 8080, Exposure::Loopback), port(80, 80, Exposure::LAN)]).await;
        let (left, _left) = web(&first, 3, [port(80, 8081, Exposure::Loopback)]).await;
        let (mut outside, _) = Connection::open(LOOPBACK, 8080).unwrap();
        let address = kept.address();
        let (mut inside, _) = left.place.run(move || Connection::open(address, 80)).unwrap();
        end(first).await;
        assert!(ask(LOOPBACK, 8080).is_ok(), "ports answer while there is no engine");

        let second = driver();
        let mut events = second.events();
        let (before, rules) = (ip("-o link"), nft("-s list ruleset"));
        second.ensure_network(&network(1)).await.unwrap();
        kept.ensure(&second).await.unwrap();
        assert_eq!(ip("-o link"), before, "what is right is left alone");
        assert_eq!(nft("-s list ruleset"), rules);
        assert!(ask(LOOPBACK, 8081).is_ok(), "what is not known yet goes on until everything was told");
        second.settle().await.unwrap();
        outside.lives().unwrap();
        assert!(ask(LOOPBACK, 8080).is_ok() && ask(LOOPBACK, 8081).is_err());
        let links = ip("-o link");
        assert!(links.contains("gtest-00000001") && !links.contains("gtest-00000002") && links.contains("gtest-lookalike"), "{links}");
        assert_eq!(links.matches("gtev").count(), 1, "{links}");
        assert!(inside.lives().is_err(), "the other container's link is gone");
        assert!(events.try_recv().is_err(), "adoption is no repair");
    });
}

#[test]
fn a_wish_that_changed_while_no_engine_ran_replaces_what_is_there() {
    on_host(|| async {
        let first = driver();
        first.ensure_network(&network(1)).await.unwrap();
        let (mut one, _server) = web(&first, 2, [port(80, 8080, Exposure::Loopback), port(80, 80, Exposure::LAN)]).await;
        let (two, _other) = web(&first, 3, [PortWish { count: 10, ..port(9000, 9000, Exposure::Public) }]).await;
        end(first).await;
        ip("addr add 192.168.5.1/24 dev lo");
        let second = driver();
        let changed = NetworkWish { gateways: vec![Subnet { prefix: 20, ..network(1).gateways[0] }], ..network(1) };
        second.ensure_network(&changed).await.unwrap();
        one.ports = vec![port(80, 8080, Exposure::Public), port(80, 9003, Exposure::Public)];
        one.ensure(&second).await.unwrap();
        // Taking an address away makes the kernel forget connections under it, a little later.
        reached(|| ask(LOOPBACK, 8080)).await;
        reached(|| ask(LOOPBACK, 9003)).await;
        second.settle().await.unwrap();
        assert!(ask(LOOPBACK, 80).is_err());
        let addresses = ip("-o -4 addr show gtest-00000001");
        assert!(addresses.contains("10.90.1.1/20") && !addresses.contains("10.90.1.1/24"), "{addresses}");
        let rules = nft("list ruleset");
        assert!(rules.contains("192.168.5.0/24") && rules.contains("10.90.0.0/20") && !rules.contains("10.90.1.0/24"), "{rules}");
        drop(two);
    });
}

#[test]
fn teardown_leaves_nothing() {
    on_host(|| async {
        ip("link add other0 type bridge");
        nft("add table inet other");
        let before = ours();
        let driver = driver();
        driver.teardown().await.expect("nothing there is no error");
        driver.ensure_network(&network(1)).await.unwrap();
        let (_web, _server) = web(&driver, 2, [port(80, 8080, Exposure::Loopback)]).await;
        driver.teardown().await.unwrap();
        let same = |text: &str| text.lines().map(|line| line.split(": ").nth(1).unwrap_or(line).to_owned()).collect::<Vec<_>>();
        assert_eq!(same(&ours()), same(&before));
        drop(Server::tcp(std::net::SocketAddrV4::new(LOOPBACK, 8080)).expect("the port is free"));
        driver.teardown().await.unwrap();
        driver.ensure_network(&network(1)).await.expect("and can begin again");
    });
}

#[test]
fn instances_of_like_names_leave_each_other_alone() {
    on_host(|| async {
        let (one, other) = (driver_of("gtestab"), driver_of("gtestabc"));
        let of = |number| NetworkWish { bridge: format!("gtesta-{number:08x}"), ..network(number) };
        one.ensure_network(&of(1)).await.unwrap();
        other.ensure_network(&of(2)).await.unwrap();
        let (first, second) = (Container::new(1, 2), Container::new(2, 2));
        first.ensure(&one).await.unwrap();
        second.ensure(&other).await.unwrap();
        let server = second.place.serve(80);
        one.settle().await.unwrap();
        let thief = other.ensure_network(&of(1)).await;
        assert!(matches!(thief, Err(NetworkError::SubnetTaken { .. } | NetworkError::Unsupported { .. })), "{thief:?}");
        one.teardown().await.unwrap();
        assert!(ask(second.address(), 80).is_ok());
        drop(server);
    });
}

#[test]
fn a_table_that_was_flushed_or_changed_comes_back() {
    on_host(|| async {
        let driver = driver();
        let mut events = driver.events();
        driver.ensure_network(&network(1)).await.unwrap();
        let (_web, _server) = web(&driver, 2, [port(80, 8080, Exposure::Loopback), port(80, 80, Exposure::LAN)]).await;
        let rules = nft("-s list ruleset");
        let breaks = ["flush ruleset", "delete table inet gtest", "flush chain inet gtest isolate", "flush map inet gtest ports_shifted"];
        for broken in breaks.into_iter().chain(["insert rule inet gtest isolate drop"]) {
            nft(broken);
            let took = eventually(SOON, || if nft("-s list ruleset") == rules { Ok(()) } else { Err(nft("list ruleset")) }).await;
            println!("{broken}: back after {took:?}");
            repaired(&mut events, "nft table").await;
            assert!(ask(LOOPBACK, 8080).is_ok());
        }
        nft("flush ruleset");
        let (_late, _server) = web(&driver, 3, [port(80, 8081, Exposure::Loopback)]).await;
        assert!(ask(LOOPBACK, 8081).is_ok() && ask(LOOPBACK, 8080).is_ok(), "a wish in the gap does not fail");
    });
}

#[test]
fn links_that_were_removed_come_back() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let (web, _server) = web(&driver, 2, [port(80, 8080, Exposure::Loopback)]).await;
        let peer = Container::new(1, 3);
        peer.ensure(&driver).await.unwrap();
        let mut events = driver.events();
        let veth = ip("-o link").split(": ").find_map(|word| word.strip_prefix("gtev").map(|rest| format!("gtev{}", &rest[..10]))).unwrap();
        let breaks = ["link del gtest-00000001".to_owned(), format!("link del {veth}"), format!("link set {veth} nomaster")];
        let more = ["link set gtest-00000001 down".to_owned(), "addr flush dev gtest-00000001".to_owned(), format!("link set {veth} down")];
        for broken in breaks.into_iter().chain(more) {
            while events.try_recv().is_ok() {}
            ip(&broken);
            let took = eventually(SOON, joined).await;
            println!("{broken}: back after {took:?}");
            // What is inside the container comes a moment after its link.
            reached(|| ask(LOOPBACK, 8080)).await;
            reached(|| peer.place.ask(web.address(), 80)).await;
            repaired(&mut events, "").await;
        }
    });
}

async fn reached(mut ask: impl FnMut() -> std::io::Result<String>) {
    eventually(SOON, || ask().map(drop).map_err(|error| error.to_string())).await;
}

/// Do the bridge, its address and two ports work?
fn joined() -> Result<(), String> {
    let (links, addresses) = (ip("-o link"), ip("-o -4 addr"));
    let bridge = links.lines().any(|line| line.contains(": gtest-00000001:") && line.contains("state UP"));
    let ports = links.lines().filter(|line| line.contains("master gtest-00000001") && line.contains("state UP")).count();
    let whole = bridge && ports == 2 && addresses.contains("10.90.1.1/24");
    if whole { Ok(()) } else { Err(format!("{links}{addresses}")) }
}

#[test]
fn nothing_is_repaired_that_is_right() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let (_web, _server) = web(&driver, 2, [port(80, 8080, Exposure::Loopback)]).await;
        let mut events = driver.events();
        // An address of the host makes the driver look, and LAN ports answer to its subnet.
        ip("addr add 192.168.9.1/24 dev lo");
        eventually(SOON, || if nft("list ruleset").contains("192.168.9.0/24") { Ok(()) } else { Err(nft("list ruleset")) }).await;
        ip("addr del 192.168.9.1/24 dev lo");
        eventually(SOON, || if nft("list ruleset").contains("192.168.9.0/24") { Err(nft("list ruleset")) } else { Ok(()) }).await;
        assert!(events.try_recv().is_err());
    });
}

#[test]
fn subnets_of_the_host_are_known_and_kept_clear_of() {
    on_host(|| async {
        ip("addr add 192.168.9.1/24 dev lo");
        ip("link add eth9 type veth peer name eth8");
        ip("addr add 172.20.0.5/16 dev eth9");
        ip("link set eth9 up");
        ip("route add 10.8.0.0/16 via 172.20.0.1");
        ip("route add default via 172.20.0.1");
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let found = driver.host_subnets().await.unwrap();
        let has = |address: [u8; 4], prefix| found.contains(&Subnet { address: Ipv4Addr::from(address).into(), prefix });
        assert!(has([172, 20, 0, 0], 16) && has([10, 8, 0, 0], 16), "{found:?}");
        assert!(!found.iter().any(|subnet| subnet.prefix == 0 || subnet.address.to_string().starts_with("10.90.")), "{found:?}");
        let gateways = vec![Subnet { address: Ipv4Addr::new(10, 8, 3, 1).into(), prefix: 24 }];
        let taken = driver.ensure_network(&NetworkWish { gateways, ..network(2) }).await;
        assert!(matches!(taken, Err(NetworkError::SubnetTaken { .. })), "{taken:?}");
        let twin = driver.ensure_network(&NetworkWish { gateways: network(1).gateways, ..network(3) }).await;
        assert!(matches!(twin, Err(NetworkError::SubnetTaken { .. })), "{twin:?}");
    });
}
