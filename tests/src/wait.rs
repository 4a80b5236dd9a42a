//! Waiting for conditions, with the last state seen in the failure.

use std::time::{Duration, Instant};

/// Time between two looks at something that tells nobody when it changes.
const STEP: Duration = Duration::from_millis(10);

/// Looks until `look` gives a value; panics with the last reason after `limit`.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => panic!("waited {limit:?} for {what}; last seen: {last}"),
            Err(_) => std::thread::sleep(STEP),
        }
    }
}
