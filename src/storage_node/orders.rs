//! What the main server orders in its answers to heartbeats. Threads of their own do it, so that
//! heartbeats go on; an order is done once however often it is sent, and acknowledged until the
//! main server has heard it.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::causes::with_causes;
use crate::ids::{ChunkId, HashAlgorithm, NodeId, Serial};
use crate::segments::StoreError;
use crate::token::{Claims, Operation, Token};
use crate::wire::MAX_ITEMS;
use crate::wire::node_to_main::{Action, Order, Target};
use crate::wire::to_main::Addresses;

use super::copying;
use super::shared::{Member, Shared};

/// The threads that carry orders out: while one reads, others send, and their syncs at the other
/// end are shared.
pub(super) const WORKERS: usize = 4;
/// Orders that are under way or not yet acknowledged; what comes beyond that will come again.
const MAX_KNOWN: usize = 4 * MAX_ITEMS;
/// Copies to the same nodes travel together, as many as this, or until they have so many bytes.
const MAX_TOGETHER: usize = 256;
const TOGETHER_BYTES: u64 = 4 << 20;

/// The orders of which this node knows.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Held for memory only, never while an order is carried out.
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    waiting: VecDeque<Accepted>,
    /// By number, whether it is done.
    known: BTreeMap<u64, bool>,
    /// A removal is being carried out.
    removing: bool,
    stopping: bool,
}

/// An order whose token is good.
#[derive(Debug)]
pub(super) struct Accepted {
    pub order: u64,
    pub token: Token,
    pub claims: Claims,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Copy(Copies),
    Verify,
    Remove { serials: Vec<Serial>, purge: bool },
}

/// Orders that a thread is at, until this is dropped. What is not done then, be it for a panic, is to
/// come again.
struct AtWork<'a> {
    orders: &'a Orders,
    batch: Vec<Accepted>,
    is_done: bool,
}

/// Where copies are to go.
#[derive(Debug)]
pub(super) struct Copies {
    pub targets: Vec<Target>,
    /// Of all nodes that the orders of one answer name.
    pub nodes: Arc<Addresses>,
}

/// What is to become of an order that was not known before.
enum Judged {
    Accepted(Accepted),
    /// Acknowledged without being carried out: it never will be.
    Failed,
    /// Neither: it is as if it had not come.
    PassedOver,
}

impl Copies {
    fn go_where(&self, other: &Copies) -> bool {
        let nodes = self.targets.iter().map(|target| target.node);
        nodes.eq(other.targets.iter().map(|target| target.node))
    }
}

impl Accepted {
    fn is_removal(&self) -> bool {
        matches!(self.work, Work::Remove { .. })
    }

    pub fn copies(&self) -> Option<&Copies> {
        match &self.work {
            Work::Copy(copies) => Some(copies),
            Work::Verify | Work::Remove { .. } => None,
        }
    }
}

impl Orders {
    /// Takes in orders. True if any of them is to be done that was not known before.
    pub fn take(&self, shared: &Shared, node: NodeId, orders: Vec<Order>, to: Addresses) -> bool {
        let nodes = Arc::new(to);
        let mut table = self.lock();
        let mut any_new = false;
        for order in orders {
            let number = order.order;
            if table.known.len() >= MAX_KNOWN || table.known.contains_key(&number) {
                continue;
            }
            match judge(shared, node, order, &nodes) {
                Judged::Accepted(accepted) => {
                    table.known.insert(number, false);
                    table.waiting.push_back(accepted);
                }
                Judged::Failed => drop(table.known.insert(number, true)),
                Judged::PassedOver => continue,
            }
            any_new = true;
        }
        drop(table);
        self.changed.notify_all();
        any_new
    }

    /// Orders that are done and that the main server may not have heard of, at most `MAX_ITEMS`.
    pub fn done(&self) -> Vec<u64> {
        let table = self.lock();
        let done = table.known.iter().filter(|(_, is_done)| **is_done).map(|(order, _)| *order);
        done.take(MAX_ITEMS).collect()
    }

