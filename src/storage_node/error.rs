//! Why a node does not run.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::ids::{Address, ClusterId, NodeId};
use crate::segments::StoreError;
use crate::wire::CallError;

use super::config::MAX_ZONE_BYTES;

/// Why a node cannot start, or cannot go on. One variant for each thing that its operator would do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Nothing there, and no invite with which to make a node of it: an unmounted disk, or a typing
    /// error in the directory's name.
    #[error("{0} holds no storage node")]
    NoNode(PathBuf),
    /// The directory began to join and did not finish, and there is no invite to finish with.
    #[error("{0} has begun to join a cluster and was interrupted")]
    JoinUnfinished(PathBuf),
    /// A new node would go among things that are not its own.
    #[error("{directory} is not empty: it holds {found}, which is no part of a node")]
    NotEmpty { directory: PathBuf, found: String },
    /// A store without the file that says whose it is.
    #[error("{0} holds a chunk store, but its node.json is missing")]
    IdentityMissing(PathBuf),
    /// `node.json` or `keys.json` is not what this program writes.
    #[error("{path} is not a file of this program: {what}")]
    BadFile { path: PathBuf, what: String },
    /// The store is not that of the node which `node.json` names.
    #[error(
        "the store in {directory} is that of node {store}, and node.json is that of node {file}"
    )]
    Mixed { directory: PathBuf, store: NodeId, file: NodeId },
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// Needed at the first start and not given.
    #[error("a new node needs {0}")]
    Missing(&'static str),
    #[error("the zone has {0} bytes, and may have {MAX_ZONE_BYTES}")]
    ZoneTooLong(usize),
    /// Others would connect to it in plain text, and nobody said that they may.
    #[error("{0} can be reached from other machines, and connections would not be encrypted")]
    NotLoopback(SocketAddr),
    /// It listens on all addresses, of which none can be told to others.
    #[error("{0} says nothing about where other machines can reach this node")]
    NoAddress(SocketAddr),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the main server at {main} did not let this node join")]
    Join { main: Address, source: Box<CallError> },
    /// The main server at that address belongs to another cluster.
    #[error("the main server at {main} has cluster {found}, and this node belongs to {own}")]
    OtherCluster { main: Address, found: ClusterId, own: ClusterId },
    /// The node has started from another copy of this directory since.
    #[error("{0} is a stale copy: its node has started from another copy of it since")]
    StaleDirectory(PathBuf),
    /// The main server struck the node off for good.
    #[error("the node has left its cluster for good: {0}")]
    Left(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl NodeError {
    /// Makes the error of `doing` something to `path`, for `map_err`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NodeError {
        let path = path.to_path_buf();
        move |source| NodeError::Io { doing, path, source }
    }
}
