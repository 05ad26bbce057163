//! Open connections, kept and used again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::{Address, NodeId, Secret};
use crate::wire::connection::{CallError, Connection, Dialing};
use crate::wire::frame::FrameError;
use crate::wire::{Dialled, Hello, Role, Sockets};

/// Connections that wait to be used again, per server: as many as there are operations at a time, since
/// to open one anew costs more than a small exchange on it.
const KEPT_PER_SERVER: usize = 32;

/// Who should answer at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Main,
    Node(NodeId),
}

pub(super) struct Connections {
    dialing: Dialing,
    key: Secret,
    sockets: Arc<Sockets>,
    /// Guards the table alone; connections are used outside of it.
    idle: Mutex<HashMap<Address, Vec<Dialled>>>,
}

impl Connections {
    /// Connections that `sockets` can cut.
    pub fn new(dialing: Dialing, key: Secret, sockets: Arc<Sockets>) -> Connections {
        Connections { dialing, key, sockets, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Address, Vec<Dialled>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `talk` use a connection. One that was kept may have been closed by the server since:
    /// then `talk` runs again on a new one, so what it does must be safe to repeat.
    pub fn with<T>(
        &self,
        address: &Address,
        peer: Peer,
        mut talk: impl FnMut(&mut Connection) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let kept = self.idle().get_mut(address).and_then(Vec::pop);
        if let Some(mut connection) = kept {
            match talk(&mut connection) {
                Err(error) if is_stale(&error) => {
                    // Those kept beside it were opened to the same, now gone, process.
                    self.idle().remove(address);
                }
                result => {
                    self.keep(connection, &result);
                    return result;
                }
            }
        }
        let mut connection = self.open(address, peer)?;
        let result = talk(&mut connection);
        self.keep(connection, &result);
        result
    }

    fn keep<T>(&self, connection: Dialled, result: &Result<T, CallError>) {
        // After any error but a fault the stream may be out of step.
        if matches!(result, Ok(_) | Err(CallError::Fault(_))) {
            let mut idle = self.idle();
            let kept = idle.entry(connection.address().clone()).or_default();
            if kept.len() < KEPT_PER_SERVER {
                kept.push(connection);
            }
        }
    }

    fn open(&self, address: &Address, peer: Peer) -> Result<Dialled, CallError> {
        let mut hello = Hello::new(Role::Client);
        if peer == Peer::Main {
            hello.key = Some(self.key);
        }
        let connection = self.sockets.open(address, &self.dialing, &hello)?;
        let answered = connection.hello().node;
        let what = match (peer, answered) {
            (Peer::Main, Some(node)) => format!("storage node {node}"),
            (Peer::Node(wanted), Some(node)) if node != wanted => {
                format!("node {node} and not node {wanted}")
            }
            (Peer::Node(_), None) => "not a node of a cluster".to_string(),
            (Peer::Main, None) | (Peer::Node(_), Some(_)) => return Ok(connection),
        };
        Err(CallError::BadReply { address: address.clone(), what })
    }
}

/// True when the server had closed the connection before it could have answered.
fn is_stale(error: &CallError) -> bool {
    match error {
        CallError::Closed(_) => true,
        CallError::Broken { source, .. } => {
            matches!(source, FrameError::CutOff | FrameError::Io(_))
        }
        _ => false,
    }
}
