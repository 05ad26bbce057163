//! Scrubbing: reading all that is held from the disk, in the order in which it stands there, and
//! mending what can be mended from what else is known.
//!
//! A chunk that is damaged is dropped, one that the disk cannot read put aside, and the caller told. A segment header is written anew, from
//! memory. Damage that may have hit a tombstone costs nothing, since every record that stands is in
//! the index with the segment of its tombstone: all tombstones of the segment that are needed are
//! written anew elsewhere, and the segment is compacted soon, which takes the damage away.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use crate::durable::{self, SyncPoint};
use crate::ids::{MAX_CHUNK_BYTES, Serial};

use super::error::{Loss, LostCopy, StoreError};
use super::file;
use super::format::{
    self, FIRST_RECORD_AT, Nonce, SECOND_HEADER_AT, SEGMENT_HEADER_BYTES, record_bytes,
};
use super::index::Entry;
use super::remains::entry_of;
use super::scan::{self, Bad};
use super::segment::path_of;
use super::store::{Failure, Store, lock};

/// The chunks that are looked at under one lock of the index.
const PAGE_CHUNKS: usize = 4096;

/// How far a scrub is. The default is the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubCursor {
    segment: u32,
    offset: u64,
}

impl ScrubCursor {
    /// The beginning of a segment, or of the next one that is there.
    pub fn at_segment(segment: u32) -> ScrubCursor {
        ScrubCursor { segment, offset: 0 }
    }

    /// The segment that is read next.
    pub fn segment(&self) -> u32 {
        self.segment
    }
}

/// What one step of a scrub did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// Where the next step begins; the beginning again after the last one.
    pub cursor: ScrubCursor,
    /// The bytes that were read.
    pub bytes: u64,
    /// The chunks found damaged or unreadable. They are held no more: to be reported lost.
    pub lost: Vec<LostCopy>,
    /// What was damaged and is no chunk: it was mended, or did not matter.
    pub healed: u64,
    /// All was read.
    pub is_end: bool,
}

/// A segment, as far as it can be scrubbed.
struct Part {
    number: u32,
    nonce: Nonce,
    /// Where its last record ends.
    end: u64,
    /// No write is under way before that.
    is_quiet: bool,
    is_spoiled: bool,
}

