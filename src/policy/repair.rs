//! What to do about a chunk whose copies may be too few, too many, or on the wrong nodes.

use crate::clock::Moment;
use crate::ids::NodeId;
use crate::policy::liveness::Presence;
use crate::policy::placement::{Candidate, Chosen, Placer, Wish};

/// The nodes with a confirmed copy of one chunk, each as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    pub counts: Vec<NodeId>,
    pub leaving: Vec<NodeId>,
    pub away: Vec<NodeId>,
    /// Of those away, how many said when they will be back.
    pub expected: usize,
    pub gone: Vec<NodeId>,
}

impl Holders {
    /// Sorts the holders of a chunk by what their copies are worth.
    pub fn sort(
        nodes: impl IntoIterator<Item = NodeId>,
        presence: impl Fn(NodeId) -> Presence,
    ) -> Holders {
        let mut holders = Holders::default();
        for node in nodes {
            match presence(node) {
                Presence::Counts => holders.counts.push(node),
                Presence::Leaving => holders.leaving.push(node),
                Presence::Away => holders.away.push(node),
                Presence::Expected => {
                    holders.away.push(node);
                    holders.expected += 1;
                }
                Presence::Gone => holders.gone.push(node),
            }
        }
        holders
    }

    /// Copies that can be read now.
    pub fn live(&self) -> usize {
        self.counts.len() + self.leaving.len()
    }

    /// Nobody has it, now or later.
    pub fn is_empty(&self) -> bool {
        self.live() + self.away.len() + self.gone.len() == 0
    }

    /// Copies that count, less those that are wanted.
    pub fn missing(&self, wanted: usize) -> usize {
        wanted.saturating_sub(self.counts.len())
    }

    /// How many copies are to be made now, if there were room for them; some of these may be under
    /// way. Copies on nodes that are away are waited for, but a single copy that can be read is
    /// joined by a second one at once, unless a node with another said that it will be back. The
    /// patient wait for whatever is not struck off.
    pub fn due(&self, wanted: usize, is_patient: bool) -> usize {
        let missing = self.missing(wanted);
        if self.live() == 0 || missing == 0 {
            return 0;
        }
        if is_patient {
            return missing.saturating_sub(self.away.len() + self.gone.len());
        }
        let at_once = usize::from(self.live() + self.expected == 1);
        missing.saturating_sub(self.away.len()).max(at_once)
    }

    /// How many live copies could go: those on nodes that leave, and those above what is wanted.
    pub fn surplus(&self, wanted: usize) -> usize {
        if self.missing(wanted) > 0 { 0 } else { self.live() - wanted.min(self.live()) }
    }
}

/// What is known of the chunk's copies.
#[derive(Debug, Clone, Copy)]
pub struct Copies<'a> {
    /// Bytes of the chunk.
    pub length: u32,
    pub wanted: usize,
    pub holders: &'a Holders,
    /// Nodes to which a copy is on its way.
    pub under_way: &'a [NodeId],
    /// Nodes that cannot take a copy now: they failed to a moment ago, or are to delete one.
    pub barred: &'a [NodeId],
    /// Silence is not believed: the main server has just started, or doubts itself. Nothing is
    /// copied on the strength of it, and nothing is removed.
    pub is_patient: bool,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: there are as many copies as wanted, where they belong.
    Enough,
    /// Nothing now: the copies that are missing are on their way.
    UnderWay,
    /// Nothing now: the copies that are missing are on nodes that are waited for. To be judged
    /// again when one of them is back or dead.
    Away { missing: usize },
    /// Have `from` copy it to these nodes.
    Copy { from: NodeId, to: Vec<Chosen> },
    /// Every node that could copy it has its hands full.
    SourcesBusy,
    /// Wait for a node: none can take a copy, or none that holds one is there.
    Waiting { missing: usize },
    /// There are enough, but two in one zone while another has none: have `from` copy it there. The
    /// trim of the surplus then takes one of the two.
    Spread { from: NodeId, to: Chosen },
    /// There are more live copies than wanted: those on these nodes can go.
    Trim { surplus: Vec<NodeId> },
    /// No node holds it.
    Lost,
}

/// Judges one chunk. What it says is to be done, `placer` takes for done from then on: the room on
/// the targets, the hands of the source, the bytes of what is trimmed.
pub fn judge(copies: &Copies<'_>, placer: &mut Placer) -> Verdict {
    let (holders, wanted) = (copies.holders, copies.wanted);
    let is_new = |node: &&NodeId| !holders.counts.contains(node);
    let under_way = copies.under_way.iter().filter(is_new).count();
    let missing = holders.missing(wanted);
    if holders.live() == 0 && missing > 0 {
        let is_lost = holders.is_empty() && under_way == 0;
        return if is_lost { Verdict::Lost } else { Verdict::Waiting { missing } };
    }
    if missing == 0 {
        return match holders.surplus(wanted) {
            _ if copies.is_patient => Verdict::Enough,
            0 if under_way > 0 => Verdict::Enough,
            0 => spread(copies, placer).unwrap_or(Verdict::Enough),
            count => trim(copies, count, placer),
        };
    }
    match holders.due(wanted, copies.is_patient) {
        0 => Verdict::Away { missing },
        due if due <= under_way => Verdict::UnderWay,
        due => copy(copies, due - under_way, placer),
    }
}

