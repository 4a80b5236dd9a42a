//! `kill -9` of the engine at random moments of an apply/delete workload: no acknowledged object is lost, no container is disturbed,
//! and at the end nothing is left on the host.

#![expect(clippy::disallowed_methods, reason = "a test runs real programs, and waits for what no watch tells of")]

use std::collections::BTreeMap;
use std::time::Duration;

use gantry_tests::host::Host;
use gantry_tests::state::HostState;
use gantry_tests::{rounds, seed};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const BUSYBOX: &str = "localhost/test/busybox:1";
/// Names that the workload makes and deletes.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn container(name: &str, round: u64) -> String {
    format!(
        "apiVersion: gantry.dev/v1\nkind: Container\nmetadata: {{name: {name}, labels: {{round: '{round}'}}}}\nspec:\n  image: {BUSYBOX}\n  command: [sleep, '100000']\n  stop: {{gracePeriodSeconds: 0}}\n"
    )
}

#[test]
fn kill_9_at_random_moments_loses_nothing_disturbs_nothing_and_leaks_nothing() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut host = Host::new();
    let before = HostState::of(&host);
    host.serve();
    host.load_busybox(BUSYBOX);
    host.apply(&container("steady", 0));
    let steady = host.wait_running("steady");
    // What the engine has acknowledged: the round in which a name was last applied, or that it was deleted.
    let mut acknowledged: BTreeMap<&str, Option<u64>> = BTreeMap::new();
    for round in 1..=rounds(100) {
        let delay = Duration::from_micros(random.random_range(0..60_000));
        let pid = nix::unistd::Pid::from_raw(host.engine_pid());
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)
        });
        for _ in 0..8 {
            let name = NAMES[random.random_range(0..NAMES.len())];
            let delete = random.random_bool(0.4);
            let outcome = if delete {
                host.gantry_output(&["delete", "container", name, "--wait=false", "--ignore-not-found"])
            } else {
                let file = host.dir().join(format!("{name}.yaml"));
                std::fs::write(&file, container(name, round)).unwrap();
                host.gantry_output(&["apply", "-f", &file.display().to_string()])
            };
            if !outcome.status.success() {
                // Not acknowledged: either may be true from now on.
                acknowledged.remove(name);
                break;
            }
            // What is being deleted can still be changed, and goes all the same: such a change promises nothing.
            let known_to_stay = matches!(acknowledged.get(name), Some(Some(_)));
            if !delete && !known_to_stay && !String::from_utf8_lossy(&outcome.stdout).contains("created") {
                acknowledged.remove(name);
                continue;
            }
            acknowledged.insert(name, (!delete).then_some(round));
        }
        killer.join().unwrap().expect("the engine was there to be killed");
        host.kill_engine();
        host.serve();
        for (name, wanted) in &acknowledged {
            let object = host.find("container", name).filter(|object| object["metadata"]["deletionTimestamp"].is_null());
            let found = object.and_then(|object| object["metadata"]["labels"]["round"].as_str()?.parse().ok());
            assert_eq!(found, *wanted, "round {round}: container {name} is not as it was acknowledged");
        }
    }
    let now = host.wait_running("steady");
    assert_eq!(steady["status"]["pid"], now["status"]["pid"], "the steady container was disturbed");
    for name in NAMES.iter().chain(&["steady"]) {
        host.gantry(&["delete", "container", name, "--ignore-not-found"]);
        host.wait_gone("container", name);
    }
    host.teardown(false);
    assert_eq!(HostState::of(&host).added_since(&before), Vec::<String>::new());
}
