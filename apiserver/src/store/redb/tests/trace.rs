//! What was done to a disk, and what a machine may find of it after a power cut at any step.

use std::sync::Arc;

use rand::Rng as _;
use rand::rngs::StdRng;

use super::disk::put;

/// What disks write as a whole or not at all, if they keep their promise.
const SECTOR: usize = 512;

/// One thing done to the file, or known of it.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Write {
        offset: usize,
        data: Arc<[u8]>,
    },
    SetLen(usize),
    /// Everything before it is durable.
    Sync,
    /// The users were told that everything up to this revision is durable.
    Acknowledged(u64),
}

impl Step {
    /// Whether a power cut in the middle of it is a case of its own.
    pub(super) fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::SetLen(_))
    }
}

/// How much a power cut destroys: drawn anew for each cut, so that gentle and harsh ones are tried.
#[derive(Debug)]
struct Harm {
    /// Share of the unsynced writes that are gone.
    lost: f64,
    /// Share of the others that are torn.
    torn: f64,
    /// Whether the disk has written them in another order.
    reordered: bool,
}

impl Harm {
    fn random(random: &mut StdRng) -> Self {
        let of = |random: &mut StdRng, shares: &[f64]| shares[random.random_range(0..shares.len())];
        Self { lost: of(random, &[0.0, 0.1, 0.5, 0.9, 1.0]), torn: of(random, &[0.0, 0.2, 0.7]), reordered: random.random_bool(0.5) }
    }
}

/// A trace that is walked through, with what is durable at each step and what is not yet.
pub(super) struct Walk<'a> {
    steps: std::slice::Iter<'a, Step>,
    durable: Vec<u8>,
    unsynced: Vec<&'a Step>,
    /// Acknowledged so far.
    pub(super) acknowledged: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(durable: Vec<u8>, steps: &'a [Step]) -> Self {
        Self { steps: steps.iter(), durable, unsynced: Vec::new(), acknowledged: 0 }
    }

    /// Goes to the next write, which is then on its way; `None` at the end.
    pub(super) fn next_write(&mut self) -> Option<()> {
        loop {
            let step = self.steps.next()?;
            match step {
                Step::Acknowledged(revision) => self.acknowledged = *revision,
                Step::Sync => {
                    for step in std::mem::take(&mut self.unsynced) {
                        apply(&mut self.durable, step);
                    }
                }
                Step::Write { .. } | Step::SetLen(_) => {
                    self.unsynced.push(step);
                    return Some(());
                }
            }
        }
    }

    /// What is there when nothing is lost.
    pub(super) fn all(&self) -> Vec<u8> {
        let mut found = self.durable.clone();
        self.unsynced.iter().for_each(|step| apply(&mut found, step));
        found
    }

    /// What a power cut leaves here: all that is durable, and of the rest whatever chance wants.
    pub(super) fn cut(&self, random: &mut StdRng) -> Vec<u8> {
        let harm = Harm::random(random);
        let mut found = self.durable.clone();
        let mut rest = self.unsynced.clone();
        while !rest.is_empty() {
            let step = if harm.reordered { rest.swap_remove(random.random_range(0..rest.len())) } else { rest.remove(0) };
            if random.random_bool(harm.lost) {
                continue;
            }
            match step {
                Step::Write { offset, data } if random.random_bool(harm.torn) => tear(&mut found, *offset, data, random),
                Step::SetLen(len) if *len > found.len() && random.random_bool(harm.torn) => {
                    let reached = random.random_range(found.len()..=*len);
                    found.resize(reached, 0);
                }
                whole => apply(&mut found, whole),
            }
        }
        found
    }
}

fn apply(contents: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write { offset, data } => put(contents, *offset, data),
        Step::SetLen(len) => contents.resize(*len, 0),
        Step::Sync | Step::Acknowledged(_) => {}
    }
}

/// A part of a write: up to some byte, up to some sector, or any of its sectors.
fn tear(contents: &mut Vec<u8>, offset: usize, data: &[u8], random: &mut StdRng) {
    match random.random_range(0..3) {
        0 => put(contents, offset, &data[..random.random_range(0..=data.len())]),
        1 => put(contents, offset, &data[..random.random_range(0..=data.len() / SECTOR) * SECTOR]),
        _ => {
            for (number, sector) in data.chunks(SECTOR).enumerate() {
                if random.random_bool(0.5) {
                    put(contents, offset + number * SECTOR, sector);
                }
            }
        }
    }
}
