//! Storing files: one thread, the caller's, decides what is to be done next; the client's threads
//! do it. So all state is in one place and under no lock.
//!
//! A chunk is read and named, then `allocate` says where it goes or that it is there, then it is
//! sent. When all chunks of a file are stored, `commit` makes it visible. Whatever waits while an
//! `allocate` or a `commit` is under way travels together in the next.

mod batch;
mod committing;
mod files;
mod reading;
mod storing;

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Instant;

pub(super) use batch::PieceRef;
pub use files::{Source, Upload};

use super::observer::{Observer, Report};
use super::workers::Jobs;
use super::{Addresses, Client, ClientError, Inner};
use crate::ids::{ChunkId, DEFAULT_COPIES, HashAlgorithm, Version};
use batch::{Buffers, FileKey, ReadBatch, StreamPiece, ToRead};
use files::FileState;

/// Bytes of a chunk; the last of a file may be shorter.
const CHUNK_BYTES: usize = 4 << 20;
/// Buffers of that size which one operation uses at most.
const BUFFERS: usize = 10;

/// How files are stored.
#[derive(Debug, Clone)]
pub struct PutOptions {
    /// Copies wanted of each chunk.
    pub copies: u8,
    /// The hash that names the chunks.
    pub hash: HashAlgorithm,
    /// The version that must be current; 0 when nothing may stand there.
    pub if_version: Option<Version>,
    /// Make missing directories above the files.
    pub parents: bool,
}

impl Default for PutOptions {
    fn default() -> Self {
        let (copies, hash) = (DEFAULT_COPIES, HashAlgorithm::Blake3);
        PutOptions { copies, hash, if_version: None, parents: false }
    }
}

/// A file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredFile {
    pub version: Version,
    pub size: u64,
    /// What had to be sent of it; the rest was stored already.
    pub sent_bytes: u64,
    /// Chunks that have fewer copies than wanted yet; the main server has more made.
    pub under_copied_chunks: u64,
}

impl Client {
    /// Stores files. What becomes of each is told to the observer; an error is one that ended the
    /// whole operation, and the files not told of by then are not stored.
    pub fn put(
        &self,
        uploads: impl IntoIterator<Item = Upload>,
        options: &PutOptions,
        observer: &dyn Observer,
    ) -> Result<(), ClientError> {
        Put::new(&self.0, &mut uploads.into_iter(), options, observer).run()
    }
}

/// What a thread has done.
enum Event {
    Read(ReadBatch),
    Stream(FileKey, StreamPiece),
    Allocated(storing::AllocateDone),
    Stored(storing::StoreDone),
    Committed(committing::CommitDone),
}

/// Something to take up again later.
enum Delayed {
    Chunks(Vec<PieceRef>),
    Files(Vec<FileKey>),
    Read(Vec<ToRead>),
}

struct Put<'a> {
    inner: &'a Arc<Inner>,
    options: &'a PutOptions,
    observer: &'a dyn Observer,
    jobs: Jobs<Event>,

    uploads: &'a mut dyn Iterator<Item = Upload>,
    /// `uploads` has ended.
    is_exhausted: bool,
    next_key: FileKey,
    files: HashMap<FileKey, FileState>,
    /// Files that were looked at and whose reading has not begun.
    looked_at: VecDeque<FileKey>,
    /// The large file that is being cut, and its next chunk.
    cutting: Option<(FileKey, usize)>,
    stream: Option<Box<dyn std::io::Read + Send>>,
    read_again: VecDeque<ToRead>,
    buffers: Buffers,

    /// Chunks of which nobody knows yet where they go.
    unplaced: VecDeque<PieceRef>,
    is_allocating: bool,
    /// Every chunk on its way, by name, and the chunks with the same bytes that wait for it.
    on_their_way: HashMap<ChunkId, OnItsWay>,
    addresses: Addresses,
    ready: VecDeque<FileKey>,
    is_committing: bool,
    delayed: Vec<(Instant, Delayed)>,
    last_progress: Instant,
    /// Something was stored or found stored in this operation.
    has_progressed: bool,
}

