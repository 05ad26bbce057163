//! Where each chunk stands, in memory.
//!
//! A map entry is 24 bytes. The standard library's B-tree puts at most 11 of them into a node and
//! leaves at least 6 in each that ascending serials fill: with the nodes above and the allocator's
//! own bytes that is at most 52 bytes a chunk, within the 64 that a node may use.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::ids::{ChunkId, Serial};

use super::format::{Body, Place, Reason, record_bytes};
use super::remains::{Remain, Remains, State};

/// One chunk of the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its serial.
    pub serial: Serial,
    /// Its size in bytes.
    pub length: u32,
    /// `fingerprint` of its id.
    pub fingerprint: u32,
}

/// The first four bytes of the digest, big-endian: enough to compare inventories, not to name a chunk.
pub fn fingerprint(id: &ChunkId) -> u32 {
    u32::from_be_bytes(*id.digest().first_chunk().expect("a digest has at least 20 bytes"))
}

/// Where a chunk stands. The full id stands in the record and is compared when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub segment: u32,
    pub offset: u32,
    pub length: u32,
    pub fingerprint: u32,
}

impl Entry {
    pub fn place(&self) -> Place {
        Place { segment: self.segment, offset: self.offset }
    }
}

/// A good record of a segment, as a hint lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub serial: Serial,
    pub offset: u32,
    pub fingerprint: u32,
    pub body: Body,
}

/// The chunks that can be read, by serial, and what stands on disk beside them.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: BTreeMap<u64, Entry>,
    bytes: u64,
    /// The bytes of the records of each segment that are in `entries`.
    live: BTreeMap<u32, u64>,
    /// The records that are not in `entries` any more.
    pub remains: Remains,
}

impl Index {
    pub fn get(&self, serial: Serial) -> Option<Entry> {
        self.entries.get(&serial.0).copied()
    }

    /// Makes this the chunk of that serial. All earlier records of it are dead from now on, and need
    /// no tombstone as long as this one lives.
    pub fn insert(&mut self, serial: Serial, entry: Entry) {
        self.remains.take(serial, entry.place());
        if let Some(before) = self.entries.insert(serial.0, entry) {
            self.uncount(&before);
            if before.place() != entry.place() {
                self.remains.add(serial, before, State::Dead, 0);
            }
        }
        self.bytes += u64::from(entry.length);
        *self.live.entry(entry.segment).or_default() += record_bytes(entry.length);
        self.remains.change(serial, |remain| {
            remain.state = State::Dead;
            remain.tombstone = 0;
        });
    }

    /// Takes the chunk out if it stands at `place`; its record stays, as `state`, and `cover` is yet
    /// to be called for it.
    pub fn remove(&mut self, serial: Serial, place: Place, state: State) -> Option<Entry> {
        let entry = self.get(serial).filter(|entry| entry.place() == place)?;
        self.entries.remove(&serial.0);
        self.uncount(&entry);
        self.remains.add(serial, entry, state, 0);
        Some(entry)
    }

    /// Puts a chunk back whose tombstone could not be written.
    pub fn put_back(&mut self, serial: Serial, entry: Entry) {
        self.insert(serial, entry);
    }

    /// Makes the trash that stands at `place` dead.
    pub fn kill(&mut self, serial: Serial, place: Place) {
        if let Some(remain) = self.remains.take(serial, place) {
            self.remains.set(serial, place, Remain { state: State::Dead, ..remain });
        }
    }

    /// A tombstone of the serial stands in `segment`, after all records of it. One that is not of a
    /// removed chunk leaves no trash.
    pub fn cover(&mut self, serial: Serial, segment: u32, reason: Reason) {
        self.remains.change(serial, |remain| {
            remain.tombstone = segment;
            if reason != Reason::Removed {
                remain.state = State::Purged;
            }
        });
    }

    /// The trash of the serial stands at the place of `entry` now, in a record that is its own
    /// tombstone. It stays as old as it was, and dead if it died meanwhile.
    pub fn move_trash(&mut self, serial: Serial, entry: Entry) {
        let before = self.remains.of(serial).find(|(_, remain)| remain.state.is_trash());
        let before = before.map(|(_, remain)| *remain);
        self.remains.change(serial, |remain| {
            remain.state = State::Dead;
            remain.tombstone = entry.segment;
        });
        self.remains.add(serial, entry, State::Dead, entry.segment);
        if let Some(before) = before {
            let moved = Remain { tombstone: entry.segment, ..before };
            self.remains.set(serial, entry.place(), moved);
        }
    }

