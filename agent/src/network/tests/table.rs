//! The table, as `nft` reads it.

use super::place::nft;
use super::*;

/// Rules of a chain, without its first and last line.
fn rules(listed: &str, chain: &str) -> Vec<String> {
    let after = listed.split_once(&format!("chain {chain} {{")).unwrap().1;
    after.split_once('}').unwrap().0.lines().skip(2).map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_table_reads_as_it_is_meant() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        driver.ensure_network(&NetworkWish { internal: true, ..network(2) }).await.unwrap();
        let range = PortWish { count: 10, host_ip: Some(Ipv4Addr::new(127, 0, 0, 5).into()), ..port(9000, 9000, Exposure::Public) };
        let udp = PortWish { protocol: Protocol::UDP, ..port(53, 53, Exposure::LAN) };
        let ports = [port(80, 8080, Exposure::Loopback), range, udp, port(81, 8081, Exposure::LAN)];
        Container::new(1, 2).with_ports(ports).ensure(&driver).await.unwrap();
        let listed = nft("list ruleset");
        let flat = listed.split_whitespace().collect::<Vec<_>>().join(" ");
        for elements in [
            "set bridges { type ifname elements = { \"gtest-00000001\", \"gtest-00000002\" } }",
            "set internal { type ifname elements = { \"gtest-00000002\" } }",
            "set outbound { type ipv4_addr flags interval elements = { 10.90.1.0/24 } }",
            "set lan_sources { type ipv4_addr flags interval elements = { 10.90.1.0/24, 10.90.2.0/24 } }",
            "elements = { 10.90.1.0/24 . 10.90.1.0/24, 10.90.2.0/24 . 10.90.2.0/24 }",
            "elements = { 127.0.0.5 . tcp . 9000-9009 : 10.90.1.2 }",
            "elements = { 127.0.0.1 . tcp . 8080 : 10.90.1.2 . 80 }",
            "elements = { 0.0.0.0/0 . udp . 53 : 10.90.1.2 }",
            "elements = { 0.0.0.0/0 . tcp . 8081 : 10.90.1.2 . 81 }",
        ] {
            assert!(flat.contains(elements), "{elements} is not in {listed}");
        }
        let any = "fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map";
        let lan = "fib daddr type local ip saddr @lan_sources dnat ip to ip daddr . meta l4proto . th dport map";
        let maps = |lan| {
            [format!("{any} @ports"), format!("{any} @ports_shifted"), format!("{lan} @lan_ports"), format!("{lan} @lan_ports_shifted")]
        };
        assert_eq!(rules(&listed, "guard"), ["iifname != \"lo\" ip daddr 127.0.0.0/8 drop"]);
        assert_eq!(rules(&listed, "publish"), maps(lan));
        assert_eq!(rules(&listed, "publish_local"), maps(any));
        let isolate = ["ct state established,related accept", "iifname . oifname @same accept", "iifname @internal drop"];
        assert_eq!(rules(&listed, "isolate"), [&isolate[..], &["ct status dnat accept", "oifname @bridges drop"]].concat());
        let leave = ["ip saddr 127.0.0.0/8 oifname @bridges masquerade", "ip saddr . ip daddr @hairpin ct status dnat masquerade"];
        assert_eq!(rules(&listed, "leave"), [&leave[..], &["ip saddr @outbound oifname != @bridges masquerade"]].concat());
    });
}

#[test]
fn the_host_is_looked_at_without_being_changed() {
    on_host(|| async {
        let before = place::ip("-o link");
        let good = |name: &str| {
            super::super::bridge::probe().into_iter().find(|(what, ..)| what == name).map(|(_, good, says)| (good, says)).unwrap()
        };
        for name in ["nf_tables", "veth", "bridge", "ip_forward", "forward policy"] {
            assert!(good(name).0, "{:?}", good(name));
        }
        assert_eq!(place::ip("-o link"), before);
        nft("add table ip filter");
        place::nft_script("add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
        let (good, says) = good("forward policy");
        assert!(!good && says.contains("filter FORWARD"), "{says}");
    });
}
