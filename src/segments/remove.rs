//! Taking chunks out and bringing them back: tombstones, trash, and its restoring.

use std::sync::atomic::Ordering;

use crate::ids::{AccountId, ChunkId, Serial};

use super::append::Claimed;
use super::error::{Loss, LostCopy, StoreError};
use super::format::{Body, Reason, Record, known_part, record_bytes};
use super::index::{Entry, Index};
use super::remains::State;
use super::store::{Claim, NewChunk, Store, Ticket, lock};

/// What is to be done if a tombstone cannot be written.
pub(super) enum Undo {
    Nothing,
    /// The chunk lives on.
    PutBack(Entry),
}

impl Store {
    /// Takes a chunk out: at once for readers, for good once `wait_durable` returned for the ticket.
    /// `Ok(None)` if it is not held, which is a success too. A store of it that is under way is
    /// waited for. Needs no free space but the reserve.
    ///
    /// The chunk becomes trash, which `restore` brings back; with `purge` it does not, and what is
    /// trash already, or would be after the next start, can be restored no more.
    pub fn remove(&self, serial: Serial, purge: bool) -> Result<Option<Ticket>, StoreError> {
        let reason = if purge { Reason::Purged } else { Reason::Removed };
        loop {
            let found = {
                let _state = self.unclaimed(serial)?;
                let index = self.index();
                let remain = || index.remains.restorable(serial).filter(|_| purge);
                index.get(serial).or_else(remain)
            };
            let Some(entry) = found else { return Ok(None) };
            if let Some(ticket) = self.bury(serial, entry, reason)? {
                return Ok(Some(ticket));
            }
        }
    }

    /// Takes out a chunk whose reading said `Corrupt` or `Unreadable`, so that it is not tried again.
    /// Reads it once more: `Ok(None)` if it is whole.
    ///
    /// What is damaged is gone. What the disk cannot read becomes trash, since bytes that it cannot
    /// read now it may read later: then `restore` brings it back.
    pub fn give_up(
        &self,
        serial: Serial,
        id: &ChunkId,
    ) -> Result<Option<(Ticket, Loss)>, StoreError> {
        loop {
            let entry = self.entry(serial, id)?;
            let loss = match self.verify_at(serial, entry) {
                Ok(_) => return Ok(None),
                Err(_) if self.has_moved(serial, entry) => continue,
                Err(error) => error.loss().ok_or(error)?,
            };
            if let Some(ticket) = self.bury_lost(serial, entry, loss)? {
                return Ok(Some((ticket, loss)));
            }
        }
    }

    /// Writes the tombstone of a chunk that is lost. It is held no more even if nothing can be written.
    fn bury_lost(
        &self,
        serial: Serial,
        entry: Entry,
        loss: Loss,
    ) -> Result<Option<Ticket>, StoreError> {
        let reason = match loss {
            Loss::Damaged => Reason::Damaged,
            Loss::Unreadable => Reason::Removed,
        };
        let written = self.bury(serial, entry, reason);
        if written.is_err() {
            self.take_out(&mut self.index_mut(), serial, entry, reason);
        }
        written
    }

