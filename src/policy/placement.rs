//! Where copies go: nodes, sizes and a seed in; for each chunk its nodes out, with the reason for
//! each node that was taken and for each that was not.

use std::time::Duration;

use crate::ids::NodeId;
use crate::policy::company::{Company, SMALL_BYTES};
use crate::policy::liveness::{Presence, State};
use crate::policy::pace::Hands;
use crate::size::ByteSize;

/// How nodes are chosen among those that can take a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// Two nodes are drawn by the space that they offer, and the one that will be less full is
    /// taken; zones are distinct where they can be. The least full of all nodes would be wrong: a
    /// new node would get every chunk. So none gets more than twice its share.
    /// (M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001.)
    #[default]
    Balanced,
    /// One node after the other.
    RoundRobin,
}

/// A node, as placement sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub node: NodeId,
    /// Its failure domain; equal numbers are one.
    pub zone: u32,
    pub state: State,
    /// The time since it was last heard; `None` when it was not since the main server's start.
    pub silent: Option<Duration>,
    /// Its answer is overdue.
    pub is_slow: bool,
    /// It said that it cannot store any more.
    pub has_failed: bool,
    /// Its copies are to be moved off.
    pub is_leaving: bool,
    pub offered_bytes: u64,
    pub used_bytes: u64,
    /// Promised to chunks that are on their way.
    pub reserved_bytes: u64,
    /// What it can still take, the promised bytes included and its reserve left alone.
    pub free_bytes: u64,
    /// Of the used bytes, those that it is to delete.
    pub condemned_bytes: u64,
    /// What it has orders to copy.
    pub hands: Hands,
}

impl Candidate {
    /// What its copies are worth.
    pub fn presence(&self) -> Presence {
        self.state.presence(self.is_leaving)
    }

    /// How full it will be when all that is under way is done: bytes of a million offered.
    pub fn fill_ppm(&self) -> u64 {
        let filled = u128::from(self.filled_bytes()) * 1_000_000;
        u64::try_from(filled / u128::from(self.offered_bytes.max(1))).unwrap_or(u64::MAX)
    }

    /// Its used bytes when all that is under way is done.
    pub fn filled_bytes(&self) -> u64 {
        let filled = self.used_bytes.saturating_add(self.reserved_bytes);
        filled.saturating_sub(self.condemned_bytes)
    }
}

/// Why a copy is where it is. The numbers are kept in tokens and in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Nobody chose it now: the node turned out to hold it when it came back.
    Found = 0,
    Emptier = 1,
    OtherZone = 2,
    Only = 3,
    Turn = 4,
    Holder = 5,
    Evened = 6,
}

impl Reason {
    const ALL: [Reason; 7] = [
        Reason::Found,
        Reason::Emptier,
        Reason::OtherZone,
        Reason::Only,
        Reason::Turn,
        Reason::Holder,
        Reason::Evened,
    ];

    /// The number that stands for it.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The words for a number, those of later versions included.
    pub fn text(code: u8) -> &'static str {
        match Reason::ALL.into_iter().find(|reason| reason.code() == code) {
            Some(Reason::Found) => "had it when it came back",
            Some(Reason::Emptier) => "emptier of two drawn",
            Some(Reason::OtherZone) => "emptier of two drawn in other zones",
            Some(Reason::Only) => "only one that could take it",
            Some(Reason::Turn) => "its turn",
            Some(Reason::Holder) => "held a copy already",
            Some(Reason::Evened) => "moved there for equal fill",
            None => "a reason that this version does not know",
        }
    }
}

/// A node that was taken, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    pub node: NodeId,
    pub reason: Reason,
}

/// Why a node cannot take a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    Full,
    Suspect,
    Dead,
    Returning,
    Stopped,
    Slow,
    Failed,
    Draining,
    HoldsIt,
}

impl Unfit {
    /// The word for it, on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Unfit::Full => "full",
            Unfit::Suspect => "suspect",
            Unfit::Dead => "dead",
            Unfit::Returning => "returning",
            Unfit::Stopped => "stopped",
            Unfit::Slow => "slow",
            Unfit::Failed => "failed",
            Unfit::Draining => "draining",
            Unfit::HoldsIt => "holds_it",
        }
    }
}

/// What placement says of a node: `None` that it can take the chunk, or else why not; and the same
/// in words, with the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    pub node: NodeId,
    pub unfit: Option<Unfit>,
    pub detail: String,
}

