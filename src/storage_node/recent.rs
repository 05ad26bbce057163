//! The copies that were confirmed in the last minute. A main server answers some confirmations
//! before they are on its disk; one that started anew since is told of them again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Moment};

use super::batch::StoredCopy;

/// A main server syncs what it answered early well within this.
const KEPT: Duration = Duration::from_secs(60);
/// The most copies that are remembered: the latest.
const MAX_COPIES: usize = 4096;

/// Copies that the main server said count.
#[derive(Debug)]
pub(super) struct Recent {
    clock: Clock,
    /// By age.
    copies: Mutex<VecDeque<(Moment, StoredCopy)>>,
}

impl Recent {
    pub fn new(clock: Clock) -> Recent {
        Recent { clock, copies: Mutex::default() }
    }

    /// These were confirmed just now.
    pub fn note(&self, confirmed: impl IntoIterator<Item = StoredCopy>) {
        let now = self.clock.now();
        let mut copies = self.lock();
        copies.extend(confirmed.into_iter().map(|copy| (now, copy)));
        let surplus = copies.len().saturating_sub(MAX_COPIES);
        copies.drain(..surplus);
    }

    /// Those of the last minute, by age. They need not be here any more.
    pub fn copies(&self) -> Vec<StoredCopy> {
        self.trim();
        self.lock().iter().map(|(_, copy)| copy.clone()).collect()
    }

    /// Forgets those that are older.
    pub fn trim(&self) {
        let now = self.clock.now();
        let mut copies = self.lock();
        while copies.front().is_some_and(|(at, _)| now.since(*at) >= KEPT) {
            copies.pop_front();
        }
        if copies.is_empty() {
            copies.shrink_to_fit();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Moment, StoredCopy)>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::ids::{ChunkId, HashAlgorithm, Serial};
    use crate::token::Token;

    #[test]
    fn confirmations_are_remembered_for_a_minute_and_never_more_than_so_many() {
        let clock = Clock::manual(WallTime(0));
        let recent = Recent::new(clock.clone());
        let id = ChunkId::of(HashAlgorithm::Blake3, b"");
        let copy = |n: usize| {
            let (serial, token) = (Serial(n as u64), Token::from_text(n.to_string()));
            StoredCopy { serial, id, token }
        };
        recent.note([copy(1)]);
        clock.advance(KEPT - Duration::from_millis(1));
        recent.note([copy(2)]);
        assert_eq!(recent.copies(), [copy(1), copy(2)]);
        clock.advance(Duration::from_millis(1));
        assert_eq!(recent.copies(), [copy(2)]);
        recent.note((0..MAX_COPIES).map(copy));
        assert_eq!(recent.copies().len(), MAX_COPIES);
        assert_eq!(recent.copies()[0], copy(0));
        clock.advance(KEPT);
        recent.trim();
        assert_eq!(recent.lock().capacity(), 0);
    }
}
