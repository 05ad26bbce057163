//! The nodes of the cluster, behind one lock that is never held across a socket or a disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::node::{Control, Given, Node};
use super::room::TOKEN_LIFE;
use super::view::View;
use crate::catalog::{LiveNodes, NodeRecord, Standing};
use crate::clock::{Clock, Moment, WallTime};
use crate::ids::{Address, Incarnation, KeyId, NodeId, Secret};
use crate::policy::liveness::{State, Stop};
use crate::policy::placement::Candidate;
use crate::token::{Claims, Operation, Token, TokenError, node_key};
use crate::wire::node_to_main::{AddMe, Heartbeat, Space, TokenKey};

/// Why a node's request cannot be served as things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotWorking {
    #[error("no node {0} has joined this cluster")]
    Unknown(NodeId),
    /// It must say `add_me` to this start of the main server first.
    #[error("node {0} was not added since the main server's start")]
    NotAdded(NodeId),
    /// The connection is of an earlier start of the node, or of a copy of its directory.
    #[error("node {0} has started anew since this connection said hello")]
    Outdated(NodeId),
    #[error("node {0} was struck off: its copies count no more, and it cannot come back")]
    Left(NodeId),
}

/// What a heartbeat brought.
#[derive(Debug, Default)]
pub struct Beat {
    /// Orders that the node acknowledged. Removals stay with it until they are noted.
    pub closed: Vec<Given>,
    /// The node can do more than before: it counts again, or has more room.
    pub is_good_news: bool,
}

/// What is needed of a node to send somebody there.
#[derive(Debug, Clone)]
pub struct Reach {
    pub state: State,
    pub address: Address,
    pub transfers: u32,
    key: (KeyId, Secret),
}

/// The nodes.
pub struct Nodes {
    clock: Clock,
    heartbeat: Duration,
    master: Secret,
    table: Mutex<Table>,
}

/// The table of all nodes, by number.
#[derive(Default)]
pub struct Table {
    pub nodes: BTreeMap<NodeId, Node>,
    zones: HashMap<String, u32>,
}

impl Table {
    fn zone_number(&mut self, zone: &str) -> u32 {
        let next = self.zones.len() as u32;
        *self.zones.entry(zone.to_string()).or_insert(next)
    }
}

impl Nodes {
    /// The nodes that the catalog knows. None of them was heard yet.
    pub fn new(
        clock: Clock,
        heartbeat: Duration,
        master: Secret,
        records: Vec<NodeRecord>,
    ) -> Nodes {
        let nodes = Nodes { clock, heartbeat, master, table: Mutex::default() };
        records.into_iter().for_each(|record| nodes.insert(record));
        nodes
    }

    /// Takes in a node that has just joined, unless it is known.
    pub fn insert(&self, record: NodeRecord) {
        let now = self.clock.now();
        let mut table = self.lock();
        let zone = table.zone_number(&record.zone);
        table.nodes.entry(record.id).or_insert_with(|| Node::new(record, zone, now));
    }

    /// The table holds no invariant across its lock that a panic could break.
    pub fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a heartbeat is held back: longer in a large cluster, where they are many.
    pub fn interval(&self) -> Duration {
        self.interval_for(self.lock().nodes.len())
    }

    fn interval_for(&self, nodes: usize) -> Duration {
        self.heartbeat.max(Duration::from_millis(nodes as u64 / 2))
    }

    /// The incarnation that is registered for the node, if this is its secret; compared in constant
    /// time.
    pub fn authenticate(&self, node: NodeId, secret: &Secret) -> Option<Option<Incarnation>> {
        let table = self.lock();
        let node = table.nodes.get(&node)?;
        let is_its = node.secret_fingerprint.ct_eq(&secret.fingerprint());
        bool::from(is_its).then_some(node.incarnation)
    }

    /// Fails unless the node works for this main server, and started last as `incarnation`.
    pub fn check_working(
        &self,
        node: NodeId,
        incarnation: Option<Incarnation>,
    ) -> Result<(), NotWorking> {
        let table = self.lock();
        let known = table.nodes.get(&node).ok_or(NotWorking::Unknown(node))?;
        if known.has_left() {
            return Err(NotWorking::Left(node));
        }
        if known.incarnation != incarnation {
            return Err(NotWorking::Outdated(node));
        }
        if known.is_added { Ok(()) } else { Err(NotWorking::NotAdded(node)) }
    }

