//! How `check` reads one segment and its hint: after the tables in `format`, with none of the code
//! by which the store does it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::ids::{AccountId, ChunkId, HashAlgorithm, MAX_CHUNK_BYTES, Serial};

use super::check::{Finding, FindingKind, HintState};
use super::format::{
    ALIGNMENT, BLOCK_BYTES, CHECKSUM_BYTES, FIRST_RECORD_AT, FORMAT_VERSION, HINT_ENTRY_BYTES,
    HINT_MAGIC, RECORD_HEADER_BYTES, RECORD_MAGIC, SECOND_HEADER_AT, SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
};

/// What a segment holds.
pub(super) struct Content {
    pub bytes: u64,
    /// The good ones, in the order of their offsets.
    pub records: Vec<Record>,
    pub findings: Vec<Finding>,
    nonce: Option<[u8; 32]>,
}

/// One record, as its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub offset: u64,
    pub kind: u8,
    pub serial: Serial,
    pub id: ChunkId,
    pub account: AccountId,
    pub length: u32,
    /// The bytes of the whole record.
    pub size: u32,
    pub hidden_segment: u32,
    pub hidden_offset: u32,
}

/// Reads and verifies all of segment `number`.
pub(super) fn read(file: &File, number: u32) -> io::Result<Content> {
    let bytes = file.metadata()?.len();
    let mut findings = Vec::new();
    let nonce = read_nonce(file, number, bytes, &mut findings);
    let mut content = Content { bytes, records: Vec::new(), findings, nonce };
    let Some(nonce) = nonce else { return Ok(content) };
    let reader = Reader { file, nonce, size: bytes };
    // Found since the last good record: a torn tail, unless another good one follows.
    let mut doubtful = Vec::new();
    let mut tail_at = FIRST_RECORD_AT;
    let mut at = FIRST_RECORD_AT;
    while at < bytes {
        let (end, outcome) = reader.look(at, number);
        match outcome {
            Ok(record) => {
                content.findings.append(&mut doubtful);
                content.records.push(record);
                tail_at = end;
            }
            Err(finding) => {
                let is_whole = finding.kind == FindingKind::WrongHash;
                doubtful.push(finding);
                if is_whole {
                    content.findings.append(&mut doubtful);
                    tail_at = end;
                }
            }
        }
        at = end;
    }
    if !doubtful.is_empty() {
        let serial = doubtful.iter().find_map(|finding| finding.serial);
        let bytes = bytes - tail_at;
        let kind = FindingKind::TornTail;
        content.findings.push(Finding { kind, segment: number, offset: tail_at, bytes, serial });
    }
    Ok(content)
}

/// The nonce, from whichever of the two headers is good.
fn read_nonce(
    file: &File,
    segment: u32,
    size: u64,
    findings: &mut Vec<Finding>,
) -> Option<[u8; 32]> {
    let mut nonce = None;
    for offset in [0, SECOND_HEADER_AT] {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        let is_read = file.read_exact_at(&mut header, offset).is_ok();
        let hash = blake3::hash(&header[..48]);
        if is_read
            && header.starts_with(&SEGMENT_MAGIC)
            && header[8..12] == FORMAT_VERSION.to_be_bytes()
            && header[12..16] == segment.to_be_bytes()
            && header[48..64] == hash.as_bytes()[..16]
        {
            let found: [u8; 32] = header[16..48].try_into().expect("32 bytes");
            nonce = nonce.or(Some(found));
        } else {
            let (kind, bytes) = (FindingKind::Header, SEGMENT_HEADER_BYTES as u64);
            findings.push(Finding { kind, segment, offset, bytes, serial: None });
        }
    }
    let is_unfinished = size < FIRST_RECORD_AT || nonce.is_none() && size == FIRST_RECORD_AT;
    if is_unfinished || nonce.is_none() {
        let kind = if is_unfinished { FindingKind::TornTail } else { FindingKind::Damage };
        *findings = vec![Finding { kind, segment, offset: 0, bytes: size, serial: None }];
    }
    nonce.filter(|_| !is_unfinished)
}

