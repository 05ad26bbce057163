//! `status`: how the cluster is.

use std::ops::Bound;

use super::Main;
use super::admin::admins_only;
use super::census::Trouble;
use crate::catalog::{AccountRecord, CatalogError, Standing};
use crate::ids::Serial;
use crate::wire::admin::*;
use crate::wire::{Fault, MAX_ITEMS};

/// Up to so many copies of a node that drains are counted; above, its own word is taken.
const MOST_COUNTED: usize = 65_536;

impl Main {
    /// Serves `status`.
    pub(super) fn status(
        &self,
        account: &AccountRecord,
        request: Status,
    ) -> Result<StatusReply, Fault> {
        admins_only(account, "see the cluster's state")?;
        self.cluster_state(request)
    }

    /// What `status` answers, for those who may ask without an account: this process itself.
    pub(super) fn cluster_state(&self, request: Status) -> Result<StatusReply, Fault> {
        // A node that came or went a moment ago has made what was counted before it old.
        self.survey.look_at(self.view());
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
        let mut nodes: Vec<NodeStatus> = page.collect();
        let more = rest.next().is_some();
        drop(table);
        for node in nodes.iter_mut().filter(|node| node.draining) {
            node.drain_left = Some(self.drain_left(node).map_err(|error| self.fault(error))?);
        }
        let mut notices = self.repair_notices();
        notices.extend(self.brakes_notices().map_err(|error| self.fault(error))?);
        notices.extend(self.journal.notice());
        let last_commit = self.catalog.last_commit();
        // Before the counts, which what is judged afterwards can only make truer.
        let (has_judged_all, _) = self.repair.work_left();
        let repair = self.repair_status();
        let state = self.survey.lock();
        let tally = |trouble| state.census.tally(trouble);
        let [few, single, unreadable, lost] =
            [Trouble::Few, Trouble::Single, Trouble::Unreadable, Trouble::Lost].map(tally);
        let files_at_risk = state.files.files(&state.census);
        let is_surveyed = state.is_surveyed() && has_judged_all;
        drop(state);
        // After the surplus that it comes from: what is being trimmed is in one of the two.
        let deletes = self.delete_status().map_err(|error| self.fault(error))?;
        let reply = StatusReply {
            time: self.clock.wall(),
            files: totals.files,
            chunks: totals.chunks,
            copies: totals.copies,
            under_copied_chunks: few.chunks + single.chunks + unreadable.chunks + lost.chunks,
            single_copy_chunks: single.chunks,
            unreadable_chunks: unreadable.chunks,
            lost_chunks: lost.chunks,
            files_at_risk,
            is_surveyed,
            repair,
            deletes,
            journal: self.journal.status(),
            last_commit_ms: last_commit.map(|at| at.elapsed().as_millis() as u64),
            notices,
            nodes: nodes.into(),
            more,
        };
        Ok(reply)
    }

    /// How many copies are still on a node that drains. They go one by one as soon as they can.
    fn drain_left(&self, node: &NodeStatus) -> Result<u64, CatalogError> {
        let (from, to) = (Serial(0), Serial(u64::MAX));
        let left = self.catalog.copies_on(node.node, from, to, MOST_COUNTED)?.len();
        Ok(if left < MOST_COUNTED { left as u64 } else { node.space.chunks.max(left as u64) })
    }

    /// How repair goes.
    pub(super) fn repair_status(&self) -> RepairStatus {
        let (rate, limit) = self.repair.rate(self.clock.now());
        let moving = self.repair.lock().moves.under_way;
        // Before the surplus that they may come to.
        let orders = self.repair.work_left().1 as u64;
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
            orders,
            surplus_copies: tally(Trouble::Surplus).copies,
        }
    }
}
