//! What a watch has to tell, by the model.

use super::{Seen, Truth};
use crate::cache::Selection;
use crate::store::Change;

/// How a watch was asked to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    After(u64),
    Initial,
    /// At some revision between these.
    Now(u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Added,
    Modified,
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Event(Type, Seen),
    Bookmark(u64),
    /// The bookmark that ends the initial objects.
    InitialEnd(u64),
}

/// One watch, from its beginning to a cut or its end.
#[derive(Debug, Clone)]
pub(crate) struct Stretch {
    pub(crate) begin: Begin,
    pub(crate) heard: Vec<Heard>,
}

impl Stretch {
    /// Where the next one may go on; `None` when nothing was told.
    pub(crate) fn reached(&self) -> Option<u64> {
        let initial_over = self.begin != Begin::Initial || self.heard.iter().any(|h| matches!(h, Heard::InitialEnd(_)));
        let last = self.heard.last().map(|heard| match heard {
            Heard::Event(_, seen) => seen.revision,
            Heard::Bookmark(revision) | Heard::InitialEnd(revision) => *revision,
        });
        let begun = if let Begin::After(revision) = self.begin { Some(revision) } else { None };
        last.filter(|_| initial_over).or(begun)
    }
}

/// The changes of the selected objects after a revision, as a watch tells them.
pub(crate) fn expected(truth: &Truth, resource: &str, selection: &Selection, after: u64) -> Vec<(Type, Seen)> {
    let changes = truth.log.iter().filter(|entry| entry.revision > after && &*entry.key.resource == resource);
    let told = changes.filter_map(|entry| {
        let before = truth.states[usize::try_from(entry.revision - 1).unwrap()].get(&entry.key);
        let was = before.filter(|object| selection.selects(&entry.key, &object.index));
        let is = entry.change == Change::Put && selection.selects(&entry.key, &entry.index);
        let seen = |token| Seen { key: entry.key.clone(), revision: entry.revision, token };
        match (was, is) {
            (None, false) => None,
            (None, true) => Some((Type::Added, seen(entry.token))),
            (Some(_), true) => Some((Type::Modified, seen(entry.token))),
            (Some(_), false) if entry.change == Change::Delete => Some((Type::Deleted, seen(entry.token))),
            (Some(was), false) => Some((Type::Deleted, seen(was.token))),
        }
    });
    told.collect()
}

/// Judges one watcher; `complete`: it stopped only when it had heard of everything.
///
/// # Panics
/// When an event is missing, repeated, out of order or not as it was, or a bookmark is ahead of an event.
pub(crate) fn check(truth: &Truth, resource: &str, selection: &Selection, stretches: &[Stretch], complete: bool) {
    for (at, stretch) in stretches.iter().enumerate() {
        let (start, rest) = start_of(truth, resource, selection, stretch);
        let Some(start) = start else { continue };
        let expected = expected(truth, resource, selection, start);
        let mut told = 0;
        let mut bookmark = start;
        for heard in rest {
            match heard {
                Heard::Event(type_, seen) => {
                    let wanted = expected.get(told);
                    assert_eq!(Some(&(*type_, seen.clone())), wanted, "event {told} after {start} of {selection:?} in {stretch:?}");
                    assert!(seen.revision > bookmark, "{seen:?} comes after the bookmark {bookmark}");
                    told += 1;
                }
                Heard::Bookmark(revision) => {
                    let due = expected.iter().take_while(|(_, seen)| seen.revision <= *revision).count();
                    assert_eq!(told, due, "the bookmark {revision} of {selection:?} is not where its events are in {stretch:?}");
                    assert!(*revision >= bookmark && *revision <= truth.last(), "the bookmark {revision} follows {bookmark}");
                    bookmark = *revision;
                }
                Heard::InitialEnd(_) => panic!("the initial objects end twice in {stretch:?}"),
            }
        }
        if complete && at + 1 == stretches.len() {
            assert_eq!(told, expected.len(), "the last watch of {selection:?} after {start} ends early: {stretch:?}");
        }
    }
}

/// The revision at which a watch began, and what it told after its initial objects.
fn start_of<'a>(truth: &Truth, resource: &str, selection: &Selection, stretch: &'a Stretch) -> (Option<u64>, &'a [Heard]) {
    let heard = stretch.heard.as_slice();
    match stretch.begin {
        Begin::After(revision) => (Some(revision), heard),
        Begin::Now(earliest, latest) => {
            let first = heard.iter().find_map(|h| if let Heard::Event(_, seen) = h { Some(seen.revision - 1) } else { None });
            let start = first.map_or(latest, |before| before.min(latest));
            assert!(start >= earliest, "a watch from now begins with what was before: {stretch:?}");
            (Some(start), heard)
        }
        Begin::Initial => {
            let Some(end) = heard.iter().position(|h| matches!(h, Heard::InitialEnd(_))) else { return (None, &[]) };
            let Heard::InitialEnd(revision) = heard[end] else { return (None, &[]) };
            let initial: Vec<Heard> =
                truth.selected(revision, resource, selection).into_iter().map(|seen| Heard::Event(Type::Added, seen)).collect();
            assert_eq!(heard[..end], initial, "the initial objects of {selection:?} at {revision}");
            (Some(revision), &heard[end + 1..])
        }
    }
}
