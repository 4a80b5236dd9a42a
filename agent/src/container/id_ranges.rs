//! Host ids for user namespaces: every container gets a range of its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::ids::ContainerUid;
use crate::runtime::IdRange;

/// The pool: above what `/etc/subuid` and systemd hand out by default (systemd.io/UIDS-GIDS), below 2^31, where tools begin to fail.
const FIRST: u32 = 0x7000_0000;
const END: u32 = 0x7fff_0000;
/// Granularity of ranges.
pub(crate) const UNIT: u32 = 65536;

/// Who has which range. Rebuilt from the records of what runs when the engine starts.
#[derive(Debug, Default)]
pub(crate) struct IdRanges {
    /// First id -> count and holder.
    taken: Mutex<BTreeMap<u32, (u32, ContainerUid)>>,
}

impl IdRanges {
    /// Marks a range as taken by an adopted container.
    pub(crate) fn adopt(&self, uid: &ContainerUid, range: IdRange) {
        self.lock().insert(range.first, (range.count, uid.clone()));
    }

    /// A free range of `count` ids, rounded up to whole units; `None` when the pool is used up.
    pub(crate) fn allocate(&self, uid: &ContainerUid, count: u32) -> Option<IdRange> {
        let count = count.max(1).div_ceil(UNIT).checked_mul(UNIT)?;
        let mut taken = self.lock();
        taken.retain(|_, (_, holder)| holder != uid);
        let mut first = FIRST;
        for (&start, &(length, _)) in taken.iter() {
            if start.saturating_sub(first) >= count {
                break;
            }
            first = start.saturating_add(length);
        }
        if END.checked_sub(first)? < count {
            return None;
        }
        taken.insert(first, (count, uid.clone()));
        Some(IdRange { first, count })
    }

    /// Gives back what `uid` holds.
    pub(crate) fn release(&self, uid: &ContainerUid) {
        self.lock().retain(|_, (_, holder)| holder != uid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, (u32, ContainerUid)>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(n: u32) -> ContainerUid {
        ContainerUid::new(&format!("u{n}")).unwrap()
    }

    #[test]
    fn ranges_never_overlap_and_gaps_are_used_again() {
        let ranges = IdRanges::default();
        let a = ranges.allocate(&uid(1), 65536).unwrap();
        let b = ranges.allocate(&uid(2), 65537).unwrap();
        let c = ranges.allocate(&uid(3), 1).unwrap();
        assert_eq!((a.count, b.count, c.count), (UNIT, 2 * UNIT, UNIT));
        assert_eq!(b.first, a.first + a.count);
        assert_eq!(c.first, b.first + b.count);
        ranges.release(&uid(2));
        assert_eq!(ranges.allocate(&uid(4), 65536).unwrap().first, b.first);
    }

    #[test]
    fn an_empty_pool_is_no_panic() {
        let ranges = IdRanges::default();
        ranges.adopt(&uid(1), IdRange { first: FIRST, count: END - FIRST });
        assert!(ranges.allocate(&uid(2), 1).is_none());
        assert!(ranges.allocate(&uid(2), u32::MAX).is_none());
    }
}
