//! Has the copies of chunks be as they should: chunks about which something is to be done wait in a
//! queue, the most urgent first. Nodes that hold them get orders to copy them; what is too many is
//! trimmed. Kept in memory alone: the survey finds everything again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Main;
use super::moves::Moves;
use super::node::{Given, OrderState, Purpose};
use super::nodes::claims;
use super::rate::Rate;
use super::under_way::PATIENCE;
use super::view::View;
use crate::catalog::{CatalogError, ChunkRecord, Copy};
use crate::clock::Moment;
use crate::ids::{NodeId, Serial};
use crate::policy::pace::Pace;
use crate::policy::placement::{Chosen, Placer, Reason};
use crate::policy::queue::{BATCH, Queue, Task};
use crate::policy::repair::{Copies, Risk, Urgency, Verdict, judge};
use crate::token::Operation;
use crate::wire::node_to_main::{Action, Order};
use crate::wire::to_main::Addresses;

/// How long after a trim that was refused the chunk is judged again.
const TRIM_PAUSE: Duration = Duration::from_secs(30);

/// How fast copies are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RepairSpeed {
    /// As fast as it goes beside what clients do.
    #[default]
    Yielding,
    /// As fast as it goes.
    Unlimited,
    /// At most so many bytes a second, beside what clients do.
    BytesPerSecond(u64),
}

impl RepairSpeed {
    /// The limit in bytes a second.
    pub fn limit(self) -> Option<u64> {
        match self {
            RepairSpeed::BytesPerSecond(limit) => Some(limit),
            RepairSpeed::Yielding | RepairSpeed::Unlimited => None,
        }
    }
}

/// The chunks to be seen to.
pub struct Repair(Mutex<Work>);

pub(super) struct Work {
    pub(super) queue: Queue,
    pub(super) pace: Pace,
    rate: Rate,
    pub(super) moves: Moves,
    /// Chunks are being judged at this moment.
    is_judging: bool,
}

/// What one batch has come to beside orders.
#[derive(Default)]
struct Outcome {
    /// Copies to be trimmed, with their tasks and lengths.
    trims: Vec<(Task, NodeId, u32)>,
}

impl Repair {
    pub fn new(speed: RepairSpeed, now: Moment) -> Repair {
        let pace = Pace::new(speed.limit(), now);
        let (queue, rate, moves) = (Queue::default(), Rate::default(), Moves::default());
        Repair(Mutex::new(Work { queue, pace, rate, moves, is_judging: false }))
    }

    /// The work holds no invariant across its lock that a panic could break for good.
    pub(super) fn lock(&self) -> MutexGuard<'_, Work> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a survey found to be due.
    pub fn offer(&self, due: &[(Serial, Urgency)]) {
        let mut work = self.lock();
        for (serial, urgency) in due {
            work.queue.add(*serial, *urgency);
        }
    }

    /// Whether every chunk of which there was news has been looked at since, and how many are in hand
    /// or being moved, as they are at one moment.
    pub fn work_left(&self) -> (bool, usize) {
        let work = self.lock();
        let has_judged_all = !work.is_judging && !work.queue.has_ready();
        (has_judged_all, work.queue.in_hand() + work.moves.under_way as usize)
    }

    /// True when what a survey finds can be taken in.
    pub fn has_room(&self) -> bool {
        self.lock().queue.has_room()
    }

    /// Something has changed for the better: chunks that wait for a node are looked at again.
    pub fn retry_waiting(&self) {
        self.lock().queue.retry_waiting();
    }

    /// Bytes a second of late, and the limit.
    pub fn rate(&self, now: Moment) -> (u64, Option<u64>) {
        let mut work = self.lock();
        (work.rate.of_late(now), work.pace.limit())
    }
}

impl Main {
    /// There is news of these chunks: they are judged anew. The upkeep thread must be woken.
    pub(super) fn see_to(&self, serials: impl IntoIterator<Item = Serial>) {
        let since = self.clock.now();
        // Nothing is more urgent before it was looked at.
        let urgency = Urgency { risk: Risk::Copies(0), is_idle: true, since };
        let mut work = self.repair.lock();
        serials.into_iter().for_each(|serial| work.queue.add_news(serial, urgency));
    }

    /// An order was acknowledged or taken back: its chunk is judged anew.
    pub(super) fn close_order(&self, given: Given, now: Moment) {
        let (serial, from, targets, length, task) = match given.purpose {
            Purpose::Copy { task, from, targets, length } => {
                (task.serial, from, targets, length, Some(task))
            }
            Purpose::Move { serial, from, targets, length } => {
                (serial, from, targets, length, None)
            }
            Purpose::Verify { .. } | Purpose::Remove { .. } => return,
        };
        let mut under_way = self.under_way();
        let done = targets.iter().filter(|&&target| under_way.close(serial, target)).count();
        drop(under_way);
        if task.is_none() {
            // Before it counts as moved: it is always one or the other.
            self.see_to([serial]);
        }
        let mut work = self.repair.lock();
        work.rate.add(done as u64 * u64::from(length), now);
        match task {
            Some(task) => work.queue.close(task, now),
            None => work.moves.under_way = work.moves.under_way.saturating_sub(1),
        }
        work.queue.unblock(from, now);
    }

