//! The bytes of a segment file and of a hint file. All numbers are big-endian, as on the wire.
//!
//! A segment, `segments/NNNNNNNN.seg` (eight decimal digits, counted up from 1), begins with its
//! header; the same 64 bytes stand again at byte 4096, so that one bad sector does not cost the
//! nonce, without which no record can be verified. Records begin at byte 8192.
//!
//! | offset | bytes | segment header |
//! |-------:|------:|---|
//! |  0 |  8 | `p2pdfsSG` |
//! |  8 |  4 | format version: 1 |
//! | 12 |  4 | number of the segment |
//! | 16 | 32 | nonce: random, drawn for this segment |
//! | 48 | 16 | the first 16 bytes of BLAKE3 over bytes 0 to 47 |
//!
//! Each record begins at a multiple of 16: a header, the CRC-32C of each block of 64 KiB of data
//! (4 bytes each; the last block may be shorter), the data, and zeros or the file's end up to the
//! next multiple of 16.
//!
//! | offset | bytes | record header |
//! |-------:|------:|---|
//! |  0 |  4 | `D5 72 65 63` |
//! |  4 |  1 | kind: 1 a chunk; a tombstone of a chunk that was 2 removed, 3 damaged, 4 removed for good; 5 a chunk kept as trash |
//! |  5 |  1 | hash function of the id: 1 BLAKE3, 2 SHA-1 |
//! |  6 |  2 | number of block checksums: the length in blocks, rounded up |
//! |  8 |  4 | length of the data, at most 16 MiB; 0 in a tombstone |
//! | 12 |  4 | account |
//! | 16 |  8 | serial |
//! | 24 |  4 | tombstone: segment of the record that it was written for; otherwise 0 |
//! | 28 |  4 | tombstone: offset of that record; otherwise 0 |
//! | 32 | 32 | digest; zeros after the 20 bytes of SHA-1, and after the first 4 in the tombstone of a chunk whose header could not be read |
//! | 64 | 16 | checksum |
//!
//! The checksum is the first 16 bytes of BLAKE3, keyed with the segment's nonce, over bytes 0 to 63
//! of the header, the record's offset in the file (8 bytes), and the block checksums. So nothing
//! that a client stores can pass for a record, not even a record copied from another place.
//!
//! Records count in the order of segment and offset: a chunk takes the place of all earlier ones
//! with its serial, and a tombstone takes all of them away. Of those that a tombstone of kind 2
//! took away the last can be restored, for as long as it stands. A record of kind 5 is a chunk and
//! its tombstone in one, so that no crash can come between the two when trash is moved.
//! A place that was reserved and never written, or not to its end, is a gap of zeros.
//!
//! Numbers of segments are never used again. `segments/compacted.json` lists those that were taken
//! away on purpose, `{"ranges": [[1, 4], [6, 6]]}`: any other that is missing was lost.
//!
//! A hint, `segments/NNNNNNNN.hint`, lists the good records of a segment to which nothing is
//! appended any more. It is never synced: one that is missing or does not verify is made anew.
//!
//! | offset | bytes | hint |
//! |-------:|------:|---|
//! |  0 |  8 | `p2pdfsHI` |
//! |  8 |  4 | format version: 1 |
//! | 12 |  4 | number of the segment |
//! | 16 |  8 | size of the segment file |
//! | 24 |  4 | number of entries |
//! | 28 |  4 | zero |
//! | 32 | 32 each | entries, in the order of their offsets |
//! | end | 16 | the first 16 bytes of BLAKE3, keyed with the segment's nonce, over all before |
//!
//! | offset | bytes | entry of a hint |
//! |-------:|------:|---|
//! |  0 |  8 | serial |
//! |  8 |  1 | kind, as in the record |
//! |  9 |  3 | zero |
//! | 12 |  4 | offset of the record |
//! | 16 |  4 | length of the data |
//! | 20 |  4 | first 4 bytes of the digest |
//! | 24 |  4 | tombstone: segment of the record that it was written for |
//! | 28 |  4 | tombstone: offset of that record |

use crate::ids::{AccountId, ChunkId, HashAlgorithm, MAX_CHUNK_BYTES, Serial};

