//! Moves copies from full nodes to emptier ones, when repair has nothing to do: a few at a time,
//! the copy first. The chunk then has one too many, and the one on the fullest node is trimmed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Main;
use super::node::Purpose;
use super::view::View;
use crate::catalog::{CatalogError, ChunkRecord, Copy};
use crate::clock::Moment;
use crate::ids::{NodeId, Serial};
use crate::policy::placement::Placer;
use crate::policy::rebalance::{Limits, Rebalance};

/// How much is planned together: little, so that the nodes stay free for others.
const LIMITS: Limits = Limits { node_bytes: 16 << 20, all_bytes: 256 << 20 };
/// How often it is looked whether nodes are unequally full.
const EVERY: Duration = Duration::from_secs(30);
/// The pause between rounds, while they are.
const PAUSE: Duration = Duration::from_secs(1);
/// How many copies of a node are looked at together, and how often in one round.
const PAGE: usize = 256;
const PAGES: usize = 16;
/// A move takes as much of the limit as so many bytes of repair.
const COST: u64 = 10;

/// How far the moving is.
#[derive(Default)]
pub struct Moves {
    /// Chunks that are being copied to an emptier node.
    pub under_way: u64,
    next: Option<Moment>,
    /// Where to go on looking at each node's copies.
    cursors: BTreeMap<NodeId, Serial>,
}

impl Main {
    /// Begins a round of moves, if it is time for one, and says when to look again.
    pub(super) fn even_out(&self, now: Moment) -> Result<Option<Moment>, CatalogError> {
        let mut work = self.repair.lock();
        if work.moves.under_way > 0 {
            return Ok(None);
        }
        if let Some(at) = work.moves.next.filter(|at| *at > now) {
            return Ok(Some(at));
        }
        let paced = work.pace.wait_until(now);
        drop(work);
        let view = self.view();
        let mut next = now + EVERY;
        if paced.is_none() && !view.is_patient && self.move_some(&view, now)? {
            next = now + PAUSE;
        }
        self.repair.lock().moves.next = Some(paced.unwrap_or(next));
        Ok(Some(paced.unwrap_or(next)))
    }

    /// A node has come: it may be emptier than others.
    pub(super) fn look_at_fill(&self) {
        self.repair.lock().moves.next = None;
    }

    /// True when nodes are unequally full.
    fn move_some(&self, view: &View, now: Moment) -> Result<bool, CatalogError> {
        let mut placer = self.placer();
        let mut plan = Rebalance::plan(placer.candidates(), LIMITS);
        if plan.is_done() {
            return Ok(false);
        }
        let givers: Vec<NodeId> = plan.givers().collect();
        for giver in givers {
            for _ in 0..PAGES {
                if plan.is_done() || !plan.givers().any(|node| node == giver) {
                    break;
                }
                let (page, is_end) = self.next_of(giver)?;
                for record in page {
                    self.move_one(&record, view, &mut plan, &mut placer, now)?;
                }
                if is_end {
                    break;
                }
            }
        }
        Ok(true)
    }

    /// The next chunks of a node, from which to choose; the flag says that they were its last.
    fn next_of(&self, node: NodeId) -> Result<(Vec<ChunkRecord>, bool), CatalogError> {
        let from = self.repair.lock().moves.cursors.get(&node).copied().unwrap_or(Serial(0));
        let page = self.catalog.copies_on(node, from, Serial(u64::MAX), PAGE)?;
        let is_end = page.len() < PAGE;
        let next = page.last().filter(|_| !is_end).map(|last| Serial(last.serial.0 + 1));
        self.repair.lock().moves.cursors.insert(node, next.unwrap_or(Serial(0)));
        let serials: Vec<Serial> = page.iter().map(|holding| holding.serial).collect();
        Ok((self.catalog.chunks(&serials)?, is_end))
    }

    fn move_one(
        &self,
        record: &ChunkRecord,
        view: &View,
        plan: &mut Rebalance,
        placer: &mut Placer,
        now: Moment,
    ) -> Result<(), CatalogError> {
        let holders = view.holders(record);
        let is_as_wanted = holders.counts.len() == usize::from(record.wanted)
            && holders.counts.len() == record.copies.len();
        let targets = self.under_way().targets(record.serial, now);
        if !is_as_wanted || !targets.under_way.is_empty() || !targets.failed.is_empty() {
            return Ok(());
        }
        let Some(chosen) = plan.judge(record.length, &holders, placer) else { return Ok(()) };
        // A copy that came back before it was deleted there could not be confirmed.
        if self.is_condemned(record.serial, chosen.taker.node)? {
            return Ok(());
        }
        let copies = [Copy { node: chosen.taker.node, reason: chosen.taker.reason.code() }];
        let (serial, from, length) = (record.serial, chosen.from, record.length);
        let purpose = |targets| Purpose::Move { serial, from, targets, length };
        if self.order_copy(record, from, &copies, purpose) {
            let mut work = self.repair.lock();
            work.moves.under_way += 1;
            work.pace.take(u64::from(record.length) * COST, now);
        }
        Ok(())
    }
}
