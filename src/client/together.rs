//! The requests that operations of one client make together when they run at the same time: opening,
//! placing, storing, committing and fetching small things.
//!
//! What is asked of a server is the same as if each had asked alone, each part with its own outcome.
//! What is large goes alone, and so do requests that do not fit in with others.

use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::cut::Cut;
use super::desk::{Desks, parts};
use super::put::PieceRef;
use super::{ClientError, Inner};
use crate::ids::{Address, NodeId, RequestId};
use crate::wire::Connection;
use crate::wire::connection::CallError;
use crate::wire::frame::PayloadBuffer;
use crate::wire::to_main::{
    Allocate, AllocateChunk, AllocateReply, Commit, CommitFile, CommitReply, CommittedFile, Open,
    OpenFile, OpenReply,
};
use crate::wire::to_node::{Fetch, FetchChunk, FetchedChunk, Store, StoreChunk, StoredChunk};
use crate::wire::{MAX_PART_CHUNKS, Outcome};

/// What has more items than this has no use for company.
const FEW: usize = 64;
/// Payload bytes of what goes together.
const PAYLOAD_BYTES: usize = 1 << 20;
/// Payload bytes of one asker; what has more is worth a message of its own.
const SMALL_BYTES: usize = 64 * 1024;
/// What the texts of one message may take of its JSON, escapes included.
const TEXT_BYTES: usize = 256 * 1024;
/// What a chunk's name takes of it at most.
const NAME_BYTES: usize = TEXT_BYTES / MAX_PART_CHUNKS;

/// Exchanges at the same time at one desk. What ends in a sync is best asked all together: of 4 KiB
/// puts, 16 at a time, that took 0.7 ms of CPU each, with two exchanges 0.95, each on its own 0.98.
const WRITES: usize = 1;
/// What is only read keeps a core busy for most of an exchange, here or at the server: of 4 KiB gets,
/// 16 at a time on 2 cores, one exchange took 109 us of CPU each (17,360 a second), two 118 (16,550),
/// three 123 (16,070). So there is one for every two cores, and no more than this.
const MAX_READS: usize = 3;

type StoredChunks = Vec<Outcome<StoredChunk>>;

/// A chunk's outcome and its bytes.
type Fetched = (Outcome<FetchedChunk>, Vec<u8>);

/// The desks at which operations meet.
pub(super) struct Together {
    opens: Desks<(), OpenFile, OpenReply, ClientError>,
    /// By the copies wanted.
    allocates: Desks<u8, AllocateChunk, AllocateReply, ClientError>,
    commits: Desks<(), CommitFile, Vec<Outcome<CommittedFile>>, ClientError>,
    stores: Desks<NodeId, (StoreChunk, PieceRef), StoredChunks, CallError>,
    fetches: Desks<NodeId, FetchChunk, Vec<Fetched>, CallError>,
}

impl Together {
    pub fn new() -> Together {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let reads = (cores / 2).clamp(1, MAX_READS);
        Together {
            opens: Desks::new(reads, TEXT_BYTES),
            allocates: Desks::new(WRITES, usize::MAX),
            commits: Desks::new(WRITES, TEXT_BYTES),
            stores: Desks::new(WRITES, PAYLOAD_BYTES),
            fetches: Desks::new(reads, PAYLOAD_BYTES),
        }
    }
}

impl Inner {
    /// Asks for the chunks of files. The reply may cover fewer, but the first.
    pub(super) fn open(&self, files: Vec<OpenFile>) -> Result<OpenReply, ClientError> {
        let call = |files: Vec<OpenFile>| self.call(&Open { files: files.into(), explain: false });
        if files.len() > FEW {
            return call(files);
        }
        let weight = files.iter().map(|file| text_bytes(&file.path)).sum();
        let together = self.together.opens.ask(&(), files.clone(), weight, |all, counts| {
            let OpenReply { nodes, files } = call(all)?;
            let parts = parts(files.into_vec(), counts).into_iter();
            Ok(parts.map(|f| OpenReply { nodes: nodes.clone(), files: f.into() }).collect())
        });
        match together {
            Some(Ok(reply)) if !reply.files.is_empty() => Ok(reply),
            Some(Err(error)) => Err(own(error)),
            // The reply ended before this one's part.
            Some(Ok(_)) | None => call(files),
        }
    }

    /// Asks where chunks go. Each of them is answered.
    pub(super) fn allocate(
        &self,
        copies: u8,
        chunks: Vec<AllocateChunk>,
    ) -> Result<AllocateReply, ClientError> {
        let call = |chunks: Vec<AllocateChunk>| {
            let wanted = chunks.len();
            let reply = self.call(&Allocate { copies, chunks: chunks.into() })?;
            // Chunks without an answer would be on their way for ever.
            let why = "the main server left out answers to an allocate";
            if reply.chunks.len() == wanted { Ok(reply) } else { Err(ClientError::Unsuitable(why)) }
        };
        if chunks.len() > FEW {
            return call(chunks);
        }
        let together = self.together.allocates.ask(&copies, chunks.clone(), 0, |all, counts| {
            let AllocateReply { nodes, chunks, lease_until } = call(all)?;
            let part = |chunks: Vec<_>| {
                let (nodes, chunks) = (nodes.clone(), chunks.into());
                AllocateReply { nodes, chunks, lease_until }
            };
            Ok(parts(chunks.into_vec(), counts).into_iter().map(part).collect())
        });
        together.map_or_else(|| call(chunks), |reply| reply.map_err(own))
    }

