//! Making a store and starting it: lock, marker, hints, the scan of what has no hint.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, RwLock};

use serde::{Deserialize, Serialize};

use crate::clock::WallTime;
use crate::durable::{self, SyncPoint};
use crate::ids::{ClusterId, NodeId, Serial};

use super::compacted;
use super::error::StoreError;
use super::format::{FIRST_RECORD_AT, FORMAT_VERSION};
use super::hint;
use super::index::{Index, Listed};
use super::read::Files;
use super::report::{CutTail, Damage, OpenReport};
use super::scan::{self, Scan};
use super::segment::{Segment, path_of, read_headers};
use super::space::Meter;
use super::store::{OpenSegment, SealedSegment, Signal, State, Store, StoreId, StoreOptions};

/// The marker's name: whose store a directory is. It is written last, so a directory that has one
/// has all the rest.
pub(super) const MARKER: &str = "store.json";
/// The lock's name.
pub(super) const LOCK: &str = "lock";
/// The name of the directory of segments.
pub(super) const SEGMENTS: &str = "segments";

#[derive(Serialize, Deserialize)]
struct Marker {
    format: u32,
    cluster: ClusterId,
    node: NodeId,
    created: WallTime,
}

/// The part of a marker that all versions have.
#[derive(Deserialize)]
struct AnyMarker {
    format: u32,
}

impl Store {
    /// Makes an empty store in `directory`, which may not be there yet.
    ///
    /// `NotEmpty` if there is anything in it but the files that `beside` names, which are the
    /// caller's own, and what an interrupted `create` left.
    pub fn create(
        directory: &Path,
        id: StoreId,
        created: WallTime,
        beside: &[&str],
    ) -> Result<(), StoreError> {
        durable::make_directories(directory).map_err(StoreError::io("create", directory))?;
        check_empty(directory, beside)?;
        let _lock = take_lock(directory)?;
        // Again, now that no other process is at it.
        check_empty(directory, beside)?;
        let segments = directory.join(SEGMENTS);
        if segments.exists() {
            std::fs::remove_dir_all(&segments).map_err(StoreError::io("clear", &segments))?;
        }
        std::fs::create_dir(&segments).map_err(StoreError::io("create", &segments))?;
        durable::entry_created(&segments);
        Segment::create(&segments, 1)?;
        let StoreId { cluster, node } = id;
        let marker = Marker { format: FORMAT_VERSION, cluster, node, created };
        let text = serde_json::to_vec_pretty(&marker).expect("a marker is plain data");
        let path = directory.join(MARKER);
        // Syncs the directory too, and with it the entry of `segments`.
        durable::replace_file(&path, &text).map_err(StoreError::io("write", &path))
    }

    /// Starts the store in `directory`, and says what was found there.
    ///
    /// `NotAStore` without a marker, as in the empty directory of a disk that is not mounted;
    /// `Locked`; `Version`; `SegmentsMissing`.
    pub fn open(
        directory: &Path,
        options: StoreOptions,
    ) -> Result<(Store, OpenReport), StoreError> {
        if !directory.join(MARKER).exists() {
            return Err(StoreError::NotAStore(directory.to_path_buf()));
        }
        let lock = take_lock(directory)?;
        let (id, created) = read_marker(directory)?;
        // A `create` that ended at its last step may have left the marker seen and not durable.
        durable::sync_directory(directory, SyncPoint::StateDirectory)
            .map_err(StoreError::io("sync", directory))?;
        let segments = directory.join(SEGMENTS);
        let mut opening = Opening::new(&segments, OpenReport::new(id, created));
        opening.load_all()?;
        let active = opening.active()?;
        let Opening { index, report, used, sealed, .. } = opening;
        let store = Store {
            id,
            opened: options.clock.now(),
            compacting: Mutex::new(()),
            compaction: Signal { is_set: Mutex::new(true), changed: Condvar::new() },
            #[cfg(test)]
            on_step: Mutex::new(None),
            meter: Meter::new(&segments, &options)?,
            options,
            files: Files::new(&segments),
            directory: segments,
            state: Mutex::new(State::new(active, sealed, used)),
            changed: Condvar::new(),
            synced: Condvar::new(),
            index: RwLock::new(index),
            syncs: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            #[cfg(test)]
            next_sync_fails: Default::default(),
            _lock: lock,
        };
        Ok((store, report))
    }
}

impl State {
    fn new(active: OpenSegment, sealed: BTreeMap<u32, SealedSegment>, used: u64) -> State {
        State {
            open: vec![active],
            sealed,
            compactors: 0,
            compacted: 0,
            shunned: BTreeMap::new(),
            is_starved: false,
            rolling: false,
            claims: Default::default(),
            claim_waiters: 0,
            round: 1,
            durable: 0,
            leading: false,
            written: Vec::new(),
            used,
            failed: None,
        }
    }
}

