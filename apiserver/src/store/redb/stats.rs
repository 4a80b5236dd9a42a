//! Figures of a store, for metrics.

use std::time::Duration;

/// Counts of values by size: `counts[n]` are those up to `1 << n` and above the bound before; the last one holds all larger ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    /// By powers of two.
    pub counts: [u64; 24],
    /// Of all values.
    pub sum: u64,
}

impl Histogram {
    /// Counts one value.
    pub(super) fn add(&mut self, value: u64) {
        let bucket = usize::try_from(value.max(1).next_power_of_two().trailing_zeros()).unwrap_or(usize::MAX);
        self.counts[bucket.min(self.counts.len() - 1)] += 1;
        self.sum += value;
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Figures of a store. Counters count from its opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Objects.
    pub objects: u64,
    /// Bytes of the objects' values.
    pub object_bytes: u64,
    /// Events that can be read.
    pub log_events: u64,
    /// Bytes of the log's values.
    pub log_bytes: u64,
    /// Milliseconds since 1970 at which the oldest event was there already: it is at least as old. 0 when nothing is known of it.
    pub log_since_millis: u64,
    /// Length of the file. What it has beyond objects and log is the database's own, or free for later writes.
    pub file_bytes: u64,
    /// Transactions: each is one change of the file that is durable as a whole.
    pub transactions: u64,
    /// Changes of objects.
    pub changes: u64,
    /// Commits that shared a transaction.
    pub group_commits: Histogram,
    /// How long it took to make a transaction durable, in microseconds: writing its pages and syncing them.
    pub sync_micros: Histogram,
    /// Times that the storage failed under a transaction or a reopening.
    pub failures: u64,
    /// Commits refused because the disk was full.
    pub refused_full: u64,
    /// Times that the file was opened again after a failure.
    pub reopened: u64,
}

/// Whole microseconds, for [`Histogram::add`].
pub(super) fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_powers_of_two() {
        let mut histogram = Histogram::default();
        [0, 1, 2, 3, 4, 5, u64::from(u32::MAX)].into_iter().for_each(|value| histogram.add(value));
        assert_eq!(histogram.counts[..4], [2, 1, 2, 1]);
        assert_eq!((histogram.counts[23], histogram.count(), histogram.sum), (1, 7, 15 + u64::from(u32::MAX)));
    }
}
