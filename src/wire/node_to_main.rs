//! The messages to the main server from storage nodes.

use serde::{Deserialize, Serialize};

use super::to_main::Addresses;
use super::{List, MAX_CONFIRMATIONS, MAX_ITEMS, Outcome};
use crate::clock::WallTime;
use crate::ids::{
    Address, BooksMark, ClusterId, Fingerprint, Incarnation, KeyId, NodeId, Secret, Serial,
};
use crate::token::Token;

/// The most copies that one bucket of an inventory can hold: its span of serials.
pub const BUCKET_SERIALS: u64 = 4096;
/// The most holdings in one message.
pub const MAX_HOLDINGS: usize = BUCKET_SERIALS as usize;

/// A node's space, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    pub offered_bytes: u64,
    pub used_bytes: u64,
    /// What can still be stored, the reserve left alone.
    pub free_bytes: u64,
    pub chunks: u64,
    /// Removed chunks that are kept for a while, and can go when the space is needed.
    #[serde(default)]
    pub trash_bytes: u64,
}

/// How far a node is with verifying what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubState {
    /// Passes over everything that were ended since the node's start.
    pub passes: u64,
    /// Bytes verified in this pass, and bytes that it has to verify.
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// Joins the cluster (with an invite), or takes up work again after a start (after a `hello` with
/// number and secret). The main server dials the address before it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddMe {
    /// To join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<Secret>,
    /// The node's own secret, drawn by itself before it joins.
    pub secret: Secret,
    /// The incarnations of which one is the last that the main server registered; none at a join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<Incarnation>,
    /// Of this start.
    pub incarnation: Incarnation,
    /// Where clients and other nodes reach it.
    pub address: Address,
    /// A failure domain, such as a rack or a house; at most 64 bytes.
    #[serde(default)]
    pub zone: String,
    pub space: Space,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_serial: Option<Serial>,
    /// The cluster that the directory belongs to, unless it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// The main server's incarnation that the node saw last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_incarnation: Option<Incarnation>,
    /// The highest mark that it heard from that incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_mark: Option<BooksMark>,
    /// The node's own wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<WallTime>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddMeReply {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Of this start of the main server.
    pub incarnation: Incarnation,
    /// False when the main server's history lacks the incarnation that the node saw last, or the mark
    /// to which that one's books came: it then may be a stale or foreign one, and must not make the
    /// node delete anything.
    pub is_adopted: bool,
    /// How far the books of this incarnation are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<BooksMark>,
    pub time: WallTime,
    pub keys: Vec<TokenKey>,
    /// How long the main server holds a heartbeat back when it has nothing to say.
    pub interval_ms: u64,
}

/// A key by which the node checks tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenKey {
    pub id: KeyId,
    pub key: Secret,
}

/// The node goes. For a while, by its own word: its copies are waited for until `back_in_s` is over.
/// With `leave`, for good: everything is moved off it first, and this is asked again for the
/// progress until `left` is true.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct DropMe {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_in_s: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leave: bool,
    /// Leave at once, even with the only copy of something.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DropMeReply {
    /// The node is struck off: it can end, and its directory is of no more use.
    #[serde(default)]
    pub left: bool,
    /// How far its draining is, for a node that leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<super::admin::DrainReply>,
}

/// A sign of life. The reply is held back until there are orders or the interval is over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Heartbeat {
    pub incarnation: Incarnation,
    pub space: Space,
    /// Transfers under way.
    #[serde(default)]
    pub transfers: u32,
    /// Payload bytes that came from clients in `store`, since the node's start.
    #[serde(default)]
    pub received_bytes: u64,
    /// The newest token key that is safe on the node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_key: Option<KeyId>,
    /// Orders that are done, or failed for good.
    #[serde(default)]
    pub acknowledged: List<u64, MAX_ITEMS>,
    /// Set when the node cannot store any more, with the reason (a failed disk, say).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Copies found damaged since the node's start.
    #[serde(default)]
    pub damaged_copies: u64,
    #[serde(default)]
    pub scrub: ScrubState,
    /// Set while the node deletes nothing by this main server's word, as by `is_adopted`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unadopted: bool,
    /// The node's own wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<WallTime>,
    /// What was said on connections with a lower `dial` and not answered is not to be heard any more.
    #[serde(default)]
    pub oldest_dial: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeartbeatReply {
    pub incarnation: Incarnation,
    /// How far the books of this incarnation are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<BooksMark>,
    pub time: WallTime,
    pub interval_ms: u64,
    /// Keys that the node may not have yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<TokenKey>,
    #[serde(default)]
    pub orders: List<Order, MAX_ITEMS>,
    /// Addresses of the nodes that the orders name.
    #[serde(default)]
    pub nodes: Addresses,
    /// How far the catalog's journal is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalHead>,
}