    /// What the node says is taken in while this is held to read; its heartbeats and starts hold it to
    /// write when they end that for other connections. Before the table is locked, never while it is.
    pub fn oldest_dial(&self, node: NodeId) -> Arc<RwLock<u64>> {
        self.lock().nodes.get(&node).map(|node| node.oldest_dial.clone()).unwrap_or_default()
    }

    /// True when the session is the node's control connection.
    pub fn is_control(&self, node: NodeId, session: u64) -> bool {
        self.lock().nodes.get(&node).is_some_and(|node| node.is_controlled_by(session))
    }

    /// True for a node that was struck off.
    pub fn has_left(&self, node: NodeId) -> bool {
        self.lock().nodes.get(&node).is_some_and(Node::has_left)
    }

    /// What was decided about the node, as the catalog has it now. One that is struck off has its
    /// connections end, and the orders that it had come back.
    pub fn set_standing(&self, node: NodeId, standing: Standing) -> Vec<Given> {
        let mut table = self.lock();
        let Some(node) = table.nodes.get_mut(&node) else { return Vec::new() };
        node.standing = standing;
        if !node.has_left() {
            return Vec::new();
        }
        node.signs.connected = false;
        if let Some(control) = node.control.take() {
            control.bell.ring();
        }
        std::mem::take(&mut node.orders).into_values().collect()
    }

    /// What was decided about the node; `None` for one that never joined.
    pub fn standing(&self, node: NodeId) -> Option<Standing> {
        Some(self.lock().nodes.get(&node)?.standing)
    }

    /// The node has started, as registered in the catalog. Its copies count once they are compared.
    /// One that has not adopted this main server deletes nothing, and keeps its journal as it is.
    pub fn start(&self, node: NodeId, control: Control, start: &AddMe, is_adopted: bool) {
        let now = self.clock.now();
        // What an earlier start has said is taken in before, or never.
        let oldest_dial = self.oldest_dial(node);
        let mut oldest_dial = oldest_dial.write().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.lock();
        let zone_number = table.zone_number(&start.zone);
        let Some(node) = table.nodes.get_mut(&node) else { return };
        if node.incarnation.replace(start.incarnation) != Some(start.incarnation) {
            *oldest_dial = 0;
        }
        node.address = Some(start.address.clone());
        (node.zone, node.zone_number) = (start.zone.clone(), zone_number);
        (node.is_added, node.is_unadopted) = (true, !is_adopted);
        node.its_time = start.time.map(|time| (time, now)).or(node.its_time);
        node.signs.start(now);
        node.failure = None;
        node.granted_key = node.keys.announced().last().copied();
        node.room.report(start.space);
        node.take_control(control, now);
    }

    /// True for a node that does not obey this main server in deleting.
    pub fn is_unadopted(&self, node: NodeId) -> bool {
        self.lock().nodes.get(&node).is_some_and(|node| node.is_unadopted)
    }

    /// A heartbeat has come.
    pub fn beat(
        &self,
        node: NodeId,
        control: Control,
        beat: &Heartbeat,
    ) -> Result<Beat, NotWorking> {
        let now = self.clock.now();
        let oldest_dial = self.oldest_dial(node);
        let is_new = *oldest_dial.read().unwrap_or_else(PoisonError::into_inner) < beat.oldest_dial
            || !self.is_control(node, control.session);
        // Before anything that it says was acknowledged is noted.
        let changed = is_new.then(|| oldest_dial.write().unwrap_or_else(PoisonError::into_inner));
        let mut table = self.lock();
        let interval = self.interval_for(table.nodes.len());
        let node = table.nodes.get_mut(&node).ok_or(NotWorking::Unknown(node))?;
        if node.has_left() {
            return Err(NotWorking::Left(node.id));
        }
        if node.incarnation != Some(beat.incarnation) {
            return Err(NotWorking::Outdated(node.id));
        }
        if !node.is_added {
            return Err(NotWorking::NotAdded(node.id));
        }
        if let Some(mut oldest_dial) = changed {
            *oldest_dial = beat.oldest_dial.max(*oldest_dial);
        }
        let before = node.state(interval, now);
        node.take_control(control, now);
        let has_room = node.report(beat, now);
        node.keys.renew(now);
        let closed = beat.acknowledged.iter().filter_map(|order| node.close_order(*order));
        let closed: Vec<Given> = closed.collect();
        if !closed.is_empty() {
            node.progress = now;
        }
        let after = node.state(interval, now);
        let is_back = after == State::Alive && before != State::Alive;
        Ok(Beat { closed, is_good_news: is_back || has_room && after == State::Alive })
    }

