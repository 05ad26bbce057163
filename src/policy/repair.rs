//! What to do about a chunk that may have too few copies.

use crate::ids::NodeId;
use crate::policy::placement::{Chosen, Placer, Wish};

/// What is known of the chunk's copies.
#[derive(Debug, Clone, Copy)]
pub struct Copies<'a> {
    /// Bytes of the chunk.
    pub length: u32,
    pub wanted: usize,
    /// Nodes with a confirmed copy that count now.
    pub live: &'a [NodeId],
    /// Nodes with a confirmed copy that do not count now, and may again.
    pub away: &'a [NodeId],
    /// Nodes to which a copy is on its way.
    pub under_way: &'a [NodeId],
    /// Nodes that failed to take a copy a moment ago.
    pub failed: &'a [NodeId],
    /// Nodes of `live` that can be told to copy now.
    pub sources: &'a [NodeId],
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: there are as many copies as wanted.
    Enough,
    /// Nothing now: the copies that are missing are on their way.
    UnderWay,
    /// Have `from` copy it to these nodes.
    Copy { from: NodeId, to: Vec<Chosen> },
    /// Every node that could copy it has its hands full.
    SourcesBusy,
    /// Wait for a node: none can take a copy, or none that holds one is there.
    Waiting { missing: usize },
    /// No node holds it.
    Lost,
}

/// Judges one chunk. Only live copies count.
pub fn judge(copies: &Copies<'_>, placer: &mut Placer) -> Verdict {
    let missing = copies.wanted.saturating_sub(copies.live.len());
    if missing == 0 {
        return Verdict::Enough;
    }
    if copies.live.is_empty() {
        let is_lost = copies.away.is_empty() && copies.under_way.is_empty();
        return if is_lost { Verdict::Lost } else { Verdict::Waiting { missing } };
    }
    let missing = missing.saturating_sub(copies.under_way.len());
    if missing == 0 {
        return Verdict::UnderWay;
    }
    let Some(&from) = copies.sources.first() else { return Verdict::SourcesBusy };
    let holders = [copies.live, copies.away, copies.under_way, copies.failed].concat();
    let wish = Wish { length: copies.length, copies: missing, holders: &holders };
    let to = placer.place(&wish);
    if to.is_empty() { Verdict::Waiting { missing } } else { Verdict::Copy { from, to } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::liveness::State;
    use crate::policy::placement::{Candidate, Placement};

    fn placer(nodes: u32) -> Placer {
        let node = |number| Candidate {
            node: NodeId(number),
            zone: 0,
            state: State::Alive,
            silent: None,
            is_slow: false,
            has_failed: false,
            offered_bytes: 1 << 30,
            used_bytes: 0,
            reserved_bytes: 0,
            free_bytes: 1 << 30,
        };
        Placer::new(Placement::Balanced, (1..=nodes).map(node).collect(), 1, 0)
    }

    fn copies<'a>(live: &'a [NodeId]) -> Copies<'a> {
        let none = &[];
        let (under_way, failed) = (none, none);
        Copies { length: 5, wanted: 3, live, away: none, under_way, failed, sources: live }
    }

    #[test]
    fn a_missing_copy_is_made_from_a_live_one_on_a_node_without_one() {
        let live = [NodeId(1), NodeId(3)];
        let Verdict::Copy { from, to } = judge(&copies(&live), &mut placer(4)) else {
            panic!("a copy was due");
        };
        assert_eq!(from, NodeId(1));
        assert_eq!(to.len(), 1);
        assert!(!live.contains(&to[0].node));
    }

    #[test]
    fn a_copy_that_is_under_way_is_not_asked_for_again() {
        let live = [NodeId(1), NodeId(2)];
        let chunk = Copies { under_way: &[NodeId(3)], ..copies(&live) };
        assert_eq!(judge(&chunk, &mut placer(4)), Verdict::UnderWay);
    }

    #[test]
    fn only_live_copies_count_and_none_at_all_is_a_loss() {
        let away = [NodeId(1), NodeId(2), NodeId(3)];
        let chunk = Copies { away: &away, ..copies(&[]) };
        assert_eq!(judge(&chunk, &mut placer(4)), Verdict::Waiting { missing: 3 });
        assert_eq!(judge(&copies(&[]), &mut placer(4)), Verdict::Lost);
    }

    #[test]
    fn a_chunk_waits_while_no_node_can_take_it() {
        let live = [NodeId(1), NodeId(2)];
        assert_eq!(judge(&copies(&live), &mut placer(2)), Verdict::Waiting { missing: 1 });
        let chunk = Copies { failed: &[NodeId(3)], ..copies(&live) };
        assert_eq!(judge(&chunk, &mut placer(3)), Verdict::Waiting { missing: 1 });
        let busy = Copies { sources: &[], ..copies(&live) };
        assert_eq!(judge(&busy, &mut placer(4)), Verdict::SourcesBusy);
    }
}
