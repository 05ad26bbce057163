//! Orders: what nodes are told to do. They ride on the replies to heartbeats, again and again until
//! they are acknowledged, and are taken back when that takes too long.

use std::time::Duration;

use super::node::{Given, OrderState, Purpose};
use super::nodes::Nodes;
use super::under_way::PATIENCE;
use crate::clock::Moment;
use crate::ids::NodeId;
use crate::policy::liveness::State;
use crate::wire::node_to_main::Order;
use crate::wire::{MAX_ITEMS, MAX_JSON_BYTES};

/// The most orders of all kinds that a node has at a time.
pub const MAX_ORDERS: usize = 512;
/// The most JSON bytes of orders in one reply.
const MAX_REPLY_BYTES: usize = MAX_JSON_BYTES as usize - 64 * 1024;
/// How long a node has for an order, from its giving or from the last one that the node got done, and
/// beside that for each so many bytes a second: it does a few at a time, over a link that may be slow.
pub const ORDER_LIFE: Duration = PATIENCE;
const SLOW_LINK: u64 = 64 * 1024;

impl Nodes {
    /// Gives a node an order, which goes out at once when its heartbeat is being held back.
    /// `false` when the node has all the orders it takes, or has this one already.
    pub fn give(&self, node: NodeId, given: Given) -> bool {
        let mut table = self.lock();
        let Some(node) = table.nodes.get_mut(&node) else { return false };
        let is_there = node.orders.values().any(|other| other.purpose == given.purpose);
        if is_there || node.orders.len() >= MAX_ORDERS {
            return false;
        }
        node.orders.insert(given.order.order, given);
        if let Some(control) = &node.control {
            control.bell.ring();
        }
        true
    }

    /// True when `session` should answer its heartbeat now: there is an order that was not sent on
    /// it, or it is the node's control connection no more.
    pub fn has_news(&self, node: NodeId, session: u64) -> bool {
        let table = self.lock();
        let Some(node) = table.nodes.get(&node) else { return true };
        !node.is_controlled_by(session) || node.orders.values().any(Given::is_new)
    }

    /// True while the node has orders that it has not acknowledged.
    pub fn has_orders(&self, node: NodeId) -> bool {
        self.lock().nodes.get(&node).is_some_and(|node| !node.orders.is_empty())
    }

    /// Orders to be sent on `session`: those that were not sent on it yet, or, when there are none,
    /// all of them again; as many as fit. None when it is not the node's control connection.
    pub fn orders_to_send(&self, node: NodeId, session: u64) -> Vec<(Order, Purpose)> {
        let mut table = self.lock();
        let Some(node) = table.nodes.get_mut(&node) else { return Vec::new() };
        if !node.is_controlled_by(session) {
            return Vec::new();
        }
        // All with each reply would be a megabyte for each chunk that is copied.
        let has_new = node.orders.values().any(Given::is_new);
        let (mut room, mut orders) = (MAX_REPLY_BYTES, Vec::new());
        let open = node.orders.values_mut().filter(|given| given.state != OrderState::Done);
        for given in open.filter(|given| !has_new || given.is_new()) {
            let Some(left) = room.checked_sub(given.reply_bytes()) else { break };
            if orders.len() >= MAX_ITEMS {
                break;
            }
            room = left;
            given.state = OrderState::Sent;
            orders.push((given.order.clone(), given.purpose.clone()));
        }
        orders
    }

    /// Takes back the orders that are not done in time, and those of nodes that are not alive; and
    /// says when the next one will be overdue.
    pub fn take_back_orders(&self, now: Moment) -> (Vec<Given>, Option<Moment>) {
        let interval = self.interval();
        let mut table = self.lock();
        let mut overdue = Vec::new();
        let mut next: Option<Moment> = None;
        for node in table.nodes.values_mut() {
            let is_alive = node.state(interval, now) == State::Alive;
            let progress = node.progress;
            let ends = |given: &Given| {
                let more = Duration::from_secs(given.bytes() / SLOW_LINK);
                given.since.max(progress) + ORDER_LIFE + more
            };
            let is_over = |given: &Given| {
                given.state != OrderState::Done && (!is_alive || ends(given) <= now)
            };
            node.orders.retain(|_, given| {
                let is_over = is_over(given);
                if is_over {
                    overdue.push(given.clone());
                }
                !is_over
            });
            let open = node.orders.values().filter(|given| given.state != OrderState::Done);
            next = next.into_iter().chain(open.map(ends)).min();
        }
        (overdue, next)
    }
}
