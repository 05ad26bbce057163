//! Towards equal fill: which nodes should give copies and which should take them, and whether a
//! chunk can move from one to the other. A move is one copy too many, on a node with more room;
//! once it is confirmed, the trim of the surplus takes the one on the fullest holder. So a move
//! that is cut short at any point costs no copy.

use crate::ids::NodeId;
use crate::policy::liveness::Presence;
use crate::policy::placement::{Candidate, Chosen, Placer, Reason};
use crate::policy::repair::{Holders, source};

/// Fill may differ by so many millionths between nodes before anything is moved.
pub const TOLERANCE_PPM: u64 = 20_000;
/// Moving goes on until nodes are so near to the mean, well inside of the tolerance, so that it does
/// not begin anew with the next chunk that is stored.
const AIM_PPM: u64 = 5_000;
/// How many nodes are tried as the one to take a copy.
const TRIED: usize = 16;

/// How much may be planned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that one node gives or takes.
    pub node_bytes: u64,
    /// Bytes in all.
    pub all_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { node_bytes: 64 << 20, all_bytes: 1 << 30 }
    }
}

/// A copy to be made although the chunk has enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The node that should be relieved.
    pub giver: NodeId,
    pub taker: Chosen,
    /// The node that sends the copy.
    pub from: NodeId,
}

#[derive(Debug, Clone, Copy)]
struct Side {
    node: NodeId,
    /// Bytes that it should still give or take, as far as the limits go.
    bytes: u64,
    /// So far from the mean that it is worth a move.
    is_far: bool,
}

/// Who should give and who should take, as the nodes stood when it was made.
#[derive(Debug, Clone, Default)]
pub struct Rebalance {
    /// By number.
    givers: Vec<Side>,
    /// By number.
    takers: Vec<Side>,
    left_bytes: u64,
    mean_ppm: u64,
    /// Where the next search for a taker begins.
    turn: usize,
}

impl Rebalance {
    /// A plan for these nodes; an empty one when fill differs by no more than the tolerance. Nodes
    /// whose copies do not count, or that cannot store, neither give nor take.
    pub fn plan(candidates: &[Candidate], limits: Limits) -> Rebalance {
        let is_fit = |c: &&Candidate| c.presence() == Presence::Counts && !c.has_failed;
        let fit: Vec<&Candidate> =
            candidates.iter().filter(is_fit).filter(|c| c.offered_bytes > 0).collect();
        let fills = || fit.iter().map(|c| c.fill_ppm());
        let spread = fills().max().unwrap_or(0) - fills().min().unwrap_or(0);
        if spread <= TOLERANCE_PPM {
            return Rebalance::default();
        }
        let filled: u128 = fit.iter().map(|c| u128::from(c.filled_bytes())).sum();
        let offered: u128 = fit.iter().map(|c| u128::from(c.offered_bytes)).sum();
        let mean_ppm = u64::try_from(filled * 1_000_000 / offered.max(1)).unwrap_or(u64::MAX);
        let mut plan = Rebalance { left_bytes: limits.all_bytes, mean_ppm, ..Rebalance::default() };
        for candidate in fit {
            let (fill, offered) = (candidate.fill_ppm(), u128::from(candidate.offered_bytes));
            let away = fill.abs_diff(mean_ppm);
            let bytes = u64::try_from(offered * u128::from(away) / 1_000_000).unwrap_or(u64::MAX);
            let side = Side {
                node: candidate.node,
                bytes: bytes.min(limits.node_bytes),
                is_far: away > AIM_PPM,
            };
            if fill > mean_ppm { plan.givers.push(side) } else { plan.takers.push(side) }
        }
        plan.givers.sort_by_key(|side| side.node);
        plan
    }

    /// True when there is nothing to move, or no more for this plan.
    pub fn is_done(&self) -> bool {
        let is_over = |sides: &[Side]| sides.iter().all(|side| side.bytes == 0);
        self.left_bytes == 0 || is_over(&self.givers) || is_over(&self.takers)
    }