struct Reader<'a> {
    file: &'a File,
    nonce: [u8; 32],
    size: u64,
}

impl Reader<'_> {
    /// What begins at `at`, a good record or not, and where it ends.
    fn look(&self, at: u64, segment: u32) -> (u64, Result<Record, Finding>) {
        let Some((record, sums)) = self.record_at(at) else {
            let end = self.next_record(at + ALIGNMENT);
            let kind = if self.is_gap(at, end) { FindingKind::Gap } else { FindingKind::Damage };
            let bytes = end - at;
            return (end, Err(Finding { kind, segment, offset: at, bytes, serial: None }));
        };
        let data_at = at + (RECORD_HEADER_BYTES + sums.len()) as u64;
        let data_end = data_at + u64::from(record.length);
        let end = data_end.next_multiple_of(ALIGNMENT);
        let bad = |kind| {
            let serial = Some(record.serial);
            Finding { kind, segment, offset: at, bytes: end - at, serial }
        };
        let Some(data) = self.bytes(data_at, record.length as usize) else {
            return (end, Err(bad(FindingKind::Damage)));
        };
        let blocks = data.chunks(BLOCK_BYTES).zip(sums.chunks(4));
        if blocks.clone().any(|(block, sum)| crc32c::crc32c(block).to_be_bytes() != sum) {
            let kind = if self.ends_in_empty_page(at, &data, data_end) {
                FindingKind::Gap
            } else {
                FindingKind::Damage
            };
            return (end, Err(bad(kind)));
        }
        if matches!(record.kind, 1 | 5) && ChunkId::of(record.id.algorithm(), &data) != record.id {
            return (end, Err(bad(FindingKind::WrongHash)));
        }
        (end, Ok(record))
    }

    /// The record whose good header stands at `offset`, and the checksums of its blocks.
    fn record_at(&self, offset: u64) -> Option<(Record, Vec<u8>)> {
        let header = self.bytes(offset, RECORD_HEADER_BYTES)?;
        let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| header[at + n]));
        let (kind, length) = (header[4], number(8));
        let blocks = usize::from(header[6]) << 8 | usize::from(header[7]);
        let lengths_agree = match kind {
            1 | 5 => length <= MAX_CHUNK_BYTES && (length as usize).div_ceil(BLOCK_BYTES) == blocks,
            2..=4 => length == 0 && blocks == 0,
            _ => false,
        };
        if !header.starts_with(&RECORD_MAGIC) || !lengths_agree {
            return None;
        }
        let sums = self.bytes(offset + RECORD_HEADER_BYTES as u64, 4 * blocks)?;
        let hashed = [&header[..64], &offset.to_be_bytes(), &sums].concat();
        let hash = blake3::keyed_hash(&self.nonce, &hashed);
        if hash.as_bytes()[..CHECKSUM_BYTES] != header[64..] {
            return None;
        }
        let algorithm = HashAlgorithm::from_number(header[5])?;
        let record = Record {
            offset,
            kind,
            serial: Serial(u64::from(number(16)) << 32 | u64::from(number(20))),
            id: ChunkId::from_digest(algorithm, &header[32..32 + algorithm.digest_bytes()])?,
            account: AccountId(number(12)),
            length,
            size: (RECORD_HEADER_BYTES as u32 + 4 * blocks as u32 + length).next_multiple_of(16),
            hidden_segment: number(24),
            hidden_offset: number(28),
        };
        Some((record, sums))
    }

    /// Where the next record with a good header begins, from `at` on; the file's end without one.
    fn next_record(&self, mut at: u64) -> u64 {
        while at < self.size {
            let bytes = BLOCK_BYTES.min((self.size - at) as usize);
            // What cannot be read holds no record.
            let stretch = self.bytes(at, bytes).unwrap_or_default();
            for (n, place) in stretch.chunks(ALIGNMENT as usize).enumerate() {
                let offset = at + n as u64 * ALIGNMENT;
                if place.starts_with(&RECORD_MAGIC) && self.record_at(offset).is_some() {
                    return offset;
                }
            }
            at += bytes as u64;
        }
        self.size
    }

    /// True for a place where no header was ever written.
    fn is_gap(&self, at: u64, end: u64) -> bool {
        let head = self.bytes(at, RECORD_HEADER_BYTES.min((end - at) as usize));
        if head.is_none_or(|head| head.iter().any(|byte| *byte != 0)) {
            return false;
        }
        let starts = (at..end).step_by(BLOCK_BYTES);
        starts.map(|start| (start, BLOCK_BYTES.min((end - start) as usize))).all(
            |(start, bytes)| {
                let Some(stretch) = self.bytes(start, bytes) else { return false };
                !stretch.chunks(ALIGNMENT as usize).any(|place| place.starts_with(&RECORD_MAGIC))
            },
        )
    }

    /// True for a small record that its writer did not get to finish: zeros from the edge of a page
    /// on.
    fn ends_in_empty_page(&self, at: u64, data: &[u8], data_end: u64) -> bool {
        let last = data.iter().rposition(|byte| *byte != 0).map_or(0, |n| n + 1);
        let written = data_end - (data.len() - last) as u64;
        let edge = written.max(at + RECORD_HEADER_BYTES as u64).next_multiple_of(4096);
        data_end - at <= 2 * BLOCK_BYTES as u64 && edge < data_end
    }

    /// `None` past the end of the file, and where the disk cannot be read.
    fn bytes(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        if at.checked_add(length as u64)? > self.size {
            return None;
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
    }
}

