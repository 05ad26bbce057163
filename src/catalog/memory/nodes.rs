//! Nodes and invites of the model.

use super::Model;
use crate::catalog::{MAX_BELIEVED_SERIAL, NodeRecord, NodeStart, Refusal};
use crate::clock::WallTime;
use crate::ids::NodeId;

impl Model {
    pub(super) fn join(
        &mut self,
        invite: [u8; 32],
        secret: [u8; 32],
        now: WallTime,
    ) -> Result<NodeId, Refusal> {
        if let Some(node) = self.joined.get(&(invite, secret)) {
            return Ok(*node);
        }
        match self.invites.get_mut(&invite) {
            Some(invite) if invite.uses > 0 && now < invite.expires => invite.uses -= 1,
            _ => return Err(Refusal::UnknownInvite),
        }
        let id = NodeId(self.nodes.len() as u32 + 1);
        self.nodes.push(NodeRecord {
            standing: crate::catalog::Standing::Member,
            id,
            secret_fingerprint: secret,
            incarnation: None,
            address: None,
            zone: String::new(),
            offered_bytes: 0,
            key: None,
        });
        self.joined.insert((invite, secret), id);
        Ok(id)
    }

    pub(super) fn node(&mut self, node: NodeId) -> Result<&mut NodeRecord, Refusal> {
        self.nodes.iter_mut().find(|known| known.id == node).ok_or(Refusal::UnknownNode(node))
    }

    pub(super) fn start_node(&mut self, node: NodeId, start: &NodeStart) -> Result<(), Refusal> {
        self.able_node(node)?;
        let record = self.node(node)?;
        let is_good = |last| last == start.incarnation || start.previous.contains(&last);
        if !record.incarnation.is_none_or(is_good) {
            return Err(Refusal::StaleDirectory(node));
        }
        record.incarnation = Some(start.incarnation);
        record.address = Some(start.address.clone());
        record.zone = start.zone.clone();
        record.offered_bytes = start.offered_bytes;
        match start.highest_serial {
            Some(highest) if highest <= MAX_BELIEVED_SERIAL => {
                self.next = self.next.max(highest.0 + 1);
            }
            _ => {}
        }
        Ok(())
    }
}
