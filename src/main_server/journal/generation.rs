//! One generation of the journal: its file, to which pieces are appended.
//!
//! The main server never reads it again but to pass it on, and begins another at each start. So it
//! need not be durable here: durable is what is so on the keepers.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::catalog::CatalogError;
use crate::catalog::sqlite::Snapshot;
use crate::clock::WallTime;
use crate::journal::{HEADER_BYTES, Header, Kind, Piece, Seal, SealingKey, path_of};

/// About how many bytes a piece has.
pub const PIECE_BYTES: usize = 1 << 20;
/// A log shorter than this does not outgrow its snapshot.
const LOG_BYTES: u64 = 64 << 20;

/// Why the journal cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

/// A generation in the making.
pub struct Generation {
    pub number: u64,
    pub bytes: u64,
    pub sequence: u64,
    path: PathBuf,
    file: File,
    seal: Seal,
    /// What is still to be written of the snapshot.
    snapshot: Option<Snapshot>,
    snapshot_bytes: u64,
}

impl Generation {
    /// Begins one with this snapshot.
    pub fn begin(
        directory: &Path,
        header: &Header,
        sealing: &SealingKey,
        snapshot: Snapshot,
    ) -> Result<Generation, WriteError> {
        let path = path_of(directory, header.generation);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| {
            file.write_all(&header.to_bytes())?;
            Ok(file)
        });
        let file = written.map_err(|source| WriteError::Io {
            doing: "begin",
            path: path.clone(),
            source,
        })?;
        Ok(Generation {
            number: header.generation,
            bytes: HEADER_BYTES as u64,
            sequence: 0,
            path,
            file,
            seal: Seal::new(sealing, header),
            snapshot: Some(snapshot),
            snapshot_bytes: 0,
        })
    }

    /// Appends a piece.
    pub fn append(
        &mut self,
        kind: Kind,
        is_boundary: bool,
        time: WallTime,
        body: Vec<u8>,
    ) -> Result<(), WriteError> {
        let sequence = self.sequence + 1;
        let sealed = self.seal.seal(&Piece { sequence, kind, is_boundary, time, body });
        self.file.write_all(&sealed).map_err(|source| {
            let path = self.path.clone();
            WriteError::Io { doing: "append to", path, source }
        })?;
        self.sequence = sequence;
        self.bytes += sealed.len() as u64;
        if kind == Kind::Snapshot {
            self.snapshot_bytes += sealed.len() as u64;
        }
        Ok(())
    }

    /// True until the whole snapshot is written.
    pub fn has_snapshot_to_write(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Writes the next piece of the snapshot; true when it was the last.
    pub fn write_snapshot_piece(&mut self, time: WallTime) -> Result<bool, WriteError> {
        let Some(snapshot) = &mut self.snapshot else { return Ok(false) };
        let body = snapshot.next(PIECE_BYTES)?.unwrap_or_default();
        let is_last = snapshot.is_over();
        if is_last {
            self.snapshot = None;
        }
        self.append(Kind::Snapshot, is_last, time, body)?;
        Ok(is_last)
    }

    /// True when another snapshot is shorter to read than what was changed since this one.
    pub fn has_outgrown_its_snapshot(&self) -> bool {
        let log = self.bytes - self.snapshot_bytes;
        self.snapshot.is_none() && log > LOG_BYTES.max(2 * self.snapshot_bytes)
    }
}