    /// Sees to as many chunks as can be seen to now, and says when to look again.
    pub(super) fn repair_what_is_due(&self) -> Option<Moment> {
        loop {
            let now = self.clock.now();
            let batch = {
                let mut work = self.repair.lock();
                let batch = work.queue.next_batch(now);
                work.is_judging = !batch.is_empty();
                batch
            };
            if batch.is_empty() {
                break;
            }
            let judged = self.judge_batch(batch, now);
            self.repair.lock().is_judging = false;
            if let Err(error) = judged {
                self.catalog_failed(&error);
                return None;
            }
        }
        let mut work = self.repair.lock();
        let (next, has_room) = (work.queue.next_look(), work.queue.has_room());
        let wants_survey = work.queue.wants_survey();
        let is_idle = work.queue.len() == work.queue.waiting();
        drop(work);
        let now = self.clock.now();
        let is_surveyed = self.survey.feed(wants_survey, has_room, is_idle, now);
        if !is_idle || !is_surveyed {
            return next;
        }
        match self.even_out(now) {
            Ok(next_move) => next.into_iter().chain(next_move).min(),
            Err(error) => {
                self.catalog_failed(&error);
                None
            }
        }
    }

    fn judge_batch(&self, batch: Vec<Task>, now: Moment) -> Result<(), CatalogError> {
        let serials: Vec<Serial> = batch.iter().map(|task| task.serial).collect();
        let records = self.catalog.chunks(&serials)?;
        let records: HashMap<Serial, ChunkRecord> =
            records.into_iter().map(|record| (record.serial, record)).collect();
        let (view, mut placer) = (self.view(), self.placer());
        let mut outcome = Outcome::default();
        for task in batch {
            match records.get(&task.serial) {
                Some(record) => {
                    self.count_judged(record, &view)?;
                    self.judge_one(task, record, &view, &mut placer, &mut outcome, now)?;
                }
                None => {
                    self.survey.lock().census.judged(task.serial, None);
                    self.repair.lock().queue.forget(task);
                }
            }
        }
        self.placed(&placer);
        self.trim(&outcome.trims, now)
    }

    /// Keeps the counts up to date. Chunks that nothing refers to are not counted.
    fn count_judged(&self, record: &ChunkRecord, view: &View) -> Result<(), CatalogError> {
        let found = view.trouble(record);
        let is_new = found.is_some() && self.survey.lock().census.known(record.serial).is_none();
        if is_new && !self.is_referred(record.serial)? {
            return Ok(());
        }
        self.survey.lock().census.judged(record.serial, found);
        Ok(())
    }

    /// Counts chunks that a commit refers to now and that have fewer copies than wanted: whoever
    /// judged them before may have passed them over, and the next one may have to wait for an order.
    pub(super) fn count_committed(&self, serials: &[Serial]) -> Result<(), CatalogError> {
        let view = self.view();
        for some in serials.chunks(BATCH) {
            for record in self.catalog.chunks(some)? {
                self.survey.lock().census.judged(record.serial, view.trouble(&record));
            }
        }
        Ok(())
    }

    /// True when some version refers to the chunk.
    pub(super) fn is_referred(&self, serial: Serial) -> Result<bool, CatalogError> {
        let found = self.catalog.survey(serial.0.checked_sub(1).map(Serial), 1)?;
        Ok(found.iter().any(|chunk| chunk.record.serial == serial && chunk.is_referred))
    }

    fn judge_one(
        &self,
        task: Task,
        record: &ChunkRecord,
        view: &View,
        placer: &mut Placer,
        outcome: &mut Outcome,
        now: Moment,
    ) -> Result<(), CatalogError> {
        let holders = view.holders(record);
        let targets = self.under_way().targets(task.serial, now);
        let copies = Copies {
            length: record.length,
            wanted: usize::from(record.wanted),
            holders: &holders,
            under_way: &targets.under_way,
            barred: &targets.failed,
            is_patient: view.is_patient,
        };
        let verdict = judge(&copies, placer);
        match verdict {
            Verdict::Copy { from, to } => return self.copy(task, record, from, &to, now),
            Verdict::Spread { from, to } => return self.copy(task, record, from, &[to], now),
            Verdict::Trim { surplus } => {
                outcome.trims.extend(surplus.iter().map(|node| (task, *node, record.length)));
                return Ok(());
            }
            Verdict::Lost => self.chunk_lost(record)?,
            Verdict::Enough
            | Verdict::UnderWay
            | Verdict::Away { .. }
            | Verdict::SourcesBusy
            | Verdict::Waiting { .. } => {}
        }
        let queue = &mut self.repair.lock().queue;
        match verdict {
            Verdict::UnderWay => queue.later(task, now + PATIENCE),
            Verdict::SourcesBusy => {
                let sources = [holders.counts, holders.leaving].concat();
                queue.block(task, &sources, now);
            }
            // A target that failed a moment ago may be the only one there is, until another comes.
            Verdict::Waiting { .. } if !targets.failed.is_empty() => {
                queue.wait_until(task, now + PATIENCE);
            }
            Verdict::Waiting { .. } => queue.wait(task),
            // Found again when the nodes that are away are back or dead.
            Verdict::Enough | Verdict::Away { .. } | Verdict::Lost => queue.forget(task),
            Verdict::Copy { .. } | Verdict::Spread { .. } | Verdict::Trim { .. } => {}
        }
        Ok(())
    }