    /// The main server has heard that these are done.
    pub fn forget(&self, acknowledged: &[u64]) {
        let mut table = self.lock();
        for order in acknowledged {
            table.known.remove(order);
        }
    }

    /// Waits until an order is done, for at most `pause`. True when the node stops.
    pub fn wait_done(&self, pause: Duration) -> bool {
        let table = self.lock();
        let (table, _) = self
            .changed
            .wait_timeout_while(table, pause, |table| {
                !table.stopping && !table.known.values().any(|is_done| *is_done)
            })
            .unwrap_or_else(PoisonError::into_inner);
        table.stopping
    }

    /// True while there are orders that are not done.
    pub fn has_open(&self) -> bool {
        self.lock().known.values().any(|is_done| !is_done)
    }

    /// Waits until all orders are done, for at most `pause`. True when the node stops.
    pub fn wait_all_done(&self, pause: Duration) -> bool {
        let table = self.lock();
        let is_open =
            |table: &mut Table| !table.stopping && table.known.values().any(|is_done| !is_done);
        let waited = self.changed.wait_timeout_while(table, pause, is_open);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }

    /// Gives up the removals that wait, and returns once none is under way. What was ordered before
    /// the main server was last told what is held here must not be done after it: the books may be
    /// others by then, which count it.
    pub fn end_removals(&self) {
        let mut guard = self.lock();
        let table = &mut *guard;
        let given_up = table.waiting.iter().filter(|order| order.is_removal());
        for Accepted { order, .. } in given_up {
            log::info!("a removal was given up order={order}");
            table.known.remove(order);
        }
        table.waiting.retain(|order| !order.is_removal());
        let is_removing = |table: &mut Table| table.removing && !table.stopping;
        drop(self.changed.wait_while(guard, is_removing));
    }

    /// Ends `run` after the orders that it is about, and `wait_done` at once.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    /// The body of a thread that carries orders out.
    pub fn run(&self, shared: &Shared) {
        self.work(|batch| Some(carry_out(shared, &*shared.member()?, batch)));
    }

    /// Has orders carried out until there are none any more, or until nothing comes of it, since
    /// without a store the node is stopping. A panic costs the orders that it was over, which come
    /// again, and not the thread: there are few.
    fn work(&self, carry_out: impl Fn(&[Accepted]) -> Option<bool>) {
        while let Some(mut at_work) = self.next() {
            let work = AssertUnwindSafe(|| carry_out(&at_work.batch));
            match catch_unwind(work) {
                Ok(Some(is_done)) => at_work.is_done = is_done,
                Ok(None) => return,
                Err(_) => log::error!("a panic over an order order={}", at_work.batch[0].order),
            }
        }
    }

    /// The next order, or the next ones that go together.
    fn next(&self) -> Option<AtWork<'_>> {
        let table = self.lock();
        let mut table = self
            .changed
            .wait_while(table, |table| table.turn().is_none() && !table.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        let batch = if table.stopping { None } else { table.take_batch() };
        Some(AtWork { orders: self, batch: batch?, is_done: false })
    }

    /// A removal that is under way until this is dropped.
    #[cfg(test)]
    pub fn as_if_removing(&self, claims: Claims) -> impl Sized + use<'_> {
        let (token, work) =
            (Token::from_text(String::new()), Work::Remove { serials: Vec::new(), purge: false });
        self.lock().removing = true;
        AtWork {
            orders: self,
            batch: vec![Accepted { order: 0, token, claims, work }],
            is_done: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut table = self.orders.lock();
        table.over(&self.batch);
        for Accepted { order, .. } in &self.batch {
            match self.is_done {
                true => table.known.insert(*order, true),
                false => table.known.remove(order),
            };
        }
        drop(table);
        self.orders.changed.notify_all();
    }
}

impl Table {
    /// The first order whose turn it is. Removals take turns, as they came: once one is done, none that
    /// was ordered before it can hit what is stored here from then on.
    fn turn(&self) -> Option<usize> {
        self.waiting.iter().position(|order| !self.removing || !order.is_removal())
    }

    /// Nobody is at these any more.
    fn over(&mut self, batch: &[Accepted]) {
        self.removing &= !batch.iter().any(Accepted::is_removal);
    }

