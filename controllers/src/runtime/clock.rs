//! Wall-clock time, injected.

use std::fmt;
use std::sync::Arc;

use gantry_api::meta::Time;
use jiff::Timestamp;

/// Where the times that are written to objects come from. Waits are on tokio's clock and do not use it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that asks `now` each time.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(Timestamp::now)
    }

    /// The time now, in whole seconds: finer parts are lost on the wire and would be found changed at every comparison.
    pub fn now(&self) -> Time {
        let now = (self.0)();
        Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
