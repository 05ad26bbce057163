//! Requests on the bare wire, as a client of one's own would send them.

use std::io::{Read, Write};
use std::net::TcpStream;

use p2pdfs::ids::{ChunkId, HashAlgorithm, NodeId, RequestId};
use p2pdfs::token::Token;
use p2pdfs::wire::frame::PayloadBuffer;
use p2pdfs::wire::to_main::{
    Allocate, AllocateChunk, Allocated, Commit, CommitFile, CommittedFile, LocatedChunk, Open,
    OpenFile, Place,
};
use p2pdfs::wire::to_node::{Fetch, FetchChunk, Store, StoreChunk, StoredChunk};
use p2pdfs::wire::{Connection, Fault, Outcome};

use super::cluster::TestCluster;
use super::wait::DEADLINE;

/// The id that this project's own client would give the bytes.
pub fn id_of(bytes: &[u8]) -> ChunkId {
    ChunkId::of(HashAlgorithm::Blake3, bytes)
}

/// Where to store the chunk; fails the test when it is stored already.
pub fn place_for(main: &mut Connection, copies: u8, bytes: &[u8]) -> Place {
    let chunk = AllocateChunk { id: id_of(bytes), length: bytes.len() as u32 };
    let request = Allocate { copies, chunks: vec![chunk].into() };
    let reply = main.call(&request).expect("allocate is answered");
    match reply.chunks.into_vec().remove(0) {
        Outcome::Ok(Allocated::Store(place)) => place,
        other => panic!("no place for the chunk: {other:?}"),
    }
}

/// Sends one chunk to a node.
pub fn store(
    node: &mut Connection,
    token: &Token,
    id: ChunkId,
    bytes: &[u8],
) -> Result<StoredChunk, Fault> {
    let chunk = StoreChunk { id, length: bytes.len() as u32, token: token.clone() };
    node.send(&Store { chunks: vec![chunk].into() }, &[bytes]).expect("it can be sent");
    match node.receive::<Store>() {
        Ok(reply) => reply.chunks.into_vec().remove(0).into(),
        Err(error) => Err(error.fault().cloned().expect("the node answers")),
    }
}

/// Allocates and stores one chunk; returns its id.
pub fn store_whole(cluster: &TestCluster, copies: u8, bytes: &[u8]) -> ChunkId {
    let mut main = cluster.connect().expect("the main server runs");
    let place = place_for(&mut main, copies, bytes);
    let mut node = cluster.connect_to_node(index_of(place.node)).expect("the node runs");
    store(&mut node, &place.token, id_of(bytes), bytes).expect("it is stored");
    id_of(bytes)
}

/// The index in the cluster of the node with this number.
pub fn index_of(node: NodeId) -> usize {
    node.0 as usize - 1
}

/// The number of the node with this index.
pub fn node_at(index: usize) -> NodeId {
    NodeId(index as u32 + 1)
}

/// Commits one file of these chunks.
pub fn commit(
    main: &mut Connection,
    path: &str,
    copies: u8,
    chunks: &[ChunkId],
) -> Result<CommittedFile, Fault> {
    let file = CommitFile {
        path: path.to_string(),
        chunks: Some(chunks.to_vec().into()),
        upload: None,
        parts: None,
        copies,
        mtime_ms: 0,
        executable: false,
        if_version: None,
        parents: false,
    };
    let request = Commit { request_id: RequestId::random(), files: vec![file].into() };
    let reply = main.call(&request).expect("commit is answered");
    reply.files.into_vec().remove(0).into()
}

/// The chunks of a file, with tokens to read them.
pub fn open(main: &mut Connection, path: &str) -> Vec<LocatedChunk> {
    let file = OpenFile { path: path.to_string(), version: None, from: 0 };
    let reply = main.call(&Open { files: vec![file].into(), explain: false }).expect("an answer");
    match reply.files.into_vec().remove(0) {
        Outcome::Ok(opened) => opened.chunks.into_vec(),
        Outcome::Fault(fault) => panic!("{path} cannot be opened: {fault}"),
    }
}

/// Reads one chunk, or a part of it, from a node.
pub fn fetch(
    node: &mut Connection,
    token: &Token,
    offset: u32,
    length: Option<u32>,
) -> Result<Vec<u8>, Fault> {
    let chunk = FetchChunk { token: token.clone(), offset, length };
    node.send(&Fetch { chunks: vec![chunk].into() }, &[]).expect("it can be sent");
    let reply = match node.receive::<Fetch>() {
        Ok(reply) => reply,
        Err(error) => return Err(error.fault().cloned().expect("the node answers")),
    };
    let mut buffer = PayloadBuffer::default();
    node.read_payload(&mut buffer, |_| {}).expect("the payload follows");
    match reply.chunks.into_vec().remove(0) {
        Outcome::Ok(fetched) => {
            assert_eq!(fetched.length as usize, buffer.as_slice().len());
            Ok(buffer.as_slice().to_vec())
        }
        Outcome::Fault(fault) => {
            assert!(buffer.as_slice().is_empty(), "bytes came with a fault");
            Err(fault)
        }
    }
}

/// A token whose text is another one; `None` when it is not even text that a token can have.
pub fn token(text: &str) -> Token {
    serde_json::from_value(serde_json::Value::String(text.to_string())).expect("a token is text")
}

/// A bare socket, on which anything can be written.
pub struct Bare(TcpStream);

impl Bare {
    /// Dials.
    pub fn dial(address: &str) -> Bare {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        stream.set_write_timeout(Some(DEADLINE)).expect("a socket");
        Bare(stream)
    }

    /// Writes these bytes. A server may have closed already: then this says so.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Writes a message.
    pub fn send(&mut self, json: &str, payload: &[u8]) {
        let lengths = [json.len() as u32, payload.len() as u32];
        let mut message: Vec<u8> = lengths.iter().flat_map(|n| n.to_be_bytes()).collect();
        message.extend(json.as_bytes());
        message.extend(payload);
        assert!(self.write(&message), "the server closed the connection");
    }

    /// Reads an answer's JSON; `None` when the server closed the connection instead.
    pub fn answer(&mut self) -> Option<serde_json::Value> {
        let mut head = [0; 8];
        self.0.read_exact(&mut head).ok()?;
        let length = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four"));
        let mut body = vec![0; (length(0) + length(4)) as usize];
        self.0.read_exact(&mut body).expect("the rest of the answer");
        Some(serde_json::from_slice(&body[..length(0) as usize]).expect("answers are JSON"))
    }

    /// The code of the fault that is the answer; empty when it is none.
    pub fn fault(&mut self) -> String {
        let answer = self.answer().expect("the server closed the connection");
        answer["fault"]["code"].as_str().unwrap_or_default().to_string()
    }

    /// Opens the connection as a client with this key.
    pub fn hello(&mut self, key: Option<&str>) {
        let key = key.map(|key| format!(r#","key":"{key}""#)).unwrap_or_default();
        let hello =
            format!(r#"{{"hello":{{"versions":[1,1],"role":"client","agent":"bare"{key}}}}}"#);
        self.send(&hello, &[]);
        let answer = self.answer().expect("the server closed the connection");
        assert!(answer["ok"].is_object(), "{answer}");
    }

    /// True when the server has closed the connection, or does within the deadline.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
            || self.0.take_error().is_ok_and(|error| error.is_some())
    }
}
