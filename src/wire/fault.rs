//! Faults: what a server answers when it cannot do what was asked.

use serde::{Deserialize, Serialize};

use crate::ids::{ChunkId, Version};

/// The closed list of fault codes; protocol.md says what a client should do on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// The message is not what protocol.md says it is.
    Malformed,
    /// A length in the head is over the limits, and the connection ends; or the answer would be, and
    /// the connection lives: ask for fewer items at once.
    TooLarge,
    UnknownRequest,
    /// No protocol version is spoken by both sides.
    UnsupportedVersion,
    /// The first request on a connection must be `hello`.
    HelloFirst,
    /// Not allowed: the key, secret, invite or token does not let its bearer do this.
    Denied,
    /// The token's time is over or its key is gone; a new one will do.
    TokenExpired,
    /// The payload is not the chunk that it claims to be.
    HashMismatch,
    /// The payload was made to collide under its hash.
    HashUnsafe,
    /// The commit names chunks that are not stored (see `chunks`).
    NotStored,
    NotFound,
    Exists,
    NotADirectory,
    IsADirectory,
    NotEmpty,
    /// The file is not at the version asked for (see `current`).
    Conflict,
    /// A path or name that the store does not take.
    BadName,
    /// Well-formed, but not possible: a bound exceeded, an option that does not exist.
    Invalid,
    /// No node, or not this one, has room.
    NoSpace,
    /// Fewer live nodes than copies that must be durable.
    TooFewNodes,
    /// The copy is damaged; another one may be whole.
    Damaged,
    /// At a limit; try again in a moment.
    Busy,
    /// The request did not arrive in time, or did not proceed in time.
    Timeout,
    /// The server is stopping.
    Stopping,
    /// The node's directory is a stale copy of another one.
    StaleDirectory,
    /// The node was struck off for good: it can end, and its directory is of no more use.
    Left,
    /// Done like this, chunks would have no copy left (see `files`).
    WouldLose,
    /// The main server cannot reach the node at the address that it gave.
    Unreachable,
    /// The server's own trouble; its log says more.
    Internal,
    /// A code of a later version of the protocol.
    #[serde(other)]
    Unknown,
}

impl FaultCode {
    /// True when the same request can succeed later without anyone changing anything about it.
    pub fn is_retryable(self) -> bool {
        use FaultCode::*;
        match self {
            TokenExpired | NotStored | NoSpace | TooFewNodes | Busy | Timeout | Stopping
            | Unreachable | Internal => true,
            Malformed | TooLarge | UnknownRequest | UnsupportedVersion | HelloFirst | Denied
            | HashMismatch | HashUnsafe | NotFound | Exists | NotADirectory | IsADirectory
            | NotEmpty | Conflict | BadName | Invalid | Damaged | StaleDirectory | Left
            | WouldLose | Unknown => false,
        }
    }
}

/// The most bytes of a fault's message.
pub const MAX_MESSAGE_BYTES: usize = 512;

/// A node and what placement says of it, for faults that must explain why no node would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedNode {
    pub node: crate::ids::NodeId,
    /// `ok` for one that would do, or one of placement's reasons: `full`, `suspect`, `dead`,
    /// `returning`, `stopped`, `slow`, `failed`, `draining`, `holds_it`.
    pub why: String,
    /// In words, with the numbers.
    pub detail: String,
}

/// What went wrong. The code is contract; the message is for people and says what failed, on
/// what, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub code: FaultCode,
    pub message: String,
    pub retryable: bool,
    /// With `not_stored`: the chunks, at most 256 of them in a whole reply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<ChunkId>,
    /// With `conflict`: the version that is current, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Version>,
    /// With `unsupported_version`: the lowest and highest that would do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<[u32; 2]>,
    /// With `no_space` and `too_few_nodes`, where they are the answer to the whole request and not
    /// to one item: the nodes that were refused, at most 32 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<RefusedNode>,
    /// With `would_lose`: some of the files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

impl Fault {
    /// A fault without details. The message is cut at `MAX_MESSAGE_BYTES`: it can quote what a peer
    /// sent, and a reply with a thousand faults must fit into a message.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Fault {
        let mut message = message.into();
        let mut end = message.len().min(MAX_MESSAGE_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        Fault {
            code,
            message,
            retryable: code.is_retryable(),
            chunks: Vec::new(),
            current: None,
            versions: None,
            nodes: Vec::new(),
            files: Vec::new(),
        }
    }
}

/// An answer, to a whole request or to one item of it: `{"ok": ...}` or `{"fault": ...}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome<T> {
    Ok(T),
    Fault(Fault),
}

impl<T> From<Result<T, Fault>> for Outcome<T> {
    fn from(result: Result<T, Fault>) -> Self {
        match result {
            Ok(value) => Outcome::Ok(value),
            Err(fault) => Outcome::Fault(fault),
        }
    }
}

impl<T> From<Outcome<T>> for Result<T, Fault> {
    fn from(outcome: Outcome<T>) -> Self {
        match outcome {
            Outcome::Ok(value) => Ok(value),
            Outcome::Fault(fault) => Err(fault),
        }
    }
}