    fn take_batch(&mut self) -> Option<Vec<Accepted>> {
        let first = self.waiting.remove(self.turn()?)?;
        self.removing |= first.is_removal();
        let Work::Copy(_) = first.work else { return Some(vec![first]) };
        let mut bytes = u64::from(first.claims.length);
        let mut batch = vec![first];
        for other in std::mem::take(&mut self.waiting) {
            let more = u64::from(other.claims.length);
            let fits = batch.len() < MAX_TOGETHER && bytes + more <= TOGETHER_BYTES;
            let goes_along = match (batch[0].copies(), other.copies()) {
                (Some(first), Some(copies)) => fits && first.go_where(copies),
                _ => false,
            };
            if goes_along {
                bytes += more;
                batch.push(other);
            } else {
                self.waiting.push_back(other);
            }
        }
        Some(batch)
    }
}

fn judge(shared: &Shared, node: NodeId, order: Order, nodes: &Arc<Addresses>) -> Judged {
    let Order { order, token, action } = order;
    // It comes from the main server itself, and may be old by the time it is sent again.
    let claims = shared.keys.check_proof(&token, node, shared.time.now());
    let (wanted, work) = match action {
        Action::Copy { targets } => {
            (Operation::Fetch, Work::Copy(Copies { targets, nodes: nodes.clone() }))
        }
        Action::Verify {} => (Operation::Fetch, Work::Verify),
        Action::Remove { serials, purge } => {
            (Operation::Remove, Work::Remove { serials: serials.into_vec(), purge })
        }
    };
    let is_removal = wanted == Operation::Remove;
    if is_removal && !shared.is_adopted() {
        log::warn!("a main server that is not adopted wants chunks removed order={order}");
        return Judged::PassedOver;
    }
    let is_meant = |claims: &Claims| match &work {
        Work::Copy(_) | Work::Verify => true,
        Work::Remove { serials, .. } => names(claims, serials),
    };
    match claims {
        Ok(claims) if claims.operation == wanted && is_meant(&claims) => {
            Judged::Accepted(Accepted { order, token, claims, work })
        }
        // What is acknowledged is taken for removed.
        Ok(_) | Err(_) if is_removal => {
            log::warn!("a removal without a good token was passed over order={order}");
            Judged::PassedOver
        }
        Ok(_) | Err(_) => {
            log::warn!("an order without a good token was passed over order={order}");
            Judged::Failed
        }
    }
}

/// True if the claims are for the removal of these serials and no others.
fn names(claims: &Claims, serials: &[Serial]) -> bool {
    let list: Vec<u8> = serials.iter().flat_map(|serial| serial.0.to_be_bytes()).collect();
    claims.id == ChunkId::of(HashAlgorithm::Blake3, &list)
        && u64::from(claims.length) == list.len() as u64
}

/// True if the orders are done, or failed for good; otherwise they are to come again.
fn carry_out(shared: &Shared, member: &Member, batch: &[Accepted]) -> bool {
    let Some(first) = batch.first() else { return true };
    match &first.work {
        Work::Copy(_) => return copying::copy(shared, member, batch),
        Work::Verify => verify(shared, member, &first.claims),
        Work::Remove { serials, purge } => return remove(shared, member, first, serials, *purge),
    }
    true
}

fn verify(shared: &Shared, member: &Member, claims: &Claims) {
    match member.store.verify(claims.serial, &claims.id) {
        Ok(()) => log::debug!("verified chunk={} serial={}", claims.id, claims.serial),
        Err(error) => {
            member.fault(&error);
            missing(shared, member, claims, &error);
        }
    }
}

/// Reports a copy that the main server counts on and that cannot be had from here.
pub(super) fn missing(shared: &Shared, member: &Member, claims: &Claims, error: &StoreError) {
    match error {
        StoreError::Corrupt { .. } | StoreError::Unreadable { .. } => {
            shared.give_up_copy(member, claims.serial, &claims.id);
        }
        StoreError::NotFound(_) => {
            log::warn!("a copy is not here chunk={} serial={}", claims.id, claims.serial);
            shared.confirmer.lost(claims.serial);
        }
        _ => {}
    }
}

