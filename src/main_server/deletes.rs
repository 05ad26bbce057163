//! Has nodes delete the copies that are condemned in the catalog.
//!
//! What is to be deleted stands in the catalog alone: here is only when each node is looked at next.
//! So a restart forgets nothing, and an order that was lost is given anew; deleting what is gone is a
//! success on the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Main;
use super::node::{Given, OrderState, Purpose};
use super::nodes::Nodes;
use crate::catalog::CatalogError;
use crate::clock::Moment;
use crate::ids::{AccountId, ChunkId, HashAlgorithm, KeyId, NodeId, Serial};
use crate::policy::brakes::DeleteBrake;
use crate::policy::liveness::State;
use crate::token::{Claims, Operation};
use crate::wire::admin::{DeleteStatus, Notice};
use crate::wire::node_to_main::{Action, Order};
use crate::wire::{Fault, MAX_ITEMS};

/// How often a node is looked at when nothing says that there is something for it.
const EVERY: Duration = Duration::from_secs(60);
/// How soon a node that takes no further order is looked at again.
const SOON: Duration = Duration::from_secs(1);

/// When nodes are looked at, and what holds them back.
#[derive(Default)]
pub struct Deletes {
    state: Mutex<Planned>,
}

#[derive(Default)]
struct Planned {
    /// When each node is looked at next; one that is not here, now.
    next: BTreeMap<NodeId, Moment>,
    /// How often something was condemned: what was seen of a node before the last time may be old.
    news: u64,
    brake: DeleteBrake,
    /// What is to be purged on each node once it cannot come back with a catalog that is recovered,
    /// and since when.
    purges: BTreeMap<NodeId, (Instant, BTreeSet<Serial>)>,
}

/// What came of looking at a node.
enum Ordered {
    Nothing,
    Given,
    /// It takes no order now.
    Refused,
}

impl Planned {
    /// Looks at this node next, or at all.
    fn look_at(&mut self, node: Option<NodeId>) {
        match node {
            Some(node) => drop(self.next.remove(&node)),
            None => self.next.clear(),
        }
        self.news += 1;
    }
}

impl Deletes {
    /// The state holds no invariant across its lock that a panic could break.
    fn lock(&self) -> MutexGuard<'_, Planned> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    /// The nodes that can be told to delete something, and are not at it: alive, compared, and
    /// obeying this main server in that.
    fn free_to_delete(&self, now: Moment) -> Vec<NodeId> {
        let interval = self.interval();
        let table = self.lock();
        let free = table.nodes.values().filter(|node| {
            node.state(interval, now) == State::Alive
                && !node.is_unadopted
                && !node.has_left()
                && !node.orders.values().any(Given::is_removal)
        });
        free.map(|node| node.id).collect()
    }
}

/// Removals that are being noted. Once it is dropped, be it for a panic, what they did is in the
/// catalog, or never will be: the node has them no more.
pub(super) struct Noting<'a> {
    pub nodes: &'a Nodes,
    pub node: NodeId,
    pub closed: &'a [Given],
}

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        if let Some(node) = self.nodes.lock().nodes.get_mut(&self.node) {
            for given in self.closed.iter().filter(|given| given.is_removal()) {
                node.orders.remove(&given.order.order);
            }
        }
    }
}

impl Main {
    /// Something was condemned: every node is looked at.
    pub(super) fn condemned(&self) {
        self.deletes.lock().look_at(None);
        self.wake_upkeep();
    }

    /// The same where it is known on which nodes.
    pub(super) fn condemned_on(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let mut planned = self.deletes.lock();
        nodes.into_iter().for_each(|node| planned.look_at(Some(node)));
        drop(planned);
        self.wake_upkeep();
    }

    /// Gives each node that is free for it an order to delete what is condemned on it, and says when
    /// to look again.
    pub(super) fn delete_what_is_condemned(
        &self,
        now: Moment,
    ) -> Result<Option<Moment>, CatalogError> {
        let free = self.nodes.free_to_delete(now);
        let is_due = |planned: &Planned, node| planned.next.get(node).is_none_or(|at| *at <= now);
        let planned = self.deletes.lock();
        let news = planned.news;
        let due: Vec<NodeId> = free.iter().filter(|node| is_due(&planned, node)).copied().collect();
        drop(planned);
        if !due.is_empty() {
            // Unknown copies wait for a day of a clock that nobody doubts.
            let lets_go = self.judge_deletes(now)? && self.may_expire(now);
            for node in due {
                let pause = match self.order_removal(node, lets_go, now)? {
                    // It is not free before that is done, or taken back.
                    Ordered::Given => continue,
                    Ordered::Refused => SOON,
                    Ordered::Nothing => EVERY,
                };
                let mut planned = self.deletes.lock();
                // Otherwise it is looked at again at once.
                if planned.news == news {
                    planned.next.insert(node, now + pause);
                }
            }
        }
        let planned = self.deletes.lock();
        Ok(free.iter().filter_map(|node| planned.next.get(node).copied()).min())
    }

    /// True when copies with unknown serials may be deleted, too.
    fn judge_deletes(&self, now: Moment) -> Result<bool, CatalogError> {
        let (waiting, chunks) =
            (self.catalog.condemned_totals()?.unknown, self.catalog.totals()?.chunks);
        let mut planned = self.deletes.lock();
        let was_held = planned.brake.is_held();
        let lets_go = planned.brake.lets_go(now, chunks, waiting);
        if !lets_go && !was_held {
            let limit = DeleteBrake::limit(chunks);
            log::error!("deletes held, no removal explains them copies={waiting} limit={limit}");
        }
        Ok(lets_go)
    }

