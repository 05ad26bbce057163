//! One exchange with the main server: what travels together, and the answers to it.

use crate::causes::with_causes;
use crate::wire::node_to_main::{Confirmed, Duplicated, Lost, Stored};
use crate::wire::to_main::Addresses;
use crate::wire::{CallError, Connection, Fault, Message, Outcome};

use super::batch::{Batch, Job, What, destinations};
use super::confirmer::ANSWER_TIMEOUT;
use super::shared::Shared;
use crate::wire::Dialled;

/// Tells the main server, once more on a new connection if an old one turns out to be dead. What
/// it answered is out of `batch` afterwards, and so is what is not held any more; what is left must
/// be told again.
pub(super) fn tell(
    shared: &Shared,
    connection: &mut Option<Dialled>,
    batch: &mut Batch,
) -> Result<(), CallError> {
    batch.leave_out(|copy| shared.holds(copy));
    if batch.is_empty() {
        return Ok(());
    }
    if connection.as_ref().is_some_and(|open| !shared.confirmer.may_tell_by(open)) {
        *connection = None;
        shared.confirmer.give_up_connection();
    }
    if let Some(open) = connection {
        match exchange(open, batch) {
            Ok(()) => return Ok(()),
            Err(error @ CallError::Fault(_)) => return Err(error),
            Err(error) => {
                log::debug!("the confirmer's connection ended error={}", with_causes(&error));
                *connection = None;
                shared.confirmer.give_up_connection();
            }
        }
    }
    let mut open = shared.dial_to_confirm()?;
    if !shared.confirmer.may_tell_by(&open) {
        shared.confirmer.give_up_connection();
        let what = "this is not the main server at which the node was added last".to_string();
        return Err(CallError::BadReply { address: open.address().clone(), what });
    }
    open.set_answer_timeout(ANSWER_TIMEOUT);
    let told = exchange(&mut open, batch);
    match told {
        Ok(()) | Err(CallError::Fault(_)) => *connection = Some(open),
        Err(_) => shared.confirmer.give_up_connection(),
    }
    told
}

/// Sends all messages of the batch, then takes their answers.
fn exchange(connection: &mut Connection, batch: &mut Batch) -> Result<(), CallError> {
    let mut serials = Vec::new();
    let (mut tokens, mut chunks) = (Vec::new(), Vec::new());
    for job in batch.lost.iter().chain(&batch.stored).chain(&batch.duplicated) {
        match &job.what {
            What::Lost(serial) => serials.push(*serial),
            What::Stored(part) => {
                tokens.extend(part.iter().flatten().map(|copy| copy.token.clone()));
            }
            What::Duplicated(part) => chunks.extend_from_slice(part),
        }
    }
    let (has_lost, has_stored, has_duplicated) =
        (!serials.is_empty(), !tokens.is_empty(), !chunks.is_empty());
    if has_lost {
        connection.send(&Lost { serials: serials.into() }, &[])?;
    }
    if has_stored {
        connection.send(&Stored { tokens: tokens.into() }, &[])?;
    }
    if has_duplicated {
        connection.send(&Duplicated { chunks: chunks.into() }, &[])?;
    }
    // Every answer is taken, whatever the one before says: the next exchange starts in step.
    let mut told = Ok(());
    if has_lost {
        told = told.and(take_answer::<Lost>(connection, &mut batch.lost, |_| None)?);
    }
    if has_stored {
        let answer = take_answer::<Stored>(connection, &mut batch.stored, |reply| {
            Some((reply.chunks.into_vec(), reply.nodes))
        })?;
        told = told.and(answer);
    }
    if has_duplicated {
        let answer = take_answer::<Duplicated>(connection, &mut batch.duplicated, |reply| {
            Some((reply.chunks.into_vec(), reply.nodes))
        })?;
        told = told.and(answer);
    }
    told.map_err(CallError::Fault)
}

/// Takes the answer to one message and hands it to the jobs that travelled in it, which are gone
/// from `jobs` then. A fault that may pass leaves them there and is the inner error.
fn take_answer<M: Message>(
    connection: &mut Connection,
    jobs: &mut Vec<Job>,
    items: impl Fn(M::Reply) -> Option<(Vec<Outcome<Confirmed>>, Addresses)>,
) -> Result<Result<(), Fault>, CallError> {
    let reply = match connection.receive::<M>() {
        Ok(reply) => items(reply),
        Err(CallError::Fault(fault)) if fault.retryable => return Ok(Err(fault)),
        Err(CallError::Fault(fault)) => {
            log::warn!("the main server refuses request={} fault={fault}", M::NAME);
            for job in jobs.drain(..) {
                let count = job.what.len();
                job.deliver(vec![Err(fault.clone()); count]);
            }
            return Ok(Ok(()));
        }
        Err(error) => return Err(error),
    };
    let Some((items, nodes)) = reply else {
        jobs.clear();
        return Ok(Ok(()));
    };
    if items.len() != jobs.iter().map(|job| job.what.len()).sum::<usize>() {
        let what = format!("{} with {} answers", M::NAME, items.len());
        return Err(CallError::BadReply { address: connection.address().clone(), what });
    }
    let mut items = items.into_iter();
    for job in jobs.drain(..) {
        let own = items.by_ref().take(job.what.len()).map(|item| {
            Result::from(item).map(|confirmed| destinations(confirmed.targets, &nodes))
        });
        let own = own.collect();
        job.deliver(own);
    }
    Ok(Ok(()))
}
