//! The main server over real sockets, with nodes that the tests play.

mod adopting;
mod coming;
mod copying;
mod deleting;
mod explaining;
mod leaving;
mod metrics;
mod reading;
mod repairing;
mod sessions;
mod storing;
mod timekeeping;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::catalog::{ChunkRecord, MemoryCatalog};
use crate::clock::WallTime;
use crate::ids::*;
use crate::server::{ServerConnection, Service};
use crate::token::{Claims, Token};
use crate::wire::connection::Dialing;
use crate::wire::node_to_main::*;
use crate::wire::to_main::*;
use crate::wire::{
    CallError, Connection, Fault, FaultCode, Hello, HelloReply, List, Message, Outcome, Role,
};

const NOW: WallTime = WallTime(1_800_000_000_000);
const GIB: u64 = 1 << 30;
const LENGTH: u32 = 5;
/// So short that a heartbeat with no news costs a test nothing.
const SHORT: Duration = Duration::from_millis(20);
/// So long that an answer within it was not waited for.
const LONG: Duration = Duration::from_secs(600);

/// A main server under test. Its clock stands still until the test moves it.
struct Desk {
    server: MainServer,
    catalog: Arc<MemoryCatalog>,
    clock: Clock,
    key: Secret,
}

fn dialing() -> Dialing {
    Dialing { answer_timeout: Duration::from_secs(20), ..Dialing::default() }
}

fn id(number: u32) -> ChunkId {
    ChunkId::of(HashAlgorithm::Blake3, &number.to_be_bytes())
}

fn fault<T: std::fmt::Debug>(result: Result<T, CallError>) -> Fault {
    match result {
        Err(CallError::Fault(fault)) => fault,
        other => panic!("not a fault: {other:?}"),
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, CallError>) -> FaultCode {
    fault(result).code
}

fn ok<T>(outcome: &Outcome<T>) -> &T {
    match outcome {
        Outcome::Ok(value) => value,
        Outcome::Fault(fault) => panic!("a fault: {fault}"),
    }
}

fn code_of<T>(outcome: &Outcome<T>) -> Option<FaultCode> {
    match outcome {
        Outcome::Ok(_) => None,
        Outcome::Fault(fault) => Some(fault.code),
    }
}

/// Waits for what another thread is about to do.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        std::thread::yield_now();
    }
}

impl Desk {
    fn new(heartbeat: Duration) -> Desk {
        let key = Secret::random();
        let catalog = Arc::new(MemoryCatalog::new("admin", &key.fingerprint()));
        Desk::on(catalog, key, heartbeat)
    }

    /// A start of a main server on these books.
    fn on(catalog: Arc<MemoryCatalog>, key: Secret, heartbeat: Duration) -> Desk {
        Desk::with(catalog, key, Config { heartbeat, ..Config::default() })
    }

    fn with(catalog: Arc<MemoryCatalog>, key: Secret, config: Config) -> Desk {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let clock = Clock::manual(NOW);
        let server = MainServer::start(config, catalog.clone(), listener, clock.clone());
        Desk { server: server.expect("a start"), catalog, clock, key }
    }

    fn address(&self) -> Address {
        self.server.address().into()
    }

    fn dial(&self, hello: &Hello) -> Result<Connection, CallError> {
        Connection::open(&self.address(), &dialing(), hello)
    }

    fn client(&self) -> Connection {
        let hello = Hello { key: Some(self.key), ..Hello::new(Role::Client) };
        self.dial(&hello).expect("a good key")
    }

    fn invite(&self) -> Secret {
        let invite = Invite { uses: None, valid_s: None };
        self.client().call(&invite).expect("an admin's right").invite
    }

    /// A node that has joined and is alive.
    fn node(&self) -> FakeNode {
        let mut node = FakeNode::new(self);
        node.join(self.invite()).expect("joined");
        node.compare();
        node
    }

    fn state(&self, node: &FakeNode) -> String {
        let status = self.client().call(&Status::default()).expect("an admin's right");
        let of_node = status.nodes.iter().find(|status| status.node == node.id);
        of_node.expect("it has joined").state.clone()
    }

    fn allocate(&self, copies: u8, ids: &[ChunkId]) -> Result<AllocateReply, CallError> {
        // As if each came long after the one before: the tests want copies all over the nodes.
        *self.server.main.company() = Default::default();
        let chunks = ids.iter().map(|&id| AllocateChunk { id, length: LENGTH }).collect();
        self.client().call(&Allocate { copies, chunks })
    }

