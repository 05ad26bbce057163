//! A cluster in memory that makes trouble to order: only what the client's tests need.

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client::{Client, Settings};
use crate::clock::WallTime;
use crate::ids::{Address, ChunkId, HashAlgorithm, NodeId, Secret, Version};
use crate::server::{Limits, Server, ServerConnection, Service};
use crate::token::Token;
use crate::wire::frame::PayloadBuffer;
use crate::wire::to_main::*;
use crate::wire::to_node::{FetchReply, FetchedChunk, StoreReply, StoredChunk, ToNode};
use crate::wire::{Fault, FaultCode, HelloReply, Outcome, VERSIONS};

/// Something that goes wrong once, the next time that it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    MainBusy,
    MainHangsUp,
    NodeHangsUp(u32),
    NodeFull(u32),
    /// The node answers a fetch only when the connection ends, which is too late.
    NodeHolds(u32),
    TokenExpired(u32),
    WrongBytes(u32),
    /// The chunk is gone when it is committed.
    CommitLoses(ChunkId),
    /// The file is written to when chunks are allocated.
    AllocateTouches(PathBuf),
    /// The last answer of an `allocate` is left out.
    AllocateIsShort,
    /// The node says that it has no such chunk.
    NodeForgets(u32),
    /// The node says so, and the books name the copy on this other node instead.
    CopyMoves(u32, u32),
    /// The file is removed when it is opened.
    OpenIsLate(&'static str),
    /// The chunk is removed, everywhere, when it is read.
    FetchIsLate,
}

#[derive(Default)]
struct State {
    chunks: HashMap<ChunkId, (Vec<u8>, Vec<u32>)>,
    files: HashMap<String, (FileFacts, Vec<ChunkId>)>,
    trouble: Vec<Trouble>,
    requests: Vec<&'static str>,
    nodes: Vec<Address>,
    /// The nodes' turns to be given a chunk.
    turns: VecDeque<u32>,
    stored: usize,
}

impl State {
    fn takes(&mut self, trouble: &Trouble) -> bool {
        let at = self.trouble.iter().position(|other| other == trouble);
        at.map(|at| self.trouble.remove(at)).is_some()
    }

    fn addresses(&self) -> Addresses {
        (1..).map(NodeId).zip(self.nodes.iter().cloned()).collect()
    }
}

type Shared = Arc<Mutex<State>>;

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running cluster.
pub struct Fake {
    shared: Shared,
    main: Address,
    _main: Server,
    nodes: Mutex<Vec<Server>>,
}

fn serve(service: impl Service) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    Server::start(listener, Limits::default(), Arc::new(service)).expect("a server")
}

impl Fake {
    pub fn start(nodes: u32) -> Fake {
        let shared = Shared::default();
        let main = serve(Main(shared.clone()));
        let nodes: Vec<Server> = (1..=nodes).map(|n| serve(Node(n, shared.clone()))).collect();
        lock(&shared).nodes = nodes.iter().map(|node| node.address().into()).collect();
        lock(&shared).turns = (1..=nodes.len() as u32).collect();
        Fake { shared, main: main.address().into(), _main: main, nodes: Mutex::new(nodes) }
    }

    pub fn key(&self) -> Secret {
        Secret::from_bytes([1; 32])
    }

    pub fn client(&self) -> Client {
        Client::new(Settings::new(self.main.clone(), self.key()))
    }

    pub fn main_address(&self) -> Address {
        self.main.clone()
    }

    pub fn node_address(&self, node: usize) -> Address {
        lock(&self.shared).nodes[node - 1].clone()
    }

    pub fn make_trouble(&self, trouble: impl IntoIterator<Item = Trouble>) {
        lock(&self.shared).trouble.extend(trouble);
    }

    /// How many requests of this name came in.
    pub fn count(&self, name: &str) -> usize {
        lock(&self.shared).requests.iter().filter(|other| **other == name).count()
    }

    /// How many chunks nodes took.
    pub fn stored_chunks(&self) -> usize {
        lock(&self.shared).stored
    }

    /// Gives a node a chunk.
    pub fn hold(&self, node: u32, bytes: &[u8]) {
        let id = ChunkId::of(HashAlgorithm::Blake3, bytes);
        let mut state = lock(&self.shared);
        let (_, holders) = state.chunks.entry(id).or_insert((bytes.to_vec(), Vec::new()));
        if !holders.contains(&node) {
            holders.push(node);
        }
    }

