//! Has missing copies made: chunks that are known to have too few wait here, and live holders get
//! orders to copy them as soon as there is a node to copy to. Kept in memory alone; after a restart
//! the catalog says which chunks these are.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Main;
use super::node::{Given, Purpose, Task};
use super::nodes::claims;
use super::under_way::PATIENCE;
use crate::catalog::{CatalogError, ChunkRecord, Copy, LiveNodes};
use crate::clock::Moment;
use crate::ids::{NodeId, Serial};
use crate::policy::placement::{Chosen, Placer, Reason};
use crate::policy::repair::{Copies, Verdict, judge};
use crate::token::Operation;
use crate::wire::node_to_main::{Action, Order};
use crate::wire::to_main::Addresses;

/// How many chunks are looked at together.
const BATCH: usize = 256;
/// How many chunks are kept in memory. Those beyond are found again in the catalog.
const MAX_KNOWN: usize = 16_384;
/// How long a chunk waits for hands to come free, when nothing says that they did.
const BLOCKED: Duration = Duration::from_secs(5);
/// The pause after an order that did not bring all copies, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The chunks in want of copies.
#[derive(Default)]
pub struct Copier {
    work: Mutex<Work>,
}

/// Each chunk of `known` is in exactly one of the others, or has an order, or is being judged.
struct Work {
    /// The flag says that there was news of the chunk since its record was last read: a verdict
    /// that rests on that record is not the last word.
    known: HashMap<Serial, bool>,
    /// To be judged now.
    ready: VecDeque<Task>,
    /// Until a node can take a copy, or one that holds one is there.
    waiting: Vec<Task>,
    /// Until an order is done, or at the latest until `blocked_until`.
    blocked: Vec<Task>,
    blocked_until: Option<Moment>,
    later: BTreeSet<(Moment, Task)>,
    /// Where to go on reading the catalog, when it is to be read.
    sweep: Option<Option<Serial>>,
    /// There were more chunks than are kept: the catalog is to be read again.
    has_overflowed: bool,
    /// Chunks that waited for a node gave way to others: they are read again when there is one.
    has_passed_over: bool,
    /// How often there was news of nodes, and how often before the batch that is being judged.
    news: u64,
    news_before_batch: u64,
}

/// The catalog is read once after the start.
impl Default for Work {
    fn default() -> Self {
        Work {
            known: HashMap::new(),
            ready: VecDeque::new(),
            waiting: Vec::new(),
            blocked: Vec::new(),
            blocked_until: None,
            later: BTreeSet::new(),
            sweep: Some(None),
            has_overflowed: false,
            has_passed_over: false,
            news: 0,
            news_before_batch: 0,
        }
    }
}

impl Work {
    fn add(&mut self, serial: Serial) {
        if let Some(has_news) = self.known.get_mut(&serial) {
            *has_news = true;
            if let Some(at) = self.waiting.iter().position(|task| task.serial == serial) {
                self.ready.push_back(self.waiting.swap_remove(at));
            }
            return;
        }
        if self.known.len() >= MAX_KNOWN {
            // One about which nothing can be done now gives way.
            let Some(given_up) = self.waiting.pop() else {
                self.has_overflowed = true;
                return;
            };
            self.known.remove(&given_up.serial);
            self.has_passed_over = true;
        }
        self.known.insert(serial, false);
        self.ready.push_back(Task { serial, attempts: 0, not_before: Moment(0) });
    }

