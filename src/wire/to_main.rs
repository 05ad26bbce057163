//! The messages to the main server from clients. Those from nodes are in `node_to_main`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::admin::*;
use super::node_to_main::*;
use super::{List, MAX_ITEMS, MAX_PART_CHUNKS, Outcome, requests};
use crate::clock::WallTime;
use crate::ids::{Address, ChunkId, DEFAULT_COPIES, NodeId, RequestId, Version};
use crate::token::Token;

requests! {
    /// What the main server can be asked.
    ToMain {
        "allocate" => Allocate -> AllocateReply,
        "locate" => Locate -> LocateReply,
        "open" => Open -> OpenReply,
        "stage" => Stage -> Done,
        "commit" => Commit -> CommitReply,
        "stat" => Stat -> StatReply,
        "list" => ListDirectory -> ListReply,
        "mkdir" => MakeDirectory -> Done,
        "move" => Move -> Done,
        "remove" => Remove -> RemoveReply,
        "bad_copy" => BadCopy -> Done,
        "invite" => Invite -> InviteReply,
        "status" => Status -> StatusReply,
        "drain" => Drain -> DrainReply,
        "forget" => Forget -> Done,
        "adopt" => Adopt -> Done,
        "explain" => Explain -> ExplainReply,
        "what_if" => WhatIf -> WhatIfReply,
        "copies" => SetCopies -> SetCopiesReply,
        "removed" => ListRemoved -> ListRemovedReply,
        "undelete" => Undelete -> UndeleteReply,
        "add_me" => AddMe -> AddMeReply,
        "drop_me" => DropMe -> DropMeReply,
        "heartbeat" => Heartbeat -> HeartbeatReply,
        "stored" => Stored -> StoredReply,
        "duplicated" => Duplicated -> DuplicatedReply,
        "lost" => Lost -> Done,
        "inventory" => Inventory -> InventoryReply,
        "holdings" => Holdings -> HoldingsReply,
        "compared" => Compared -> Done,
        "follow" => Follow -> FollowReply,
    }
}

/// An answer that says nothing but that it was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// The addresses of the nodes that a reply names, by number.
pub type Addresses = BTreeMap<NodeId, Address>;

/// Paths travel as text and are checked one by one, so that a bad one costs only itself.
pub type PathText = String;

fn default_copies() -> u8 {
    DEFAULT_COPIES
}

/// Asks where to store chunks, and for the tokens to do so.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Allocate {
    /// Copies wanted of each.
    #[serde(default = "default_copies")]
    pub copies: u8,
    pub chunks: List<AllocateChunk, MAX_ITEMS>,
}

/// A chunk to be stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AllocateChunk {
    pub id: ChunkId,
    /// Bytes; 1 to 16 MiB.
    pub length: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AllocateReply {
    pub nodes: Addresses,
    /// In the order of the request.
    pub chunks: List<Outcome<Allocated>, MAX_ITEMS>,
    /// Until when the chunks are kept for a commit, by the main server's clock.
    pub lease_until: WallTime,
}

/// What to do about one chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allocated {
    /// Nothing: this account has stored it already, on enough live nodes.
    Stored { copies: u8 },
    /// Send it to this node.
    Store(Place),
}

/// A node, and the token for one transfer with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub node: NodeId,
    pub token: Token,
    /// Why this node was chosen; only where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Asks where the account's own chunks are, by id. The reply may cover fewer than asked, but at
/// least the first: as many as fit into a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Locate {
    pub chunks: List<ChunkId, MAX_ITEMS>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocateReply {
    pub nodes: Addresses,
    /// For the first ids of the request, in its order; `not_found` for those that the account never
    /// stored.
    pub chunks: List<Outcome<LocatedChunk>, MAX_ITEMS>,
}

/// A chunk and where to read it: copies in the order in which to try them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocatedChunk {
    pub id: ChunkId,
    pub length: u32,
    pub copies: Vec<Place>,
}

