//! `journal`: a main server that is built anew reads what this node keeps of the catalog.

use subtle::ConstantTimeEq;

use crate::server::ServerConnection;
use crate::wire::to_node::{ReadJournal, ReadJournalReply};
use crate::wire::{Fault, FaultCode};

use super::shared::Shared;

/// The most bytes of a reply's payload.
const MAX_PART_BYTES: usize = 4 << 20;

/// Answers a `journal`. `false` when the connection is over.
pub(super) fn serve(
    shared: &Shared,
    connection: &mut ServerConnection,
    request: &ReadJournal,
) -> bool {
    match read(shared, request) {
        Ok((reply, payload)) => connection.reply(Ok(reply), &[&payload]),
        Err(fault) => connection.reply::<()>(Err(fault), &[]),
    }
}

fn read(shared: &Shared, request: &ReadJournal) -> Result<(ReadJournalReply, Vec<u8>), Fault> {
    let keeper = &shared.journal;
    keeper.wait_opened(shared.limits.budget_patience)?;
    let shown = request.secret.fingerprint();
    let readers = keeper.readers();
    let is_right = readers.iter().any(|reader| bool::from(reader.as_bytes().ct_eq(&shown)));
    if !is_right && !readers.is_empty() {
        let why = "this is not the secret by which the journal may be read";
        return Err(Fault::new(FaultCode::Denied, why));
    }
    let (kept, head) = keeper.kept();
    let reply = ReadJournalReply { kept, head };
    if request.generation == 0 {
        return Ok((reply, Vec::new()));
    }
    if !reply.kept.iter().any(|kept| kept.generation == request.generation) {
        let why = format!("generation {} of the journal is not kept here", request.generation);
        return Err(Fault::new(FaultCode::NotFound, why));
    }
    let patience = shared.limits.budget_patience;
    let Some(_share) = shared.fetch_budget.take(MAX_PART_BYTES as u64, patience) else {
        let why = "this node has as many transfers under way as it has memory for";
        return Err(Fault::new(FaultCode::Busy, why));
    };
    let mut payload = vec![0; MAX_PART_BYTES];
    match keeper.read(request.generation, request.offset, &mut payload) {
        Ok(count) => payload.truncate(count),
        Err(error) => {
            log::error!(
                "the journal cannot be read generation={} error={error}",
                request.generation
            );
            let why = format!("the node's disk does not give the journal: {error}");
            return Err(Fault::new(FaultCode::Damaged, why));
        }
    }
    Ok((reply, payload))
}
