//! `inventory`, `holdings`, `compared` and `lost`: what a node really holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Main;
use crate::catalog::Holding;
use crate::ids::{NodeId, Serial};
use crate::policy::inventory::{bucket_of, digest, serials_of};
use crate::wire::node_to_main::*;
use crate::wire::to_main::Done;
use crate::wire::{Fault, MAX_ITEMS};

use super::fault::invalid;

/// How long copies of which the books know nothing are kept: they may be what a restored catalog has
/// forgotten. However short leases are.
pub(super) const UNKNOWN_WAIT: Duration = Duration::from_secs(24 * 3600);
/// How many copies of the catalog are looked at at once.
const PAGE: usize = 8192;
/// How many are looked at for one request; the node goes on from there with the next.
const MAX_COMPARED: usize = 1 << 18;
/// The highest bucket that a serial can fall into.
const LAST_BUCKET: u64 = u64::MAX / BUCKET_SERIALS;

/// The buckets that differ, as they are found.
struct Comparison {
    told: BTreeMap<u64, BucketDigest>,
    differ: Vec<u64>,
    /// The bucket whose copies are being gathered.
    gathering: Option<(u64, Vec<Holding>)>,
}

impl Main {
    /// Serves `inventory`.
    pub(super) fn inventory(
        &self,
        node: NodeId,
        request: Inventory,
    ) -> Result<InventoryReply, Fault> {
        let (first, last) = (request.from, request.to.min(LAST_BUCKET));
        let mut comparison = Comparison::new(first, last, &request)?;
        let (mut from, to) = (serials_of(first).0, serials_of(last).1);
        let mut compared = 0;
        loop {
            let page = self.catalog.copies_on(node, from, to, PAGE);
            let page = page.map_err(|error| self.fault(error))?;
            compared += page.len();
            let is_last = page.len() < PAGE;
            let after = page.last().map_or(to, |holding| holding.serial);
            for holding in page {
                comparison.gather(holding);
            }
            if is_last || after >= to {
                let differ = comparison.end();
                return Ok(InventoryReply::page(differ, None));
            }
            if compared >= MAX_COMPARED || comparison.differ.len() >= MAX_ITEMS {
                // The bucket that was not gathered to its end is the first of the next request.
                let next = comparison.gathering.take().map_or(bucket_of(after), |(b, _)| b);
                let differ = comparison.up_to(next);
                return Ok(InventoryReply::page(differ, Some(next)));
            }
            from = Serial(after.0 + 1);
        }
    }

    /// Serves `holdings`.
    pub(super) fn holdings(&self, node: NodeId, request: Holdings) -> Result<HoldingsReply, Fault> {
        if request.bucket > LAST_BUCKET {
            return Err(invalid(format!("there is no bucket {}", request.bucket)));
        }
        let (from, to) = serials_of(request.bucket);
        if request.held.iter().any(|held| held.serial < from || held.serial > to) {
            return Err(invalid("a bucket's holdings are of its own serials"));
        }
        let (trash, live): (Vec<&HeldChunk>, Vec<&HeldChunk>) =
            request.held.iter().partition(|held| held.trashed);
        let restore = self.counted_trash(node, (from, to), &trash)?;
        // What is about to be restored counts on: the copy was verified when it came, and is again
        // when it is restored; if that fails, the next holdings lack it.
        let held: Vec<Holding> = live.into_iter().map(holding).chain(restore.clone()).collect();
        let unknown_due = self.clock.wall() + UNKNOWN_WAIT;
        let reconciled = self.catalog.reconcile(node, from, to, &held, unknown_due);
        let reconciled = reconciled.map_err(|error| self.fault(error))?;
        let lost = reconciled.lost.len() as u64;
        let unknown = reconciled.unknown.len() as u64;
        if lost > 0 {
            log::warn!("copies missing on their node node={node} count={lost}");
            self.see_to(reconciled.lost.iter().map(|record| record.serial));
            self.wake_upkeep();
        }
        if reconciled.found > 0 {
            self.nodes.found(node);
        }
        if unknown > 0 {
            log::warn!("copies unknown to the books node={node} count={unknown}");
            self.condemned_on([node]);
        }
        let restore = restore.into_iter().map(|holding| holding.serial).collect();
        Ok(HoldingsReply { found: reconciled.found, lost, unknown, restore })
    }

