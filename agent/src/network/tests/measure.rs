//! How long an endpoint takes; run by hand with `--run-ignored only`.

use super::*;

#[test]
#[ignore = "a measurement, not a test"]
fn endpoints() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let containers: Vec<Container> =
            (2..102).map(|host| Container::new(1, host).with_ports([port(80, 8000 + u16::from(host), Exposure::Loopback)])).collect();
        for what in ["made", "found"] {
            let mut times = Vec::new();
            for container in &containers {
                let start = Instant::now();
                container.ensure(&driver).await.unwrap();
                times.push(start.elapsed());
            }
            times.sort_unstable();
            println!("{what}: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() - 1]);
        }
    });
}
