//! What can go wrong for a client.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{Address, ChunkId, NodeId};
use crate::remote_path::PathError;
use crate::wire::connection::CallError;
use crate::wire::{Fault, FaultCode};

/// Why an operation, or one file of it, did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answered at the main server's address for as long as the client is patient.
    #[error("no main server answers at {address}")]
    NoMainServer { address: Address, waited: Duration, source: Arc<CallError> },
    /// Plain text would leave this machine, and nobody said that it may.
    #[error("{0} is not on this machine, and the connection would not be encrypted")]
    NotLoopback(Address),
    /// Somebody answered, but not a main server.
    #[error("what answers at {address} is {what}, not a main server")]
    NotAMainServer { address: Address, what: String },
    /// A server said no.
    #[error(transparent)]
    Refused(#[from] Fault),
    /// A node that was needed did not do its part for as long as the client is patient.
    #[error("node {node} does not do its part")]
    Node { node: NodeId, source: Arc<CallError> },
    #[error("cannot {doing} {path:?}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The file was written to while it was being stored: what was read may never have existed.
    #[error("it changed while it was read")]
    Changed,
    /// The local name cannot be a name in the store.
    #[error("its name cannot be a name in the store")]
    Name(#[from] PathError),
    /// No copy of a chunk could be read, and each that was read is damaged.
    #[error("chunk {chunk} is damaged on every node that could be asked: {}", told(.failures))]
    Damaged { chunk: ChunkId, failures: Vec<CopyFailure> },
    /// No copy of a chunk could be read now.
    #[error("chunk {chunk} cannot be read now: {}", told(.failures))]
    NoCopy { chunk: ChunkId, failures: Vec<CopyFailure> },
    /// What was asked for is not possible with this kind of thing.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// A thread of the client's own failed.
    #[error("a thread of the client failed: this is a bug")]
    Worker,
    #[error("interrupted")]
    Cancelled,
}

/// Why one copy could not be used.
#[derive(Debug, Clone)]
pub struct CopyFailure {
    pub node: NodeId,
    pub is_damaged: bool,
    pub why: String,
}

fn told(failures: &[CopyFailure]) -> String {
    if failures.is_empty() {
        return "no node has a copy".to_string();
    }
    let each: Vec<String> =
        failures.iter().map(|f| format!("node {}: {}", f.node, f.why)).collect();
    each.join("; ")
}

impl ClientError {
    /// The fault behind it, if a server answered with one.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            ClientError::Refused(fault) => Some(fault),
            ClientError::NoMainServer { source, .. } | ClientError::Node { source, .. } => {
                source.fault()
            }
            _ => None,
        }
    }

    /// The error of an exchange with the main server, for another one whose exchange it was too.
    pub(super) fn again(&self) -> ClientError {
        match self {
            ClientError::NoMainServer { address, waited, source } => {
                let (address, waited, source) = (address.clone(), *waited, source.clone());
                ClientError::NoMainServer { address, waited, source }
            }
            ClientError::NotLoopback(address) => ClientError::NotLoopback(address.clone()),
            ClientError::NotAMainServer { address, what } => {
                ClientError::NotAMainServer { address: address.clone(), what: what.clone() }
            }
            ClientError::Refused(fault) => ClientError::Refused(fault.clone()),
            ClientError::Unsuitable(what) => ClientError::Unsuitable(what),
            ClientError::Cancelled => ClientError::Cancelled,
            // No exchange with the main server ends so.
            ClientError::Node { .. }
            | ClientError::Io { .. }
            | ClientError::Changed
            | ClientError::Name(_)
            | ClientError::Damaged { .. }
            | ClientError::NoCopy { .. }
            | ClientError::Worker => ClientError::Worker,
        }
    }

    /// The code of the fault behind it.
    pub fn code(&self) -> Option<FaultCode> {
        self.fault().map(|fault| fault.code)
    }
}

/// True when a call may succeed if it is simply made again, later.
pub(super) fn is_transient(error: &CallError) -> bool {
    use crate::wire::frame::FrameError;
    match error {
        CallError::Connect { source, .. } => !matches!(
            source.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
        ),
        CallError::NotLoopback(_) | CallError::BadReply { .. } => false,
        CallError::Broken { source: FrameError::TooLarge { .. }, .. } => false,
        CallError::Broken { .. } | CallError::Closed(_) => true,
        CallError::Fault(fault) => matches!(
            fault.code,
            FaultCode::Busy
                | FaultCode::Timeout
                | FaultCode::Stopping
                | FaultCode::Unreachable
                | FaultCode::Internal
        ),
    }
}
