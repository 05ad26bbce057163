//! Fetching chunks: from which node, what becomes of the bytes, and where to turn when a copy is no
//! good.

use std::collections::VecDeque;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hedging::{Attempts, HEDGED_BYTES, Running};
use super::landing::{Target, write_part};
use super::{Event, FileKey, Get};
use crate::causes::with_causes;
use crate::client::cut::Cut;
use crate::client::patience::pause_before;
use crate::client::read_chunk::{Wanted, read_chunks};
use crate::client::{ClientError, CopyFailure, Inner};
use crate::ids::{Address, NodeId};
use crate::wire::connection::CallError;
use crate::wire::frame::PayloadBuffer;
use crate::wire::to_main as wire;
use crate::wire::to_main::{Locate, LocateReply, LocatedChunk};
use crate::wire::{FaultCode, MAX_ITEMS, Outcome};

/// Payload of one `fetch`, unless a single chunk is larger.
const FETCH_BYTES: usize = 4 << 20;
/// Fetches under way at the same time, and chunks of a stream that are in memory.
const FETCHES: usize = 10;
/// How many of the chunks that wait are looked at for the next fetch.
const LOOKAHEAD: usize = 32;
/// How long a node that failed is asked only when there is no other.
const TROUBLE: Duration = Duration::from_secs(20);

/// What is done with the bytes of a chunk.
#[derive(Clone)]
pub(super) enum Place {
    /// They are a whole file.
    Whole(Target),
    /// They belong at this byte of this temporary file.
    Part(PathBuf, u64),
    /// This range of them is handed on, in its turn.
    Stream(Range<usize>),
}

/// A chunk to be fetched.
#[derive(Clone)]
pub(super) struct Task {
    file: FileKey,
    index: u64,
    pub chunk: LocatedChunk,
    place: Place,
    /// The copy that is asked for now.
    copy: usize,
    /// Shared with those who ask for another copy meanwhile.
    pub attempts: Arc<Attempts>,
    /// What came of those that were asked for, since it was last said where they are.
    pub failures: Vec<CopyFailure>,
    rounds: u32,
}

impl Task {
    pub fn new(file: FileKey, index: u64, chunk: LocatedChunk, place: Place) -> Task {
        let (attempts, failures) = (Arc::default(), Vec::new());
        Task { file, index, chunk, place, copy: 0, attempts, failures, rounds: 0 }
    }

    /// The same, asked for by this copy.
    pub fn by_copy(mut self, copy: usize) -> Task {
        self.copy = copy;
        self
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
    /// Another fetch had them first.
    Late,
}

/// One fetch, as the thread that does it needs it.
struct Fetching {
    number: u64,
    node: NodeId,
    address: Option<Address>,
    tasks: Vec<Task>,
    cut: Arc<Cut>,
    buffer: PayloadBuffer,
}

pub(super) struct FetchDone {
    number: u64,
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
    /// Lets a chunk wait for a fetch, if there is a copy that was not tried; without any, it is asked
    /// later where else there is one.
    pub(super) fn queue(&mut self, task: Task) {
        let now = Instant::now();
        self.troubled.retain(|_, since| now.duration_since(*since) < TROUBLE);
        if self.best_copy(&task, None).is_none() {
            return self.give_up_or_wait(task);
        }
        // A stream's chunks stand in their order, also after one was tried in vain: so the one whose
        // turn it is can always be fetched next.
        let at = match &task.place {
            Place::Stream(_) => self.waiting.partition_point(|other| other.index < task.index),
            Place::Whole(_) | Place::Part(..) => self.waiting.len(),
        };
        self.waiting.insert(at, task);
    }