    /// This start of the node speaks on a connection of this number: it has given up those before, and
    /// what lies unread on them is not heard any more.
    pub fn heard_on(&self, node: NodeId, incarnation: Option<Incarnation>, dial: u64) {
        let oldest_dial = self.oldest_dial(node);
        if *oldest_dial.read().unwrap_or_else(PoisonError::into_inner) >= dial {
            return;
        }
        let mut oldest_dial = oldest_dial.write().unwrap_or_else(PoisonError::into_inner);
        // A later start counts from the beginning.
        if self.check_working(node, incarnation).is_ok() {
            *oldest_dial = dial.max(*oldest_dial);
        }
    }

    /// The node was heard on its control connection.
    pub fn heard(&self, node: NodeId, session: u64) {
        let now = self.clock.now();
        if let Some(node) = self.lock().nodes.get_mut(&node)
            && node.is_controlled_by(session)
        {
            node.signs.heard = now;
        }
    }

    /// The newest key that the node got with the answer to its last `add_me`.
    pub fn granted_key(&self, node: NodeId) -> Option<KeyId> {
        self.lock().nodes.get(&node)?.granted_key
    }

    /// Copies count on the node from now on of which the books did not know.
    pub fn found(&self, node: NodeId) {
        if let Some(node) = self.lock().nodes.get_mut(&node) {
            node.has_found = true;
        }
    }

    /// The comparison of what the node holds is over. True when copies were found in it.
    pub fn compared(&self, node: NodeId) -> bool {
        let mut table = self.lock();
        let Some(node) = table.nodes.get_mut(&node) else { return false };
        node.signs.compared = true;
        std::mem::take(&mut node.has_found)
    }

    /// The node goes, by its own word, and is waited for until `back_by`.
    pub fn stopped(&self, node: NodeId, back_by: Moment) {
        if let Some(node) = self.lock().nodes.get_mut(&node) {
            node.signs.stopped = Some(Stop { back_by, is_back: false });
        }
    }

    /// What the node said of its space last.
    pub fn space(&self, node: NodeId) -> Option<Space> {
        Some(self.lock().nodes.get(&node)?.room.reported())
    }

    /// The nodes that have not left, as they stand now.
    pub fn view(&self, is_patient: bool) -> View {
        let now = self.clock.now();
        let table = self.lock();
        let interval = self.interval_for(table.nodes.len());
        let there = table.nodes.values().filter(|node| !node.has_left());
        let presence =
            |node: &Node| node.state(interval, now).presence(node.standing == Standing::Draining);
        View::new(there.map(|node| (node.id, presence(node))), is_patient)
    }

    /// The nodes that cannot store any more, with the reasons that they gave.
    pub fn failures(&self) -> Vec<(NodeId, String)> {
        let table = self.lock();
        let there = table.nodes.values().filter(|node| !node.has_left());
        there.filter_map(|node| Some((node.id, node.failure.clone()?))).collect()
    }

    /// The nodes that should be there.
    pub fn expected(&self) -> Vec<NodeId> {
        let table = self.lock();
        let members = table.nodes.values().filter(|node| node.standing == Standing::Member);
        members.map(|node| node.id).collect()
    }

    /// The nodes that were struck off.
    pub fn left(&self) -> Vec<NodeId> {
        let table = self.lock();
        table.nodes.values().filter(|node| node.has_left()).map(|node| node.id).collect()
    }

    /// A session is over. True when it was the node's control connection: it is suspect now.
    pub fn session_over(&self, node: NodeId, session: u64) -> bool {
        let mut table = self.lock();
        let Some(node) = table.nodes.get_mut(&node) else { return false };
        let was_control = node.is_controlled_by(session);
        if was_control {
            node.control = None;
            node.signs.connected = false;
        }
        was_control
    }

    /// True when the acknowledgement of this key is not in the catalog yet.
    pub fn is_new_key(&self, node: NodeId, key: KeyId) -> bool {
        self.lock().nodes.get(&node).is_some_and(|node| node.keys.is_news(key))
    }

    /// The node has this key, and the catalog knows it.
    pub fn acknowledge_key(&self, node: NodeId, key: KeyId) {
        if let Some(node) = self.lock().nodes.get_mut(&node) {
            node.keys.acknowledge(key);
        }
    }

    /// The keys that a node needs, of which `newest` is the newest that it has; none when it has
    /// all.
    pub fn keys_for(&self, node: NodeId, newest: Option<KeyId>) -> Vec<TokenKey> {
        let announced = match self.lock().nodes.get(&node) {
            Some(node) if node.keys.lacks(newest) => node.keys.announced(),
            Some(_) | None => Vec::new(),
        };
        let key = |id| TokenKey { id, key: node_key(&self.master, node, id) };
        announced.into_iter().map(key).collect()
    }

