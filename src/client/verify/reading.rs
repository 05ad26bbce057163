//! Reading copies: several of one node at a time, and what is made of one that is no good.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ChunkKey, CopyProblem, Event, ProblemCopy, Verify};
use crate::causes::with_causes;
use crate::client::cut::Cut;
use crate::client::error::is_transient;
use crate::client::patience::Tries;
use crate::client::read_chunk::{Read, Wanted, check_chunks, report_bad};
use crate::client::{ClientError, Inner};
use crate::ids::{Address, ChunkId, NodeId};
use crate::token::Token;
use crate::wire::connection::CallError;
use crate::wire::frame::PayloadBuffer;
use crate::wire::to_main::{Locate, LocatedChunk};
use crate::wire::{Fault, FaultCode, MAX_ITEMS, Outcome};

/// Payload of one read, unless a single chunk is larger.
const READ_BYTES: usize = 4 << 20;
/// Reads under way at the same time, and of these at one node.
const READS: usize = 8;
const READS_PER_NODE: usize = 3;
/// How long a node that could not be reached is not tried again.
const TROUBLE: Duration = Duration::from_secs(20);
/// How long a node that is busy or away is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Tokens that are asked for anew for one copy.
const RENEWALS: u32 = 3;

/// A copy to be read.
pub(super) struct Task {
    key: ChunkKey,
    wanted: Wanted,
}

impl Task {
    pub fn new(key: ChunkKey, id: ChunkId, length: u32, token: Token) -> Task {
        Task { key, wanted: Wanted { id, length, token } }
    }
}

/// What came of one copy.
enum Found {
    Good,
    Bad(CopyProblem),
    /// The books do not name it any more: the chunk is there now.
    Moved(LocatedChunk),
    /// The books do not know the chunk any more.
    Gone,
}

pub(super) struct ReadDone {
    node: NodeId,
    buffer: PayloadBuffer,
    found: Vec<(Task, Found)>,
    /// Why the node could not be reached, if it could not.
    trouble: Option<String>,
}