impl OpenReport {
    fn new(id: StoreId, created: WallTime) -> OpenReport {
        OpenReport {
            id,
            created,
            segments: 0,
            scanned: 0,
            chunks: 0,
            highest_serial: None,
            cut: Vec::new(),
            damaged: Vec::new(),
            gaps: Vec::new(),
            missing: Vec::new(),
        }
    }
}

fn check_empty(directory: &Path, beside: &[&str]) -> Result<(), StoreError> {
    let error = StoreError::io("list", directory);
    let entries = std::fs::read_dir(directory).and_then(|list| list.collect::<Result<Vec<_>, _>>());
    for entry in entries.map_err(error)? {
        let name = entry.file_name();
        let found = name.to_string_lossy().into_owned();
        let is_ours = match found.as_str() {
            LOCK | "lost+found" | "store.json.new" => true,
            SEGMENTS => holds_no_record(&entry.path()),
            name => beside.contains(&name),
        };
        if !is_ours {
            let directory = directory.to_path_buf();
            return Err(StoreError::NotEmpty { directory, found });
        }
    }
    Ok(())
}

/// True if this is what an interrupted `create` leaves: at most the first segment, without a record.
fn holds_no_record(segments: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(segments) else { return false };
    entries.into_iter().all(|entry| {
        entry.is_ok_and(|entry| {
            let is_short = entry.metadata().is_ok_and(|data| data.len() <= FIRST_RECORD_AT);
            is_short && entry.path() == path_of(segments, 1)
        })
    })
}

fn take_lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(directory.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
    }
}

fn read_marker(directory: &Path) -> Result<(StoreId, WallTime), StoreError> {
    let path = directory.join(MARKER);
    let text = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
    let bad = |source| StoreError::BadMarker { path: path.clone(), source };
    let AnyMarker { format } = serde_json::from_slice(&text).map_err(bad)?;
    if format != FORMAT_VERSION {
        return Err(StoreError::Version { path, found: format, known: FORMAT_VERSION });
    }
    let Marker { cluster, node, created, .. } = serde_json::from_slice(&text).map_err(bad)?;
    Ok((StoreId { cluster, node }, created))
}

/// Sees to it that a segment without a hint is read as the disk has it: records that a process
/// failed to sync before it ended must be found missing now, and not after a power cut.
fn drop_cached(file: &File, path: &Path) -> Result<(), StoreError> {
    durable::drop_cached(file, SyncPoint::SegmentData).map_err(StoreError::io("sync", path))
}

/// The numbers of the segment files in a directory, in order.
fn numbers(segments: &Path) -> Result<Vec<u32>, StoreError> {
    let missing = || StoreError::SegmentsMissing(segments.to_path_buf());
    let entries = match std::fs::read_dir(segments) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        entries => entries.and_then(|list| list.collect::<Result<Vec<_>, _>>()),
    };
    let mut numbers: Vec<NonZeroU32> = Vec::new();
    for entry in entries.map_err(StoreError::io("list", segments))? {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        numbers.extend(number.filter(|n| n.len() == 8).and_then(|n| n.parse::<NonZeroU32>().ok()));
    }
    numbers.sort_unstable();
    let numbers: Vec<u32> = numbers.into_iter().map(NonZeroU32::get).collect();
    if numbers.is_empty() { Err(missing()) } else { Ok(numbers) }
}

/// A start under way.
struct Opening<'a> {
    segments: &'a Path,
    report: OpenReport,
    index: Index,
    used: u64,
    sealed: BTreeMap<u32, SealedSegment>,
    /// The number of the last segment file, and the segment if it can be appended to.
    last: (u32, Option<OpenSegment>),
}

