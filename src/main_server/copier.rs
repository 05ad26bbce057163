//! Has missing copies made: chunks that are known to have too few wait here, and live holders get
//! orders to copy them as soon as there is a node to copy to. Kept in memory alone; after a restart
//! the catalog says which chunks these are.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Main;
use super::node::{Given, Purpose};
use super::nodes::claims;
use super::under_way::PATIENCE;
use crate::catalog::{CatalogError, ChunkRecord, Copy, LiveNodes};
use crate::clock::Moment;
use crate::ids::{NodeId, Serial};
use crate::policy::liveness::Presence;
use crate::policy::placement::{Chosen, Placer, Reason};
use crate::policy::queue::{Queue, Task};
use crate::policy::repair::{Copies, Holders, Risk, Urgency, Verdict, judge};
use crate::token::Operation;
use crate::wire::node_to_main::{Action, Order};
use crate::wire::to_main::Addresses;

/// How many chunks are looked at together.
const BATCH: usize = 256;

/// The chunks in want of copies.
pub struct Copier {
    work: Mutex<Work>,
}

struct Work {
    queue: Queue,
    /// Where to go on reading the catalog, when it is to be read.
    sweep: Option<Option<Serial>>,
}

/// The catalog is read once after the start.
impl Default for Copier {
    fn default() -> Self {
        Copier { work: Mutex::new(Work { queue: Queue::default(), sweep: Some(None) }) }
    }
}

impl Work {
    fn add(&mut self, serial: Serial, now: Moment) {
        let urgency = Urgency { risk: Risk::Copies(1), is_idle: true, since: now };
        self.queue.add(serial, urgency);
    }

    /// Where to read on in the catalog, when there is room for what is found.
    fn next_sweep(&mut self) -> Option<Option<Serial>> {
        if !self.queue.has_room() {
            return None;
        }
        if self.sweep.is_none() && self.queue.wants_survey() {
            self.sweep = Some(None);
        }
        self.sweep
    }
}

impl Copier {
    /// The work holds no invariant across its lock that a panic could break for good.
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These chunks may have too few copies. The upkeep thread must be woken to look at them.
    pub fn add(&self, serials: impl IntoIterator<Item = Serial>, now: Moment) {
        let mut work = self.lock();
        serials.into_iter().for_each(|serial| work.add(serial, now));
    }

    /// How many chunks are known to have too few copies.
    pub fn known(&self) -> u64 {
        self.lock().queue.len() as u64
    }

    /// Something has changed for the better: chunks that wait for a node are looked at again.
    pub fn retry_waiting(&self) {
        self.lock().queue.retry_waiting();
    }

    /// A node's inventory was compared: chunks that were given up may have copies again.
    pub fn read_again(&self) {
        self.lock().queue.survey_again();
    }
}

impl Main {
    /// An order was acknowledged or taken back: its chunk is judged anew.
    pub(super) fn close_order(&self, node: NodeId, given: Given, now: Moment) {
        // Whatever it was for: its node has a hand free.
        self.copier.lock().queue.unblock(node, now);
        let Purpose::Copy { task, targets } = given.purpose else { return };
        let mut under_way = self.under_way();
        targets.iter().for_each(|&target| under_way.end(task.serial, target));
        drop(under_way);
        self.copier.lock().queue.close(task, now);
    }

    /// Gives orders for as many missing copies as can be made now, and says when to look again.
    pub(super) fn copy_what_is_missing(&self) -> Option<Moment> {
        loop {
            let now = self.clock.now();
            let mut work = self.copier.lock();
            let batch = work.queue.next_batch(now);
            let sweep = work.next_sweep();
            drop(work);
            let done = match (batch.is_empty(), sweep) {
                (false, _) => self.judge_batch(batch, now),
                (true, Some(after)) => self.sweep(after),
                (true, None) => break,
            };
            if let Err(error) = done {
                self.catalog_failed(&error);
                return None;
            }
        }
        self.copier.lock().queue.next_look()
    }

    fn sweep(&self, after: Option<Serial>) -> Result<(), CatalogError> {
        let found = self.catalog.under_copied(after, BATCH)?;
        let mut work = self.copier.lock();
        let is_end = found.len() < BATCH;
        work.sweep = found.last().filter(|_| !is_end).map(|record| Some(record.serial));
        let now = self.clock.now();
        found.iter().for_each(|record| work.add(record.serial, now));
        Ok(())
    }