    fn order_removal(
        &self,
        node: NodeId,
        with_unknown: bool,
        now: Moment,
    ) -> Result<Ordered, CatalogError> {
        // All that `condemned_on` names is condemned durably, together with the confirmations that it
        // rests on, and can never count again: that is the catalog's contract. So whatever happens
        // to this process, no order is out that the books do not know of.
        let due =
            self.catalog.condemned_on(node, None, with_unknown, self.clock.wall(), MAX_ITEMS)?;
        if due.is_empty() {
            return Ok(Ordered::Nothing);
        }
        // They are named now, so whoever asks next gets them, too.
        let let_go = due.iter().filter(|copy| !copy.is_decided).count() as u64;
        self.deletes.lock().brake.let_go(self.clock.now(), let_go);
        let Some(reach) = self.nodes.reach(node) else { return Ok(Ordered::Refused) };
        // What is purged goes first, in orders of its own.
        let purge = due.iter().any(|copy| copy.purge);
        let chosen = due.into_iter().filter(|copy| copy.purge == purge);
        let mut serials: Vec<Serial> = chosen.map(|copy| copy.serial).collect();
        if purge {
            let safe = self.safe_to_purge(node, &serials);
            serials.retain(|serial| safe.contains(serial));
            if serials.is_empty() {
                return Ok(Ordered::Refused);
            }
        }
        let token = reach.mint(removal(node, &serials, self.nodes.expiry()));
        let action = Action::Remove { serials: serials.clone().into(), purge };
        let order = Order { order: self.next_order(), token, action };
        log::debug!("deletes ordered node={node} copies={} purge={purge}", serials.len());
        let purpose = Purpose::Remove { serials };
        let given = Given { order, purpose, since: now, state: OrderState::ToSend };
        Ok(if self.nodes.give(node, given) { Ordered::Given } else { Ordered::Refused })
    }

    /// Those of these copies whose removal is on two nodes, as good as that goes: a catalog that is
    /// recovered from before it counts on them, and there is no trash from which they could come back.
    fn safe_to_purge(&self, node: NodeId, serials: &[Serial]) -> BTreeSet<Serial> {
        let mut planned = self.deletes.lock();
        let asked_now = || (Instant::now(), serials.iter().copied().collect());
        let (asked, _) = planned.purges.entry(node).or_insert_with(asked_now);
        match self.journal.is_safe_or_late(*asked) {
            true => planned.purges.remove(&node).map(|(_, safe)| safe).unwrap_or_default(),
            false => BTreeSet::new(),
        }
    }

    /// The node has acknowledged these orders: what they were to delete is gone there, durably. Only
    /// once that is in the catalog may the node be given another order to delete.
    pub(super) fn note_removed(&self, node: NodeId, closed: &[Given]) -> Result<(), Fault> {
        let noting = Noting { nodes: &self.nodes, node, closed };
        let noted = closed.iter().try_for_each(|given| self.note_deleted(node, &given.purpose));
        drop(noting);
        noted.map_err(|error| self.fault(error))
    }

    fn note_deleted(&self, node: NodeId, purpose: &Purpose) -> Result<(), CatalogError> {
        let Purpose::Remove { serials } = purpose else { return Ok(()) };
        self.catalog.deleted_copies(node, serials)?;
        log::info!("copies deleted node={node} count={}", serials.len());
        self.deletes.lock().next.remove(&node);
        Ok(())
    }

    /// A person lets the deletes go that nobody's removal explains.
    pub(super) fn adopt_deletes(&self) -> Result<(), CatalogError> {
        let waiting = self.catalog.condemned_totals()?.unknown;
        self.deletes.lock().brake.release(waiting);
        log::warn!("unexplained deletes adopted copies={waiting}");
        self.condemned();
        Ok(())
    }

    /// What is on its way to be deleted.
    pub(super) fn delete_status(&self) -> Result<DeleteStatus, CatalogError> {
        let totals = self.catalog.condemned_totals()?;
        let table = self.nodes.lock();
        let there = table.nodes.values().filter(|node| !node.has_left());
        let trash_bytes = there.map(|node| node.room.reported().trash_bytes).sum();
        let (condemned_copies, unexplained_copies) = (totals.copies, totals.unknown);
        Ok(DeleteStatus { condemned_copies, unexplained_copies, trash_bytes })
    }

    pub(super) fn deletes_notice(&self) -> Result<Option<Notice>, CatalogError> {
        if !self.deletes.lock().brake.is_held() {
            return Ok(None);
        }
        let (waiting, chunks) =
            (self.catalog.condemned_totals()?.unknown, self.catalog.totals()?.chunks);
        let message = format!(
            "nodes hold {waiting} copies that the main server knows nothing of, more than the {} that \
             are deleted in an hour without asking; they are kept. If they are of no use, type: p2pdfs \
             admin adopt deletes",
            DeleteBrake::limit(chunks)
        );
        Ok(Some(Notice { code: "deletes_held".to_string(), message }))
    }
}

/// What a token says that lets a node delete these copies.
fn removal(node: NodeId, serials: &[Serial], expires: crate::clock::WallTime) -> Claims {
    let bytes: Vec<u8> = serials.iter().flat_map(|serial| serial.0.to_be_bytes()).collect();
    Claims {
        key: KeyId(0),
        operation: Operation::Remove,
        node,
        id: ChunkId::of(HashAlgorithm::Blake3, &bytes),
        serial: serials.first().copied().unwrap_or(Serial(0)),
        length: bytes.len() as u32,
        account: AccountId(0),
        wanted: 0,
        reason: 0,
        expires,
    }
}
