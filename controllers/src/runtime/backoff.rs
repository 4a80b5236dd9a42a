//! How long a key that failed waits.

use std::time::Duration;

use rand::Rng;

/// Exponential delays with a cap, and jitter so that keys that failed together do not come back together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    /// Delay after the first failure.
    pub(crate) initial: Duration,
    /// Longest delay, before jitter.
    pub(crate) max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(20), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The delay after `failures` failures in a row (1 or more): between 100 % and 125 % of `initial` × 2^(failures-1), capped.
    pub(crate) fn delay(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let delay = self.initial.saturating_mul(factor).min(self.max);
        delay + delay.mul_f64(rng.random_range(0.0..0.25))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn doubles_up_to_the_cap() {
        let backoff = Backoff { initial: Duration::from_millis(10), max: Duration::from_millis(100) };
        let mut rng = StdRng::seed_from_u64(1);
        for (failures, least) in [(1, 10), (2, 20), (3, 40), (4, 80), (5, 100), (31, 100), (32, 100), (33, 100), (u32::MAX, 100)] {
            let delay = backoff.delay(failures, &mut rng);
            let least = Duration::from_millis(least);
            assert!(delay >= least && delay <= least.mul_f64(1.25), "{failures}: {delay:?}");
        }
    }
}
