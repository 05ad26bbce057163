//! Where chunks go, and their way there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::PieceRef;
use super::{Delayed, Event, Put};
use crate::causes::with_causes;
use crate::client::ClientError;
use crate::client::patience::pause_before;
use crate::ids::{Address, NodeId};
use crate::token::Token;
use crate::wire::connection::CallError;
use crate::wire::to_main::{AllocateChunk, AllocateReply, Allocated};
use crate::wire::to_node::{StoreChunk, StoredChunk};
use crate::wire::{Fault, FaultCode, MAX_ITEMS, Outcome};

/// Payload of one `store`, unless a single chunk is larger: small enough that the next one can be
/// on its way while a node syncs this one.
const STORE_BYTES: usize = 4 << 20;
/// How long a node may take to make chunks durable and to duplicate them.
const ANSWER: Duration = Duration::from_secs(45);
/// How long to wait for room on full nodes: about two heartbeats, which tell of it.
const BRIEF: Duration = Duration::from_secs(10);
/// Tries for a chunk whose fault does not get better with time.
const TRIES: u32 = 3;

pub(super) struct AllocateDone {
    chunks: Vec<PieceRef>,
    reply: Result<AllocateReply, ClientError>,
}

pub(super) struct StoreDone {
    node: NodeId,
    chunks: Vec<PieceRef>,
    result: Result<Vec<Outcome<StoredChunk>>, Arc<CallError>>,
}

