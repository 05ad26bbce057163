//! What the tests say to nodes.

use tempfile::TempDir;

use crate::ids::{Address, ChunkId, HashAlgorithm, NodeId};
use crate::segments::check::{self, CheckReport};
use crate::storage_node::{Node, NodeConfig};
use crate::token::{Operation, Token};
use crate::wire::connection::Dialing;
use crate::wire::frame::PayloadBuffer;
use crate::wire::to_node::{Fetch, FetchChunk, Store, StoreChunk, StoredChunk};
use crate::wire::{Connection, Fault, Hello, Role};

use super::fake_main::FakeMain;

/// A node that runs, and its directory.
pub struct Running {
    pub directory: TempDir,
    pub node: Node,
}

/// The configuration of a node that joins.
pub fn joining(directory: &TempDir, main: &FakeMain) -> NodeConfig {
    NodeConfig {
        main: Some(main.address.clone()),
        space_bytes: Some(1 << 30),
        invite: Some(main.invite),
        ..NodeConfig::new(directory.path())
    }
}

/// A new node of that main server.
pub fn join(main: &FakeMain) -> Running {
    join_with(main, |_| {})
}

pub fn join_with(main: &FakeMain, change: impl FnOnce(&mut NodeConfig)) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let mut config = joining(&directory, main);
    change(&mut config);
    let node = Node::start(config).unwrap();
    assert!(node.unreachable().is_none());
    Running { directory, node }
}

impl Running {
    pub fn number(&self) -> NodeId {
        self.node.number()
    }

    pub fn connect(&self) -> Connection {
        connect(&self.node)
    }

    /// Stops the node, and starts it again from nothing but its directory.
    pub fn restart(self) -> Running {
        let Running { directory, node } = self;
        node.stop();
        let node = Node::start(NodeConfig::new(directory.path())).unwrap();
        Running { directory, node }
    }

    /// Stops the node, and says what its directory holds.
    pub fn check(self) -> CheckReport {
        self.node.stop();
        check::check(self.directory.path()).unwrap()
    }
}

pub fn connect(node: &Node) -> Connection {
    connect_to(node.advertised())
}

pub fn connect_to(address: &Address) -> Connection {
    Connection::open(address, &Dialing::default(), &Hello::new(Role::Client)).unwrap()
}

pub fn blake3(bytes: &[u8]) -> ChunkId {
    ChunkId::of(HashAlgorithm::Blake3, bytes)
}

/// What came of one chunk of a request that was answered as a whole.
pub type Stored = Result<StoredChunk, Fault>;

/// Stores chunks, each with its token, in one message.
pub fn store_all(
    connection: &mut Connection,
    chunks: &[(ChunkId, &[u8], Token)],
) -> Result<Vec<Stored>, Fault> {
    let item = |(id, bytes, token): &(ChunkId, &[u8], Token)| StoreChunk {
        id: *id,
        length: bytes.len() as u32,
        token: token.clone(),
    };
    let request = Store { chunks: chunks.iter().map(item).collect() };
    let payload: Vec<&[u8]> = chunks.iter().map(|(_, bytes, _)| *bytes).collect();
    connection.send(&request, &payload).unwrap();
    match connection.receive::<Store>() {
        Ok(reply) => Ok(reply.chunks.into_vec().into_iter().map(Result::from).collect()),
        Err(error) => Err(error.fault().expect("an answer").clone()),
    }
}

/// Stores one chunk under a good token.
pub fn store(main: &FakeMain, node: &Node, serial: u64, bytes: &[u8]) -> Stored {
    let token = main.token(Operation::Store, node.number(), serial, bytes);
    let stored = store_all(&mut connect(node), &[(blake3(bytes), bytes, token)]);
    stored?.pop().expect("one answer")
}

/// Fetches ranges of chunks in one message.
pub fn fetch_all(
    connection: &mut Connection,
    chunks: Vec<FetchChunk>,
) -> Result<Vec<Result<Vec<u8>, Fault>>, Fault> {
    let reply = match connection.call(&Fetch { chunks: chunks.into() }) {
        Ok(reply) => reply,
        Err(error) => return Err(error.fault().expect("an answer").clone()),
    };
    let mut payload = PayloadBuffer::default();
    connection.read_payload(&mut payload, |_| {}).unwrap();
    let mut rest = payload.as_slice();
    let mut all = Vec::new();
    for outcome in reply.chunks.into_vec() {
        all.push(Result::from(outcome).map(|fetched: crate::wire::to_node::FetchedChunk| {
            let (bytes, after) = rest.split_at(fetched.length as usize);
            rest = after;
            bytes.to_vec()
        }));
    }
    assert!(rest.is_empty(), "nothing beyond what was said follows");
    Ok(all)
}

/// Fetches one chunk whole under a good token.
pub fn fetch(main: &FakeMain, node: &Node, serial: u64, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let token = main.token(Operation::Fetch, node.number(), serial, bytes);
    let chunk = FetchChunk { token, offset: 0, length: None };
    fetch_all(&mut connect(node), vec![chunk])?.pop().expect("one answer")
}
