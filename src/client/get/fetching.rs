//! Fetching chunks: from which node, what becomes of the bytes, and where to turn when a copy is no
//! good.

use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::landing::{Target, write_part};
use super::{Event, FileKey, Get};
use crate::causes::with_causes;
use crate::client::patience::pause_before;
use crate::client::read_chunk::{Wanted, read_chunks};
use crate::client::{ClientError, CopyFailure, Inner};
use crate::ids::{Address, NodeId};
use crate::wire::connection::CallError;
use crate::wire::frame::PayloadBuffer;
use crate::wire::to_main::{Locate, LocateReply, LocatedChunk};
use crate::wire::{FaultCode, MAX_ITEMS, Outcome};

/// Payload of one `fetch`, unless a single chunk is larger.
const FETCH_BYTES: usize = 4 << 20;
/// Fetches under way at the same time, and chunks of a stream that are in memory.
const FETCHES: usize = 6;
/// How long a node that failed is asked only when there is no other.
const TROUBLE: Duration = Duration::from_secs(20);

/// What is done with the bytes of a chunk.
pub(super) enum Place {
    /// They are a whole file.
    Whole(Target),
    /// They belong at this byte of this temporary file.
    Part(PathBuf, u64),
    /// This range of them is handed on, in its turn.
    Stream(Range<usize>),
}

/// A chunk to be fetched.
pub(super) struct Task {
    file: FileKey,
    index: u64,
    chunk: LocatedChunk,
    place: Place,
    /// The copy that is asked for now.
    copy: usize,
    /// What came of those that were asked for, since it was last said where they are.
    failures: Vec<CopyFailure>,
    rounds: u32,
}

impl Task {
    pub fn new(file: FileKey, index: u64, chunk: LocatedChunk, place: Place) -> Task {
        Task { file, index, chunk, place, copy: 0, failures: Vec::new(), rounds: 0 }
    }
}

/// What came of one chunk of a fetch.
enum TaskResult {
    /// The bytes are where they belong, or for a stream in the fetch's buffer.
    Done,
    /// This copy is no good.
    BadCopy { is_damaged: bool, why: String },
    /// They cannot be written here.
    Local(ClientError),
}

pub(super) struct FetchDone {
    node: NodeId,
    buffer: PayloadBuffer,
    results: Vec<(Task, TaskResult)>,
    /// The node itself failed, not merely a copy on it.
    is_node_failure: bool,
}

pub(super) struct LocateDone {
    tasks: Vec<Task>,
    reply: Result<LocateReply, ClientError>,
}

