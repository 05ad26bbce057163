//! The way of a chunk into a segment: its serial is claimed and its place reserved under the lock,
//! its bytes are written outside of it.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::{MAX_CHUNK_BYTES, Serial};

use super::error::StoreError;
use super::format::{Body, FIRST_RECORD_AT, Record, record_bytes};
use super::index::{Entry, Listed, fingerprint};
use super::remains;
use super::segment::{Segment, no_room_or};
use super::store::{Claim, Failure, NewChunk, OpenSegment, State, Store, Ticket, Written, lock};

/// How long chunks that find no space wait for a compaction, all in all, where one may free some.
const WAIT_FOR_SPACE: Duration = Duration::from_secs(1);

impl Store {
    /// Writes these chunks. They can be read, and may be confirmed, once `wait_durable` returned for
    /// the ticket. A chunk whose serial is held already counts as written, after the copy on disk was
    /// read and found whole.
    ///
    /// Where a thread compacts and space is lacking, this waits for it, but not for long.
    ///
    /// After an error none of them can be read (until a restart, which may find some of them whole).
    pub fn append(&self, chunks: &[NewChunk<'_>]) -> Result<Ticket, StoreError> {
        if let Some(chunk) = chunks.iter().find(|c| c.bytes.len() > MAX_CHUNK_BYTES as usize) {
            return Err(StoreError::TooLarge { id: chunk.id, bytes: chunk.bytes.len() });
        }
        let began = Instant::now();
        let mut ticket = Ticket(0);
        let mut rest: Vec<&NewChunk<'_>> = chunks.iter().collect();
        while !rest.is_empty() {
            let mut sorted = match self.sort_out_with_room(&rest) {
                Err(StoreError::NoSpace { .. })
                    if self.await_compaction(WAIT_FOR_SPACE.saturating_sub(began.elapsed())) =>
                {
                    continue;
                }
                sorted => sorted?,
            };
            ticket = ticket.max(self.write_claimed(&mut sorted.claimed)?);
            rest.clear();
            for chunk in sorted.held {
                if !self.holds_whole(chunk)? {
                    rest.push(chunk);
                }
            }
            // Only now, with its own claims decided: two threads cannot wait for each other.
            for chunk in sorted.elsewhere {
                match self.wait_written(chunk.serial) {
                    Some(written) => ticket = ticket.max(written),
                    None => rest.push(chunk),
                }
            }
        }
        Ok(ticket)
    }

    /// The same, with room on the file system for all that was claimed.
    fn sort_out_with_room<'a, 'b>(
        &'a self,
        chunks: &[&'a NewChunk<'b>],
    ) -> Result<Sorted<'a, 'b>, StoreError> {
        let sorted = self.sort_out(chunks)?;
        self.meter.admit(sorted.claimed.bytes()).map(|()| sorted)
    }

    /// Sorts chunks by what is to be done, and claims those that are new.
    pub(super) fn sort_out<'a, 'b>(
        &'a self,
        chunks: &[&'a NewChunk<'b>],
    ) -> Result<Sorted<'a, 'b>, StoreError> {
        let claimed = Claimed::new(self);
        let mut sorted = Sorted { claimed, held: Vec::new(), elsewhere: Vec::new() };
        // After an error, dropping `sorted` gives the claims back: the lock must be free by then.
        let outcome = {
            let mut state = lock(&self.state);
            self.sort_under_lock(&mut state, chunks, &mut sorted)
        };
        outcome.map(|()| sorted)
    }

    fn sort_under_lock<'a, 'b>(
        &self,
        state: &mut State,
        chunks: &[&'a NewChunk<'b>],
        sorted: &mut Sorted<'a, 'b>,
    ) -> Result<(), StoreError> {
        state.check()?;
        let index = self.index();
        let taken =
            |chunk: &NewChunk<'_>| StoreError::SerialTaken { serial: chunk.serial, id: chunk.id };
        for chunk in chunks {
            if let Some(claim) = state.claims.get(&chunk.serial.0) {
                if matches!(claim, Claim::Storing { id, .. } if *id != chunk.id) {
                    return Err(taken(chunk));
                }
                sorted.elsewhere.push(chunk);
            } else if let Some(entry) = index.get(chunk.serial) {
                if entry.fingerprint != fingerprint(&chunk.id)
                    || entry.length as usize != chunk.bytes.len()
                {
                    return Err(taken(chunk));
                }
                sorted.held.push(chunk);
            } else {
                sorted.claimed.claim(state, chunk);
            }
        }
        self.check_offered(state, sorted.claimed.bytes())
    }

    /// `NoSpace` if the space offered does not reach for the `needed` bytes, which count already.
    pub(super) fn check_offered(&self, state: &State, needed: u64) -> Result<(), StoreError> {
        let free = self.options.offered_bytes.saturating_sub(state.used - needed);
        if needed > free { Err(StoreError::NoSpace { needed, free }) } else { Ok(()) }
    }

    /// The error of a write, with what seemed to be free. Whoever lacks space all the same lacks
    /// something else: files, say.
    fn with_free(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::NoSpace { needed, .. } => {
                StoreError::NoSpace { needed, free: self.meter.look().unwrap_or(0) }
            }
            error => error,
        }
    }

