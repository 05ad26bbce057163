//! Reading and hashing: the bytes of some chunks in one buffer.
//!
//! A batch is either one piece of a large file or many small files. Its buffer goes back to the
//! operation's few buffers when the last reference to the batch is gone, which bounds the memory.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::client::ClientError;
use crate::ids::{ChunkId, HashAlgorithm};

/// How much room the first bytes of a stream are given.
const FIRST_READ_BYTES: usize = 64 * 1024;

/// Numbers the files of one operation.
pub(super) type FileKey = u64;

/// What must stay the same of a file while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub fn of(facts: &Metadata) -> Stamp {
        Stamp { size: facts.len(), modified: (facts.mtime(), facts.mtime_nsec()) }
    }

    /// Milliseconds since 1970, rounded down also before that.
    pub fn mtime_ms(&self) -> i64 {
        self.modified.0.saturating_mul(1000).saturating_add(self.modified.1 / 1_000_000)
    }
}

/// A few buffers that go round.
pub(super) struct Buffers {
    free: Receiver<Vec<u8>>,
    give_back: Sender<Vec<u8>>,
    not_made: usize,
}

impl Buffers {
    pub fn new(count: usize) -> Buffers {
        let (give_back, free) = unbounded();
        Buffers { free, give_back, not_made: count }
    }

    /// A buffer that nobody uses now.
    pub fn take(&mut self) -> Option<Buffer> {
        let bytes = match self.free.try_recv() {
            Ok(bytes) => bytes,
            Err(_) if self.not_made > 0 => {
                self.not_made -= 1;
                Vec::new()
            }
            Err(_) => return None,
        };
        Some(Buffer { bytes, give_back: self.give_back.clone() })
    }
}

pub(super) struct Buffer {
    bytes: Vec<u8>,
    give_back: Sender<Vec<u8>>,
}

impl Buffer {
    /// The bytes of `range`, which are made to exist.
    fn room(&mut self, range: Range<usize>) -> &mut [u8] {
        if self.bytes.len() < range.end {
            self.bytes.resize(range.end, 0);
        }
        &mut self.bytes[range]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // An operation that has ended needs it no more.
        let _ = self.give_back.send(std::mem::take(&mut self.bytes));
    }
}

/// One chunk of a file, in a batch.
pub(super) struct Piece {
    pub file: FileKey,
    /// Index of the chunk in its file.
    pub index: usize,
    pub id: ChunkId,
    at: Range<usize>,
}

/// Chunks that are read and named.
pub(super) struct Batch {
    buffer: Buffer,
    pub pieces: Vec<Piece>,
}

/// A chunk in memory.
#[derive(Clone)]
pub(in crate::client) struct PieceRef {
    batch: Arc<Batch>,
    number: usize,
}

impl PieceRef {
    /// All pieces of a batch.
    pub(super) fn all(batch: Batch) -> impl Iterator<Item = PieceRef> {
        let batch = Arc::new(batch);
        (0..batch.pieces.len()).map(move |number| PieceRef { batch: batch.clone(), number })
    }

    pub(super) fn piece(&self) -> &Piece {
        &self.batch.pieces[self.number]
    }

    pub fn bytes(&self) -> &[u8] {
        &self.batch.buffer.bytes[self.piece().at.clone()]
    }

    pub fn length(&self) -> u32 {
        u32::try_from(self.piece().at.len()).expect("a chunk has at most 16 MiB")
    }
}

/// Where the bytes of a piece come from.
pub(super) enum Input {
    /// A whole small file, which must still have this stamp.
    Whole(PathBuf, Stamp),
    /// A part of a large file.
    Part(Arc<File>, PathBuf, u64),
    /// A part of what is in memory.
    Held(Arc<Vec<u8>>, u64),
    /// A part read again: its bytes must still have this name.
    Again(PathBuf, u64, ChunkId),
}

/// A piece to read.
pub(super) struct ToRead {
    pub file: FileKey,
    pub index: usize,
    pub length: usize,
    pub input: Input,
}

/// Why a piece could not be read.
pub(super) enum ReadFailure {
    /// The file is not what it was when it was looked at; it may be looked at again.
    Stale,
    Failed(ClientError),
}

