//! Who reaches whom.

use super::place::{Connection, ask, ask_udp, ip};
use super::*;

/// A neighbour of the host on a link of its own: the host is 192.168.77.1, the neighbour `address`.
fn neighbour(link: &str, host: &str, address: &str) -> Place {
    let place = Place::new();
    ip(&format!("link add {link} type veth peer name eth0 netns {}", place.task()));
    ip(&format!("addr add {host}/24 dev {link}"));
    ip(&format!("link set {link} up"));
    place.ip(&format!("addr add {address}/24 dev eth0"));
    place.ip("link set eth0 up");
    place
}

#[test]
fn containers_of_one_network_reach_each_other_and_no_other() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        driver.ensure_network(&network(2)).await.unwrap();
        let (one, two, other) = (Container::new(1, 2), Container::new(1, 3), Container::new(2, 2));
        for container in [&one, &two, &other] {
            container.ensure(&driver).await.unwrap();
        }
        let (_tcp, _udp, _other) = (two.place.serve(80), two.place.serve_udp(80), other.place.serve(80));
        assert_eq!(one.place.ask(two.address(), 80).unwrap(), "10.90.1.2", "the source address is the container's own");
        assert_eq!(one.place.ask_udp(two.address(), 80).unwrap(), "10.90.1.2 5");
        assert_eq!(ask(two.address(), 80).unwrap(), "10.90.1.1", "the host reaches its containers");
        assert!(one.place.ask(other.address(), 80).is_err(), "networks are isolated from each other");
        let link = one.place.ip("-d link show eth0");
        assert!(link.contains("02:00:0a:5a:01:02"), "{link}");
        assert!(one.place.ip("route").contains("default via 10.90.1.1 dev eth0"));
    });
}

#[test]
fn the_host_reaches_published_ports_by_loopback_and_containers_by_the_host() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let udp = PortWish { protocol: Protocol::UDP, ..port(53, 5353, Exposure::Loopback) };
        let ports = [port(80, 8080, Exposure::Loopback), port(81, 81, Exposure::LAN), port(82, 8082, Exposure::LAN), udp];
        let (web, peer) = (Container::new(1, 2).with_ports(ports), Container::new(1, 3));
        let published = web.ensure(&driver).await.unwrap();
        assert_eq!(published[0].host_ip, IpAddr::V4(Ipv4Addr::LOCALHOST));
        peer.ensure(&driver).await.unwrap();
        let _servers = [80, 81, 82].map(|port| web.place.serve(port));
        let _udp = web.place.serve_udp(53);
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 8080).unwrap(), "10.90.1.1");
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 81).unwrap(), "10.90.1.1");
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 8082).unwrap(), "10.90.1.1");
        assert_eq!(ask_udp(Ipv4Addr::LOCALHOST, 5353).unwrap(), "10.90.1.1 5");
        let gateway = Ipv4Addr::new(10, 90, 1, 1);
        assert!(peer.place.ask(gateway, 81).is_ok(), "a neighbour reaches it by the gateway");
        assert!(web.place.ask(gateway, 81).is_ok(), "the container reaches itself by its published port");
        assert!(web.place.ask(gateway, 8082).is_ok());
        assert!(peer.place.ask(gateway, 8080).is_err(), "a loopback port is the host's alone");
    });
}

#[test]
fn exposure_says_from_where_a_port_is_reached() {
    on_host(|| async {
        let private = neighbour("lan0", "192.168.77.1", "192.168.77.2");
        let public = neighbour("wan0", "198.51.100.1", "198.51.100.2");
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let ports = [port(80, 8080, Exposure::Loopback), port(80, 8081, Exposure::LAN), port(80, 8082, Exposure::Public)];
        let web = Container::new(1, 2).with_ports(ports);
        web.ensure(&driver).await.unwrap();
        let _server = web.place.serve(80);
        let (near, far) = (Ipv4Addr::new(192, 168, 77, 1), Ipv4Addr::new(198, 51, 100, 1));
        assert!(private.ask(near, 8080).is_err());
        assert_eq!(private.ask(near, 8081).unwrap(), "192.168.77.2", "the source address is kept");
        assert_eq!(private.ask(near, 8082).unwrap(), "192.168.77.2");
        assert!(public.ask(far, 8080).is_err());
        assert!(public.ask(far, 8081).is_err());
        assert_eq!(public.ask(far, 8082).unwrap(), "198.51.100.2");
        // What route_localnet would let in: a packet for 127.0.0.1 from outside, and one for the container itself.
        private.ip("route add 10.90.1.0/24 via 192.168.77.1");
        assert!(private.ask(web.address(), 80).is_err(), "a container is not reached by its own address from outside");
        std::fs::write("/proc/sys/net/ipv4/conf/lan0/route_localnet", "1").unwrap();
        private.ip("link set lo down");
        private.ip("route add 127.0.0.0/8 via 192.168.77.1 src 192.168.77.2");
        private.run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap());
        assert!(private.ask(Ipv4Addr::LOCALHOST, 8080).is_err());
    });
}