/// Asks for the chunks of files. The reply may cover fewer files than asked, but at least the
/// first; and of a large file only the chunks up to a point: as much as fits into a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Open {
    pub files: List<OpenFile, MAX_ITEMS>,
    /// Say for each copy why it is where it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub explain: bool,
}

/// One file of an `open`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenFile {
    pub path: PathText,
    /// The version wanted; the current one when left out. A page after the first should name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Index of the first chunk wanted.
    #[serde(default)]
    pub from: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenReply {
    pub nodes: Addresses,
    /// For the first files of the request, in its order.
    pub files: List<Outcome<OpenedFile>, MAX_ITEMS>,
}

/// A file, and its chunks from the index asked for on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenedFile {
    pub file: FileFacts,
    /// Index of the first of `chunks`.
    pub from: u64,
    pub chunks: List<LocatedChunk, MAX_ITEMS>,
}

/// What is known of a file's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    pub version: Version,
    /// Bytes.
    pub size: u64,
    pub chunk_count: u64,
    /// Copies wanted of each chunk.
    pub copies: u8,
    /// Modification time, milliseconds since 1970-01-01 UTC, as the writer said.
    pub mtime_ms: i64,
    pub executable: bool,
}

/// Keeps a part of a manifest for a later `commit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stage {
    /// Names the upload; drawn by the client.
    pub upload: RequestId,
    /// From 0.
    pub part: u32,
    pub chunks: List<ChunkId, MAX_PART_CHUNKS>,
}

/// Makes files visible, each on its own: whole or not at all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commit {
    pub request_id: RequestId,
    pub files: List<CommitFile, MAX_ITEMS>,
}

/// One file of a `commit`. It has `chunks`, or `upload` and `parts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitFile {
    pub path: PathText,
    /// The chunks in order; none for an empty file. All files of a commit together at most 4,096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<List<ChunkId, MAX_PART_CHUNKS>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<RequestId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<u32>,
    #[serde(default = "default_copies")]
    pub copies: u8,
    #[serde(default)]
    pub mtime_ms: i64,
    #[serde(default)]
    pub executable: bool,
    /// The version that must be current; 0 when nothing may stand there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<Version>,
    /// Make missing directories above it.
    #[serde(default)]
    pub parents: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitReply {
    /// In the order of the request.
    pub files: List<Outcome<CommittedFile>, MAX_ITEMS>,
}

/// A file that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedFile {
    pub version: Version,
    pub size: u64,
    /// Its chunks that have fewer copies than wanted yet; the main server has more made.
    pub under_copied_chunks: u64,
}

/// Asks what stands at paths.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stat {
    pub paths: List<PathText, MAX_ITEMS>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatReply {
    pub entries: List<Outcome<Entry>, MAX_ITEMS>,
}

/// A name and what stands there: a directory when `file` is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The last component; empty for the root.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileFacts>,
}

/// Lists a directory in pages, by the bytes of the names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListDirectory {
    pub path: PathText,
    /// The last name of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Entries wanted; 1 to 1,024, and 1,024 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListReply {
    pub entries: List<Entry, MAX_ITEMS>,
    /// True when there may be entries after the last of these.
    pub more: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MakeDirectory {
    pub request_id: RequestId,
    pub path: PathText,
    /// Make missing directories above it, and take one that exists for a success.
    #[serde(default)]
    pub parents: bool,
}

/// Renames a file or a directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Move {
    pub request_id: RequestId,
    pub from: PathText,
    pub to: PathText,
    /// A file at `to` gives way.
    #[serde(default)]
    pub replace: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Remove {
    pub request_id: RequestId,
    pub path: PathText,
    /// A directory with all below it.
    #[serde(default)]
    pub recursive: bool,
    /// The version that must be current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<Version>,
    /// For good: nothing of it can be brought back, and its space is freed at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub purge: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveReply {
    /// Files that are gone from the tree.
    pub files: u64,
}

/// Tells of a copy that was not what it should be. The token is the one it was fetched with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BadCopy {
    pub token: Token,
    /// What was wrong, for the log; at most 200 bytes are kept.
    pub what: String,
}
