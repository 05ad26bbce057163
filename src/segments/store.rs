//! The store: what it is made of, and what its threads share.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::clock::{Clock, Moment};
use crate::ids::{AccountId, ChunkId, ClusterId, NodeId, Serial};

use super::error::StoreError;
use super::format::{FIRST_RECORD_AT, Nonce};
use super::index::{Held, Index, Listed};
use super::read::Files;
use super::segment::Segment;
use super::space::Meter;

/// The most records in a segment, whatever their size: what is known of each until the hint is
/// written takes memory.
pub(super) const MAX_SEGMENT_RECORDS: usize = 65_536;

/// Whose store a directory is; written into its marker file when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreId {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node of that cluster.
    pub node: NodeId,
}

/// How a store is to be run. May differ from one start to the next.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// A segment gets no record that would make it longer, unless it would be its only one.
    pub segment_bytes: u64,
    /// The most bytes that segments may take together.
    pub offered_bytes: u64,
    /// What is kept free on the file system. `None`: the larger of 5 % and 1 GiB, but at most a tenth
    /// of the space offered.
    pub reserve_bytes: Option<u64>,
    /// For how long a removed chunk can be restored for sure, counted from its removal or, if that
    /// is later, from the opening of the store.
    pub trash_hold: Duration,
    /// Where the store takes its time from.
    pub clock: Clock,
}

impl StoreOptions {
    /// The usual segments, reserve and trash, by the machine's clock.
    pub fn offering(offered_bytes: u64) -> StoreOptions {
        StoreOptions {
            segment_bytes: 256 << 20,
            offered_bytes,
            reserve_bytes: None,
            trash_hold: Duration::from_secs(3600),
            clock: Clock::system(),
        }
    }

    /// Offsets have 32 bits, and a record of its own in a segment may be longer than this.
    pub(super) fn segment_limit(&self) -> u64 {
        self.segment_bytes.min(1 << 31)
    }
}

/// A chunk to be stored. Its bytes may be part of a larger buffer: they are not copied into another,
/// unless they are few.
#[derive(Debug, Clone, Copy)]
pub struct NewChunk<'a> {
    /// Checked by the caller: the store does not hash.
    pub id: ChunkId,
    /// The number of this storing of it.
    pub serial: Serial,
    /// Whose it is.
    pub account: AccountId,
    /// At most `MAX_CHUNK_BYTES`.
    pub bytes: &'a [u8],
}

/// Something written that is durable once `Store::wait_durable` returned for it. The larger of two
/// tickets of one store covers both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[must_use = "what was written is not durable yet"]
pub struct Ticket(pub(super) u64);

/// Chunks on disk. Shared by threads through an `Arc`; one process at a time has a directory.
#[derive(Debug)]
pub struct Store {
    pub(super) id: StoreId,
    pub(super) options: StoreOptions,
    /// The directory of segments.
    pub(super) directory: PathBuf,
    /// Held for memory only, never across a write or a sync. Taken before `index` where both are.
    pub(super) state: Mutex<State>,
    /// A new segment is there, or a write on which others wait has ended.
    pub(super) changed: Condvar,
    /// A round of syncs has ended.
    pub(super) synced: Condvar,
    /// The chunks that are durable, and so can be read.
    pub(super) index: RwLock<Index>,
    pub(super) files: Files,
    pub(super) meter: Meter,
    pub(super) syncs: AtomicU64,
    pub(super) dropped: AtomicU64,
    /// When it was opened.
    pub(super) opened: Moment,
    /// Held by the one thread that compacts.
    pub(super) compacting: Mutex<()>,
    /// What a compaction thread waits for.
    pub(super) compaction: Signal,
    /// A test sets it to be told of each step of a compaction.
    #[cfg(test)]
    pub(super) on_step: Mutex<Option<Step>>,
    /// A test sets it to make the next sync fail.
    #[cfg(test)]
    pub(super) next_sync_fails: std::sync::atomic::AtomicBool,
    /// Keeps other processes out for as long as it is open.
    pub(super) _lock: File,
}

/// What writers share.
#[derive(Debug)]
pub(super) struct State {
    /// The segments that are not sealed yet; records are appended to the last.
    pub open: Vec<OpenSegment>,
    /// All others, but those of which neither header can be read: nothing is known of these.
    pub sealed: BTreeMap<u32, SealedSegment>,
    /// A thread is making the next segment; the others wait for it.
    pub rolling: bool,
    /// The serials that are being written, or are written and not durable yet.
    pub claims: HashMap<u64, Claim>,
    /// The threads that wait for a claim of another to be decided.
    pub claim_waiters: usize,
    /// What is written now becomes durable in this round.
    pub round: u64,
    /// All rounds up to this one are durable.
    pub durable: u64,
    /// A thread is syncing the round before `round`.
    pub leading: bool,
    /// The records of this round.
    pub written: Vec<Written>,
    /// The bytes of all segments, and of what was claimed and has no place in one yet.
    pub used: u64,
    /// The threads that compact, or wait for something to compact.
    pub compactors: usize,
    /// The segments that compaction has taken away.
    pub compacted: u64,
    /// Segments that are not to be compacted before these times.
    pub shunned: BTreeMap<u32, Moment>,
    /// A chunk was refused for lack of space since the last segment was compacted.
    pub is_starved: bool,
    /// Set for good by the first sync that fails.
    pub failed: Option<Failure>,
}