    /// Does what a record says, when records are replayed in the order of their places.
    pub fn replay(&mut self, segment: u32, listed: &Listed) {
        let Listed { serial, offset, fingerprint, body } = *listed;
        let entry = Entry { segment, offset, length: body.length(), fingerprint };
        match body {
            Body::Chunk { .. } => self.insert(serial, entry),
            Body::Trashed { .. } => {
                self.insert(serial, entry);
                self.remove(serial, entry.place(), State::Held);
                self.cover(serial, segment, Reason::Removed);
            }
            Body::Tombstone { reason, .. } => {
                if let Some(entry) = self.get(serial) {
                    self.remove(serial, entry.place(), State::Held);
                }
                self.cover(serial, segment, reason);
            }
        }
    }

    fn uncount(&mut self, entry: &Entry) {
        self.bytes -= u64::from(entry.length);
        if let Some(live) = self.live.get_mut(&entry.segment) {
            *live -= record_bytes(entry.length);
        }
    }

    /// Forgets a segment that is gone, in which no chunk lives.
    pub fn forget(&mut self, segment: u32) {
        self.live.remove(&segment);
        self.remains.forget(segment);
    }

    /// The bytes of the live records of a segment.
    pub fn live_bytes(&self, segment: u32) -> u64 {
        self.live.get(&segment).copied().unwrap_or(0)
    }

    /// The bytes of all live records.
    pub fn record_bytes(&self) -> u64 {
        self.live.values().sum()
    }

    /// At most `limit` chunks from serial `from` on: a page of all of them.
    pub fn page(&self, from: u64, limit: usize) -> impl Iterator<Item = (Serial, Entry)> {
        let page = self.entries.range(from..).take(limit);
        page.map(|(serial, entry)| (Serial(*serial), *entry))
    }

    /// The number of chunks.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The bytes of all chunks together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// At most `limit` chunks of the range, in the order of their serials.
    pub fn holdings(&self, range: RangeInclusive<Serial>, limit: usize) -> Vec<Held> {
        if range.is_empty() {
            return Vec::new();
        }
        let range = range.start().0..=range.end().0;
        let held = self.entries.range(range).take(limit).map(|(serial, entry)| Held {
            serial: Serial(*serial),
            length: entry.length,
            fingerprint: entry.fingerprint,
        });
        held.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_index_takes_24_bytes_with_its_serial() {
        assert_eq!(size_of::<(u64, Entry)>(), 24);
        // 6 of 11 places filled: 7 entries to a leaf and its place above, 7 leaves to the node above.
        let leaf = 11 * size_of::<(u64, Entry)>() + 12 + 16;
        let above = leaf + 12 * size_of::<usize>();
        assert!(leaf.div_ceil(7) + above.div_ceil(7 * 6) <= 64);
    }

    #[test]
    fn a_tombstone_takes_away_all_earlier_records_of_its_serial_and_no_later_one() {
        let mut index = Index::default();
        let listed =
            |serial, offset, body| Listed { serial: Serial(serial), offset, fingerprint: 1, body };
        let chunk = Body::Chunk { length: 10 };
        let hides = Place { segment: 1, offset: 8400 };
        let tombstone = Body::Tombstone { reason: Reason::Removed, hides };
        index.replay(1, &listed(7, 8192, chunk));
        index.replay(1, &listed(7, 8400, chunk));
        index.replay(1, &listed(8, 8600, tombstone));
        assert_eq!((index.len(), index.bytes(), index.live_bytes(1)), (1, 10, 96));
        index.replay(2, &listed(7, 8192, tombstone));
        assert_eq!((index.len(), index.bytes(), index.live_bytes(1)), (0, 0, 0));
        let trash = index.remains.trash_of(Serial(7)).unwrap();
        assert_eq!((trash.place(), index.remains.left(2).tombstones), (hides, 2));
        index.replay(3, &listed(7, 8192, chunk));
        assert_eq!((index.len(), index.remains.trash_of(Serial(7))), (1, None));
        assert_eq!(index.remains.left(2).tombstones, 0);
    }

    #[test]
    fn trash_that_was_moved_stays_trash_and_needs_no_other_tombstone() {
        let mut index = Index::default();
        let listed = |offset, body| Listed { serial: Serial(7), offset, fingerprint: 1, body };
        let hides = Place { segment: 1, offset: 8192 };
        index.replay(1, &listed(8192, Body::Chunk { length: 10 }));
        index.replay(2, &listed(8192, Body::Tombstone { reason: Reason::Removed, hides }));
        index.replay(3, &listed(8192, Body::Trashed { length: 10 }));
        assert_eq!((index.len(), index.remains.left(2).tombstones), (0, 0));
        assert_eq!(index.remains.trash_of(Serial(7)).map(|entry| entry.segment), Some(3));
        index.forget(1);
        assert_eq!((index.remains.left(3).tombstones, index.remains.left(3).held), (0, 96));
    }
}
