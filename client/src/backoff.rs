//! Pauses between attempts: doubling, with jitter, bounded.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);

/// The pauses of one retry loop. The jitter is a function of the seed, so that simulations repeat exactly.
#[derive(Debug)]
pub(crate) struct Backoff {
    seed: u64,
    failures: u32,
    draws: u64,
}

impl Backoff {
    pub(crate) fn new(seed: u64, salt: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        (seed, salt).hash(&mut hasher);
        Self { seed: hasher.finish(), failures: 0, draws: 0 }
    }

    /// What was tried works again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt: between half of and the whole doubled time.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        whole / 2 + (whole / 2).mul_f64(self.fraction())
    }

    /// The next pseudo-random number in 0..1.
    pub(crate) fn fraction(&mut self) -> f64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, self.draws).hash(&mut hasher);
        self.draws += 1;
        f64::from((hasher.finish() >> 32) as u32) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_repeat_with_the_seed() {
        let (mut a, mut b, mut other) = (Backoff::new(1, "x"), Backoff::new(1, "x"), Backoff::new(2, "x"));
        let pauses: Vec<_> = (0..40).map(|_| a.next()).collect();
        assert!(pauses.iter().all(|p| *p <= LONGEST));
        assert!(pauses[0] <= FIRST && pauses[39] >= LONGEST / 2);
        assert_eq!(pauses, (0..40).map(|_| b.next()).collect::<Vec<_>>());
        assert_ne!(pauses, (0..40).map(|_| other.next()).collect::<Vec<_>>());
        a.reset();
        assert!(a.next() <= FIRST);
    }
}
