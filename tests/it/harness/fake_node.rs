//! A storage node that lies: it joins, beats and confirms as a good one, and answers reads as the
//! test wants it to.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p2pdfs::clock::WallTime;
use p2pdfs::ids::{Address, Incarnation, NodeId, Secret};
use p2pdfs::server::{Limits, Server, ServerConnection, Service};
use p2pdfs::token::Token;
use p2pdfs::wire::connection::Dialing;
use p2pdfs::wire::frame::PayloadBuffer;
use p2pdfs::wire::node_to_main::{AddMe, Compared, Heartbeat, Space, Stored};
use p2pdfs::wire::to_node::{
    Fetch, FetchReply, FetchedChunk, Store, StoreReply, StoredChunk, ToNode,
};
use p2pdfs::wire::{Connection, Fault, FaultCode, Hello, HelloReply, List, Message, Outcome, Role};

use super::cluster::TestCluster;

/// How a fake node answers reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Bytes of the right number, which are not the chunk's.
    WrongBytes,
    /// `not_found`.
    NotFound,
    /// Nothing at all, and the connection stays open.
    Silence,
    /// The connection is closed.
    HangUp,
}

/// A running fake node.
pub struct FakeNode {
    node: NodeId,
    secret: Secret,
    main: Address,
    stopping: Arc<AtomicBool>,
    beating: Option<JoinHandle<()>>,
    // Stops when dropped.
    _server: Server,
}

impl FakeNode {
    /// Joins the cluster; alive when this returns.
    pub fn join(cluster: &TestCluster, reads: Reads) -> FakeNode {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address: Address = listener.local_addr().expect("it is bound").into();
        let secret = Secret::random();
        let identity: Arc<Mutex<Option<NodeId>>> = Arc::default();
        let service = Arc::new(Liar {
            reads,
            identity: identity.clone(),
            secret,
            main: cluster.address().clone(),
        });
        let limits =
            Limits { stop_grace: std::time::Duration::from_millis(100), ..Limits::default() };
        let server = Server::start(listener, limits, service).expect("it serves");
        let mut control = dial(cluster.address(), &Hello::new(Role::Node));
        let incarnation = Incarnation::random();
        let joined = control
            .call(&AddMe {
                invite: Some(cluster.invite().parse().expect("an invite is a secret")),
                secret,
                previous: Vec::new(),
                incarnation,
                address,
                zone: String::new(),
                space: space(),
                highest_serial: None,
                cluster: None,
                main_incarnation: None,
                main_mark: None,
                time: None,
            })
            .expect("the fake node joins");
        *identity.lock().expect("nobody panics here") = Some(joined.node);
        control.call(&Compared {}).expect("there is nothing to compare");
        let stopping = Arc::new(AtomicBool::new(false));
        let newest = joined.keys.iter().map(|key| key.id).max();
        let for_thread = stopping.clone();
        let beating = thread::spawn(move || {
            while !for_thread.load(Ordering::Relaxed) {
                let beat = Heartbeat {
                    incarnation,
                    space: space(),
                    transfers: 0,
                    newest_key: newest,
                    acknowledged: List::default(),
                    received_bytes: 0,
                    failed: None,
                    damaged_copies: 0,
                    scrub: Default::default(),
                    unadopted: false,
                    time: None,
                    oldest_dial: 0,
                };
                // The main server holds its answer back, which paces this.
                if control.call(&beat).is_err() {
                    return;
                }
            }
        });
        let main = cluster.address().clone();
        FakeNode {
            node: joined.node,
            secret,
            main,
            stopping,
            beating: Some(beating),
            _server: server,
        }
    }

    /// Its number.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// A further connection to the main server, as this node.
    pub fn connect(&self) -> Connection {
        dial(&self.main, &hello(self.node, self.secret))
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(beating) = self.beating.take() {
            let _ = beating.join();
        }
    }
}

fn space() -> Space {
    Space { offered_bytes: 1 << 30, used_bytes: 0, free_bytes: 1 << 30, chunks: 0, trash_bytes: 0 }
}

fn hello(node: NodeId, secret: Secret) -> Hello {
    Hello { node: Some(node), secret: Some(secret), ..Hello::new(Role::Node) }
}

fn dial(main: &Address, hello: &Hello) -> Connection {
    Connection::open(main, &Dialing::default(), hello).expect("the main server runs")
}

struct Liar {
    reads: Reads,
    identity: Arc<Mutex<Option<NodeId>>>,
    secret: Secret,
    main: Address,
}

impl Service for Liar {
    fn serve(&self, connection: &mut ServerConnection) {
        let mut buffer = PayloadBuffer::default();
        while connection.next_request().is_some() {
            let goes_on = match ToNode::parse(connection.request_json()) {
                Ok(ToNode::Hello(hello)) => {
                    connection.take_place(hello.role == Role::Node)
                        && connection.reply(Ok(self.greet()), &[])
                }
                Ok(ToNode::Store(store)) => {
                    connection.read_payload(&mut buffer, |_| {})
                        && connection.reply(Ok(self.store(&store)), &[])
                }
                Ok(ToNode::ReadJournal(_)) => return,
                Ok(ToNode::Fetch(fetch)) => self.fetch(connection, &fetch),
                Err(error) => connection.reply::<()>(Err(error.into()), &[]),
            };
            if !goes_on {
                return;
            }
        }
    }
}

impl Liar {
    fn greet(&self) -> HelloReply {
        HelloReply {
            version: 1,
            agent: "fake".to_string(),
            cluster: None,
            node: *self.identity.lock().expect("nobody panics here"),
            incarnation: None,
            time: WallTime(0),
        }
    }

    /// Confirms what it throws away.
    fn store(&self, store: &Store) -> <Store as Message>::Reply {
        let node = self.identity.lock().expect("nobody panics here").expect("it has joined");
        let tokens = store.chunks.iter().map(|chunk| chunk.token.clone()).collect();
        let mut main = dial(&self.main, &hello(node, self.secret));
        main.call(&Stored { tokens }).expect("the main server believes it");
        let stored = |_| Outcome::Ok(StoredChunk { copies: 1, nodes: vec![node] });
        StoreReply { chunks: store.chunks.iter().map(stored).collect() }
    }

    fn fetch(&self, connection: &mut ServerConnection, fetch: &Fetch) -> bool {
        match self.reads {
            Reads::HangUp => false,
            // Until the other side has had enough.
            Reads::Silence => true,
            Reads::NotFound => {
                let fault = || Outcome::Fault(Fault::new(FaultCode::NotFound, "not here"));
                let chunks = fetch.chunks.iter().map(|_| fault()).collect();
                connection.reply(Ok(FetchReply { chunks }), &[])
            }
            Reads::WrongBytes => {
                let lengths: Vec<u32> =
                    fetch.chunks.iter().map(|chunk| length_in(&chunk.token)).collect();
                let wrong = vec![0x5a; lengths.iter().map(|n| *n as usize).sum()];
                let chunks =
                    lengths.iter().map(|n| Outcome::Ok(FetchedChunk { length: *n })).collect();
                connection.reply(Ok(FetchReply { chunks }), &[&wrong])
            }
        }
    }
}

/// The chunk's length, from a token's claims, which are not checked.
fn length_in(token: &Token) -> u32 {
    let claims = token.as_str().split('.').nth(1).expect("a token has three parts");
    let bytes = URL_SAFE_NO_PAD.decode(claims).expect("claims are base64url");
    u32::from_be_bytes(bytes[50..54].try_into().expect("four bytes"))
}
