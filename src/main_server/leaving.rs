//! `drain`, `forget` and `drop_me`: how nodes go, for a while or for good.

use super::Main;
use crate::catalog::AccountRecord;
use crate::ids::NodeId;
use crate::wire::Fault;
use crate::wire::admin::*;
use crate::wire::node_to_main::{DropMe, DropMeReply};
use crate::wire::to_main::Done;

impl Main {
    pub(super) fn drain(&self, _: &AccountRecord, _: Drain) -> Result<DrainReply, Fault> {
        unimplemented!()
    }

    pub(super) fn forget(&self, _: &AccountRecord, _: Forget) -> Result<Done, Fault> {
        unimplemented!()
    }

    /// The node goes.
    pub(super) fn drop_me(&self, node: NodeId, _: DropMe) -> Result<DropMeReply, Fault> {
        // The node may rely on its confirmations from here on.
        self.catalog.sync().map_err(|error| self.fault(error))?;
        self.nodes.stopped(node);
        self.wake_upkeep();
        Ok(DropMeReply::default())
    }
}