impl Get<'_> {
    /// Queues a chunk at the first node that has a copy which was not tried, those in no trouble
    /// first; without any, it is asked later where else there is one.
    pub(super) fn queue(&mut self, mut task: Task) {
        let now = Instant::now();
        self.troubled.retain(|_, since| now.duration_since(*since) < TROUBLE);
        let copies = &task.chunk.copies;
        let untried = |node: NodeId| task.failures.iter().all(|failure| failure.node != node);
        let mut left = (0..copies.len()).filter(|&copy| untried(copies[copy].node));
        let first = left.clone().next();
        let calm = left.find(|&copy| !self.troubled.contains_key(&copies[copy].node));
        match calm.or(first) {
            Some(copy) => {
                task.copy = copy;
                self.queued += 1;
                let queue = self.queues.entry(copies[copy].node).or_default();
                // A stream's chunks stand in their order, also after some were queued elsewhere:
                // so the one whose turn it is can always be fetched next.
                let at = match &task.place {
                    Place::Stream(_) => queue.partition_point(|t| t.index < task.index),
                    Place::Whole(_) | Place::Part(..) => queue.len(),
                };
                queue.insert(at, task);
            }
            None => self.give_up_or_wait(task),
        }
    }

    fn give_up_or_wait(&mut self, mut task: Task) {
        let (chunk, failures) = (task.chunk.id, task.failures.clone());
        let all_damaged = !failures.is_empty() && failures.iter().all(|f| f.is_damaged);
        let patience = self.inner.settings.patience.established;
        if all_damaged {
            return self.finish(task.file, Err(ClientError::Damaged { chunk, failures }));
        }
        if self.last_progress.elapsed() >= patience {
            let error = if failures.iter().any(|f| f.is_damaged) {
                ClientError::Damaged { chunk, failures }
            } else {
                ClientError::NoCopy { chunk, failures }
            };
            return self.finish(task.file, Err(error));
        }
        self.observer.waiting(&ClientError::NoCopy { chunk, failures }.to_string());
        task.rounds += 1;
        self.lost.push((Instant::now() + pause_before(task.rounds + 2), task));
    }

    /// Starts fetches, each time at the node with the fewest under way.
    pub(super) fn start_fetches(&mut self) {
        while self.fetching.values().sum::<usize>() + self.early.len() < FETCHES {
            let under_way = |node: &NodeId| self.fetching.get(node).copied().unwrap_or(0);
            let turn = self.turn;
            let ready = self.queues.iter().filter(|(_, queue)| {
                queue.front().is_some_and(|task| match &task.place {
                    Place::Stream(_) => task.index < turn + FETCHES as u64,
                    Place::Whole(_) | Place::Part(..) => true,
                })
            });
            let next = ready.min_by_key(|(node, queue)| {
                let index = queue.front().map_or(0, |task| task.index);
                (under_way(node), index)
            });
            let Some(node) = next.map(|(node, _)| *node) else { break };
            let tasks = self.take_tasks(node);
            self.start_fetch(node, tasks);
        }
    }

    /// What one fetch asks of a node: one chunk, or small ones together.
    fn take_tasks(&mut self, node: NodeId) -> Vec<Task> {
        let Some(queue) = self.queues.get_mut(&node) else { return Vec::new() };
        let mut tasks: Vec<Task> = Vec::new();
        let mut bytes = 0;
        while let Some(task) = queue.front() {
            let length = task.chunk.length as usize;
            let is_stream = matches!(task.place, Place::Stream(_));
            let is_full = tasks.len() == MAX_ITEMS || bytes + length > FETCH_BYTES || is_stream;
            if is_full && !tasks.is_empty() {
                break;
            }
            bytes += length;
            tasks.extend(queue.pop_front());
        }
        if queue.is_empty() {
            self.queues.remove(&node);
        }
        self.queued -= tasks.len();
        tasks
    }

    fn start_fetch(&mut self, node: NodeId, mut tasks: Vec<Task>) {
        tasks.retain(|task| self.files.contains_key(&task.file));
        if tasks.is_empty() {
            return;
        }
        *self.fetching.entry(node).or_default() += 1;
        let buffer = self.buffers.pop().unwrap_or_default();
        let address = self.addresses.get(&node).cloned();
        let inner = self.inner.clone();
        self.start(move || Event::Fetched(fetch(&inner, node, address, tasks, buffer)));
    }

    pub(super) fn fetch_done(
        &mut self,
        done: FetchDone,
        out: &mut dyn Write,
    ) -> Result<(), ClientError> {
        let FetchDone { node, buffer, results, is_node_failure } = done;
        if let Some(count) = self.fetching.get_mut(&node) {
            *count -= 1;
        }
        if is_node_failure {
            self.troubled.insert(node, Instant::now());
            let queued = self.queues.remove(&node).unwrap_or_default();
            self.queued -= queued.len();
            for task in queued {
                self.queue(task);
            }
        }
        let mut buffer = Some(buffer);
        for (mut task, result) in results {
            match (result, &task.place) {
                (TaskResult::Done, Place::Stream(range)) => {
                    let buffer = buffer.take().unwrap_or_default();
                    self.early.insert(task.index, (buffer, range.clone()));
                    self.hand_on(task.file, out)?;
                }
                (TaskResult::Done, _) => self.chunk_done(task.file, task.chunk.length.into()),
                (TaskResult::Local(error), _) => self.finish(task.file, Err(error)),
                (TaskResult::BadCopy { is_damaged, why }, _) => {
                    log::info!("a copy is no good chunk={} node={node} {why}", task.chunk.id);
                    task.failures.push(CopyFailure { node, is_damaged, why });
                    if self.files.contains_key(&task.file) {
                        self.queue(task);
                    }
                }
            }
        }
        self.buffers.extend(buffer);
        Ok(())
    }

    /// Hands on the chunks of the stream whose turn it is.
    fn hand_on(&mut self, file: FileKey, out: &mut dyn Write) -> Result<(), ClientError> {
        while let Some((buffer, range)) = self.early.remove(&self.turn) {
            let length = range.len() as u64;
            out.write_all(&buffer.as_slice()[range]).map_err(|source| ClientError::Io {
                doing: "write",
                path: PathBuf::from("-"),
                source,
            })?;
            self.buffers.push(buffer);
            self.turn += 1;
            self.chunk_done(file, length);
        }
        Ok(())
    }

    fn chunk_done(&mut self, file: FileKey, bytes: u64) {
        self.last_progress = Instant::now();
        let Some(state) = self.files.get_mut(&file) else { return };
        self.observer.advance(bytes);
        state.left -= 1;
        if state.left == 0 {
            let completed = state.to.complete(state.fetched.size);
            self.finish(file, completed);
        }
    }

    /// Asks anew where the chunks are that no copy could be had of.
    pub(super) fn start_locate(&mut self) {
        let now = Instant::now();
        if self.is_locating || !self.lost.iter().any(|(at, _)| *at <= now) {
            return;
        }
        let mut tasks = Vec::new();
        for (at, task) in std::mem::take(&mut self.lost) {
            if at <= now && tasks.len() < MAX_ITEMS {
                tasks.push(task);
            } else {
                self.lost.push((at, task));
            }
        }
        self.is_locating = true;
        let inner = self.inner.clone();
        self.start(move || {
            let request = Locate { chunks: tasks.iter().map(|task| task.chunk.id).collect() };
            Event::Located(LocateDone { reply: inner.call(&request), tasks })
        });
    }

    pub(super) fn locate_done(&mut self, done: LocateDone) -> Result<(), ClientError> {
        self.is_locating = false;
        let reply = done.reply?;
        self.addresses.extend(reply.nodes);
        let mut outcomes = reply.chunks.into_vec().into_iter();
        for mut task in done.tasks {
            // The reply may cover fewer chunks than were asked about.
            let Some(outcome) = outcomes.next() else {
                self.lost.push((Instant::now(), task));
                continue;
            };
            match outcome {
                Outcome::Ok(chunk) if chunk.length == task.chunk.length => {
                    // A damaged copy does not get better by being asked for again.
                    task.failures.retain(|failure| failure.is_damaged);
                    task.chunk = chunk;
                    self.queue(task);
                }
                Outcome::Ok(_) => {
                    let error = ClientError::Unsuitable("its chunks are not what they were");
                    self.finish(task.file, Err(error));
                }
                Outcome::Fault(fault) => {
                    self.finish(task.file, Err(ClientError::Refused(fault)));
                }
            }
        }
        Ok(())
    }
}

