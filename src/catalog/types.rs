//! What goes into the catalog and what comes out of it.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::WallTime;
use crate::ids::{
    AccountId, Address, ChunkId, Incarnation, KeyId, NodeId, RequestId, Serial, Version,
};
use crate::remote_path::RemotePath;

/// The most chunk ids that a refusal names.
pub const MAX_NAMED_CHUNKS: usize = 256;
/// The most chunks of one staged part of a manifest.
pub const MAX_PART_CHUNKS: usize = 4096;
/// The most parts of one manifest.
pub const MAX_PARTS: u32 = 65_536;
/// How long the answer to a request is kept for its repeats.
pub const ANSWERS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a staged part waits for its commit.
pub const PARTS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// The highest serial that the sequence moves above on a node's word: far above any that time
/// gives, far below the end of the sequence.
pub const MAX_BELIEVED_SERIAL: Serial = Serial(1 << 52);

/// The nodes whose copies count now: neither suspect nor dead, and compared since they came up.
pub type LiveNodes = BTreeSet<NodeId>;

/// An account, as far as a request needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRecord {
    pub id: AccountId,
    pub name: String,
    /// May invite nodes and see the cluster's state.
    pub is_admin: bool,
}

/// A node, as the catalog last heard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    pub id: NodeId,
    pub secret_fingerprint: [u8; 32],
    /// `None` between joining and the first start.
    pub incarnation: Option<Incarnation>,
    pub address: Option<Address>,
    pub zone: String,
    pub offered_bytes: u64,
    /// The newest token key that the node acknowledged.
    pub key: Option<KeyId>,
    pub standing: Standing,
}

/// What was decided about a node, for good or until it is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    Member,
    /// Its copies are to be moved off; it gets no new ones.
    Draining,
    /// Struck off: no copy counts on it, and it cannot come back.
    Left,
}

/// One copy of a chunk: where, and the code of the reason for which it is there (the meaning of
/// the code belongs to placement; the catalog only keeps it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Copy {
    pub node: NodeId,
    pub reason: u8,
}

/// A chunk of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRecord {
    pub serial: Serial,
    pub account: AccountId,
    pub id: ChunkId,
    /// Bytes of the chunk.
    pub length: u32,
    /// Copies wanted: the most that anything asked for.
    pub wanted: u8,
    /// Confirmed copies, by node.
    pub copies: Vec<Copy>,
}

/// A node's word that a copy is durable on it, with what its token said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    pub account: AccountId,
    pub id: ChunkId,
    pub serial: Serial,
    pub length: u32,
    pub wanted: u8,
    pub node: NodeId,
    pub reason: u8,
}

/// A chunk that a node holds, as its index knows it: enough to compare two lists by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holding {
    pub serial: Serial,
    pub length: u32,
    /// The first four bytes of the id's digest, big-endian.
    pub fingerprint: u32,
}

impl Holding {
    /// The fingerprint of a chunk id.
    pub fn fingerprint_of(id: &ChunkId) -> u32 {
        let digest = id.digest();
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

/// A chunk as the survey of all chunks sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyedChunk {
    pub record: ChunkRecord,
    /// Some version refers to it.
    pub is_referred: bool,
}

/// One copy that was condemned: counted no more, and to be deleted on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CondemnedCopy {
    pub serial: Serial,
    pub why: Condemned,
    /// To be deleted on its node at once, and not kept as trash.
    pub purge: bool,
    /// It was decided before that it is to be deleted: by what condemned it, or, where that was its
    /// unknown serial, when it was named first.
    pub is_decided: bool,
}

/// Why a copy was condemned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Condemned {
    /// Nothing refers to its chunk any more: removed by a user, expired, or an upload that came to
    /// nothing.
    Unreferred = 1,
    /// There are as many verified copies as wanted without it.
    Surplus = 2,
    /// The node holds it, and the catalog does not know the serial.
    Unknown = 3,
}

/// What one step of expiry or collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Versions that are gone for good.
    pub versions: u64,
    /// Chunks and copies that were condemned.
    pub chunks: u64,
    pub copies: u64,
    /// Where to go on; `None` when there is nothing more to do now. For expiry only whether it is
    /// `Some` means something.
    pub next: Option<Serial>,
}

/// Sums over condemned copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CondemnedTotals {
    pub copies: u64,
    /// Of these, those with `Condemned::Unknown` that were never named as to be deleted.
    pub unknown: u64,
}

/// A file that can be seen, for those who look at all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// Rises from one to the next.
    pub position: u64,
    pub account: AccountId,
    pub path: RemotePath,
    pub version: Version,
    pub chunk_count: u64,
}

/// A removed file that can be brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedEntry {
    pub path: RemotePath,
    pub info: FileInfo,
    pub removed_at: WallTime,
}

