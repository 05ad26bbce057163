//! A main server that keeps its books in a struct, says what it was told on a channel, and behaves
//! as a test wants it to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::clock::WallTime;
use crate::ids::{Address, ChunkId, HashAlgorithm, NodeId, Secret, Serial};
use crate::policy::inventory::{bucket_of, digest};
use crate::server::{Limits, Server, ServerConnection, Service};
use crate::token::{Claims, Operation, Token};
use crate::wire::connection::Dialing;
use crate::wire::node_to_main::*;
use crate::wire::to_main::{Done, ToMain};
use crate::wire::{Connection, Fault, FaultCode, Hello, HelloReply, Outcome, Role};

pub use super::books::{Books, KnownNode, TIME, Told};

/// How long a test waits for what must come before it fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct FakeMain {
    pub address: Address,
    pub told: Receiver<Told>,
    pub invite: Secret,
    server: Server,
    shared: Arc<Shared>,
}

struct Shared {
    books: Mutex<Books>,
    changed: Condvar,
    told: Sender<Told>,
}

impl FakeMain {
    pub fn start() -> FakeMain {
        FakeMain::with(Books::new(), SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// A main server with these books, at this address.
    pub fn with(books: Books, address: SocketAddr) -> FakeMain {
        let listener = TcpListener::bind(address).unwrap();
        let (told, hears) = unbounded();
        let invite = books.invite;
        let shared = Shared { books: Mutex::new(books), changed: Condvar::new(), told };
        let shared = Arc::new(shared);
        let limits = Limits { stop_grace: Duration::from_secs(1), ..Limits::default() };
        let server =
            Server::start(listener, limits, Arc::new(FakeService(shared.clone()))).unwrap();
        FakeMain { address: server.address().into(), told: hears, invite, server, shared }
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books.lock().unwrap()
    }

    /// Lets heartbeats that are held back see what changed in the books.
    pub fn announce(&self, change: impl FnOnce(&mut Books)) {
        change(&mut self.books());
        self.shared.changed.notify_all();
    }

    /// Stops; what is left are its books and where it was.
    pub fn stop(mut self) -> (Books, SocketAddr) {
        self.announce(|books| books.stopping = true);
        self.server.stop();
        let mut books = self.books().clone();
        books.stopping = false;
        (books, self.server.address())
    }

    /// Waits until it was told this.
    pub fn await_told(&self, what: impl Fn(&Told) -> bool) -> Told {
        loop {
            let told = self.told.recv_timeout(DEADLINE).expect("it is told in time");
            if what(&told) {
                return told;
            }
        }
    }

    /// Waits until all orders were acknowledged.
    pub fn await_obeyed(&self) {
        while !self.books().orders.is_empty() {
            self.await_told(|told| matches!(told, Told::Acknowledged { .. }));
        }
    }

    /// What it was told up to now and nobody waited for.
    pub fn told_so_far(&self) -> Vec<Told> {
        self.told.try_iter().collect()
    }

    pub fn token(&self, operation: Operation, node: NodeId, serial: u64, bytes: &[u8]) -> Token {
        let id = ChunkId::of(HashAlgorithm::Blake3, bytes);
        let books = self.books();
        let claims = books.claims(operation, node, id, serial);
        books.mint(&Claims { length: bytes.len() as u32, ..claims })
    }

    pub fn held(&self, node: NodeId) -> BTreeSet<Serial> {
        let books = self.books();
        books.copies.get(&node).map(|held| held.keys().copied().collect()).unwrap_or_default()
    }
}

impl Drop for FakeMain {
    fn drop(&mut self) {
        self.announce(|books| books.stopping = true);
    }
}

struct FakeService(Arc<Shared>);

impl Service for FakeService {
    fn serve(&self, connection: &mut ServerConnection) {
        let mut node = None;
        let mut is_control = false;
        while connection.next_request().is_some() {
            let request = ToMain::parse(connection.request_json());
            if !matches!(request, Ok(ToMain::Hello(_))) {
                self.hang();
            }
            is_control |= matches!(request, Ok(ToMain::Heartbeat(_)));
            let is_open = match request {
                Ok(ToMain::Hello(hello)) => {
                    let reply = self.hello(&hello);
                    node = hello.node;
                    connection.take_place(true);
                    connection.reply(reply, &[])
                }
                Ok(ToMain::AddMe(request)) => {
                    let reply = self.add_me(node, &request);
                    if let Ok(reply) = &reply {
                        node = Some(reply.node);
                    }
                    if std::mem::take(&mut self.0.books.lock().unwrap().lose_add_me_reply) {
                        return;
                    }
                    connection.reply(reply, &[])
                }
                Ok(request) => match node {
                    Some(node) => self.answer(connection, node, request),
                    None => connection.reply::<()>(Err(denied()), &[]),
                },
                Err(error) => connection.reply::<()>(Err(error.into()), &[]),
            };
            if !is_open {
                break;
            }
        }
        if let Some(node) = node.filter(|_| is_control) {
            self.tell(Told::ControlEnded { node });
        }
    }
}

fn denied() -> Fault {
    Fault::new(FaultCode::Denied, "denied")
}

impl FakeService {
    /// Waits for as long as nothing is to be answered.
    fn hang(&self) {
        let hangs = |books: &mut Books| books.hangs && !books.stopping;
        drop(self.0.changed.wait_while(self.books(), hangs).unwrap());
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.books.lock().unwrap()
    }

    fn tell(&self, told: Told) {
        // The test may be over.
        let _ = self.0.told.send(told);
    }

    fn hello(&self, hello: &Hello) -> Result<HelloReply, Fault> {
        let mut books = self.books();
        books.dials.extend(hello.dial);
        if let Some(node) = hello.node {
            let is_known = books.nodes.get(&node).is_some_and(|n| Some(n.secret) == hello.secret);
            if !is_known {
                return Err(denied());
            }
            if books.left.contains(&node) {
                return Err(Fault::new(FaultCode::Left, "struck off"));
            }
        }
        Ok(HelloReply {
            version: hello.agree()?,
            agent: "fake".to_string(),
            cluster: Some(books.cluster),
            node: None,
            incarnation: Some(books.incarnation),
            time: TIME,
        })
    }

    fn add_me(&self, node: Option<NodeId>, request: &AddMe) -> Result<AddMeReply, Fault> {
        let dialled =
            Connection::open(&request.address, &Dialing::default(), &Hello::new(Role::Main))
                .map_err(|e| Fault::new(FaultCode::Unreachable, e.to_string()))?;
        assert_eq!(dialled.hello().incarnation, Some(request.incarnation));
        let (previous, mark) = (request.previous.len(), request.main_mark);
        self.tell(Told::Tried { previous, mark });
        let mut books = self.books();
        if let Some(fault) = books.add_me_fault.take() {
            return Err(fault);
        }
        let by_secret = books.nodes.iter().find(|(_, n)| n.secret == request.secret);
        let number = match (node.or(by_secret.map(|(node, _)| *node)), request.invite) {
            (Some(node), _) => node,
            (None, Some(invite)) if invite == books.invite => NodeId(books.nodes.len() as u32 + 1),
            (None, _) => return Err(denied()),
        };
        if let Some(known) = books.nodes.get(&number) {
            let last = known.incarnation;
            if last != request.incarnation && !request.previous.contains(&last) {
                return Err(Fault::new(FaultCode::StaleDirectory, "stale"));
            }
        }
        let (secret, incarnation) = (request.secret, request.incarnation);
        let known = KnownNode { secret, incarnation, address: request.address.clone() };
        books.nodes.insert(number, known);
        self.tell(Told::AddMe { node: number });
        self.tell_time(number, request.time);
        Ok(AddMeReply {
            cluster: books.cluster,
            node: number,
            incarnation: books.incarnation,
            is_adopted: books.is_adopted,
            mark: books.mark,
            time: TIME,
            keys: vec![books.key_of(number, books.key)],
            interval_ms: 60_000,
        })
    }

    fn answer(&self, connection: &mut ServerConnection, node: NodeId, request: ToMain) -> bool {
        match request {
            ToMain::Heartbeat(request) => connection.reply(self.heartbeat(node, request), &[]),
            ToMain::Stored(request) => connection.reply(self.stored(node, request), &[]),
            ToMain::Duplicated(request) => {
                connection.reply(Ok(self.duplicated(node, request)), &[])
            }
            ToMain::Lost(Lost { serials }) => {
                let serials = serials.into_vec();
                for serial in &serials {
                    self.books().copies.entry(node).or_default().remove(serial);
                }
                self.tell(Told::Lost { node, serials });
                connection.reply(Ok(Done {}), &[])
            }
            ToMain::Inventory(request) => connection.reply(Ok(self.inventory(node, &request)), &[]),
            ToMain::Holdings(request) => connection.reply(Ok(self.holdings(node, request)), &[]),
            ToMain::Compared(_) => {
                let mut books = self.books();
                books.comparisons += 1;
                self.tell(Told::Compared { node });
                let hangs = |books: &mut Books| books.compared_hangs && !books.stopping;
                drop(self.0.changed.wait_while(books, hangs).unwrap());
                connection.reply(Ok(Done {}), &[])
            }
            ToMain::DropMe(request) => connection.reply(self.drop_me(node, request), &[]),
            other => panic!("a node asked for {other:?}"),
        }
    }

    fn drop_me(&self, node: NodeId, request: DropMe) -> Result<DropMeReply, Fault> {
        let DropMe { back_in_s, leave, force } = request;
        if !leave {
            self.tell(Told::DropMe { node, back_in_s });
            return Ok(DropMeReply::default());
        }
        self.tell(Told::Leave { node, force });
        let mut books = self.books();
        let reply = books.leaving.clone()?;
        if reply.left {
            books.left.insert(node);
        }
        Ok(reply)
    }

    fn tell_time(&self, node: NodeId, time: Option<WallTime>) {
        if let Some(time) = time {
            self.tell(Told::Time { node, time });
        }
    }

    fn heartbeat(&self, node: NodeId, request: Heartbeat) -> Result<HeartbeatReply, Fault> {
        self.tell_time(node, request.time);
        if request.unadopted {
            self.tell(Told::Unadopted { node });
        }
        let Heartbeat { space, damaged_copies: damaged, scrub, .. } = request;
        self.tell(Told::Beat { node, space, damaged, scrub });
        let orders = request.acknowledged.into_vec();
        self.tell(Told::Received { node, bytes: request.received_bytes });
        if let Some(key) = request.newest_key {
            self.tell(Told::Key { node, key });
        }
        if request.failed.is_some() {
            self.tell(Told::Failed { node });
        }
        let mut books = self.books();
        books.oldest_dial = books.oldest_dial.max(request.oldest_dial);
        books.orders.retain(|(to, order)| *to != node || !orders.contains(&order.order));
        if !orders.is_empty() {
            self.tell(Told::Acknowledged { node, orders });
        }
        let interval = Duration::from_secs(60);
        let number = {
            let beats = books.beats.entry(node).or_default();
            *beats += 1;
            *beats
        };
        self.0.changed.notify_all();
        let nothing = |books: &mut Books| {
            let has_orders = books.orders.iter().any(|(to, _)| *to == node);
            !has_orders
                && books.announce.is_empty()
                && books.heartbeat_fault.is_none()
                && !books.left.contains(&node)
                && books.beats[&node] == number
                && !books.stopping
        };
        let waited = self.0.changed.wait_timeout_while(books, interval, nothing);
        let mut books = waited.unwrap().0;
        if books.beats[&node] != number {
            return Err(denied());
        }
        if books.left.contains(&node) {
            return Err(Fault::new(FaultCode::Left, "struck off"));
        }
        if let Some(fault) = books.heartbeat_fault.take() {
            return Err(fault);
        }
        let announced = std::mem::take(&mut books.announce);
        let own = books.orders.iter().filter(|(to, _)| *to == node);
        Ok(HeartbeatReply {
            incarnation: books.incarnation,
            mark: books.mark,
            time: TIME,
            // What was ordered comes again soon.
            interval_ms: 100,
            keys: announced.iter().map(|id| books.key_of(node, *id)).collect(),
            orders: own.map(|(_, order)| order.clone()).collect(),
            nodes: books.addresses(),
            journal: None,
        })
    }

    /// The proof holds for the node that shows it.
    fn proven(books: &Books, node: NodeId, token: &Token) -> Claims {
        let key = |id| Some(books.key_of(node, id).key);
        token.check_proof(node, key).expect("a node shows tokens that are its own")
    }

    fn stored(&self, node: NodeId, request: Stored) -> Result<StoredReply, Fault> {
        let mut books = self.books();
        if books.stored_hangs {
            self.tell(Told::PutOff);
            let hangs = |books: &mut Books| books.stored_hangs && !books.stopping;
            books = self.0.changed.wait_while(books, hangs).unwrap();
        }
        if let Some(fault) = books.stored_fault.clone() {
            self.tell(Told::PutOff);
            return Err(fault);
        }
        let mut chunks = Vec::new();
        for token in request.tokens.iter() {
            let claims = FakeService::proven(&books, node, token);
            let fingerprint = crate::segments::fingerprint(&claims.id);
            let copy = (claims.length, fingerprint);
            books.copies.entry(node).or_default().insert(claims.serial, copy);
            let nodes = match claims.operation {
                Operation::Store => books.targets.get(&claims.id).cloned().unwrap_or_default(),
                Operation::Duplicate => Vec::new(),
                Operation::Fetch | Operation::Remove => panic!("it stores nothing"),
            };
            let targets = books.targets(&claims, &nodes);
            chunks.push(Outcome::Ok(Confirmed { targets }));
            self.tell(Told::Stored { node, serial: claims.serial });
        }
        Ok(StoredReply { nodes: books.addresses(), chunks: chunks.into() })
    }

    fn duplicated(&self, node: NodeId, request: Duplicated) -> DuplicatedReply {
        let mut books = self.books();
        let mut chunks = Vec::new();
        for DuplicatedChunk { token, done, failed } in request.chunks.into_vec() {
            let claims = FakeService::proven(&books, node, &token);
            let further = books.further.remove(&claims.id).unwrap_or_default();
            let targets = books.targets(&claims, &further);
            chunks.push(Outcome::Ok(Confirmed { targets }));
            let failed = failed.into_iter().map(|failed| failed.node).collect();
            self.tell(Told::Duplicated { node, done, failed });
        }
        DuplicatedReply { nodes: books.addresses(), chunks: chunks.into() }
    }

    fn inventory(&self, node: NodeId, request: &Inventory) -> InventoryReply {
        let books = self.books();
        let mut own: BTreeMap<u64, Vec<(Serial, u32, u32)>> = BTreeMap::new();
        for (serial, (length, fingerprint)) in books.copies.get(&node).into_iter().flatten() {
            own.entry(bucket_of(*serial)).or_default().push((*serial, *length, *fingerprint));
        }
        let digest_of = |bucket: &u64| own.get(bucket).map(|held| digest(held.iter().copied()));
        let theirs: BTreeMap<u64, u64> =
            request.buckets.iter().map(|bucket| (bucket.bucket, bucket.digest)).collect();
        let all: BTreeSet<u64> = own.keys().chain(theirs.keys()).copied().collect();
        let range = request.from..=request.to;
        let differ = all.into_iter().filter(|bucket| {
            range.contains(bucket) && digest_of(bucket) != theirs.get(bucket).copied()
        });
        InventoryReply { differ: differ.collect(), next: None }
    }

    fn holdings(&self, node: NodeId, request: Holdings) -> HoldingsReply {
        let held = request.held.into_vec();
        self.tell(Told::Holdings { node, held: held.clone() });
        let mut books = self.books();
        let wanted = |chunk: &&HeldChunk| chunk.trashed && books.restore.contains(&chunk.serial);
        let restore = held.iter().filter(wanted).map(|chunk| chunk.serial).collect();
        let copies = books.copies.entry(node).or_default();
        copies.retain(|serial, _| bucket_of(*serial) != request.bucket);
        let counted = held.iter().filter(|chunk| !chunk.trashed);
        copies.extend(counted.map(|held| (held.serial, (held.length, held.fingerprint))));
        HoldingsReply { found: 0, lost: 0, unknown: 0, restore }
    }
}
