//! How the nodes stand, taken together at one moment, and what that makes of a chunk's copies.

use std::collections::BTreeMap;

use super::census::{Trouble, Troubled};
use crate::catalog::ChunkRecord;
use crate::ids::NodeId;

/// What a copy on a node is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It counts.
    Counts,
    /// It can be read and counts for readers, but is to be moved: the node leaves.
    Leaving,
    /// It may be back soon.
    Away,
    /// Nobody waits for it any more.
    Dead,
}

/// The nodes at one moment. Those that have left are not among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub nodes: BTreeMap<NodeId, Presence>,
    /// Nodes that are silent are waited for, however few copies there are without them: the main
    /// server has just started, or suspects itself.
    pub is_patient: bool,
}

/// The nodes with a copy of one chunk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    pub counts: Vec<NodeId>,
    pub leaving: Vec<NodeId>,
    pub away: Vec<NodeId>,
    pub dead: Vec<NodeId>,
}

impl View {
    /// How many nodes there are whose copies count.
    pub fn counting(&self) -> usize {
        self.nodes.values().filter(|presence| **presence == Presence::Counts).count()
    }

    /// The chunk's holders, each as it stands.
    pub fn holders(&self, record: &ChunkRecord) -> Holders {
        let mut holders = Holders::default();
        for copy in &record.copies {
            match self.nodes.get(&copy.node) {
                Some(Presence::Counts) => holders.counts.push(copy.node),
                Some(Presence::Leaving) => holders.leaving.push(copy.node),
                Some(Presence::Away) => holders.away.push(copy.node),
                Some(Presence::Dead) => holders.dead.push(copy.node),
                None => {}
            }
        }
        holders
    }

    /// What is wrong with the chunk's copies.
    pub fn trouble(&self, record: &ChunkRecord) -> Option<Troubled> {
        let (wanted, holders) = (usize::from(record.wanted), self.holders(record));
        let (counts, leaving) = (holders.counts.len(), holders.leaving.len());
        let live = counts + leaving;
        let (trouble, copies) = match live {
            0 if holders.away.is_empty() && holders.dead.is_empty() => (Trouble::Lost, wanted),
            0 => (Trouble::Unreadable, wanted),
            1 if wanted > 1 => (Trouble::Single, wanted - 1),
            _ if live < wanted => (Trouble::Few, wanted - live),
            _ if leaving > 0 && (counts >= wanted || counts < self.counting()) => {
                (Trouble::Leaving, wanted.saturating_sub(counts))
            }
            _ if counts > wanted => (Trouble::Surplus, counts - wanted),
            _ => return None,
        };
        let copies = u8::try_from(copies).unwrap_or(u8::MAX);
        Some(Troubled { trouble, copies, length: record.length })
    }

    /// True when something is to be done about the chunk now. A copy on a node that is away is
    /// waited for, unless there is but one other.
    pub fn is_due(&self, record: &ChunkRecord) -> bool {
        let (wanted, holders) = (usize::from(record.wanted), self.holders(record));
        let (counts, live) = (holders.counts.len(), holders.counts.len() + holders.leaving.len());
        let waited_for = if live > 1 || self.is_patient { holders.away.len() } else { 0 };
        let has_few = live > 0 && counts + waited_for < wanted && counts < self.counting();
        let has_many = counts + holders.leaving.len() > wanted && counts >= wanted;
        has_few || has_many
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Copy;
    use crate::ids::{AccountId, ChunkId, HashAlgorithm, Serial};

    fn view(nodes: &[Presence]) -> View {
        let nodes = (1..).map(NodeId).zip(nodes.iter().copied()).collect();
        View { nodes, is_patient: false }
    }

    fn record(wanted: u8, nodes: &[u32]) -> ChunkRecord {
        ChunkRecord {
            serial: Serial(1),
            account: AccountId(1),
            id: ChunkId::of(HashAlgorithm::Blake3, b"hello"),
            length: 5,
            wanted,
            copies: nodes.iter().map(|&n| Copy { node: NodeId(n), reason: 0 }).collect(),
        }
    }

    fn trouble(view: &View, wanted: u8, nodes: &[u32]) -> Option<(Trouble, u8)> {
        view.trouble(&record(wanted, nodes)).map(|found| (found.trouble, found.copies))
    }

    use Presence::{Away, Counts, Dead, Leaving};

    #[test]
    fn each_way_in_which_copies_are_not_as_wanted_has_its_name() {
        let view = view(&[Counts, Counts, Counts, Leaving, Away, Dead]);
        assert_eq!(trouble(&view, 2, &[1, 2]), None);
        assert_eq!(trouble(&view, 1, &[1]), None);
        assert_eq!(trouble(&view, 3, &[1, 2, 6]), Some((Trouble::Few, 1)));
        assert_eq!(trouble(&view, 3, &[1, 5]), Some((Trouble::Single, 2)));
        assert_eq!(trouble(&view, 2, &[5, 6]), Some((Trouble::Unreadable, 2)));
        assert_eq!(trouble(&view, 2, &[6]), Some((Trouble::Unreadable, 2)));
        assert_eq!(trouble(&view, 2, &[]), Some((Trouble::Lost, 2)));
        assert_eq!(trouble(&view, 2, &[7]), Some((Trouble::Lost, 2)), "struck off");
        assert_eq!(trouble(&view, 2, &[1, 4]), Some((Trouble::Leaving, 1)));
        assert_eq!(trouble(&view, 2, &[1, 2, 4]), Some((Trouble::Leaving, 0)));
        assert_eq!(trouble(&view, 1, &[1, 2, 3]), Some((Trouble::Surplus, 2)));
        assert_eq!(trouble(&view, 4, &[1, 2, 3, 4]), None, "there is no other node to move it to");
    }

    #[test]
    fn copies_on_nodes_that_are_away_are_waited_for_unless_one_alone_is_left() {
        let mut view = view(&[Counts, Counts, Counts, Leaving, Away, Dead]);
        let due = |view: &View, wanted, nodes: &[u32]| view.is_due(&record(wanted, nodes));
        assert!(!due(&view, 3, &[1, 2, 5]) && due(&view, 3, &[1, 2, 6]));
        assert!(due(&view, 2, &[1, 5]) && due(&view, 2, &[1, 4]));
        assert!(due(&view, 2, &[1, 2, 3]) && due(&view, 2, &[1, 2, 4]));
        assert!(!due(&view, 2, &[5, 6]) && !due(&view, 2, &[]), "there is nothing to copy from");
        assert!(!due(&view, 4, &[1, 2, 3]), "there is nowhere to copy to");
        view.is_patient = true;
        assert!(!due(&view, 2, &[1, 5]) && due(&view, 2, &[1]));
    }
}
