//! `invite`, and who is an administrator.

use std::time::Duration;

use super::Main;
use super::fault::invalid;
use crate::catalog::AccountRecord;
use crate::ids::Secret;
use crate::wire::admin::*;
use crate::wire::{Fault, FaultCode};

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
}

/// Fails unless the account is an administrator's.
pub(super) fn admins_only(account: &AccountRecord, what: &str) -> Result<(), Fault> {
    match account.is_admin {
        true => Ok(()),
        false => {
            let why = format!("account {} may not {what}: it is no administrator", account.name);
            Err(Fault::new(FaultCode::Denied, why))
        }
    }
}