/// The version of all of the above, and of the marker file.
pub const FORMAT_VERSION: u32 = 1;
/// The first bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"p2pdfsSG";
/// The first bytes of a hint.
pub const HINT_MAGIC: [u8; 8] = *b"p2pdfsHI";
/// The first bytes of a record.
pub const RECORD_MAGIC: [u8; 4] = [0xD5, b'r', b'e', b'c'];
/// The size of a segment header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Where the segment header stands again.
pub const SECOND_HEADER_AT: u64 = 4096;
/// Where the first record of a segment begins.
pub const FIRST_RECORD_AT: u64 = 8192;
/// Records begin at multiples of this.
pub const ALIGNMENT: u64 = 16;
/// The size of a record header.
pub const RECORD_HEADER_BYTES: usize = 80;
/// The bytes that one block checksum covers.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// The size of a checksum that is a shortened BLAKE3.
pub const CHECKSUM_BYTES: usize = 16;
/// The size of a hint's head, and of each entry after it.
pub const HINT_ENTRY_BYTES: usize = 32;

/// The random key of one segment's checksums.
pub(super) type Nonce = [u8; 32];

/// Where a record stands: the number of its segment and its offset there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub segment: u32,
    pub offset: u32,
}

impl Place {
    /// Before all others.
    pub const FIRST: Place = Place { segment: 0, offset: 0 };
    /// After all others.
    pub const LAST: Place = Place { segment: u32::MAX, offset: u32::MAX };
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Chunk {
        length: u32,
    },
    /// A chunk that was removed and can be restored.
    Trashed {
        length: u32,
    },
    Tombstone {
        reason: Reason,
        hides: Place,
    },
}

/// Why a chunk was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Removed,
    Damaged,
    /// Removed, and not to be restored.
    Purged,
}

impl Body {
    pub fn kind(self) -> u8 {
        match self {
            Body::Chunk { .. } => 1,
            Body::Tombstone { reason: Reason::Removed, .. } => 2,
            Body::Tombstone { reason: Reason::Damaged, .. } => 3,
            Body::Tombstone { reason: Reason::Purged, .. } => 4,
            Body::Trashed { .. } => 5,
        }
    }

    pub fn length(self) -> u32 {
        match self {
            Body::Chunk { length } | Body::Trashed { length } => length,
            Body::Tombstone { .. } => 0,
        }
    }

    /// The place in a tombstone's header; zeros for a chunk.
    pub fn hides(self) -> Place {
        match self {
            Body::Chunk { .. } | Body::Trashed { .. } => Place { segment: 0, offset: 0 },
            Body::Tombstone { hides, .. } => hides,
        }
    }

    /// The body with these fields; `None` unless they agree.
    pub fn from_fields(kind: u8, length: u32, hides: Place) -> Option<Body> {
        let nowhere = hides.segment == 0 && hides.offset == 0;
        match kind {
            1 if nowhere && length <= MAX_CHUNK_BYTES => Some(Body::Chunk { length }),
            2 if length == 0 => Some(Body::Tombstone { reason: Reason::Removed, hides }),
            3 if length == 0 => Some(Body::Tombstone { reason: Reason::Damaged, hides }),
            4 if length == 0 => Some(Body::Tombstone { reason: Reason::Purged, hides }),
            5 if nowhere && length <= MAX_CHUNK_BYTES => Some(Body::Trashed { length }),
            _ => None,
        }
    }
}

/// A record's header, without its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub serial: Serial,
    pub id: ChunkId,
    pub account: AccountId,
    pub body: Body,
}

/// What is known of an id of which only the fingerprint is: its first four bytes, and zeros.
pub(super) fn known_part(fingerprint: u32) -> ChunkId {
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&fingerprint.to_be_bytes());
    ChunkId::from_digest(HashAlgorithm::Blake3, &digest).expect("as long as a digest of BLAKE3")
}

/// The number of blocks in `length` bytes.
pub(super) fn blocks(length: u32) -> usize {
    (length as usize).div_ceil(BLOCK_BYTES)
}

/// The bytes from a record's start to its data.
pub(super) fn data_at(length: u32) -> u64 {
    (RECORD_HEADER_BYTES + 4 * blocks(length)) as u64
}

/// The bytes that a record takes, up to where the next one can begin.
pub(super) fn record_bytes(length: u32) -> u64 {
    (data_at(length) + u64::from(length)).next_multiple_of(ALIGNMENT)
}