    /// Writes all that was claimed, in as many segments as it takes.
    pub(super) fn write_claimed(
        &self,
        claimed: &mut Claimed<'_, '_>,
    ) -> Result<Ticket, StoreError> {
        let mut ticket = Ticket(0);
        while let Some(first) = claimed.chunks.first() {
            let records: Vec<(Record, &[u8])> =
                claimed.chunks.iter().map(|c| to_record(c)).collect();
            let extent = {
                let mut state = self.room_for(chunk_record_bytes(first))?;
                self.take_extent(&mut state, claimed.chunks.iter().map(|c| chunk_length(c)))
            };
            let count = extent.count;
            ticket = ticket.max(extent.write(&records[..count])?);
            claimed.chunks.drain(..count);
        }
        Ok(ticket)
    }

    /// True if the copy on disk is these bytes; takes it out if it is damaged.
    fn holds_whole(&self, chunk: &NewChunk<'_>) -> Result<bool, StoreError> {
        match self.verify(chunk.serial, &chunk.id) {
            Ok(()) => Ok(true),
            Err(error) if error.loss().is_some() => {
                match self.give_up(chunk.serial, &chunk.id) {
                    // Its tombstone is written before the new copy, and is durable no later.
                    Ok(_) | Err(StoreError::NotFound(_)) => Ok(false),
                    Err(error) => Err(error),
                }
            }
            // Under this serial stands another chunk with the same fingerprint, or none any more.
            Err(StoreError::NotFound(id)) if self.index().get(chunk.serial).is_some() => {
                Err(StoreError::SerialTaken { serial: chunk.serial, id })
            }
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits for another thread to have written this serial; `None` if it is decided already.
    fn wait_written(&self, serial: Serial) -> Option<Ticket> {
        let mut state = lock(&self.state);
        loop {
            match state.claims.get(&serial.0) {
                None => return None,
                Some(Claim::Storing { round: Some(round), .. }) => return Some(Ticket(*round)),
                Some(Claim::Storing { round: None, .. } | Claim::Burying { .. }) => {
                    state = self.wait_changed(state);
                }
            }
        }
    }

    /// Waits for a claim to be decided, or at least for something that others wait for.
    fn wait_changed<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.claim_waiters += 1;
        state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.claim_waiters -= 1;
        state
    }

    /// The state, once no record of that serial is under way: what is placed from now on stands
    /// after all records of it.
    pub(super) fn unclaimed(&self, serial: Serial) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = lock(&self.state);
        loop {
            match state.claims.get(&serial.0) {
                None => return Ok(state),
                Some(Claim::Storing { round: Some(round), .. }) => {
                    let ticket = Ticket(*round);
                    drop(state);
                    self.wait_durable(ticket)?;
                    state = lock(&self.state);
                }
                Some(Claim::Storing { round: None, .. } | Claim::Burying { .. }) => {
                    state.check()?;
                    state = self.wait_changed(state);
                }
            }
        }
    }

