//! The main server's errors as faults of the wire.

use super::Main;
use super::nodes::NotWorking;
use crate::catalog::{CatalogError, Refusal};
use crate::policy::placement::Explained;
use crate::remote_path::{PathError, RemotePath};
use crate::token::TokenError;
use crate::wire::{Fault, FaultCode, Outcome, RefusedNode};

/// The most nodes that a fault names.
const MAX_NAMED_NODES: usize = 32;
/// The most chunks that all faults of a reply name together.
const MAX_NAMED_CHUNKS: usize = crate::catalog::MAX_NAMED_CHUNKS;

impl Main {
    /// The fault for an error of the catalog. One that is not a refusal stops the main server: it
    /// must not go on without its books.
    pub fn fault(&self, error: CatalogError) -> Fault {
        match error {
            CatalogError::Refused(refusal) => Fault::from(refusal),
            error => {
                self.catalog_failed(&error);
                Fault::new(
                    FaultCode::Internal,
                    "the main server's catalog failed; its log says more",
                )
            }
        }
    }

    /// Logs that the catalog failed and asks whoever runs the main server to stop it.
    pub fn catalog_failed(&self, error: &CatalogError) {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        log::error!("the catalog failed error={text:?}");
        // One failure is enough to stop for; those behind it are logged alone.
        let _ = self.failed.try_send(text);
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        let code = match &refusal {
            Refusal::NotFound(_) => FaultCode::NotFound,
            Refusal::Exists(_) => FaultCode::Exists,
            Refusal::NotADirectory(_) => FaultCode::NotADirectory,
            Refusal::IsADirectory(_) => FaultCode::IsADirectory,
            Refusal::NotEmpty(_) => FaultCode::NotEmpty,
            Refusal::Conflict { .. } => FaultCode::Conflict,
            Refusal::NotStored { .. } => FaultCode::NotStored,
            Refusal::PathTooLong(_) => FaultCode::BadName,
            Refusal::IntoItself { .. }
            | Refusal::LengthDiffers { .. }
            | Refusal::BadManifest(_)
            | Refusal::RequestReused(_) => FaultCode::Invalid,
            Refusal::Superseded { .. } | Refusal::UnknownInvite | Refusal::UnknownNode(_) => {
                FaultCode::Denied
            }
            Refusal::NodeLeft(_) => FaultCode::Left,
            Refusal::StaleDirectory(_) => FaultCode::StaleDirectory,
        };
        let mut fault = Fault::new(code, refusal.to_string());
        match refusal {
            Refusal::NotStored { chunks } => fault.chunks = chunks,
            Refusal::Conflict { current, .. } => fault.current = current,
            _ => {}
        }
        fault
    }
}

impl From<PathError> for Fault {
    fn from(error: PathError) -> Fault {
        Fault::new(FaultCode::BadName, error.to_string())
    }
}

impl From<NotWorking> for Fault {
    fn from(error: NotWorking) -> Fault {
        let code = match error {
            NotWorking::Unknown(_) => FaultCode::Denied,
            NotWorking::Left(_) => FaultCode::Left,
            NotWorking::NotAdded(_) => FaultCode::Busy,
            NotWorking::Outdated(_) => FaultCode::StaleDirectory,
        };
        Fault::new(code, error.to_string())
    }
}

/// The same words for everything that is wrong with a proof, so that nothing is learned from them.
impl From<TokenError> for Fault {
    fn from(_: TokenError) -> Fault {
        Fault::new(FaultCode::Denied, "the token is not one of this node's")
    }
}

/// A path as it came from a peer.
pub fn path(text: &str) -> Result<RemotePath, Fault> {
    Ok(text.parse::<RemotePath>()?)
}

/// A request that asks for what cannot be.
pub fn invalid(why: impl Into<String>) -> Fault {
    Fault::new(FaultCode::Invalid, why)
}

/// Fails unless this many copies can be asked for.
pub fn check_copies(copies: u8) -> Result<(), Fault> {
    let most = crate::ids::MAX_COPIES;
    match copies {
        0 => Err(invalid("0 copies are none")),
        n if n > most => {
            Err(invalid(format!("{n} copies are more than the {most} that there can be")))
        }
        _ => Ok(()),
    }
}

/// No node, or too few, can take a chunk: a fault that says so of each node.
pub fn no_place(code: FaultCode, why: String, explained: Vec<Explained>) -> Fault {
    let mut fault = Fault::new(code, why);
    let named = explained.into_iter().take(MAX_NAMED_NODES).map(|node| RefusedNode {
        node: node.node,
        why: node.unfit.map_or("ok", |unfit| unfit.name()).to_string(),
        detail: node.detail,
    });
    fault.nodes = named.collect();
    fault
}

/// Keeps the chunks that the faults of one reply name within their bound.
pub fn bound_named_chunks<T>(outcomes: &mut [Outcome<T>]) {
    let mut left = MAX_NAMED_CHUNKS;
    for outcome in outcomes {
        if let Outcome::Fault(fault) = outcome {
            fault.chunks.truncate(left);
            left -= fault.chunks.len();
        }
    }
}
