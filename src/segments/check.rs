//! A second reader of a store's directory, for a stopped node: says what is there and what is wrong,
//! and changes nothing. It shares the constants of `format` with the store and no code, so that it
//! can bear witness against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::WallTime;
use crate::ids::{AccountId, ChunkId, ClusterId, NodeId, Serial};

use super::check_segment::{self, Content};
use super::format::FORMAT_VERSION;

/// Why a directory cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{0} holds no chunk store: is its disk mounted?")]
    NotAStore(PathBuf),
    #[error("{0} is in use by a running node: stop it first")]
    Locked(PathBuf),
    #[error("{path} is not the marker of a chunk store")]
    BadMarker { path: PathBuf, source: serde_json::Error },
    #[error("{path} has format {found}: this program knows {known}")]
    Version { path: PathBuf, found: u32, known: u32 },
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

/// What a directory holds.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// The cluster that the store belongs to.
    pub cluster: ClusterId,
    /// The node of that cluster.
    pub node: NodeId,
    /// When the store was made.
    pub created: WallTime,
    /// The segment files.
    pub segments: Vec<CheckedSegment>,
    /// Numbers of segments which should be there and are not.
    pub missing: Vec<RangeInclusive<u32>>,
    /// The chunks that are whole, by serial: their blocks match their checksums, and their bytes
    /// their id.
    pub chunks: Vec<LiveChunk>,
    /// The chunks that were removed and can be restored, by serial.
    pub trash: Vec<LiveChunk>,
    /// Whole records that are neither: purged, damaged once and said so, or superseded by a later
    /// record of their serial, as an interrupted compaction leaves them.
    pub dead: Dead,
    /// What was taken out.
    pub tombstones: Vec<Tombstone>,
    /// What is not as it should be, or only unusual.
    pub findings: Vec<Finding>,
}

/// One segment file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedSegment {
    pub number: u32,
    pub bytes: u64,
    /// Its good records, tombstones and dead chunks included.
    pub records: usize,
    pub hint: HintState,
}

/// What a segment's hint file is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HintState {
    /// As for the segment that is appended to, and after a crash.
    Missing,
    /// The next start makes it anew.
    Invalid,
    /// It matches its segment.
    Good,
    /// It verifies, and lists something that is not there.
    Wrong,
}

/// A chunk that is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LiveChunk {
    pub serial: Serial,
    pub id: ChunkId,
    pub account: AccountId,
    pub length: u32,
    pub segment: u32,
    pub offset: u64,
}

/// Records that compaction may take away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Dead {
    pub records: u64,
    pub bytes: u64,
}

impl Dead {
    fn count(&mut self, size: Option<u64>) {
        self.records += u64::from(size.is_some());
        self.bytes += size.unwrap_or(0);
    }
}

/// The record of a chunk's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tombstone {
    pub serial: Serial,
    pub id: ChunkId,
    /// True if the chunk was damaged, false if it was removed.
    pub was_damaged: bool,
    pub segment: u32,
    pub offset: u64,
}

/// Something found in a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: FindingKind,
    pub segment: u32,
    pub offset: u64,
    pub bytes: u64,
    /// The chunk, where its record's header can be read.
    pub serial: Option<Serial>,
}

/// What kind of thing it is, and how bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Bytes that are not what was written, with good records after them.
    Damage,
    /// The damage of a chunk that was found and dropped: a tombstone says so.
    Dropped,
    /// One of the two headers of a segment is bad; nothing is lost as long as the other is good.
    Header,
    /// Blocks that match their checksums, of a chunk that does not match its id.
    WrongHash,
    /// A tail without a whole record, as a crash leaves it: the next start cuts it off.
    TornTail,
    /// The place of a write that was never finished.
    Gap,
}

impl FindingKind {
    /// False for what a crash may leave behind, and for what was dealt with.
    pub fn is_damage(self) -> bool {
        match self {
            FindingKind::Damage | FindingKind::Header | FindingKind::WrongHash => true,
            FindingKind::Dropped | FindingKind::TornTail | FindingKind::Gap => false,
        }
    }
}

impl CheckReport {
    /// True if nothing is damaged or missing. What a crash may leave is no damage.
    pub fn is_sound(&self) -> bool {
        let hints_are_good = self.segments.iter().all(|s| s.hint != HintState::Wrong);
        hints_are_good && self.missing.is_empty() && self.damage().next().is_none()
    }

    /// The findings that are damage.
    pub fn damage(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.kind.is_damage())
    }

    /// The whole chunk with that serial.
    pub fn chunk(&self, serial: Serial) -> Option<&LiveChunk> {
        let found = self.chunks.binary_search_by_key(&serial, |chunk| chunk.serial);
        found.ok().map(|at| &self.chunks[at])
    }
}