    /// The state, with room in the active segment for a record of that size. One thread makes the
    /// next segment when there is none; the others wait for it.
    pub(super) fn room_for(&self, bytes: u64) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = lock(&self.state);
        loop {
            state.check()?;
            if state.active().fits(bytes, self.options.segment_limit()) {
                return Ok(state);
            }
            if state.rolling {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.rolling = true;
            let number = state.active().segment.number + 1;
            drop(state);
            let made = Segment::create(&self.directory, number).map_err(|e| self.with_free(e));
            state = lock(&self.state);
            state.rolling = false;
            self.changed.notify_all();
            match made {
                Ok(segment) => {
                    state.used += FIRST_RECORD_AT;
                    state.open.push(OpenSegment::new(
                        Arc::new(segment),
                        FIRST_RECORD_AT,
                        Vec::new(),
                    ));
                }
                Err(StoreError::Failed { path, source }) => {
                    state.failed.get_or_insert(Failure { path, source });
                    self.synced.notify_all();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives records with data of these lengths, as many as fit, a place in the active segment,
    /// where the first one must fit.
    pub(super) fn take_extent(
        &self,
        state: &mut State,
        lengths: impl IntoIterator<Item = u32>,
    ) -> Extent<'_> {
        let limit = self.options.segment_limit();
        let active = state.active();
        let offset = active.end;
        let mut count = 0;
        for bytes in lengths.into_iter().map(record_bytes) {
            if !active.fits(bytes, limit) {
                break;
            }
            active.end += bytes;
            active.records += 1;
            count += 1;
        }
        active.in_flight += 1;
        Extent { store: self, segment: active.segment.clone(), offset, count, ended: false }
    }
}

fn chunk_record_bytes(chunk: &NewChunk<'_>) -> u64 {
    record_bytes(chunk_length(chunk))
}

fn chunk_length(chunk: &NewChunk<'_>) -> u32 {
    u32::try_from(chunk.bytes.len()).expect("checked at the start of `append`")
}

fn to_record<'b>(chunk: &NewChunk<'b>) -> (Record, &'b [u8]) {
    let NewChunk { id, serial, account, bytes } = *chunk;
    (Record { serial, id, account, body: Body::Chunk { length: chunk_length(chunk) } }, bytes)
}

/// The chunks of one call, by what is to be done with them.
pub(super) struct Sorted<'a, 'b> {
    /// To be written by this call.
    claimed: Claimed<'a, 'b>,
    /// In the index.
    held: Vec<&'a NewChunk<'b>>,
    /// Claimed already: by another call, or by this one if it names a serial twice.
    elsewhere: Vec<&'a NewChunk<'b>>,
}

/// Chunks that this call has claimed and not written yet. Dropping it gives them back.
pub(super) struct Claimed<'a, 'b> {
    store: &'a Store,
    chunks: Vec<&'a NewChunk<'b>>,
}

impl<'a, 'b> Claimed<'a, 'b> {
    pub fn new(store: &'a Store) -> Claimed<'a, 'b> {
        Claimed { store, chunks: Vec::new() }
    }

    /// Claims a serial that is free.
    pub fn claim(&mut self, state: &mut State, chunk: &'a NewChunk<'b>) {
        state.claims.insert(chunk.serial.0, Claim::Storing { id: chunk.id, round: None });
        state.used += chunk_record_bytes(chunk);
        self.chunks.push(chunk);
    }

    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk_record_bytes(chunk)).sum()
    }
}