    /// Makes files visible, whose parts are staged already. Each of them is answered.
    pub(super) fn commit(
        &self,
        files: Vec<CommitFile>,
    ) -> Result<Vec<Outcome<CommittedFile>>, ClientError> {
        let call = |files: Vec<CommitFile>| {
            let (request_id, wanted) = (RequestId::random(), files.len());
            let CommitReply { files } = self.call(&Commit { request_id, files: files.into() })?;
            let why = "the main server left out answers to a commit";
            if files.len() == wanted {
                Ok(files.into_vec())
            } else {
                Err(ClientError::Unsuitable(why))
            }
        };
        let names = |file: &CommitFile| file.chunks.as_ref().map_or(0, |chunks| chunks.len());
        let weigh = |file: &CommitFile| text_bytes(&file.path) + names(file) * NAME_BYTES;
        let weight = files.iter().map(weigh).sum();
        if files.len() > FEW || weight > TEXT_BYTES / 4 {
            return call(files);
        }
        let together = self
            .together
            .commits
            .ask(&(), files.clone(), weight, |all, counts| Ok(parts(call(all)?, counts)));
        // Asked for a second time, at worst: that makes the same files visible once more.
        together.map_or_else(|| call(files), |reply| reply.map_err(own))
    }

    /// Brings chunks to a node and waits for at most `patience` until it has them durable.
    pub(super) fn store(
        &self,
        node: NodeId,
        address: &Address,
        chunks: Vec<(StoreChunk, PieceRef)>,
        patience: Duration,
    ) -> Result<StoredChunks, Arc<CallError>> {
        let call = |chunks: Vec<(StoreChunk, PieceRef)>| {
            let (named, pieces): (Vec<_>, Vec<_>) = chunks.into_iter().unzip();
            let request = Store { chunks: named.into() };
            let payload: Vec<&[u8]> = pieces.iter().map(PieceRef::bytes).collect();
            let outcomes = self.with_node(node, address, |connection| {
                connection.set_answer_timeout(patience);
                connection.send(&request, &payload)?;
                Ok(connection.receive::<Store>()?.chunks.into_vec())
            })?;
            whole(address, outcomes, pieces.len())
        };
        let weight = chunks.iter().map(|(chunk, _)| chunk.length as usize).sum();
        if chunks.len() > FEW || weight > SMALL_BYTES {
            return call(chunks).map_err(Arc::new);
        }
        let together = self
            .together
            .stores
            .ask(&node, chunks.clone(), weight, |all, counts| Ok(parts(call(all)?, counts)));
        together.unwrap_or_else(|| call(chunks).map_err(Arc::new))
    }

    /// Reads whole chunks of `bytes` bytes in all, as they are on the node, into `payload`: those of
    /// the good outcomes, one after the other. What is large goes alone, and `cut` can end it.
    pub(super) fn fetch(
        &self,
        node: NodeId,
        address: &Address,
        chunks: Vec<FetchChunk>,
        bytes: usize,
        cut: &Cut,
        payload: &mut PayloadBuffer,
    ) -> Result<Vec<Outcome<FetchedChunk>>, Arc<CallError>> {
        let talk = |request: &Fetch, payload: &mut PayloadBuffer, connection: &mut Connection| {
            connection.set_answer_timeout(super::read_chunk::FIRST_BYTE);
            connection.send(request, &[])?;
            let reply = connection.receive::<Fetch>()?;
            connection.read_payload(payload, |_| {})?;
            Ok(reply.chunks.into_vec())
        };
        let wanted = chunks.len();
        if wanted > FEW || bytes > SMALL_BYTES {
            let request = Fetch { chunks: chunks.into() };
            let outcomes = self.with_node(node, address, |connection| {
                cut.watch(connection, |connection| talk(&request, payload, connection))
            })?;
            return Ok(whole(address, outcomes, wanted)?);
        }
        let call = |chunks: Vec<FetchChunk>, payload: &mut PayloadBuffer| {
            let (wanted, request) = (chunks.len(), Fetch { chunks: chunks.into() });
            let outcomes =
                self.with_node(node, address, |connection| talk(&request, payload, connection))?;
            whole(address, outcomes, wanted)
        };
        let together = self.together.fetches.ask(&node, chunks.clone(), bytes, |all, counts| {
            let outcomes = call(all, payload)?;
            Ok(parts(with_bytes(outcomes, payload.as_slice()), counts))
        });
        match together {
            Some(fetched) => {
                payload.clear();
                let keep = |(outcome, bytes): Fetched| {
                    payload.extend(&bytes);
                    outcome
                };
                fetched.map(|fetched| fetched.into_iter().map(keep).collect())
            }
            None => call(chunks, payload).map_err(Arc::new),
        }
    }
}

/// What a path takes of a message at most.
fn text_bytes(path: &str) -> usize {
    2 * path.len() + 256
}

/// The error for one of those who share it.
fn own(error: Arc<ClientError>) -> ClientError {
    Arc::try_unwrap(error).unwrap_or_else(|error| error.again())
}

fn whole<T>(address: &Address, outcomes: Vec<T>, wanted: usize) -> Result<Vec<T>, CallError> {
    if outcomes.len() == wanted {
        return Ok(outcomes);
    }
    let what = format!("{} answers to {wanted} chunks", outcomes.len());
    Err(CallError::BadReply { address: address.clone(), what })
}

/// Each outcome with its bytes of the payload: fewer than it says where the payload ends early.
fn with_bytes(outcomes: Vec<Outcome<FetchedChunk>>, mut payload: &[u8]) -> Vec<Fetched> {
    let cut = |outcome: Outcome<FetchedChunk>| {
        let length = match &outcome {
            Outcome::Ok(fetched) => fetched.length as usize,
            Outcome::Fault(_) => 0,
        };
        let (bytes, rest) = payload.split_at(length.min(payload.len()));
        payload = rest;
        (outcome, bytes.to_vec())
    };
    outcomes.into_iter().map(cut).collect()
}