    /// Brings a removed chunk back, from the trash: it can be read once `wait_durable` returned for
    /// the ticket. `Ok(None)` if it is not in the trash, or damaged there, and so is not any more.
    /// A chunk that is held already is a success.
    pub fn restore(&self, serial: Serial) -> Result<Option<Ticket>, StoreError> {
        loop {
            let trash = {
                let _state = self.unclaimed(serial)?;
                let index = self.index();
                if index.get(serial).is_some() {
                    return Ok(Some(Ticket(0)));
                }
                index.remains.trash_of(serial)
            };
            let Some(trash) = trash else { return Ok(None) };
            let is_trash_still = || self.index().remains.trash_of(serial) == Some(trash);
            let mut bytes = Vec::new();
            let (id, account) = match self.read_whole(serial, trash, &mut bytes) {
                Ok(head) => head,
                Err(_) if !is_trash_still() => continue,
                Err(StoreError::Corrupt { .. }) => {
                    log::warn!("trash damaged, dropped serial={serial} segment={}", trash.segment);
                    self.index_mut().kill(serial, trash.place());
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let chunk = NewChunk { id, serial, account, bytes: &bytes };
            let mut claimed = Claimed::new(self);
            {
                let mut state = lock(&self.state);
                state.check()?;
                if state.claims.contains_key(&serial.0) || !is_trash_still() {
                    continue;
                }
                claimed.claim(&mut state, &chunk);
            }
            self.check_offered(&lock(&self.state), claimed.bytes())?;
            self.meter.admit(claimed.bytes())?;
            return self.write_claimed(&mut claimed).map(Some);
        }
    }

    /// Writes a tombstone of the chunk, or of the trash, that stands where `entry` says; `Ok(None)` if
    /// it does not any more.
    pub(super) fn bury(
        &self,
        serial: Serial,
        entry: Entry,
        reason: Reason,
    ) -> Result<Option<Ticket>, StoreError> {
        // Trash is as old as its removal says.
        self.pass_time();
        let hides = entry.place();
        let (id, account) = self.named_at(serial, entry);
        let record = Record { serial, id, account, body: Body::Tombstone { reason, hides } };
        self.write_burying(&record, &[], entry.segment, |index| {
            self.take_out(index, serial, entry, reason)
        })
    }

    /// Writes a record that hides all earlier ones of its serial. `claim` is asked in one step with
    /// the record's place, so that a chunk stored anew under the serial stands after it: should it
    /// say `None`, or another thread be at the serial, which is then waited for, nothing is written.
    ///
    /// `segment` is that of the chunk which lives on if the write fails.
    pub(super) fn write_burying(
        &self,
        record: &Record,
        data: &[u8],
        segment: u32,
        claim: impl FnOnce(&mut Index) -> Option<Undo>,
    ) -> Result<Option<Ticket>, StoreError> {
        let (serial, length) = (record.serial, record.body.length());
        let bytes = record_bytes(length);
        let (extent, undo) = {
            let mut state = self.room_for(bytes)?;
            if state.claims.contains_key(&serial.0) {
                drop(state);
                drop(self.unclaimed(serial)?);
                return Ok(None);
            }
            let Some(undo) = claim(&mut self.index_mut()) else { return Ok(None) };
            state.claims.insert(serial.0, Claim::Burying { segment });
            state.used += bytes;
            (self.take_extent(&mut state, [length]), undo)
        };
        let written = extent.write(&[(*record, data)]);
        if written.is_err() {
            let mut state = lock(&self.state);
            state.used -= bytes;
            if let Undo::PutBack(entry) = undo {
                self.index_mut().put_back(serial, entry);
            }
            state.claims.remove(&serial.0);
            self.changed.notify_all();
        }
        written.map(Some)
    }

    /// Takes the chunk, or the trash, out of what can be read or restored if it stands where `entry`
    /// says, and tells what is to be done should its tombstone fail.
    fn take_out(
        &self,
        index: &mut Index,
        serial: Serial,
        entry: Entry,
        reason: Reason,
    ) -> Option<Undo> {
        let state = match reason {
            Reason::Removed => State::Held,
            Reason::Damaged | Reason::Purged => State::Dead,
        };
        if index.remove(serial, entry.place(), state).is_some() {
            if reason == Reason::Damaged {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return Some(Undo::Nothing);
            }
            return Some(Undo::PutBack(entry));
        }
        let is_restorable = index.remains.restorable(serial) == Some(entry);
        if is_restorable && reason == Reason::Purged {
            index.kill(serial, entry.place());
            return Some(Undo::Nothing);
        }
        None
    }

    /// Takes out a chunk that was found lost where `entry` says; `None` if it does not stand there any
    /// more. Goes by serial and place alone.
    pub(super) fn drop_lost(&self, serial: Serial, entry: Entry, loss: Loss) -> Option<LostCopy> {
        let id = self.stored_at(serial, entry).ok().map(|stored| stored.id);
        while self.index().get(serial) == Some(entry) {
            match self.bury_lost(serial, entry, loss) {
                Ok(Some(_)) => return Some(LostCopy { serial, id, loss }),
                Ok(None) => {}
                Err(error) => {
                    // It is held no more all the same, until the next start.
                    log::warn!("tombstone not written serial={serial} error={error}");
                    return Some(LostCopy { serial, id, loss });
                }
            }
        }
        None
    }

    /// What the record says of the chunk's id and owner; what the index knows of it if the header
    /// cannot be read any more.
    pub(super) fn named_at(&self, serial: Serial, entry: Entry) -> (ChunkId, AccountId) {
        match self.stored_at(serial, entry) {
            Ok(stored) => (stored.id, stored.account),
            Err(_) => (known_part(entry.fingerprint), AccountId(0)),
        }
    }
}