impl Verify<'_> {
    /// Starts reads, each time at the node with the fewest under way.
    pub(super) fn start_reads(&mut self) {
        let now = Instant::now();
        self.troubled.retain(|_, (since, _)| now.duration_since(*since) < TROUBLE);
        while self.reading.values().sum::<usize>() < READS {
            let under_way = |node: &NodeId| self.reading.get(node).copied().unwrap_or(0);
            let next = self.queues.keys().min_by_key(|node| under_way(node)).copied();
            let Some(node) = next.filter(|node| under_way(node) < READS_PER_NODE) else { break };
            let tasks = self.take_tasks(node);
            if tasks.is_empty() {
                continue;
            }
            if let Some((_, why)) = self.troubled.get(&node) {
                let why = why.clone();
                tasks.into_iter().for_each(|task| self.unreachable(node, &task, &why));
                continue;
            }
            *self.reading.entry(node).or_default() += 1;
            let buffer = self.buffers.pop().unwrap_or_default();
            let address = self.addresses.get(&node).cloned();
            let inner = self.inner.clone();
            self.start(move || Event::Read(read(&inner, node, address, tasks, buffer)));
        }
    }

    /// What one read asks of a node: one chunk, or small ones together.
    fn take_tasks(&mut self, node: NodeId) -> Vec<Task> {
        let Some(queue) = self.queues.get_mut(&node) else { return Vec::new() };
        let (mut tasks, mut bytes) = (Vec::new(), 0);
        while let Some(task) = queue.front() {
            bytes += task.wanted.length as usize;
            if !tasks.is_empty() && (tasks.len() == MAX_ITEMS || bytes > READ_BYTES) {
                break;
            }
            tasks.extend(queue.pop_front());
        }
        if queue.is_empty() {
            self.queues.remove(&node);
        }
        self.queued -= tasks.len();
        // Of a file that is done with, nothing needs to be known.
        tasks.retain(|task: &Task| self.chunks.contains_key(&task.key));
        tasks
    }

    pub(super) fn read_done(&mut self, done: ReadDone) {
        let node = done.node;
        if let Some(count) = self.reading.get_mut(&node) {
            *count -= 1;
        }
        self.buffers.push(done.buffer);
        if let Some(why) = done.trouble {
            self.observer.waiting(&format!("node {node} cannot be reached: {why}"));
            self.troubled.insert(node, (Instant::now(), why));
        }
        for (task, found) in done.found {
            match found {
                Found::Good => self.good(&task),
                Found::Bad(problem) => self.bad(node, &task, problem),
                Found::Moved(chunk) => self.moved(&task, chunk),
                Found::Gone => {
                    if let Some(file) = self.chunks.get(&task.key).map(|chunk| chunk.file) {
                        self.gone(file);
                    }
                }
            }
        }
    }

    fn unreachable(&mut self, node: NodeId, task: &Task, why: &str) {
        self.bad(node, task, CopyProblem::Unreachable(why.to_string()));
    }

    fn good(&mut self, task: &Task) {
        let Some(chunk) = self.chunks.get_mut(&task.key) else { return };
        chunk.good += 1;
        if let Some(file) = self.files.get_mut(&chunk.file) {
            file.found.good_copies += 1;
        }
        self.answered(task);
    }

    fn bad(&mut self, node: NodeId, task: &Task, what: CopyProblem) {
        let Some(chunk) = self.chunks.get(&task.key) else { return };
        if let Some(file) = self.files.get_mut(&chunk.file) {
            file.found.note(ProblemCopy { index: chunk.index, chunk: chunk.chunk.id, node, what });
        }
        self.answered(task);
    }

    fn moved(&mut self, task: &Task, chunk: LocatedChunk) {
        let Some(state) = self.chunks.get_mut(&task.key) else { return };
        // Settled there, if nothing else is asked for.
        state.unsettled -= 1;
        self.queue_copies(task.key, chunk);
    }

    /// One more copy of the chunk was looked at.
    fn answered(&mut self, task: &Task) {
        let Some(chunk) = self.chunks.get_mut(&task.key) else { return };
        chunk.unsettled -= 1;
        let is_settled = chunk.unsettled == 0;
        let length = u64::from(task.wanted.length);
        if let Some(file) = self.files.get_mut(&chunk.file) {
            file.advanced += length;
        }
        self.observer.advance(length);
        if is_settled {
            self.settle(task.key);
        }
    }
}

/// Reads copies of one node, and looks into each that is no good.
fn read(
    inner: &Inner,
    node: NodeId,
    address: Option<Address>,
    tasks: Vec<Task>,
    mut buffer: PayloadBuffer,
) -> ReadDone {
    let Some(address) = address else {
        return all_unreachable(node, buffer, tasks, "it has no address".to_string());
    };
    let (wanted, keys): (Vec<Wanted>, Vec<ChunkKey>) =
        tasks.into_iter().map(|task| (task.wanted, task.key)).unzip();
    let reader = Reader { inner, node, address: &address };
    let reads = reader.exchange(&wanted, &mut buffer);
    let tasks = keys.into_iter().zip(wanted).map(|(key, wanted)| Task { key, wanted });
    match reads {
        Err(error) => all_unreachable(node, buffer, tasks.collect(), with_causes(&error)),
        Ok(faults) => {
            let judge = |(mut task, fault): (Task, Option<Fault>)| {
                let found = match fault {
                    None => Found::Good,
                    Some(fault) => reader.judge(&mut task, fault, &mut buffer),
                };
                (task, found)
            };
            let found = tasks.zip(faults).map(judge).collect();
            ReadDone { node, buffer, found, trouble: None }
        }
    }
}

