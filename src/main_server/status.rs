//! `status`: how the cluster is.

use std::ops::Bound;

use super::Main;
use super::admin::admins_only;
use crate::catalog::AccountRecord;
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
            state: node.state(interval, now).name().to_string(),
            silent_ms: node.silent(now).map(|silent| silent.as_millis() as u64),
            space: node.room.reported(),
            received_bytes: node.received_bytes,
            draining: false,
            failed: node.failure.clone(),
            damaged_copies: 0,
            scrub: Default::default(),
            drain_left: None,
        });
        let nodes = page.collect();
        let more = rest.next().is_some();
        drop(table);
        Ok(StatusReply {
            time: self.clock.wall(),
            files: totals.files,
            chunks: totals.chunks,
            copies: totals.copies,
            under_copied_chunks: self.copier.known(),
            single_copy_chunks: 0,
            unreadable_chunks: 0,
            lost_chunks: 0,
            files_at_risk: 0,
            is_surveyed: false,
            repair: Default::default(),
            deletes: Default::default(),
            journal: self.journal.status(),
            last_commit_ms: None,
            notices: self.journal.notice().into_iter().collect(),
            nodes,
            more,
        })
    }
}