/// Removes chunks, for good once this returns true.
fn remove(
    shared: &Shared,
    member: &Member,
    order: &Accepted,
    serials: &[Serial],
    purge: bool,
) -> bool {
    // The order may have waited while another main server came.
    if !shared.is_adopted() {
        return false;
    }
    let removed = member.take_out(serials, purge).and_then(|tickets| {
        // The confirmation of one of them may be on its way, and would count once the order is
        // acknowledged and forgotten. From now on none is sent any more.
        shared.confirmer.settle();
        member.wait_durable(&tickets).map(|()| tickets.len())
    });
    match removed {
        Ok(removed) => {
            log::info!("removed order={} chunks={removed} purge={purge}", order.order);
            true
        }
        Err(error) => {
            log::error!("not removed order={} error={}", order.order, with_causes(&error));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::ids::{AccountId, KeyId};

    fn accepted(order: u64, work: Work) -> Accepted {
        let claims = Claims {
            key: KeyId(1),
            operation: Operation::Remove,
            node: NodeId(1),
            id: ChunkId::of(HashAlgorithm::Blake3, b""),
            serial: Serial(order),
            length: 0,
            account: AccountId(0),
            wanted: 0,
            reason: 0,
            expires: WallTime(0),
        };
        Accepted { order, token: Token::from_text(String::new()), claims, work }
    }

    fn removal(order: u64) -> Accepted {
        accepted(order, Work::Remove { serials: Vec::new(), purge: false })
    }

    fn taken(all: impl IntoIterator<Item = Accepted>) -> Orders {
        let orders = Orders::default();
        let mut table = orders.lock();
        for accepted in all {
            table.known.insert(accepted.order, false);
            table.waiting.push_back(accepted);
        }
        drop(table);
        orders
    }

    #[test]
    fn removals_that_wait_are_given_up_and_one_that_is_under_way_is_waited_for() {
        let orders = taken([removal(1), removal(2), accepted(3, Work::Verify)]);
        let mut first = orders.next().expect("its turn");
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| {
                orders.end_removals();
                orders.lock().removing
            });
            while orders.lock().known.contains_key(&2) {
                std::thread::yield_now();
            }
            // Whoever does not wait for the one under way is through by now, or as good as.
            (0..1000).for_each(|_| std::thread::yield_now());
            first.is_done = true;
            drop(first);
            assert!(!ended.join().unwrap(), "one is under way still");
        });
        assert_eq!(orders.done(), [1], "that was done, and may be heard of");
        assert_eq!(orders.next().expect("its turn").batch[0].order, 3);
        assert!(orders.lock().waiting.is_empty());
    }

    #[test]
    fn what_a_thread_panicked_over_comes_again_and_holds_up_no_removal() {
        let orders = taken([removal(1), removal(2), removal(3)]);
        orders.work(|batch| match batch[0].order {
            1 => panic!("over order 1"),
            2 => Some(true),
            // The node stops.
            _ => None,
        });
        let table = orders.lock();
        assert!(!table.known.contains_key(&1) && !table.removing);
        assert_eq!(table.known.get(&2), Some(&true));
    }

    #[test]
    fn removals_take_turns_as_they_came_and_hold_up_nothing_else() {
        let mut table = Table::default();
        table.waiting.extend([removal(1), removal(2), accepted(3, Work::Verify), removal(4)]);
        let next = |table: &mut Table| table.take_batch().map(|batch| batch[0].order);
        assert_eq!(next(&mut table), Some(1));
        assert_eq!(next(&mut table), Some(3), "the second removal has to wait");
        assert_eq!(next(&mut table), None);
        table.over(&[removal(1)]);
        assert_eq!((next(&mut table), next(&mut table)), (Some(2), None));
        table.over(&[accepted(3, Work::Verify)]);
        assert_eq!(next(&mut table), None, "that was none");
        table.over(&[removal(2)]);
        assert_eq!(next(&mut table), Some(4));
    }
}
