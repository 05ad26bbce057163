//! Reading chunks from one node: what is asked for, what came, and whether it is what it should be.

use std::sync::Arc;
use std::time::Duration;

use crate::ids::{Address, ChunkId, NodeId};
use crate::token::Token;
use crate::wire::connection::CallError;
use crate::wire::frame::PayloadBuffer;
use crate::wire::to_main::{BadCopy, LocatedChunk};
use crate::wire::to_node::FetchChunk;
use crate::wire::{Fault, FaultCode};

use super::Inner;
use super::cut::Cut;

/// How long a node may take before the first byte of a chunk; there are other copies to ask.
pub(super) const FIRST_BYTE: Duration = Duration::from_secs(10);

/// A chunk wanted from a node.
pub(super) struct Wanted {
    pub id: ChunkId,
    pub length: u32,
    pub token: Token,
}

impl Wanted {
    /// The chunk by its copy number `copy`.
    pub fn of(chunk: &LocatedChunk, copy: usize) -> Wanted {
        Wanted { id: chunk.id, length: chunk.length, token: chunk.copies[copy].token.clone() }
    }
}

/// Where a chunk's bytes are in the payload, or why they are not there.
pub(super) type Read = Result<std::ops::Range<usize>, Fault>;

/// Reads the chunks in one exchange, and checks every byte of them. A damaged one is reported to
/// the main server.
pub(super) fn read_chunks(
    inner: &Inner,
    node: NodeId,
    address: &Address,
    wanted: &[Wanted],
    cut: &Cut,
    payload: &mut PayloadBuffer,
) -> Result<Vec<Read>, Arc<CallError>> {
    let reads = check_chunks(inner, node, address, wanted, cut, payload)?;
    for (read, wanted) in reads.iter().zip(wanted) {
        if let Err(fault) = read
            && is_bad(fault)
        {
            report_bad(inner, &wanted.token, &fault.message);
        }
    }
    Ok(reads)
}

/// As `read_chunks`, and reports nothing.
pub(super) fn check_chunks(
    inner: &Inner,
    node: NodeId,
    address: &Address,
    wanted: &[Wanted],
    cut: &Cut,
    payload: &mut PayloadBuffer,
) -> Result<Vec<Read>, Arc<CallError>> {
    let chunks = wanted
        .iter()
        .map(|w| FetchChunk { token: w.token.clone(), offset: 0, length: None })
        .collect();
    let bytes = wanted.iter().map(|wanted| wanted.length as usize).sum();
    let outcomes = inner.fetch(node, address, chunks, bytes, cut, payload)?;
    let mut at = 0usize;
    let mut reads = Vec::with_capacity(wanted.len());
    for (outcome, wanted) in outcomes.into_iter().zip(wanted) {
        let read = Result::from(outcome).and_then(|fetched| {
            let range = at..at.saturating_add(fetched.length as usize);
            at = range.end;
            check(wanted, payload.as_slice().get(range.clone())).map(|()| range)
        });
        reads.push(read);
    }
    Ok(reads)
}

fn check(wanted: &Wanted, bytes: Option<&[u8]>) -> Result<(), Fault> {
    let wrong = |what: &str| Err(Fault::new(FaultCode::Damaged, what));
    match bytes {
        None => wrong("it sent fewer bytes than it announced"),
        Some(bytes) if bytes.len() != wanted.length as usize => {
            wrong("it sent a chunk of another length")
        }
        Some(bytes) if ChunkId::of(wanted.id.algorithm(), bytes) != wanted.id => {
            wrong("it sent other bytes than those of the chunk")
        }
        Some(_) => Ok(()),
    }
}

/// True when the copy is not what it should be, rather than out of reach.
fn is_bad(fault: &Fault) -> bool {
    matches!(fault.code, FaultCode::Damaged | FaultCode::NotFound | FaultCode::HashMismatch)
}

/// Tells the main server of a copy that is not what it should be. That is a favour to others: it
/// is asked once, and what comes of it does not matter here.
pub(super) fn report_bad(inner: &Inner, token: &Token, what: &str) {
    let what: String = what.chars().take(100).collect();
    let request = BadCopy { token: token.clone(), what };
    let address = &inner.settings.main;
    let told = inner.to_main.with(address, super::Peer::Main, |c| c.call(&request));
    if let Err(error) = told {
        log::debug!("a bad copy was not reported {error}");
    }
}
