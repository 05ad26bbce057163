//! Small chunks that come at about the same time go to the same nodes: what comes together shares
//! messages and syncs, and each node apart has its own of both.

use std::time::Duration;

use crate::clock::Moment;
use crate::ids::NodeId;
use crate::policy::placement::Chosen;

/// What is larger than this is worth a way of its own.
pub const SMALL_BYTES: u32 = 64 * 1024;
/// How long nodes are kept to,
const LASTS: Duration = Duration::from_millis(50);
/// and for how many bytes: little enough that under load all nodes get some at any time.
const LASTS_BYTES: u64 = 512 * 1024;

/// The nodes that small chunks go to at present.
#[derive(Debug, Clone, Default)]
pub struct Company {
    since: Option<Moment>,
    bytes: u64,
    /// For what was taken already, the node taken next.
    picks: Vec<(Vec<NodeId>, Chosen)>,
}

impl Company {
    /// The company that is still kept at `now`.
    pub fn at(self, now: Moment) -> Company {
        match self.since {
            Some(since) if now.since(since) < LASTS => self,
            Some(_) | None => Company { since: Some(now), ..Company::default() },
        }
    }

    /// Where the chunk before went that had these nodes, and why.
    pub fn node(&self, taken: &[NodeId]) -> Option<Chosen> {
        self.picks.iter().find(|(with, _)| with == taken).map(|(_, chosen)| *chosen)
    }

    /// A chunk of so many bytes goes there, beside those that it had.
    pub fn note(&mut self, taken: &[NodeId], chosen: Chosen, bytes: u32) {
        // So there are never many picks.
        self.bytes += u64::from(bytes.max(4096));
        if self.bytes > LASTS_BYTES {
            (self.picks, self.bytes) = (Vec::new(), 0);
        } else if let Some((_, kept)) = self.picks.iter_mut().find(|(with, _)| with == taken) {
            *kept = chosen;
        } else {
            self.picks.push((taken.to_vec(), chosen));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::placement::Reason;

    #[test]
    fn nodes_are_kept_to_for_a_while_and_for_some_bytes() {
        let at = |node| Chosen { node: NodeId(node), reason: Reason::Emptier };
        let start = Moment(1000);
        let mut company = Company::default().at(start);
        assert_eq!(company.node(&[]), None);
        company.note(&[], at(1), 4096);
        company.note(&[NodeId(1)], at(2), 4096);
        let later = company.clone().at(start + LASTS / 2);
        assert_eq!((later.node(&[]), later.node(&[NodeId(1)])), (Some(at(1)), Some(at(2))));
        assert_eq!(company.clone().at(start + LASTS).node(&[]), None, "its time is over");
        for _ in 0..LASTS_BYTES / 4096 {
            company.note(&[], at(1), 4096);
        }
        assert!(company.picks.len() <= 1, "it had its bytes");
    }
}