fn copy(copies: &Copies<'_>, missing: usize, placer: &mut Placer) -> Verdict {
    let held = copies.holders;
    let Some(from) = source(held, copies.length, placer) else {
        return Verdict::SourcesBusy;
    };
    let stay = [&held.counts, &held.away, copies.under_way].concat();
    let elsewhere = [&held.leaving, &held.gone, copies.barred].concat();
    let wish = Wish {
        length: copies.length,
        copies: missing,
        holders: &[stay.as_slice(), &elsewhere].concat(),
        apart_from: &stay,
    };
    let to = placer.place(&wish);
    if to.is_empty() {
        return Verdict::Waiting { missing };
    }
    placer.burden(from, u64::from(copies.length) * to.len() as u64);
    Verdict::Copy { from, to }
}

/// True when two of the copies that count are in one zone, and there is a zone without any where it
/// could go. Whether there is room is not looked at.
pub fn could_spread(holders: &Holders, placer: &Placer) -> bool {
    let zone = |node: &NodeId| placer.candidate(*node).map(|c| c.zone);
    let mut zones: Vec<u32> = holders.counts.iter().filter_map(zone).collect();
    let copies = zones.len();
    zones.sort_unstable();
    zones.dedup();
    zones.len() < copies && placer.has_zone_beside(&zones)
}

/// Copies on nodes that are away may be back in the zones where they are missing.
fn spread(copies: &Copies<'_>, placer: &mut Placer) -> Option<Verdict> {
    let held = copies.holders;
    if !held.away.is_empty() || !could_spread(held, placer) {
        return None;
    }
    let from = source(held, copies.length, placer)?;
    let holders = [&held.counts, &held.gone, copies.barred].concat();
    let wish =
        Wish { length: copies.length, copies: 1, holders: &holders, apart_from: &held.counts };
    let to = placer.place_apart(&wish)?;
    placer.burden(from, u64::from(copies.length));
    Some(Verdict::Spread { from, to })
}

/// The node to copy from: of those that can be read and have a hand free, the one with the least to
/// do.
pub fn source(holders: &Holders, length: u32, placer: &Placer) -> Option<NodeId> {
    let readable = holders.counts.iter().chain(&holders.leaving);
    let nodes = readable.filter_map(|&node| placer.candidate(node));
    let free = nodes.filter(|candidate| candidate.hands.can_take(u64::from(length)));
    // One that is late with its answer, or that cannot write any more, is asked last.
    let rank = |c: &&Candidate| (c.is_slow || c.has_failed, c.hands.bytes, c.hands.orders, c.node);
    free.min_by_key(rank).map(|candidate| candidate.node)
}

/// Chooses the copies that can go: first those on nodes that leave; then, one by one, one that
/// shares its zone with another, and of these the one on the fullest node.
fn trim(copies: &Copies<'_>, count: usize, placer: &mut Placer) -> Verdict {
    let mut surplus: Vec<NodeId> = copies.holders.leaving.clone();
    let mut kept = copies.holders.counts.clone();
    surplus.truncate(count);
    while surplus.len() < count {
        let rank = |node: NodeId| {
            let candidate = placer.candidate(node);
            let zone = candidate.map(|c| c.zone);
            let in_zone = kept.iter().filter(|&&n| placer.candidate(n).map(|c| c.zone) == zone);
            (in_zone.count() > 1, candidate.map_or(0, Candidate::fill_ppm), node)
        };
        let ranked = (0..kept.len()).max_by_key(|&at| rank(kept[at]));
        let Some(at) = ranked.filter(|_| kept.len() > copies.wanted) else { break };
        let node = kept.swap_remove(at);
        placer.condemn(node, u64::from(copies.length));
        surplus.push(node);
    }
    Verdict::Trim { surplus }
}

/// What a chunk is in danger of, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Risk {
    /// It has too few copies: so many can be read.
    Copies(u8),
    /// It has enough, but on a node that leaves.
    Leaving,
    /// It has too many.
    Surplus,
    /// It could be where there is more room.
    Uneven,
}

/// How urgent it is to look at a chunk: what compares less comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency {
    pub risk: Risk,
    /// Nobody has read it lately.
    pub is_idle: bool,
    /// Since when it is known.
    pub since: Moment,
}

impl Urgency {
    /// The urgency of a chunk with these holders; the greatest for one that can be read nowhere, as
    /// it may be for a moment only.
    pub fn of(holders: &Holders, wanted: usize, is_idle: bool, since: Moment) -> Urgency {
        let live = u8::try_from(holders.live()).unwrap_or(u8::MAX);
        let risk = match holders.missing(wanted) {
            0 if holders.surplus(wanted) == 0 => Risk::Uneven,
            0 => Risk::Surplus,
            _ if holders.live() >= wanted => Risk::Leaving,
            _ => Risk::Copies(live),
        };
        Urgency { risk, is_idle, since }
    }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
