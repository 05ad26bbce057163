//! What the main server orders in its answers to heartbeats. A thread of its own does it, so that
//! heartbeats go on; an order is done once however often it is sent, and acknowledged until the
//! main server has heard it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::segments::StoreError;
use crate::token::{Claims, Operation};
use crate::wire::MAX_ITEMS;
use crate::wire::node_to_main::{Action, DuplicatedChunk, FailedTarget, Order, Target};
use crate::wire::to_main::Addresses;

use super::confirmer::destinations;
use super::forward::{self, Outgoing};
use super::shared::{Member, Shared};

/// Orders that are under way or not yet acknowledged; what comes beyond that will come again.
const MAX_KNOWN: usize = 4 * MAX_ITEMS;

/// The orders of which this node knows.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Held for memory only, never while an order is carried out.
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    waiting: VecDeque<(Order, Addresses)>,
    /// By number, whether it is done.
    known: BTreeMap<u64, bool>,
    stopping: bool,
}

impl Orders {
    /// Takes in orders. True if any of them was new.
    pub fn take(&self, orders: Vec<Order>, nodes: &Addresses) -> bool {
        let mut table = self.lock();
        let mut any_new = false;
        for order in orders {
            if table.known.len() < MAX_KNOWN && !table.known.contains_key(&order.order) {
                any_new = true;
                table.known.insert(order.order, false);
                table.waiting.push_back((order, nodes.clone()));
            }
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

    /// Ends `run` after the order that it is about, and `wait_done` at once.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    /// The body of the orders' thread.
    pub fn run(&self, shared: &Shared) {
        while let Some((order, nodes)) = self.next() {
            // Without a store the node is stopping: the order will come again.
            let Some(member) = shared.member() else { return };
            carry_out(shared, &member, &order, &nodes);
            self.lock().known.insert(order.order, true);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<(Order, Addresses)> {
        let table = self.lock();
        let mut table = self
            .changed
            .wait_while(table, |table| table.waiting.is_empty() && !table.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        if table.stopping { None } else { table.waiting.pop_front() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn carry_out(shared: &Shared, member: &Member, order: &Order, nodes: &Addresses) {
    // It comes from the main server itself, and may be old by the time it is sent again.
    let now = shared.time.now();
    let claims = match shared.keys.check_proof(&order.token, member.membership.node, now) {
        Ok(claims) if claims.operation == Operation::Fetch => claims,
        Ok(_) | Err(_) => {
            log::warn!("an order without a good token was passed over order={}", order.order);
            return;
        }
    };
    match &order.action {
        Action::Copy { targets } => copy(shared, member, order, &claims, targets, nodes),
        Action::Verify {} => verify(shared, member, &claims),
        Action::Remove { .. } => unimplemented!(),
    }
}

fn copy(
    shared: &Shared,
    member: &Member,
    order: &Order,
    claims: &Claims,
    targets: &[Target],
    nodes: &Addresses,
) {
    let Claims { id, serial, .. } = claims;
    let mut bytes = shared.reads.take();
    bytes.resize(claims.length as usize, 0);
    match member.store.read_into(*serial, id, 0, &mut bytes) {
        Ok(()) => {
            let destinations = destinations(targets.to_vec(), nodes);
            let (token, done) = (order.token.clone(), Vec::new());
            let mut chunk = [Outgoing { id: *id, bytes: &bytes, token, destinations, done }];
            forward::duplicate(shared, &mut chunk);
            let [Outgoing { done, .. }] = chunk;
            log::info!("copy order done order={} chunk={id} nodes={done:?}", order.order);
        }
        Err(error) => {
            let fault = member.fault(&error);
            missing(shared, member, claims, &error);
            let failed = |target: &Target| FailedTarget {
                node: target.node,
                why: format!("the source cannot be read: {fault}"),
            };
            let failed = targets.iter().map(failed).collect();
            let token = order.token.clone();
            shared.confirmer.note(vec![DuplicatedChunk { token, done: Vec::new(), failed }]);
        }
    }
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
fn missing(shared: &Shared, member: &Member, claims: &Claims, error: &StoreError) {
    match error {
        StoreError::Corrupt { .. } => shared.drop_damaged(member, claims.serial, &claims.id),
        StoreError::NotFound(_) => {
            log::warn!("a copy is not here chunk={} serial={}", claims.id, claims.serial);
            shared.confirmer.lost(claims.serial);
        }
        _ => {}
    }
}