impl<'a> Opening<'a> {
    fn new(segments: &'a Path, report: OpenReport) -> Opening<'a> {
        Opening {
            segments,
            report,
            index: Index::default(),
            used: 0,
            sealed: BTreeMap::new(),
            last: (0, None),
        }
    }

    fn load_all(&mut self) -> Result<(), StoreError> {
        let numbers = numbers(self.segments)?;
        let compacted = compacted::read(self.segments);
        let last = *numbers.last().expect("checked in `numbers`");
        let mut expected = 1;
        for number in numbers {
            if number > expected {
                let missing = compacted::without(expected..=number - 1, &compacted);
                self.report.missing.extend(missing);
            }
            expected = number + 1;
            self.load(number, number == last)?;
            self.report.segments += 1;
        }
        // A segment may have been made by a process that ended before it had synced the entry.
        durable::sync_directory(self.segments, SyncPoint::SegmentDirectory)
            .map_err(StoreError::io("sync", self.segments))?;
        self.report.chunks = self.index.len();
        Ok(())
    }

    /// The segment to append to: the last one, or a new one.
    fn active(&mut self) -> Result<OpenSegment, StoreError> {
        let (number, last) = std::mem::take(&mut self.last);
        if let Some(open) = last {
            return Ok(open);
        }
        self.used += FIRST_RECORD_AT;
        let segment = Segment::create(self.segments, number + 1)?;
        Ok(OpenSegment::new(Arc::new(segment), FIRST_RECORD_AT, Vec::new()))
    }

    fn load(&mut self, number: u32, is_last: bool) -> Result<(), StoreError> {
        let path = path_of(self.segments, number);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        if is_last {
            // Its headers too may never have reached the disk.
            drop_cached(&file, &path)?;
        }
        let size = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        let headers = read_headers(&file, &path, number)?;
        self.last = (number, None);
        if is_last && (size < FIRST_RECORD_AT || headers.nonce.is_none() && size == FIRST_RECORD_AT)
        {
            // No record was ever written into it, or none is left: it is made anew.
            let cut = CutTail { segment: number, offset: 0, bytes: size, serials: Vec::new() };
            self.report.cut.push(cut);
            self.last = (number - 1, None);
            return std::fs::remove_file(&path).map_err(StoreError::io("remove", &path));
        }
        self.used += size;
        let Some(nonce) = headers.nonce else {
            let damage = Damage { segment: number, offset: 0, bytes: size, serial: None };
            self.report.damaged.push(damage);
            return Ok(());
        };
        for offset in headers.bad {
            let damage = Damage { segment: number, offset, bytes: 64, serial: None };
            self.report.damaged.push(damage);
        }
        let segment = Segment { number, path, file, nonce };
        if is_last {
            let Scan { listed, end, is_incomplete, .. } = self.scan(&segment, size, None)?;
            if is_incomplete {
                // Nothing is written behind what may be read another time.
                let sealed = SealedSegment { size, end: size, nonce, is_spoiled: false };
                self.sealed.insert(number, sealed);
                return Ok(());
            }
            self.used = self.used - size + end;
            self.last.1 = Some(OpenSegment::new(Arc::new(segment), end, listed));
            return Ok(());
        }
        self.load_sealed(&segment, size)
    }

    fn load_sealed(&mut self, segment: &Segment, size: u64) -> Result<(), StoreError> {
        let hint = hint::read(self.segments, segment.number, &segment.nonce);
        let sealed = SealedSegment { size, end: size, nonce: segment.nonce, is_spoiled: false };
        self.sealed.insert(segment.number, sealed);
        if let Some(hint) = hint.as_ref().filter(|hint| hint.size == size) {
            self.replay(segment.number, &hint.listed);
            return Ok(());
        }
        drop_cached(&segment.file, &segment.path)?;
        let Scan { listed, is_incomplete, .. } =
            self.scan(segment, size, hint.map(|hint| hint.size))?;
        if is_incomplete {
            // No hint: the next start reads it again.
            return Ok(());
        }
        // A torn tail was cut off.
        let cut = size;
        let size = segment.file.metadata().map_err(StoreError::io("look at", &segment.path))?.len();
        self.used -= cut - size;
        self.sealed.insert(segment.number, SealedSegment { size, end: size, ..sealed });
        let written = hint::write(self.segments, segment.number, &segment.nonce, size, &listed);
        if let Err(error) = written {
            log::warn!("hint not written segment={} error={error}", segment.number);
        }
        Ok(())
    }

    /// Takes in a segment without a hint, cuts off a torn tail if it could read all, and returns what
    /// it found. What the cache held of it was dropped before.
    fn scan(
        &mut self,
        segment: &Segment,
        size: u64,
        sealed_size: Option<u64>,
    ) -> Result<Scan, StoreError> {
        self.report.scanned += 1;
        let failed = |doing| StoreError::io(doing, &segment.path);
        let found = scan::scan(&segment.file, segment.number, &segment.nonce, size);
        let mut found = found.map_err(failed("read"))?;
        self.report.damaged.append(&mut found.damaged);
        self.report.gaps.append(&mut found.gaps);
        if let Some(sealed) = sealed_size.filter(|sealed| *sealed > size) {
            let (offset, bytes) = (size, sealed - size);
            let damage = Damage { segment: segment.number, offset, bytes, serial: None };
            self.report.damaged.push(damage);
        }
        match found.tail.take() {
            Some(CutTail { segment, offset, bytes, .. }) if found.is_incomplete => {
                self.report.damaged.push(Damage { segment, offset, bytes, serial: None });
            }
            Some(tail) => {
                segment.file.set_len(tail.offset).map_err(failed("cut"))?;
                self.report.cut.push(tail);
            }
            None => {}
        }
        // What a killed process wrote and did not sync counts from now on as stored.
        durable::sync_file(&segment.file, SyncPoint::SegmentData).map_err(failed("sync"))?;
        self.replay(segment.number, &found.listed);
        Ok(found)
    }

    fn replay(&mut self, segment: u32, listed: &[Listed]) {
        for record in listed {
            self.index.replay(segment, record);
        }
        let highest: Option<Serial> = listed.iter().map(|record| record.serial).max();
        self.report.highest_serial = self.report.highest_serial.max(highest);
    }
}
