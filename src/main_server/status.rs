//! `status`: how the cluster is.

use std::ops::Bound;

use super::Main;
use super::admin::admins_only;
use super::census::Trouble;
use crate::catalog::{AccountRecord, Standing};
use crate::policy::placement::Wish;
use crate::wire::admin::*;
use crate::wire::{Fault, MAX_ITEMS};

/// How many nodes a notice names.
const NAMED_NODES: usize = 8;
/// A chunk as long as our own client cuts them.
const USUAL_LENGTH: u32 = 4 << 20;

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
        let (rate, limit) = self.repair.rate(now);
        let mut notices = self.repair_notices();
        notices.extend(self.journal.notice());
        let moving = self.repair.lock().moves.under_way;
        let state = self.survey.lock();
        let tally = |trouble| state.census.tally(trouble);
        let [few, single, unreadable, lost] =
            [Trouble::Few, Trouble::Single, Trouble::Unreadable, Trouble::Lost].map(tally);
        let bytes_left = few.bytes + single.bytes;
        let repair = RepairStatus {
            chunks_left: few.chunks + single.chunks,
            bytes_left,
            bytes_per_second: rate,
            left_s: (bytes_left > 0 && rate > 0).then(|| bytes_left.div_ceil(rate)),
            limit_bytes_per_second: limit,
            moves_left: tally(Trouble::Leaving).chunks + moving,
            surplus_copies: tally(Trouble::Surplus).copies,
        };
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
            deletes: Default::default(),
            journal: self.journal.status(),
            last_commit_ms: None,
            notices,
            nodes,
            more,
        };
        Ok(reply)
    }

    /// What a person should know of nodes and copies.
    fn repair_notices(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut say =
            |code: &str, message: String| notices.push(Notice { code: code.to_string(), message });
        if self.is_in_doubt()
            && let Some(why) = self.why_patient()
        {
            say("mass_silence", why);
        }
        for (node, why) in self.nodes.failures() {
            say(
                "failed_disk",
                format!(
                    "node {node} cannot store any more: {why}; replace it, or have its copies moved \
                     off: p2pdfs admin drain {node}"
                ),
            );
        }
        let waiting = self.repair.lock().queue.waiting();
        if waiting > 0 {
            let others: Vec<String> = self.why_full();
            say(
                "no_space",
                format!(
                    "{waiting} chunks have not the copies that they should, since no node can take \
                     one: {}; start another node",
                    others.join(", ")
                ),
            );
        }
        let lost = self.survey.lock().census.tally(Trouble::Lost).chunks;
        if lost > 0 {
            say(
                "lost_chunks",
                format!(
                    "{lost} chunks of files have no copy on any node: p2pdfs verify says which files \
                     these are"
                ),
            );
        }
        notices
    }

    /// What speaks against each node, for a chunk of the usual length that none of them has.
    fn why_full(&self) -> Vec<String> {
        let (holders, apart_from) = (&[], &[]);
        let wish = Wish { length: USUAL_LENGTH, copies: 1, holders, apart_from };
        let explained = self.placer().explain(&wish).into_iter().take(NAMED_NODES);
        let said = explained.map(|node| {
            let why = node.unfit.map_or("has or had one", |unfit| unfit.name());
            format!("node {} {why} ({})", node.node, node.detail)
        });
        said.collect()
    }
}