    /// The copy that would be here first, of those that were not tried: if there is one, one on a
    /// node in no trouble. With `except`, none on this node, and none on one in trouble.
    pub(super) fn best_copy(&self, task: &Task, except: Option<NodeId>) -> Option<usize> {
        let bytes = u64::from(task.chunk.length);
        let untried = |node: NodeId| task.failures.iter().all(|failure| failure.node != node);
        let left = task.chunk.copies.iter().enumerate().filter(|(_, copy)| {
            let is_other = Some(copy.node) != except;
            is_other && untried(copy.node)
        });
        let calm = left.clone().filter(|(_, copy)| !self.troubled.contains_key(&copy.node));
        // Of equal ones the first, as the main server has them in order.
        let first_here = |copies: &mut dyn Iterator<Item = (usize, &wire::Place)>| {
            let expected = copies.map(|(at, copy)| (self.paces.expected(copy.node, bytes), at));
            expected.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, at)| at)
        };
        let best = first_here(&mut calm.clone());
        if except.is_some() { best } else { best.or_else(|| first_here(&mut left.clone())) }
    }

    /// The copy with which a small chunk joins others: the first in the main server's order, which
    /// spreads them, that is on no slow node.
    fn usual_copy(&self, task: &Task) -> Option<usize> {
        let is_usual = |node: NodeId| {
            let untried = task.failures.iter().all(|failure| failure.node != node);
            untried && !self.troubled.contains_key(&node) && !self.paces.is_slow(node)
        };
        task.chunk.copies.iter().position(|copy| is_usual(copy.node))
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

    /// Starts fetches for as long as there may be more: always the one that would end first.
    pub(super) fn start_fetches(&mut self) {
        let is_first = |running: &&Running| !running.is_hedge;
        while self.running.iter().filter(is_first).count() + self.early.len() < FETCHES {
            let Some((at, copy)) = self.next_to_fetch() else { break };
            let (node, tasks) = self.take_tasks(at, copy);
            self.start_fetch(node, tasks, false);
        }
    }

    /// Which of the chunks that wait, and which of its copies, would be here first. So a node with
    /// nothing to do is asked next, if it has anything that is wanted soon.
    fn next_to_fetch(&self) -> Option<(usize, usize)> {
        let is_near = |task: &Task| match &task.place {
            Place::Stream(_) => task.index < self.turn + FETCHES as u64,
            Place::Whole(_) | Place::Part(..) => true,
        };
        let near = self.waiting.iter().take(LOOKAHEAD).take_while(|task| is_near(task));
        let choices = near.enumerate().filter_map(|(at, task)| {
            let copy = self.best_copy(task, None)?;
            let node = task.chunk.copies[copy].node;
            Some((self.paces.expected(node, task.chunk.length.into()), at, copy))
        });
        choices.min_by(|(a, ..), (b, ..)| a.total_cmp(b)).map(|(_, at, copy)| (at, copy))
    }

    /// What one fetch asks of a node: this chunk, or small ones together.
    fn take_tasks(&mut self, at: usize, copy: usize) -> (NodeId, Vec<Task>) {
        let first = self.waiting.remove(at).expect("it was just chosen").by_copy(copy);
        let node = first.chunk.copies[copy].node;
        let mut bytes = first.chunk.length as usize;
        let mut is_full = bytes >= FETCH_BYTES || matches!(first.place, Place::Stream(_));
        let mut tasks = vec![first];
        if is_full {
            return (node, tasks);
        }
        let mut rest = VecDeque::with_capacity(self.waiting.len());
        for task in std::mem::take(&mut self.waiting) {
            let length = task.chunk.length as usize;
            is_full |= tasks.len() == MAX_ITEMS || bytes + length > FETCH_BYTES;
            let usual = if is_full { None } else { self.usual_copy(&task) };
            match usual.filter(|&copy| task.chunk.copies[copy].node == node) {
                Some(copy) => {
                    bytes += length;
                    tasks.push(task.by_copy(copy));
                }
                None => rest.push_back(task),
            }
        }
        self.waiting = rest;
        (node, tasks)
    }

    pub(super) fn start_fetch(&mut self, node: NodeId, mut tasks: Vec<Task>, is_hedge: bool) {
        tasks.retain(|task| self.files.contains_key(&task.file));
        if tasks.is_empty() {
            return;
        }
        self.fetches += 1;
        let number = self.fetches;
        let bytes = tasks.iter().map(|task| u64::from(task.chunk.length)).sum();
        let shared_bytes = self.paces.begin(node, bytes);
        let at_the_node = self.running.iter_mut().filter(|running| running.node == node);
        at_the_node.for_each(|running| running.shared_bytes += bytes);
        let cut = Arc::new(Cut::default());
        self.running.push(Running {
            number,
            node,
            bytes,
            shared_bytes,
            since: Instant::now(),
            cut: cut.clone(),
            tasks: if is_hedge || bytes >= HEDGED_BYTES { tasks.clone() } else { Vec::new() },
            is_hedge,
            is_hedged: is_hedge,
        });
        let buffer = self.buffers.pop().unwrap_or_default();
        let address = self.addresses.get(&node).cloned();
        let inner = self.inner.clone();
        self.start(move || {
            Event::Fetched(fetch(&inner, Fetching { number, node, address, tasks, cut, buffer }))
        });
    }

    pub(super) fn fetch_done(
        &mut self,
        done: FetchDone,
        out: &mut dyn Write,
    ) -> Result<(), ClientError> {
        let FetchDone { number, node, buffer, results, is_node_failure } = done;
        let Some(at) = self.running.iter().position(|running| running.number == number) else {
            // Others have brought all of it.
            self.abandoned -= 1;
            self.buffers.push(buffer);
            return Ok(());
        };
        let running = self.running.swap_remove(at);
        self.paces.end(node, running.bytes);
        if is_node_failure {
            self.troubled.insert(node, Instant::now());
        } else {
            self.paces.learn(node, running.shared_bytes, running.since.elapsed());
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
                (TaskResult::Late, _) => {}
                (TaskResult::Local(error), _) => self.finish(task.file, Err(error)),
                (TaskResult::BadCopy { is_damaged, why }, _) => {
                    log::info!("a copy is no good chunk={} node={node} {why}", task.chunk.id);
                    let is_left_to_others =
                        self.copy_failed(&task, CopyFailure { node, is_damaged, why });
                    // One that is in its place already is not wanted again: it could only fail.
                    let is_settled = is_left_to_others || task.attempts.is_claimed();
                    if self.files.contains_key(&task.file) && !is_settled {
                        task.attempts.hand_failures_to(&mut task.failures);
                        self.queue(task);
                    }
                }
            }
        }
        self.buffers.extend(buffer);
        self.abandon_losers();
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
fn fetch(inner: &Inner, fetching: Fetching) -> FetchDone {
    let Fetching { number, node, address, tasks, cut, mut buffer } = fetching;
    let wanted: Vec<Wanted> = tasks.iter().map(|task| Wanted::of(&task.chunk, task.copy)).collect();
    let read = match &address {
        Some(address) => read_chunks(inner, node, address, &wanted, &cut, &mut buffer)
            .map_err(|error| (with_causes(&*error), is_node_failure(&error))),
        None => Err(("it has no address".to_string(), true)),
    };
    match read {
        Ok(reads) => {
            let place = |(task, read): (Task, Result<Range<usize>, crate::wire::Fault>)| {
                let result = match read {
                    Ok(_) if !task.attempts.claim(number) => TaskResult::Late,
                    Ok(range) => put_in_place(inner, &task.place, &buffer.as_slice()[range]),
                    Err(fault) => {
                        let is_damaged = fault.code == FaultCode::Damaged;
                        TaskResult::BadCopy { is_damaged, why: fault.message }
                    }
                };
                (task, result)
            };
            let results = tasks.into_iter().zip(reads).map(place).collect();
            FetchDone { number, node, buffer, results, is_node_failure: false }
        }
        Err((why, is_node_failure)) => {
            let failed = |task| (task, TaskResult::BadCopy { is_damaged: false, why: why.clone() });
            let results = tasks.into_iter().map(failed).collect();
            FetchDone { number, node, buffer, results, is_node_failure }
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
