//! The messages to the main server from administrators: the state of the cluster, and what a person
//! decides about it. And those about old contents of files, which every account may send.

use serde::{Deserialize, Serialize};

use super::node_to_main::Space;
use super::to_main::{Addresses, PathText};
use super::{List, MAX_ITEMS};
use crate::clock::WallTime;
use crate::ids::{Address, ChunkId, NodeId, RequestId, Secret, Serial, Version};

/// The most files that an answer names.
pub const MAX_NAMED_FILES: usize = 64;

/// Asks for an invite for nodes. Administrators only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Invite {
    /// How many nodes may join with it; 1 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// How long it is good; a day when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_s: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InviteReply {
    pub invite: Secret,
    pub expires: WallTime,
}

/// Asks for the cluster's state; the nodes come in pages, by number.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Status {
    /// The last node of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<NodeId>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusReply {
    pub time: WallTime,
    /// Files that can be seen.
    pub files: u64,
    pub chunks: u64,
    pub copies: u64,
    /// Chunks of files that have fewer copies on nodes that count than wanted.
    pub under_copied_chunks: u64,
    /// Of these, chunks with one such copy.
    #[serde(default)]
    pub single_copy_chunks: u64,
    /// Of these, chunks with none, while nodes that are away may have some.
    #[serde(default)]
    pub unreadable_chunks: u64,
    /// Chunks of files of which no node has a copy.
    #[serde(default)]
    pub lost_chunks: u64,
    /// Files with a chunk that has at most one copy on nodes that count and wants more.
    #[serde(default)]
    pub files_at_risk: u64,
    /// True once all chunks were looked at since the last change of nodes: until then the numbers
    /// above may be too low.
    #[serde(default)]
    pub is_surveyed: bool,
    #[serde(default)]
    pub repair: RepairStatus,
    #[serde(default)]
    pub deletes: DeleteStatus,
    #[serde(default)]
    pub journal: JournalStatus,
    /// Milliseconds since the catalog was last made durable; missing when not since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit_ms: Option<u64>,
    /// What waits for something or for somebody, each in one line of words.
    #[serde(default)]
    pub notices: Vec<Notice>,
    pub nodes: List<NodeStatus, MAX_ITEMS>,
    /// True when there are nodes after the last of these.
    #[serde(default)]
    pub more: bool,
}

/// How the making of missing copies goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Chunks and bytes of copies that are still to be made.
    pub chunks_left: u64,
    pub bytes_left: u64,
    /// Bytes a second of late; 0 when nothing goes on.
    pub bytes_per_second: u64,
    /// Seconds until all is done at that rate; missing when nothing goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
    /// The limit set, in bytes a second; missing when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes_per_second: Option<u64>,
    /// Chunks of which copies are still to be moved off nodes that leave, and for equal fill.
    #[serde(default)]
    pub moves_left: u64,
    /// Chunks that nodes have orders to copy, or for which it is being decided, missed or not.
    #[serde(default)]
    pub orders: u64,
    /// Surplus copies that are still to be removed.
    #[serde(default)]
    pub surplus_copies: u64,
}

/// What is on its way to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteStatus {
    /// Copies that nodes are to delete and have not yet.
    pub condemned_copies: u64,
    /// Of these, copies that no removal or expiry explains, and that were not let go.
    pub unexplained_copies: u64,
    /// Bytes that nodes keep as trash.
    pub trash_bytes: u64,
}

/// How far the copies of the catalog on nodes are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Nodes that have all but the newest pieces.
    pub keepers: Vec<NodeId>,
    /// Milliseconds since the oldest change that is not on two nodes yet; 0 when all are.
    pub lag_ms: u64,
    pub generation: u64,
    pub sequence: u64,
}

/// Something that a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// One of `mass_silence`, `deletes_held`, `clock`, `unadopted`, `journal`, `failed_disk`,
    /// `no_space`, `lost_chunks`; later versions have more.
    pub code: String,
    /// What, why, with the numbers, and what to do.
    pub message: String,
}

/// A node as the main server sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    pub node: NodeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    pub zone: String,
    /// `alive`, `returning` (not compared yet), `suspect`, `dead`, `stopped` (by its own word) or
    /// `left`.
    pub state: String,
    /// Its copies are being moved off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Milliseconds since it was last heard; missing when not since the main server's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_ms: Option<u64>,
    pub space: Space,
    /// Payload bytes that came from clients in `store`, since the node's start, as of its last
    /// heartbeat.
    #[serde(default)]
    pub received_bytes: u64,
    /// Why it cannot store, by its own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Copies found damaged since the node's start.
    #[serde(default)]
    pub damaged_copies: u64,
    #[serde(default)]
    pub scrub: super::node_to_main::ScrubState,
    /// For a node that is draining: chunks that have a copy there and not enough elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_left: Option<u64>,
}