/// What every node is told of the catalog's journal, so that any of them can say where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHead {
    pub generation: u64,
    /// The last piece that is on at least two nodes.
    pub sequence: u64,
    /// How long the oldest change was not on two nodes by then, in milliseconds.
    #[serde(default)]
    pub lag_ms: u64,
    /// When that was so.
    pub time: WallTime,
    /// The fingerprint of the secret by which the journal may be read.
    pub reader: Fingerprint,
    /// The nodes that keep it.
    pub keepers: Addresses,
    /// How often the main server chose other ones since it started: where nothing is changed, only
    /// this says which of two was said later.
    #[serde(default)]
    pub choice: u64,
    /// This node is to keep it, too: it should `follow`.
    #[serde(default)]
    pub follow: bool,
}

/// The most generations of the journal that a node keeps, the newest ones.
pub const MAX_GENERATIONS: usize = 16;

/// Asks for the next pieces of the catalog's journal, and says what is durable on the node already.
/// The reply is held back until there are any, or the heartbeat's interval is over. On a connection
/// of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// What of the journal is durable on the node.
    #[serde(default)]
    pub kept: List<KeptGeneration, MAX_GENERATIONS>,
    /// Set when the node cannot keep the journal, with the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// One generation of the journal: a snapshot and all changes since, in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptGeneration {
    pub generation: u64,
    /// Of its file.
    pub bytes: u64,
}

/// The payload belongs into the file of a generation. No generation is 0: then there is no payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowReply {
    pub generation: u64,
    /// Where in the file the payload belongs. What the node has from there on, it cuts off.
    pub offset: u64,
    /// Generations before this one are of no more use.
    pub keep_from: u64,
}

/// Something to do, sent again with each heartbeat until it is acknowledged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub order: u64,
    /// Proof of what the order is about, and of whom it is from: a fetch token for this node; for
    /// `remove` a remove token whose id is the BLAKE3 of the serials, 8 bytes each, big-endian.
    pub token: Token,
    pub action: Action,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Store copies of the chunk on these nodes.
    Copy { targets: Vec<Target> },
    /// Verify the copy of the chunk that is here, and report it lost if it is damaged.
    Verify {},
    /// Delete the copies with these serials. Not carried out, nor acknowledged, by a node that has
    /// not adopted this main server.
    Remove {
        serials: List<Serial, MAX_ITEMS>,
        /// Free the space at once.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        purge: bool,
    },
}

/// A node to duplicate to, with the token to do so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub node: NodeId,
    pub token: Token,
}

/// Copies are durable here. The tokens with which they came are the proof.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stored {
    pub tokens: List<Token, MAX_CONFIRMATIONS>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredReply {
    pub nodes: Addresses,
    /// In the order of the request.
    pub chunks: List<Outcome<Confirmed>, MAX_CONFIRMATIONS>,
}

/// The copy counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// Where to duplicate the chunk now; none for a copy that was itself a duplicate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
}

/// How the duplication of chunks went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Duplicated {
    pub chunks: List<DuplicatedChunk, MAX_CONFIRMATIONS>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DuplicatedChunk {
    /// The token with which the chunk came to this node, or the order's.
    pub token: Token,
    /// Nodes on which it is durable now.
    #[serde(default)]
    pub done: Vec<NodeId>,
    /// Nodes where it failed, with the reason.
    #[serde(default)]
    pub failed: Vec<FailedTarget>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedTarget {
    pub node: NodeId,
    pub why: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DuplicatedReply {
    pub nodes: Addresses,
    /// In the order of the request: further targets, for those that failed.
    pub chunks: List<Outcome<Confirmed>, MAX_CONFIRMATIONS>,
}

/// Copies that were damaged and are dropped here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lost {
    pub serials: List<Serial, MAX_ITEMS>,
}

/// Digests of what the node holds, bucket by bucket, for the comparison after a start. A bucket is
/// the serials from `bucket * 4096` on. Buckets between `from` and `to` that are not listed are
/// empty. A node sends nothing else that could change what it holds on this connection meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inventory {
    /// The first bucket of the range.
    pub from: u64,
    /// The last bucket of the range.
    pub to: u64,
    /// By bucket.
    pub buckets: List<BucketDigest, MAX_ITEMS>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketDigest {
    pub bucket: u64,
    pub count: u32,
    /// Below 2^53; see `policy::inventory`.
    pub digest: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InventoryReply {
    /// Buckets that differ, of those compared.
    pub differ: Vec<u64>,
    /// The bucket from which to go on, when the range was not compared to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// Everything that the node holds in one bucket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holdings {
    pub bucket: u64,
    pub held: List<HeldChunk, MAX_HOLDINGS>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldChunk {
    pub serial: Serial,
    pub length: u32,
    /// The first four bytes of the id's digest, as a big-endian number.
    pub fingerprint: u32,
    /// It was removed, and is kept as trash: it does not count, and can be restored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trashed: bool,
}

/// What came of the comparison of one bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldingsReply {
    /// Copies that count again.
    pub found: u64,
    /// Copies that the books had and the node has not.
    pub lost: u64,
    /// Copies that the books know nothing of; the node keeps them.
    pub unknown: u64,
    /// Trash that the books count on: to be restored, and the bucket's holdings sent again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore: Vec<Serial>,
}

/// The comparison is over: from now on the node's copies count.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Compared {}
