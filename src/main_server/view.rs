//! How the nodes stand, taken together at one moment, and what that makes of a chunk's copies.

use std::collections::BTreeMap;

use super::census::{Trouble, Troubled};
use crate::catalog::ChunkRecord;
use crate::ids::NodeId;
use crate::policy::liveness::Presence;
use crate::policy::repair::Holders;

/// The nodes at one moment. Those that have left are not among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    nodes: BTreeMap<NodeId, Presence>,
    /// How many of them count.
    counting: usize,
    /// Silence is not believed: the main server has just started, or suspects itself.
    pub is_patient: bool,
}

impl View {
    /// These nodes, each as it stands. For the patient, nobody is gone.
    pub fn new(nodes: impl IntoIterator<Item = (NodeId, Presence)>, is_patient: bool) -> View {
        let taken = |presence| match presence {
            Presence::Gone if is_patient => Presence::Away,
            presence => presence,
        };
        let nodes: BTreeMap<NodeId, Presence> =
            nodes.into_iter().map(|(node, presence)| (node, taken(presence))).collect();
        let counting = nodes.values().filter(|presence| **presence == Presence::Counts).count();
        View { nodes, counting, is_patient }
    }

    /// How many nodes there are whose copies count.
    pub fn counting(&self) -> usize {
        self.counting
    }

    /// The same without one of them.
    pub fn counting_without(&self, node: NodeId) -> usize {
        self.counting - usize::from(self.nodes.get(&node) == Some(&Presence::Counts))
    }

    /// True when all nodes can be read.
    pub fn is_whole(&self) -> bool {
        self.nodes.values().all(|presence| match presence {
            Presence::Counts | Presence::Leaving => true,
            Presence::Away | Presence::Expected | Presence::Gone => false,
        })
    }

    /// The chunk's holders, each as it stands. Those that have left do not hold it.
    pub fn holders(&self, record: &ChunkRecord) -> Holders {
        let nodes = record.copies.iter().map(|copy| copy.node);
        let there = nodes.filter(|node| self.nodes.contains_key(node));
        Holders::sort(there, |node| self.nodes[&node])
    }

    /// What is wrong with the chunk's copies.
    pub fn trouble(&self, record: &ChunkRecord) -> Option<Troubled> {
        let (wanted, holders) = (usize::from(record.wanted), self.holders(record));
        let live = holders.live();
        let (trouble, copies) = match live {
            0 if holders.is_empty() => (Trouble::Lost, wanted),
            0 => (Trouble::Unreadable, wanted),
            1 if wanted > 1 => (Trouble::Single, wanted - 1),
            _ if live < wanted => (Trouble::Few, wanted - live),
            _ if !holders.leaving.is_empty() && self.can_leave(&holders, wanted) => {
                (Trouble::Leaving, holders.missing(wanted))
            }
            _ => match holders.surplus(wanted) {
                0 => return None,
                surplus => (Trouble::Surplus, surplus),
            },
        };
        let copies = u8::try_from(copies).unwrap_or(u8::MAX);
        Some(Troubled { trouble, copies, length: record.length })
    }

    /// True when something is to be done about the chunk now, as far as there are nodes for it.
    pub fn is_due(&self, record: &ChunkRecord) -> bool {
        let (wanted, holders) = (usize::from(record.wanted), self.holders(record));
        let has_few = holders.due(wanted, self.is_patient) > 0;
        let has_many = holders.surplus(wanted) > 0 && !self.is_patient;
        has_many || has_few && holders.counts.len() < self.counting
    }

    /// Copies on nodes that leave can go, or be moved.
    fn can_leave(&self, holders: &Holders, wanted: usize) -> bool {
        holders.missing(wanted) == 0 || holders.counts.len() < self.counting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Copy;
    use crate::ids::{AccountId, ChunkId, HashAlgorithm, Serial};

    fn view(nodes: &[Presence]) -> View {
        View::new((1..).map(NodeId).zip(nodes.iter().copied()), false)
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

    use Presence::{Away, Counts, Gone, Leaving};

    #[test]
    fn each_way_in_which_copies_are_not_as_wanted_has_its_name() {
        let view = view(&[Counts, Counts, Counts, Leaving, Away, Gone]);
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
        let here = [Counts, Counts, Counts, Leaving, Away, Gone];
        let view = view(&here);
        let due = |view: &View, wanted, nodes: &[u32]| view.is_due(&record(wanted, nodes));
        assert!(!due(&view, 3, &[1, 2, 5]) && due(&view, 3, &[1, 2, 6]));
        assert!(due(&view, 2, &[1, 5]) && due(&view, 2, &[1, 4]));
        assert!(due(&view, 2, &[1, 2, 3]) && due(&view, 2, &[1, 2, 4]));
        assert!(!due(&view, 2, &[5, 6]) && !due(&view, 2, &[]), "there is nothing to copy from");
        assert!(!due(&view, 4, &[1, 2, 3]), "there is nowhere to copy to");
        let patient = View::new((1..).map(NodeId).zip(here), true);
        assert!(!due(&patient, 2, &[1, 5]) && !due(&patient, 2, &[1, 6]));
        assert!(due(&patient, 2, &[1]) && !due(&patient, 2, &[1, 2, 3]));
    }
}
