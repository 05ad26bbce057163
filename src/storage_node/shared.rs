//! What the threads of a node share.

use std::convert::Infallible;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::causes::with_causes;
use crate::ids::{Address, ChunkId, Incarnation, Serial};
use crate::segments::{Store, StoreError};
use crate::server::Budget;
use crate::wire::connection::Dialing;
use crate::wire::frame::PayloadBuffer;
use crate::wire::node_to_main::Space;
use crate::wire::{CallError, Connection, Fault, Hello, Role};

use super::buffers::Pool;
use super::config::{NodeConfig, NodeLimits};
use super::confirmer::Confirmer;
use super::control::FirstContact;
use super::counters::Counters;
use super::error::NodeError;
use super::fault;
use super::forward::Peers;
use super::identity::{Identity, Membership};
use super::journal::Keeper;
use super::keys::{Keys, MainTime};
use super::orders::Orders;

/// Memory kept for payloads and reads while nothing needs it.
const KEPT_PAYLOAD_BYTES: usize = 16 << 20;
const KEPT_READ_BYTES: usize = 8 << 20;

/// Everything but the threads themselves.
pub(super) struct Shared {
    pub identity: Identity,
    /// Of this start.
    pub incarnation: Incarnation,
    /// Where others reach this node.
    pub address: Address,
    pub dialing: Dialing,
    pub limits: NodeLimits,
    pub keys: Keys,
    pub time: MainTime,
    pub counters: Counters,
    pub client_budget: Arc<Budget>,
    pub duplicate_budget: Arc<Budget>,
    pub fetch_budget: Arc<Budget>,
    pub payloads: Arc<Pool<PayloadBuffer>>,
    pub reads: Arc<Pool<Vec<u8>>>,
    pub confirmer: Confirmer,
    pub peers: Peers,
    pub orders: Orders,
    /// What is kept here of the catalog.
    pub journal: Keeper,
    /// Closed when the node stops: whoever pauses, pauses on this.
    pub stop: Receiver<Infallible>,
    /// Gets what the node cannot go on after.
    fatal: Sender<NodeError>,
    given_up: AtomicBool,
    /// By the last `add_me`: the main server may have chunks removed.
    is_adopted: AtomicBool,
    /// Empty until the node has joined, and again once it has stopped. Requests hold on to it only
    /// while they run, so that the store can be closed behind the last of them.
    member: RwLock<Option<Arc<Member>>>,
    control: Mutex<ControlSocket>,
}

/// `stopping` shares the lock of `socket` on purpose: a control connection is either listed before
/// the stop, and cut by it, or refused after it.
#[derive(Default)]
struct ControlSocket {
    stopping: bool,
    socket: Option<TcpStream>,
}

/// A node that has joined: its number, and its chunks.
pub(super) struct Member {
    pub membership: Membership,
    pub store: Store,
    /// The highest serial that the store had when it was opened.
    pub highest_serial: Option<Serial>,
    /// What the disk's failure was, from the first request that met it on.
    failure: OnceLock<String>,
}

impl Shared {
    pub fn new(
        config: &NodeConfig,
        identity: Identity,
        keys: Keys,
        address: Address,
        stop: Receiver<Infallible>,
        fatal: Sender<NodeError>,
    ) -> Shared {
        let insecure_plaintext = config.insecure_plaintext;
        let limits = config.limits.clone();
        Shared {
            identity,
            incarnation: Incarnation::random(),
            address,
            dialing: Dialing { insecure_plaintext, ..Dialing::default() },
            keys,
            time: MainTime::new(config.clock.clone()),
            counters: Counters::default(),
            client_budget: Budget::new(limits.client_bytes),
            duplicate_budget: Budget::new(limits.duplicate_bytes),
            fetch_budget: Budget::new(limits.fetch_bytes),
            limits,
            payloads: Pool::new(KEPT_PAYLOAD_BYTES),
            reads: Pool::new(KEPT_READ_BYTES),
            confirmer: Confirmer::default(),
            peers: Peers::new(insecure_plaintext),
            orders: Orders::default(),
            journal: Keeper::new(&config.directory),
            stop,
            fatal,
            given_up: AtomicBool::new(false),
            is_adopted: AtomicBool::new(false),
            member: RwLock::new(None),
            control: Mutex::default(),
        }
    }

    /// The node's place and store, unless it has not joined yet or has stopped.
    pub fn member(&self) -> Option<Arc<Member>> {
        self.member.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the node for requests, or closes it; returns what was there before.
    pub fn set_member(&self, member: Option<Arc<Member>>) -> Option<Arc<Member>> {
        let mut place = self.member.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, member)
    }

