//! What happens to nodes, and what the main server learns of it.

use std::time::Duration;

use super::server::{PATIENCE, Sim, WANTED};
use super::world::{ChunkNumber, Event};
use crate::clock::Moment;
use crate::ids::NodeId;
use crate::policy::liveness::Stop;

impl Sim {
    /// Everything that has happened until now.
    pub fn live_on(&mut self) {
        while let Some(event) = self.world.next_event(self.now) {
            match event {
                Event::Arrives { order, from, to, chunk } => self.arrives(order, from, to, chunk),
                Event::Done { order } => self.done(order),
                Event::Deletes { node, chunk } => self.deletes(node, chunk),
                Event::Compares { node, life } => self.compares(node, life),
                Event::Starts { node } => self.starts(node),
                Event::Heals { node } => self.heals(node),
            }
        }
        for node in self.all() {
            let (now, machine) = (self.now, self.world.machine(node));
            if machine.is_reachable() {
                let beat = machine.last_beat(now);
                let known = self.known(node);
                known.signs.heard = known.signs.heard.max(beat);
            }
        }
    }

    fn arrives(&mut self, order: u64, from: NodeId, to: NodeId, chunk: ChunkNumber) {
        let length = self.chunks[chunk as usize].length;
        let has_it =
            self.world.machine(from).is_reachable() && self.world.machine(from).holds(chunk);
        let target = self.world.machine(to);
        let fits = target.used_bytes + u64::from(length) <= target.offered_bytes;
        if has_it && target.is_reachable() && fits {
            target.write(chunk, length);
            self.confirmed(chunk, to);
        } else if has_it {
            self.failed.insert((chunk, to), self.now + PATIENCE);
        }
        self.end_flight(order, chunk, to);
    }

    /// A copy that is condemned is not confirmed, whoever says that it is there.
    fn confirmed(&mut self, chunk: ChunkNumber, node: NodeId) {
        if self.condemned_on.get(&chunk).is_some_and(|nodes| nodes.contains(&node)) {
            return;
        }
        let copies = &mut self.chunks[chunk as usize].copies;
        if !copies.contains(&node) {
            copies.push(node);
        }
    }

    /// The copy is there, or nobody is at it any more.
    fn end_flight(&mut self, order: u64, chunk: ChunkNumber, to: NodeId) {
        let Some(given) = self.given.get_mut(&order) else { return };
        let Some(at) = given.to.iter().position(|node| *node == to) else { return };
        given.to.swap_remove(at);
        let length = u64::from(self.chunks[chunk as usize].length);
        self.known(to).reserved_bytes -= length;
        if let Some(on_way) = self.on_way.get_mut(&chunk) {
            if let Some(at) = on_way.iter().position(|node| *node == to) {
                on_way.swap_remove(at);
            }
            if on_way.is_empty() {
                self.on_way.remove(&chunk);
            }
        }
    }

    fn done(&mut self, order: u64) {
        let Some(given) = self.given.get(&order) else { return };
        if self.world.machines[given.from.0 as usize].is_reachable() {
            self.close(order);
        }
    }

    /// The order is acknowledged or taken back.
    pub fn close(&mut self, order: u64) {
        let Some(given) = self.given.get(&order).cloned() else { return };
        for &node in &given.to {
            self.end_flight(order, given.chunk, node);
        }
        self.given.remove(&order);
        let copies = self.order_copies.remove(&order).unwrap_or(0);
        let bytes = u64::from(self.chunks[given.chunk as usize].length) * copies;
        let source = self.known(given.from);
        source.orders -= 1;
        source.order_bytes -= bytes;
        let now = self.now;
        self.queue.unblock(given.from, now);
        match given.task {
            Some(task) => self.queue.close(task, now),
            None => drop(self.add(given.chunk)),
        }
    }

    fn deletes(&mut self, node: NodeId, chunk: ChunkNumber) {
        let length = self.chunks[chunk as usize].length;
        if !self.world.machine(node).is_reachable() {
            // The order is sent again when the node is back.
            if !self.world.machine(node).is_destroyed {
                self.world.happens(self.now + PATIENCE, Event::Deletes { node, chunk });
            }
            return;
        }
        self.world.machine(node).delete(chunk, length);
        self.known(node).condemned_bytes -= u64::from(length);
        let condemned = self.condemned_on.entry(chunk).or_default();
        condemned.retain(|other| *other != node);
        if condemned.is_empty() {
            self.condemned_on.remove(&chunk);
        }
    }