    /// The place that `allocate` names for one chunk.
    fn place(&self, copies: u8, id: ChunkId) -> Place {
        let reply = self.allocate(copies, &[id]).expect("a place");
        match ok(&reply.chunks[0]) {
            Allocated::Store(place) => place.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&self, path: &str, copies: u8, ids: &[ChunkId]) -> Outcome<CommittedFile> {
        let file = CommitFile {
            path: path.to_string(),
            chunks: Some(ids.to_vec().into()),
            upload: None,
            parts: None,
            copies,
            mtime_ms: 7,
            executable: true,
            if_version: None,
            parents: false,
        };
        let commit = Commit { request_id: RequestId::random(), files: vec![file].into() };
        let reply = self.client().call(&commit).expect("an answer");
        reply.files[0].clone()
    }

    fn record(&self, id: ChunkId) -> ChunkRecord {
        let located = self.catalog.locate(AccountId(1), &[id]).expect("a catalog");
        located[0].clone().expect("a record")
    }

    /// Stores a chunk as a client and its nodes would: on the one that is named, and on those that
    /// it is told to duplicate to.
    fn store(&self, copies: u8, id: ChunkId, nodes: &mut [FakeNode]) {
        let place = self.place(copies, id);
        let confirmed = node_of(nodes, place.node).stored(&place.token).expect("it counts");
        for target in confirmed.targets {
            node_of(nodes, target.node).stored(&target.token).expect("it counts");
        }
    }
}

fn node_of(nodes: &mut [FakeNode], id: NodeId) -> &mut FakeNode {
    nodes.iter_mut().find(|node| node.id == id).expect("one of them")
}

/// Answers `hello` where a node can be reached.
struct Doorman {
    reply: Mutex<HelloReply>,
}

impl Service for Doorman {
    fn serve(&self, connection: &mut ServerConnection) {
        while connection.next_request().is_some() {
            let reply = self.reply.lock().expect("no panic").clone();
            connection.reply(Ok(reply), &[]);
        }
    }
}

/// A node as far as the main server sees it. It holds nothing.
struct FakeNode {
    id: NodeId,
    secret: Secret,
    incarnation: Incarnation,
    main: Address,
    server: Server,
    doorman: Arc<Doorman>,
    control: Option<Connection>,
    confirmer: Option<Connection>,
    keys: Vec<TokenKey>,
    space: Space,
}

impl FakeNode {
    fn new(desk: &Desk) -> FakeNode {
        let incarnation = Incarnation::random();
        let reply = HelloReply {
            version: 1,
            agent: "a test".to_string(),
            cluster: None,
            node: None,
            incarnation: Some(incarnation),
            time: NOW,
        };
        let doorman = Arc::new(Doorman { reply: Mutex::new(reply) });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = Server::start(listener, Limits::default(), doorman.clone());
        FakeNode {
            id: NodeId(0),
            secret: Secret::random(),
            incarnation,
            main: desk.address(),
            server: server.expect("a server"),
            doorman,
            control: None,
            confirmer: None,
            keys: Vec::new(),
            space: Space { offered_bytes: GIB, free_bytes: GIB, ..Space::default() },
        }
    }

    /// Says hello as the node that it is, on a new connection.
    fn dial(&self) -> Connection {
        let (node, secret) = (Some(self.id), Some(self.secret));
        let hello = Hello { node, secret, ..Hello::new(Role::Node) };
        Connection::open(&self.main, &dialing(), &hello).expect("a known node")
    }

    /// The same, as a connection of this number by which it tells of its copies.
    fn dial_as(&self, dial: u64) -> Connection {
        let (node, secret, dial) = (Some(self.id), Some(self.secret), Some(dial));
        let hello = Hello { node, secret, dial, ..Hello::new(Role::Node) };
        Connection::open(&self.main, &dialing(), &hello).expect("a known node")
    }

    fn control(&mut self) -> &mut Connection {
        self.control.as_mut().expect("it was added")
    }

    fn add_me(&self) -> AddMe {
        AddMe {
            invite: None,
            secret: self.secret,
            previous: Vec::new(),
            incarnation: self.incarnation,
            address: self.server.address().into(),
            zone: String::new(),
            space: self.space,
            highest_serial: None,
            cluster: None,
            main_incarnation: None,
            main_mark: None,
            time: None,
        }
    }

    fn join(&mut self, invite: Secret) -> Result<AddMeReply, CallError> {
        let hello = Hello::new(Role::Node);
        let connection = Connection::open(&self.main, &dialing(), &hello).expect("anybody may");
        let request = AddMe { invite: Some(invite), ..self.add_me() };
        self.add(connection, &request)
    }

    fn add(
        &mut self,
        mut connection: Connection,
        request: &AddMe,
    ) -> Result<AddMeReply, CallError> {
        let reply = connection.call(request)?;
        self.id = reply.node;
        self.keys.extend(reply.keys.iter().cloned());
        (self.control, self.confirmer) = (Some(connection), None);
        Ok(reply)
    }

