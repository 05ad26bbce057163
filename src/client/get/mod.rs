//! Reading files: as with `put`, the caller's thread decides and the client's threads do.
//!
//! `open` says where a file's chunks are. Each chunk waits until it is next, and is then fetched from
//! the node that will have brought it first, by what is under way there and how fast it was so far;
//! one that is late is fetched from another node too. Chunks of a local file are written where they
//! belong as they come; a stream gets them in order.

mod fetching;
mod hedging;
mod landing;
mod opening;
mod pace;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsStr;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::observer::{Observer, Report};
use super::workers::Jobs;
use super::{Addresses, Client, ClientError, Inner};
use crate::ids::{NodeId, Version};
use crate::remote_path::RemotePath;
use crate::wire::frame::PayloadBuffer;
use crate::wire::to_main::OpenFile;
use fetching::{FetchDone, LocateDone, Task};
use hedging::Running;
use landing::Landing;
use opening::OpenDone;
use pace::Paces;

/// A file to fetch.
#[derive(Debug, Clone)]
pub struct Download {
    pub from: RemotePath,
    /// The current one when `None`.
    pub version: Option<Version>,
    /// The file that it becomes; what stands there gives way once all of it is here.
    pub to: PathBuf,
}

/// A file that was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedFile {
    pub version: Version,
    pub size: u64,
}

impl Client {
    /// Fetches files into local ones. What becomes of each is told to the observer; an error is one
    /// that ended the whole operation.
    pub fn get(
        &self,
        files: impl IntoIterator<Item = Download>,
        observer: &dyn Observer,
    ) -> Result<(), ClientError> {
        let mut get = Get::new(&self.0, observer);
        get.wanted = files.into_iter().map(|f| (f.from, f.version, Target::File(f.to))).collect();
        get.run(&mut std::io::sink())
    }

    /// Writes a file's bytes, or those in `range` alone, to `out` in order. An error that `out`
    /// gives comes back as `Io` under the name `-`.
    pub fn read(
        &self,
        path: &RemotePath,
        version: Option<Version>,
        range: Range<u64>,
        out: &mut dyn Write,
        observer: &dyn Observer,
    ) -> Result<FetchedFile, ClientError> {
        let outcome = StreamObserver { observer, report: std::cell::Cell::new(None) };
        let mut get = Get::new(&self.0, &outcome);
        get.wanted.push_back((path.clone(), version, Target::Stream(range)));
        get.run(out)?;
        match outcome.report.take() {
            Some(Report::Fetched(file)) => Ok(file),
            Some(Report::Failed(error)) => Err(error),
            Some(Report::Stored(_) | Report::Verified(_) | Report::Skipped(_)) | None => {
                Err(ClientError::Worker)
            }
        }
    }
}

/// Keeps what became of the one file of a `read`, for its return value.
struct StreamObserver<'a> {
    observer: &'a dyn Observer,
    report: std::cell::Cell<Option<Report>>,
}

impl Observer for StreamObserver<'_> {
    fn expect(&self, files: u64, bytes: u64) {
        self.observer.expect(files, bytes);
    }
    fn advance(&self, bytes: u64) {
        self.observer.advance(bytes);
    }
    fn waiting(&self, why: &str) {
        self.observer.waiting(why);
    }
    fn file(&self, _from: &OsStr, _to: &OsStr, report: Report) {
        self.report.set(Some(report));
    }
}

/// Numbers the files of one operation.
type FileKey = u64;

/// Where the bytes of a file go.
enum Target {
    File(PathBuf),
    Stream(Range<u64>),
}

/// A file under way.
struct FileState {
    from: RemotePath,
    to: Landing,
    fetched: FetchedFile,
    /// Chunks in all, and those that are not where they belong yet.
    chunk_count: u64,
    left: u64,
    /// Chunks that `open` has told of, and the bytes in them.
    known_chunks: u64,
    known_bytes: u64,
}

/// What a thread has done.
enum Event {
    Opened(OpenDone),
    Fetched(FetchDone),
    Located(LocateDone),
}

