//! How many chunks are not as they should be, and in what way. What the last survey found is kept
//! up to date as chunks are judged: known chunks one by one, those beyond the bound as sums.

use std::collections::HashMap;

use crate::ids::Serial;

/// How many chunks are known one by one.
const MAX_KNOWN: usize = 65_536;

/// What is wrong with a chunk's copies. Copies count where nodes are alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Fewer copies than wanted, and more than one.
    Few,
    /// One copy, where more are wanted.
    Single,
    /// None, while nodes that are away may have some.
    Unreadable,
    /// No node has one, as far as the books know.
    Lost,
    /// Enough, but on a node that leaves.
    Leaving,
    /// More copies than wanted.
    Surplus,
}

const TROUBLES: usize = 6;

/// A chunk that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Troubled {
    pub trouble: Trouble,
    /// Copies that are missing, or too many.
    pub copies: u8,
    pub length: u32,
}

/// Chunks, and the copies and bytes that are missing of them or too many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub chunks: u64,
    pub copies: u64,
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, chunk: Troubled) {
        self.chunks += 1;
        self.copies += u64::from(chunk.copies);
        self.bytes += u64::from(chunk.copies) * u64::from(chunk.length);
    }

    fn take(&mut self, chunk: Troubled) {
        let bytes = u64::from(chunk.copies) * u64::from(chunk.length);
        self.chunks = self.chunks.saturating_sub(1);
        self.copies = self.copies.saturating_sub(u64::from(chunk.copies));
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// The counts.
#[derive(Debug, Default)]
pub struct Census {
    /// With the count in which each was seen last.
    known: HashMap<Serial, (Troubled, u64)>,
    /// Sums over `known`, and over the others.
    near: [Tally; TROUBLES],
    beyond: [Tally; TROUBLES],
    /// What the count that goes on has found beyond `known` so far.
    counting: [Tally; TROUBLES],
    count: u64,
    /// Chunks beyond those known one by one were judged since: their sums are too high.
    is_stale: bool,
}

impl Census {
    /// A count of all chunks begins. What is known from the one before stays until it ends.
    pub fn begin(&mut self) {
        self.count += 1;
        self.counting = Default::default();
        self.is_stale = false;
    }

    /// The count has come to this chunk.
    pub fn counted(&mut self, serial: Serial, found: Option<Troubled>) {
        if !self.set(serial, found)
            && let Some(chunk) = found
        {
            self.counting[chunk.trouble as usize].add(chunk);
        }
    }

    /// The count has come to its end: what it did not find is no more.
    pub fn end(&mut self) {
        let (count, near) = (self.count, &mut self.near);
        self.known.retain(|_, (chunk, seen)| {
            let is_there = *seen >= count;
            if !is_there {
                near[chunk.trouble as usize].take(*chunk);
            }
            is_there
        });
        self.beyond = std::mem::take(&mut self.counting);
    }

    /// The chunk was judged, outside of a count.
    pub fn judged(&mut self, serial: Serial, found: Option<Troubled>) {
        self.is_stale |= self.has_more() && !self.known.contains_key(&serial);
        self.set(serial, found);
    }

    /// True when all chunks are to be counted anew, since the sums cannot be kept up to date.
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// The chunk was found again, and is known from now on as far as there is room.
    pub fn taken_in(&mut self, serial: Serial, chunk: Troubled) {
        let is_new = !self.known.contains_key(&serial);
        if self.set(serial, Some(chunk)) && is_new {
            self.beyond[chunk.trouble as usize].take(chunk);
        }
    }

    /// True when there are chunks that are not known one by one.
    pub fn has_more(&self) -> bool {
        self.beyond.iter().any(|tally| tally.chunks > 0)
    }

    /// How many there are with this trouble.
    pub fn tally(&self, trouble: Trouble) -> Tally {
        let (near, beyond) = (self.near[trouble as usize], self.beyond[trouble as usize]);
        Tally {
            chunks: near.chunks + beyond.chunks,
            copies: near.copies + beyond.copies,
            bytes: near.bytes + beyond.bytes,
        }
    }

    /// Those with at most one copy that counts, as far as they are known one by one.
    pub fn at_risk(&self) -> impl Iterator<Item = Serial> {
        let is_at_risk = |chunk: &Troubled| match chunk.trouble {
            Trouble::Single | Trouble::Unreadable | Trouble::Lost => true,
            Trouble::Few | Trouble::Leaving | Trouble::Surplus => false,
        };
        let at_risk = self.known.iter().filter(move |(_, (chunk, _))| is_at_risk(chunk));
        at_risk.map(|(serial, _)| *serial)
    }

    /// What is known of one chunk.
    pub fn known(&self, serial: Serial) -> Option<Troubled> {
        self.known.get(&serial).map(|(chunk, _)| *chunk)
    }

    /// `false` when the chunk is in trouble and there is no room to know it.
    fn set(&mut self, serial: Serial, found: Option<Troubled>) -> bool {
        if let Some((before, _)) = self.known.remove(&serial) {
            self.near[before.trouble as usize].take(before);
        }
        let Some(chunk) = found else { return true };
        if self.known.len() >= MAX_KNOWN {
            return false;
        }
        self.known.insert(serial, (chunk, self.count));
        self.near[chunk.trouble as usize].add(chunk);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single() -> Option<Troubled> {
        Some(Troubled { trouble: Trouble::Single, copies: 2, length: 5 })
    }

    fn singles(census: &Census) -> (u64, u64) {
        let tally = census.tally(Trouble::Single);
        (tally.chunks, tally.bytes)
    }

    fn count(census: &mut Census, serials: std::ops::Range<u64>) {
        census.begin();
        serials.for_each(|serial| census.counted(Serial(serial), single()));
        census.end();
    }

    #[test]
    fn the_counts_follow_each_chunk_that_is_judged_down_to_nothing() {
        let mut census = Census::default();
        count(&mut census, 0..3);
        assert_eq!(singles(&census), (3, 30));
        census.judged(Serial(1), Some(Troubled { trouble: Trouble::Few, copies: 1, length: 5 }));
        assert_eq!((singles(&census).0, census.tally(Trouble::Few).bytes), (2, 5));
        assert!(!census.is_stale());
        (0..3).for_each(|serial| census.judged(Serial(serial), None));
        assert_eq!((singles(&census), census.tally(Trouble::Few).chunks), ((0, 0), 0));
        census.judged(Serial(9), single());
        assert_eq!(singles(&census), (1, 10));
    }

    #[test]
    fn a_count_forgets_what_it_does_not_find() {
        let mut census = Census::default();
        count(&mut census, 0..3);
        census.begin();
        census.counted(Serial(2), single());
        assert_eq!(singles(&census).0, 3, "until the count is over");
        census.judged(Serial(9), single());
        census.end();
        assert_eq!(singles(&census).0, 2);
    }

    #[test]
    fn chunks_beyond_the_bound_are_counted_and_known_as_room_comes() {
        let mut census = Census::default();
        let all = MAX_KNOWN as u64 + 10;
        count(&mut census, 0..all);
        assert_eq!((singles(&census), census.has_more()), ((all, all * 10), true));
        let beyond: Vec<u64> =
            (0..all).filter(|&serial| census.known(Serial(serial)).is_none()).collect();
        assert_eq!(beyond.len(), 10);
        for serial in 0..all {
            if !beyond.contains(&serial) {
                census.judged(Serial(serial), None);
            }
        }
        assert_eq!(singles(&census).0, 10);
        for serial in beyond {
            census.taken_in(Serial(serial), single().expect("it is one"));
            census.judged(Serial(serial), None);
        }
        assert_eq!((singles(&census), census.has_more()), ((0, 0), false));
    }

    #[test]
    fn sums_that_cannot_be_kept_up_to_date_ask_for_a_new_count() {
        let mut census = Census::default();
        count(&mut census, 0..MAX_KNOWN as u64 + 10);
        census.judged(Serial(1 << 40), None);
        assert!(census.is_stale());
        count(&mut census, 0..2);
        assert!(!census.is_stale() && singles(&census).0 == 2);
    }
}
