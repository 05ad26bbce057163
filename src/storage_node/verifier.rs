//! Hashing a payload of many chunks while it arrives, each chunk against its own id.

use sha1_checked::{CollisionResult, Digest};

use crate::ids::{ChunkId, HashAlgorithm};
use crate::wire::{Fault, FaultCode};

/// Goes through a payload piece by piece, and judges each chunk of it once its last byte is there.
pub(super) struct Verifier {
    /// The chunks in the payload's order, with their lengths; no id where the bytes are passed over.
    expected: Vec<(Option<ChunkId>, u32)>,
    /// The chunk that is being read, and what is missing of it.
    current: usize,
    left: u32,
    /// Made for the first chunk of its kind and used again: a BLAKE3 state is large.
    blake3: Option<Box<blake3::Hasher>>,
    sha1: Option<Box<sha1_checked::Sha1>>,
    verdicts: Vec<Result<(), Fault>>,
}

impl Verifier {
    /// For these chunks, one after the other.
    pub fn new(expected: Vec<(Option<ChunkId>, u32)>) -> Verifier {
        let left = expected.first().map_or(0, |(_, length)| *length);
        let verdicts = Vec::with_capacity(expected.len());
        Verifier { expected, current: 0, left, blake3: None, sha1: None, verdicts }
    }

    /// Takes in the next bytes of the payload.
    pub fn feed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            self.pass_complete();
            let Some((id, _)) = self.expected.get(self.current).copied() else { return };
            let (now, rest) = piece.split_at(piece.len().min(self.left as usize));
            if let Some(id) = id {
                self.hash(id.algorithm(), now);
            }
            self.left -= now.len() as u32;
            piece = rest;
        }
    }

    /// For each chunk whether its bytes are those of its id; `Ok` where they were passed over.
    /// To be called after the whole payload went through `feed`.
    pub fn finish(mut self) -> Vec<Result<(), Fault>> {
        self.pass_complete();
        self.verdicts
    }

    /// Judges the current chunk if it is complete, and any empty ones after it.
    fn pass_complete(&mut self) {
        while self.left == 0 && self.current < self.expected.len() {
            let verdict = match self.expected[self.current].0 {
                Some(id) => self.judge(id),
                None => Ok(()),
            };
            self.verdicts.push(verdict);
            self.current += 1;
            self.left = self.expected.get(self.current).map_or(0, |(_, length)| *length);
        }
    }

    fn hash(&mut self, algorithm: HashAlgorithm, bytes: &[u8]) {
        match algorithm {
            HashAlgorithm::Blake3 => {
                self.blake3.get_or_insert_default().update(bytes);
            }
            HashAlgorithm::Sha1 => self.sha1.get_or_insert_default().update(bytes),
        }
    }

    fn judge(&mut self, id: ChunkId) -> Result<(), Fault> {
        let found = match id.algorithm() {
            HashAlgorithm::Blake3 => {
                let hasher = self.blake3.get_or_insert_default();
                let digest = *hasher.finalize().as_bytes();
                hasher.reset();
                ChunkId::from_digest(HashAlgorithm::Blake3, &digest)
            }
            HashAlgorithm::Sha1 => match self.sha1.take().unwrap_or_default().try_finalize() {
                CollisionResult::Ok(digest) => ChunkId::from_digest(HashAlgorithm::Sha1, &digest),
                CollisionResult::Mitigated(_) | CollisionResult::Collision(_) => {
                    let message = format!("the bytes sent as {id} were made to collide");
                    return Err(Fault::new(FaultCode::HashUnsafe, message));
                }
            },
        };
        if found == Some(id) {
            return Ok(());
        }
        let message = format!("the bytes sent as {id} are another chunk");
        Err(Fault::new(FaultCode::HashMismatch, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(chunks: &[(ChunkId, &[u8])], piece: usize) -> Vec<Option<FaultCode>> {
        let expected = chunks.iter().map(|(id, bytes)| (Some(*id), bytes.len() as u32)).collect();
        let mut verifier = Verifier::new(expected);
        let payload: Vec<u8> = chunks.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        payload.chunks(piece).for_each(|piece| verifier.feed(piece));
        verifier.finish().into_iter().map(|verdict| verdict.err().map(|f| f.code)).collect()
    }

    #[test]
    fn each_chunk_is_judged_by_its_own_bytes_however_they_come_in() {
        let blake3 = |bytes: &[u8]| ChunkId::of(HashAlgorithm::Blake3, bytes);
        let sha1 = |bytes: &[u8]| ChunkId::of(HashAlgorithm::Sha1, bytes);
        let long = vec![7; 5000];
        let chunks: Vec<(ChunkId, &[u8])> = vec![
            (blake3(b"one"), b"one"),
            (sha1(b"two"), b"two"),
            (blake3(b""), b""),
            (sha1(b"three"), b"other"),
            (blake3(&long), &long),
            (blake3(b"four"), b"five"),
            (sha1(b""), b""),
        ];
        let bad = Some(FaultCode::HashMismatch);
        for piece in [1, 2, 3, 7, 4096, 100_000] {
            assert_eq!(verdicts(&chunks, piece), [None, None, None, bad, None, bad, None]);
        }
    }

    /// The start of the first of the two files of shattered.io, up to where they collide.
    const COLLIDING: &str = "\
        255044462d312e330a25e2e3cfd30a0a0a312030206f626a0a3c3c2f57696474682032203020522f\
        4865696768742033203020522f547970652034203020522f537562747970652035203020522f4669\
        6c7465722036203020522f436f6c6f7253706163652037203020522f4c656e677468203820302052\
        2f42697473506572436f6d706f6e656e7420383e3e0a73747265616d0affd8fffe00245348412d31\
        20697320646561642121212121852fec092339759c39b1a1c63c4c97e1fffe017346dc9166b67e11\
        8f029ab621b2560ff9ca67cca8c7f85ba84c79030c2b3de218f86db3a90901d5df45c14f26fedfb3\
        dc38e96ac22fe7bd728f0e45bce046d23c570feb141398bb552ef5a0a82be331fea48037b8b5d71f\
        0e332edf93ac3500eb4ddc0decc1a864790c782c76215660dd309791d06bd0af3f98cda4bc4629b1";

    #[test]
    fn bytes_made_to_collide_under_sha1_are_told_from_a_chunk_though_their_hash_is_right() {
        let bytes = hex::decode(COLLIDING).unwrap();
        let id = ChunkId::of(HashAlgorithm::Sha1, &bytes);
        assert_eq!(id.to_string(), "sha1:f92d74e3874587aaf443d1db961d4e26dde13e9c");
        let unsafe_ = Some(FaultCode::HashUnsafe);
        assert_eq!(verdicts(&[(id, &bytes), (id, &bytes)], 100), [unsafe_, unsafe_]);
    }
}
