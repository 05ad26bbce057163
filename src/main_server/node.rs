//! One node, as the main server knows it.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::bell::Bell;
use super::keys::KeyRing;
use super::room::Room;
use crate::catalog::{NodeRecord, Standing};
use crate::clock::{Moment, WallTime};
use crate::ids::{Address, Incarnation, KeyId, NodeId, Serial};
use crate::policy::liveness::{Signs, State};
use crate::policy::pace::Hands;
use crate::policy::placement::Candidate;
use crate::policy::queue::Task;
use crate::wire::node_to_main::{Action, Heartbeat, Order, ScrubState};

/// JSON bytes of a token with what stands around it, of an address, and of a serial.
const ORDER_BYTES: usize = 300;
const ADDRESS_BYTES: usize = 80;
const SERIAL_BYTES: usize = 20;

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
    Copy {
        task: Task,
        from: NodeId,
        targets: Vec<NodeId>,
        length: u32,
    },
    /// One copy more than wanted, on an emptier node.
    Move {
        serial: Serial,
        from: NodeId,
        targets: Vec<NodeId>,
        length: u32,
    },
    Verify {
        serial: Serial,
    },
    Remove {
        serials: Vec<Serial>,
    },
}

/// An order that was given to a node and is not acknowledged yet.
#[derive(Debug, Clone)]
pub struct Given {
    pub order: Order,
    pub purpose: Purpose,
    pub since: Moment,
    pub state: OrderState,
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    /// It is to go out on the control connection that stands now.
    ToSend,
    /// It went out there.
    Sent,
    /// The node acknowledged it, and that is being noted in the catalog.
    Done,
}

/// Copy orders of one node, and the bytes that it is to send for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyLoad {
    pub orders: u32,
    pub bytes: u64,
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
    pub standing: Standing,
    pub signs: Signs,
    /// It was added since this main server's start.
    pub is_added: bool,
    /// Copies were found in a comparison that is not over.
    pub has_found: bool,
    pub control: Option<Control>,
    /// Held while something that it says is taken in, and by the one who changes from which of its
    /// connections that is done: the lowest number of those that have one.
    pub oldest_dial: Arc<RwLock<u64>>,
    pub room: Room,
    pub transfers: u32,
    pub received_bytes: u64,
    /// Why it cannot store any more, by its own word.
    pub failure: Option<String>,
    pub scrub: ScrubState,
    pub damaged_copies: u64,
    /// It deletes nothing by this main server's word.
    pub is_unadopted: bool,
    /// Its own wall clock, and when it said so.
    pub its_time: Option<(WallTime, Moment)>,
    pub keys: KeyRing,
    /// The newest key in the answer to its last `add_me`: a node that goes on after that has it.
    pub granted_key: Option<KeyId>,
    pub orders: BTreeMap<u64, Given>,
    /// When it last got an order done.
    pub progress: Moment,
    /// The state that was logged last.
    pub logged: State,
}

impl Given {
    /// It has yet to go out.
    pub fn is_new(&self) -> bool {
        self.state == OrderState::ToSend
    }

    /// It has the node delete something.
    pub fn is_removal(&self) -> bool {
        matches!(self.purpose, Purpose::Remove { .. })
    }

    /// The bytes that are to be sent for it.
    pub fn bytes(&self) -> u64 {
        match self.purpose {
            Purpose::Copy { length, .. } | Purpose::Move { length, .. } => length.into(),
            Purpose::Verify { .. } | Purpose::Remove { .. } => 0,
        }
    }

