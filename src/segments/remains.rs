//! Records that stand on disk and whose chunk is no more: trash, which can be restored, and what is
//! dead. All of them are known here, for two reasons: to say how much of a segment is worth keeping,
//! and to keep each tombstone for as long as a record stands that it hides.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::ids::Serial;

use super::format::{Place, RECORD_HEADER_BYTES, record_bytes};
use super::index::{Entry, Held};

/// The parts in which the time of holding trash passes: trash is held up to one part longer.
const HOLD_TICKS: u32 = 64;

/// What became of a chunk whose record still stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Trash that is not to be given up yet.
    Held,
    /// Trash that is given up as soon as its space is needed.
    Due,
    /// Damaged, or superseded by a later record of its serial: not read again, but it may be trash
    /// once more when the segments are replayed without that record.
    Dead,
    /// Hidden by a durable tombstone that leaves no trash: never read again.
    Purged,
}

impl State {
    /// Can be restored.
    pub fn is_trash(self) -> bool {
        matches!(self, State::Held | State::Due)
    }
}

/// One such record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remain {
    pub length: u32,
    pub fingerprint: u32,
    /// When it was removed, in ticks since the store was opened.
    pub since: u32,
    /// Ascends in the order of removal.
    pub order: u32,
    /// The segment of the durable tombstone that hides it; 0 without one, or where it needs none
    /// because a later record of the chunk lives.
    pub tombstone: u32,
    pub state: State,
}

/// What a segment holds that is not alive and must not be thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// The bytes of trash that is held.
    pub held: u64,
    /// The bytes of trash that may be given up.
    pub due: u64,
    /// The tombstones that hide records of other segments, one for each such record.
    pub tombstones: u64,
    /// The order of its first removal.
    pub oldest: u32,
}

impl Default for Left {
    fn default() -> Left {
        Left { held: 0, due: 0, tombstones: 0, oldest: u32::MAX }
    }
}

impl Left {
    /// The bytes of its tombstones that are needed.
    pub fn tombstone_bytes(&self) -> u64 {
        self.tombstones * RECORD_HEADER_BYTES as u64
    }
}

/// The records whose chunk is no more, by serial and place.
#[derive(Debug, Default)]
pub(super) struct Remains {
    records: BTreeMap<(u64, Place), Remain>,
    left: BTreeMap<u32, Left>,
    now: u32,
    next_order: u32,
    /// No trash that is held was removed before this tick.
    earliest: u32,
}

impl Remains {
    /// Adds the record of `entry`, which was the chunk until now.
    pub fn add(&mut self, serial: Serial, entry: Entry, state: State, tombstone: u32) {
        let Entry { length, fingerprint, .. } = entry;
        let (since, order) = (self.now, self.next_order);
        self.next_order = self.next_order.saturating_add(1);
        self.set(
            serial,
            entry.place(),
            Remain { length, fingerprint, since, order, tombstone, state },
        );
    }

    /// Puts a record in, in the place of what was known of it before.
    pub fn set(&mut self, serial: Serial, place: Place, remain: Remain) {
        self.take(serial, place);
        if remain.state == State::Held {
            self.earliest = self.earliest.min(remain.since);
        }
        self.count(place, &remain, true);
        self.records.insert((serial.0, place), remain);
    }

    /// Takes one out.
    pub fn take(&mut self, serial: Serial, place: Place) -> Option<Remain> {
        let remain = self.records.remove(&(serial.0, place))?;
        self.count(place, &remain, false);
        Some(remain)
    }

    /// Those of one serial.
    pub fn of(&self, serial: Serial) -> impl Iterator<Item = (Place, &Remain)> {
        let range = (serial.0, Place::FIRST)..=(serial.0, Place::LAST);
        self.records.range(range).map(|((_, place), remain)| (*place, remain))
    }

    /// Changes all of one serial.
    pub fn change(&mut self, serial: Serial, change: impl Fn(&mut Remain)) {
        let places: Vec<Place> = self.of(serial).map(|(place, _)| place).collect();
        for place in places {
            if let Some(mut remain) = self.take(serial, place) {
                change(&mut remain);
                self.set(serial, place, remain);
            }
        }
    }

    /// The record from which a chunk can be restored.
    pub fn trash_of(&self, serial: Serial) -> Option<Entry> {
        let mut trash = self.of(serial).filter(|(_, remain)| remain.state.is_trash());
        trash.next().map(|(place, remain)| entry_of(place, remain))
    }

    /// The trash of the serial; without any, a record that is dead here, but may be trash when the
    /// segments are replayed: the later one that superseded it can be gone by then.
    pub fn restorable(&self, serial: Serial) -> Option<Entry> {
        let mut dead = self.of(serial).filter(|(_, remain)| remain.state == State::Dead);
        self.trash_of(serial).or_else(|| dead.next().map(|(place, remain)| entry_of(place, remain)))
    }

    /// At most `limit` pieces of trash with serials in `range`, in the order of their serials.
    pub fn trash(&self, range: RangeInclusive<Serial>, limit: usize) -> Vec<Held> {
        if range.is_empty() {
            return Vec::new();
        }
        let range = (range.start().0, Place::FIRST)..=(range.end().0, Place::LAST);
        let trash = self.records.range(range).filter(|(_, remain)| remain.state.is_trash());
        let trash = trash.take(limit).map(|((serial, _), remain)| Held {
            serial: Serial(*serial),
            length: remain.length,
            fingerprint: remain.fingerprint,
        });
        trash.collect()
    }

