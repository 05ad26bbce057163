//! `store`: from a payload on the wire to durable, confirmed and duplicated chunks.

use std::time::Instant;

use crate::segments::{NewChunk, StoreError};
use crate::server::ServerConnection;
use crate::token::{Claims, Operation, Token};
use crate::wire::to_node::{Store, StoreChunk, StoreReply, StoredChunk};
use crate::wire::{Fault, FaultCode, Outcome};

use super::batch::StoredCopy;
use super::fault;
use super::forward::{self, Outgoing};
use super::service::not_a_member;
use super::shared::{Member, Shared};
use super::verifier::Verifier;

/// What a payload takes of the memory for all before any of it has arrived.
const FIRST_SHARE_BYTES: u64 = 64 * 1024;

type StoreOutcome = Result<StoredChunk, Fault>;

/// Answers a `store`. `false` when the connection is over.
pub(super) fn serve(
    shared: &Shared,
    connection: &mut ServerConnection,
    payload_bytes: u32,
    request: Store,
) -> bool {
    let began = Instant::now();
    let _transfer = shared.counters.begin_transfer();
    let chunks = request.chunks.into_vec();
    let Some(outcomes) = take_in(shared, connection, payload_bytes, &chunks) else { return false };
    if log::log_enabled!(log::Level::Debug) {
        let good = outcomes.as_ref().map_or(0, |all| all.iter().filter(|one| one.is_ok()).count());
        log::debug!(
            "store chunks={} bytes={payload_bytes} peer={} ok={good} ms={}",
            chunks.len(),
            connection.peer(),
            began.elapsed().as_millis()
        );
    }
    let reply = outcomes
        .map(|outcomes| StoreReply { chunks: outcomes.into_iter().map(Outcome::from).collect() });
    connection.reply(reply, &[])
}

/// Reads the payload if any of it may be stored, and stores that. `None` when the connection is
/// over, after which nothing of the request was stored.
fn take_in(
    shared: &Shared,
    connection: &mut ServerConnection,
    payload_bytes: u32,
    chunks: &[StoreChunk],
) -> Option<Result<Vec<StoreOutcome>, Fault>> {
    let refused =
        |connection: &mut ServerConnection, fault| connection.skip_payload().then_some(Err(fault));
    let Some(member) = shared.member() else { return refused(connection, not_a_member()) };
    let total: u64 = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
    if total != u64::from(payload_bytes) {
        let why = format!("{payload_bytes} bytes of payload for chunks of {total} bytes");
        return refused(connection, Fault::new(FaultCode::Malformed, why));
    }
    if let Some(failure) = member.failure() {
        log::debug!("a store was refused, since the disk failed: {failure}");
        let why = "this node takes no more chunks: its disk failed, and its log says how";
        return refused(connection, Fault::new(FaultCode::Internal, why));
    }
    let admitted: Vec<_> = chunks.iter().map(|chunk| admit(shared, &member, chunk)).collect();
    let operations = || admitted.iter().flatten().map(|claims| claims.operation);
    if operations().next().is_none() {
        let faults = admitted.into_iter().map(|claims| claims.and(Err(fault::denied())));
        return connection.skip_payload().then(|| Ok(faults.collect()));
    }
    // What may have to wait for further nodes never holds what other nodes wait for.
    let is_clients = operations().any(|operation| operation != Operation::Duplicate);
    let budget = if is_clients { &shared.client_budget } else { &shared.duplicate_budget };
    let patience = shared.limits.budget_patience;
    let no_memory = || {
        let why = "this node has as many transfers under way as it has memory for";
        Fault::new(FaultCode::Busy, why)
    };
    // The rest is taken as it arrives: whoever announces much and sends nothing holds next to none.
    let Some(mut share) = budget.take(total.min(FIRST_SHARE_BYTES), patience) else {
        return refused(connection, no_memory());
    };
    let mut payload = shared.payloads.take();
    let expected = chunks.iter().zip(&admitted);
    let expected =
        expected.map(|(chunk, claims)| (claims.is_ok().then_some(chunk.id), chunk.length));
    let mut verifier = Verifier::new(expected.collect());
    let feed = |piece: &[u8]| verifier.feed(piece);
    if !connection.read_payload_within(&mut payload, &mut share, patience, feed)? {
        return Some(Err(no_memory()));
    }
    shared.counters.count_received(total, is_clients);
    let verified = admitted.into_iter().zip(verifier.finish());
    let verified = verified.map(|(claims, verdict)| verdict.and(claims));
    Some(Ok(keep(shared, &member, chunks, verified.collect(), payload.as_slice())))
}

/// What the chunk's token says, if it lets this chunk in.
fn admit(shared: &Shared, member: &Member, chunk: &StoreChunk) -> Result<Claims, Fault> {
    let node = member.membership.node;
    let allows = |claims: &Claims| {
        let is_store = match claims.operation {
            Operation::Store | Operation::Duplicate => true,
            Operation::Fetch | Operation::Remove => false,
        };
        is_store && claims.id == chunk.id && claims.length == chunk.length
    };
    let checked = shared.keys.check(&chunk.token, node, allows, shared.time.now());
    checked.map_err(fault::of_token)
}

