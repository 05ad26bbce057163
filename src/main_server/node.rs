//! One node, as the main server knows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::bell::Bell;
use super::keys::KeyRing;
use super::orders::MAX_COPY_ORDERS;
use super::room::Room;
use crate::catalog::NodeRecord;
use crate::clock::{Moment, WallTime};
use crate::ids::{Address, Incarnation, KeyId, NodeId, Serial};
use crate::policy::liveness::{Signs, State};
use crate::policy::pace::Hands;
use crate::policy::placement::Candidate;
use crate::policy::queue::Task;
use crate::wire::node_to_main::Order;

/// The connection on which a node is added and sends its heartbeats.
#[derive(Debug, Clone)]
pub struct Control {
    /// The session's number.
    pub session: u64,
    /// Wakes the session when there is something to say.
    pub bell: Arc<Bell>,
}

/// What an order is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    Copy { task: Task, targets: Vec<NodeId> },
    Verify { serial: Serial },
}

/// An order that was given to a node and is not acknowledged yet.
#[derive(Debug, Clone)]
pub struct Given {
    pub order: Order,
    pub purpose: Purpose,
    pub since: Moment,
    /// It went out on the control connection that stands now.
    pub is_sent: bool,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub secret_fingerprint: [u8; 32],
    /// Of the start of its directory that was registered last.
    pub incarnation: Option<Incarnation>,
    pub address: Option<Address>,
    pub zone: String,
    /// Equal for nodes in one zone.
    pub zone_number: u32,
    pub signs: Signs,
    /// It was added since this main server's start.
    pub is_added: bool,
    pub control: Option<Control>,
    pub room: Room,
    pub transfers: u32,
    pub received_bytes: u64,
    /// Why it cannot store any more, by its own word.
    pub failure: Option<String>,
    pub keys: KeyRing,
    /// The newest key in the answer to its last `add_me`: a node that goes on after that has it.
    pub granted_key: Option<KeyId>,
    pub orders: BTreeMap<u64, Given>,
    /// The state that was logged last.
    pub logged: State,
}

impl Node {
    /// A node that the catalog knows and nobody heard yet.
    pub fn new(record: NodeRecord, zone_number: u32, now: Moment) -> Node {
        let mut room = Room::default();
        let mut space = room.reported();
        space.offered_bytes = record.offered_bytes;
        room.report(space);
        Node {
            id: record.id,
            secret_fingerprint: record.secret_fingerprint,
            incarnation: record.incarnation,
            address: record.address,
            zone: record.zone,
            zone_number,
            signs: Signs { heard: now, connected: false, compared: false, stopped: None },
            is_added: false,
            control: None,
            room,
            transfers: 0,
            received_bytes: 0,
            failure: None,
            keys: KeyRing::new(record.key, now),
            granted_key: None,
            orders: BTreeMap::new(),
            logged: State::Suspect,
        }
    }

    /// Its state. Without a key for its tokens nothing can be done with it yet.
    pub fn state(&self, interval: Duration, now: Moment) -> State {
        match self.signs.state(interval, now) {
            State::Alive if self.keys.minting().is_none() => State::Returning,
            state => state,
        }
    }

    /// True when `session` is its control connection.
    pub fn is_controlled_by(&self, session: u64) -> bool {
        self.control.as_ref().is_some_and(|control| control.session == session)
    }

    /// Makes this its control connection. What was sent on the one before may have been lost, and
    /// whoever waits there is woken.
    pub fn take_control(&mut self, control: Control, now: Moment) {
        self.signs.connected = true;
        self.signs.heard = now;
        if self.is_controlled_by(control.session) {
            return;
        }
        self.orders.values_mut().for_each(|given| given.is_sent = false);
        if let Some(before) = self.control.replace(control) {
            before.bell.ring();
        }
    }

    /// Time since it was last heard; `None` when not since the main server's start.
    pub fn silent(&self, now: Moment) -> Option<Duration> {
        (self.is_added || self.signs.connected).then(|| now.since(self.signs.heard))
    }

    /// The node as placement sees it.
    pub fn candidate(&self, interval: Duration, now: Moment, wall: WallTime) -> Candidate {
        Candidate {
            node: self.id,
            zone: self.zone_number,
            state: self.state(interval, now),
            silent: self.silent(now),
            is_slow: self.signs.is_slow(interval, now),
            has_failed: self.failure.is_some(),
            is_leaving: false,
            offered_bytes: self.room.reported().offered_bytes,
            used_bytes: self.room.used_bytes(),
            reserved_bytes: self.room.promised_bytes(wall),
            free_bytes: self.room.free_bytes(),
            condemned_bytes: 0,
            hands: Hands {
                orders: self.copy_orders(),
                bytes: 0,
                max_orders: MAX_COPY_ORDERS,
                max_bytes: 1 << 40,
            },
        }
    }

    /// How many copy orders it has.
    pub fn copy_orders(&self) -> u32 {
        let is_copy = |given: &&Given| matches!(given.purpose, Purpose::Copy { .. });
        self.orders.values().filter(is_copy).count() as u32
    }
}
