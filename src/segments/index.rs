//! Where each chunk stands, in memory.
//!
//! A map entry is 24 bytes. The standard library's B-tree puts at most 11 of them into a node and
//! leaves at least 6 in each that ascending serials fill: with the nodes above and the allocator's
//! own bytes that is at most 52 bytes a chunk, within the 64 that a node may use.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::ids::{ChunkId, Serial};

use super::format::{Body, Place};

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

/// The chunks that can be read, by serial.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: BTreeMap<u64, Entry>,
    bytes: u64,
}

impl Index {
    pub fn get(&self, serial: Serial) -> Option<Entry> {
        self.entries.get(&serial.0).copied()
    }

    pub fn insert(&mut self, serial: Serial, entry: Entry) {
        self.bytes += u64::from(entry.length);
        if let Some(before) = self.entries.insert(serial.0, entry) {
            self.bytes -= u64::from(before.length);
        }
    }

    /// Takes the chunk out if it stands at `place`.
    pub fn remove(&mut self, serial: Serial, place: Place) -> Option<Entry> {
        let entry = self.get(serial).filter(|entry| entry.place() == place)?;
        self.entries.remove(&serial.0);
        self.bytes -= u64::from(entry.length);
        Some(entry)
    }

    /// Does what a record says, when records are replayed in the order of their places.
    pub fn replay(&mut self, segment: u32, listed: &Listed) {
        match listed.body {
            Body::Chunk { length } => {
                let Listed { offset, fingerprint, .. } = *listed;
                self.insert(listed.serial, Entry { segment, offset, length, fingerprint });
            }
            Body::Tombstone { hides, .. } => {
                self.remove(listed.serial, hides);
            }
        }
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
    fn a_tombstone_takes_away_only_the_record_at_the_place_that_it_names() {
        let mut index = Index::default();
        let chunk = |offset| Listed {
            serial: Serial(7),
            offset,
            fingerprint: 1,
            body: Body::Chunk { length: 10 },
        };
        let tombstone = |offset| Listed {
            serial: Serial(7),
            offset: 9000,
            fingerprint: 1,
            body: Body::Tombstone {
                reason: super::super::format::Reason::Damaged,
                hides: Place { segment: 1, offset },
            },
        };
        index.replay(1, &chunk(8192));
        index.replay(1, &tombstone(8400));
        assert_eq!((index.len(), index.bytes()), (1, 10));
        index.replay(1, &chunk(8800));
        index.replay(1, &tombstone(8192));
        assert_eq!((index.len(), index.bytes()), (1, 10));
        index.replay(1, &tombstone(8800));
        assert_eq!((index.len(), index.bytes()), (0, 0));
    }
}