    fn judge_batch(&self, batch: Vec<Task>, now: Moment) -> Result<(), CatalogError> {
        let serials: Vec<Serial> = batch.iter().map(|task| task.serial).collect();
        let records = self.catalog.chunks(&serials)?;
        let (live, mut placer) = (self.nodes.live(), self.placer());
        for task in batch {
            match records.iter().find(|record| record.serial == task.serial) {
                Some(record) => self.judge_one(task, record, &live, &mut placer, now)?,
                None => self.copier.lock().queue.forget(task),
            }
        }
        self.placed(&placer);
        Ok(())
    }

    fn judge_one(
        &self,
        task: Task,
        record: &ChunkRecord,
        live_nodes: &LiveNodes,
        placer: &mut Placer,
        now: Moment,
    ) -> Result<(), CatalogError> {
        let nodes = record.copies.iter().map(|copy| copy.node);
        let holders = Holders::sort(nodes, |node| match live_nodes.contains(&node) {
            true => Presence::Counts,
            false => Presence::Gone,
        });
        let targets = self.under_way().targets(task.serial, now);
        let copies = Copies {
            length: record.length,
            wanted: usize::from(record.wanted),
            holders: &holders,
            under_way: &targets.under_way,
            barred: &targets.failed,
            is_patient: false,
        };
        match judge(&copies, placer) {
            Verdict::Enough | Verdict::Trim { .. } => self.copier.lock().queue.forget(task),
            Verdict::UnderWay => {
                self.copier.lock().queue.later(task, now + PATIENCE);
            }
            Verdict::Copy { .. } | Verdict::Spread { .. } if task.not_before > now => {
                self.copier.lock().queue.later(task, task.not_before);
            }
            Verdict::Copy { from, to } => self.order_copy(task, record, from, &to),
            Verdict::Spread { from, to } => self.order_copy(task, record, from, &[to]),
            Verdict::SourcesBusy => {
                self.copier.lock().queue.block(task, &holders.counts, now);
            }
            // A target that failed a moment ago may be the only one there is.
            Verdict::Waiting { .. } if !targets.failed.is_empty() => {
                self.copier.lock().queue.later(task, now + PATIENCE);
            }
            Verdict::Waiting { .. } | Verdict::Away { .. } => self.copier.lock().queue.wait(task),
            Verdict::Lost => self.chunk_lost(task, record)?,
        }
        Ok(())
    }

    /// No node holds it. That is a loss only when some version refers to it: otherwise it is an
    /// upload that came to nothing.
    fn chunk_lost(&self, task: Task, record: &ChunkRecord) -> Result<(), CatalogError> {
        let before = Serial(record.serial.0.saturating_sub(1));
        let first = self.catalog.under_copied(Some(before), 1)?;
        if first.first().is_some_and(|found| found.serial == record.serial) {
            log::error!("chunk lost chunk={} serial={}", record.id, record.serial);
        }
        self.copier.lock().queue.forget(task);
        Ok(())
    }

    fn order_copy(&self, task: Task, record: &ChunkRecord, from: NodeId, to: &[Chosen]) {
        let copies = to.iter().map(|c| Copy { node: c.node, reason: c.reason.code() });
        let copies: Vec<Copy> = copies.collect();
        let targets = self.targets_for(record, &copies, &mut Addresses::new());
        let Some(reach) = self.nodes.reach(from).filter(|_| !targets.is_empty()) else {
            return self.copier.lock().queue.block(task, &[from], self.clock.now());
        };
        let here = Copy { node: from, reason: Reason::Found.code() };
        let expires = self.nodes.expiry();
        let token = reach.mint(claims(Operation::Fetch, record, here, expires));
        let nodes: Vec<NodeId> = targets.iter().map(|target| target.node).collect();
        let order = Order { order: self.next_order(), token, action: Action::Copy { targets } };
        let since = self.clock.now();
        let mut under_way = self.under_way();
        nodes.iter().for_each(|&node| under_way.begin(task.serial, node, since));
        drop(under_way);
        log::debug!("copy ordered chunk={} from={from} to={nodes:?}", record.id);
        let purpose = Purpose::Copy { task, targets: nodes.clone() };
        if !self.nodes.give(from, Given { order, purpose, since, is_sent: false }) {
            let mut under_way = self.under_way();
            nodes.iter().for_each(|&node| under_way.end(task.serial, node));
            drop(under_way);
            self.copier.lock().queue.block(task, &[from], since);
        }
    }
}
