//! Bytes that nobody has stored before and nobody can compress, and that can be made again from any
//! offset: so what comes back is compared with what went in, and nothing need be kept for it.

use std::io::{self, Write};

/// How much of a piece's two ends is looked at where all of it would be charged to the measurement.
const END_BYTES: usize = 64;
/// A block that is made and compared at a time.
const BLOCK_BYTES: usize = 64 << 10;

/// An endless stream of bytes, as its number says.
#[derive(Debug, Clone, Copy)]
pub struct Content(u64);

impl Content {
    /// One that was never there before.
    pub fn random() -> io::Result<Content> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        Ok(Content(u64::from_le_bytes(seed)))
    }

    /// Another one, the same each time for the same number.
    pub fn derived(self, number: u64) -> Content {
        Content(mix(self.0 ^ mix(number.wrapping_add(1))))
    }

    /// The bytes from `offset` on.
    pub fn fill(self, offset: u64, bytes: &mut [u8]) {
        let into = usize::try_from(offset % 8).expect("less than 8");
        let head = ((8 - into) % 8).min(bytes.len());
        let (first, rest) = bytes.split_at_mut(head);
        first.copy_from_slice(&self.word(offset / 8).to_le_bytes()[into..into + head]);
        let mut number = offset.div_ceil(8);
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word(number).to_le_bytes());
            number += 1;
        }
        let last = words.into_remainder();
        last.copy_from_slice(&self.word(number).to_le_bytes()[..last.len()]);
    }

    /// The first `count` bytes.
    pub fn bytes(self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(0, &mut bytes);
        bytes
    }

    /// Writes the first `count` bytes.
    pub fn write_to(self, count: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut block = vec![0; BLOCK_BYTES];
        let mut at = 0;
        while at < count {
            let here = (count - at).min(BLOCK_BYTES as u64);
            let part = &mut block[..usize::try_from(here).expect("at most a block")];
            self.fill(at, part);
            out.write_all(part)?;
            at += here;
        }
        Ok(())
    }

    fn word(self, number: u64) -> u64 {
        mix(self.0.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// How thoroughly what is read is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Every byte.
    AtAll,
    /// The ends of each piece that comes: enough to see that the pieces are the right ones and
    /// stand in order, and nothing that a measurement would notice.
    AtEnds,
}

/// Takes what is read of a content and keeps nothing of it but where it was wrong at first.
pub struct Comparison {
    content: Content,
    look: Look,
    expected: Vec<u8>,
    pub bytes: u64,
    pub first_wrong: Option<u64>,
}

impl Comparison {
    pub fn new(content: Content, look: Look) -> Comparison {
        Comparison { content, look, expected: Vec::new(), bytes: 0, first_wrong: None }
    }

    /// Takes the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        let at = self.bytes;
        match self.look {
            Look::AtAll => {
                let offsets = (at..).step_by(BLOCK_BYTES);
                offsets.zip(bytes.chunks(BLOCK_BYTES)).for_each(|(at, b)| self.compare(at, b));
            }
            Look::AtEnds => {
                let end = bytes.len().min(END_BYTES);
                self.compare(at, &bytes[..end]);
                self.compare(at + (bytes.len() - end) as u64, &bytes[bytes.len() - end..]);
            }
        }
        self.bytes += bytes.len() as u64;
    }

    fn compare(&mut self, offset: u64, bytes: &[u8]) {
        if self.expected.len() < bytes.len() {
            self.expected.resize(bytes.len(), 0);
        }
        let expected = &mut self.expected[..bytes.len()];
        self.content.fill(offset, expected);
        if expected != bytes && self.first_wrong.is_none() {
            let same = expected.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            self.first_wrong = Some(offset + same as u64);
        }
    }
}

impl Write for Comparison {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_from_every_offset() {
        let content = Content(7);
        let whole = content.bytes(100);
        for from in 0..40 {
            for length in 0..40 {
                let mut part = vec![0; length];
                content.fill(from as u64, &mut part);
                assert_eq!(part, whole[from..from + length], "{from} {length}");
            }
        }
        assert_ne!(whole, content.derived(0).bytes(100));
        assert_ne!(content.derived(0).bytes(100), content.derived(1).bytes(100));
    }

    #[test]
    fn a_wrong_byte_is_found_and_named() {
        let content = Content(9);
        let mut bytes = Vec::new();
        content.write_to(200_000, &mut bytes).expect("memory takes it");
        for look in [Look::AtAll, Look::AtEnds] {
            let mut comparison = Comparison::new(content, look);
            bytes
                .chunks(70_000)
                .for_each(|piece| comparison.write_all(piece).expect("it takes all"));
            assert_eq!((comparison.bytes, comparison.first_wrong), (200_000, None));
        }
        bytes[150_001] ^= 1;
        let mut comparison = Comparison::new(content, Look::AtAll);
        comparison.write_all(&bytes).expect("it takes all");
        assert_eq!(comparison.first_wrong, Some(150_001));
        // A piece in another one's place is seen by its ends.
        let mut comparison = Comparison::new(content, Look::AtEnds);
        comparison.write_all(&bytes[70_000..140_000]).expect("it takes all");
        assert_eq!(comparison.first_wrong, Some(0));
    }
}
