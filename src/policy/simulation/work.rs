//! What the main server does: looks at the nodes, surveys the books, judges, orders. The decisions
//! are those of `policy`; here is the glue between them, as in the real one.

use std::time::Duration;

use super::server::{Given, PATIENCE, Sim, WANTED};
use super::world::{ChunkNumber, Event, INTERVAL};
use crate::ids::NodeId;
use crate::policy::liveness::{Presence, State};
use crate::policy::mass_silence::Turn;
use crate::policy::placement::Placer;
use crate::policy::queue::Task;
use crate::policy::rebalance::{Limits, Rebalance};
use crate::policy::repair::{Copies, Holders, Verdict, could_spread, judge};

/// Chunks that the survey looks at in a second, and that are looked at to be moved.
const PAGE: usize = 5000;
const SURVEY_EVERY: Duration = Duration::from_secs(3600);
const MOVES_AT_A_TIME: usize = 400;

impl Sim {
    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            let waits_for = match (self.is_busy() || self.was_patient, self.world.is_still()) {
                (true, _) => 1,
                (false, false) => 3,
                (false, true) => 60,
            };
            self.now = (self.now + Duration::from_secs(waits_for)).min(until);
            self.tick();
        }
    }

    /// Lets time pass until nothing is left to do.
    pub fn run_until_quiet(&mut self, at_most: Duration) {
        let until = self.now + at_most;
        let mut quiet = 0;
        while quiet < 3 {
            self.run(Duration::from_secs(60));
            quiet = if self.is_busy() || !self.world.is_still() { 0 } else { quiet + 1 };
            assert!(self.now < until, "never quiet: {:?} queue={}", self.stats, self.queue.len());
        }
    }

    fn is_busy(&self) -> bool {
        let is_moving = self.unmoved < self.chunks.len();
        let waits = self.queue.waiting() == self.queue.len();
        !self.given.is_empty() || self.surveyed.is_some() || !waits || is_moving
    }

    fn tick(&mut self) {
        self.live_on();
        self.look_at_nodes();
        self.take_back_orders();
        self.survey();
        let is_due = self.queue.next_look().is_some_and(|at| at <= self.now);
        if is_due || self.may_move() {
            let mut placer = self.placer();
            self.repair(&mut placer);
            self.rebalance(&mut placer);
        }
    }

    fn look_at_nodes(&mut self) {
        let mut changes = Vec::new();
        for node in self.all() {
            let now = self.now;
            let known = self.known(node);
            let state = known.signs.state(INTERVAL, now);
            if state != known.state {
                changes.push((node, known.state, state));
                known.state = state;
            }
        }
        let turn = self.silence.note(&changes, self.counting(), INTERVAL, self.now);
        self.stats.doubts += u64::from(turn == Some(Turn::Began));
        let is_patient = self.is_patient();
        if is_patient != self.was_patient || !changes.is_empty() {
            self.was_patient = is_patient;
            self.nodes_changed();
        }
    }

    /// What was judged by how the nodes stood is to be judged anew.
    pub fn nodes_changed(&mut self) {
        self.queue.retry_waiting();
        self.survey_again = true;
        self.unmoved = 0;
    }

    fn take_back_orders(&mut self) {
        let is_over = |given: &Given| {
            let is_alive = self.nodes[given.from.0 as usize].state == State::Alive;
            !is_alive || given.since + PATIENCE <= self.now
        };
        let over: Vec<u64> =
            self.given.iter().filter(|(_, given)| is_over(given)).map(|(id, _)| *id).collect();
        self.stats.overdue += over.len() as u64;
        over.into_iter().for_each(|order| self.close(order));
        let now = self.now;
        self.failed.retain(|_, until| *until > now);
    }

    fn survey(&mut self) {
        if self.surveyed.is_none() {
            let is_due = self.survey_again || self.now >= self.next_survey;
            if !is_due && !self.queue.wants_survey() {
                return;
            }
            self.survey_again = false;
            self.next_survey = self.now + SURVEY_EVERY;
            self.surveyed = Some(0);
        }
        let Some(from) = self.surveyed else { return };
        let placer = self.placer();
        let to = (from + PAGE).min(self.chunks.len());
        for number in from..to {
            let holders = self.holders(number as ChunkNumber);
            let is_due = holders.due(WANTED, self.is_patient()) > 0
                || holders.surplus(WANTED) > 0
                || could_spread(&holders, &placer);
            if is_due {
                self.add(number as ChunkNumber);
            }
        }
        self.surveyed = (to < self.chunks.len()).then_some(to);
    }

    fn repair(&mut self, placer: &mut Placer) {
        for _ in 0..64 {
            if self.pace.wait_until(self.now).is_some() {
                return;
            }
            let batch = self.queue.next_batch(self.now);
            if batch.is_empty() {
                return;
            }
            for task in batch {
                match self.pace.wait_until(self.now) {
                    Some(_) => self.queue.put_back(task),
                    None => self.judge_one(task, placer),
                }
            }
        }
    }

    fn judge_one(&mut self, task: Task, placer: &mut Placer) {
        let chunk = task.serial.0 as ChunkNumber;
        let holders = self.holders(chunk);
        let under_way = self.on_way.get(&chunk).cloned().unwrap_or_default();
        let barred = self.barred(chunk);
        let copies = Copies {
            length: self.chunks[chunk as usize].length,
            wanted: WANTED,
            holders: &holders,
            under_way: &under_way,
            barred: &barred,
            is_patient: self.is_patient(),
        };
        let now = self.now;
        if task.not_before > now && holders.missing(WANTED) > 0 {
            return self.queue.later(task, task.not_before);
        }
        match judge(&copies, placer) {
            Verdict::Enough | Verdict::Lost => self.queue.forget(task),
            Verdict::UnderWay => self.queue.later(task, now + PATIENCE),
            Verdict::Away { .. } => self.queue.wait(task),
            Verdict::Waiting { .. } if !barred.is_empty() => self.queue.later(task, now + PATIENCE),
            Verdict::Waiting { .. } => self.queue.wait(task),
            Verdict::SourcesBusy => {
                let sources = [holders.counts, holders.leaving].concat();
                self.queue.block(task, &sources, now);
            }
            Verdict::Trim { surplus } => {
                self.trim(chunk, &surplus);
                self.queue.forget(task);
            }
            Verdict::Copy { from, to } => {
                let to: Vec<NodeId> = to.into_iter().map(|chosen| chosen.node).collect();
                self.check_no_repair_for_silence(chunk);
                self.stats.copies += to.len() as u64;
                self.order(from, chunk, to, Some(task));
            }
            Verdict::Spread { from, to } => {
                self.stats.spreads += 1;
                self.order(from, chunk, vec![to.node], Some(task));
            }
        }
    }

    /// Nodes that must not get a copy now.
    fn barred(&self, chunk: ChunkNumber) -> Vec<NodeId> {
        let failed = self.failed.range((chunk, NodeId(0))..=(chunk, NodeId(u32::MAX)));
        let mut barred: Vec<NodeId> = failed.map(|((_, node), _)| *node).collect();
        barred.extend(self.condemned_on.get(&chunk).into_iter().flatten());
        barred
    }

    /// While the main server doubts itself, a chunk that has all its copies on nodes that are only
    /// silent is left alone.
    fn check_no_repair_for_silence(&self, chunk: ChunkNumber) {
        if !self.silence.is_patient() {
            return;
        }
        let held = self.holders(chunk);
        let staying = held.counts.len() + held.away.len() + held.gone.len();
        assert!(staying < WANTED, "chunk {chunk} is repaired though silence is doubted: {held:?}");
    }

    fn order(&mut self, from: NodeId, chunk: ChunkNumber, to: Vec<NodeId>, task: Option<Task>) {
        let length = u64::from(self.chunks[chunk as usize].length);
        let bytes = length * to.len() as u64;
        let pace = if task.is_some() { &mut self.pace } else { &mut self.move_pace };
        pace.take(bytes, self.now);
        if task.is_some() {
            self.begun_bytes += bytes;
            self.check_pace(bytes);
        }
        let id = self.orders;
        self.orders += 1;
        for &node in &to {
            assert!(!self.chunks[chunk as usize].copies.contains(&node), "{node} has {chunk}");
            self.known(node).reserved_bytes += length;
        }
        self.on_way.entry(chunk).or_default().extend(&to);
        let source = self.known(from);
        source.orders += 1;
        source.order_bytes += bytes;
        assert!(source.orders == 1 || source.order_bytes <= 64 << 20, "{from} has too much to do");
        let mut arrived = self.now;
        for &node in &to {
            arrived = self.world.machine(from).send(length, self.now);
            self.world.happens(arrived, Event::Arrives { order: id, from, to: node, chunk });
        }
        self.world.happens(arrived + Duration::from_millis(10), Event::Done { order: id });
        self.order_copies.insert(id, to.len() as u64);
        self.given.insert(id, Given { from, chunk, to, since: self.now, task });
    }

    /// No storm: whatever happens, no more is begun than the limit allows.
    fn check_pace(&self, last: u64) {
        let Some(limit) = self.pace.limit() else { return };
        let allowed = limit * (self.now.since(self.paced_since).as_secs() + 1) + last;
        assert!(self.begun_bytes <= allowed, "{} bytes begun, {allowed} allowed", self.begun_bytes);
    }

    /// Copies go only where, without them, there are as many as wanted that count, and each of
    /// these is really there, unless its disk was destroyed and nobody knows yet.
    fn trim(&mut self, chunk: ChunkNumber, surplus: &[NodeId]) {
        assert!(!self.is_patient(), "a trim while silence is doubted");
        let length = self.chunks[chunk as usize].length;
        for &node in surplus {
            let others = self.chunks[chunk as usize].copies.iter().filter(|other| **other != node);
            let counts = |other: &&NodeId| self.presence(**other) == Presence::Counts;
            let stay: Vec<NodeId> = others.filter(counts).copied().collect();
            let is_there = |other: &NodeId| {
                let machine = &self.world.machines[other.0 as usize];
                machine.holds(chunk) || !machine.has_power
            };
            let verified = stay.iter().filter(|other| is_there(other)).count();
            assert!(verified >= WANTED, "chunk {chunk} is trimmed on {node}, and {stay:?} stay");
            self.chunks[chunk as usize].copies.retain(|other| *other != node);
            self.known(node).condemned_bytes += u64::from(length);
            self.condemned_on.entry(chunk).or_default().push(node);
            let took = Duration::from_millis(500 + self.world.random.below(5000));
            self.world.happens(self.now + took, Event::Deletes { node, chunk });
            self.stats.trims += 1;
        }
    }

    /// Nothing is moved while there is something to repair.
    fn may_move(&self) -> bool {
        let repairs = self.given.values().any(|given| given.task.is_some());
        let is_quiet = self.queue.waiting() == self.queue.len();
        let is_over = self.unmoved >= self.chunks.len();
        !self.is_patient() && !repairs && is_quiet && self.surveyed.is_none() && !is_over
    }

    fn rebalance(&mut self, placer: &mut Placer) {
        if !self.may_move() {
            return;
        }
        if self.plan.is_done() {
            self.plan = Rebalance::plan(placer.candidates(), Limits::default());
            self.unmoved = 0;
        }
        if self.plan.is_done() {
            self.unmoved = self.chunks.len();
            return;
        }
        for _ in 0..PAGE {
            let is_full = self.given.len() >= MOVES_AT_A_TIME;
            if is_full || self.move_pace.wait_until(self.now).is_some() {
                return;
            }
            self.moved = (self.moved + 1) % self.chunks.len();
            self.unmoved += 1;
            self.move_one(self.moved as ChunkNumber, placer);
        }
        // Once around without a move: the plan may be one of nodes as they were.
        if self.unmoved >= self.chunks.len() {
            self.plan = Rebalance::plan(placer.candidates(), Limits::default());
        }
    }

    fn move_one(&mut self, chunk: ChunkNumber, placer: &mut Placer) {
        let holders = self.holders(chunk);
        if !is_settled(&holders) || self.on_way.contains_key(&chunk) {
            return;
        }
        let length = self.chunks[chunk as usize].length;
        if let Some(moved) = self.plan.judge(length, &holders, placer) {
            if self.barred(chunk).contains(&moved.taker.node) {
                return;
            }
            self.unmoved = 0;
            self.stats.moves += 1;
            self.order(moved.from, chunk, vec![moved.taker.node], None);
            if self.flaws.trims_unconfirmed {
                self.trim(chunk, &[moved.giver]);
            }
        }
    }
}

fn is_settled(holders: &Holders) -> bool {
    holders.counts.len() == WANTED && holders.leaving.is_empty() && holders.away.is_empty()
}
