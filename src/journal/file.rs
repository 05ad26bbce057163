//! The layout of a generation's file: a header, then pieces. All numbers are big-endian.
//!
//! Header, 88 bytes: `p2pdfsJ1`; the generation (8 bytes); the cluster (16); the fingerprint of the
//! secret by which it may be read (32); random bytes (20); CRC-32C of all before (4).
//!
//! A piece: the length of what is sealed (4 bytes); CRC-32C of all that follows (4); the sequence
//! number (8), from 1 and without a gap; what is sealed, with its authentication tag. A node that
//! cannot open it can so tell whole pieces from a torn tail.
//!
//! What is sealed: flags (1 byte: 1 for a piece of the snapshot, 2 where a boundary is at its end);
//! the time in milliseconds since 1970 (8); the rest is the catalog's.

use std::path::{Path, PathBuf};

use crate::clock::WallTime;
use crate::ids::{ClusterId, Fingerprint};

const MAGIC: [u8; 8] = *b"p2pdfsJ1";
/// Bytes of a file's header.
pub const HEADER_BYTES: usize = 88;
/// Bytes of a piece before what is sealed.
pub const PIECE_HEAD_BYTES: usize = 16;
/// The most bytes of a whole piece. One is about 1 MiB long, but a row is never split.
pub const MAX_PIECE_BYTES: usize = 256 << 20;
/// What the random part of a header has.
const SALT_BYTES: usize = 20;

/// The start of a generation's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub generation: u64,
    pub cluster: ClusterId,
    /// Of the secret by which the file may be read from a node.
    pub reader: Fingerprint,
    /// No two files have the same, so that none of them share a key.
    salt: [u8; SALT_BYTES],
}

impl Header {
    /// The header of a new file.
    pub fn new(generation: u64, cluster: ClusterId, reader: Fingerprint) -> Header {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).expect("the operating system gives random bytes");
        Header { generation, cluster, reader, salt }
    }

    /// As it stands in the file.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.generation.to_be_bytes());
        bytes[16..32].copy_from_slice(self.cluster.as_bytes());
        bytes[32..64].copy_from_slice(self.reader.as_bytes());
        bytes[64..84].copy_from_slice(&self.salt);
        let sum = crc32c::crc32c(&bytes[..84]);
        bytes[84..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Reads one back; `None` when it is not one.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let sum = u32::from_be_bytes(part(bytes, 84));
        if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..84]) != sum {
            return None;
        }
        Some(Header {
            generation: u64::from_be_bytes(part(bytes, 8)),
            cluster: ClusterId::from_bytes(part(bytes, 16)),
            reader: Fingerprint::from_bytes(part(bytes, 32)),
            salt: part(bytes, 64),
        })
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of that length")
}

/// The head of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PieceHead {
    /// Bytes that follow it.
    pub length: u32,
    pub sum: u32,
    pub sequence: u64,
}

impl PieceHead {
    pub fn to_bytes(self) -> [u8; PIECE_HEAD_BYTES] {
        let mut bytes = [0; PIECE_HEAD_BYTES];
        bytes[..4].copy_from_slice(&self.length.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.sum.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; PIECE_HEAD_BYTES]) -> PieceHead {
        PieceHead {
            length: u32::from_be_bytes(part(bytes, 0)),
            sum: u32::from_be_bytes(part(bytes, 4)),
            sequence: u64::from_be_bytes(part(bytes, 8)),
        }
    }

    /// The checksum of a piece with this number, of which the sealed part is still to come.
    pub fn sum_of(sequence: u64) -> u32 {
        crc32c::crc32c(&sequence.to_be_bytes())
    }
}

/// Of what a piece is a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All rows as they were at one boundary. These are applied first, wherever they stand.
    Snapshot,
    /// What changed between two boundaries.
    Changes,
}

/// A piece that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub sequence: u64,
    pub kind: Kind,
    /// The snapshot, or what changed up to one boundary, is complete with it.
    pub is_boundary: bool,
    /// When it was written.
    pub time: WallTime,
    pub body: Vec<u8>,
}

/// The name of a generation's file.
pub fn file_name(generation: u64) -> String {
    format!("{generation:020}.journal")
}

/// The file of a generation in a directory of the journal.
pub fn path_of(directory: &Path, generation: u64) -> PathBuf {
    directory.join(file_name(generation))
}

/// The generation that a file is of, by its name.
pub fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".journal")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}
