//! Taking chunks out and bringing them back: tombstones, trash, and its restoring.

use std::sync::atomic::Ordering;

use crate::ids::{AccountId, ChunkId, Serial};

use super::append::Claimed;
use super::error::StoreError;
use super::format::{Body, Reason, Record, known_part, record_bytes};
use super::index::Entry;
use super::remains;
use super::store::{Claim, NewChunk, Store, Ticket, lock};

impl Store {
    /// Takes a chunk out: at once for readers, for good once `wait_durable` returned for the ticket.
    /// `Ok(None)` if it is not held, which is a success too. A store of it that is under way is
    /// waited for. Needs no free space but the reserve.
    ///
    /// The chunk becomes trash, which `restore` brings back; with `purge` it does not, and what is
    /// trash already can be restored no more.
    pub fn remove(&self, serial: Serial, purge: bool) -> Result<Option<Ticket>, StoreError> {
        let reason = if purge { Reason::Purged } else { Reason::Removed };
        loop {
            let found = {
                let _state = self.unclaimed(serial)?;
                let index = self.index();
                let trash = || index.remains.trash_of(serial).filter(|_| purge);
                index.get(serial).or_else(trash)
            };
            let Some(entry) = found else { return Ok(None) };
            if let Some(ticket) = self.bury(serial, entry, reason)? {
                return Ok(Some(ticket));
            }
        }
    }

    /// Takes out a chunk whose reading said `Corrupt`, so that it is never tried again. Reads it once
    /// more: `Ok(None)` if it is whole or gone, as when another thread was faster.
    pub fn drop_damaged(&self, serial: Serial, id: &ChunkId) -> Result<Option<Ticket>, StoreError> {
        loop {
            let entry = self.entry(serial, id)?;
            match self.verify_at(serial, entry) {
                Ok(_) => return Ok(None),
                Err(StoreError::Corrupt { .. }) => {}
                Err(_) if self.has_moved(serial, entry) => continue,
                Err(error) => return Err(error),
            }
            if let Some(ticket) = self.bury(serial, entry, Reason::Damaged)? {
                return Ok(Some(ticket));
            }
        }
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
        let hides = entry.place();
        let (id, account) = self.named_at(serial, entry);
        let record = Record { serial, id, account, body: Body::Tombstone { reason, hides } };
        let bytes = record_bytes(0);
        let (extent, was_live) = {
            let room = self.room_for(bytes);
            let mut state = match room {
                Ok(state) => state,
                Err(error) => {
                    // A damaged chunk must go even if nothing can be written any more.
                    if reason == Reason::Damaged {
                        self.take_out(serial, entry, reason);
                    }
                    return Err(error);
                }
            };
            if state.claims.contains_key(&serial.0) {
                drop(state);
                drop(self.unclaimed(serial)?);
                return Ok(None);
            }
            // In one step with the tombstone's place: a chunk stored anew under this serial stands
            // after it, so that the tombstone can never be taken for that one's.
            let Some(was_live) = self.take_out(serial, entry, reason) else { return Ok(None) };
            state.claims.insert(serial.0, Claim::Burying { segment: entry.segment });
            state.used += bytes;
            (self.take_extent(&mut state, [0]), was_live)
        };
        let written = extent.write(&[(record, &[])]);
        if written.is_err() {
            let mut state = lock(&self.state);
            state.used -= bytes;
            if was_live && reason != Reason::Damaged {
                self.index_mut().put_back(serial, entry);
            }
            state.claims.remove(&serial.0);
            self.changed.notify_all();
        }
        written.map(Some)
    }

    /// Takes the chunk, or the trash, out of what can be read or restored if it stands where `entry`
    /// says, and tells which of the two it was.
    fn take_out(&self, serial: Serial, entry: Entry, reason: Reason) -> Option<bool> {
        let mut index = self.index_mut();
        let state = match reason {
            Reason::Removed => remains::State::Held,
            Reason::Damaged | Reason::Purged => remains::State::Dead,
        };
        if index.remove(serial, entry.place(), state).is_some() {
            if reason == Reason::Damaged {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return Some(true);
        }
        let is_trash = index.remains.trash_of(serial) == Some(entry);
        if is_trash && reason != Reason::Removed {
            index.kill(serial, entry.place());
            return Some(false);
        }
        None
    }

    /// What the record says of the chunk's id and owner; what the index knows of it if the header
    /// cannot be read any more.
    fn named_at(&self, serial: Serial, entry: Entry) -> (ChunkId, AccountId) {
        match self.stored_at(serial, entry) {
            Ok(stored) => (stored.id, stored.account),
            Err(_) => (known_part(entry.fingerprint), AccountId(0)),
        }
    }
}
