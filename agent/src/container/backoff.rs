//! How long to wait before a process is started again.

use std::time::Duration;

use gantry_api::kinds::container::RestartBackoff;

/// Restarts in a row of one container. Kept in memory: an engine that was restarted begins afresh.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    in_a_row: u32,
}

/// What the back-off says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Delay {
    /// Wait so long, counted from the end of the last run.
    After(Duration),
    /// `maxRetries` is reached.
    GiveUp,
}

impl Backoff {
    /// The delay before the next start, after a run that lasted `ran`.
    pub(crate) fn next(&mut self, policy: &RestartBackoff, ran: Duration) -> Delay {
        if ran.as_secs_f64() >= policy.reset_after_seconds {
            self.in_a_row = 0;
        }
        if policy.max_retries.is_some_and(|most| i64::from(self.in_a_row) >= i64::from(most)) {
            return Delay::GiveUp;
        }
        let delay = match self.in_a_row {
            0 => 0.0,
            n => (policy.initial_seconds * 2_f64.powi(i32::try_from(n - 1).unwrap_or(i32::MAX).min(62))).min(policy.max_seconds),
        };
        self.in_a_row = self.in_a_row.saturating_add(1);
        Delay::After(Duration::try_from_secs_f64(delay.max(0.0)).unwrap_or(Duration::from_secs(60)))
    }

    /// A person asked for the start: the count begins afresh.
    pub(crate) fn reset(&mut self) {
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_from_the_second_restart_on_up_to_the_longest_and_starts_afresh_after_a_long_run() {
        let policy = RestartBackoff { initial_seconds: 1.0, max_seconds: 5.0, max_retries: None, reset_after_seconds: 10.0 };
        let mut backoff = Backoff::default();
        let seconds: Vec<u64> = (0..5)
            .map(|_| match backoff.next(&policy, Duration::ZERO) {
                Delay::After(delay) => delay.as_secs(),
                Delay::GiveUp => 99,
            })
            .collect();
        assert_eq!(seconds, [0, 1, 2, 4, 5]);
        assert_eq!(backoff.next(&policy, Duration::from_secs(11)), Delay::After(Duration::ZERO));
    }

    #[test]
    fn gives_up_after_max_retries() {
        let policy = RestartBackoff { max_retries: Some(2), ..RestartBackoff::default() };
        let mut backoff = Backoff::default();
        assert!(matches!(backoff.next(&policy, Duration::ZERO), Delay::After(_)));
        assert!(matches!(backoff.next(&policy, Duration::ZERO), Delay::After(_)));
        assert_eq!(backoff.next(&policy, Duration::ZERO), Delay::GiveUp);
    }
}
