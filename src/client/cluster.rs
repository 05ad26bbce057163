//! What an administrator asks about the cluster, and decides about it. All of it is refused
//! (`denied`) to other accounts.

use std::time::Duration;

use super::{Client, ClientError};
use crate::clock::WallTime;
use crate::ids::{NodeId, Secret};
use crate::wire::to_main::{
    Adopt, Adopted, Drain, DrainReply, Explain, ExplainReply, Forget, Invite, InviteReply,
    NodeStatus, Status, StatusReply, WhatIf, WhatIfReply,
};

impl Client {
    /// The state of the cluster, and all of its nodes by number.
    pub fn status(&self) -> Result<(StatusReply, Vec<NodeStatus>), ClientError> {
        let mut nodes = Vec::new();
        loop {
            let after = nodes.last().map(|status: &NodeStatus| status.node);
            let mut reply = self.0.call(&Status { after })?;
            let page = std::mem::take(&mut reply.nodes).into_vec();
            let is_last = !reply.more || page.is_empty();
            nodes.extend(page);
            if is_last {
                return Ok((reply, nodes));
            }
        }
    }

    /// An invite with which `uses` nodes may join within `valid`.
    pub fn invite(&self, uses: u32, valid: Duration) -> Result<(Secret, WallTime), ClientError> {
        let request = Invite { uses: Some(uses), valid_s: Some(valid.as_secs()) };
        let InviteReply { invite, expires } = self.0.call(&request)?;
        Ok((invite, expires))
    }

    /// Has all copies moved off a node; to be asked again for how far that is. With `undo` it is
    /// taken back, and the node takes copies again.
    pub fn drain(&self, node: NodeId, undo: bool) -> Result<DrainReply, ClientError> {
        self.0.call(&Drain { node, undo })
    }

    /// Strikes a node off for good. Where chunks have their only copy there it is refused
    /// (`would_lose`, and the fault names files), unless with `force`.
    pub fn forget(&self, node: NodeId, force: bool) -> Result<(), ClientError> {
        self.0.call(&Forget { node, force })?;
        Ok(())
    }

    /// Lets something go on that the main server stopped for safety.
    pub fn adopt(&self, what: Adopted) -> Result<(), ClientError> {
        self.0.call(&Adopt { what })?;
        Ok(())
    }

    /// Where copies are, why there, and what is to be done about them. Of a file, the chunks from
    /// an index on, as many as fit: while `more` is true, ask again from the one after the last.
    pub fn explain(&self, what: &Explain) -> Result<ExplainReply, ClientError> {
        self.0.call(what)
    }

    /// What would happen if these nodes, and all of these zones, were gone. One page, over some of
    /// the files: go on with `next` as `after` while there is one, and add up.
    pub fn what_if(
        &self,
        nodes: &[NodeId],
        zones: &[String],
        after: Option<u64>,
    ) -> Result<WhatIfReply, ClientError> {
        self.0.call(&WhatIf { nodes: nodes.to_vec(), zones: zones.to_vec(), after })
    }
}