impl Store {
    /// Reads and checks about `budget_bytes` from the cursor on, from the disk and not from the page
    /// cache, and within one segment.
    ///
    /// A chunk that is held from the first step to the last is read once, wherever compaction puts
    /// it: what that copies it verifies. An error of one step is no reason not to try the next.
    pub fn scrub(&self, cursor: ScrubCursor, budget_bytes: u64) -> Result<ScrubStep, StoreError> {
        let Some(part) = self.part_from(cursor.segment) else {
            return Ok(ScrubStep { is_end: true, ..ScrubStep::default() });
        };
        let mut step = ScrubStep::default();
        let path = path_of(&self.directory, part.number);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Compaction was faster.
                step.cursor = ScrubCursor { segment: part.number + 1, offset: 0 };
                return Ok(step);
            }
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        let is_new = part.number != cursor.segment || cursor.offset < FIRST_RECORD_AT;
        let from = if is_new { FIRST_RECORD_AT } else { cursor.offset };
        if is_new {
            step.healed += self.mend_headers(&part, &file)?;
        }
        let length = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        let size = part.end.min(length);
        forget_cached(&file, from, budget_bytes + u64::from(MAX_CHUNK_BYTES));
        let scanned = scan::scan_on(&file, part.number, &part.nonce, from, size, budget_bytes);
        let (mut next, mut bad) = scanned.map_err(StoreError::io("read", &path))?;
        if next >= size && size < part.end {
            // The file became shorter, or a write failed that was to make it longer.
            let bytes = part.end - size;
            bad.push(Bad { offset: size, bytes, serial: None, is_unfinished: true });
            next = part.end;
        }
        forget_cached(&file, from, next.saturating_sub(from));
        step.bytes = next.min(size).saturating_sub(from);
        step.cursor = match next < part.end {
            true => ScrubCursor { segment: part.number, offset: next },
            false => ScrubCursor { segment: part.number + 1, offset: 0 },
        };
        if !bad.is_empty() {
            self.mend(&part, &bad, &mut step)?;
        }
        Ok(step)
    }

    /// The segment of that number, or the next one there is.
    fn part_from(&self, number: u32) -> Option<Part> {
        let state = lock(&self.state);
        let sealed = state.sealed.range(number..).next().map(|(number, sealed)| Part {
            number: *number,
            nonce: sealed.nonce,
            end: sealed.end,
            is_quiet: true,
            is_spoiled: sealed.is_spoiled,
        });
        let open = state.open.iter().find(|open| open.segment.number >= number);
        let open = open.map(|open| Part {
            number: open.segment.number,
            nonce: open.segment.nonce,
            end: open.end,
            is_quiet: open.in_flight == 0,
            is_spoiled: open.is_spoiled,
        });
        sealed.into_iter().chain(open).min_by_key(|part| part.number)
    }

    /// Writes those of the two headers anew that are not what they should be.
    fn mend_headers(&self, part: &Part, file: &File) -> Result<u64, StoreError> {
        let header = format::encode_segment_header(part.number, &part.nonce);
        let path = path_of(&self.directory, part.number);
        let mut healed = 0;
        forget_cached(file, 0, FIRST_RECORD_AT);
        for at in [0, SECOND_HEADER_AT] {
            let mut found = [0; SEGMENT_HEADER_BYTES];
            if file::read_exact_at(file, &mut found, at).is_ok() && found == header {
                continue;
            }
            log::warn!("segment header damaged, written anew path={} at={at}", path.display());
            file.write_all_at(&header, at).map_err(StoreError::io("write", &path))?;
            healed += 1;
        }
        if healed > 0
            && let Err(error) = durable::sync_file(file, SyncPoint::SegmentData)
        {
            let mut state = lock(&self.state);
            state.failed.get_or_insert(Failure { path, source: Arc::new(error) });
            state.check()?;
        }
        Ok(healed)
    }

    /// Does what is to be done about bad stretches of a segment.
    fn mend(&self, part: &Part, bad: &[Bad], step: &mut ScrubStep) -> Result<(), StoreError> {
        let chunks = self.chunks_within(part.number, bad);
        let remains = self.remains_within(part.number, bad);
        for (serial, entry, _) in &chunks {
            // Otherwise it is whole after all, or moved.
            if let Some(loss) = self.verify_at(*serial, *entry).err().and_then(|e| e.loss()) {
                step.lost.extend(self.drop_lost(*serial, *entry, loss));
            }
        }
        for (serial, entry, is_trash) in &remains {
            // What cannot be read stays: it is no worse than gone, and may be better.
            let is_damaged = |error: StoreError| error.loss() == Some(Loss::Damaged);
            if *is_trash && self.verify_at(*serial, *entry).is_err_and(is_damaged) {
                log::warn!("trash damaged, dropped serial={serial} segment={}", part.number);
                self.index_mut().kill(*serial, entry.place());
                step.healed += 1;
            }
        }
        let known: Vec<_> = chunks.into_iter().chain(remains).collect();
        let unknown: Vec<_> = bad.iter().filter(|bad| !is_explained(bad, &known)).collect();
        let damaged = unknown.iter().filter(|bad| !bad.is_unfinished).count() as u64;
        // Zeros are the place of a write that failed, or a tombstone that the disk lost.
        let has_tombstones = || !self.resting_on(part.number).is_empty();
        let is_new = part.is_quiet && !part.is_spoiled && !unknown.is_empty();
        if is_new && (damaged > 0 || has_tombstones()) {
            self.spoil(part.number);
            self.renew_tombstones(part.number)?;
            step.healed += damaged;
        }
        self.sync()
    }

    /// The live chunks in these stretches. A walk over all: damage is rare.
    fn chunks_within(&self, segment: u32, bad: &[Bad]) -> Vec<(Serial, Entry, bool)> {
        let mut found = Vec::new();
        let mut from = Some(0);
        while let Some(start) = from {
            let mut last = None;
            for (serial, entry) in self.index().page(start, PAGE_CHUNKS) {
                last = Some(serial.0);
                if entry.segment == segment && bad.iter().any(|bad| bad.holds(entry.offset)) {
                    found.push((serial, entry, false));
                }
            }
            from = last.and_then(|serial| serial.checked_add(1));
        }
        found
    }

    /// The records in these stretches that are no chunks any more, and whether they are trash.
    fn remains_within(&self, segment: u32, bad: &[Bad]) -> Vec<(Serial, Entry, bool)> {
        let within = |is_trash| {
            self.pick_remains(|place, remain| {
                let is_here = place.segment == segment && remain.state.is_trash() == is_trash;
                let is_hit = is_here && bad.iter().any(|bad| bad.holds(place.offset));
                is_hit.then_some(entry_of(place, remain))
            })
        };
        let with = |is_trash| move |(serial, entry)| (serial, entry, is_trash);
        within(true)
            .into_iter()
            .map(with(true))
            .chain(within(false).into_iter().map(with(false)))
            .collect()
    }

    /// Lets nothing more be appended to the segment, and compaction take it soon.
    fn spoil(&self, segment: u32) {
        let mut state = lock(&self.state);
        if let Some(open) = state.open.iter_mut().find(|open| open.segment.number == segment) {
            open.is_spoiled = true;
        } else if let Some(sealed) = state.sealed.get_mut(&segment) {
            sealed.is_spoiled = true;
        }
        drop(state);
        self.compaction.set();
    }

    /// The records that rest on tombstones of the segment.
    fn resting_on(&self, segment: u32) -> Vec<(Serial, Entry)> {
        self.pick_remains(|place, remain| {
            (remain.tombstone == segment).then_some(entry_of(place, remain))
        })
    }

    /// Writes all tombstones of the segment anew that are needed.
    fn renew_tombstones(&self, segment: u32) -> Result<(), StoreError> {
        let resting = self.resting_on(segment);
        let count = resting.len();
        log::warn!("segment damaged, its tombstones written anew segment={segment} count={count}");
        for (serial, entry) in resting {
            self.renew_tombstone(serial, entry, segment)?;
        }
        Ok(())
    }
}

impl Bad {
    fn holds(&self, offset: u32) -> bool {
        (self.offset..self.offset + self.bytes).contains(&u64::from(offset))
    }
}

/// True if no tombstone can have stood in the stretch: its record is known, or all of it is taken up
/// by records that are.
fn is_explained(bad: &Bad, known: &[(Serial, Entry, bool)]) -> bool {
    let records = known.iter().filter(|(_, entry, _)| bad.holds(entry.offset));
    let taken: u64 = records.map(|(_, entry, _)| record_bytes(entry.length)).sum();
    bad.serial.is_some() || taken == bad.bytes
}

/// Makes the next read of these bytes come from the disk, as far as they are clean; also so as not to
/// keep in memory what only the scrub wanted.
fn forget_cached(file: &File, from: u64, bytes: u64) {
    // Whole pages only: the first one too, though the stretch begins within it.
    let from = from - from % 4096;
    if let Err(error) = fadvise(file, from, NonZeroU64::new(bytes + 4096), Advice::DontNeed) {
        log::debug!("page cache not dropped error={error}");
    }
}
