//! What compaction copies out of a segment: chunks that live, trash that is held, and tombstones of
//! what stands elsewhere. Taken from the index alone, so damage in the segment hides none of it.

use std::collections::BTreeSet;

use crate::ids::{AccountId, ChunkId, Serial};

use super::append::Claimed;
use super::compact::Compaction;
use super::error::StoreError;
use super::format::{Body, Place, Reason, Record, record_bytes};
use super::index::Entry;
use super::remains::{State, entry_of};
use super::remove::Undo;
use super::store::{NewChunk, Store, lock};

/// The records that are looked at under one lock of the index.
const PAGE_RECORDS: usize = 4096;
/// The bytes of chunks that share a sync.
const BATCH_BYTES: u64 = 8 << 20;
/// The chunks that share a sync.
const BATCH_CHUNKS: usize = 4096;

/// A compaction under way. Its steps say false once it was told to stop.
pub(super) struct Copying<'a> {
    store: &'a Store,
    pace: &'a mut dyn FnMut(u64) -> bool,
    pub done: Compaction,
}

impl<'a> Copying<'a> {
    pub fn new(
        store: &'a Store,
        segment: u32,
        pace: &'a mut dyn FnMut(u64) -> bool,
    ) -> Copying<'a> {
        Copying { store, pace, done: Compaction { segment, ..Compaction::default() } }
    }

    /// Copies the chunks that live, each after it was verified; those that are damaged are dropped.
    pub fn copy_chunks(&mut self) -> Result<bool, StoreError> {
        let mut from = Some(0);
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(start) = from.filter(|_| self.has_chunks()) {
            let mut last = None;
            let page: Vec<(Serial, Entry)> = {
                let index = self.store.index();
                let page =
                    index.page(start, PAGE_RECORDS).inspect(|(serial, _)| last = Some(*serial));
                page.filter(|(_, entry)| entry.segment == self.done.segment).collect()
            };
            for (serial, entry) in page {
                bytes += record_bytes(entry.length);
                batch.push((serial, entry));
                if bytes >= BATCH_BYTES || batch.len() == BATCH_CHUNKS {
                    self.move_chunks(&std::mem::take(&mut batch))?;
                    if !(self.pace)(std::mem::take(&mut bytes)) {
                        return Ok(false);
                    }
                }
            }
            from = last.and_then(|serial| serial.0.checked_add(1));
        }
        self.move_chunks(&batch)?;
        Ok((self.pace)(bytes))
    }

    fn has_chunks(&self) -> bool {
        self.store.index().live_bytes(self.done.segment) > 0
    }

    fn move_chunks(&mut self, batch: &[(Serial, Entry)]) -> Result<(), StoreError> {
        let mut found: Vec<(Serial, Entry, ChunkId, AccountId, Vec<u8>)> = Vec::new();
        for (serial, entry) in batch {
            let mut bytes = Vec::new();
            match self.store.read_whole(*serial, *entry, &mut bytes) {
                Ok((id, account)) => found.push((*serial, *entry, id, account, bytes)),
                Err(error) => self.drop_if_damaged(*serial, *entry, error)?,
            }
        }
        let chunks = found.iter().map(|(serial, entry, id, account, bytes)| {
            (NewChunk { id: *id, serial: *serial, account: *account, bytes }, *entry)
        });
        let chunks: Vec<(NewChunk<'_>, Entry)> = chunks.collect();
        let mut claimed = Claimed::new(self.store);
        {
            let mut state = lock(&self.store.state);
            state.check()?;
            let index = self.store.index();
            for (chunk, entry) in &chunks {
                // One that another thread is at is looked at again in the next pass.
                let is_free = !state.claims.contains_key(&chunk.serial.0);
                if is_free && index.get(chunk.serial) == Some(*entry) {
                    claimed.claim(&mut state, chunk);
                }
            }
        }
        if claimed.bytes() == 0 {
            return Ok(());
        }
        self.done.copied_bytes += claimed.bytes();
        let ticket = self.store.write_claimed(&mut claimed)?;
        self.store.step("chunks are written");
        // Makes the copies those that are read, in one step with their end as claims.
        self.store.wait_durable(ticket)?;
        self.store.step("chunks are durable");
        Ok(())
    }

    fn drop_if_damaged(
        &mut self,
        serial: Serial,
        entry: Entry,
        error: StoreError,
    ) -> Result<(), StoreError> {
        if error.loss().is_none() && self.store.index().get(serial) == Some(entry) {
            return Err(error);
        }
        // What is whole now is copied in the next pass.
        let loss = self.store.verify_at(serial, entry).err().and_then(|error| error.loss());
        if let Some(loss) = loss.filter(|_| self.store.index().get(serial) == Some(entry)) {
            self.done.lost.extend(self.store.drop_lost(serial, entry, loss));
        }
        Ok(())
    }

    /// Copies the trash that is held, as records that are trash from the start.
    pub fn copy_trash(&mut self) -> Result<bool, StoreError> {
        let segment = self.done.segment;
        if self.store.index().remains.left(segment).held == 0 {
            return Ok(true);
        }
        let trash = self.remains(|place, remain| {
            let is_held = place.segment == segment && remain.state == State::Held;
            is_held.then_some(entry_of(place, remain))
        });
        for (serial, entry) in trash {
            let mut bytes = Vec::new();
            match self.store.read_whole(serial, entry, &mut bytes) {
                Ok((id, account)) => self.move_trash(serial, entry, id, account, &bytes)?,
                Err(_) if !self.is_trash(serial, entry) => {}
                Err(StoreError::Unreadable { .. }) => {
                    self.store.shun(segment);
                    return Ok(false);
                }
                Err(StoreError::Corrupt { .. }) => {
                    log::warn!("trash damaged, dropped serial={serial} segment={segment}");
                    self.store.index_mut().kill(serial, entry.place());
                }
                Err(error) => return Err(error),
            }
            if !(self.pace)(record_bytes(entry.length)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_trash(&self, serial: Serial, entry: Entry) -> bool {
        self.store.index().remains.trash_of(serial) == Some(entry)
    }

    fn move_trash(
        &mut self,
        serial: Serial,
        entry: Entry,
        id: ChunkId,
        account: AccountId,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let record = Record { serial, id, account, body: Body::Trashed { length: entry.length } };
        let written = self.store.write_burying(&record, bytes, entry.segment, |index| {
            (index.remains.trash_of(serial) == Some(entry)).then_some(Undo::Nothing)
        })?;
        if written.is_some() {
            self.done.copied_bytes += record_bytes(entry.length);
            self.store.step("trash is written");
        }
        Ok(())
    }

    /// Writes anew the tombstones on which records of other segments rest.
    pub fn copy_tombstones(&mut self) -> Result<bool, StoreError> {
        let segment = self.done.segment;
        if self.store.index().remains.left(segment).tombstones == 0 {
            return Ok(true);
        }
        let hidden = self.remains(|place, remain| {
            let rests_on_it = remain.tombstone == segment && place.segment != segment;
            rests_on_it.then_some(entry_of(place, remain))
        });
        let mut seen = BTreeSet::new();
        for (serial, entry) in hidden {
            if !seen.insert(serial) {
                continue;
            }
            if self.store.renew_tombstone(serial, entry, segment)? {
                self.done.copied_bytes += record_bytes(0);
                self.store.step("a tombstone is written");
            }
            if !(self.pace)(record_bytes(0)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn remains(
        &self,
        pick: impl Fn(Place, &super::remains::Remain) -> Option<Entry>,
    ) -> Vec<(Serial, Entry)> {
        self.store.pick_remains(pick)
    }
}

impl Store {
    /// The records that are no chunks any more and that `pick` takes; looked at in pages, so that
    /// nobody waits long for the index.
    pub(super) fn pick_remains(
        &self,
        pick: impl Fn(Place, &super::remains::Remain) -> Option<Entry>,
    ) -> Vec<(Serial, Entry)> {
        let mut picked = Vec::new();
        let mut after = (0, Place::FIRST);
        loop {
            let before = after;
            let index = self.index();
            for (serial, place, remain) in index.remains.page(after, PAGE_RECORDS) {
                after = (serial.0, place);
                picked.extend(pick(place, remain).map(|entry| (serial, entry)));
            }
            if after == before {
                return picked;
            }
        }
    }

    /// Writes a tombstone anew that stands in `segment` and hides the record of `entry` elsewhere;
    /// false if it is needed no more, or another thread is at the chunk.
    pub(super) fn renew_tombstone(
        &self,
        serial: Serial,
        entry: Entry,
        segment: u32,
    ) -> Result<bool, StoreError> {
        let trash = self.index().remains.trash_of(serial);
        let reason = if trash.is_some() { Reason::Removed } else { Reason::Purged };
        let hides = trash.unwrap_or(entry).place();
        let (id, account) = self.named_at(serial, trash.unwrap_or(entry));
        let record = Record { serial, id, account, body: Body::Tombstone { reason, hides } };
        let written = self.write_burying(&record, &[], segment, |index| {
            let mut remains = index.remains.of(serial);
            let is_needed = remains.any(|(_, remain)| remain.tombstone == segment);
            let is_same = index.get(serial).is_none() && index.remains.trash_of(serial) == trash;
            (is_needed && is_same).then_some(Undo::Nothing)
        })?;
        Ok(written.is_some())
    }
}