/// What a change of the copies wanted did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiesSet {
    pub files: u64,
    pub chunks: u64,
    /// Chunks that keep more, since others refer to them, too.
    pub kept: u64,
    /// Chunks whose number has changed: they are to be judged anew. The first `MAX_PART_CHUNKS` of
    /// them, by serial.
    pub changed: Vec<Serial>,
    /// Where to go on.
    pub next: Option<u64>,
}

/// What a comparison changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciled {
    /// Copies that the node holds and that count from now on.
    pub found: u64,
    /// Chunks that lost this node's copy, as they are now.
    pub lost: Vec<ChunkRecord>,
    /// Serials that the node holds and the catalog does not know, or has condemned there.
    pub unknown: Vec<Serial>,
}

/// The chunks of a new file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// All of them, in order.
    Inline(Vec<ChunkId>),
    /// Parts 0 to `parts` - 1, staged before under `upload`.
    Staged { upload: RequestId, parts: u32 },
}

/// A file's new content, to be made visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    pub path: RemotePath,
    pub manifest: Manifest,
    pub copies: u8,
    /// Modification time in milliseconds since 1970-01-01 UTC, as the client says.
    pub mtime_ms: i64,
    pub executable: bool,
    pub condition: Condition,
    /// Make the directories above it where they are missing.
    pub parents: bool,
}

/// What must stand at the path for a commit to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Anything but a directory.
    Any,
    /// Nothing.
    Absent,
    /// A file with exactly this current version.
    Version(Version),
}

/// A file that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    pub version: Version,
    /// Bytes of the file.
    pub size: u64,
    /// Its chunks that have fewer confirmed live copies than wanted, by serial, each once; the
    /// first `MAX_PART_CHUNKS` of them.
    pub under_copied: Vec<Serial>,
}

/// What stands at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Empty for the root.
    pub name: String,
    pub kind: EntryKind,
}

/// A directory, or a file with its current version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    Directory,
    File(FileInfo),
}

/// The current version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    pub version: Version,
    pub size: u64,
    pub chunk_count: u64,
    pub copies: u8,
    pub mtime_ms: i64,
    pub executable: bool,
}

/// Sums over the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Files that can be seen.
    pub files: u64,
    /// Chunk records, reserved ones included.
    pub chunks: u64,
    /// Confirmed copies, on whatever node.
    pub copies: u64,
}

/// Why an operation was refused. Nothing was changed by it. Kept with the answers of a request, so
/// variants and fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    #[error("nothing stands at {0}")]
    NotFound(String),
    #[error("{0} exists already")]
    Exists(String),
    #[error("{0} is not a directory")]
    NotADirectory(String),
    #[error("{0} is a directory")]
    IsADirectory(String),
    #[error("the directory {0} is not empty")]
    NotEmpty(String),
    #[error("a path below would be longer or deeper than paths can be after a move to {0}")]
    PathTooLong(String),
    #[error("{from} cannot be moved into itself, to {to}")]
    IntoItself { from: String, to: String },
    #[error("{path} is not at the version asked for")]
    Conflict { path: String, current: Option<Version> },
    #[error("{} chunks are not stored by this account on enough live nodes", chunks.len())]
    NotStored { chunks: Vec<ChunkId> },
    #[error("chunk {id} is recorded with {recorded} bytes, not {asked}")]
    LengthDiffers { id: ChunkId, recorded: u32, asked: u32 },
    #[error("the confirmation of serial {serial} is not of the account's chunk {id} as it is now")]
    Superseded { id: ChunkId, serial: Serial },
    #[error("the manifest is not whole: {0}")]
    BadManifest(String),
    #[error("the invite is unknown, used up or expired")]
    UnknownInvite,
    #[error("node {0} never joined this cluster")]
    UnknownNode(NodeId),
    #[error("this directory of node {0} is a stale copy: the node has started from another since")]
    StaleDirectory(NodeId),
    #[error("node {0} was struck off")]
    NodeLeft(NodeId),
    #[error("request id {0} was used before, for something else")]
    RequestReused(RequestId),
}

/// Why the catalog gave no answer, or no good one.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The operation is not possible as things stand; the catalog is well.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("there is no catalog in {0}")]
    Missing(PathBuf),
    #[error("there is a catalog in {0} already")]
    AlreadyThere(PathBuf),
    #[error("another process has the catalog in {0} open")]
    Locked(PathBuf),
    #[error("the catalog in {path} has format {found}, and this program reads {known}")]
    Format { path: PathBuf, found: i64, known: i64 },
    #[error("the catalog is damaged: {0}")]
    Damaged(String),
    /// A write or a sync failed earlier; nothing more is taken.
    #[error("the catalog failed: {0}")]
    Failed(String),
    #[error("the catalog cannot {doing}")]
    Engine { doing: &'static str, source: rusqlite::Error },
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}