/// The checksums of the blocks of `data`, as they stand in the file.
pub(super) fn block_checksums(data: &[u8]) -> Vec<u8> {
    data.chunks(BLOCK_BYTES).flat_map(|block| crc32c::crc32c(block).to_be_bytes()).collect()
}

/// Adds to `bytes` the header and block checksums of a record that stands at `offset`.
pub(super) fn encode(
    bytes: &mut Vec<u8>,
    record: &Record,
    checksums: &[u8],
    nonce: &Nonce,
    offset: u64,
) {
    let start = bytes.len();
    let length = record.body.length();
    let block_count = u16::try_from(blocks(length)).expect("a chunk has at most 256 blocks");
    let hides = record.body.hides();
    bytes.extend(RECORD_MAGIC);
    bytes.extend([record.body.kind(), record.id.algorithm() as u8]);
    bytes.extend(block_count.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(record.account.0.to_be_bytes());
    bytes.extend(record.serial.0.to_be_bytes());
    bytes.extend(hides.segment.to_be_bytes());
    bytes.extend(hides.offset.to_be_bytes());
    bytes.extend(record.id.digest());
    bytes.resize(start + RECORD_HEADER_BYTES - CHECKSUM_BYTES, 0);
    let checksum = record_checksum(nonce, &bytes[start..], offset, checksums);
    bytes.extend(checksum);
    bytes.extend(checksums);
}

/// What the header says, if it could be one at all. Says nothing about its checksum: `verify` does.
pub(super) fn decode(header: &[u8; RECORD_HEADER_BYTES]) -> Option<Record> {
    if header[..4] != RECORD_MAGIC {
        return None;
    }
    let length = u32_at(header, 8);
    let hides = Place { segment: u32_at(header, 24), offset: u32_at(header, 28) };
    let body = Body::from_fields(header[4], length, hides)?;
    let algorithm = HashAlgorithm::from_number(header[5])?;
    let (digest, rest) = header[32..64].split_at(algorithm.digest_bytes());
    let block_count = usize::from(u16::from_be_bytes([header[6], header[7]]));
    if block_count != blocks(length) || rest.iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(Record {
        serial: Serial(u64_at(header, 16)),
        id: ChunkId::from_digest(algorithm, digest)?,
        account: AccountId(u32_at(header, 12)),
        body,
    })
}

/// True if the header is one of this segment and stands where it was written.
pub(super) fn verify(
    header: &[u8; RECORD_HEADER_BYTES],
    checksums: &[u8],
    nonce: &Nonce,
    offset: u64,
) -> bool {
    let (fields, checksum) = header.split_at(RECORD_HEADER_BYTES - CHECKSUM_BYTES);
    record_checksum(nonce, fields, offset, checksums) == checksum
}

fn record_checksum(
    nonce: &Nonce,
    fields: &[u8],
    offset: u64,
    checksums: &[u8],
) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(nonce);
    hasher.update(fields).update(&offset.to_be_bytes()).update(checksums);
    shortened(&hasher.finalize())
}

/// The part of a BLAKE3 hash that is kept as a checksum.
pub(super) fn shortened(hash: &blake3::Hash) -> [u8; CHECKSUM_BYTES] {
    *hash.as_bytes().first_chunk().expect("a hash is longer than a checksum")
}

/// The header of a segment.
pub(super) fn encode_segment_header(number: u32, nonce: &Nonce) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(&SEGMENT_MAGIC);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_be_bytes());
    header[12..16].copy_from_slice(&number.to_be_bytes());
    header[16..48].copy_from_slice(nonce);
    let checksum = shortened(&blake3::hash(&header[..48]));
    header[48..].copy_from_slice(&checksum);
    header
}

/// The format version and the nonce in the header of segment `number`; `None` if it is not one.
pub(super) fn decode_segment_header(
    header: &[u8; SEGMENT_HEADER_BYTES],
    number: u32,
) -> Option<(u32, Nonce)> {
    let good = header[..8] == SEGMENT_MAGIC
        && header[48..] == shortened(&blake3::hash(&header[..48]))
        && u32_at(header, 12) == number;
    let nonce = *header[16..48].first_chunk().expect("the nonce is 32 bytes");
    good.then(|| (u32_at(header, 8), nonce))
}

/// The number at `at`, which must be within `bytes`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*bytes[at..].first_chunk().expect("within the fixed header"))
}

/// The number at `at`, which must be within `bytes`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(*bytes[at..].first_chunk().expect("within the fixed header"))
}