    pub fn stop_node(&self, node: usize) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)[node - 1].stop();
    }
}

fn hello(node: Option<u32>) -> HelloReply {
    HelloReply {
        version: VERSIONS[1],
        agent: "fake".to_string(),
        cluster: None,
        node: node.map(NodeId),
        incarnation: None,
        time: WallTime(0),
    }
}

struct Main(Shared);

impl Service for Main {
    fn serve(&self, connection: &mut ServerConnection) {
        while connection.next_request().is_some() {
            let request = ToMain::parse(connection.request_json()).expect("a good request");
            let mut state = lock(&self.0);
            let is_hello = matches!(request, ToMain::Hello(_));
            if !is_hello && state.takes(&Trouble::MainHangsUp) {
                return;
            }
            state.requests.push(name(&request));
            if !is_hello && state.takes(&Trouble::MainBusy) {
                drop(state);
                connection.reply::<Done>(Err(Fault::new(FaultCode::Busy, "busy")), &[]);
                continue;
            }
            answer(connection, &mut state, request);
        }
    }
}

fn name(request: &ToMain) -> &'static str {
    match request {
        ToMain::Hello(_) => "hello",
        ToMain::MakeDirectory(_) => "mkdir",
        ToMain::Stat(_) => "stat",
        ToMain::Allocate(_) => "allocate",
        ToMain::Commit(_) => "commit",
        ToMain::Open(_) => "open",
        ToMain::BadCopy(_) => "bad_copy",
        ToMain::Locate(_) => "locate",
        ToMain::Status(_) => "status",
        ToMain::SetCopies(_) => "copies",
        _ => "another",
    }
}

fn answer(connection: &mut ServerConnection, state: &mut State, request: ToMain) {
    let not_found = || Fault::new(FaultCode::NotFound, "nothing stands there");
    match request {
        ToMain::Hello(_) => connection.take_place(false) && connection.reply(Ok(hello(None)), &[]),
        ToMain::MakeDirectory(_) | ToMain::BadCopy(_) => connection.reply(Ok(Done {}), &[]),
        ToMain::Stat(stat) => {
            let entry = |path: &String| match state.files.get(path) {
                _ if path == "/" => Outcome::Ok(Entry { name: String::new(), file: None }),
                Some((facts, _)) => {
                    Outcome::Ok(Entry { name: path[1..].to_string(), file: Some(facts.clone()) })
                }
                None => Outcome::Fault(not_found()),
            };
            let entries = stat.paths.iter().map(entry).collect();
            connection.reply(Ok(StatReply { entries }), &[])
        }
        ToMain::Allocate(request) => connection.reply(Ok(allocate(state, &request)), &[]),
        ToMain::Commit(request) => {
            let files = request.files.iter().map(|file| commit(state, file).into()).collect();
            connection.reply(Ok(CommitReply { files }), &[])
        }
        ToMain::Open(request) => {
            let is_late = |trouble: &Trouble| match trouble {
                Trouble::OpenIsLate(path) => request.files.iter().any(|file| file.path == *path),
                _ => false,
            };
            if let Some(at) = state.trouble.iter().position(is_late)
                && let Trouble::OpenIsLate(path) = state.trouble.remove(at)
            {
                state.files.remove(path);
            }
            let files = request.files.iter().map(|file| {
                let Some((facts, ids)) = state.files.get(&file.path) else {
                    return Outcome::Fault(not_found());
                };
                let chunks = ids.iter().skip(file.from as usize).map(|id| located(state, id));
                Outcome::Ok(OpenedFile {
                    file: facts.clone(),
                    from: file.from,
                    // Few at a time, so that every file of some size comes in pages.
                    chunks: chunks.take(3).collect(),
                })
            });
            let files = files.take(2).collect::<Vec<_>>().into();
            connection.reply(Ok(OpenReply { nodes: state.addresses(), files }), &[])
        }
        ToMain::Locate(request) => {
            let place = |id: &ChunkId| match state.chunks.contains_key(id) {
                true => Outcome::Ok(located(state, id)),
                false => Outcome::Fault(not_found()),
            };
            let chunks = request.chunks.iter().map(place).collect();
            connection.reply(Ok(LocateReply { nodes: state.addresses(), chunks }), &[])
        }
        ToMain::ListDirectory(request) => connection.reply(Ok(list(state, &request)), &[]),
        ToMain::Status(request) => connection.reply(Ok(status(state, &request)), &[]),
        ToMain::SetCopies(request) => {
            let done = request.after.unwrap_or(0) + 1;
            let next = (done < state.files.len() as u64).then_some(done);
            connection.reply(Ok(SetCopiesReply { files: 1, chunks: 3, kept: 1, next }), &[])
        }
        ToMain::Forget(_) => {
            let mut fault = Fault::new(FaultCode::WouldLose, "node 1 has the only copy of chunks");
            fault.files = vec!["/only".to_string()];
            connection.reply::<Done>(Err(fault), &[])
        }
        other => panic!("the fake has no answer to {other:?}"),
    };
}