    /// How full the nodes would be if all were equally so, in millionths.
    pub fn mean_ppm(&self) -> u64 {
        self.mean_ppm
    }

    /// The nodes whose chunks are worth looking at.
    pub fn givers(&self) -> impl Iterator<Item = NodeId> {
        self.givers.iter().filter(|side| side.bytes > 0).map(|side| side.node)
    }

    /// A move of this chunk, of which there must be exactly the copies wanted and none under way;
    /// `None` when it should stay where it is. The giver is the fullest of its holders; the taker is
    /// in no zone of the others, unless the giver is in one. What it says is to be done, `placer` takes
    /// for done.
    pub fn judge(&mut self, length: u32, holders: &Holders, placer: &mut Placer) -> Option<Move> {
        let bytes = u64::from(length);
        let fill = |node: &NodeId| placer.candidate(*node).map_or(0, Candidate::fill_ppm);
        let giver = holders.counts.iter().copied().max_by_key(|node| (fill(node), *node))?;
        let giving = self.givers.binary_search_by_key(&giver, |side| side.node).ok()?;
        if self.givers[giving].bytes == 0 || self.left_bytes == 0 {
            return None;
        }
        let taking = self.find_taker(giver, self.givers[giving].is_far, bytes, holders, placer)?;
        let from = source(holders, length, placer)?;
        let taker = self.takers[taking].node;
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        for side in [&mut self.givers[giving], &mut self.takers[taking]] {
            side.bytes = side.bytes.saturating_sub(bytes);
        }
        placer.burden(from, bytes);
        placer.reserve(taker, bytes);
        Some(Move { giver, taker: Chosen { node: taker, reason: Reason::Evened }, from })
    }

    fn find_taker(
        &mut self,
        giver: NodeId,
        is_far: bool,
        bytes: u64,
        holders: &Holders,
        placer: &Placer,
    ) -> Option<usize> {
        let zone = |node: &NodeId| placer.candidate(*node).map(|c| c.zone);
        let all = [&holders.counts, &holders.leaving, &holders.away, &holders.gone];
        let others: Vec<Option<u32>> =
            all.into_iter().flatten().filter(|&&node| node != giver).map(zone).collect();
        let giver = placer.candidate(giver)?;
        // Where the giver shares its zone with another holder, nothing is lost if the taker does.
        let giver_shares = others.contains(&Some(giver.zone));
        self.turn = self.turn.wrapping_add(1);
        for step in 0..TRIED.min(self.takers.len()) {
            let at = (self.turn + step) % self.takers.len();
            let side = self.takers[at];
            let Some(taker) = placer.candidate(side.node) else { continue };
            let holds = all.into_iter().flatten().any(|node| *node == side.node);
            let room = taker.free_bytes.saturating_sub(taker.reserved_bytes);
            let is_fit = side.bytes > 0
                && (is_far || side.is_far)
                && !holds
                && (giver_shares || !others.contains(&Some(taker.zone)))
                && room >= bytes
                && !taker.is_slow
                && is_better(giver, taker, bytes);
            if is_fit {
                self.turn = at;
                return Some(at);
            }
        }
        None
    }
}

