//! Leaving for good: the main server moves everything off the node, which serves meanwhile.

use crate::wire::admin::DrainReply;
use crate::wire::node_to_main::DropMe;
use crate::wire::{CallError, FaultCode};

use super::node::Node;

/// How far a node is with leaving.
#[derive(Debug, Clone)]
pub enum Leaving {
    /// It is struck off: it can be stopped, and its directory is of no more use.
    Left,
    /// Chunks are moved off it; to be asked again in a while.
    Draining(DrainReply),
}

impl Node {
    /// Asks the main server to let this node go for good, or how far that is. With `force` it goes at
    /// once, even with the only copy of something.
    ///
    /// A fault `would_lose` means that some chunks can be moved nowhere; it names files of theirs.
    pub fn leave(&self, force: bool) -> Result<Leaving, CallError> {
        let request = DropMe { leave: true, force, ..DropMe::default() };
        let reply = match self.shared.dial_main().and_then(|mut main| main.call(&request)) {
            // As after an answer that was lost.
            Err(CallError::Fault(fault)) if fault.code == FaultCode::Left => None,
            Err(error) => return Err(error),
            Ok(reply) => Some(reply),
        };
        match reply {
            Some(reply) if !reply.left => Ok(Leaving::Draining(reply.drain.unwrap_or_default())),
            Some(_) | None => {
                self.shared.note_left();
                Ok(Leaving::Left)
            }
        }
    }
}