    fn compares(&mut self, node: NodeId, life: u32) {
        let machine = self.world.machine(node);
        if !machine.is_reachable() || machine.life != life {
            return;
        }
        let held = machine.disk.clone();
        for &chunk in &held {
            self.confirmed(chunk, node);
        }
        let mut is_held = vec![false; self.chunks.len()];
        held.iter().for_each(|&chunk| is_held[chunk as usize] = true);
        for chunk in (0..).zip(is_held).filter(|(_, is_held)| !is_held).map(|(chunk, _)| chunk) {
            let copies = &mut self.chunks[chunk as usize].copies;
            if copies.contains(&node) {
                copies.retain(|holder| *holder != node);
                self.add(chunk);
            }
        }
        self.known(node).signs.compared = true;
    }

    fn starts(&mut self, node: NodeId) {
        let now = self.now;
        let machine = self.world.machine(node);
        if machine.has_power || machine.is_destroyed {
            return;
        }
        machine.has_power = true;
        machine.life += 1;
        let (life, is_cut) = (machine.life, machine.is_cut);
        let signs = &mut self.known(node).signs;
        signs.start(now);
        if !is_cut {
            (signs.connected, signs.heard) = (true, now);
            self.compare_soon(node, life);
        }
    }

    fn heals(&mut self, node: NodeId) {
        let now = self.now;
        let machine = self.world.machine(node);
        machine.is_cut = false;
        let life = machine.life;
        if machine.is_reachable() {
            let signs = &mut self.known(node).signs;
            (signs.connected, signs.heard) = (true, now);
            if !signs.compared {
                self.compare_soon(node, life);
            }
        }
    }

    pub fn compare_soon(&mut self, node: NodeId, life: u32) {
        let took = Duration::from_millis(1000 + self.world.random.below(9000));
        self.world.happens(self.now + took, Event::Compares { node, life });
    }

    /// The node's process ends; its connection breaks.
    pub fn crash(&mut self, node: NodeId, back: Option<Moment>) {
        self.world.machine(node).has_power = false;
        self.known(node).signs.connected = false;
        if let Some(at) = back {
            self.world.happens(at, Event::Starts { node });
        }
    }

    /// The node stops by plan.
    pub fn stop(&mut self, node: NodeId, back: Moment, back_by: Moment) {
        self.crash(node, Some(back));
        self.known(node).signs.stopped = Some(Stop { back_by, is_back: false });
    }

    /// The node and its disk are gone for good.
    pub fn destroy(&mut self, node: NodeId) {
        self.crash(node, None);
        let machine = self.world.machine(node);
        machine.is_destroyed = true;
        machine.wipe();
    }

    /// The node crashes, and comes back with an empty disk.
    pub fn blank(&mut self, node: NodeId, back: Moment) {
        self.world.machine(node).wipe();
        self.crash(node, Some(back));
    }

    /// The network to the node is cut; no connection breaks, nothing comes through.
    pub fn cut(&mut self, node: NodeId, until: Moment) {
        self.world.machine(node).is_cut = true;
        self.world.happens(until, Event::Heals { node });
    }

    /// Chunks of which some disk has a copy.
    pub fn survives(&self, chunk: ChunkNumber) -> bool {
        let has = |node: &NodeId| self.world.machines[node.0 as usize].holds(chunk);
        self.chunks[chunk as usize].copies.iter().any(has)
    }

    /// Left in peace, everything is as it should be. The chunks that are lost.
    pub fn check_peace(&self) -> usize {
        let mut lost = 0;
        for (number, chunk) in self.chunks.iter().enumerate() {
            let number = number as ChunkNumber;
            if !self.survives(number) {
                lost += 1;
                continue;
            }
            let counts = self.holders(number).counts;
            assert_eq!(counts.len(), WANTED, "copies of chunk {number}: {chunk:?}");
            let machine = |node: &NodeId| &self.world.machines[node.0 as usize];
            assert!(counts.iter().all(|node| machine(node).holds(number)), "chunk {number}");
            let mut zones: Vec<u32> = counts.iter().map(|node| machine(node).zone).collect();
            zones.sort_unstable();
            zones.dedup();
            assert_eq!(zones.len(), WANTED, "zones of chunk {number}: {chunk:?}");
        }
        for node in self.all() {
            for &chunk in &self.world.machines[node.0 as usize].disk {
                let is_known = self.chunks[chunk as usize].copies.contains(&node);
                assert!(is_known, "node {node} holds chunk {chunk}, which the books do not know");
            }
        }
        lost
    }
}
