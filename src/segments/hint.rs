//! Hint files: what a sealed segment holds, so that a start need not scan it. The bytes are those
//! of `format`. Nothing rests on a hint: one that does not verify is as good as none.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::ids::Serial;

use super::format::{
    self, Body, CHECKSUM_BYTES, FORMAT_VERSION, HINT_ENTRY_BYTES, HINT_MAGIC, Nonce, Place, u32_at,
    u64_at,
};
use super::index::Listed;

/// What a good hint says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hint {
    /// The size that the segment file had when it was sealed.
    pub size: u64,
    pub listed: Vec<Listed>,
}

/// The path of the hint of segment `number`.
pub(super) fn path_of(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08}.hint"))
}

/// Writes the hint of a segment of `size` bytes with these records, in the order of their offsets.
pub(super) fn write(
    directory: &Path,
    number: u32,
    nonce: &Nonce,
    size: u64,
    listed: &[Listed],
) -> io::Result<()> {
    let path = path_of(directory, number);
    let bytes = encode(number, nonce, size, listed);
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    file?.write_all(&bytes)
}

/// The hint of segment `number`; `None` if there is none, or not a good one.
pub(super) fn read(directory: &Path, number: u32, nonce: &Nonce) -> Option<Hint> {
    decode(&std::fs::read(path_of(directory, number)).ok()?, number, nonce)
}

fn encode(number: u32, nonce: &Nonce, size: u64, listed: &[Listed]) -> Vec<u8> {
    let count = u32::try_from(listed.len()).expect("a segment has less than 2^32 records");
    let mut bytes = Vec::with_capacity(HINT_ENTRY_BYTES * (listed.len() + 1) + CHECKSUM_BYTES);
    bytes.extend(HINT_MAGIC);
    bytes.extend(FORMAT_VERSION.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    bytes.extend(count.to_be_bytes());
    bytes.extend([0; 4]);
    for Listed { serial, offset, fingerprint, body } in listed {
        bytes.extend(serial.0.to_be_bytes());
        bytes.extend([body.kind(), 0, 0, 0]);
        bytes.extend(offset.to_be_bytes());
        bytes.extend(body.length().to_be_bytes());
        bytes.extend(fingerprint.to_be_bytes());
        bytes.extend(body.hides().segment.to_be_bytes());
        bytes.extend(body.hides().offset.to_be_bytes());
    }
    let checksum = format::shortened(&blake3::keyed_hash(nonce, &bytes));
    bytes.extend(checksum);
    bytes
}

fn decode(bytes: &[u8], number: u32, nonce: &Nonce) -> Option<Hint> {
    let content = bytes.len().checked_sub(CHECKSUM_BYTES)?;
    let (content, checksum) = bytes.split_at(content);
    let (head, entries) = content.split_at_checked(HINT_ENTRY_BYTES)?;
    let good = head[..8] == HINT_MAGIC
        && u32_at(head, 8) == FORMAT_VERSION
        && u32_at(head, 12) == number
        && entries.len() == u32_at(head, 24) as usize * HINT_ENTRY_BYTES
        && format::shortened(&blake3::keyed_hash(nonce, content)) == checksum;
    if !good {
        return None;
    }
    let listed = entries.chunks_exact(HINT_ENTRY_BYTES).map(decode_entry).collect::<Option<_>>()?;
    Some(Hint { size: u64_at(head, 16), listed })
}

fn decode_entry(entry: &[u8]) -> Option<Listed> {
    let hides = Place { segment: u32_at(entry, 24), offset: u32_at(entry, 28) };
    Some(Listed {
        serial: Serial(u64_at(entry, 0)),
        offset: u32_at(entry, 12),
        fingerprint: u32_at(entry, 20),
        body: Body::from_fields(entry[8], u32_at(entry, 16), hides)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::format::Reason;
    use super::*;

    #[test]
    fn a_hint_with_any_byte_changed_or_cut_off_is_no_hint() {
        let nonce = [7; 32];
        let hides = Place { segment: 1, offset: 8192 };
        let tombstone = Body::Tombstone { reason: Reason::Removed, hides };
        let chunk = Body::Chunk { length: 5 };
        let listed = [(1, chunk), (2, tombstone)].map(|(n, body)| Listed {
            serial: Serial(u64::from(n)),
            offset: 8192 + n * 96,
            fingerprint: n,
            body,
        });
        let bytes = encode(3, &nonce, 9000, &listed);
        let hint = Hint { size: 9000, listed: listed.to_vec() };
        assert_eq!(decode(&bytes, 3, &nonce), Some(hint));
        assert_eq!(decode(&bytes, 4, &nonce), None);
        assert_eq!(decode(&bytes, 3, &[8; 32]), None);
        for at in 0..bytes.len() {
            assert_eq!(decode(&bytes[..at], 3, &nonce), None);
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed, 3, &nonce), None);
        }
    }
}
