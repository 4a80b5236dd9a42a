//! Published ports: conflicts, choices, changes.

use super::place::{Connection, Server, ask};
use super::*;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn holder(error: NetworkError) -> String {
    match error {
        NetworkError::PortTaken { holder, .. } => holder,
        other => panic!("not a port that is taken: {other}"),
    }
}

fn host_listener(address: Ipv4Addr, port: u16) -> std::io::Result<Server> {
    Server::tcp(std::net::SocketAddrV4::new(address, port))
}

#[test]
fn a_listener_of_the_host_keeps_its_port() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let server = host_listener(LOOPBACK, 8080).unwrap();
        let web = Container::new(1, 2).with_ports([port(81, 8081, Exposure::Public), port(80, 8080, Exposure::Public)]);
        assert_eq!(holder(web.ensure(&driver).await.unwrap_err()), "a listener of this host");
        assert!(ask(LOOPBACK, 8080).is_ok(), "it is not shadowed");
        let _inside = (web.place.serve(80), web.place.serve(81));
        assert!(ask(LOOPBACK, 8081).is_err(), "nothing of the container is published");
        drop(host_listener(Ipv4Addr::UNSPECIFIED, 8081).expect("nor held"));
        drop(server);
        web.ensure(&driver).await.unwrap();
        assert_eq!(ask(LOOPBACK, 8080).unwrap(), "10.90.1.1");
        let late = host_listener(LOOPBACK, 8080).map(drop).unwrap_err();
        assert_eq!(late.kind(), std::io::ErrorKind::AddrInUse);
    });
}

#[test]
fn a_port_belongs_to_one_container_until_that_is_gone() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let first = Container::new(1, 2).with_ports([port(80, 8080, Exposure::LAN)]);
        let second = Container::new(1, 3).with_ports([port(81, 8081, Exposure::LAN), port(80, 8080, Exposure::Loopback)]);
        first.ensure(&driver).await.unwrap();
        let (_one, _two, _more) = (first.place.serve(80), second.place.serve(80), second.place.serve(81));
        assert_eq!(holder(second.ensure(&driver).await.unwrap_err()), "container container-1-2");
        assert!(ask(LOOPBACK, 8081).is_err(), "nothing of it is published");
        let udp = PortWish { protocol: Protocol::UDP, ..port(80, 8080, Exposure::LAN) };
        let third = Container::new(1, 4).with_ports([udp]);
        third.ensure(&driver).await.expect("UDP and TCP ports are different ports");
        driver.remove_endpoint(&first.uid).await.unwrap();
        driver.remove_endpoint(&first.uid).await.expect("removing twice is no error");
        second.ensure(&driver).await.unwrap();
        assert!(ask(LOOPBACK, 8080).is_ok() && ask(LOOPBACK, 8081).is_ok());
        driver.remove_endpoint(&second.uid).await.unwrap();
        assert!(ask(LOOPBACK, 8080).is_err());
        drop(host_listener(LOOPBACK, 8080).expect("a port that nobody has is free"));
    });
}

#[test]
fn a_chosen_port_stays() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let range = PortWish { count: 5, ..port(9000, 0, Exposure::LAN) };
        let web = Container::new(1, 2).with_ports([port(80, 0, Exposure::Loopback), port(80, 0, Exposure::Loopback), range]);
        let published = web.ensure(&driver).await.unwrap();
        let (_server, _other) = (web.place.serve(80), web.place.serve(9004));
        assert_ne!(published[0].host_port, published[1].host_port);
        for one in &published[..2] {
            assert!(ask(LOOPBACK, one.host_port).is_ok());
        }
        assert!(ask(LOOPBACK, published[2].host_port + 4).is_ok(), "the last one of the range");
        assert_eq!(web.ensure(&driver).await.unwrap(), published);
    });
}

#[test]
fn ports_change_without_disturbing_the_others() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let same = PortWish { count: 1000, ..port(20000, 20000, Exposure::Loopback) };
        let mut web =
            Container::new(1, 2).with_ports([port(80, 8080, Exposure::Loopback), port(80, 8081, Exposure::Loopback), same.clone()]);
        web.ensure(&driver).await.unwrap();
        let _servers = [80, 20999].map(|port| web.place.serve(port));
        let (mut stays, _) = Connection::open(LOOPBACK, 8080).unwrap();
        assert!(ask(LOOPBACK, 20999).is_ok(), "a range is one element");
        web.ports = vec![port(80, 8080, Exposure::Loopback), port(80, 8082, Exposure::Loopback)];
        web.ensure(&driver).await.unwrap();
        assert!(ask(LOOPBACK, 8082).is_ok() && ask(LOOPBACK, 8081).is_err() && ask(LOOPBACK, 20999).is_err());
        stays.lives().unwrap();
        // The same port, seen from elsewhere.
        web.ports = vec![port(80, 8080, Exposure::Public), port(80, 8082, Exposure::LAN)];
        web.ensure(&driver).await.unwrap();
        assert!(ask(LOOPBACK, 8080).is_ok() && ask(LOOPBACK, 8082).is_ok());
        stays.lives().unwrap();
    });
}

#[test]
fn an_endpoint_that_fails_holds_nothing() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let broken = Container::new(1, 2).with_ports([port(80, 8080, Exposure::Public)]);
        let no_namespace = EndpointWish { network_namespace: std::fs::File::open("/dev/null").unwrap().into(), ..broken.wish() };
        assert!(matches!(driver.ensure_endpoint(&no_namespace).await, Err(NetworkError::Step { .. })));
        let lost = Container::new(7, 2).with_ports([port(80, 8080, Exposure::Public)]);
        assert!(matches!(lost.ensure(&driver).await, Err(NetworkError::MissingNetwork { network_uid }) if network_uid == "network-7"));
        drop(host_listener(LOOPBACK, 8080).expect("the port is free"));
        let web = Container::new(1, 3).with_ports([port(80, 8080, Exposure::Public)]);
        web.ensure(&driver).await.unwrap();
        assert_eq!(holder(broken.ensure(&driver).await.unwrap_err()), "container container-1-3");
        driver.remove_endpoint(&web.uid).await.unwrap();
        broken.ensure(&driver).await.expect("the same wish, once it can be");
    });
}