    /// Tells whoever looks after the node that it cannot go on: in the start, by `first`.
    pub fn give_up(&self, error: NodeError, first: Option<Sender<FirstContact>>) {
        self.given_up.store(true, Ordering::SeqCst);
        // Nobody listens any more when the node is being stopped anyway.
        match first {
            Some(first) => drop(first.send(FirstContact::Fatal(error))),
            None => drop(self.fatal.send(error)),
        }
    }

    /// True once `give_up` was called.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst)
    }

    /// True once the main server proved, at the last `add_me`, that it is the one that was here
    /// before, or a person said so: only then is anything removed by its orders.
    pub fn is_adopted(&self) -> bool {
        self.is_adopted.load(Ordering::SeqCst)
    }

    pub fn set_adopted(&self, is_adopted: bool) {
        self.is_adopted.store(is_adopted, Ordering::SeqCst);
    }

    /// What the main server is told about the node's space: what is kept of the catalog counts.
    pub fn space(&self, member: &Member) -> Space {
        let mut space = member.space();
        space.used_bytes += self.journal.bytes();
        let unused = space.offered_bytes.saturating_sub(space.used_bytes);
        space.free_bytes = space.free_bytes.min(unused);
        space
    }

    /// Opens a connection to the main server, as the node that this one is by now.
    pub fn dial_main(&self) -> Result<Connection, CallError> {
        let file = self.identity.get();
        let mut hello = Hello::new(Role::Node);
        if let Some(membership) = self.member().map(|member| member.membership) {
            hello.node = Some(membership.node);
            hello.secret = Some(file.secret);
            hello.incarnation = Some(self.incarnation);
        }
        let connection = Connection::open(&file.main, &self.dialing, &hello)?;
        self.time.tell(connection.hello().time);
        Ok(connection)
    }

    /// Waits; true when the node stops meanwhile.
    pub fn stops_within(&self, pause: Duration) -> bool {
        match self.stop.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
            Ok(never) => match never {},
        }
    }

    /// Lists the socket that a stop cuts; false when the node stops already.
    pub fn set_control_socket(&self, socket: Option<TcpStream>) -> bool {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        control.socket = socket;
        !control.stopping
    }

    /// Ends the control connection, and lets no other begin.
    pub fn cut_control(&self) {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        control.stopping = true;
        if let Some(socket) = control.socket.take() {
            // One that the main server has closed already needs no cutting.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Takes out a copy whose reading said that it is damaged, and has the main server told.
    pub fn drop_damaged(&self, member: &Member, serial: Serial, id: &ChunkId) {
        self.counters.count_damaged();
        let dropped = member.store.drop_damaged(serial, id);
        let durable = dropped.and_then(|ticket| match ticket {
            Some(ticket) => member.store.wait_durable(ticket).map(|()| true),
            None => Ok(false),
        });
        match durable {
            Ok(true) => log::warn!("copy damaged, dropped chunk={id} serial={serial}"),
            Ok(false) => {
                log::warn!("copy damaged, and whole when read again chunk={id} serial={serial}");
                return;
            }
            // Another request has dropped it, and told of it.
            Err(StoreError::NotFound(_)) => return,
            Err(error) => {
                log::error!("copy damaged, no tombstone chunk={id} serial={serial} error={error}");
            }
        }
        self.confirmer.lost(serial);
    }
}

impl Member {
    pub fn new(membership: Membership, store: Store, highest_serial: Option<Serial>) -> Member {
        Member { membership, store, highest_serial, failure: OnceLock::new() }
    }

    /// The fault for an error of the store, which is logged here, and noted when it is the end of
    /// all storing.
    pub fn fault(&self, error: &StoreError) -> Fault {
        let text = with_causes(error);
        match error {
            StoreError::NotFound(_) | StoreError::OutOfRange { .. } => {}
            StoreError::Failed { .. } => {
                if self.failure.set(text.clone()).is_ok() {
                    log::error!("no more chunks are taken error={text}");
                }
            }
            _ => log::warn!("the store refused error={text}"),
        }
        fault::of_store(error)
    }

    /// Why the node cannot store any more, if so.
    pub fn failure(&self) -> Option<String> {
        let why = || self.failure.get().cloned().unwrap_or_else(|| "a sync failed".to_string());
        self.store.has_failed().then(why)
    }

    /// What the main server is told about its space.
    pub fn space(&self) -> Space {
        let space = self.store.space();
        Space {
            offered_bytes: space.offered,
            used_bytes: space.used,
            free_bytes: space.free,
            chunks: space.chunks,
            trash_bytes: 0,
        }
    }
}
