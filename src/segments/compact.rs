//! Compaction: what is worth keeping of a sealed segment goes to the one that is appended to, and
//! the segment goes.
//!
//! A chunk that was removed cannot come back by it, whatever the moment at which the process or the
//! power ends. On disk, the last record of a serial decides. Compaction adds records of a serial only
//! while it has the serial's claim, so that each is a true copy of what the last one said when it got
//! its place, and it never changes one. So each moment before a segment goes is sound, with some
//! records twice. What goes with a segment is:
//!
//! - chunks that have a later record elsewhere, durable before: the earlier one said the same;
//! - records that are dead or were given up: without them less is to be hidden;
//! - tombstones. One is needed as long as a record that it hides stands. All records that stand in
//!   any segment are known, in `Index` (also those of writes that failed, see `Extent::doubt`, and
//!   those that an interrupted compaction left, which the start has read): if one stands in another
//!   segment and rests on a tombstone of this one, that is written anew first. Records of segments
//!   that went before are out of account only since the directory without them is durable.
//!
//! That last step is why one thread at a time compacts.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::durable::{self, SyncPoint};

use super::compact_copy::Copying;
use super::compacted;
use super::error::{LostCopy, StoreError};
use super::format::FIRST_RECORD_AT;
use super::hint;
use super::segment::path_of;
use super::store::{Claim, Failure, Store, lock};

/// How often what is left of a segment is looked for, when others change it meanwhile.
const PASSES: usize = 4;
/// Small segments leave as much room free as those of the usual size: the main server sends no chunk
/// where none is.
const ROOM_BYTES: u64 = 512 << 20;
/// What a compaction may need beside its copies: headers, the list, a directory.
const SPARE_BYTES: u64 = 4 * FIRST_RECORD_AT;

/// What one call of `compact_one` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compaction {
    /// The segment.
    pub segment: u32,
    /// The bytes that were written anew.
    pub copied_bytes: u64,
    /// The bytes of the segment, if it is gone; otherwise 0.
    pub freed_bytes: u64,
    /// The chunks found damaged or unreadable while they were copied. They are held no more: to be
    /// reported lost.
    pub lost: Vec<LostCopy>,
}

