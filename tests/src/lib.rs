//! The harness of the suites: a host of its own for each test, real engines on it, and the kernel's own files as judge.
//!
//! Every test has its own directory, instance name and network namespace, and takes everything away again, also when it fails.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "the harness starts real programs and waits for what no watch tells of"
)]

pub mod host;
pub mod kubectl;
pub mod registry;
pub mod state;
pub mod wait;

/// How many rounds of a randomised suite to run: about a twentieth, or all of them with `GANTRY_TEST_FULL` set.
pub fn rounds(full: u64) -> u64 {
    if std::env::var_os("GANTRY_TEST_FULL").is_some() { full } else { full.div_ceil(20) }
}

/// The seed of a randomised test: `GANTRY_TEST_SEED`, else the clock; printed, so that a failure can be run again.
pub fn seed() -> u64 {
    let given = std::env::var("GANTRY_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or(1));
    eprintln!("seed: GANTRY_TEST_SEED={seed}");
    seed
}
