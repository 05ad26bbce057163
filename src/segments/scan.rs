//! Reading a segment from end to end, when no hint says what it holds: each header and each block
//! is checked, and what is damaged costs only itself.
//!
//! Where no record is, the next one is searched for: the magic is compared first, and only where it
//! stands the keyed checksum is computed. Data of a chunk never passes that, whatever it contains.

use std::fs::File;
use std::io;

use crate::ids::Serial;

use super::file;
use super::format::{
    self, ALIGNMENT, BLOCK_BYTES, FIRST_RECORD_AT, Nonce, RECORD_HEADER_BYTES, RECORD_MAGIC, Record,
};
use super::index::{Listed, fingerprint};
use super::report::{CutTail, Damage, Gap};

const WINDOW_BYTES: u64 = 1024 * 1024;
const PAGE_BYTES: u64 = 4096;

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The good records, in the order of their offsets.
    pub listed: Vec<Listed>,
    pub damaged: Vec<Damage>,
    pub gaps: Vec<Gap>,
    /// What follows the last good record.
    pub tail: Option<CutTail>,
    /// Where the last good record ends.
    pub end: u64,
    /// The disk could not read all of it: some of what is not there may be there another time.
    pub is_incomplete: bool,
}

/// Scans segment `number`, of `size` bytes.
pub(super) fn scan(file: &File, number: u32, nonce: &Nonce, size: u64) -> io::Result<Scan> {
    if size > u64::from(u32::MAX) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a segment is shorter than 4 GiB"));
    }
    let window = Window::new(file, size);
    let mut scanner = Scanner { window, nonce, number, scan: Scan::default(), bad: Vec::new() };
    scanner.scan.end = FIRST_RECORD_AT;
    let mut at = FIRST_RECORD_AT;
    while at < size {
        at = scanner.step(at)?;
    }
    Ok(scanner.finish(size))
}

/// Reads on from the record that begins at `from`, for about `budget` bytes or to `size`; says where
/// it got to and what is bad on the way.
pub(super) fn scan_on(
    file: &File,
    number: u32,
    nonce: &Nonce,
    from: u64,
    size: u64,
    budget: u64,
) -> io::Result<(u64, Vec<Bad>)> {
    let window = Window::new(file, size);
    let mut scanner = Scanner { window, nonce, number, scan: Scan::default(), bad: Vec::new() };
    let mut at = from;
    while at < size && (at == from || at - from < budget) {
        let (next, found) = scanner.look(at)?;
        scanner.bad.extend(found.err());
        at = next;
    }
    Ok((at, scanner.bad))
}

struct Scanner<'a> {
    window: Window<'a>,
    nonce: &'a Nonce,
    number: u32,
    scan: Scan,
    /// What was found since the last good record: a tail, unless another good one follows.
    bad: Vec<Bad>,
}

/// A stretch without a good record.
pub(super) struct Bad {
    pub offset: u64,
    pub bytes: u64,
    /// As the header says, if that is good.
    pub serial: Option<Serial>,
    pub is_unfinished: bool,
}