impl Store {
    /// Waits until something changed that may make a compaction worthwhile, for `wake_compaction`, or
    /// for `at_most`, and says whether there is something to compact: then `compact_one` is to be
    /// called until it says `None` or fails. For the one thread that compacts: where there is one,
    /// chunks that find no space wait a moment for it.
    pub fn wait_for_compaction(&self, at_most: Duration) -> bool {
        let _present = Compactor::new(self);
        let is_set = lock(&self.compaction.is_set);
        let waited = self.compaction.changed.wait_timeout_while(is_set, at_most, |set| !*set);
        let (mut is_set, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *is_set = false;
        drop(is_set);
        self.choose().is_some()
    }

    /// Ends a `wait_for_compaction`, also one that has not begun: for an orderly stop.
    pub fn wake_compaction(&self) {
        self.compaction.set();
    }

    /// Takes away one sealed segment for which that is worthwhile; `Ok(None)` if there is none. That
    /// is one that is at least half dead, or, when space is short, has anything to give, the one with
    /// the oldest trash first. Serving and storing go on meanwhile.
    ///
    /// `pace` is told of the bytes read and written since it was last asked, now and then, and may
    /// take its time; when it says false the call ends soon, with the segment still there. Its copies
    /// so far are not lost: the next call goes on from them.
    ///
    /// Needs free space for the copies, where the reserve counts as free.
    pub fn compact_one(
        &self,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Compaction>, StoreError> {
        let _present = Compactor::new(self);
        let _alone = lock(&self.compacting);
        lock(&self.state).check()?;
        let Some(segment) = self.choose() else { return Ok(None) };
        let mut copying = Copying::new(self, segment, pace);
        let outcome = self.compact(&mut copying);
        let done = copying.done;
        match outcome {
            Ok(()) => Ok(Some(done)),
            // What was damaged must be told; the error will be there again.
            Err(error) if !done.lost.is_empty() => {
                log::warn!("compaction not finished segment={segment} error={error}");
                Ok(Some(done))
            }
            Err(error) => Err(error),
        }
    }

    fn compact(&self, copying: &mut Copying<'_>) -> Result<(), StoreError> {
        for _ in 0..PASSES {
            if !copying.copy_chunks()? || !copying.copy_trash()? || !copying.copy_tombstones()? {
                return Ok(());
            }
            self.sync()?;
            self.step("all is copied");
            if self.take_away(&mut copying.done)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes the segment away if nothing in it is needed any more.
    fn take_away(&self, done: &mut Compaction) -> Result<bool, StoreError> {
        let segment = done.segment;
        if !self.let_go(segment)? {
            return Ok(false);
        }
        if let Err(error) = compacted::add(&self.directory, segment) {
            // At worst the next start says of the segment that it is missing.
            log::warn!("list of compacted segments not written error={error}");
        }
        self.step("its number is listed");
        let (path, hint) =
            (path_of(&self.directory, segment), hint::path_of(&self.directory, segment));
        self.files.forget(segment);
        let _ = std::fs::remove_file(hint);
        std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        self.step("it is unlinked");
        let synced = durable::sync_directory(&self.directory, SyncPoint::SegmentDirectory);
        let mut state = lock(&self.state);
        if let Err(error) = synced {
            let (path, source) = (self.directory.clone(), Arc::new(error));
            state.failed.get_or_insert(Failure { path, source });
            return state.check().map(|()| false);
        }
        let size = state.sealed.remove(&segment).map_or(0, |sealed| sealed.size);
        state.used -= size;
        state.compacted += 1;
        state.is_starved = false;
        self.index_mut().forget(segment);
        self.changed.notify_all();
        drop(state);
        done.freed_bytes = size;
        self.step("it is gone");
        Ok(true)
    }

    /// Gives up what is due in the segment, if nothing in it is needed. From then on nothing in it is
    /// read by anybody who looks it up.
    fn let_go(&self, segment: u32) -> Result<bool, StoreError> {
        let state = lock(&self.state);
        state.check()?;
        // Should the write of its tombstone fail, such a chunk lives on where it stood.
        let is_in_doubt =
            |claim: &Claim| matches!(claim, Claim::Burying { segment: from } if *from == segment);
        let mut index = self.index_mut();
        let left = index.remains.left(segment);
        let is_needed = index.live_bytes(segment) > 0 || left.held > 0 || left.tombstones > 0;
        if is_needed || state.claims.values().any(is_in_doubt) {
            return Ok(false);
        }
        index.remains.give_up(segment);
        Ok(true)
    }

    /// The segment to compact next.
    fn choose(&self) -> Option<u32> {
        self.pass_time();
        let is_short = self.is_short();
        let room = self.meter.look_below().unwrap_or(0).saturating_sub(SPARE_BYTES);
        let mut state = lock(&self.state);
        let now = self.options.clock.now();
        state.shunned.retain(|_, until| now < *until);
        let index = self.index();
        let candidates = state.sealed.iter().filter(|(n, _)| !state.shunned.contains_key(n));
        let ranked = candidates.filter_map(|(number, sealed)| {
            let left = index.remains.left(*number);
            let copies = index.live_bytes(*number) + left.held + left.tombstone_bytes();
            let kept = if is_short { copies } else { copies + left.due };
            let content = sealed.size.saturating_sub(FIRST_RECORD_AT);
            let gain = content.saturating_sub(kept);
            let rank = if kept == 0 {
                0
            } else if sealed.is_spoiled {
                1
            } else if 2 * gain >= content {
                2
            } else if is_short && 64 * gain >= content {
                // Less would move much to free little, again and again.
                3
            } else {
                return None;
            };
            (copies <= room || copies == 0).then_some((rank, left.oldest, *number))
        });
        let chosen = ranked.min().map(|(_, _, number)| number);
        drop(index);
        if chosen.is_none() && state.is_starved {
            state.is_starved = false;
            self.changed.notify_all();
        }
        chosen
    }

    /// Leaves alone a segment of which the disk cannot read all, until what of it became trash for
    /// that is due.
    pub(super) fn shun(&self, segment: u32) {
        let hold = self.options.trash_hold;
        log::warn!("segment cannot be read, left alone segment={segment} for_s={}", hold.as_secs());
        let until = self.options.clock.now() + hold + hold / 32;
        lock(&self.state).shunned.insert(segment, until);
    }

    /// True if trash that is due should make room: less than two segments, or what many uploads take
    /// at once, is free, or a chunk was refused.
    fn is_short(&self) -> bool {
        let offered = self.options.offered_bytes;
        let (used, is_starved) = {
            let state = lock(&self.state);
            (state.used, state.is_starved)
        };
        let free = offered.saturating_sub(used).min(self.meter.look().unwrap_or(0));
        is_starved || free < (2 * self.options.segment_limit()).max(ROOM_BYTES).min(offered / 8)
    }

    /// Waits for a compaction to free something, where a thread compacts, at most for `at_most`; false
    /// if nothing was freed.
    pub(super) fn await_compaction(&self, at_most: Duration) -> bool {
        let mut state = lock(&self.state);
        let before = state.compacted;
        state.is_starved = true;
        self.compaction.set();
        if state.compactors == 0 {
            return false;
        }
        let is_open = |state: &mut super::store::State| {
            state.is_starved && state.compacted == before && state.failed.is_none()
        };
        let waited = self.changed.wait_timeout_while(state, at_most, is_open);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.compacted != before
    }

    /// Tells a test where a compaction is.
    pub(super) fn step(&self, _name: &'static str) {
        #[cfg(test)]
        if let Some(step) = &*lock(&self.on_step) {
            (step.0)(_name);
        }
    }
}

/// Counts a thread as one that compacts.
struct Compactor<'a>(&'a Store);

impl Compactor<'_> {
    fn new(store: &Store) -> Compactor<'_> {
        lock(&store.state).compactors += 1;
        Compactor(store)
    }
}

impl Drop for Compactor<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).compactors -= 1;
    }
}