    /// JSON bytes that it takes in a reply, its addresses included; rather too many.
    pub fn reply_bytes(&self) -> usize {
        match &self.order.action {
            Action::Copy { targets } => ORDER_BYTES + targets.len() * (ORDER_BYTES + ADDRESS_BYTES),
            Action::Verify {} => ORDER_BYTES,
            Action::Remove { serials, .. } => ORDER_BYTES + serials.len() * SERIAL_BYTES,
        }
    }
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
            standing: record.standing,
            signs: Signs { heard: now, connected: false, compared: false, stopped: None },
            is_added: false,
            has_found: false,
            control: None,
            oldest_dial: Arc::default(),
            room,
            transfers: 0,
            received_bytes: 0,
            failure: None,
            scrub: ScrubState::default(),
            damaged_copies: 0,
            is_unadopted: false,
            its_time: None,
            keys: KeyRing::new(record.key, now),
            granted_key: None,
            orders: BTreeMap::new(),
            progress: now,
            logged: State::Suspect,
        }
    }

    /// Takes in what a heartbeat says of the node. True when it has more room than before.
    pub fn report(&mut self, beat: &Heartbeat, now: Moment) -> bool {
        (self.transfers, self.received_bytes) = (beat.transfers, beat.received_bytes);
        self.failure.clone_from(&beat.failed);
        (self.scrub, self.damaged_copies) = (beat.scrub, beat.damaged_copies);
        self.is_unadopted = beat.unadopted;
        self.its_time = beat.time.map(|time| (time, now));
        self.room.report(beat.space)
    }

    /// Its state. Without a key for its tokens nothing can be done with it yet.
    pub fn state(&self, interval: Duration, now: Moment) -> State {
        match self.signs.state(interval, now) {
            State::Alive if self.keys.minting().is_none() => {
                Signs { compared: false, ..self.signs }.state(interval, now)
            }
            state => state,
        }
    }

    /// It was struck off.
    pub fn has_left(&self) -> bool {
        self.standing == Standing::Left
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
        for given in self.orders.values_mut().filter(|given| given.state == OrderState::Sent) {
            given.state = OrderState::ToSend;
        }
        if let Some(before) = self.control.replace(control) {
            before.bell.ring();
        }
    }

    /// The node has acknowledged an order. A removal stays, as done, until that is in the catalog: an
    /// order for the same copies could go out before, and what is stored there again after it would
    /// be deleted by it. `None` for one that it has not, or that is done already.
    pub fn close_order(&mut self, order: u64) -> Option<Given> {
        let given = self.orders.get_mut(&order)?;
        if !given.is_removal() {
            return self.orders.remove(&order);
        }
        if given.state == OrderState::Done {
            return None;
        }
        given.state = OrderState::Done;
        Some(given.clone())
    }

    /// Time since it was last heard; `None` when not since the main server's start.
    pub fn silent(&self, now: Moment) -> Option<Duration> {
        (self.is_added || self.signs.connected).then(|| now.since(self.signs.heard))
    }

    /// The node as placement sees it.
    pub fn candidate(&self, interval: Duration, now: Moment, wall: WallTime) -> Candidate {
        let load = self.copy_load();
        Candidate {
            node: self.id,
            zone: self.zone_number,
            state: self.state(interval, now),
            silent: self.silent(now),
            is_slow: self.signs.is_slow(interval, now),
            has_failed: self.failure.is_some(),
            is_leaving: self.standing == Standing::Draining,
            offered_bytes: self.room.reported().offered_bytes,
            used_bytes: self.room.used_bytes(),
            reserved_bytes: self.room.promised_bytes(wall),
            free_bytes: self.room.free_bytes(),
            condemned_bytes: self.room.condemned_bytes(now),
            hands: Hands::new(load.orders, load.bytes, self.transfers),
        }
    }

    /// The copies that it has orders to make.
    pub fn copy_load(&self) -> CopyLoad {
        let mut load = CopyLoad::default();
        for given in self.orders.values() {
            match &given.purpose {
                Purpose::Copy { targets, length, .. } | Purpose::Move { targets, length, .. } => {
                    load.orders += 1;
                    load.bytes += targets.len() as u64 * u64::from(*length);
                }
                Purpose::Verify { .. } | Purpose::Remove { .. } => {}
            }
        }
        load
    }
}