#[test]
fn containers_leave_under_the_address_of_the_host_unless_internal() {
    on_host(|| async {
        let outside = neighbour("wan0", "198.51.100.1", "198.51.100.2");
        let _server = outside.serve(80);
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        driver.ensure_network(&NetworkWish { internal: true, ..network(2) }).await.unwrap();
        let (open, mut closed) = (Container::new(1, 2), Container::new(2, 2));
        closed.interfaces[0].gateway = None;
        open.ensure(&driver).await.unwrap();
        closed.ensure(&driver).await.unwrap();
        let server = Ipv4Addr::new(198, 51, 100, 2);
        assert_eq!(open.place.ask(server, 80).unwrap(), "198.51.100.1");
        assert!(closed.place.ask(server, 80).is_err());
        // Not for want of a route only.
        closed.place.ip("route add default via 10.90.2.1");
        outside.ip("route add default via 198.51.100.1");
        assert!(closed.place.ask(server, 80).is_err());
        let published = Container::new(1, 3).with_ports([port(80, 8080, Exposure::Public)]);
        published.ensure(&driver).await.unwrap();
        let _published = published.place.serve(80);
        assert!(open.place.ask(Ipv4Addr::new(198, 51, 100, 1), 8080).is_ok());
        assert!(closed.place.ask(Ipv4Addr::new(198, 51, 100, 1), 8080).is_err(), "no way out by another network's port either");
    });
}

#[test]
fn an_endpoint_of_two_networks_reaches_both() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        driver.ensure_network(&network(2)).await.unwrap();
        let (mut both, one, two) = (Container::new(1, 2), Container::new(1, 3), Container::new(2, 3));
        both.interfaces.push(interface(2, 2));
        for container in [&both, &one, &two] {
            container.ensure(&driver).await.unwrap();
        }
        let _servers = [one.place.serve(80), two.place.serve(80)];
        assert_eq!(both.place.ask(one.address(), 80).unwrap(), "10.90.1.2");
        assert_eq!(both.place.ask(two.address(), 80).unwrap(), "10.90.2.2");
    });
}

#[test]
fn what_is_inside_follows_the_wish_and_traffic_is_not_disturbed() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        driver.ensure_network(&network(2)).await.unwrap();
        let (mut moving, peer) = (Container::new(1, 2), Container::new(1, 3));
        moving.ensure(&driver).await.unwrap();
        peer.ensure(&driver).await.unwrap();
        let _server = peer.place.serve(80);
        let (address, place) = (peer.address(), &moving.place);
        let (mut connection, _) = place.run(move || Connection::open(address, 80)).unwrap();
        moving.interfaces.push(interface(2, 2));
        moving.ensure(&driver).await.unwrap();
        connection.lives().unwrap();
        assert!(moving.place.ip("-o -4 addr").contains("10.90.2.2/24"));
        moving.interfaces.truncate(1);
        moving.ensure(&driver).await.unwrap();
        connection.lives().unwrap();
        assert!(!moving.place.ip("-o link").contains("eth1"), "a network that is left takes its link along");
        moving.interfaces[0].address.address = Ipv4Addr::new(10, 90, 1, 9).into();
        moving.ensure(&driver).await.unwrap();
        let addresses = moving.place.ip("-o -4 addr");
        assert!(addresses.contains("10.90.1.9/24") && !addresses.contains("10.90.1.2/24"), "{addresses}");
        assert!(moving.place.ip("route").contains("default via 10.90.1.1"));
        assert_eq!(moving.place.ask(peer.address(), 80).unwrap(), "10.90.1.9");
    });
}
