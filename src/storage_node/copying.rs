//! Orders to copy: chunks are read here and stored on other nodes, those for the same nodes
//! together, so that small ones do not cost a round trip and a sync each.

use std::time::Duration;

use crate::wire::node_to_main::{DuplicatedChunk, FailedTarget, Target};

use super::batch::destinations;
use super::forward::{self, Outgoing};
use super::orders::{Accepted, missing};
use super::shared::{Member, Shared};

/// How long copies wait for the memory that others have.
const PATIENCE: Duration = Duration::from_secs(120);

/// Carries out orders to copy to the same nodes. False if they are to come again.
pub(super) fn copy(shared: &Shared, member: &Member, batch: &[Accepted]) -> bool {
    let total: u64 = batch.iter().map(|order| u64::from(order.claims.length)).sum();
    let Some(_share) = shared.copy_budget.take(total, PATIENCE) else { return false };
    let mut buffer = shared.reads.take();
    if (buffer.len() as u64) < total {
        let more = total as usize - buffer.len();
        buffer.reserve_exact(more);
        buffer.resize(total as usize, 0);
    }
    let mut rest = &mut buffer[..];
    let (mut outgoing, mut unreadable) = (Vec::new(), Vec::new());
    for order in batch {
        let (place, after) = rest.split_at_mut(order.claims.length as usize);
        rest = after;
        match read(shared, member, order, place) {
            Ok(()) => outgoing.extend(as_outgoing(order, place)),
            Err(report) => unreadable.push(report),
        }
    }
    shared.confirmer.note(unreadable);
    forward::duplicate(shared, &mut outgoing);
    for Outgoing { id, done, .. } in &outgoing {
        log::debug!("copied chunk={id} nodes={done:?}");
    }
    let copies: usize = outgoing.iter().map(|chunk| chunk.done.len()).sum();
    log::info!("copy orders done orders={} copies={copies} bytes={total}", batch.len());
    true
}

/// Fills `place` with the chunk; otherwise returns the report of what could not be copied.
fn read(
    shared: &Shared,
    member: &Member,
    order: &Accepted,
    place: &mut [u8],
) -> Result<(), DuplicatedChunk> {
    let claims = &order.claims;
    member.store.read_into(claims.serial, &claims.id, 0, place).map_err(|error| {
        let fault = member.fault(&error);
        missing(shared, member, claims, &error);
        let failed = |target: &Target| FailedTarget {
            node: target.node,
            why: format!("the source cannot be read: {fault}"),
        };
        let targets = order.copies().map(|copies| copies.targets.as_slice()).unwrap_or_default();
        DuplicatedChunk {
            token: order.token.clone(),
            done: Vec::new(),
            failed: targets.iter().map(failed).collect(),
        }
    })
}

fn as_outgoing<'a>(order: &Accepted, bytes: &'a [u8]) -> Option<Outgoing<'a>> {
    let copies = order.copies()?;
    Some(Outgoing {
        id: order.claims.id,
        bytes,
        token: order.token.clone(),
        destinations: destinations(copies.targets.clone(), &copies.nodes),
        done: Vec::new(),
    })
}
