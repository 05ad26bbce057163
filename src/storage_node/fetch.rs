//! `fetch`: chunks, or parts of them, for their tokens.

use std::ops::Range;
use std::time::Instant;

use crate::segments::StoreError;
use crate::server::ServerConnection;
use crate::token::{Claims, Operation};
use crate::wire::to_node::{Fetch, FetchChunk, FetchReply, FetchedChunk};
use crate::wire::{Fault, FaultCode, MAX_PAYLOAD_BYTES, Outcome};

use super::fault;
use super::service::not_a_member;
use super::shared::{Member, Shared};

/// A part of a chunk that may be read.
struct Wanted {
    claims: Claims,
    offset: u32,
    /// Where it goes in the buffer.
    place: Range<usize>,
}

/// Answers a `fetch`. `false` when the connection is over.
pub(super) fn serve(shared: &Shared, connection: &mut ServerConnection, request: Fetch) -> bool {
    let began = Instant::now();
    let _transfer = shared.counters.begin_transfer();
    let Some(member) = shared.member() else {
        return connection.reply::<()>(Err(not_a_member()), &[]);
    };
    let (wanted, total) = admit_all(shared, &member, &request.chunks);
    let patience = shared.limits.budget_patience;
    let Some(_share) = shared.fetch_budget.take(total as u64, patience) else {
        let why = "this node has as many transfers under way as it has memory for";
        return connection.reply::<()>(Err(Fault::new(FaultCode::Busy, why)), &[]);
    };
    let mut buffer = shared.reads.take();
    if buffer.len() < total {
        let more = total - buffer.len();
        buffer.reserve_exact(more);
        buffer.resize(total, 0);
    }
    let read = wanted.into_iter().map(|wanted| {
        let wanted = wanted?;
        read(shared, &member, &wanted, &mut buffer[wanted.place.clone()])?;
        Ok(wanted.place)
    });
    let read: Vec<Result<Range<usize>, Fault>> = read.collect();
    let payload: Vec<&[u8]> = read.iter().flatten().map(|place| &buffer[place.clone()]).collect();
    let bytes: usize = payload.iter().map(|part| part.len()).sum();
    shared.counters.count_fetched(payload.len() as u64, bytes as u64);
    let fetched = read.iter().map(|outcome| match outcome {
        Ok(place) => Outcome::Ok(FetchedChunk { length: place.len() as u32 }),
        Err(fault) => Outcome::Fault(fault.clone()),
    });
    let is_open = connection.reply(Ok(FetchReply { chunks: fetched.collect() }), &payload);
    log::debug!(
        "fetch chunks={} bytes={bytes} peer={} ok={} ms={}",
        read.len(),
        connection.peer(),
        payload.len(),
        began.elapsed().as_millis()
    );
    is_open
}

/// What may be read, each with its place in a buffer of the size that comes second.
fn admit_all(
    shared: &Shared,
    member: &Member,
    chunks: &[FetchChunk],
) -> (Vec<Result<Wanted, Fault>>, usize) {
    let mut end = 0;
    let admitted = chunks.iter().map(|chunk| {
        let (claims, length) = admit(shared, member, chunk)?;
        let place = end..end + length as usize;
        if place.end > MAX_PAYLOAD_BYTES as usize {
            let why = format!("the chunks of a fetch may have {MAX_PAYLOAD_BYTES} bytes together");
            return Err(Fault::new(FaultCode::Invalid, why));
        }
        end = place.end;
        Ok(Wanted { claims, offset: chunk.offset, place })
    });
    let admitted = admitted.collect();
    (admitted, end)
}

/// What the token says, and how many bytes are wanted.
fn admit(shared: &Shared, member: &Member, chunk: &FetchChunk) -> Result<(Claims, u32), Fault> {
    let node = member.membership.node;
    let allows = |claims: &Claims| claims.operation == Operation::Fetch;
    let checked = shared.keys.check(&chunk.token, node, allows, shared.time.now());
    let claims = checked.map_err(fault::of_token)?;
    let held = member.store.length(claims.serial, &claims.id).map_err(|e| member.fault(&e))?;
    let rest = held.checked_sub(chunk.offset);
    match rest.and_then(|rest| chunk.length.unwrap_or(rest).le(&rest).then_some(rest)) {
        Some(rest) => Ok((claims, chunk.length.unwrap_or(rest))),
        None => {
            let wanted = chunk.length.unwrap_or(0) as usize;
            let (id, offset) = (claims.id, chunk.offset);
            let error = StoreError::OutOfRange { id, length: held, offset, wanted };
            Err(fault::of_store(&error))
        }
    }
}

fn read(shared: &Shared, member: &Member, wanted: &Wanted, out: &mut [u8]) -> Result<(), Fault> {
    let Claims { serial, id, .. } = &wanted.claims;
    member.store.read_into(*serial, id, wanted.offset, out).map_err(|error| {
        let fault = member.fault(&error);
        if error.loss().is_some() {
            shared.give_up_copy(member, *serial, id);
        }
        fault
    })
}