impl Drop for Claimed<'_, '_> {
    fn drop(&mut self) {
        if self.chunks.is_empty() {
            return;
        }
        let mut state = lock(&self.store.state);
        for chunk in &self.chunks {
            state.claims.remove(&chunk.serial.0);
        }
        state.used -= self.bytes();
        self.store.changed.notify_all();
    }
}

/// A place in a segment for some records, until they are written there. Dropping it without that
/// leaves a gap in the file.
pub(super) struct Extent<'a> {
    store: &'a Store,
    segment: Arc<Segment>,
    offset: u64,
    count: usize,
    ended: bool,
}

impl Extent<'_> {
    /// Writes the `count` records that the place is for, and puts them into the current round.
    pub fn write(mut self, records: &[(Record, &[u8])]) -> Result<Ticket, StoreError> {
        if let Err(error) = self.segment.write(self.offset, records) {
            self.doubt(records);
            let error = match no_room_or("write", &self.segment.path, error) {
                StoreError::NoSpace { free, .. } => {
                    let needed = records.iter().map(|(r, _)| record_bytes(r.body.length())).sum();
                    StoreError::NoSpace { needed, free }
                }
                error => error,
            };
            return Err(self.store.with_free(error));
        }
        let mut state = lock(&self.store.state);
        let round = state.round;
        let mut at = self.offset;
        for (record, _) in records {
            let offset = u32::try_from(at).expect("segments are shorter than 4 GiB");
            let Record { serial, id, body, .. } = record;
            let listed =
                Listed { serial: *serial, offset, fingerprint: fingerprint(id), body: *body };
            state.written.push(Written { segment: self.segment.number, listed });
            match (body, state.claims.get_mut(&serial.0)) {
                (Body::Chunk { .. }, Some(Claim::Storing { round: decided, .. })) => {
                    *decided = Some(round);
                }
                // Whatever comes next for this serial is placed, and counted, after it.
                (Body::Tombstone { .. } | Body::Trashed { .. }, _) => {
                    state.claims.remove(&serial.0);
                }
                (Body::Chunk { .. }, _) => {}
            }
            at += record_bytes(body.length());
        }
        let open = state.open_segment(self.segment.number);
        open.unsynced += records.len();
        open.filled += at - self.offset;
        open.in_flight -= 1;
        self.ended = true;
        if state.claim_waiters > 0 {
            self.store.changed.notify_all();
        }
        Ok(Ticket(round))
    }

    /// After a failed write nobody knows which of its records stand whole, and a later start may find
    /// them: so they are known as dead, that no tombstone goes while they stand, and the segment gets
    /// no hint, which would hide them from that start.
    fn doubt(&self, records: &[(Record, &[u8])]) {
        let mut state = lock(&self.store.state);
        state.open_segment(self.segment.number).is_doubtful = true;
        let mut index = self.store.index_mut();
        let mut at = self.offset;
        for (Record { serial, id, body, .. }, _) in records {
            let length = body.length();
            if matches!(body, Body::Chunk { .. } | Body::Trashed { .. }) {
                let offset = u32::try_from(at).expect("segments are shorter than 4 GiB");
                let (segment, fingerprint) = (self.segment.number, fingerprint(id));
                let entry = Entry { segment, offset, length, fingerprint };
                index.remains.add(*serial, entry, remains::State::Dead, 0);
            }
            at += record_bytes(length);
        }
    }
}

impl Drop for Extent<'_> {
    fn drop(&mut self) {
        if !self.ended {
            lock(&self.store.state).open_segment(self.segment.number).in_flight -= 1;
        }
    }
}

impl OpenSegment {
    /// A segment whose records so far are all durable.
    pub fn new(segment: Arc<Segment>, end: u64, listed: Vec<Listed>) -> OpenSegment {
        let records = listed.len();
        OpenSegment {
            segment,
            end,
            filled: end,
            records,
            in_flight: 0,
            unsynced: 0,
            listed,
            is_doubtful: false,
            is_spoiled: false,
        }
    }
}
