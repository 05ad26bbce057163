//! Sealing and opening pieces: ChaCha20-Poly1305 (RFC 8439) under a key of the file's own, with the
//! sequence number as the nonce. The file's key is BLAKE3's `derive_key` of the sealing key and the
//! whole header, so a piece opens in its own place alone: not in another file, nor under another
//! number.

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};

use crate::clock::WallTime;

use super::file::{Header, Kind, PIECE_HEAD_BYTES, Piece, PieceHead};
use super::keys::SealingKey;

const FILE_KEY: &str = "p2pdfs 2026-11 journal: the key of one file";
const IS_SNAPSHOT: u8 = 1;
const IS_BOUNDARY: u8 = 2;
/// What of the sealed part is not the catalog's.
const OWN_BYTES: usize = 9;

/// What is wrong with a piece.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPiece {
    #[error("it has a bad checksum")]
    Sum,
    #[error("it has number {found} where {expected} should be")]
    Sequence { expected: u64, found: u64 },
    /// It was changed, or sealed under another key.
    #[error("it does not open")]
    Sealed,
}

/// Seals and opens the pieces of one file.
pub struct Seal(ChaCha20Poly1305);

impl Seal {
    /// Of the file with this header.
    pub fn new(key: &SealingKey, header: &Header) -> Seal {
        let mut hasher = blake3::Hasher::new_derive_key(FILE_KEY);
        hasher.update(&key.0).update(&header.to_bytes());
        Seal(ChaCha20Poly1305::new(hasher.finalize().as_bytes().into()))
    }

    /// The piece as it stands in the file.
    pub fn seal(&self, piece: &Piece) -> Vec<u8> {
        let mut plain = Vec::with_capacity(OWN_BYTES + piece.body.len());
        let snapshot = if piece.kind == Kind::Snapshot { IS_SNAPSHOT } else { 0 };
        plain.push(snapshot | if piece.is_boundary { IS_BOUNDARY } else { 0 });
        plain.extend_from_slice(&piece.time.0.to_be_bytes());
        plain.extend_from_slice(&piece.body);
        let sealed = self.0.encrypt(&nonce(piece.sequence), plain.as_slice());
        let sealed = sealed.expect("a piece is far below the cipher's limit");
        let head = PieceHead {
            length: sealed.len() as u32,
            sum: crc32c::crc32c_append(PieceHead::sum_of(piece.sequence), &sealed),
            sequence: piece.sequence,
        };
        [head.to_bytes().as_slice(), &sealed].concat()
    }

    /// Opens a piece, all bytes of it, which must have this number.
    pub fn open(&self, bytes: &[u8], sequence: u64) -> Result<Piece, BadPiece> {
        let (head, sealed) = bytes.split_first_chunk::<PIECE_HEAD_BYTES>().ok_or(BadPiece::Sum)?;
        let head = PieceHead::from_bytes(head);
        if crc32c::crc32c_append(PieceHead::sum_of(head.sequence), sealed) != head.sum {
            return Err(BadPiece::Sum);
        }
        if head.sequence != sequence {
            return Err(BadPiece::Sequence { expected: sequence, found: head.sequence });
        }
        let plain = self.0.decrypt(&nonce(sequence), sealed).map_err(|_| BadPiece::Sealed)?;
        let (own, body) = plain.split_first_chunk::<OWN_BYTES>().ok_or(BadPiece::Sealed)?;
        let [flags, time @ ..] = own;
        Ok(Piece {
            sequence,
            kind: if flags & IS_SNAPSHOT != 0 { Kind::Snapshot } else { Kind::Changes },
            is_boundary: flags & IS_BOUNDARY != 0,
            time: WallTime(u64::from_be_bytes(*time)),
            body: body.to_vec(),
        })
    }
}

fn nonce(sequence: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&sequence.to_be_bytes());
    nonce.into()
}