impl Scanner<'_> {
    /// Takes in what begins at `at` and returns where it ends.
    fn step(&mut self, at: u64) -> io::Result<u64> {
        let (next, found) = self.look(at)?;
        match found {
            Ok(record) => {
                self.accept(at, &record);
                self.scan.end = next;
            }
            Err(bad) => self.bad.push(bad),
        }
        Ok(next)
    }

    /// What begins at `at`, and where it ends.
    fn look(&mut self, at: u64) -> io::Result<(u64, Result<Record, Bad>)> {
        let Some((record, checksums)) = self.header(at)? else {
            let next = self.next_header(at + ALIGNMENT)?;
            let is_unfinished = self.is_unwritten(at, next)?;
            let bad = Bad { offset: at, bytes: next - at, serial: None, is_unfinished };
            return Ok((next, Err(bad)));
        };
        let length = record.body.length();
        let (data, next) = (at + format::data_at(length), at + format::record_bytes(length));
        if self.data_is_good(data, length, &checksums)? {
            return Ok((next, Ok(record)));
        }
        let is_unfinished = self.is_cut_short(at, data + u64::from(length))?;
        let serial = Some(record.serial);
        Ok((next, Err(Bad { offset: at, bytes: next - at, serial, is_unfinished })))
    }

    fn accept(&mut self, at: u64, record: &Record) {
        for Bad { offset, bytes, serial, is_unfinished } in self.bad.drain(..) {
            let segment = self.number;
            if is_unfinished {
                self.scan.gaps.push(Gap { segment, offset, bytes, serial });
            } else {
                self.scan.damaged.push(Damage { segment, offset, bytes, serial });
            }
        }
        let offset = u32::try_from(at).expect("checked in `scan`: a segment is shorter than 4 GiB");
        let Record { serial, body, .. } = *record;
        let fingerprint = fingerprint(&record.id);
        self.scan.listed.push(Listed { serial, offset, fingerprint, body });
    }

    fn finish(mut self, size: u64) -> Scan {
        self.scan.is_incomplete = self.window.is_incomplete;
        let offset = self.scan.end;
        if size > offset && !self.bad.is_empty() {
            let serials = self.bad.iter().filter_map(|bad| bad.serial).collect();
            let tail = CutTail { segment: self.number, offset, bytes: size - offset, serials };
            self.scan.tail = Some(tail);
        }
        self.scan
    }

    /// The header and block checksums at `at`, if a good header stands there.
    fn header(&mut self, at: u64) -> io::Result<Option<(Record, Vec<u8>)>> {
        let Some(header) = self.window.get(at, RECORD_HEADER_BYTES)? else { return Ok(None) };
        let header: [u8; RECORD_HEADER_BYTES] = *header.first_chunk().expect("as long as asked");
        let Some(record) = format::decode(&header) else { return Ok(None) };
        let checksums_at = at + RECORD_HEADER_BYTES as u64;
        let bytes = 4 * format::blocks(record.body.length());
        let Some(checksums) = self.window.get(checksums_at, bytes)? else { return Ok(None) };
        let checksums = checksums.to_vec();
        Ok(format::verify(&header, &checksums, self.nonce, at).then_some((record, checksums)))
    }

    fn data_is_good(&mut self, at: u64, length: u32, checksums: &[u8]) -> io::Result<bool> {
        let mut left = length as usize;
        for (n, checksum) in checksums.chunks_exact(4).enumerate() {
            let bytes = left.min(BLOCK_BYTES);
            let Some(block) = self.window.get(at + (n * BLOCK_BYTES) as u64, bytes)? else {
                return Ok(false);
            };
            if crc32c::crc32c(block).to_be_bytes() != checksum {
                return Ok(false);
            }
            left -= bytes;
        }
        Ok(true)
    }

    /// Where the next good header stands, from `at` on; the end of the file if there is none.
    fn next_header(&mut self, mut at: u64) -> io::Result<u64> {
        while self.window.get(at, RECORD_HEADER_BYTES)?.is_some() {
            let is_candidate = self.window.get(at, 4)? == Some(&RECORD_MAGIC[..]);
            if is_candidate && self.header(at)?.is_some() {
                return Ok(at);
            }
            at += ALIGNMENT;
        }
        Ok(self.window.size)
    }

    /// True if the stretch was reserved by a writer that never wrote a header there. Writers of
    /// large records write the data first; so only the header's place is zero for sure.
    fn is_unwritten(&mut self, at: u64, end: u64) -> io::Result<bool> {
        let head = RECORD_HEADER_BYTES.min((end - at) as usize);
        let head = self.window.get(at, head)?.unwrap_or_default();
        if head.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        for place in (at..end).step_by(ALIGNMENT as usize) {
            if self.window.get(place, 4)? == Some(&RECORD_MAGIC[..]) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True if a small record looks like the front part of a write that was cut off by the end of
    /// its process: zeros from the edge of a page on.
    fn is_cut_short(&mut self, at: u64, end: u64) -> io::Result<bool> {
        let bytes = (end - at) as usize;
        if bytes > 2 * BLOCK_BYTES {
            return Ok(false);
        }
        let Some(record) = self.window.get(at, bytes)? else { return Ok(false) };
        let zeros = record.iter().rev().take_while(|byte| **byte == 0).count() as u64;
        Ok((end - zeros).next_multiple_of(PAGE_BYTES) < end)
    }
}

/// A file, read through a buffer that moves forward.
struct Window<'a> {
    file: &'a File,
    size: u64,
    start: u64,
    bytes: Vec<u8>,
    /// A part could not be read.
    is_incomplete: bool,
}

impl<'a> Window<'a> {
    fn new(file: &'a File, size: u64) -> Window<'a> {
        Window { file, size, start: 0, bytes: Vec::new(), is_incomplete: false }
    }

    /// The `length` bytes from `at` on; `None` if the file ends before.
    fn get(&mut self, at: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let end = at + length as u64;
        if end > self.size {
            return Ok(None);
        }
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            self.start = at;
            let bytes = WINDOW_BYTES.max(length as u64).min(self.size - at);
            self.bytes.resize(bytes as usize, 0);
            self.fill()?;
        }
        let from = (at - self.start) as usize;
        Ok(Some(&self.bytes[from..from + length]))
    }

    fn fill(&mut self) -> io::Result<()> {
        let Err(error) = file::read_exact_at(self.file, &mut self.bytes, self.start) else {
            return Ok(());
        };
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Err(error);
        }
        // What the disk cannot read is no good record, and no more than that. Not zeros: those are
        // gaps.
        self.is_incomplete = true;
        for (n, page) in self.bytes.chunks_mut(PAGE_BYTES as usize).enumerate() {
            let at = self.start + n as u64 * PAGE_BYTES;
            if file::read_exact_at(self.file, page, at).is_err() {
                page.fill(0xFF);
            }
        }
        Ok(())
    }
}