    /// At most `limit` records after `after`: the next page of all of them.
    pub fn page(
        &self,
        after: (u64, Place),
        limit: usize,
    ) -> impl Iterator<Item = (Serial, Place, &Remain)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let page = self.records.range((Excluded(after), Unbounded)).take(limit);
        page.map(|((serial, place), remain)| (Serial(*serial), *place, remain))
    }

    /// Notes what time it is, and makes trash due that was held for `hold`, if there is any.
    ///
    /// A walk over all, so it is made at most once for each tick.
    pub fn pass_time(&mut self, now_ms: u64, hold_ms: u64) {
        let tick_ms = (hold_ms / u64::from(HOLD_TICKS)).max(1);
        self.now = u32::try_from(now_ms / tick_ms).unwrap_or(u32::MAX);
        let hold = u32::try_from(hold_ms.div_ceil(tick_ms)).unwrap_or(u32::MAX);
        if u64::from(self.earliest) + u64::from(hold) >= u64::from(self.now) {
            return;
        }
        let (now, mut earliest) = (self.now, self.now);
        for ((_, place), remain) in &mut self.records {
            if remain.state != State::Held {
                continue;
            }
            if u64::from(remain.since) + u64::from(hold) >= u64::from(now) {
                earliest = earliest.min(remain.since);
                continue;
            }
            remain.state = State::Due;
            let left = self.left.entry(place.segment).or_default();
            left.held -= record_bytes(remain.length);
            left.due += record_bytes(remain.length);
        }
        self.earliest = earliest;
    }

    /// What a segment holds that is not alive and is to be kept.
    pub fn left(&self, segment: u32) -> Left {
        self.left.get(&segment).copied().unwrap_or_default()
    }

    /// The bytes of all trash: held, and due.
    pub fn trash_bytes(&self) -> (u64, u64) {
        self.left.values().fold((0, 0), |(held, due), left| (held + left.held, due + left.due))
    }

    /// Makes the trash of a segment dead that is due: the segment is about to go.
    pub fn give_up(&mut self, segment: u32) {
        if let Some(left) = self.left.get_mut(&segment).filter(|left| left.due > 0) {
            left.due = 0;
            for ((_, place), remain) in &mut self.records {
                if place.segment == segment && remain.state == State::Due {
                    remain.state = State::Dead;
                }
            }
        }
    }

    /// Forgets the records of a segment, which is gone for good.
    pub fn forget(&mut self, segment: u32) {
        self.records.retain(|(_, place), _| place.segment != segment);
        self.left.remove(&segment);
        // A tombstone that hid the records of that segment alone is needed no longer.
        let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
        for ((_, place), remain) in &self.records {
            if is_elsewhere(place, remain) {
                *needed.entry(remain.tombstone).or_default() += 1;
            }
        }
        for (segment, left) in &mut self.left {
            left.tombstones = needed.get(segment).copied().unwrap_or(0);
        }
    }

    fn count(&mut self, place: Place, remain: &Remain, is_added: bool) {
        let add = |to: &mut u64, much: u64| *to = if is_added { *to + much } else { *to - much };
        let left = self.left.entry(place.segment).or_default();
        left.oldest = left.oldest.min(remain.order);
        match remain.state {
            State::Held => add(&mut left.held, record_bytes(remain.length)),
            State::Due => add(&mut left.due, record_bytes(remain.length)),
            State::Dead | State::Purged => {}
        }
        if is_elsewhere(&place, remain) {
            add(&mut self.left.entry(remain.tombstone).or_default().tombstones, 1);
        }
    }
}

/// True if the record's tombstone must outlive the tombstone's segment.
fn is_elsewhere(place: &Place, remain: &Remain) -> bool {
    remain.tombstone != 0 && remain.tombstone != place.segment
}

/// Where a record stands, in the form of one that is alive.
pub(super) fn entry_of(place: Place, remain: &Remain) -> Entry {
    let Place { segment, offset } = place;
    Entry { segment, offset, length: remain.length, fingerprint: remain.fingerprint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_record_takes_40_bytes_with_its_serial_and_place() {
        assert_eq!(size_of::<((u64, Place), Remain)>(), 40);
    }

    #[test]
    fn trash_is_due_only_after_the_time_for_which_it_is_held() {
        let entry = |offset| Entry { segment: 1, offset, length: 100, fingerprint: 7 };
        let mut remains = Remains::default();
        let hold = 3_600_000;
        remains.add(Serial(1), entry(8192), State::Held, 2);
        remains.pass_time(hold / 2, hold);
        remains.add(Serial(2), entry(9000), State::Held, 2);
        let size = record_bytes(100);
        remains.pass_time(hold, hold);
        assert_eq!(remains.trash_bytes(), (2 * size, 0));
        remains.pass_time(hold + 120_000, hold);
        assert_eq!(remains.trash_bytes(), (size, size));
        remains.pass_time(hold * 3 / 2, hold);
        assert_eq!(remains.trash_bytes(), (size, size));
        remains.pass_time(2 * hold, hold);
        assert_eq!((remains.trash_bytes(), remains.left(2).tombstones), ((0, 2 * size), 2));
        assert_eq!(remains.trash(Serial(0)..=Serial(9), 9).len(), 2);
        remains.give_up(1);
        assert!(remains.trash(Serial(0)..=Serial(9), 9).is_empty());
        remains.forget(1);
        assert_eq!((remains.left(1), remains.left(2).tombstones), (Left::default(), 0));
    }
}