    /// No node holds it. That is a loss only when some version refers to it: otherwise it is an
    /// upload that came to nothing.
    fn chunk_lost(&self, record: &ChunkRecord) -> Result<(), CatalogError> {
        if self.is_referred(record.serial)? {
            log::error!("chunk lost chunk={} serial={}", record.id, record.serial);
        }
        Ok(())
    }

    /// Orders copies, as far as pace and targets allow.
    fn copy(
        &self,
        task: Task,
        record: &ChunkRecord,
        from: NodeId,
        to: &[Chosen],
        now: Moment,
    ) -> Result<(), CatalogError> {
        let mut work = self.repair.lock();
        let not_before = work.pace.wait_until(now).max(Some(task.not_before));
        if let Some(at) = not_before.filter(|at| *at > now) {
            work.queue.later(task, at);
            return Ok(());
        }
        drop(work);
        let mut copies = Vec::with_capacity(to.len());
        for chosen in to {
            if self.is_condemned(record.serial, chosen.node)? {
                // Until it is deleted there, it could not be confirmed.
                self.under_way().fail(record.serial, chosen.node, now);
            } else {
                copies.push(Copy { node: chosen.node, reason: chosen.reason.code() });
            }
        }
        let bytes = u64::from(record.length) * copies.len() as u64;
        let length = record.length;
        let purpose = |targets| Purpose::Copy { task, from, targets, length };
        let is_ordered = !copies.is_empty() && self.order_copy(record, from, &copies, purpose);
        let mut work = self.repair.lock();
        if is_ordered {
            work.pace.take(bytes, now);
            work.rate.begin(now);
        } else if copies.is_empty() {
            // The next look bars the nodes that were just found to be of no use.
            work.queue.later(task, now);
        } else {
            work.queue.block(task, &[from], now);
        }
        Ok(())
    }

    /// The node is to delete a copy of this chunk, and has not yet.
    pub(super) fn is_condemned(&self, serial: Serial, node: NodeId) -> Result<bool, CatalogError> {
        // Not by `condemned_on`: what that names is to be deleted from then on.
        Ok(self.catalog.condemned_holders(&[serial])?.contains(&(serial, node)))
    }

    /// Has `from` copy the chunk. `false` when it cannot be asked.
    pub(super) fn order_copy(
        &self,
        record: &ChunkRecord,
        from: NodeId,
        copies: &[Copy],
        purpose: impl FnOnce(Vec<NodeId>) -> Purpose,
    ) -> bool {
        let targets = self.targets_for(record, copies, &mut Addresses::new());
        let Some(reach) = self.nodes.reach(from).filter(|_| !targets.is_empty()) else {
            return false;
        };
        let here = Copy { node: from, reason: Reason::Found.code() };
        let expires = self.nodes.expiry();
        let token = reach.mint(claims(Operation::Fetch, record, here, expires));
        let nodes: Vec<NodeId> = targets.iter().map(|target| target.node).collect();
        let order = Order { order: self.next_order(), token, action: Action::Copy { targets } };
        let since = self.clock.now();
        let mut under_way = self.under_way();
        nodes.iter().for_each(|&node| under_way.begin(record.serial, node, since));
        drop(under_way);
        log::debug!("copy ordered chunk={} from={from} to={nodes:?}", record.id);
        let purpose = purpose(nodes.clone());
        let is_given =
            self.nodes.give(from, Given { order, purpose, since, state: OrderState::ToSend });
        if !is_given {
            let mut under_way = self.under_way();
            nodes.iter().for_each(|&node| under_way.end(record.serial, node));
        }
        is_given
    }

    /// Condemns copies of which there are enough without them, and has them deleted.
    fn trim(&self, trims: &[(Task, NodeId, u32)], now: Moment) -> Result<(), CatalogError> {
        if trims.is_empty() {
            return Ok(());
        }
        let copies: Vec<(Serial, NodeId)> =
            trims.iter().map(|(task, node, _)| (task.serial, *node)).collect();
        let trimmed = self.catalog.trim_copies(&copies, &self.nodes.live())?;
        for ((task, node, length), is_trimmed) in trims.iter().zip(trimmed) {
            log::debug!("copy trimmed serial={} node={node} done={is_trimmed}", task.serial);
            if is_trimmed {
                self.nodes.condemn(*node, u64::from(*length));
            }
            let queue = &mut self.repair.lock().queue;
            match is_trimmed {
                // It is looked at once more, and is as it should be then.
                true => queue.close(*task, now),
                false => queue.later(*task, now + TRIM_PAUSE),
            }
        }
        self.condemned_on(trims.iter().map(|(_, node, _)| *node));
        Ok(())
    }
}