/// Compares the hint of segment `number` with what the segment holds.
///
/// A record that is not in the hint is no fault: one whose write failed in part may be whole.
pub(super) fn judge_hint(directory: &Path, number: u32, content: &Content) -> HintState {
    let path = directory.join(format!("{number:08}.hint"));
    let (Ok(hint), Some(nonce)) = (std::fs::read(path), content.nonce) else {
        return HintState::Missing;
    };
    let Some(body) = hint.len().checked_sub(CHECKSUM_BYTES).map(|end| &hint[..end]) else {
        return HintState::Invalid;
    };
    let hash = blake3::keyed_hash(&nonce, body);
    let head = [&HINT_MAGIC[..], &FORMAT_VERSION.to_be_bytes(), &number.to_be_bytes()].concat();
    if hint[body.len()..] != hash.as_bytes()[..CHECKSUM_BYTES] || !body.starts_with(&head) {
        return HintState::Invalid;
    }
    if body.get(16..24) != Some(&content.bytes.to_be_bytes()[..]) {
        return HintState::Invalid;
    }
    let entries = body[HINT_ENTRY_BYTES.min(body.len())..].chunks(HINT_ENTRY_BYTES);
    if entries.clone().all(|entry| is_there(entry, content)) {
        HintState::Good
    } else {
        HintState::Wrong
    }
}

/// True if the segment has the record of this entry, or damage in its place.
fn is_there(entry: &[u8], content: &Content) -> bool {
    let Some(offset) = entry.get(12..16) else { return false };
    let offset = offset.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let found = content.records.binary_search_by_key(&offset, |record| record.offset);
    let Ok(record) = found.map(|at| &content.records[at]) else {
        // A gap does not explain it: the hint lists what was durable.
        let mut damage = content.findings.iter().filter(|finding| finding.kind.is_damage());
        return damage.any(|f| f.offset <= offset && offset < f.offset + f.bytes);
    };
    let wanted = [
        &record.serial.0.to_be_bytes()[..],
        &[record.kind, 0, 0, 0],
        &entry[12..16],
        &record.length.to_be_bytes(),
        &record.id.digest()[..4],
        &record.hidden_segment.to_be_bytes(),
        &record.hidden_offset.to_be_bytes(),
    ];
    entry == wanted.concat()
}