/// One fetch: reads the chunks and puts their bytes where they belong.
fn fetch(
    inner: &Inner,
    node: NodeId,
    address: Option<Address>,
    tasks: Vec<Task>,
    mut buffer: PayloadBuffer,
) -> FetchDone {
    let wanted: Vec<Wanted> = tasks.iter().map(|task| Wanted::of(&task.chunk, task.copy)).collect();
    let read = match &address {
        Some(address) => read_chunks(inner, node, address, &wanted, &mut buffer)
            .map_err(|error| (with_causes(&*error), is_node_failure(&error))),
        None => Err(("it has no address".to_string(), true)),
    };
    match read {
        Ok(reads) => {
            let place = |(task, read): (Task, Result<Range<usize>, crate::wire::Fault>)| {
                let result = match read {
                    Ok(range) => put_in_place(inner, &task.place, &buffer.as_slice()[range]),
                    Err(fault) => {
                        let is_damaged = fault.code == FaultCode::Damaged;
                        TaskResult::BadCopy { is_damaged, why: fault.message }
                    }
                };
                (task, result)
            };
            let results = tasks.into_iter().zip(reads).map(place).collect();
            FetchDone { node, buffer, results, is_node_failure: false }
        }
        Err((why, is_node_failure)) => {
            let failed = |task| (task, TaskResult::BadCopy { is_damaged: false, why: why.clone() });
            let results = tasks.into_iter().map(failed).collect();
            FetchDone { node, buffer, results, is_node_failure }
        }
    }
}

/// True unless the node merely said no to this one request.
fn is_node_failure(error: &CallError) -> bool {
    error.fault().is_none_or(|fault| fault.retryable)
}

fn put_in_place(inner: &Inner, place: &Place, bytes: &[u8]) -> TaskResult {
    let written = match place {
        Place::Whole(target) => inner.with_temporary(|| target.write_whole(bytes)),
        Place::Part(temporary, offset) => write_part(temporary, *offset, bytes)
            .map_err(|source| ClientError::Io { doing: "write", path: temporary.clone(), source }),
        Place::Stream(_) => Ok(()),
    };
    match written {
        Ok(()) => TaskResult::Done,
        Err(error) => TaskResult::Local(error),
    }
}
