//! Fetches under way, and a second one where the first takes far longer than it should: whichever is
//! here first counts, the other is cut off.
//!
//! Each attempt at a chunk shares one `Attempts` with the others. Whoever has the bytes and checked
//! them claims the chunk, and only the one that has it claimed writes anything; so the end of the
//! operation need not wait for the others, whatever they still do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Get;
use super::fetching::Task;
use crate::client::CopyFailure;
use crate::client::cut::Cut;
use crate::ids::NodeId;

/// Smaller fetches are not made twice: they may be done by the caller's own thread.
pub(super) const HEDGED_BYTES: u64 = 256 * 1024;
/// Second fetches under way at the same time.
const HEDGES: usize = 2;
/// A fetch is late when it takes this many times as long as it would from the fastest node,
const LATE: u32 = 2;
/// and longer than this,
const LATE_FLOOR: Duration = Duration::from_millis(100);
/// or than this where no node's pace is known.
const LATE_UNKNOWN: Duration = Duration::from_secs(1);

/// The attempts at one chunk, of which one has it claimed in the end.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// The number of the fetch that has the chunk claimed; 0 before that.
    claimed_by: AtomicU64,
    /// What came of those that failed.
    failures: Mutex<Vec<CopyFailure>>,
}

impl Attempts {
    /// True for the first that asks.
    pub fn claim(&self, fetch: u64) -> bool {
        self.claimed_by.compare_exchange(0, fetch, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// One of them failed.
    pub fn failed(&self, failure: CopyFailure) {
        self.failures().push(failure);
    }

    /// True once one of them has it claimed: what becomes of the others makes no difference.
    pub fn is_claimed(&self) -> bool {
        self.claimed_by.load(Ordering::Acquire) != 0
    }

    /// Adds what came of those that failed, each node once, and forgets it.
    pub fn hand_failures_to(&self, known: &mut Vec<CopyFailure>) {
        for failure in self.failures().drain(..) {
            if known.iter().all(|other| other.node != failure.node) {
                known.push(failure);
            }
        }
    }

    fn failures(&self) -> MutexGuard<'_, Vec<CopyFailure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when another one than this has it claimed.
    fn is_lost_for(&self, fetch: u64) -> bool {
        let claimed_by = self.claimed_by.load(Ordering::Acquire);
        claimed_by != 0 && claimed_by != fetch
    }
}

/// A fetch under way.
pub(super) struct Running {
    /// From 1.
    pub number: u64,
    pub node: NodeId,
    pub bytes: u64,
    /// Bytes that were under way from its node meanwhile, its own included.
    pub shared_bytes: u64,
    pub since: Instant,
    pub cut: Arc<Cut>,
    /// What it is to bring, for another attempt; none where there is to be none.
    pub tasks: Vec<Task>,
    pub is_hedge: bool,
    pub is_hedged: bool,
}

impl Get<'_> {
    /// When a fetch that is under way will be late, unless it ends before.
    pub(super) fn late_at(&self) -> Option<Instant> {
        let is_open = |running: &&Running| !running.tasks.is_empty() && !running.is_hedged;
        let open = self.running.iter().filter(is_open);
        if self.hedges() >= HEDGES {
            return None;
        }
        open.map(|running| running.since + self.patience_with(running)).min()
    }

    fn patience_with(&self, running: &Running) -> Duration {
        let usual = self.paces.best_time(running.shared_bytes);
        usual.map_or(LATE_UNKNOWN, |usual| (usual * LATE).max(LATE_FLOOR))
    }

    fn hedges(&self) -> usize {
        self.running.iter().filter(|running| running.is_hedge).count()
    }

    /// Fetches a second time, from other nodes, what is late.
    pub(super) fn start_hedges(&mut self) {
        let now = Instant::now();
        for running in &self.running {
            let (node, bytes) = (running.node, running.shared_bytes);
            self.paces.learn_at_least(node, bytes, now.duration_since(running.since));
        }
        while self.hedges() < HEDGES {
            let is_late = |running: &Running| {
                !running.tasks.is_empty()
                    && !running.is_hedged
                    && now.duration_since(running.since) >= self.patience_with(running)
            };
            let Some(late) = self.running.iter().position(is_late) else { return };
            self.running[late].is_hedged = true;
            let node = self.running[late].node;
            let mut again: BTreeMap<NodeId, Vec<Task>> = BTreeMap::new();
            for task in self.running[late].tasks.clone() {
                // Of chunks that travel together, some may be here already or asked for elsewhere.
                if task.attempts.is_claimed() || self.attempts_under_way(&task) > 1 {
                    continue;
                }
                // A node that is as slow, or in trouble, would be no help.
                let Some(copy) = self.best_copy(&task, Some(node)) else { continue };
                let other = task.chunk.copies[copy].node;
                again.entry(other).or_default().push(task.by_copy(copy));
            }
            for (other, tasks) in again {
                log::info!("a node is slow node={node} asked_instead={other}");
                self.start_fetch(other, tasks, true);
            }
        }
    }

    fn attempts_under_way(&self, task: &Task) -> usize {
        let same = |other: &Task| Arc::ptr_eq(&other.attempts, &task.attempts);
        self.running.iter().filter(|running| running.tasks.iter().any(same)).count()
    }

    /// Cuts off the fetches of which others have brought everything, and forgets them.
    pub(super) fn abandon_losers(&mut self) {
        let is_lost = |running: &Running| {
            !running.tasks.is_empty()
                && running.tasks.iter().all(|task| task.attempts.is_lost_for(running.number))
        };
        while let Some(at) = self.running.iter().position(is_lost) {
            let lost = self.running.swap_remove(at);
            self.paces.end(lost.node, lost.bytes);
            self.paces.learn_at_least(lost.node, lost.shared_bytes, lost.since.elapsed());
            lost.cut.cut();
            self.abandoned += 1;
        }
    }

    /// Notes that a copy is no good. True when another fetch may still bring the chunk; if that one
    /// is late, it may be fetched from one more node.
    pub(super) fn copy_failed(&mut self, task: &Task, failure: CopyFailure) -> bool {
        let mut is_under_way = false;
        for running in &mut self.running {
            let same = |other: &&mut Task| Arc::ptr_eq(&other.attempts, &task.attempts);
            for other in running.tasks.iter_mut().filter(same) {
                other.failures.push(failure.clone());
                running.is_hedged = false;
                is_under_way = true;
            }
        }
        task.attempts.failed(failure);
        is_under_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(node: u32) -> CopyFailure {
        CopyFailure { node: NodeId(node), is_damaged: false, why: "late".to_string() }
    }

    #[test]
    fn only_the_first_claims_a_chunk_and_the_others_have_lost_it() {
        let attempts = Attempts::default();
        assert!(!attempts.is_claimed() && !attempts.is_lost_for(1));
        assert!(attempts.claim(2) && !attempts.claim(1) && !attempts.claim(2));
        assert!(attempts.is_claimed() && attempts.is_lost_for(1) && !attempts.is_lost_for(2));
    }

    /// A third attempt knew of the second one's failure from the start, and named it twice.
    #[test]
    fn a_copy_that_failed_is_named_once() {
        let attempts = Attempts::default();
        attempts.failed(failure(2));
        attempts.failed(failure(1));
        let mut known = vec![failure(2)];
        attempts.hand_failures_to(&mut known);
        attempts.hand_failures_to(&mut known);
        let nodes: Vec<NodeId> = known.iter().map(|failure| failure.node).collect();
        assert_eq!(nodes, [NodeId(2), NodeId(1)]);
    }
}