    /// The chunks to be judged now; none when there is nothing to do before the next wake.
    fn next_batch(&mut self, now: Moment) -> Vec<Task> {
        if self.blocked_until.is_some_and(|at| at <= now) {
            self.unblock();
        }
        while let Some((at, task)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, task));
            self.ready.push_back(task);
        }
        let count = self.ready.len().min(BATCH);
        let batch: Vec<Task> = self.ready.drain(..count).collect();
        for task in &batch {
            self.known.insert(task.serial, false);
        }
        self.news_before_batch = self.news;
        batch
    }

    fn unblock(&mut self) {
        self.blocked_until = None;
        self.ready.extend(self.blocked.drain(..));
    }

    fn block(&mut self, task: Task, now: Moment) {
        self.blocked_until.get_or_insert(now + BLOCKED);
        self.blocked.push(task);
    }

    /// Until a node can take a copy; at once again, if there was news while the chunk was judged.
    fn wait(&mut self, task: Task) {
        let has_news = self.known.get(&task.serial).copied().unwrap_or(false);
        match has_news || self.news != self.news_before_batch {
            true => self.ready.push_back(task),
            false => self.waiting.push(task),
        }
    }

    /// Nothing is left to do about the chunk, unless there was news while it was judged.
    fn forget(&mut self, task: Task) {
        match self.known.get(&task.serial) {
            Some(true) => self.ready.push_back(task),
            Some(false) | None => drop(self.known.remove(&task.serial)),
        }
    }

    /// When to look again, if nothing happens before.
    fn next_look(&self) -> Option<Moment> {
        let later = self.later.first().map(|(at, _)| *at);
        later.into_iter().chain(self.blocked_until).min()
    }

    /// Where to read on in the catalog, when there is room for what is found.
    fn next_sweep(&mut self) -> Option<Option<Serial>> {
        if self.known.len() - self.waiting.len() >= MAX_KNOWN / 2 {
            return None;
        }
        if self.sweep.is_none() && self.has_overflowed {
            self.has_overflowed = false;
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
    pub fn add(&self, serials: impl IntoIterator<Item = Serial>) {
        let mut work = self.lock();
        serials.into_iter().for_each(|serial| work.add(serial));
    }

    /// How many chunks are known to have too few copies.
    pub fn known(&self) -> u64 {
        self.lock().known.len() as u64
    }

    /// Something has changed for the better: chunks that wait for a node are looked at again.
    pub fn retry_waiting(&self) {
        let mut work = self.lock();
        work.news += 1;
        work.has_overflowed |= std::mem::take(&mut work.has_passed_over);
        let waiting = std::mem::take(&mut work.waiting);
        work.ready.extend(waiting);
    }

    /// A node's inventory was compared: chunks that were given up may have copies again.
    pub fn read_again(&self) {
        self.lock().has_overflowed = true;
    }
}

impl Main {
    /// An order was acknowledged or taken back: its chunk is judged anew.
    pub(super) fn close_order(&self, given: Given, now: Moment) {
        // Whatever it was for: its node has a hand free.
        self.copier.lock().unblock();
        let Purpose::Copy { mut task, targets } = given.purpose else { return };
        let mut under_way = self.under_way();
        targets.iter().for_each(|&target| under_way.end(task.serial, target));
        drop(under_way);
        let pause = FIRST_PAUSE.saturating_mul(1 << task.attempts.min(16)).min(LONGEST_PAUSE);
        task.attempts += 1;
        task.not_before = now + pause;
        self.copier.lock().ready.push_back(task);
    }

    /// Gives orders for as many missing copies as can be made now, and says when to look again.
    pub(super) fn copy_what_is_missing(&self) -> Option<Moment> {
        loop {
            let now = self.clock.now();
            let mut work = self.copier.lock();
            let batch = work.next_batch(now);
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
        self.copier.lock().next_look()
    }

    fn sweep(&self, after: Option<Serial>) -> Result<(), CatalogError> {
        let found = self.catalog.under_copied(after, BATCH)?;
        let mut work = self.copier.lock();
        let is_end = found.len() < BATCH;
        work.sweep = found.last().filter(|_| !is_end).map(|record| Some(record.serial));
        found.iter().for_each(|record| work.add(record.serial));
        Ok(())
    }

    fn judge_batch(&self, batch: Vec<Task>, now: Moment) -> Result<(), CatalogError> {
        let serials: Vec<Serial> = batch.iter().map(|task| task.serial).collect();
        let records = self.catalog.chunks(&serials)?;
        let (live, mut placer) = (self.nodes.live(), self.placer());
        for task in batch {
            match records.iter().find(|record| record.serial == task.serial) {
                Some(record) => self.judge_one(task, record, &live, &mut placer, now)?,
                None => self.copier.lock().forget(task),
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
        let (live, away): (Vec<NodeId>, Vec<NodeId>) =
            nodes.partition(|node| live_nodes.contains(node));
        let targets = self.under_way().targets(task.serial, now);
        let has_hands_free = |node: &NodeId| self.nodes.free_copy_orders(*node) > 0;
        let sources: Vec<NodeId> = live.iter().copied().filter(has_hands_free).collect();
        let copies = Copies {
            length: record.length,
            wanted: usize::from(record.wanted),
            live: &live,
            away: &away,
            under_way: &targets.under_way,
            failed: &targets.failed,
            sources: &sources,
        };
        match judge(&copies, placer) {
            Verdict::Enough => self.copier.lock().forget(task),
            Verdict::UnderWay => {
                self.copier.lock().later.insert((now + PATIENCE, task));
            }
            Verdict::Copy { .. } if task.not_before > now => {
                self.copier.lock().later.insert((task.not_before, task));
            }
            Verdict::Copy { from, to } => self.order_copy(task, record, from, &to),
            Verdict::SourcesBusy => self.copier.lock().block(task, now),
            // A target that failed a moment ago may be the only one there is.
            Verdict::Waiting { .. } if !targets.failed.is_empty() => {
                self.copier.lock().later.insert((now + PATIENCE, task));
            }
            Verdict::Waiting { .. } => self.copier.lock().wait(task),
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
        self.copier.lock().forget(task);
        Ok(())
    }

    fn order_copy(&self, task: Task, record: &ChunkRecord, from: NodeId, to: &[Chosen]) {
        let copies = to.iter().map(|c| Copy { node: c.node, reason: c.reason.code() });
        let copies: Vec<Copy> = copies.collect();
        let targets = self.targets_for(record, &copies, &mut Addresses::new());
        let Some(reach) = self.nodes.reach(from).filter(|_| !targets.is_empty()) else {
            return self.copier.lock().block(task, self.clock.now());
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
            self.copier.lock().block(task, since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Moment = Moment(0);

    fn work() -> Work {
        Work { sweep: None, ..Work::default() }
    }

    fn batch(work: &mut Work) -> Vec<Task> {
        work.next_batch(SOON)
    }

    #[test]
    fn a_chunk_that_waits_is_judged_again_when_it_loses_a_copy() {
        let mut work = work();
        work.add(Serial(1));
        let task = batch(&mut work)[0];
        work.wait(task);
        assert!(batch(&mut work).is_empty());
        work.add(Serial(1));
        assert_eq!(batch(&mut work), [task]);
    }

    #[test]
    fn news_that_comes_while_a_chunk_is_judged_is_not_forgotten() {
        let mut work = work();
        work.add(Serial(1));
        let task = batch(&mut work)[0];
        // Its record was read; now it loses a copy, and then the verdict on the old record falls.
        work.add(Serial(1));
        work.forget(task);
        assert_eq!(batch(&mut work), [task]);
        work.add(Serial(1));
        work.wait(task);
        assert_eq!(batch(&mut work), [task]);
        work.forget(task);
        assert!(batch(&mut work).is_empty() && work.known.is_empty());
    }

    #[test]
    fn chunks_that_wait_give_way_to_one_about_which_something_can_be_done() {
        let mut work = work();
        for serial in 0..MAX_KNOWN as u64 {
            work.add(Serial(serial));
            let task = batch(&mut work)[0];
            work.wait(task);
        }
        assert_eq!(work.known.len(), MAX_KNOWN);
        let urgent = Serial(1 << 40);
        work.add(urgent);
        assert_eq!(batch(&mut work)[0].serial, urgent);
        assert_eq!(work.known.len(), MAX_KNOWN);
        assert!(work.has_passed_over, "the one that gave way is read again later");
    }

    #[test]
    fn a_blocked_chunk_is_judged_again_though_no_order_is_closed() {
        let mut work = work();
        work.add(Serial(1));
        let task = batch(&mut work)[0];
        work.block(task, SOON);
        assert!(batch(&mut work).is_empty());
        assert_eq!(work.next_look(), Some(SOON + BLOCKED));
        assert_eq!(work.next_batch(SOON + BLOCKED), [task]);
    }
}
