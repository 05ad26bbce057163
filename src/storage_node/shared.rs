//! What the threads of a node share.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::causes::with_causes;
use crate::clock::{Clock, Moment};
use crate::ids::{Address, ChunkId, Incarnation, Serial};
use crate::segments::{Loss, LostCopy, Store, StoreError, Ticket};
use crate::server::Budget;
use crate::wire::connection::Dialing;
use crate::wire::frame::PayloadBuffer;
use crate::wire::node_to_main::Space;
use crate::wire::{CallError, Fault, Hello, Role};

use super::aside::Aside;
use super::batch::StoredCopy;
use super::buffers::Pool;
use super::config::{NodeConfig, NodeLimits, ScrubConfig};
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
use super::parting::Parting;
use super::recent::Recent;
use super::scrub::Scrub;
use crate::wire::{Dialled, Sockets};

/// Memory kept for payloads and reads while nothing needs it.
const KEPT_PAYLOAD_BYTES: usize = 16 << 20;
const KEPT_READ_BYTES: usize = 16 << 20;
/// How long the space counts as used up after the disk took no more though it seemed to have room:
/// out of inodes, over a quota or over a limit on file sizes, say.
const FULL_FOR: Duration = Duration::from_secs(60);

/// Everything but the threads themselves.
pub(super) struct Shared {
    pub identity: Identity,
    /// Of this start.
    pub incarnation: Incarnation,
    /// Where others reach this node.
    pub address: Address,
    pub dialing: Dialing,
    pub limits: NodeLimits,
    pub back_in: Duration,
    pub keys: Keys,
    pub clock: Clock,
    pub time: MainTime,
    pub counters: Counters,
    pub client_budget: Arc<Budget>,
    pub duplicate_budget: Arc<Budget>,
    pub fetch_budget: Arc<Budget>,
    pub copy_budget: Arc<Budget>,
    pub payloads: Arc<Pool<PayloadBuffer>>,
    pub reads: Arc<Pool<Vec<u8>>>,
    pub confirmer: Confirmer,
    pub peers: Peers,
    pub orders: Orders,
    /// What is kept here of the catalog.
    pub journal: Keeper,
    pub recent: Recent,
    pub scrubbing: ScrubConfig,
    pub scrub: Scrub,
    pub aside: Aside,
    pub parting: Parting,
    pub links: Links,
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
}

/// The connections that this node dials, by when a stop cuts them.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// For heartbeats.
    pub control: Arc<Sockets>,
    /// For the catalog's journal.
    pub journal: Arc<Sockets>,
    /// All others to the main server.
    pub main: Arc<Sockets>,
    /// To other nodes.
    pub peers: Arc<Sockets>,
}