    /// The removed copies that the books count on all the same: these books are older than the
    /// removal.
    fn counted_trash(
        &self,
        node: NodeId,
        (from, to): (Serial, Serial),
        trash: &[&HeldChunk],
    ) -> Result<Vec<Holding>, Fault> {
        if trash.is_empty() {
            return Ok(Vec::new());
        }
        let counted = self.catalog.copies_on(node, from, to, MAX_HOLDINGS);
        let counted: BTreeSet<Holding> =
            counted.map_err(|error| self.fault(error))?.into_iter().collect();
        let trash = trash.iter().map(|held| holding(held));
        Ok(trash.filter(|holding| counted.contains(holding)).collect())
    }

    /// Serves `compared`.
    pub(super) fn compared(&self, node: NodeId, _: Compared) -> Result<Done, Fault> {
        if let Some(key) = self.nodes.granted_key(node) {
            self.take_key(node, key)?;
        }
        // What was found may be too much. Nobody may have noticed that the node was away.
        if self.nodes.compared(node) {
            self.survey.look_again();
        }
        self.wake_upkeep();
        Ok(Done {})
    }

    /// Serves `lost`.
    pub(super) fn lost(&self, node: NodeId, request: Lost) -> Result<Done, Fault> {
        let lost = self.catalog.lose_copies(node, &request.serials);
        let lost = lost.map_err(|error| self.fault(error))?;
        for record in &lost {
            log::warn!("copy damaged, dropped chunk={} node={node}", record.id);
        }
        self.see_to(lost.iter().map(|record| record.serial));
        self.wake_upkeep();
        Ok(Done {})
    }
}

fn holding(held: &HeldChunk) -> Holding {
    Holding { serial: held.serial, length: held.length, fingerprint: held.fingerprint }
}

impl Comparison {
    fn new(first: u64, last: u64, request: &Inventory) -> Result<Comparison, Fault> {
        if first > last {
            return Err(invalid("an inventory's first bucket is not after its last"));
        }
        if request.buckets.iter().any(|told| told.bucket < first || told.bucket > last) {
            return Err(invalid("an inventory's buckets are within its range"));
        }
        let told = request.buckets.iter().map(|told| (told.bucket, *told)).collect();
        Ok(Comparison { told, differ: Vec::new(), gathering: None })
    }

    /// Takes the catalog's next copy, by serial.
    fn gather(&mut self, holding: Holding) {
        let bucket = bucket_of(holding.serial);
        match &mut self.gathering {
            Some((current, holdings)) if *current == bucket => holdings.push(holding),
            _ => {
                self.close_bucket();
                self.gathering = Some((bucket, vec![holding]));
            }
        }
    }

    fn close_bucket(&mut self) {
        let Some((bucket, held)) = self.gathering.take() else { return };
        let recorded = held.iter().map(|h| (h.serial, h.length, h.fingerprint));
        let recorded = (held.len() as u32, digest(recorded));
        let told = self.told.remove(&bucket).map(|told| (told.count, told.digest));
        if told != Some(recorded) {
            self.differ.push(bucket);
        }
    }

    /// All buckets that differ: what the node holds beside what was gathered is not recorded.
    fn end(mut self) -> Vec<u64> {
        self.close_bucket();
        self.up_to(u64::MAX)
    }

    /// Those below `next`.
    fn up_to(mut self, next: u64) -> Vec<u64> {
        let unrecorded = self.told.into_values().filter(|told| told.count > 0);
        self.differ.extend(unrecorded.map(|told| told.bucket).filter(|&bucket| bucket < next));
        self.differ.sort_unstable();
        self.differ
    }
}

impl InventoryReply {
    /// At most as many buckets as fit into a message; the comparison goes on behind the last.
    fn page(mut differ: Vec<u64>, mut next: Option<u64>) -> InventoryReply {
        const MOST: usize = 16 * MAX_ITEMS;
        if let Some(&bucket) = differ.get(MOST) {
            differ.truncate(MOST);
            next = Some(bucket);
        }
        InventoryReply { differ, next }
    }
}
