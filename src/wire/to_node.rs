//! The messages to a storage node.

use serde::{Deserialize, Serialize};

use super::node_to_main::{JournalHead, KeptGeneration};
use super::{List, MAX_ITEMS, Outcome, requests};
use crate::ids::{ChunkId, NodeId, Secret};
use crate::token::Token;

requests! {
    /// What a storage node can be asked.
    ToNode {
        "store" => Store -> StoreReply,
        "fetch" => Fetch -> FetchReply,
        "journal" => ReadJournal -> ReadJournalReply,
    }
}

/// Stores chunks. Their bytes follow as the payload, one after the other, in this order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Store {
    pub chunks: List<StoreChunk, MAX_ITEMS>,
}

/// One chunk of a `store`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreChunk {
    pub id: ChunkId,
    /// Bytes of the chunk, and of its part of the payload.
    pub length: u32,
    pub token: Token,
}

/// An outcome for each chunk, in the order of the request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreReply {
    pub chunks: List<Outcome<StoredChunk>, MAX_ITEMS>,
}

/// The chunk is durable here, and on the other nodes named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredChunk {
    /// Durable copies that the node knows of, its own included.
    pub copies: u8,
    /// The nodes that hold them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
}

/// Reads chunks or parts of them. All together at most 16 MiB.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fetch {
    pub chunks: List<FetchChunk, MAX_ITEMS>,
}

/// One chunk of a `fetch`; which one, the token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchChunk {
    pub token: Token,
    /// First byte wanted.
    #[serde(default)]
    pub offset: u32,
    /// Bytes wanted; all from `offset` on when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
}

/// An outcome for each chunk, in the order of the request; the bytes of the good ones follow as
/// the payload, in that order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchReply {
    pub chunks: List<Outcome<FetchedChunk>, MAX_ITEMS>,
}

/// Bytes that follow in the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedChunk {
    pub length: u32,
}

/// Reads what the node keeps of the catalog's journal, for a main server that is built anew. What is
/// kept is sealed; `secret`, which comes from the recovery key, shows that it is asked for by right.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadJournal {
    pub secret: Secret,
    /// The generation to read from; 0 only asks what there is.
    #[serde(default)]
    pub generation: u64,
    /// Where in its file.
    #[serde(default)]
    pub offset: u64,
}

/// The bytes asked for are the payload: as many as fit, none at the end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReadJournalReply {
    /// What is kept here.
    pub kept: Vec<KeptGeneration>,
    /// What the main server said last of the journal, and where it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<JournalHead>,
}