/// True when the taker is no fuller afterwards than the giver: otherwise the copy would come back.
fn is_better(giver: &Candidate, taker: &Candidate, bytes: u64) -> bool {
    let after = |filled: u64, other: &Candidate| {
        u128::from(filled) * u128::from(other.offered_bytes.max(1))
    };
    let given = giver.filled_bytes().saturating_sub(bytes);
    after(taker.filled_bytes().saturating_add(bytes), giver) <= after(given, taker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::liveness::State;
    use crate::policy::pace::Hands;
    use crate::policy::placement::Placement;

    const MIB: u64 = 1 << 20;

    fn node(number: u32, zone: u32, used_mib: u64) -> Candidate {
        Candidate {
            node: NodeId(number),
            zone,
            state: State::Alive,
            silent: None,
            is_slow: false,
            has_failed: false,
            is_leaving: false,
            offered_bytes: 1000 * MIB,
            used_bytes: used_mib * MIB,
            reserved_bytes: 0,
            free_bytes: (1000 - used_mib) * MIB,
            condemned_bytes: 0,
            hands: Hands::new(0, 0, 0),
        }
    }

    fn holders(nodes: &[u32]) -> Holders {
        Holders { counts: nodes.iter().copied().map(NodeId).collect(), ..Holders::default() }
    }

    fn plan(nodes: &[Candidate]) -> (Rebalance, Placer) {
        let limits = Limits { node_bytes: 64 * MIB, all_bytes: 96 * MIB };
        let placer = Placer::new(Placement::Balanced, nodes.to_vec(), 1, 0);
        (Rebalance::plan(nodes, limits), placer)
    }

    #[test]
    fn within_the_tolerance_nothing_is_moved() {
        let (plan, _) = plan(&[node(1, 0, 500), node(2, 0, 520), node(3, 0, 501)]);
        assert!(plan.is_done());
        assert_eq!(plan.givers().count(), 0);
    }

    #[test]
    fn a_new_node_is_given_to_though_no_other_is_far_from_the_mean() {
        let mut nodes: Vec<Candidate> = (1..=200).map(|n| node(n, n, 500)).collect();
        nodes.push(node(201, 201, 0));
        let (mut plan, mut placer) = plan(&nodes);
        let moved = plan.judge(4 << 20, &holders(&[3, 4, 5]), &mut placer).expect("a move");
        assert_eq!(moved.taker.node, NodeId(201));
        assert_eq!(placer.candidate(NodeId(201)).expect("known").reserved_bytes, 4 * MIB);
    }

    #[test]
    fn a_copy_stays_where_a_move_would_put_two_into_one_zone() {
        let nodes = [node(1, 1, 900), node(2, 2, 500), node(3, 2, 0), node(4, 1, 100)];
        let (mut plan, mut placer) = plan(&nodes);
        let moved = plan.judge(1 << 20, &holders(&[1, 2]), &mut placer).expect("a move");
        assert_eq!((moved.giver, moved.taker.node), (NodeId(1), NodeId(4)));
        let (mut plan, mut placer) = self::plan(&nodes[..3]);
        let none = plan.judge(1 << 20, &holders(&[1, 2]), &mut placer);
        assert_eq!(none, None, "only node 3 is left to take it, in the zone of node 2");
    }

    #[test]
    fn where_holders_share_a_zone_already_it_is_no_hindrance() {
        let nodes = [node(1, 0, 900), node(2, 0, 500), node(3, 0, 0)];
        let (mut plan, mut placer) = plan(&nodes);
        let moved = plan.judge(1 << 20, &holders(&[1, 2]), &mut placer).expect("a move");
        assert_eq!((moved.giver, moved.taker.node), (NodeId(1), NodeId(3)));
    }

    #[test]
    fn no_plan_moves_more_than_its_limits() {
        let nodes: Vec<Candidate> =
            (1..=10).map(|n| node(n, n, if n < 6 { 900 } else { 100 })).collect();
        let (mut plan, mut placer) = plan(&nodes);
        let mut moves = Vec::new();
        for chunk in 0..1000 {
            moves.extend(plan.judge(4 << 20, &holders(&[chunk % 5 + 1]), &mut placer));
        }
        assert_eq!(moves.len(), 24);
        assert!(plan.is_done());
        for node in 1..=10 {
            let touched =
                moves.iter().filter(|m| [m.giver, m.taker.node].contains(&NodeId(node))).count();
            assert!(touched <= 16, "node {node} has {touched} moves");
        }
    }
}