/// Moves all copies off a node, or stops doing so. Says how far that is; to be asked again for the
/// progress. Administrators only.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Drain {
    pub node: NodeId,
    /// Take it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReply {
    /// Chunks with a copy on the node that have not enough others yet, and their bytes.
    pub chunks_left: u64,
    pub bytes_left: u64,
    /// Of these, chunks that have no other copy at all.
    pub only_copies: u64,
    /// Files of which the node has the only copy of a chunk: some of them.
    pub files: Vec<PathText>,
    /// Nothing depends on the node any more.
    pub is_done: bool,
    /// Why it does not go on, where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// Strikes a node off for good: its copies do not count from then on, and it can never come back.
/// Refused (`would_lose`, with `files`) when chunks have their only copy there, unless `force`.
/// Administrators only.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Forget {
    pub node: NodeId,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A person's word that something that was stopped for safety may go on. Administrators only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopt {
    pub what: Adopted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adopted {
    /// The nodes may delete by this main server's word, though it is not the one they knew.
    Nodes,
    /// The main server's clock is right, though catalog or nodes say otherwise.
    Clock,
    /// Deletes that nobody's removal explains may be carried out.
    Deletes,
    /// So many nodes are really gone: their chunks may be copied anew.
    Silence,
}

/// Asks where copies are and why there. Administrators only.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Explain {
    /// A file of the administrator's own account; its chunks from index `from` on.
    File {
        path: PathText,
        #[serde(default)]
        from: u64,
    },
    Chunk {
        id: ChunkId,
    },
    Node {
        node: NodeId,
    },
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ExplainReply {
    /// Of the file, or the one chunk, as many as fit.
    #[serde(default)]
    pub chunks: Vec<ExplainedChunk>,
    /// True when the file has chunks after the last of these.
    #[serde(default)]
    pub more: bool,
    /// What placement makes of each node now, for a chunk of the first one's length.
    #[serde(default)]
    pub nodes: Vec<ExplainedNode>,
    pub addresses: Addresses,
}

/// One chunk: where its copies are, and what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedChunk {
    pub id: ChunkId,
    pub serial: Serial,
    pub length: u32,
    pub wanted: u8,
    pub copies: Vec<ExplainedCopy>,
    /// `enough`, `under_way`, `queued`, `waiting`, `surplus`, `unreadable` or `lost`.
    pub state: String,
    /// In words: what is being done, on what it waits, and when it is done.
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedCopy {
    pub node: NodeId,
    /// Why it is there, in words.
    pub reason: String,
    /// The node's state.
    pub state: String,
    /// It counts towards the copies wanted.
    pub counts: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedNode {
    pub node: NodeId,
    pub state: String,
    /// Missing for a node that can take the chunk; otherwise the word for why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// In words, with the numbers.
    pub detail: String,
    pub orders: u64,
}

/// Asks what would happen if these nodes, and all of these zones, were gone. In pages over the
/// files. Administrators only.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WhatIf {
    #[serde(default)]
    pub nodes: Vec<NodeId>,
    #[serde(default)]
    pub zones: Vec<String>,
    /// From the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// Of the files of this page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhatIfReply {
    /// The nodes that would be gone.
    pub nodes: Vec<NodeId>,
    /// Files that would be read as now.
    pub safe: u64,
    /// Files that could not be read until one of these nodes, or another that is away, comes back.
    pub unreadable: u64,
    /// Files that have a chunk on these nodes alone: lost, if they do not come back.
    pub lost: u64,
    /// Names: `unreadable` ones, and `lost` ones, some of each.
    #[serde(default)]
    pub unreadable_files: Vec<PathText>,
    #[serde(default)]
    pub lost_files: Vec<PathText>,
    /// Where to go on; missing when this was the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// Changes how many copies a file, or all files below a directory, shall have. In pages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetCopies {
    pub request_id: RequestId,
    pub path: PathText,
    pub copies: u8,
    /// From the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetCopiesReply {
    /// Files and chunks that were looked at.
    pub files: u64,
    pub chunks: u64,
    /// Chunks that keep more copies, since other files or versions want them.
    pub kept: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// Lists removed files that can still be brought back, below a path, the newest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListRemoved {
    pub path: PathText,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Version>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListRemovedReply {
    pub files: List<RemovedFile, MAX_ITEMS>,
    pub more: bool,
}

/// A file that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedFile {
    pub path: PathText,
    pub version: Version,
    pub size: u64,
    pub removed: WallTime,
    /// When it goes for good.
    pub expires: WallTime,
}

/// Brings a removed file back to its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Undelete {
    pub request_id: RequestId,
    pub path: PathText,
    /// The version to bring back; the one removed last when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndeleteReply {
    pub version: Version,
}