/// A node that has joined: its number, and its chunks.
pub(super) struct Member {
    pub membership: Membership,
    pub store: Store,
    /// The highest serial that the store had when it was opened.
    pub highest_serial: Option<Serial>,
    /// What the disk's failure was, from the first request that met it on.
    failure: OnceLock<String>,
    clock: Clock,
    /// When the disk last took no more though it seemed to have room.
    full_since: Mutex<Option<Moment>>,
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
        let links = Links::default();
        let hello_timeout = Duration::from_secs(5);
        Shared {
            identity,
            incarnation: Incarnation::random(),
            address,
            dialing: Dialing { insecure_plaintext, hello_timeout, ..Dialing::default() },
            keys,
            time: MainTime::new(config.clock.clone()),
            recent: Recent::new(config.clock.clone()),
            clock: config.clock.clone(),
            counters: Counters::default(),
            client_budget: Budget::new(limits.client_bytes),
            duplicate_budget: Budget::new(limits.duplicate_bytes),
            fetch_budget: Budget::new(limits.fetch_bytes),
            back_in: config.back_in,
            copy_budget: Budget::new(limits.copy_bytes),
            limits,
            payloads: Pool::new(KEPT_PAYLOAD_BYTES),
            reads: Pool::new(KEPT_READ_BYTES),
            confirmer: Confirmer::default(),
            peers: Peers::new(insecure_plaintext, links.peers.clone()),
            links,
            orders: Orders::default(),
            journal: Keeper::new(&config.directory),
            scrubbing: config.scrub,
            scrub: Scrub::default(),
            aside: Aside::default(),
            parting: Parting::default(),
            stop,
            fatal,
            given_up: AtomicBool::new(false),
            is_adopted: AtomicBool::new(false),
            member: RwLock::new(None),
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

    /// The node is none any more: it has nothing to say goodbye for.
    pub fn note_left(&self) {
        self.given_up.store(true, Ordering::SeqCst);
    }

    /// True once `give_up` or `note_left` was called.
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

    /// Has on disk how far the main server's books were, as good as that goes: a full disk must keep
    /// nobody from deleting, or from coming back. Called on the control thread alone.
    pub fn save_heard(&self) {
        if let Err(error) = self.identity.save_heard() {
            log::error!("how far the books are was not kept error={}", with_causes(&error));
        }
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
    pub fn dial_main(&self) -> Result<Dialled, CallError> {
        self.dial(&self.links.main, &self.dialing, None)
    }

    /// The same, for the confirmer.
    pub fn dial_to_confirm(&self) -> Result<Dialled, CallError> {
        self.dial(&self.links.main, &self.dialing, Some(self.confirmer.dial()))
    }

    /// The same, to follow the catalog's journal.
    pub fn dial_journal(&self) -> Result<Dialled, CallError> {
        self.dial(&self.links.journal, &self.dialing, None)
    }

    /// The same, for heartbeats.
    pub fn dial_control(&self) -> Result<Dialled, CallError> {
        self.dial(&self.links.control, &self.dialing, None)
    }

    /// The same, with less patience, to say goodbye.
    pub fn dial_to_part(&self) -> Result<Dialled, CallError> {
        let patience = self.limits.parting_patience;
        let dialing =
            Dialing { connect_timeout: patience / 3, hello_timeout: patience, ..self.dialing };
        self.dial(&self.links.main, &dialing, None)
    }

    fn dial(
        &self,
        sockets: &Arc<Sockets>,
        dialing: &Dialing,
        number: Option<u64>,
    ) -> Result<Dialled, CallError> {
        let file = self.identity.get();
        let mut hello = Hello::new(Role::Node);
        if let Some(membership) = self.member().map(|member| member.membership) {
            hello.node = Some(membership.node);
            hello.secret = Some(file.secret);
            hello.incarnation = Some(self.incarnation);
            hello.dial = number;
        }
        let connection = sockets.open(&file.main, dialing, &hello)?;
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

    /// True if the copy is still here, so that it may be told of.
    pub fn holds(&self, copy: &StoredCopy) -> bool {
        let is_held = |member: Arc<Member>| member.store.length(copy.serial, &copy.id).is_ok();
        self.member().is_some_and(is_held)
    }

    /// Takes out a copy whose reading said that it is damaged or cannot be read, and has the main
    /// server told.
    pub fn give_up_copy(&self, member: &Member, serial: Serial, id: &ChunkId) {
        let given_up = member.store.give_up(serial, id);
        let durable = given_up.and_then(|taken| match taken {
            Some((ticket, loss)) => member.store.wait_durable(ticket).map(|()| Some(loss)),
            None => Ok(None),
        });
        let loss = match durable {
            Ok(Some(loss)) => loss,
            Ok(None) => {
                log::warn!("copy not good, and whole when read again chunk={id} serial={serial}");
                return;
            }
            // Another request was faster, and told of it.
            Err(StoreError::NotFound(_)) => return,
            Err(error) => {
                let error = with_causes(&error);
                log::error!("copy lost, no tombstone chunk={id} serial={serial} error={error}");
                Loss::Damaged
            }
        };
        self.report_lost(&[LostCopy { serial, id: Some(*id), loss }]);
    }

    /// Has the main server told of copies that are held no more.
    pub fn report_lost(&self, lost: &[LostCopy]) {
        for LostCopy { serial, id, loss } in lost {
            let id = id.map(|id| id.to_string()).unwrap_or_default();
            match loss {
                Loss::Damaged => {
                    self.counters.count_damaged();
                    log::warn!("copy damaged, dropped chunk={id} serial={serial}");
                }
                Loss::Unreadable => {
                    self.counters.count_unreadable();
                    self.aside.add(*serial);
                    log::error!("copy cannot be read, put aside chunk={id} serial={serial}");
                }
            }
            self.confirmer.lost(*serial);
        }
    }
}

impl Member {
    /// Of this node, in this store.
    pub fn new(
        membership: Membership,
        store: Store,
        highest_serial: Option<Serial>,
        clock: Clock,
    ) -> Member {
        let (failure, full_since) = (OnceLock::new(), Mutex::default());
        Member { membership, store, highest_serial, failure, clock, full_since }
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
            StoreError::NoSpace { needed, free } => {
                log::warn!("the store refused error={text}");
                if free >= needed {
                    *self.lock_full() = Some(self.clock.now());
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
        let now = self.clock.now();
        let is_full = self.lock_full().is_some_and(|since| now.since(since) < FULL_FOR);
        let reclaimable = space.trash() + space.dead;
        Space {
            offered_bytes: space.offered,
            // So that nodes with as much to keep are as full, however much they have yet to free.
            used_bytes: space.used.saturating_sub(reclaimable),
            free_bytes: if is_full { 0 } else { space.free },
            chunks: space.chunks,
            trash_bytes: space.trash(),
        }
    }

    /// Takes chunks out, as far as they are here: at once for readers, and for good once
    /// `wait_durable` returned.
    pub fn take_out(&self, serials: &[Serial], purge: bool) -> Result<Vec<Ticket>, StoreError> {
        let mut tickets = Vec::new();
        for serial in serials {
            tickets.extend(self.store.remove(*serial, purge)?);
        }
        Ok(tickets)
    }

    /// Brings chunks back from the trash, for good, as far as that goes.
    pub fn restore(&self, serials: &[Serial]) {
        let mut tickets = Vec::new();
        for serial in serials {
            match self.store.restore(*serial) {
                Ok(ticket) => tickets.extend(ticket),
                Err(error) => {
                    log::warn!("not restored serial={serial} error={}", with_causes(&error));
                }
            }
        }
        match self.wait_durable(&tickets) {
            Ok(()) => log::info!("restored from the trash chunks={}", tickets.len()),
            Err(error) => drop(self.fault(&error)),
        }
    }

    /// Waits once for all of these.
    pub fn wait_durable(&self, tickets: &[Ticket]) -> Result<(), StoreError> {
        tickets.iter().max().map_or(Ok(()), |last| self.store.wait_durable(*last))
    }

    fn lock_full(&self) -> MutexGuard<'_, Option<Moment>> {
        self.full_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