/// Directories are not kept: there is the root, with all files in it, two to a page.
fn list(state: &State, request: &ListDirectory) -> ListReply {
    let after = request.after.clone().unwrap_or_default();
    let mut names: Vec<&String> = state.files.keys().filter(|p| p[1..] > *after).collect();
    names.sort();
    let more = names.len() > 2;
    let entry = |path: &&String| {
        let file = Some(state.files[*path].0.clone());
        Entry { name: path[1..].to_string(), file }
    };
    ListReply { entries: names.iter().take(2).map(entry).collect(), more }
}

/// One node to a page.
fn status(state: &State, request: &Status) -> StatusReply {
    let node = request.after.map_or(1, |after| after.0 + 1);
    let text = format!(
        r#"{{"time":0,"files":0,"chunks":0,"copies":0,"under_copied_chunks":0,"more":{},"nodes":[
        {{"node":{node},"zone":"","state":"alive","space":
        {{"offered_bytes":1,"used_bytes":0,"free_bytes":1,"chunks":0}}}}]}}"#,
        (node as usize) < state.nodes.len()
    );
    serde_json::from_str(&text).expect("what a main server of an earlier version says")
}

fn allocate(state: &mut State, request: &Allocate) -> AllocateReply {
    let touched = state.trouble.iter().find_map(|trouble| match trouble {
        Trouble::AllocateTouches(path) => Some(path.clone()),
        _ => None,
    });
    if let Some(path) = touched {
        let file = std::fs::OpenOptions::new().append(true).open(&path).expect("the file");
        file.set_len(1).expect("made shorter");
        state.takes(&Trouble::AllocateTouches(path));
    }
    let chunks = request.chunks.iter().map(|chunk| {
        if state.chunks.contains_key(&chunk.id) {
            return Outcome::Ok(Allocated::Stored { copies: 1 });
        }
        let node = state.turns[0];
        state.turns.rotate_left(1);
        Outcome::Ok(Allocated::Store(place(node, &chunk.id)))
    });
    let mut chunks: Vec<_> = chunks.collect();
    if state.takes(&Trouble::AllocateIsShort) {
        chunks.pop();
    }
    let chunks = chunks.into();
    AllocateReply { nodes: state.addresses(), chunks, lease_until: WallTime(0) }
}

fn place(node: u32, id: &ChunkId) -> Place {
    Place { node: NodeId(node), token: Token::from_text(id.to_string()), reason: None }
}

fn located(state: &State, id: &ChunkId) -> LocatedChunk {
    let (bytes, holders) = &state.chunks[id];
    let mut holders = holders.clone();
    holders.sort_unstable();
    let copies = holders.iter().map(|&node| place(node, id)).collect();
    LocatedChunk { id: *id, length: bytes.len() as u32, copies }
}

fn commit(state: &mut State, file: &CommitFile) -> Result<CommittedFile, Fault> {
    let ids = file.chunks.clone().expect("few chunks").into_vec();
    for id in &ids {
        if state.takes(&Trouble::CommitLoses(*id)) {
            state.chunks.remove(id);
        }
    }
    let missing: Vec<ChunkId> =
        ids.iter().filter(|id| !state.chunks.contains_key(id)).copied().collect();
    if !missing.is_empty() {
        let mut fault = Fault::new(FaultCode::NotStored, "chunks are missing");
        fault.chunks = missing;
        return Err(fault);
    }
    let size = ids.iter().map(|id| state.chunks[id].0.len() as u64).sum();
    let version = Version(state.files.len() as u64 + 1);
    let facts = FileFacts {
        version,
        size,
        chunk_count: ids.len() as u64,
        copies: file.copies,
        mtime_ms: file.mtime_ms,
        executable: file.executable,
    };
    state.files.insert(file.path.clone(), (facts, ids));
    Ok(CommittedFile { version, size, under_copied_chunks: 0 })
}