struct Get<'a> {
    inner: &'a Arc<Inner>,
    observer: &'a dyn Observer,
    jobs: Jobs<Event>,

    wanted: VecDeque<(RemotePath, Option<Version>, Target)>,
    /// Files whose first chunks are being worked on, and whose next are to be asked for.
    pages: VecDeque<(FileKey, OpenFile)>,
    is_opening: bool,
    next_key: FileKey,
    files: HashMap<FileKey, FileState>,
    addresses: Addresses,

    /// Chunks to be fetched.
    waiting: VecDeque<Task>,
    /// Fetches that were started.
    fetches: u64,
    running: Vec<Running>,
    /// Fetches that still run though nobody waits for them.
    abandoned: usize,
    paces: Paces,
    buffers: Vec<PayloadBuffer>,
    /// Nodes that failed of late: others are asked first.
    troubled: HashMap<NodeId, Instant>,
    /// Chunks that no copy could be had of; after a pause it is asked anew where they are.
    lost: Vec<(Instant, Task)>,
    is_locating: bool,
    last_progress: Instant,

    /// Chunks of the stream that came before their turn, and the turn.
    early: BTreeMap<u64, (PayloadBuffer, Range<usize>)>,
    turn: u64,
}

impl<'a> Get<'a> {
    fn new(inner: &'a Arc<Inner>, observer: &'a dyn Observer) -> Get<'a> {
        Get {
            inner,
            observer,
            jobs: Jobs::new(),
            wanted: VecDeque::new(),
            pages: VecDeque::new(),
            is_opening: false,
            next_key: 0,
            files: HashMap::new(),
            addresses: Addresses::new(),
            waiting: VecDeque::new(),
            fetches: 0,
            running: Vec::new(),
            abandoned: 0,
            paces: Paces::default(),
            buffers: Vec::new(),
            troubled: HashMap::new(),
            lost: Vec::new(),
            is_locating: false,
            last_progress: Instant::now(),
            early: BTreeMap::new(),
            turn: 0,
        }
    }

    fn run(mut self, out: &mut dyn Write) -> Result<(), ClientError> {
        loop {
            self.start_open();
            self.start_locate();
            self.start_fetches();
            self.start_hedges();
            if self.jobs.under_way() == self.abandoned && self.lost.is_empty() {
                // Nothing can happen any more, so everything has.
                self.fail_unfinished();
                return Ok(());
            }
            let wake = self.lost.iter().map(|(at, _)| *at).min();
            let wake = wake.filter(|_| !self.is_locating);
            let wake = [wake, self.late_at()].into_iter().flatten().min();
            let wake = wake.map(|at| at.saturating_duration_since(Instant::now()));
            let event = self.jobs.next(self.inner, wake).inspect_err(|error| {
                if matches!(error, ClientError::Cancelled) {
                    self.inner.wait_for_temporaries();
                }
            });
            let Some(event) = event? else { continue };
            match event {
                Event::Opened(done) => self.open_done(done)?,
                Event::Fetched(done) => self.fetch_done(done, out)?,
                Event::Located(done) => self.locate_done(done)?,
            }
        }
    }

    fn start(&mut self, job: impl FnOnce() -> Event + Send + 'static) {
        self.jobs.start(&self.inner.workers, job);
    }

    /// Tells of files that nothing more will happen to, so that none is taken for whole in silence.
    fn fail_unfinished(&mut self) {
        let mut left: Vec<FileKey> = self.files.keys().copied().collect();
        left.sort_unstable();
        for file in left {
            let why = "the operation ended before all of it was fetched";
            self.finish(file, Err(ClientError::Unsuitable(why)));
        }
    }

    /// The file is done with: it is told of, and what still comes in for it is passed over.
    fn finish(&mut self, file: FileKey, result: Result<(), ClientError>) {
        let Some(state) = self.files.remove(&file) else { return };
        let report = match result {
            Ok(()) => Report::Fetched(state.fetched),
            Err(error) => Report::Failed(error),
        };
        let from = OsStr::new(state.from.as_str());
        self.observer.file(from, state.to.path().as_os_str(), report);
    }
}