    /// The claims of a token that was made for this node, whenever that was.
    pub fn check_proof(&self, node: NodeId, token: &Token) -> Result<Claims, TokenError> {
        let keys = self.lock().nodes.get(&node).map(|node| node.keys).ok_or(TokenError::Denied)?;
        token.check_proof(node, |key| keys.is_known(key).then(|| node_key(&self.master, node, key)))
    }

    /// The nodes whose copies count now.
    pub fn live(&self) -> LiveNodes {
        let now = self.clock.now();
        let table = self.lock();
        let interval = self.interval_for(table.nodes.len());
        let is_live = |node: &&Node| node.state(interval, now) == State::Alive && !node.has_left();
        table.nodes.values().filter(is_live).map(|node| node.id).collect()
    }

    /// All nodes, as placement sees them.
    pub fn candidates(&self) -> Vec<Candidate> {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let table = self.lock();
        let interval = self.interval_for(table.nodes.len());
        let known = table.nodes.values().filter(|node| !node.has_left());
        known.map(|node| node.candidate(interval, now, wall)).collect()
    }

    /// How to reach a node; `None` for one that is gone or cannot be reached with a token.
    pub fn reach(&self, node: NodeId) -> Option<Reach> {
        let now = self.clock.now();
        let table = self.lock();
        let interval = self.interval_for(table.nodes.len());
        let known = table.nodes.get(&node)?;
        let (state, address) = (known.state(interval, now), known.address.clone()?);
        let (key, transfers) = (known.keys.minting()?, known.transfers);
        let has_left = known.has_left();
        drop(table);
        let key = (key, node_key(&self.master, node, key));
        (state != State::Stopped && !has_left).then_some(Reach { state, address, transfers, key })
    }

    /// Promises room on a node to the bearer of a token.
    pub fn promise(&self, node: NodeId, bytes: u32, expires: WallTime) {
        let now = self.clock.wall();
        if let Some(node) = self.lock().nodes.get_mut(&node) {
            node.room.promise(u64::from(bytes), expires, now);
        }
    }

    /// Chunks that were promised room on the node are stored there.
    pub fn redeem<'a>(&self, node: NodeId, stored: impl Iterator<Item = &'a Claims>) {
        if let Some(node) = self.lock().nodes.get_mut(&node) {
            stored.for_each(|claims| node.room.redeem(u64::from(claims.length), claims.expires));
        }
    }

    /// A copy of so many bytes is to be deleted on the node.
    pub fn condemn(&self, node: NodeId, bytes: u64) {
        let now = self.clock.now();
        if let Some(node) = self.lock().nodes.get_mut(&node) {
            node.room.condemn(bytes, now);
        }
    }

    /// When tokens that are made now expire.
    pub fn expiry(&self) -> WallTime {
        self.clock.wall() + TOKEN_LIFE
    }

    /// Notes each node's state, and returns those that changed since the last time, with what they
    /// were; and when silence alone will change one next.
    pub fn note_states(&self, now: Moment) -> (Vec<(NodeId, State, State)>, Option<Moment>) {
        let mut table = self.lock();
        let interval = self.interval_for(table.nodes.len());
        let mut changes = Vec::new();
        let mut next: Option<Moment> = None;
        for node in table.nodes.values_mut().filter(|node| !node.has_left()) {
            let state = node.state(interval, now);
            if state != node.logged {
                changes.push((node.id, node.logged, state));
                node.logged = state;
            }
            let change = node.signs.next_change(interval, now);
            next = next.into_iter().chain(change).min();
        }
        (changes, next)
    }
}

impl Reach {
    /// Makes a token for this node out of claims that are right but for the key.
    pub fn mint(&self, mut claims: Claims) -> Token {
        claims.key = self.key.0;
        claims.mint(&self.key.1)
    }
}

/// The claims of a token for one copy of a chunk, without the key.
pub fn claims(
    operation: Operation,
    record: &crate::catalog::ChunkRecord,
    copy: crate::catalog::Copy,
    expires: WallTime,
) -> Claims {
    Claims {
        key: KeyId(0),
        operation,
        node: copy.node,
        id: record.id,
        serial: record.serial,
        length: record.length,
        account: record.account,
        wanted: record.wanted,
        reason: copy.reason,
        expires,
    }
}