struct Node(u32, Shared);

impl Service for Node {
    fn serve(&self, connection: &mut ServerConnection) {
        let Node(node, shared) = self;
        let mut payload = PayloadBuffer::default();
        while connection.next_request().is_some() {
            let request = ToNode::parse(connection.request_json()).expect("a good request");
            if !connection.read_payload(&mut payload, |_| {}) {
                return;
            }
            let mut state = lock(shared);
            match request {
                ToNode::Hello(_) => {
                    connection.take_place(false);
                    connection.reply(Ok(hello(Some(*node))), &[]);
                }
                ToNode::Store(request) => {
                    if state.takes(&Trouble::NodeHangsUp(*node)) {
                        return;
                    }
                    state.requests.push("store");
                    let mut at = 0;
                    let chunks = request.chunks.iter().map(|chunk| {
                        let end = at + chunk.length as usize;
                        let bytes = &payload.as_slice()[at..end];
                        at = end;
                        store(&mut state, *node, chunk.id, bytes).into()
                    });
                    let chunks = chunks.collect();
                    connection.reply(Ok(StoreReply { chunks }), &[]);
                }
                ToNode::Fetch(_) if state.takes(&Trouble::NodeHolds(*node)) => {
                    drop(state);
                    assert!(connection.next_request().is_none(), "it waits for an answer");
                    lock(shared).requests.push("cut off");
                    return;
                }
                ToNode::Fetch(request) => {
                    let mut bytes = Vec::new();
                    let chunks = request.chunks.iter().map(|chunk| {
                        let id: ChunkId = chunk.token.as_str().parse().expect("our own token");
                        if forgets(&mut state, *node, &id) {
                            return Outcome::Fault(Fault::new(FaultCode::NotFound, "not here"));
                        }
                        let mut found = state.chunks[&id].0.clone();
                        if state.takes(&Trouble::WrongBytes(*node)) {
                            found[0] ^= 1;
                        }
                        let length = found.len() as u32;
                        bytes.push(found);
                        Outcome::Ok(FetchedChunk { length })
                    });
                    let reply = FetchReply { chunks: chunks.collect() };
                    let parts: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
                    connection.reply(Ok(reply), &parts);
                }
                ToNode::ReadJournal(_) => panic!("a client asks for no journal"),
            }
        }
    }
}

/// A copy that is asked of a node that has none of it, in the books or by order.
fn forgets(state: &mut State, node: u32, id: &ChunkId) -> bool {
    let moves = state.trouble.iter().find_map(|trouble| match trouble {
        Trouble::CopyMoves(from, to) if *from == node => Some(*to),
        _ => None,
    });
    if let Some(to) = moves {
        state.takes(&Trouble::CopyMoves(node, to));
        if let Some((_, holders)) = state.chunks.get_mut(id) {
            holders.retain(|holder| *holder != node);
            holders.push(to);
        }
        return true;
    }
    if state.takes(&Trouble::FetchIsLate) {
        state.chunks.remove(id);
    }
    state.takes(&Trouble::NodeForgets(node)) || !state.chunks.contains_key(id)
}

fn store(state: &mut State, node: u32, id: ChunkId, bytes: &[u8]) -> Result<StoredChunk, Fault> {
    if state.takes(&Trouble::NodeFull(node)) {
        return Err(Fault::new(FaultCode::NoSpace, "full"));
    }
    if state.takes(&Trouble::TokenExpired(node)) {
        return Err(Fault::new(FaultCode::TokenExpired, "too late"));
    }
    if ChunkId::of(id.algorithm(), bytes) != id {
        return Err(Fault::new(FaultCode::HashMismatch, "other bytes"));
    }
    state.stored += 1;
    state.chunks.insert(id, (bytes.to_vec(), vec![node]));
    Ok(StoredChunk { copies: 1, nodes: vec![NodeId(node)] })
}