/// A chunk whose bytes are what its token allows.
struct Verified<'a> {
    /// Its place in the request.
    at: usize,
    token: &'a Token,
    claims: Claims,
    bytes: &'a [u8],
}

impl Verified<'_> {
    fn as_new(&self) -> NewChunk<'_> {
        let Claims { id, serial, account, .. } = self.claims;
        NewChunk { id, serial, account, bytes: self.bytes }
    }

    fn as_copy(&self) -> StoredCopy {
        let Claims { id, serial, .. } = self.claims;
        StoredCopy { serial, id, token: self.token.clone() }
    }
}

/// Stores the good ones, has them confirmed, and duplicates those that clients brought.
fn keep(
    shared: &Shared,
    member: &Member,
    chunks: &[StoreChunk],
    claims: Vec<Result<Claims, Fault>>,
    payload: &[u8],
) -> Vec<StoreOutcome> {
    let mut outcomes: Vec<StoreOutcome> = Vec::with_capacity(chunks.len());
    let mut verified = Vec::new();
    let mut rest = payload;
    for (at, (chunk, claims)) in chunks.iter().zip(claims).enumerate() {
        let (bytes, after) = rest.split_at(chunk.length as usize);
        rest = after;
        let outcome = claims.map(|claims| {
            verified.push(Verified { at, token: &chunk.token, claims, bytes });
            StoredChunk { copies: 1, nodes: vec![member.membership.node] }
        });
        outcomes.push(outcome);
    }
    let mut refuse = |at: usize, fault: Fault| outcomes[at] = Err(fault);
    let durable = make_durable(shared, member, verified, &mut refuse);
    shared.counters.count_stored(durable.len() as u64);
    let copies = durable.iter().map(Verified::as_copy).collect();
    let confirmed = shared.confirmer.confirm(copies, shared.limits.confirm_patience);
    let counted = durable.iter().zip(&confirmed).filter(|(_, confirmed)| confirmed.is_ok());
    shared.recent.note(counted.map(|(chunk, _)| chunk.as_copy()));
    let mut places = Vec::new();
    let mut outgoing = Vec::new();
    for (chunk, confirmed) in durable.iter().zip(confirmed) {
        match confirmed {
            Err(fault) => refuse(chunk.at, fault),
            // A duplicate goes no further, whatever the answer says: nobody waits on two nodes.
            Ok(_) if chunk.claims.operation == Operation::Duplicate => {}
            Ok(destinations) => {
                let (id, bytes, token) = (chunk.claims.id, chunk.bytes, chunk.token.clone());
                places.push(chunk.at);
                outgoing.push(Outgoing { id, bytes, token, destinations, done: Vec::new() });
            }
        }
    }
    forward::duplicate(shared, &mut outgoing);
    for (at, outgoing) in places.into_iter().zip(outgoing) {
        if let Ok(stored) = &mut outcomes[at] {
            stored.nodes.extend(outgoing.done);
            stored.copies = u8::try_from(stored.nodes.len()).unwrap_or(u8::MAX);
        }
    }
    outcomes
}

/// Appends the chunks and waits for the sync. What comes back is durable.
///
/// An append takes out a copy that it finds damaged before it writes the new one, so that a chunk
/// which is refused may also be lost: that is reported.
fn make_durable<'a>(
    shared: &Shared,
    member: &Member,
    chunks: Vec<Verified<'a>>,
    refuse: &mut impl FnMut(usize, Fault),
) -> Vec<Verified<'a>> {
    let store = &member.store;
    let all: Vec<NewChunk<'_>> = chunks.iter().map(Verified::as_new).collect();
    let append = |chunks: &[NewChunk<'_>]| -> Result<(), StoreError> {
        store.wait_durable(store.append(chunks)?)
    };
    let failed = match append(&all) {
        Ok(()) => return chunks,
        Err(error) => error,
    };
    drop(all);
    // What is wrong with one must not cost the others, unless there is nothing more to be had.
    let is_alone = chunks.len() == 1 || matches!(failed, StoreError::Failed { .. });
    let mut durable = Vec::new();
    for chunk in chunks {
        let appended = if is_alone { None } else { Some(append(&[chunk.as_new()])) };
        let error = match &appended {
            Some(Ok(())) => {
                durable.push(chunk);
                continue;
            }
            Some(Err(error)) => error,
            None => &failed,
        };
        let Claims { id, serial, .. } = chunk.claims;
        let is_missing = || matches!(store.length(serial, &id), Err(StoreError::NotFound(_)));
        if is_missing() {
            shared.confirmer.lost(serial);
            // Another request may have stored it meanwhile and said so before this `lost`: it is
            // to be confirmed once more, behind it.
            if !is_missing() {
                durable.push(chunk);
                continue;
            }
        }
        refuse(chunk.at, member.fault(error));
    }
    durable
}
