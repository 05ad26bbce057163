//! Comparing what a node holds with what the books say it holds: by one digest for each bucket of
//! serials, so that two lists of millions are compared in a few messages.

use crate::ids::{ChunkId, Serial};

/// How many serials, from `bucket * BUCKET_SERIALS` on, make a bucket.
pub const BUCKET_SERIALS: u64 = 4096;

/// The bucket that a serial falls into.
pub fn bucket_of(serial: Serial) -> u64 {
    serial.0 / BUCKET_SERIALS
}

/// The first and the last serial of a bucket.
pub fn serials_of(bucket: u64) -> (Serial, Serial) {
    let first = bucket.saturating_mul(BUCKET_SERIALS);
    (Serial(first), Serial(first.saturating_add(BUCKET_SERIALS - 1)))
}

/// A short form of a chunk id: the first four bytes of its digest, big-endian.
pub fn fingerprint(id: &ChunkId) -> u32 {
    let digest = id.digest();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The digest of a bucket's copies, given by serial in rising order: the first 53 bits (as a
/// number, so that every JSON reader keeps it whole) of the BLAKE3 of, for each copy, serial (u64),
/// length (u32) and fingerprint (u32), all big-endian.
pub fn digest(copies: impl IntoIterator<Item = (Serial, u32, u32)>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for (serial, length, fingerprint) in copies {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&serial.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[12..].copy_from_slice(&fingerprint.to_be_bytes());
        hasher.update(&bytes);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_any_difference_in_what_is_held() {
        let held = [(Serial(1), 5, 7), (Serial(2), 6, 8)];
        let same = digest(held);
        assert_eq!(digest(held), same);
        assert!(same < 1 << 53);
        for other in [
            vec![(Serial(1), 5, 7)],
            vec![(Serial(1), 5, 7), (Serial(3), 6, 8)],
            vec![(Serial(1), 5, 7), (Serial(2), 7, 8)],
            vec![(Serial(1), 5, 7), (Serial(2), 6, 9)],
            vec![],
        ] {
            assert_ne!(digest(other), same);
        }
    }
}