/// A chunk in want of copies.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Bytes of the chunk.
    pub length: u32,
    /// How many more nodes are wanted.
    pub copies: usize,
    /// Nodes that hold it, that are about to, or that failed to take it.
    pub holders: &'a [NodeId],
    /// Those of them whose copies are to stay: the others are placed in other zones than these.
    pub apart_from: &'a [NodeId],
}

/// Chooses nodes for the chunks of one request, each choice in view of the ones before it.
#[derive(Debug)]
pub struct Placer {
    method: Placement,
    /// By number.
    nodes: Vec<Candidate>,
    /// Indices of the nodes that are fit, whatever the chunk.
    fit: Vec<usize>,
    /// For each of `fit`, the space offered by it and those before it.
    offered_up_to: Vec<u64>,
    /// The zones of the nodes that are fit, sorted.
    zones: Vec<u32>,
    random: u64,
    turn: u64,
    /// Where small chunks go.
    company: Option<Company>,
}

/// Up to this many nodes all are looked at for each copy; above, they are drawn until one is
/// admissible, and all are looked at only when that fails.
const FEW_NODES: usize = 64;
const DRAWS: usize = 16;

impl Placer {
    /// The same nodes, method, seed and turn make the same choices. `turn` counts the choices of
    /// `RoundRobin` so far; see `turn()`.
    pub fn new(method: Placement, mut nodes: Vec<Candidate>, seed: u64, turn: u64) -> Placer {
        nodes.sort_by_key(|candidate| candidate.node);
        let fit: Vec<usize> = (0..nodes.len()).filter(|&i| standing(&nodes[i]).is_none()).collect();
        let mut sum = 0u64;
        let offered_up_to = fit.iter().map(|&i| {
            sum = sum.saturating_add(nodes[i].offered_bytes.max(1));
            sum
        });
        let offered_up_to = offered_up_to.collect();
        let mut zones: Vec<u32> = fit.iter().map(|&i| nodes[i].zone).collect();
        zones.sort_unstable();
        zones.dedup();
        Placer { method, nodes, fit, offered_up_to, zones, random: seed, turn, company: None }
    }

    /// Has small chunks keep this company.
    pub fn with_company(self, company: Company) -> Placer {
        Placer { company: Some(company), ..self }
    }

    /// The company that small chunks have now.
    pub fn company(&self) -> Option<&Company> {
        self.company.as_ref()
    }

    /// The turn to go on from with the next request.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// How many nodes are fit at all, whatever the chunk.
    pub fn fit_nodes(&self) -> usize {
        self.fit.len()
    }

    /// Nodes for the copies wanted: as many as there are, at most `wish.copies`, all different.
    /// The bytes count as promised from now on.
    pub fn place(&mut self, wish: &Wish<'_>) -> Vec<Chosen> {
        let mut chosen = Vec::with_capacity(wish.copies);
        let mut taken = wish.holders.to_vec();
        let mut zones: Vec<u32> = wish.apart_from.iter().filter_map(|&n| self.zone_of(n)).collect();
        while chosen.len() < wish.copies {
            let next = match self.method {
                Placement::Balanced => self.in_company(wish, &taken, &zones),
                Placement::RoundRobin => self.next_in_turn(wish.length, &taken),
            };
            let Some((index, reason)) = next else { break };
            let candidate = &mut self.nodes[index];
            candidate.reserved_bytes += u64::from(wish.length);
            taken.push(candidate.node);
            if !zones.contains(&candidate.zone) {
                zones.push(candidate.zone);
            }
            chosen.push(Chosen { node: candidate.node, reason });
        }
        chosen
    }

    /// A node for one copy in a zone that has none of `wish.apart_from`, if there is one. The bytes
    /// count as promised from now on.
    pub fn place_apart(&mut self, wish: &Wish<'_>) -> Option<Chosen> {
        let zones: Vec<u32> = wish.apart_from.iter().filter_map(|&n| self.zone_of(n)).collect();
        let is_apart = |c: &Candidate| {
            let is_free = !wish.holders.contains(&c.node) && has_room(c, wish.length);
            is_free && !zones.contains(&c.zone)
        };
        let (index, _) = self.emptier_of_two(is_apart)?;
        let candidate = &mut self.nodes[index];
        candidate.reserved_bytes += u64::from(wish.length);
        Some(Chosen { node: candidate.node, reason: Reason::OtherZone })
    }