#[derive(Default)]
struct OnItsWay {
    followers: Vec<PieceRef>,
    tries: u32,
}

impl<'a> Put<'a> {
    fn new(
        inner: &'a Arc<Inner>,
        uploads: &'a mut dyn Iterator<Item = Upload>,
        options: &'a PutOptions,
        observer: &'a dyn Observer,
    ) -> Put<'a> {
        Put {
            inner,
            options,
            observer,
            jobs: Jobs::new(),
            uploads,
            is_exhausted: false,
            next_key: 0,
            files: HashMap::new(),
            looked_at: VecDeque::new(),
            cutting: None,
            stream: None,
            read_again: VecDeque::new(),
            buffers: Buffers::new(BUFFERS),
            unplaced: VecDeque::new(),
            is_allocating: false,
            on_their_way: HashMap::new(),
            addresses: Addresses::new(),
            ready: VecDeque::new(),
            is_committing: false,
            delayed: Vec::new(),
            last_progress: Instant::now(),
            has_progressed: false,
        }
    }

    fn run(mut self) -> Result<(), ClientError> {
        loop {
            self.start_reads();
            self.start_allocate();
            self.start_commit();
            if self.jobs.is_empty() && self.delayed.is_empty() {
                // Nothing can happen any more, so everything has.
                self.fail_unfinished();
                return Ok(());
            }
            let wake = self.delayed.iter().map(|(at, _)| *at).min();
            let wake = wake.map(|at| at.saturating_duration_since(Instant::now()));
            if let Some(event) = self.jobs.next(self.inner, wake)? {
                self.handle(event)?;
            }
            self.take_up_delayed();
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), ClientError> {
        match event {
            Event::Read(batch) => {
                self.read_done(batch);
                Ok(())
            }
            Event::Stream(file, piece) => {
                self.stream_done(file, piece);
                Ok(())
            }
            Event::Allocated(done) => self.allocate_done(done),
            Event::Stored(done) => self.store_done(done),
            Event::Committed(done) => self.commit_done(done),
        }
    }

    fn start(&mut self, job: impl FnOnce() -> Event + Send + 'static) {
        self.jobs.start(&self.inner.workers, job);
    }

    fn take_up_delayed(&mut self) {
        let now = Instant::now();
        let mut later = Vec::new();
        for (at, what) in std::mem::take(&mut self.delayed) {
            match what {
                _ if at > now => later.push((at, what)),
                Delayed::Chunks(chunks) => self.unplaced.extend(chunks),
                Delayed::Files(files) => self.ready.extend(files),
                Delayed::Read(pieces) => self.read_again.extend(pieces),
            }
        }
        self.delayed = later;
    }

    fn progressed(&mut self) {
        self.last_progress = Instant::now();
        self.has_progressed = true;
    }

    /// True when there was no progress for longer than this client is patient.
    fn is_hopeless(&self, worth_waiting: bool) -> bool {
        let patience = self.inner.patience(self.has_progressed || worth_waiting);
        self.last_progress.elapsed() >= patience
    }

    /// Tells of files that nothing more will happen to, so that none is taken for stored in silence.
    fn fail_unfinished(&mut self) {
        let mut left: Vec<FileKey> = self.files.keys().copied().collect();
        left.sort_unstable();
        for file in left {
            let why = "the operation ended before all of it was stored";
            self.finish(file, Err(ClientError::Unsuitable(why)));
        }
    }

    /// The file is done with: it is told of, and what still comes in for it is passed over.
    fn finish(&mut self, file: FileKey, result: Result<StoredFile, ClientError>) {
        let Some(state) = self.files.remove(&file) else { return };
        if self.cutting.is_some_and(|(cut, _)| cut == file) {
            self.cutting = None;
            self.stream = None;
        }
        let report = match result {
            Ok(stored) => Report::Stored(stored),
            Err(error) => Report::Failed(error),
        };
        self.observer.file(state.from().as_os_str(), OsStr::new(state.to.as_str()), report);
    }
}
