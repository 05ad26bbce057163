//! Verifying files: every copy of every chunk is read from the node that has it, and checked.
//!
//! The caller's thread decides and the client's threads read, as with `get`. Files are listed,
//! opened and read a few at a time, so memory is bounded whatever the size of the tree.

mod opening;
mod reading;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Instant;

use super::observer::{Observer, Report};
use super::workers::Jobs;
use super::{Addresses, Client, ClientError, Files, Inner};
use crate::ids::{ChunkId, NodeId, Version};
use crate::remote_path::RemotePath;
use crate::wire::frame::PayloadBuffer;
use crate::wire::to_main::{FileFacts, LocatedChunk, OpenFile};
use opening::OpenDone;
use reading::{ReadDone, Task};

/// The most copies of one file that are named as no good.
const MAX_NAMED: usize = 64;

/// What reading all copies of a file has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedFile {
    pub version: Version,
    pub size: u64,
    pub chunks: u64,
    /// Copies wanted of each chunk.
    pub wanted: u8,
    /// Copies that were read and are what they should be.
    pub good_copies: u64,
    /// Copies that are damaged, or not where the books say.
    pub bad_copies: u64,
    /// Copies on nodes that could not be asked.
    pub unreachable_copies: u64,
    /// Chunks with fewer good copies than wanted.
    pub under_copied_chunks: u64,
    /// Of these, chunks without any.
    pub unreadable_chunks: u64,
    /// The copies that are not good, some of them where they are many.
    pub problems: Vec<ProblemCopy>,
}

/// A copy that is not good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemCopy {
    /// The chunk's place in the file, from 0.
    pub index: u64,
    pub chunk: ChunkId,
    pub node: NodeId,
    pub what: CopyProblem,
}

/// What is wrong with a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyProblem {
    /// Its bytes are not the chunk's.
    Damaged(String),
    /// The books name it, and the node does not have it.
    Missing,
    /// The node could not be asked.
    Unreachable(String),
}

/// Whether a file is whole: the first of these that is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wholeness {
    /// A chunk has no good copy that could be reached.
    Unreadable,
    /// A copy is damaged or missing.
    Damaged,
    /// A copy could not be reached.
    Unreachable,
    /// A chunk has fewer copies than wanted.
    UnderCopied,
    /// Every chunk has all the copies that it should have, and each is good.
    Whole,
}

impl VerifiedFile {
    fn new(facts: &FileFacts) -> VerifiedFile {
        VerifiedFile {
            version: facts.version,
            size: facts.size,
            chunks: facts.chunk_count,
            wanted: facts.copies,
            good_copies: 0,
            bad_copies: 0,
            unreachable_copies: 0,
            under_copied_chunks: 0,
            unreadable_chunks: 0,
            problems: Vec::new(),
        }
    }

    /// Whether it is whole.
    pub fn wholeness(&self) -> Wholeness {
        if self.unreadable_chunks > 0 {
            Wholeness::Unreadable
        } else if self.bad_copies > 0 {
            Wholeness::Damaged
        } else if self.unreachable_copies > 0 {
            Wholeness::Unreachable
        } else if self.under_copied_chunks > 0 {
            Wholeness::UnderCopied
        } else {
            Wholeness::Whole
        }
    }

    fn note(&mut self, problem: ProblemCopy) {
        match &problem.what {
            CopyProblem::Damaged(_) | CopyProblem::Missing => self.bad_copies += 1,
            CopyProblem::Unreachable(_) => self.unreachable_copies += 1,
        }
        if self.problems.len() < MAX_NAMED {
            self.problems.push(problem);
        }
    }
}

impl Client {
    /// Reads every copy of every chunk of the files at and below `roots`, each from its own node.
    /// Copies that are no good are told to the main server, which has them replaced. What is found
    /// is told to the observer file by file; an error is one that ended the whole operation.
    pub fn verify(&self, roots: &[RemotePath], observer: &dyn Observer) -> Result<(), ClientError> {
        Verify::new(&self.0, self.files(roots), observer).run()
    }
}

type FileKey = u64;
type ChunkKey = u64;

