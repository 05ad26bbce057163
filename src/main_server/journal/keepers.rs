//! Which nodes keep the journal: a pure choice.

use std::collections::BTreeSet;

use crate::ids::NodeId;
use crate::policy::liveness::State;
use crate::policy::placement::Candidate;

/// How many keepers there are where there are so many nodes.
pub const KEEPERS: usize = 3;
/// How many of them should be alive.
const ALIVE_KEEPERS: usize = 2;
/// What a node must have free to become one.
const ROOM: u64 = 64 << 20;

/// Chooses keepers. Those that there are stay, since a new one must copy everything first: a keeper
/// that is away for a while is joined by another only when too few others are alive. One that is
/// gone, or that `cannot`, is replaced.
pub fn choose(nodes: &[Candidate], keepers: &[NodeId], cannot: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let may_stay = |node: &&Candidate| {
        let is_gone = matches!(node.state, State::Dead | State::Stopped) || node.is_leaving;
        keepers.contains(&node.node) && !is_gone && !node.has_failed && !cannot.contains(&node.node)
    };
    let mut chosen: Vec<&Candidate> = nodes.iter().filter(may_stay).collect();
    let mut rest: Vec<&Candidate> = nodes
        .iter()
        .filter(|node| node.state == State::Alive && !node.has_failed && !node.is_leaving)
        .filter(|node| node.free_bytes >= ROOM)
        .filter(|node| !cannot.contains(&node.node) && !keepers.contains(&node.node))
        .collect();
    loop {
        let alive = chosen.iter().filter(|node| node.state == State::Alive).count();
        if chosen.len() >= KEEPERS && alive >= ALIVE_KEEPERS {
            break;
        }
        let zones: BTreeSet<u32> = chosen.iter().map(|node| node.zone).collect();
        let best = rest.iter().enumerate().max_by_key(|(_, node)| {
            (!zones.contains(&node.zone), node.free_bytes, std::cmp::Reverse(node.node))
        });
        let Some((at, _)) = best else { break };
        chosen.push(rest.swap_remove(at));
    }
    chosen.into_iter().map(|node| node.node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::pace::Hands;

    fn node(number: u32, zone: u32, state: State) -> Candidate {
        Candidate {
            node: NodeId(number),
            zone,
            state,
            silent: None,
            is_slow: false,
            has_failed: false,
            is_leaving: false,
            offered_bytes: 1 << 30,
            used_bytes: 0,
            reserved_bytes: 0,
            free_bytes: 1 << 30,
            condemned_bytes: 0,
            hands: Hands::new(0, 0, 0),
        }
    }

    fn chosen(nodes: &[Candidate], keepers: &[u32], cannot: &[u32]) -> Vec<u32> {
        let ids = |numbers: &[u32]| numbers.iter().map(|n| NodeId(*n)).collect::<Vec<_>>();
        let cannot = ids(cannot).into_iter().collect();
        choose(nodes, &ids(keepers), &cannot).into_iter().map(|node| node.0).collect()
    }

    #[test]
    fn three_nodes_keep_it_in_as_many_zones_as_there_are() {
        let nodes: Vec<_> =
            (1..=6).map(|n| node(n, u32::from(n > 4) + u32::from(n > 5), State::Alive)).collect();
        let keepers = chosen(&nodes, &[], &[]);
        assert_eq!(keepers.len(), 3);
        assert!(keepers.contains(&5) && keepers.contains(&6), "{keepers:?}");
        assert_eq!(chosen(&nodes[..1], &[], &[]), [1]);
        assert_eq!(chosen(&[], &[], &[]), [0_u32; 0]);
    }

    #[test]
    fn keepers_stay_and_a_dead_or_failed_one_is_replaced() {
        let mut nodes: Vec<_> = (1..=4).map(|n| node(n, 0, State::Alive)).collect();
        assert_eq!(chosen(&nodes, &[2, 3, 4], &[]), [2, 3, 4]);
        nodes[1].state = State::Suspect;
        assert_eq!(chosen(&nodes, &[2, 3, 4], &[]), [2, 3, 4]);
        nodes[2].state = State::Suspect;
        assert_eq!(chosen(&nodes, &[2, 3, 4], &[]), [2, 3, 4, 1], "too few are alive");
        nodes[2].state = State::Dead;
        assert_eq!(chosen(&nodes, &[2, 3, 4], &[]), [2, 4, 1]);
        assert_eq!(chosen(&nodes, &[1, 2, 4], &[4]), [1, 2], "node 4 cannot, node 3 is dead");
    }

    #[test]
    fn a_node_without_room_becomes_none_and_one_that_has_it_stays() {
        let mut full = node(1, 0, State::Alive);
        full.free_bytes = 1;
        assert_eq!(chosen(std::slice::from_ref(&full), &[], &[]), [0_u32; 0]);
        assert_eq!(chosen(&[full], &[1], &[]), [1]);
    }
}
