//! How much of the log is kept: bounds by number, bytes and age, and what was given up on request.

use redb::{Table, WriteTransaction};

use super::read::LookError;
use super::tables::{Extent, TIMES};
use super::{RedbConfig, format};
use crate::store::key::Revision;

/// Notes of the time per [`RedbConfig::log_age`]: the log is at most so much older than it may be.
const NOTES_PER_AGE: u64 = 60;

/// Why events have to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    events: u64,
    bytes: u64,
    /// Events up to here are to go whatever there is room for.
    through: Revision,
}

impl Bounds {
    /// `now_millis`: since 1970. `given_up`: what a compaction was asked for.
    pub(super) fn new(config: &RedbConfig, extent: &Extent, given_up: Revision, now_millis: u64) -> Self {
        let age = u64::try_from(config.log_age.as_millis()).unwrap_or(u64::MAX);
        let aged = extent.times.iter().take_while(|(at, _)| at.saturating_add(age) <= now_millis).last();
        Self { events: config.log_events, bytes: config.log_bytes, through: aged.map_or(given_up, |(_, revision)| given_up.max(*revision)) }
    }

    /// Whether the oldest event has to go.
    pub(super) fn are_exceeded(&self, extent: &Extent) -> bool {
        let kept = extent.revision.0 - extent.oldest.0;
        kept > 0 && (kept > self.events || extent.log_bytes > self.bytes || extent.oldest < self.through)
    }
}

/// Drops at most `most` old events that exceed the bounds, none of them after `last`.
pub(super) fn trim(
    log: &mut Table<'_, u64, &'static [u8]>,
    extent: &mut Extent,
    bounds: Bounds,
    most: u64,
    last: Revision,
) -> Result<(), LookError> {
    for _ in 0..most {
        if extent.oldest >= last || !bounds.are_exceeded(extent) {
            break;
        }
        let gap = || format::corrupt("log", &extent.oldest.next().to_string());
        let (revision, value) = log.pop_first()?.ok_or_else(gap)?;
        extent.log_bytes = extent.log_bytes.saturating_sub(value.value().len() as u64);
        extent.oldest = Revision(revision.value());
    }
    Ok(())
}

/// Notes that the newest revision is current now, if the last note is old enough, and forgets the notes of times whose events are gone.
pub(super) fn note_time(txn: &WriteTransaction, config: &RedbConfig, extent: &mut Extent, now_millis: u64) -> Result<(), LookError> {
    let between = u64::try_from(config.log_age.as_millis()).unwrap_or(u64::MAX) / NOTES_PER_AGE;
    let between = between.max(1);
    let is_gone = |(at, revision): &(u64, Revision)| *revision <= extent.oldest || *at > now_millis;
    let is_due = extent.times.iter().rfind(|note| !is_gone(note)).is_none_or(|(at, _)| now_millis - at >= between);
    if !is_due && !extent.times.iter().any(is_gone) {
        return Ok(());
    }
    let mut times = txn.open_table(TIMES)?;
    // Those that lie ahead are from before the clock was set back: what they told of counts as of now.
    for (at, _) in extent.times.iter().filter(|note| is_gone(note)) {
        times.remove(at)?;
    }
    let oldest = extent.oldest;
    extent.times.retain(|(at, revision)| *revision > oldest && *at <= now_millis);
    if is_due && extent.revision > extent.oldest {
        times.insert(now_millis, extent.revision.0)?;
        extent.times.push((now_millis, extent.revision));
    }
    Ok(())
}