/// Reads all of the store in `directory`, and verifies all of it.
pub fn check(directory: &Path) -> Result<CheckReport, CheckError> {
    let marker = read_marker(&directory.join("store.json"), directory)?;
    // Held to the end: a node that starts meanwhile is refused, and does not change what is read.
    let _lock = lock_out(&directory.join("lock"), directory)?;
    let segments = directory.join("segments");
    let mut report = CheckReport {
        cluster: marker.cluster,
        node: marker.node,
        created: marker.created,
        segments: Vec::new(),
        missing: Vec::new(),
        chunks: Vec::new(),
        trash: Vec::new(),
        dead: Dead::default(),
        tombstones: Vec::new(),
        findings: Vec::new(),
    };
    let mut books = Books::default();
    let compacted = list_compacted(&segments);
    let mut expected = 1;
    for number in list_segments(&segments)? {
        for missing in (expected..number).filter(|n| !compacted.iter().any(|r| r.contains(n))) {
            match report.missing.last_mut() {
                Some(range) if *range.end() + 1 == missing => *range = *range.start()..=missing,
                _ => report.missing.push(missing..=missing),
            }
        }
        expected = number + 1;
        let path = segments.join(format!("{number:08}.seg"));
        let failed = |source| CheckError::Io { doing: "read", path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        let content = check_segment::read(&file, number).map_err(failed)?;
        let hint = check_segment::judge_hint(&segments, number, &content);
        take_in(&mut report, &mut books, number, content, hint);
    }
    if expected == 1 {
        // A store has its first segment before it has its marker.
        report.missing.push(1..=1);
    }
    for Standing { last, is_trash } in books.standing.into_values() {
        let list = if is_trash { &mut report.trash } else { &mut report.chunks };
        list.extend(last.map(|(chunk, _)| chunk));
    }
    let of_dropped = |f: &&mut Finding| books.dropped.contains(&(f.segment, f.offset));
    let damage = report.findings.iter_mut().filter(|f| f.kind == FindingKind::Damage);
    damage.filter(of_dropped).for_each(|finding| finding.kind = FindingKind::Dropped);
    Ok(report)
}

/// What is gathered over all segments.
#[derive(Default)]
struct Books {
    standing: BTreeMap<Serial, Standing>,
    /// The places of records whose chunk was found damaged, as tombstones say.
    dropped: BTreeSet<(u32, u64)>,
}

/// Applies a segment's records, after those of all segments before it.
fn take_in(
    report: &mut CheckReport,
    Books { standing, dropped }: &mut Books,
    number: u32,
    content: Content,
    hint: HintState,
) {
    let (bytes, records) = (content.bytes, content.records.len());
    report.segments.push(CheckedSegment { number, bytes, records, hint });
    report.findings.extend(content.findings);
    for record in content.records {
        let (serial, id, offset) = (record.serial, record.id, record.offset);
        let (account, length) = (record.account, record.length);
        let chunk = LiveChunk { serial, id, account, length, segment: number, offset };
        let size = u64::from(record.size);
        let of_serial = standing.entry(serial).or_default();
        match record.kind {
            1 | 5 => {
                report.dead.count(of_serial.replace(chunk, size, record.kind == 5));
            }
            kind => {
                report.dead.count(of_serial.bury(kind == 2));
                let was_damaged = kind == 3;
                if was_damaged {
                    dropped.insert((record.hidden_segment, u64::from(record.hidden_offset)));
                }
                let tombstone = Tombstone { serial, id, was_damaged, segment: number, offset };
                report.tombstones.push(tombstone);
            }
        }
    }
}

/// What stands of one serial that is not dead.
#[derive(Default)]
struct Standing {
    last: Option<(LiveChunk, u64)>,
    is_trash: bool,
}

impl Standing {
    /// A later record of it; says the size of the one that is dead now.
    fn replace(&mut self, chunk: LiveChunk, size: u64, is_trash: bool) -> Option<u64> {
        self.is_trash = is_trash;
        self.last.replace((chunk, size)).map(|(_, size)| size)
    }

    /// A tombstone of it, after which it can be restored, or cannot; says the size of what is dead.
    fn bury(&mut self, is_restorable: bool) -> Option<u64> {
        self.is_trash = is_restorable;
        self.last.take_if(|_| !is_restorable).map(|(_, size)| size)
    }
}

#[derive(Deserialize)]
struct Marker {
    cluster: ClusterId,
    node: NodeId,
    created: WallTime,
}

#[derive(Deserialize)]
struct MarkerFormat {
    format: u32,
}

fn read_marker(path: &Path, directory: &Path) -> Result<Marker, CheckError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CheckError::NotAStore(directory.to_path_buf()));
        }
        Err(source) => {
            return Err(CheckError::Io { doing: "read", path: path.to_path_buf(), source });
        }
    };
    let bad = |source| CheckError::BadMarker { path: path.to_path_buf(), source };
    let MarkerFormat { format } = serde_json::from_slice(&text).map_err(bad)?;
    if format != FORMAT_VERSION {
        let path = path.to_path_buf();
        return Err(CheckError::Version { path, found: format, known: FORMAT_VERSION });
    }
    serde_json::from_slice(&text).map_err(bad)
}

/// Takes a lock that a running node excludes; none if there is no lock file, which is not created.
fn lock_out(path: &Path, directory: &Path) -> Result<Option<File>, CheckError> {
    let failed = |source| CheckError::Io { doing: "lock", path: path.to_path_buf(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(CheckError::Locked(directory.to_path_buf())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The numbers of the segments that were taken away on purpose.
fn list_compacted(directory: &Path) -> Vec<RangeInclusive<u32>> {
    #[derive(Default, Deserialize)]
    struct Compacted {
        ranges: Vec<(u32, u32)>,
    }
    let text = std::fs::read(directory.join("compacted.json")).unwrap_or_default();
    let compacted: Compacted = serde_json::from_slice(&text).unwrap_or_default();
    compacted.ranges.into_iter().map(|(first, last)| first..=last).collect()
}

/// The numbers of the segments there are, in order; none if even their directory is gone.
fn list_segments(directory: &Path) -> Result<Vec<u32>, CheckError> {
    let failed = |source| CheckError::Io { doing: "list", path: directory.to_path_buf(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 8);
        if let Some(number) = digits.and_then(|digits| digits.parse().ok()).filter(|n| *n > 0) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}
