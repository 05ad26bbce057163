//! `invite` and `status`.

use std::ops::Bound;
use std::time::Duration;

use super::Main;
use super::fault::invalid;
use crate::catalog::AccountRecord;
use crate::ids::Secret;
use crate::wire::admin::*;
use crate::wire::to_main::Done;
use crate::wire::{Fault, FaultCode, MAX_ITEMS};

const DEFAULT_VALID_S: u64 = 24 * 3600;
const MAX_VALID_S: u64 = 30 * 24 * 3600;
const MAX_USES: u32 = 10_000;

impl Main {
    /// Serves `invite`. A repeat makes another invite; the one before it stays good.
    pub(super) fn invite(
        &self,
        account: &AccountRecord,
        request: Invite,
    ) -> Result<InviteReply, Fault> {
        admins_only(account, "make invites")?;
        let uses = request.uses.unwrap_or(1);
        if !(1..=MAX_USES).contains(&uses) {
            return Err(invalid(format!("an invite is good for 1 to {MAX_USES} nodes")));
        }
        let valid_s = request.valid_s.unwrap_or(DEFAULT_VALID_S);
        if !(1..=MAX_VALID_S).contains(&valid_s) {
            return Err(invalid(format!("an invite is good for 1 to {MAX_VALID_S} seconds")));
        }
        let (invite, expires) =
            (Secret::random(), self.clock.wall() + Duration::from_secs(valid_s));
        let made = self.catalog.create_invite(&invite.fingerprint(), uses, expires);
        made.map_err(|error| self.fault(error))?;
        log::info!("invite made account={} uses={uses} valid_s={valid_s}", account.name);
        Ok(InviteReply { invite, expires })
    }

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
            journal: Default::default(),
            last_commit_ms: None,
            notices: Vec::new(),
            nodes,
            more,
        })
    }
}

impl Main {
    pub(super) fn drain(&self, _: &AccountRecord, _: Drain) -> Result<DrainReply, Fault> {
        unimplemented!()
    }

    pub(super) fn forget(&self, _: &AccountRecord, _: Forget) -> Result<Done, Fault> {
        unimplemented!()
    }

    pub(super) fn adopt(&self, _: &AccountRecord, _: Adopt) -> Result<Done, Fault> {
        unimplemented!()
    }

    pub(super) fn explain(&self, _: &AccountRecord, _: Explain) -> Result<ExplainReply, Fault> {
        unimplemented!()
    }

    pub(super) fn what_if(&self, _: &AccountRecord, _: WhatIf) -> Result<WhatIfReply, Fault> {
        unimplemented!()
    }

    pub(super) fn set_copies(
        &self,
        _: &AccountRecord,
        _: SetCopies,
    ) -> Result<SetCopiesReply, Fault> {
        unimplemented!()
    }

    pub(super) fn list_removed(
        &self,
        _: &AccountRecord,
        _: ListRemoved,
    ) -> Result<ListRemovedReply, Fault> {
        unimplemented!()
    }

    pub(super) fn undelete(&self, _: &AccountRecord, _: Undelete) -> Result<UndeleteReply, Fault> {
        unimplemented!()
    }

    pub(super) fn follow(
        &self,
        _: crate::ids::NodeId,
        _: crate::wire::node_to_main::Follow,
    ) -> Result<crate::wire::node_to_main::FollowReply, Fault> {
        unimplemented!()
    }
}

fn admins_only(account: &AccountRecord, what: &str) -> Result<(), Fault> {
    match account.is_admin {
        true => Ok(()),
        false => {
            let why = format!("account {} may not {what}: it is no administrator", account.name);
            Err(Fault::new(FaultCode::Denied, why))
        }
    }
}