    /// A start of the same directory in a new process, up to its `add_me`.
    fn restart(&mut self) -> Result<AddMeReply, CallError> {
        let previous = vec![self.incarnation];
        self.control = None;
        self.incarnation = Incarnation::random();
        self.doorman.reply.lock().expect("no panic").incarnation = Some(self.incarnation);
        let request = AddMe { previous, ..self.add_me() };
        self.add(self.dial(), &request)
    }

    /// Goes through the inventory of a node that holds nothing, as far as the books say otherwise.
    fn compare(&mut self) -> u64 {
        let (mut from, to) = (0, (1 << 41) - 1);
        let mut lost = 0;
        loop {
            let request = Inventory { from, to, buckets: List::default() };
            let reply = self.control().call(&request).expect("compared");
            for bucket in reply.differ {
                let request = Holdings { bucket, held: List::default() };
                lost += self.control().call(&request).expect("reconciled").lost;
            }
            match reply.next {
                Some(next) => from = next,
                None => break,
            }
        }
        self.control().call(&Compared {}).expect("alive");
        lost
    }

    /// Goes through the inventory as one that holds all that the books say.
    fn come_back(&mut self, desk: &Desk) {
        let copies = desk.catalog.copies_on(self.id, Serial(0), Serial(u64::MAX), 1 << 20);
        let held = copies.expect("a catalog").into_iter().map(|copy| HeldChunk {
            serial: copy.serial,
            length: copy.length,
            fingerprint: copy.fingerprint,
            trashed: false,
        });
        self.tell_holdings(held.collect());
    }

    /// Says that it holds these, each of `LENGTH` bytes, and nothing else in their buckets.
    fn compare_holding(&mut self, held: &[(Serial, ChunkId)]) {
        let held = held.iter().map(|(serial, id)| HeldChunk {
            serial: *serial,
            length: LENGTH,
            fingerprint: crate::policy::inventory::fingerprint(id),
            trashed: false,
        });
        self.tell_holdings(held.collect());
    }

    fn tell_holdings(&mut self, held: Vec<HeldChunk>) {
        let mut buckets: BTreeMap<u64, Vec<HeldChunk>> = BTreeMap::new();
        for chunk in held {
            let bucket = crate::policy::inventory::bucket_of(chunk.serial);
            buckets.entry(bucket).or_default().push(chunk);
        }
        for (bucket, held) in buckets {
            let request = Holdings { bucket, held: held.into() };
            self.control().call(&request).expect("reconciled");
        }
        self.control().call(&Compared {}).expect("alive");
    }

    fn beat(&self) -> Heartbeat {
        Heartbeat {
            incarnation: self.incarnation,
            space: self.space,
            transfers: 0,
            received_bytes: 0,
            newest_key: self.keys.last().map(|key| key.id),
            acknowledged: List::default(),
            failed: None,
            damaged_copies: 0,
            scrub: Default::default(),
            unadopted: false,
            time: None,
            oldest_dial: 0,
        }
    }

    fn heartbeat(&mut self) -> HeartbeatReply {
        let beat = self.beat();
        self.control().call(&beat).expect("a node at work")
    }

    fn acknowledge(&mut self, order: u64) -> HeartbeatReply {
        let beat = Heartbeat { acknowledged: vec![order].into(), ..self.beat() };
        self.control().call(&beat).expect("a node at work")
    }

    fn confirmer(&mut self) -> &mut Connection {
        if self.confirmer.is_none() {
            self.confirmer = Some(self.dial());
        }
        self.confirmer.as_mut().expect("it was just dialled")
    }

    /// Says that the copy with this token is durable here.
    fn stored(&mut self, token: &Token) -> Result<Confirmed, Fault> {
        let request = Stored { tokens: vec![token.clone()].into() };
        let reply = self.confirmer().call(&request).expect("an answer");
        reply.chunks[0].clone().into()
    }

    /// Says that these targets failed for the chunk that came with this token.
    fn failed(&mut self, token: &Token, nodes: &[NodeId]) -> Vec<Target> {
        let why = || "it broke".to_string();
        let failed = nodes.iter().map(|&node| FailedTarget { node, why: why() }).collect();
        let chunk = DuplicatedChunk { token: token.clone(), done: Vec::new(), failed };
        let request = Duplicated { chunks: vec![chunk].into() };
        let reply = self.confirmer().call(&request).expect("an answer");
        ok(&reply.chunks[0]).targets.clone()
    }

    /// What a token for this node says, checked as a node does.
    fn claims(&self, token: &Token) -> Claims {
        let key_of = |id| self.keys.iter().find(|key| key.id == id).map(|key| key.key);
        token.check(self.id, key_of, |_| true, NOW).expect("a token for this node")
    }
}