/// A segment that is not sealed yet.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub segment: Arc<Segment>,
    /// Where the next record goes.
    pub end: u64,
    /// The bytes up to there, without those of writes that failed.
    pub filled: u64,
    /// The records that have a place.
    pub records: usize,
    /// The writes under way.
    pub in_flight: usize,
    /// The records that are written and not durable yet.
    pub unsynced: usize,
    /// The records that are durable, for the hint.
    pub listed: Vec<Listed>,
    /// A write failed: records may stand in it that are not listed.
    pub is_doubtful: bool,
    /// Something in it was found damaged that is no chunk: it is to be compacted soon.
    pub is_spoiled: bool,
}

/// A segment to which nothing is appended any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct SealedSegment {
    /// Its bytes, as they count in `State::used`.
    pub size: u64,
    /// Where its last record ends, or a write that failed.
    pub end: u64,
    pub nonce: Nonce,
    /// Something in it was found damaged that is no chunk: it is to be compacted soon.
    pub is_spoiled: bool,
}

/// A serial of which a record is on its way to the disk. While one has it no other record of the
/// serial is given a place: so the order of places is the order of what happened to the chunk.
#[derive(Debug)]
pub(super) enum Claim {
    /// A chunk, until it can be read.
    Storing {
        id: ChunkId,
        /// The round in which it becomes durable; `None` while it is being written.
        round: Option<u64>,
    },
    /// A tombstone, or a chunk that is its own, until it is written. Should that fail, the chunk may
    /// live again where it stood: in this segment.
    Burying { segment: u32 },
}

/// Wakes a thread, also if it was not waiting yet.
#[derive(Debug, Default)]
pub(super) struct Signal {
    pub is_set: Mutex<bool>,
    pub changed: Condvar,
}

impl Signal {
    pub fn set(&self) {
        *lock(&self.is_set) = true;
        self.changed.notify_all();
    }
}

/// What a test does at a step of a compaction.
#[cfg(test)]
pub(super) struct Step(pub Box<dyn Fn(&'static str) + Send>);

#[cfg(test)]
impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Step")
    }
}

/// A record that was written and is not durable yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub segment: u32,
    pub listed: Listed,
}

/// What ended the store's writing.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub path: PathBuf,
    pub source: Arc<io::Error>,
}

impl OpenSegment {
    pub fn fits(&self, bytes: u64, limit: u64) -> bool {
        let is_empty = self.end == FIRST_RECORD_AT;
        let is_open = self.records < MAX_SEGMENT_RECORDS && !self.is_spoiled;
        is_open && (is_empty || self.end + bytes <= limit)
    }
}

impl State {
    /// The segment that is appended to.
    pub fn active(&mut self) -> &mut OpenSegment {
        self.open.last_mut().expect("a store always has a segment to append to")
    }

    /// The open segment of that number.
    pub fn open_segment(&mut self, number: u32) -> &mut OpenSegment {
        let found = self.open.iter_mut().find(|open| open.segment.number == number);
        found.expect("a segment stays open while it is written to")
    }

    /// `Failed` once a sync has failed.
    pub fn check(&self) -> Result<(), StoreError> {
        match &self.failed {
            None => Ok(()),
            Some(Failure { path, source }) => {
                Err(StoreError::Failed { path: path.clone(), source: source.clone() })
            }
        }
    }
}

/// Locks, whatever became of the thread that had the lock before: each change under these locks is
/// whole, so a panic elsewhere must not spread through them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Whose store it is.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// At most `limit` chunks with serials in `range`, in the order of their serials.
    pub fn holdings(&self, range: RangeInclusive<Serial>, limit: usize) -> Vec<Held> {
        self.index().holdings(range, limit)
    }

    /// At most `limit` pieces of trash with serials in `range`, in the order of their serials: chunks
    /// that were removed and can be restored.
    pub fn trash(&self, range: RangeInclusive<Serial>, limit: usize) -> Vec<Held> {
        self.index().remains.trash(range, limit)
    }

    /// The rounds of syncs made so far: fewer than the calls that waited for one, where they shared.
    pub fn sync_count(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// The chunks taken out because they were damaged, since the start.
    pub fn dropped_count(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// True once a sync failed: reads go on, nothing more is stored.
    pub fn has_failed(&self) -> bool {
        lock(&self.state).failed.is_some()
    }

    /// Makes the next sync fail, as on a disk that has an error.
    #[cfg(test)]
    pub fn fail_next_sync(&self) {
        self.next_sync_fails.store(true, Ordering::SeqCst);
    }

    pub(super) fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index_mut(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}