/// A file under way.
struct FileState {
    path: RemotePath,
    facts: FileFacts,
    found: VerifiedFile,
    /// Chunks that `open` has told of, and those of which not every copy was read yet.
    known: u64,
    unsettled: u64,
    /// Bytes of copies that the observer was told of.
    advanced: u64,
}

/// A chunk under way.
struct ChunkState {
    file: FileKey,
    index: u64,
    chunk: LocatedChunk,
    /// Nodes whose copies were looked for, and how many of them have not answered.
    asked: Vec<NodeId>,
    unsettled: usize,
    good: u8,
}

/// What a thread has done.
enum Event {
    Opened(OpenDone),
    Read(ReadDone),
}

struct Verify<'a> {
    inner: &'a Arc<Inner>,
    observer: &'a dyn Observer,
    jobs: Jobs<Event>,

    listed: Files<'a>,
    /// Files that are to be opened.
    wanted: VecDeque<(RemotePath, FileFacts)>,
    /// Files whose next chunks are to be asked for.
    pages: VecDeque<(FileKey, OpenFile)>,
    is_opening: bool,
    files: HashMap<FileKey, FileState>,
    chunks: HashMap<ChunkKey, ChunkState>,
    next_key: u64,
    addresses: Addresses,

    /// Copies to be read, by node.
    queues: BTreeMap<NodeId, VecDeque<Task>>,
    queued: usize,
    /// Reads under way, by node.
    reading: BTreeMap<NodeId, usize>,
    buffers: Vec<PayloadBuffer>,
    /// Nodes that could not be reached of late, and why.
    troubled: HashMap<NodeId, (Instant, String)>,
}

impl<'a> Verify<'a> {
    fn new(inner: &'a Arc<Inner>, listed: Files<'a>, observer: &'a dyn Observer) -> Verify<'a> {
        Verify {
            inner,
            observer,
            jobs: Jobs::new(),
            listed,
            wanted: VecDeque::new(),
            pages: VecDeque::new(),
            is_opening: false,
            files: HashMap::new(),
            chunks: HashMap::new(),
            next_key: 0,
            addresses: Addresses::new(),
            queues: BTreeMap::new(),
            queued: 0,
            reading: BTreeMap::new(),
            buffers: Vec::new(),
            troubled: HashMap::new(),
        }
    }

    fn run(mut self) -> Result<(), ClientError> {
        loop {
            self.start_open()?;
            self.start_reads();
            if self.jobs.is_empty() && self.queued == 0 {
                return if self.files.is_empty() { Ok(()) } else { Err(ClientError::Worker) };
            }
            let Some(event) = self.jobs.next(self.inner, None)? else { continue };
            match event {
                Event::Opened(done) => self.open_done(done)?,
                Event::Read(done) => self.read_done(done),
            }
        }
    }

    fn start(&mut self, job: impl FnOnce() -> Event + Send + 'static) {
        self.jobs.start(&self.inner.workers, job);
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// Every copy of the chunk was looked at.
    fn settle(&mut self, chunk: ChunkKey) {
        let Some(state) = self.chunks.remove(&chunk) else { return };
        let Some(file) = self.files.get_mut(&state.file) else { return };
        if state.good < file.found.wanted {
            file.found.under_copied_chunks += 1;
            file.found.unreadable_chunks += u64::from(state.good == 0);
        }
        file.unsettled -= 1;
        self.finish_if_done(state.file);
    }

    fn finish_if_done(&mut self, file: FileKey) {
        let is_done = |f: &FileState| f.unsettled == 0 && f.known == f.facts.chunk_count;
        if self.files.get(&file).is_some_and(is_done) {
            self.finish(file, Report::Verified);
        }
    }

    /// The file is done with: it is told of, and what still comes in for it is passed over.
    fn finish(&mut self, file: FileKey, report: impl FnOnce(VerifiedFile) -> Report) {
        let Some(state) = self.files.remove(&file) else { return };
        if state.unsettled > 0 {
            self.chunks.retain(|_, chunk| chunk.file != file);
        }
        // What was not there to be read is not waited for.
        let expected = state.facts.size * u64::from(state.facts.copies);
        self.observer.advance(expected.saturating_sub(state.advanced));
        self.observer.file(OsStr::new(state.path.as_str()), OsStr::new(""), report(state.found));
    }
}
