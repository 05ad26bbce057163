//! What is really there: disks, power, links and time, whatever the main server makes of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::clock::Moment;
use crate::ids::NodeId;

/// The time between heartbeats.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// The number of a chunk.
pub type ChunkNumber = u32;

/// A node as it really is.
#[derive(Debug, Clone)]
pub struct Machine {
    pub zone: u32,
    pub offered_bytes: u64,
    /// Bytes a second that it sends.
    pub bandwidth: u64,
    pub disk: Vec<ChunkNumber>,
    pub used_bytes: u64,
    pub has_power: bool,
    /// The network between it and all others is cut.
    pub is_cut: bool,
    /// Its disk is gone for good.
    pub is_destroyed: bool,
    /// Transfers of clients that it has.
    pub transfers: u32,
    /// How often it was started.
    pub life: u32,
    phase_ms: u64,
    sends_until: Moment,
}

impl Machine {
    pub fn is_reachable(&self) -> bool {
        self.has_power && !self.is_cut && !self.is_destroyed
    }

    pub fn holds(&self, chunk: ChunkNumber) -> bool {
        self.disk.contains(&chunk)
    }

    pub fn write(&mut self, chunk: ChunkNumber, length: u32) {
        if !self.holds(chunk) {
            self.disk.push(chunk);
            self.used_bytes += u64::from(length);
        }
    }

    pub fn delete(&mut self, chunk: ChunkNumber, length: u32) {
        if let Some(at) = self.disk.iter().position(|held| *held == chunk) {
            self.disk.swap_remove(at);
            self.used_bytes -= u64::from(length);
        }
    }

    /// All that it holds is gone.
    pub fn wipe(&mut self) {
        self.disk.clear();
        self.used_bytes = 0;
    }

    /// When its last heartbeat was sent.
    pub fn last_beat(&self, now: Moment) -> Moment {
        let since_ms = (now.0 + self.phase_ms) % INTERVAL.as_millis() as u64;
        Moment(now.0.saturating_sub(since_ms))
    }

    /// When so many bytes are sent that it begins to send now, behind all others.
    pub fn send(&mut self, bytes: u64, now: Moment) -> Moment {
        let took = Duration::from_millis(1 + bytes * 1000 / self.bandwidth);
        self.sends_until = self.sends_until.max(now) + took;
        self.sends_until
    }
}

/// What happens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The bytes of an order have come to one of its targets.
    Arrives { order: u64, from: NodeId, to: NodeId, chunk: ChunkNumber },
    /// The node has done all of an order.
    Done { order: u64 },
    /// A deletion comes to the node.
    Deletes { node: NodeId, chunk: ChunkNumber },
    /// What the node holds was compared with the books.
    Compares { node: NodeId, life: u32 },
    /// It has power again.
    Starts { node: NodeId },
    /// Its network is whole again.
    Heals { node: NodeId },
}

/// Disks, links, and what is going to happen.
#[derive(Debug)]
pub struct World {
    pub machines: Vec<Machine>,
    pub random: Random,
    events: BinaryHeap<Reverse<(Moment, u64, Event)>>,
    count: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        let (machines, events) = (Vec::new(), BinaryHeap::new());
        World { machines, random: Random(seed), events, count: 0 }
    }

    pub fn machine(&mut self, node: NodeId) -> &mut Machine {
        &mut self.machines[node.0 as usize]
    }

    /// A new and empty node.
    pub fn build(&mut self, zone: u32) -> NodeId {
        let random = &mut self.random;
        let machine = Machine {
            zone,
            offered_bytes: (40 + random.below(40)) << 20,
            bandwidth: (512 + random.below(1024)) << 10,
            disk: Vec::new(),
            used_bytes: 0,
            has_power: true,
            is_cut: false,
            is_destroyed: false,
            transfers: if random.below(4) == 0 { random.below(8) as u32 } else { 0 },
            life: 1,
            phase_ms: random.below(INTERVAL.as_millis() as u64),
            sends_until: Moment(0),
        };
        self.machines.push(machine);
        NodeId(self.machines.len() as u32 - 1)
    }

    pub fn happens(&mut self, at: Moment, event: Event) {
        // Events of one moment happen in the order in which they were decided.
        self.count += 1;
        self.events.push(Reverse((at, self.count, event)));
    }

    /// The next thing that happens until `now`.
    pub fn next_event(&mut self, now: Moment) -> Option<Event> {
        let is_due = self.events.peek().is_some_and(|Reverse((at, ..))| *at <= now);
        if !is_due {
            return None;
        }
        self.events.pop().map(|Reverse((.., event))| event)
    }

    pub fn is_still(&self) -> bool {
        self.events.is_empty()
    }
}

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
