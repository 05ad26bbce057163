//! A main server of the simulation: what it believes of nodes and chunks, and what it has ordered.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{ChunkNumber, INTERVAL, World};
use crate::clock::Moment;
use crate::ids::{NodeId, Serial};
use crate::policy::liveness::{Presence, Signs, State};
use crate::policy::mass_silence::MassSilence;
use crate::policy::pace::{Hands, Pace};
use crate::policy::placement::{Candidate, Placement, Placer};
use crate::policy::queue::{Queue, Task};
use crate::policy::rebalance::Rebalance;
use crate::policy::repair::{Holders, Urgency};

/// How long a node has for an order, and a failed target is left alone.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Copies wanted of every chunk.
pub const WANTED: usize = 3;

/// A chunk in the books.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub length: u32,
    /// Confirmed copies.
    pub copies: Vec<NodeId>,
}

/// A node in the books.
#[derive(Debug, Clone)]
pub struct Known {
    pub signs: Signs,
    pub state: State,
    pub is_leaving: bool,
    pub reserved_bytes: u64,
    pub condemned_bytes: u64,
    pub orders: u32,
    pub order_bytes: u64,
}

/// An order to copy that is not acknowledged.
#[derive(Debug, Clone)]
pub struct Given {
    pub from: NodeId,
    pub chunk: ChunkNumber,
    pub to: Vec<NodeId>,
    pub since: Moment,
    /// None for a move towards equal fill.
    pub task: Option<Task>,
}

/// What is deliberately left out, to see that the invariants find it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flaws {
    /// A move trims the giver's copy when it is ordered, not when it is confirmed.
    pub trims_unconfirmed: bool,
    /// Silence is always believed.
    pub never_doubts: bool,
}

/// The whole simulation.
pub struct Sim {
    pub now: Moment,
    pub world: World,
    pub nodes: Vec<Known>,
    pub chunks: Vec<Chunk>,
    pub queue: Queue,
    pub silence: MassSilence,
    pub pace: Pace,
    pub move_pace: Pace,
    pub given: BTreeMap<u64, Given>,
    /// Copies that each of these was given for.
    pub order_copies: BTreeMap<u64, u64>,
    /// Targets that failed, and until when they are left alone.
    pub failed: BTreeMap<(ChunkNumber, NodeId), Moment>,
    pub on_way: BTreeMap<ChunkNumber, Vec<NodeId>>,
    /// Nodes that are to delete a chunk and have not yet.
    pub condemned_on: BTreeMap<ChunkNumber, Vec<NodeId>>,
    pub plan: Rebalance,
    /// Where the survey is, and whether it has to begin anew after that.
    pub surveyed: Option<usize>,
    pub survey_again: bool,
    pub next_survey: Moment,
    /// Where the search for chunks to move is, and how many there were without any.
    pub moved: usize,
    pub unmoved: usize,
    pub orders: u64,
    pub begun_bytes: u64,
    pub paced_since: Moment,
    /// Whether silence was believed at the last look.
    pub was_patient: bool,
    pub flaws: Flaws,
    pub stats: Stats,
}

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub copies: u64,
    pub moves: u64,
    pub spreads: u64,
    pub trims: u64,
    pub doubts: u64,
    pub overdue: u64,
}

impl Sim {
    /// A cluster of empty nodes that have all been heard.
    pub fn new(seed: u64, nodes: u32, zones: u32, limit: Option<u64>) -> Sim {
        let now = Moment(1_000_000);
        let mut sim = Sim {
            now,
            world: World::new(seed),
            nodes: Vec::new(),
            chunks: Vec::new(),
            queue: Queue::new(2000),
            silence: MassSilence::new([], now),
            pace: Pace::new(limit, now),
            move_pace: Pace::new(Some(limit.unwrap_or(64 << 20) / 4), now),
            given: BTreeMap::new(),
            order_copies: BTreeMap::new(),
            failed: BTreeMap::new(),
            on_way: BTreeMap::new(),
            condemned_on: BTreeMap::new(),
            plan: Rebalance::default(),
            surveyed: None,
            survey_again: false,
            next_survey: now,
            moved: 0,
            unmoved: 0,
            orders: 0,
            begun_bytes: 0,
            paced_since: now,
            was_patient: false,
            flaws: Flaws::default(),
            stats: Stats::default(),
        };
        for _ in 0..nodes {
            let zone = sim.world.random.below(u64::from(zones)) as u32;
            let node = sim.join(zone);
            sim.nodes[node.0 as usize].signs.compared = true;
            sim.nodes[node.0 as usize].state = State::Alive;
        }
        sim
    }