impl Put<'_> {
    /// Asks where the chunks go that wait for a place, unless that is being asked.
    pub(super) fn start_allocate(&mut self) {
        if self.is_allocating || self.unplaced.is_empty() {
            return;
        }
        self.is_allocating = true;
        let count = self.unplaced.len().min(MAX_ITEMS);
        let chunks: Vec<PieceRef> = self.unplaced.drain(..count).collect();
        let (inner, copies) = (self.inner.clone(), self.options.copies);
        self.start(move || {
            let wanted = |c: &PieceRef| AllocateChunk { id: c.piece().id, length: c.length() };
            let reply = inner.allocate(copies, chunks.iter().map(wanted).collect());
            Event::Allocated(AllocateDone { chunks, reply })
        });
    }

    pub(super) fn allocate_done(&mut self, done: AllocateDone) -> Result<(), ClientError> {
        self.is_allocating = false;
        let reply = match done.reply {
            Ok(reply) => reply,
            Err(ClientError::Refused(fault)) => {
                return self.try_later(done.chunks, ClientError::Refused(fault));
            }
            Err(error) => return Err(error),
        };
        self.addresses.extend(reply.nodes);
        let mut by_node: BTreeMap<NodeId, Vec<(PieceRef, Token)>> = BTreeMap::new();
        for (chunk, outcome) in done.chunks.into_iter().zip(reply.chunks.into_vec()) {
            match outcome {
                Outcome::Ok(Allocated::Stored { .. }) => self.chunk_done(&chunk, false),
                Outcome::Ok(Allocated::Store(place)) => {
                    by_node.entry(place.node).or_default().push((chunk, place.token));
                }
                Outcome::Fault(fault) => {
                    self.try_later(vec![chunk], ClientError::Refused(fault))?;
                }
            }
        }
        for (node, chunks) in by_node {
            self.start_stores(node, chunks);
        }
        Ok(())
    }

    fn start_stores(&mut self, node: NodeId, chunks: Vec<(PieceRef, Token)>) {
        let Some(address) = self.addresses.get(&node).cloned() else {
            log::warn!("the main server left out an address node={node}");
            self.delay(chunks.into_iter().map(|(chunk, _)| chunk).collect(), 1);
            return;
        };
        let mut message = Vec::new();
        let mut bytes = 0;
        for (chunk, token) in chunks {
            let length = chunk.bytes().len();
            if !message.is_empty() && bytes + length > STORE_BYTES {
                self.start_store(node, address.clone(), std::mem::take(&mut message));
                bytes = 0;
            }
            bytes += length;
            message.push((chunk, token));
        }
        self.start_store(node, address, message);
    }

    fn start_store(&mut self, node: NodeId, address: Address, chunks: Vec<(PieceRef, Token)>) {
        let inner = self.inner.clone();
        self.start(move || {
            let named = chunks.iter().map(|(chunk, token)| {
                let (id, length, token) = (chunk.piece().id, chunk.length(), token.clone());
                (StoreChunk { id, length, token }, chunk.clone())
            });
            let result = inner.store(node, &address, named.collect(), ANSWER);
            let chunks = chunks.into_iter().map(|(chunk, _)| chunk).collect();
            Event::Stored(StoreDone { node, chunks, result })
        });
    }

    pub(super) fn store_done(&mut self, done: StoreDone) -> Result<(), ClientError> {
        let node = done.node;
        let outcomes = match done.result {
            Ok(outcomes) => outcomes,
            Err(source) => {
                if let Some(fault) = source.fault() {
                    return self.try_later(done.chunks, ClientError::Refused(fault.clone()));
                }
                log::info!("a node did not take chunks node={node} {}", with_causes(&*source));
                return self.try_later(done.chunks, ClientError::Node { node, source });
            }
        };
        for (chunk, outcome) in done.chunks.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Ok(_) => self.chunk_done(&chunk, true),
                Outcome::Fault(fault) => {
                    log::info!("a node refused a chunk node={node} {fault}");
                    self.try_later(vec![chunk], ClientError::Refused(fault))?;
                }
            }
        }
        Ok(())
    }

    /// The chunk is stored, and so are those with the same bytes that waited for it.
    fn chunk_done(&mut self, chunk: &PieceRef, was_sent: bool) {
        self.progressed();
        let way = self.on_their_way.remove(&chunk.piece().id).unwrap_or_default();
        self.piece_done(chunk, was_sent);
        for follower in &way.followers {
            self.piece_done(follower, false);
        }
    }

    fn piece_done(&mut self, chunk: &PieceRef, was_sent: bool) {
        let file = chunk.piece().file;
        let Some(state) = self.files.get_mut(&file) else { return };
        state.left -= 1;
        let length = u64::from(chunk.length());
        if was_sent {
            state.sent_bytes += length;
        }
        if state.doubted.is_none() {
            self.observer.advance(length);
        }
        if state.is_ready() {
            self.ready.push_back(file);
        }
    }

    /// Chunks that could not be stored now go back to be placed anew after a pause; the main server
    /// knows by then of the node that failed. When there is no sense in that, this is the end of
    /// the files that they belong to, or of everything.
    fn try_later(&mut self, chunks: Vec<PieceRef>, error: ClientError) -> Result<(), ClientError> {
        let mut tries = 1;
        for chunk in &chunks {
            if let Some(way) = self.on_their_way.get_mut(&chunk.piece().id) {
                way.tries += 1;
                tries = tries.max(way.tries);
            }
        }
        match verdict(&error) {
            Verdict::FailFiles => {
                self.fail_chunks(&chunks, &error);
                return Ok(());
            }
            Verdict::Few if tries > TRIES => return Err(error),
            Verdict::Few => {}
            Verdict::Patient { worth_waiting } if self.is_hopeless(worth_waiting) => {
                return Err(error);
            }
            Verdict::Brief if self.last_progress.elapsed() >= self.brief_patience() => {
                return Err(error);
            }
            Verdict::Patient { .. } | Verdict::Brief => {
                self.observer.waiting(&with_causes(&error));
            }
        }
        self.delay(chunks, tries);
        Ok(())
    }

    fn brief_patience(&self) -> Duration {
        BRIEF.min(self.inner.settings.patience.established)
    }

    fn delay(&mut self, chunks: Vec<PieceRef>, tries: u32) {
        self.delayed.push((Instant::now() + pause_before(tries), Delayed::Chunks(chunks)));
    }

    fn fail_chunks(&mut self, chunks: &[PieceRef], error: &ClientError) {
        for chunk in chunks {
            let way = self.on_their_way.remove(&chunk.piece().id).unwrap_or_default();
            let pieces = std::iter::once(chunk).chain(&way.followers);
            let files: Vec<_> = pieces.map(|c| c.piece().file).collect();
            for file in files {
                let fault = error.fault().cloned().expect("only a fault fails single files");
                self.finish(file, Err(ClientError::Refused(fault)));
            }
        }
    }
}

/// What to do about chunks that could not be stored.
enum Verdict {
    /// These bytes cannot be stored.
    FailFiles,
    /// It should not happen, and happens again if it is no accident.
    Few,
    /// It can get better by itself, and with `worth_waiting` is likely to.
    Patient { worth_waiting: bool },
    /// It can get better, but not by itself: only what the main server knows may be a moment old.
    Brief,
}

fn verdict(error: &ClientError) -> Verdict {
    let fault = match error {
        ClientError::Refused(fault) => fault,
        _ => return Verdict::Patient { worth_waiting: true },
    };
    match fault.code {
        FaultCode::HashUnsafe => Verdict::FailFiles,
        FaultCode::NoSpace if !is_passing(fault) => Verdict::Brief,
        FaultCode::NoSpace | FaultCode::TooFewNodes => {
            Verdict::Patient { worth_waiting: is_passing(fault) }
        }
        code if code.is_retryable() => Verdict::Patient { worth_waiting: true },
        _ => Verdict::Few,
    }
}

/// True when a node that is missing now may well be back soon.
fn is_passing(fault: &Fault) -> bool {
    fault.nodes.iter().any(|node| matches!(node.why.as_str(), "suspect" | "returning" | "slow"))
}