fn all_unreachable(node: NodeId, buffer: PayloadBuffer, tasks: Vec<Task>, why: String) -> ReadDone {
    let bad = |task| (task, Found::Bad(CopyProblem::Unreachable(why.clone())));
    let found = tasks.into_iter().map(bad).collect();
    ReadDone { node, buffer, found, trouble: Some(why) }
}

struct Reader<'a> {
    inner: &'a Inner,
    node: NodeId,
    address: &'a Address,
}

impl Reader<'_> {
    fn check(
        &self,
        wanted: &[Wanted],
        buffer: &mut PayloadBuffer,
    ) -> Result<Vec<Read>, Arc<CallError>> {
        // Nobody cuts it: every copy is to be read.
        check_chunks(self.inner, self.node, self.address, wanted, &Cut::default(), buffer)
    }

    /// One exchange, made again for a while when the node is busy or away. For each copy the fault
    /// that it has, if any.
    fn exchange(
        &self,
        wanted: &[Wanted],
        buffer: &mut PayloadBuffer,
    ) -> Result<Vec<Option<Fault>>, Arc<CallError>> {
        let mut tries = Tries::new(PATIENCE.min(self.inner.settings.patience.established));
        loop {
            let error = match self.check(wanted, buffer) {
                Ok(reads) => return Ok(reads.into_iter().map(Result::err).collect()),
                Err(error) => error,
            };
            let goes_on = is_transient(&error) && tries.pause(&self.inner.cancel).unwrap_or(false);
            if !goes_on {
                return Err(error);
            }
        }
    }

    /// What to make of a copy that was not read: the books may have changed since they were asked,
    /// and its token may be too old.
    fn judge(&self, task: &mut Task, mut fault: Fault, buffer: &mut PayloadBuffer) -> Found {
        for _ in 0..RENEWALS {
            if fault.code == FaultCode::Damaged {
                report_bad(self.inner, &task.wanted.token, &fault.message);
                return Found::Bad(CopyProblem::Damaged(fault.message));
            }
            let chunk = match self.locate(task.wanted.id) {
                Ok(chunk) => chunk,
                Err(ClientError::Refused(fault)) if fault.code == FaultCode::NotFound => {
                    return Found::Gone;
                }
                Err(error) => return unreachable(with_causes(&error)),
            };
            let Some(place) = chunk.copies.iter().find(|place| place.node == self.node) else {
                return Found::Moved(chunk);
            };
            // Copied here anew, or with a token that is good: it is worth another look.
            let is_same = place.token == task.wanted.token;
            task.wanted.token = place.token.clone();
            if is_same && fault.code == FaultCode::NotFound {
                break;
            }
            fault = match self.exchange(std::slice::from_ref(&task.wanted), buffer) {
                Ok(mut faults) => match faults.pop().flatten() {
                    None => return Found::Good,
                    Some(fault) => fault,
                },
                Err(error) => return unreachable(with_causes(&error)),
            };
        }
        match fault.code {
            FaultCode::Damaged => {
                report_bad(self.inner, &task.wanted.token, &fault.message);
                Found::Bad(CopyProblem::Damaged(fault.message))
            }
            FaultCode::NotFound => {
                report_bad(self.inner, &task.wanted.token, &fault.message);
                Found::Bad(CopyProblem::Missing)
            }
            _ => unreachable(fault.message),
        }
    }

    fn locate(&self, id: ChunkId) -> Result<LocatedChunk, ClientError> {
        let reply = self.inner.call(&Locate { chunks: vec![id].into() })?;
        match reply.chunks.into_vec().into_iter().next() {
            Some(Outcome::Ok(chunk)) => Ok(chunk),
            Some(Outcome::Fault(fault)) => Err(fault.into()),
            None => Err(ClientError::Unsuitable("the main server left the answer out")),
        }
    }
}

fn unreachable(why: String) -> Found {
    Found::Bad(CopyProblem::Unreachable(why))
}
