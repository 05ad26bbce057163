//! How a node's errors look on the wire: the one place where they become faults.

use crate::segments::StoreError;
use crate::token::TokenError;
use crate::wire::{Fault, FaultCode};

/// A token that is no good. Which part of it is wrong stays unsaid.
pub(super) fn of_token(error: TokenError) -> Fault {
    let code = match error {
        TokenError::Denied => FaultCode::Denied,
        TokenError::Expired => FaultCode::TokenExpired,
    };
    Fault::new(code, error.to_string())
}

/// A token that is good, but not for this.
pub(super) fn denied() -> Fault {
    of_token(TokenError::Denied)
}

/// An error of the chunk store. Paths of this machine stay in its log.
pub(super) fn of_store(error: &StoreError) -> Fault {
    let (code, message) = match error {
        StoreError::NotFound(_) => (FaultCode::NotFound, error.to_string()),
        StoreError::Corrupt { id, .. } => {
            (FaultCode::Damaged, format!("the copy of chunk {id} on this node is damaged"))
        }
        StoreError::Unreadable { id, .. } => (
            FaultCode::Damaged,
            format!("the disk of this node cannot read its copy of chunk {id}"),
        ),
        StoreError::OutOfRange { .. } | StoreError::TooLarge { .. } => {
            (FaultCode::Invalid, error.to_string())
        }
        StoreError::SerialTaken { .. } => (FaultCode::Internal, error.to_string()),
        StoreError::NoSpace { .. } => (FaultCode::NoSpace, error.to_string()),
        StoreError::Failed { .. } => (
            FaultCode::Internal,
            "this node takes no more chunks: its disk failed, and its log says how".to_string(),
        ),
        StoreError::Io { .. }
        | StoreError::Locked(_)
        | StoreError::NotAStore(_)
        | StoreError::NotEmpty { .. }
        | StoreError::SegmentsMissing(_)
        | StoreError::BadMarker { .. }
        | StoreError::Version { .. } => (
            FaultCode::Internal,
            "this node cannot use its disk just now, and its log says why".to_string(),
        ),
    };
    Fault::new(code, message)
}
