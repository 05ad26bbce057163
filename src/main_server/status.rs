//! `status`: how the cluster is.

use std::ops::Bound;

use super::Main;
use super::admin::admins_only;
use super::census::Trouble;
use crate::catalog::{AccountRecord, Standing};
use crate::wire::admin::*;
use crate::wire::{Fault, MAX_ITEMS};

impl Main {
    /// Serves `status`.
    pub(super) fn status(
        &self,
        account: &AccountRecord,
        request: Status,
    ) -> Result<StatusReply, Fault> {
        admins_only(account, "see the cluster's state")?;
        let totals = self.catalog.totals().map_err(|error| self.fault(error))?;
        let now = self.clock.now();
        let interval = self.nodes.interval();
        let table = self.nodes.lock();
        let after = request.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = table.nodes.range((after, Bound::Unbounded));
        let page = rest.by_ref().take(MAX_ITEMS).map(|(_, node)| NodeStatus {
            node: node.id,
            address: node.address.clone(),
            zone: node.zone.clone(),
            state: match node.has_left() {
                true => "left".to_string(),
                false => node.state(interval, now).name().to_string(),
            },
            silent_ms: node.silent(now).map(|silent| silent.as_millis() as u64),
            space: node.room.reported(),
            received_bytes: node.received_bytes,
            draining: node.standing == Standing::Draining,
            failed: node.failure.clone(),
            damaged_copies: node.damaged_copies,
            scrub: node.scrub,
            drain_left: None,
        });
        let nodes = page.collect();
        let more = rest.next().is_some();
        drop(table);
        let repair = self.repair_status();
        let deletes = self.delete_status().map_err(|error| self.fault(error))?;
        let notices = self.brakes_notices().map_err(|error| self.fault(error))?;
        let state = self.survey.lock();
        let tally = |trouble| state.census.tally(trouble);
        let [few, single, unreadable, lost] =
            [Trouble::Few, Trouble::Single, Trouble::Unreadable, Trouble::Lost].map(tally);
        let reply = StatusReply {
            time: self.clock.wall(),
            files: totals.files,
            chunks: totals.chunks,
            copies: totals.copies,
            under_copied_chunks: few.chunks + single.chunks + unreadable.chunks + lost.chunks,
            single_copy_chunks: single.chunks,
            unreadable_chunks: unreadable.chunks,
            lost_chunks: lost.chunks,
            files_at_risk: state.files.files(&state.census),
            is_surveyed: state.is_surveyed(),
            repair,
            deletes,
            journal: Default::default(),
            last_commit_ms: None,
            notices,
            nodes,
            more,
        };
        Ok(reply)
    }

    /// How repair goes.
    pub(super) fn repair_status(&self) -> RepairStatus {
        let (rate, limit) = self.repair.rate(self.clock.now());
        let moving = self.repair.lock().moves.under_way;
        let state = self.survey.lock();
        let tally = |trouble| state.census.tally(trouble);
        let (few, single) = (tally(Trouble::Few), tally(Trouble::Single));
        let bytes_left = few.bytes + single.bytes;
        RepairStatus {
            chunks_left: few.chunks + single.chunks,
            bytes_left,
            bytes_per_second: rate,
            left_s: (bytes_left > 0 && rate > 0).then(|| bytes_left.div_ceil(rate)),
            limit_bytes_per_second: limit,
            moves_left: tally(Trouble::Leaving).chunks + moving,
            surplus_copies: tally(Trouble::Surplus).copies,
        }
    }
}