    /// A new node; what it holds is yet to be compared.
    pub fn join(&mut self, zone: u32) -> NodeId {
        let node = self.world.build(zone);
        self.nodes.push(Known {
            signs: Signs { heard: self.now, connected: true, compared: false, stopped: None },
            state: State::Returning,
            is_leaving: false,
            reserved_bytes: 0,
            condemned_bytes: 0,
            orders: 0,
            order_bytes: 0,
        });
        node
    }

    pub fn known(&mut self, node: NodeId) -> &mut Known {
        &mut self.nodes[node.0 as usize]
    }

    pub fn presence(&self, node: NodeId) -> Presence {
        let known = &self.nodes[node.0 as usize];
        known.state.presence(known.is_leaving)
    }

    pub fn all(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    pub fn counting(&self) -> usize {
        self.all().filter(|node| self.presence(*node) == Presence::Counts).count()
    }

    pub fn is_patient(&self) -> bool {
        self.silence.is_patient() && !self.flaws.never_doubts
    }

    pub fn holders(&self, chunk: ChunkNumber) -> Holders {
        let copies = self.chunks[chunk as usize].copies.iter().copied();
        Holders::sort(copies, |node| self.presence(node))
    }

    pub fn urgency(&self, chunk: ChunkNumber) -> Urgency {
        Urgency::of(&self.holders(chunk), WANTED, !chunk.is_multiple_of(10), self.now)
    }

    pub fn add(&mut self, chunk: ChunkNumber) -> bool {
        let urgency = self.urgency(chunk);
        self.queue.add(serial(chunk), urgency)
    }

    pub fn placer(&mut self) -> Placer {
        let seed = self.world.random.next();
        let candidates = self.all().map(|node| self.candidate(node)).collect();
        Placer::new(Placement::Balanced, candidates, seed, 0)
    }

    fn candidate(&self, node: NodeId) -> Candidate {
        let known = &self.nodes[node.0 as usize];
        let machine = &self.world.machines[node.0 as usize];
        Candidate {
            node,
            zone: machine.zone,
            state: known.state,
            silent: None,
            is_slow: known.signs.is_slow(INTERVAL, self.now),
            has_failed: false,
            is_leaving: known.is_leaving,
            offered_bytes: machine.offered_bytes,
            used_bytes: machine.used_bytes,
            reserved_bytes: known.reserved_bytes,
            free_bytes: machine.offered_bytes - machine.used_bytes,
            condemned_bytes: known.condemned_bytes,
            hands: Hands::new(known.orders, known.order_bytes, machine.transfers),
        }
    }

    /// Stores new chunks, as clients do.
    pub fn put(&mut self, chunks: usize) {
        let mut placer = self.placer();
        for _ in 0..chunks {
            let number = self.chunks.len() as ChunkNumber;
            let length = (64 + self.world.random.below(448) as u32) << 10;
            let wish = crate::policy::placement::Wish {
                length,
                copies: WANTED,
                holders: &[],
                apart_from: &[],
            };
            // A node that is down and not found out yet stores nothing.
            let chosen = placer.place(&wish).into_iter().map(|chosen| chosen.node);
            let copies: Vec<NodeId> =
                chosen.filter(|node| self.world.machine(*node).is_reachable()).collect();
            for &node in &copies {
                self.world.machine(node).write(number, length);
            }
            let is_short = copies.len() < WANTED;
            self.chunks.push(Chunk { length, copies });
            if is_short {
                self.add(number);
            }
        }
    }
}

/// The serial of a chunk.
pub fn serial(chunk: ChunkNumber) -> Serial {
    Serial(u64::from(chunk))
}