/// A batch, and the files of which a piece could not be read.
pub(super) type ReadBatch = (Batch, Vec<(FileKey, ReadFailure)>);

/// Reads and names all the pieces.
pub(super) fn read_batch(
    mut buffer: Buffer,
    to_read: Vec<ToRead>,
    hash: HashAlgorithm,
) -> ReadBatch {
    let mut pieces = Vec::with_capacity(to_read.len());
    let mut failures = Vec::new();
    let mut end = 0;
    for wanted in to_read {
        let at = end..end + wanted.length;
        let bytes = buffer.room(at.clone());
        match read_piece(&wanted.input, bytes, hash) {
            Ok(id) => {
                end = at.end;
                pieces.push(Piece { file: wanted.file, index: wanted.index, id, at });
            }
            Err(failure) => failures.push((wanted.file, failure)),
        }
    }
    (Batch { buffer, pieces }, failures)
}

fn read_piece(
    input: &Input,
    bytes: &mut [u8],
    hash: HashAlgorithm,
) -> Result<ChunkId, ReadFailure> {
    match input {
        Input::Whole(path, stamp) => {
            read_whole(path, *stamp, bytes).map_err(|error| failed(path, error))??;
            Ok(ChunkId::of(hash, bytes))
        }
        Input::Part(file, path, offset) => {
            file.read_exact_at(bytes, *offset).map_err(|error| failed(path, error))?;
            Ok(ChunkId::of(hash, bytes))
        }
        Input::Held(held, offset) => {
            let from = *offset as usize;
            bytes.copy_from_slice(&held[from..from + bytes.len()]);
            Ok(ChunkId::of(hash, bytes))
        }
        Input::Again(path, offset, id) => {
            let read = File::open(path).and_then(|file| file.read_exact_at(bytes, *offset));
            read.map_err(|error| failed(path, error))?;
            let same = ChunkId::of(id.algorithm(), bytes) == *id;
            if same { Ok(*id) } else { Err(ReadFailure::Failed(ClientError::Changed)) }
        }
    }
}

fn failed(path: &Path, error: io::Error) -> ReadFailure {
    // The file ended before the size that it had.
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return ReadFailure::Failed(ClientError::Changed);
    }
    let path = path.to_path_buf();
    ReadFailure::Failed(ClientError::Io { doing: "read", path, source: error })
}

fn read_whole(path: &Path, stamp: Stamp, bytes: &mut [u8]) -> io::Result<Result<(), ReadFailure>> {
    let file = File::open(path)?;
    if Stamp::of(&file.metadata()?) != stamp {
        return Ok(Err(ReadFailure::Stale));
    }
    match file.read_exact_at(bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Err(ReadFailure::Stale));
        }
        other => other?,
    }
    let same = Stamp::of(&file.metadata()?) == stamp;
    Ok(if same { Ok(()) } else { Err(ReadFailure::Stale) })
}

/// A piece of a stream; the stream comes back for the next one.
pub(super) struct StreamPiece {
    pub stream: Box<dyn Read + Send>,
    /// `None` at the end of the stream.
    pub batch: Result<Option<Batch>, io::Error>,
    /// The stream has ended behind this piece.
    pub is_last: bool,
}

/// Reads the next piece of a stream, of `length` bytes unless the stream ends.
pub(super) fn read_stream(
    mut buffer: Buffer,
    mut stream: Box<dyn Read + Send>,
    (file, index): (FileKey, usize),
    length: usize,
    hash: HashAlgorithm,
) -> StreamPiece {
    let mut filled = 0;
    while filled < length {
        // As much again as has come: a short stream takes little memory, and little of it is cleared.
        let end = length.min((2 * filled).max(FIRST_READ_BYTES));
        match stream.read(buffer.room(filled..end)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return StreamPiece { stream, batch: Err(error), is_last: true },
        }
    }
    let is_last = filled < length;
    if filled == 0 {
        return StreamPiece { stream, batch: Ok(None), is_last };
    }
    let id = ChunkId::of(hash, buffer.room(0..filled));
    let pieces = vec![Piece { file, index, id, at: 0..filled }];
    StreamPiece { stream, batch: Ok(Some(Batch { buffer, pieces })), is_last }
}
