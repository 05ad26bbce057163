//! What a main server knows, and what it was told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::clock::WallTime;
use crate::ids::{
    AccountId, Address, BooksMark, ChunkId, ClusterId, Incarnation, KeyId, NodeId, Secret, Serial,
};
use crate::token::{Claims, Operation, Token, node_key};
use crate::wire::Fault;
use crate::wire::node_to_main::*;
use crate::wire::to_main::Addresses;

/// What the main server was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// An `add_me`, whatever comes of it, with so many previous starts, and this mark.
    Tried {
        previous: usize,
        mark: Option<BooksMark>,
    },
    AddMe {
        node: NodeId,
    },
    Compared {
        node: NodeId,
    },
    Stored {
        node: NodeId,
        serial: Serial,
    },
    Duplicated {
        node: NodeId,
        done: Vec<NodeId>,
        failed: Vec<NodeId>,
    },
    Lost {
        node: NodeId,
        serials: Vec<Serial>,
    },
    Acknowledged {
        node: NodeId,
        orders: Vec<u64>,
    },
    Key {
        node: NodeId,
        key: KeyId,
    },
    Failed {
        node: NodeId,
    },
    Received {
        node: NodeId,
        bytes: u64,
    },
    DropMe {
        node: NodeId,
        back_in_s: Option<u64>,
    },
    /// The connection of its heartbeats is over.
    ControlEnded {
        node: NodeId,
    },
    /// A `drop_me` for good.
    Leave {
        node: NodeId,
        force: bool,
    },
    /// A heartbeat said that this main server is not adopted.
    Unadopted {
        node: NodeId,
    },
    /// The node's own time, in `add_me` or a heartbeat.
    Time {
        node: NodeId,
        time: WallTime,
    },
    /// A heartbeat with this space and scrub.
    Beat {
        node: NodeId,
        space: Space,
        damaged: u64,
        scrub: ScrubState,
    },
    Holdings {
        node: NodeId,
        held: Vec<HeldChunk>,
    },
    /// A `stored`, which was answered with a fault, or not looked at yet.
    PutOff,
}

/// What outlives the process of a main server.
#[derive(Clone)]
pub struct Books {
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    pub master: Secret,
    pub invite: Secret,
    pub nodes: BTreeMap<NodeId, KnownNode>,
    /// Confirmed copies.
    pub copies: BTreeMap<NodeId, BTreeMap<Serial, (u32, u32)>>,
    /// The key with which tokens are made.
    pub key: KeyId,
    /// Where to duplicate a chunk, and where next when that fails.
    pub targets: HashMap<ChunkId, Vec<NodeId>>,
    pub further: HashMap<ChunkId, Vec<NodeId>>,
    /// The next `add_me` is registered, and its answer never sent.
    pub lose_add_me_reply: bool,
    /// `stored` is answered with this.
    pub stored_fault: Option<Fault>,
    /// `stored` is not looked at.
    pub stored_hangs: bool,
    /// How often `compared` was heard, and whether it is answered later.
    pub comparisons: u32,
    pub compared_hangs: bool,
    /// The numbers of connections that nodes told of, and what the last heartbeat said of them.
    pub dials: Vec<u64>,
    pub oldest_dial: u64,
    pub orders: Vec<(NodeId, Order)>,
    /// Keys to announce in the next heartbeat.
    pub announce: Vec<KeyId>,
    /// Heartbeats of each node: what is held back of an earlier one, it does not hear any more.
    pub beats: HashMap<NodeId, u64>,
    /// What `add_me` says of this main server.
    pub is_adopted: bool,
    /// How far it says that it is.
    pub mark: Option<BooksMark>,
    /// The next heartbeat is answered with this.
    pub heartbeat_fault: Option<Fault>,
    /// The next `add_me` is answered with this.
    pub add_me_fault: Option<Fault>,
    /// What a node that wants to leave is told.
    pub leaving: Result<DropMeReply, Fault>,
    /// These nodes are struck off.
    pub left: BTreeSet<NodeId>,
    /// Serials of which a node's trash is to be restored.
    pub restore: BTreeSet<Serial>,
    /// Nothing but `hello` is answered.
    pub hangs: bool,
    pub stopping: bool,
}

#[derive(Clone)]
pub struct KnownNode {
    pub secret: Secret,
    pub incarnation: Incarnation,
    pub address: Address,
}

/// The time by the main server's clock, which stands still.
pub const TIME: WallTime = WallTime(1_700_000_000_000);

impl Books {
    pub fn new() -> Books {
        Books {
            cluster: ClusterId::random(),
            incarnation: Incarnation::random(),
            master: Secret::random(),
            invite: Secret::random(),
            nodes: BTreeMap::new(),
            copies: BTreeMap::new(),
            key: KeyId(1),
            targets: HashMap::new(),
            further: HashMap::new(),
            lose_add_me_reply: false,
            stored_fault: None,
            stored_hangs: false,
            comparisons: 0,
            compared_hangs: false,
            dials: Vec::new(),
            oldest_dial: 0,
            orders: Vec::new(),
            announce: Vec::new(),
            beats: HashMap::new(),
            is_adopted: true,
            mark: None,
            heartbeat_fault: None,
            add_me_fault: None,
            leaving: Ok(DropMeReply::default()),
            left: BTreeSet::new(),
            restore: BTreeSet::new(),
            hangs: false,
            stopping: false,
        }
    }

    pub fn key_of(&self, node: NodeId, id: KeyId) -> TokenKey {
        TokenKey { id, key: node_key(&self.master, node, id) }
    }

    /// The claims of a good token.
    pub fn claims(&self, operation: Operation, node: NodeId, id: ChunkId, serial: u64) -> Claims {
        Claims {
            key: self.key,
            operation,
            node,
            id,
            serial: Serial(serial),
            length: 0,
            account: AccountId(1),
            wanted: 3,
            reason: 1,
            expires: TIME + Duration::from_secs(900),
        }
    }

    pub fn mint(&self, claims: &Claims) -> Token {
        claims.mint(&self.key_of(claims.node, claims.key).key)
    }

    pub fn targets(&self, claims: &Claims, nodes: &[NodeId]) -> Vec<Target> {
        let target = |node: &NodeId| {
            let duplicate =
                Claims { operation: Operation::Duplicate, node: *node, ..claims.clone() };
            Target { node: *node, token: self.mint(&duplicate) }
        };
        nodes.iter().map(target).collect()
    }

    pub fn addresses(&self) -> Addresses {
        self.nodes.iter().map(|(node, known)| (*node, known.address.clone())).collect()
    }
}