    /// True when a node in none of these zones, which are all different, is fit.
    pub fn has_zone_beside(&self, zones: &[u32]) -> bool {
        let is_fit = |zone: &&u32| self.zones.binary_search(zone).is_ok();
        zones.iter().filter(is_fit).count() < self.zones.len()
    }

    /// The node, as it stands with all that was decided here.
    pub fn candidate(&self, node: NodeId) -> Option<&Candidate> {
        self.index_of(node).map(|index| &self.nodes[index])
    }

    /// All nodes, by number.
    pub fn candidates(&self) -> &[Candidate] {
        &self.nodes
    }

    /// What copies on the node are worth; nothing on one that is not known.
    pub fn presence(&self, node: NodeId) -> Presence {
        self.candidate(node).map_or(Presence::Gone, Candidate::presence)
    }

    /// The node gets an order to send so many bytes.
    pub fn burden(&mut self, node: NodeId, bytes: u64) {
        if let Some(index) = self.index_of(node) {
            self.nodes[index].hands.take(bytes);
        }
    }

    /// A copy of so many bytes is to be deleted on the node.
    pub fn condemn(&mut self, node: NodeId, bytes: u64) {
        if let Some(index) = self.index_of(node) {
            self.nodes[index].condemned_bytes += bytes;
        }
    }

    /// So many bytes are promised to a copy on the node.
    pub fn reserve(&mut self, node: NodeId, bytes: u64) {
        if let Some(index) = self.index_of(node) {
            self.nodes[index].reserved_bytes += bytes;
        }
    }

    /// What stands for and against each node, by number.
    pub fn explain(&self, wish: &Wish<'_>) -> Vec<Explained> {
        let explained = self.nodes.iter().map(|candidate| {
            let holds = wish.holders.contains(&candidate.node).then_some(Unfit::HoldsIt);
            let full = (!has_room(candidate, wish.length)).then_some(Unfit::Full);
            let unfit = standing(candidate).or(holds).or(full);
            Explained { node: candidate.node, unfit, detail: detail(candidate, unfit) }
        });
        explained.collect()
    }

    fn index_of(&self, node: NodeId) -> Option<usize> {
        self.nodes.binary_search_by_key(&node, |candidate| candidate.node).ok()
    }

    fn zone_of(&self, node: NodeId) -> Option<u32> {
        self.candidate(node).map(|candidate| candidate.zone)
    }

    /// As `balanced`; a small chunk goes where the one before it went, if it can.
    fn in_company(
        &mut self,
        wish: &Wish<'_>,
        taken: &[NodeId],
        zones: &[u32],
    ) -> Option<(usize, Reason)> {
        // What is apart from other nodes than these was chosen for other zones.
        let is_usual = wish.length <= SMALL_BYTES && wish.apart_from == wish.holders;
        let Some(mut company) = self.company.take_if(|_| is_usual) else {
            return self.balanced(wish.length, taken, zones);
        };
        let is_fit = |&i: &usize| {
            standing(&self.nodes[i]).is_none() && has_room(&self.nodes[i], wish.length)
        };
        let kept = company.node(taken);
        let kept = kept.and_then(|kept| Some((self.index_of(kept.node)?, kept.reason)));
        let chosen = kept
            .filter(|(index, _)| is_fit(index))
            .or_else(|| self.balanced(wish.length, taken, zones));
        if let Some((index, reason)) = chosen {
            company.note(taken, Chosen { node: self.nodes[index].node, reason }, wish.length);
        }
        self.company = Some(company);
        chosen
    }

    fn balanced(
        &mut self,
        length: u32,
        taken: &[NodeId],
        zones: &[u32],
    ) -> Option<(usize, Reason)> {
        let is_free = |c: &Candidate| !taken.contains(&c.node) && has_room(c, length);
        if !zones.is_empty() && self.has_zone_beside(zones) {
            let in_other_zone = |c: &Candidate| is_free(c) && !zones.contains(&c.zone);
            if let Some((index, _)) = self.emptier_of_two(in_other_zone) {
                return Some((index, Reason::OtherZone));
            }
        }
        let (index, is_alone) = self.emptier_of_two(is_free)?;
        Some((index, if is_alone { Reason::Only } else { Reason::Emptier }))
    }

