//! Making what was written durable: one sync for all that wait for it.
//!
//! Writes join the current round. The first thread that waits for a round leads it: it syncs what
//! was written so far, while what others write meanwhile joins the next one. So nobody waits on a
//! timer, and under load a sync is shared by all who came during the one before.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use crate::durable::{self, SyncPoint};

use super::error::StoreError;
use super::format::Body;
use super::hint;
use super::index::{Entry, Listed};
use super::segment::Segment;
use super::store::{Failure, OpenSegment, SealedSegment, State, Store, Ticket, Written, lock};

impl Store {
    /// Returns once what the ticket stands for is durable and can be read.
    ///
    /// `Failed` if it could not be synced, which ends all writing: after a failed sync the kernel may
    /// have dropped what it could not write, so trying again would confirm what is not there.
    pub fn wait_durable(&self, ticket: Ticket) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        loop {
            if ticket.0 <= state.durable {
                return Ok(());
            }
            state.check()?;
            state = if state.leading {
                self.synced.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.lead(state)
            };
        }
    }

    /// Makes all that was written so far durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        let ticket = {
            let state = lock(&self.state);
            Ticket(if state.written.is_empty() { state.round - 1 } else { state.round })
        };
        self.wait_durable(ticket)
    }

    /// Ends the store: syncs what was written, then lets the directory go.
    pub fn close(self) -> Result<(), StoreError> {
        self.sync()
    }

    /// Syncs the current round and makes its chunks readable.
    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.leading = true;
        let round = state.round;
        state.round += 1;
        let written = std::mem::take(&mut state.written);
        let dirty = state.open.iter().filter(|open| open.unsynced > 0);
        let dirty: Vec<Arc<Segment>> = dirty.map(|open| open.segment.clone()).collect();
        drop(state);
        let outcome = self.sync_segments(&dirty);
        state = lock(&self.state);
        state.leading = false;
        let sealed = match outcome {
            Ok(()) => {
                self.publish(&mut state, &written);
                state.durable = round;
                if written.iter().any(|w| !matches!(w.listed.body, Body::Chunk { .. })) {
                    self.compaction.set();
                }
                take_sealed(&mut state)
            }
            Err((path, error)) => {
                log::error!("sync failed, storing stops path={} error={error}", path.display());
                state.failed.get_or_insert(Failure { path, source: Arc::new(error) });
                Vec::new()
            }
        };
        self.synced.notify_all();
        if state.claim_waiters > 0 {
            self.changed.notify_all();
        }
        if sealed.is_empty() {
            return state;
        }
        drop(state);
        self.write_hints(sealed);
        lock(&self.state)
    }

    fn sync_segments(&self, dirty: &[Arc<Segment>]) -> Result<(), (PathBuf, io::Error)> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        for segment in dirty {
            self.sync_one(segment).map_err(|error| (segment.path.clone(), error))?;
        }
        Ok(())
    }

    fn sync_one(&self, segment: &Segment) -> io::Result<()> {
        #[cfg(test)]
        if self.next_sync_fails.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        durable::sync_file(&segment.file, SyncPoint::SegmentData)
    }

    /// Puts durable chunks into the index. Tombstones took theirs out when they got their place.
    fn publish(&self, state: &mut State, written: &[Written]) {
        let mut index = self.index_mut();
        for Written { segment, listed } in written {
            let open = state.open_segment(*segment);
            open.unsynced -= 1;
            open.listed.push(*listed);
            let Listed { serial, offset, fingerprint, body } = *listed;
            let entry = Entry { segment: *segment, offset, length: body.length(), fingerprint };
            match body {
                Body::Chunk { .. } => {
                    index.insert(serial, entry);
                    state.claims.remove(&serial.0);
                }
                Body::Trashed { .. } => index.move_trash(serial, entry),
                Body::Tombstone { reason, .. } => index.cover(serial, *segment, reason),
            }
        }
    }

    fn write_hints(&self, sealed: Vec<OpenSegment>) {
        for mut open in sealed.into_iter().filter(|open| !open.is_doubtful) {
            open.listed.sort_unstable_by_key(|listed| listed.offset);
            let segment = &open.segment;
            let size = segment.file.metadata().map(|data| data.len());
            let written = size.and_then(|size| {
                hint::write(&self.directory, segment.number, &segment.nonce, size, &open.listed)
            });
            if let Err(error) = written {
                // The next start scans the segment instead.
                log::warn!("hint not written segment={} error={error}", segment.number);
            }
        }
    }
}

/// Takes out the segments in which nothing can change any more: not the last one, and no write is
/// under way or waiting for its sync.
fn take_sealed(state: &mut State) -> Vec<OpenSegment> {
    let active = state.open.pop().expect("a store always has a segment to append to");
    let (sealed, open): (Vec<_>, Vec<_>) = std::mem::take(&mut state.open)
        .into_iter()
        .partition(|open| open.in_flight == 0 && open.unsynced == 0);
    for OpenSegment { segment, end, filled, is_spoiled, .. } in &sealed {
        let (size, end, nonce) = (*filled, *end, segment.nonce);
        let is_spoiled = *is_spoiled;
        state.sealed.insert(segment.number, SealedSegment { size, end, nonce, is_spoiled });
    }
    state.open = open;
    state.open.push(active);
    sealed
}
