//! What can go wrong in the store, one variant for each thing that a caller would do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ids::{ChunkId, MAX_CHUNK_BYTES, Serial};

/// Why the store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such chunk under that serial.
    #[error("chunk {0} is not stored here")]
    NotFound(ChunkId),
    /// The bytes on disk are not those that were written: `give_up` takes them out.
    #[error("chunk {id} is damaged in {segment} at byte {offset}")]
    Corrupt { id: ChunkId, segment: PathBuf, offset: u64 },
    /// The disk cannot read the bytes, now at least: `give_up` puts the chunk aside.
    #[error("chunk {id} cannot be read from {segment} at byte {offset}")]
    Unreadable { id: ChunkId, segment: PathBuf, offset: u64, source: io::Error },
    /// The wanted range is not within the chunk.
    #[error("chunk {id} has {length} bytes: {wanted} from byte {offset} are not within it")]
    OutOfRange { id: ChunkId, length: u32, offset: u32, wanted: usize },
    /// The serial is already that of other bytes, which a main server never gives out.
    #[error("serial {serial} is held here already, and not for chunk {id}")]
    SerialTaken { serial: Serial, id: ChunkId },
    /// More bytes than a chunk may have.
    #[error("chunk {id} has {bytes} bytes: at most {MAX_CHUNK_BYTES} are allowed")]
    TooLarge { id: ChunkId, bytes: usize },
    /// The space offered is used up, or the file system is down to its reserve.
    #[error("{needed} bytes do not fit: {free} are free of the space offered, the reserve aside")]
    NoSpace { needed: u64, free: u64 },
    /// A sync failed earlier: what the disk holds is no longer known, so nothing more is stored.
    #[error("the store takes nothing more since it could not sync {path}")]
    Failed { path: PathBuf, source: Arc<io::Error> },
    /// The operating system refused.
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// Another process has the directory.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// There is no store where one should be, as when a disk is not mounted.
    #[error("{0} holds no chunk store: is its disk mounted?")]
    NotAStore(PathBuf),
    /// There is something where a new store should go.
    #[error("{directory} is not empty: it holds {found}")]
    NotEmpty { directory: PathBuf, found: String },
    /// The marker is there and the segments are not.
    #[error("{0} is missing or empty, though the store's marker file is there")]
    SegmentsMissing(PathBuf),
    /// The marker cannot be understood.
    #[error("{path} is not the marker of a chunk store")]
    BadMarker { path: PathBuf, source: serde_json::Error },
    /// Written by another version of this program.
    #[error("{path} has format {found}: this program knows {known}")]
    Version { path: PathBuf, found: u32, known: u32 },
}

impl StoreError {
    /// Makes the error of `doing` something to `path`, for `map_err`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_path_buf();
        move |source| StoreError::Io { doing, path, source }
    }

    /// Why a chunk is lost of which this is said; `None` if it need not be.
    pub fn loss(&self) -> Option<Loss> {
        match self {
            StoreError::Corrupt { .. } => Some(Loss::Damaged),
            StoreError::Unreadable { .. } => Some(Loss::Unreadable),
            _ => None,
        }
    }

    /// True if the disk, a quota or a limit on file sizes left no room for a write.
    pub(super) fn is_lack_of_space(error: &io::Error) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }
}

/// Why a copy cannot be counted on any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its bytes are not those that were written. It is gone for good.
    Damaged,
    /// The disk cannot read it. Its record is trash, which may be restored one day.
    Unreadable,
}

/// A chunk that is held no more, since it was found damaged or unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostCopy {
    /// Its serial.
    pub serial: Serial,
    /// Its id, where that can be read.
    pub id: Option<ChunkId>,
    /// What was found.
    pub loss: Loss,
}