    /// Draws twice and takes the node that will be less full; the flag says that there was one
    /// alone to draw. The same node may be drawn twice: if it could not, the emptier one of the
    /// last two would be taken always.
    fn emptier_of_two(
        &mut self,
        is_admissible: impl Fn(&Candidate) -> bool,
    ) -> Option<(usize, bool)> {
        if self.fit.len() > FEW_NODES {
            let first = self.draw(&is_admissible);
            if let Some((first, second)) = first.zip(self.draw(&is_admissible)) {
                return Some((self.emptier(first, second), false));
            }
        }
        let fit = self.fit.iter().copied();
        let admissible: Vec<usize> = fit.filter(|&i| is_admissible(&self.nodes[i])).collect();
        let first = self.draw_from(&admissible)?;
        let second = self.draw_from(&admissible)?;
        Some((self.emptier(first, second), admissible.len() == 1))
    }

    /// Draws among all fit nodes until one is admissible.
    fn draw(&mut self, is_admissible: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let total = *self.offered_up_to.last()?;
        for _ in 0..DRAWS {
            let point = self.next_random() % total;
            let at = self.offered_up_to.partition_point(|&up_to| up_to <= point);
            if is_admissible(&self.nodes[self.fit[at]]) {
                return Some(self.fit[at]);
            }
        }
        None
    }

    fn draw_from(&mut self, indices: &[usize]) -> Option<usize> {
        let weight = |nodes: &[Candidate], i: usize| u128::from(nodes[i].offered_bytes.max(1));
        let total: u128 = indices.iter().map(|&i| weight(&self.nodes, i)).sum();
        if total == 0 {
            return None;
        }
        let mut point = u128::from(self.next_random()) % total;
        for &index in indices {
            let weight = weight(&self.nodes, index);
            if point < weight {
                return Some(index);
            }
            point -= weight;
        }
        None
    }

    fn emptier(&self, first: usize, second: usize) -> usize {
        let (a, b) = (&self.nodes[first], &self.nodes[second]);
        let filled = |c: &Candidate| u128::from(c.filled_bytes());
        let offered = |c: &Candidate| u128::from(c.offered_bytes.max(1));
        if filled(b) * offered(a) < filled(a) * offered(b) { second } else { first }
    }

    fn next_in_turn(&mut self, length: u32, taken: &[NodeId]) -> Option<(usize, Reason)> {
        let count = self.fit.len() as u64;
        for step in 0..count {
            let turn = self.turn.wrapping_add(step);
            let index = self.fit[(turn % count) as usize];
            let candidate = &self.nodes[index];
            if !taken.contains(&candidate.node) && has_room(candidate, length) {
                self.turn = turn.wrapping_add(1);
                return Some((index, Reason::Turn));
            }
        }
        None
    }

    /// SplitMix64 (G. Steele, D. Lea, C. Flood, Fast Splittable Pseudorandom Number Generators,
    /// 2014): well spread from any seed, and short.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn has_room(candidate: &Candidate, length: u32) -> bool {
    candidate.free_bytes.saturating_sub(candidate.reserved_bytes) >= u64::from(length)
}

/// What speaks against a node, whatever the chunk.
fn standing(candidate: &Candidate) -> Option<Unfit> {
    match candidate.state {
        State::Suspect => Some(Unfit::Suspect),
        State::Dead => Some(Unfit::Dead),
        State::Returning | State::Rejoining => Some(Unfit::Returning),
        State::Stopped => Some(Unfit::Stopped),
        State::Alive if candidate.is_leaving => Some(Unfit::Draining),
        State::Alive if candidate.has_failed => Some(Unfit::Failed),
        State::Alive if candidate.is_slow => Some(Unfit::Slow),
        State::Alive => None,
    }
}

fn detail(candidate: &Candidate, unfit: Option<Unfit>) -> String {
    let free = ByteSize(candidate.free_bytes.saturating_sub(candidate.reserved_bytes));
    let heard = match candidate.silent {
        Some(silent) => format!("last heard {} s ago", silent.as_secs()),
        None => "not heard since the main server started".to_string(),
    };
    match unfit {
        None => format!("{free} free"),
        Some(Unfit::Full) => format!("{free} free above its reserve"),
        Some(Unfit::Suspect | Unfit::Dead | Unfit::Slow) => heard,
        Some(Unfit::Returning) => "its inventory is being compared".to_string(),
        Some(Unfit::Stopped) => "it was stopped".to_string(),
        Some(Unfit::Failed) => "it cannot store any more; its log says why".to_string(),
        Some(Unfit::Draining) => "its copies are being moved off".to_string(),
        Some(Unfit::HoldsIt) => format!("holds a copy already, {free} free"),
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
