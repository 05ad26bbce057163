//! Reading chunks. Nothing leaves here that was not checked: the record's header by its keyed
//! checksum, and each block of which a byte is wanted by its CRC-32C.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::ids::{AccountId, ChunkId, Serial};

use super::error::StoreError;
use super::file;
use super::format::{self, BLOCK_BYTES, Body, Nonce, RECORD_HEADER_BYTES, Record, known_part};
use super::index::{Entry, fingerprint};
use super::segment::{path_of, read_headers};
use super::store::{Store, lock};

/// The most segment files that are kept open for reading.
const OPEN_FILES: usize = 128;

/// Blocks are read and checked in runs of this size, which stay in the processor's cache between
/// the two.
const RUN_BYTES: usize = 4 * BLOCK_BYTES;

impl Store {
    /// Adds to `out` the `length` bytes of the chunk from byte `offset` on. After an error `out` is
    /// as it was.
    ///
    /// `NotFound`; `OutOfRange`; `Corrupt` if the wanted blocks are not what was written, `Unreadable`
    /// if the disk fails to read them: `give_up` should follow on both.
    pub fn read(
        &self,
        serial: Serial,
        id: &ChunkId,
        offset: u32,
        length: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let before = out.len();
        // Checked first: a made-up length must not make room for itself.
        self.entry_for(serial, id, offset, length)?;
        out.resize(before + length, 0);
        let outcome = self.read_into(serial, id, offset, &mut out[before..]);
        if outcome.is_err() {
            out.truncate(before);
        }
        outcome
    }

    /// The same into a buffer that is there already, all of it. After an error its content means
    /// nothing.
    pub fn read_into(
        &self,
        serial: Serial,
        id: &ChunkId,
        offset: u32,
        out: &mut [u8],
    ) -> Result<(), StoreError> {
        loop {
            let entry = self.entry_for(serial, id, offset, out.len())?;
            let stored = self.stored(serial, id, entry);
            match stored.and_then(|stored| stored.read(offset as usize, out)) {
                // Compaction took the segment away, after it had put the chunk elsewhere.
                Err(_) if self.has_moved(serial, entry) => continue,
                outcome => return outcome,
            }
        }
    }

    /// The size of a chunk; `NotFound` if it is not held.
    pub fn length(&self, serial: Serial, id: &ChunkId) -> Result<u32, StoreError> {
        self.entry(serial, id).map(|entry| entry.length)
    }

    /// Reads the whole chunk and says whether it is what was written.
    pub fn verify(&self, serial: Serial, id: &ChunkId) -> Result<(), StoreError> {
        loop {
            let entry = self.entry(serial, id)?;
            match self.stored(serial, id, entry).and_then(|stored| stored.verify()) {
                Err(_) if self.has_moved(serial, entry) => continue,
                outcome => return outcome,
            }
        }
    }

    pub(super) fn entry(&self, serial: Serial, id: &ChunkId) -> Result<Entry, StoreError> {
        let entry = self.index().get(serial);
        let entry = entry.filter(|entry| entry.fingerprint == fingerprint(id));
        entry.ok_or(StoreError::NotFound(*id))
    }

    /// True if the chunk, which stood where `entry` says, stands elsewhere now.
    pub(super) fn has_moved(&self, serial: Serial, entry: Entry) -> bool {
        self.index().get(serial).is_some_and(|now| now != entry)
    }

    fn entry_for(
        &self,
        serial: Serial,
        id: &ChunkId,
        offset: u32,
        wanted: usize,
    ) -> Result<Entry, StoreError> {
        let entry = self.entry(serial, id)?;
        let length = entry.length;
        if (offset as usize).saturating_add(wanted) > length as usize {
            return Err(StoreError::OutOfRange { id: *id, length, offset, wanted });
        }
        Ok(entry)
    }

    /// Reads the whole record, of a chunk or of trash, that stands where `entry` says, and tells its
    /// id.
    pub(super) fn verify_at(&self, serial: Serial, entry: Entry) -> Result<ChunkId, StoreError> {
        let stored = self.stored_at(serial, entry)?;
        stored.verify().map(|()| stored.id)
    }

    /// The same, and adds its bytes to `out`, which is as it was after an error.
    pub(super) fn read_whole(
        &self,
        serial: Serial,
        entry: Entry,
        out: &mut Vec<u8>,
    ) -> Result<(ChunkId, AccountId), StoreError> {
        let stored = self.stored_at(serial, entry)?;
        let before = out.len();
        out.resize(before + entry.length as usize, 0);
        let outcome = stored.read(0, &mut out[before..]);
        if outcome.is_err() {
            out.truncate(before);
        }
        outcome.map(|()| (stored.id, stored.account))
    }

    /// Reads and checks the head of the record of a chunk; `NotFound` if it is of another one.
    fn stored(&self, serial: Serial, id: &ChunkId, entry: Entry) -> Result<Stored, StoreError> {
        let stored = self.stored_at(serial, entry).map_err(|error| match error {
            StoreError::Corrupt { segment, offset, .. } => {
                StoreError::Corrupt { id: *id, segment, offset }
            }
            StoreError::Unreadable { segment, offset, source, .. } => {
                StoreError::Unreadable { id: *id, segment, offset, source }
            }
            error => error,
        })?;
        if stored.id == *id { Ok(stored) } else { Err(StoreError::NotFound(*id)) }
    }

    /// Reads and checks the head of the record that stands where `entry` says.
    pub(super) fn stored_at(&self, serial: Serial, entry: Entry) -> Result<Stored, StoreError> {
        let file = self.files.get(entry.segment).map_err(|error| match error {
            StoreError::Io { doing: "read", path: segment, source } => {
                let (id, offset) = (known_part(entry.fingerprint), u64::from(entry.offset));
                StoreError::Unreadable { id, segment, offset, source }
            }
            error => error,
        })?;
        let mut stored = Stored {
            id: known_part(entry.fingerprint),
            entry,
            file,
            checksums: Vec::new(),
            data: None,
            account: AccountId(0),
        };
        let data_at = format::data_at(entry.length) as usize;
        let is_small = entry.length as usize <= BLOCK_BYTES;
        let mut head = vec![0; data_at + if is_small { entry.length as usize } else { 0 }];
        stored.read_at(&mut head, 0)?;
        let (header, rest) = head.split_first_chunk().expect("a head is longer than a header");
        let checksums = &rest[..data_at - RECORD_HEADER_BYTES];
        let offset = u64::from(entry.offset);
        let record = format::decode(header)
            .filter(|_| format::verify(header, checksums, &stored.file.nonce, offset))
            .ok_or_else(|| stored.corrupt(0))?;
        stored.accept(serial, &record)?;
        stored.checksums = checksums.to_vec();
        if is_small {
            stored.data = Some(head.split_off(data_at));
        }
        Ok(stored)
    }
}

/// A record whose header was checked.
pub(super) struct Stored {
    /// As its header says.
    pub id: ChunkId,
    pub account: AccountId,
    entry: Entry,
    file: Arc<SegmentFile>,
    checksums: Vec<u8>,
    /// The data of a chunk of one block, which is read together with the header.
    data: Option<Vec<u8>>,
}

impl Stored {
    /// Takes over what a good header says.
    fn accept(&mut self, serial: Serial, record: &Record) -> Result<(), StoreError> {
        let is_chunk = matches!(record.body, Body::Chunk { .. } | Body::Trashed { .. });
        let is_it = is_chunk && record.body.length() == self.entry.length;
        if !is_it || record.serial != serial {
            return Err(self.corrupt(0));
        }
        (self.id, self.account) = (record.id, record.account);
        Ok(())
    }

    /// Reads all of it.
    fn verify(&self) -> Result<(), StoreError> {
        let length = self.entry.length as usize;
        let mut run = vec![0; RUN_BYTES.min(length)];
        for start in (0..length).step_by(RUN_BYTES) {
            let bytes = RUN_BYTES.min(length - start);
            self.read(start, &mut run[..bytes])?;
        }
        if length == 0 { self.read(0, &mut []) } else { Ok(()) }
    }

    fn corrupt(&self, at: u64) -> StoreError {
        let (id, segment) = (self.id, self.file.path.clone());
        StoreError::Corrupt { id, segment, offset: u64::from(self.entry.offset) + at }
    }

    /// Reads the file from byte `at` of the record on.
    fn read_at(&self, out: &mut [u8], at: u64) -> Result<(), StoreError> {
        let offset = u64::from(self.entry.offset) + at;
        file::read_exact_at(&self.file.file, out, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt(at),
            _ => {
                let (id, segment) = (self.id, self.file.path.clone());
                StoreError::Unreadable { id, segment, offset, source }
            }
        })
    }

    /// Fills `out` with the data from byte `offset` on, which must be within it.
    fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), StoreError> {
        let end = offset + out.len();
        if let Some(data) = &self.data {
            self.check(data, 0)?;
            out.copy_from_slice(&data[offset..end]);
            return Ok(());
        }
        let mut at = offset;
        while at < end {
            let block = at - at % BLOCK_BYTES;
            let block_end = self.block_end(block);
            let rest = &mut out[at - offset..];
            if at == block && end >= block_end {
                let run = &mut rest[..self.run_end(block, end) - at];
                self.read_blocks(run, block)?;
                at += run.len();
            } else {
                let mut whole = vec![0; block_end - block];
                self.read_blocks(&mut whole, block)?;
                let wanted = &whole[at - block..block_end.min(end) - block];
                rest[..wanted.len()].copy_from_slice(wanted);
                at += wanted.len();
            }
        }
        Ok(())
    }

    fn block_end(&self, block: usize) -> usize {
        (block + BLOCK_BYTES).min(self.entry.length as usize)
    }

    /// Where a run of whole blocks that starts at `block` and goes no further than `end` ends.
    fn run_end(&self, block: usize, end: usize) -> usize {
        let most = end.min(block + RUN_BYTES);
        if most == self.entry.length as usize { most } else { most - most % BLOCK_BYTES }
    }

    /// Fills `out` with the whole blocks from byte `start` of the data on, and checks them.
    fn read_blocks(&self, out: &mut [u8], start: usize) -> Result<(), StoreError> {
        self.read_at(out, format::data_at(self.entry.length) + start as u64)?;
        self.check(out, start)
    }

    fn check(&self, blocks: &[u8], start: usize) -> Result<(), StoreError> {
        for (n, block) in blocks.chunks(BLOCK_BYTES).enumerate() {
            let at = start + n * BLOCK_BYTES;
            if crc32c::crc32c(block) != format::u32_at(&self.checksums, at / BLOCK_BYTES * 4) {
                return Err(self.corrupt(format::data_at(self.entry.length) + at as u64));
            }
        }
        Ok(())
    }
}

/// A segment that is open for reading.
#[derive(Debug)]
pub(super) struct SegmentFile {
    file: File,
    path: PathBuf,
    nonce: Nonce,
}

/// Segment files open for reading, the latest used of them.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    open: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    /// The segments that were taken away: a reader that came too late must not keep one open.
    gone: BTreeSet<u32>,
    uses: u64,
    by_number: HashMap<u32, (u64, Arc<SegmentFile>)>,
}

impl OpenFiles {
    fn get(&mut self, number: u32) -> Option<Arc<SegmentFile>> {
        self.uses += 1;
        let (last_use, file) = self.by_number.get_mut(&number)?;
        *last_use = self.uses;
        Some(file.clone())
    }

    fn insert(&mut self, number: u32, file: Arc<SegmentFile>) {
        if self.gone.contains(&number) {
            return;
        }
        self.by_number.insert(number, (self.uses, file));
        if self.by_number.len() > OPEN_FILES {
            let oldest = self.by_number.iter().min_by_key(|(_, (last_use, _))| *last_use);
            let oldest = oldest.map(|(number, _)| *number);
            oldest.and_then(|number| self.by_number.remove(&number));
        }
    }
}

impl Files {
    pub fn new(directory: &Path) -> Files {
        Files { directory: directory.to_path_buf(), open: Mutex::default() }
    }

    /// Lets go of a segment that is about to be taken away.
    pub fn forget(&self, number: u32) {
        let mut open = lock(&self.open);
        open.gone.insert(number);
        open.by_number.remove(&number);
    }

    fn get(&self, number: u32) -> Result<Arc<SegmentFile>, StoreError> {
        if let Some(file) = lock(&self.open).get(number) {
            return Ok(file);
        }
        let path = path_of(&self.directory, number);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        let headers = read_headers(&file, &path, number)?;
        if let (None, Some(error)) = (headers.nonce, headers.unread) {
            return Err(StoreError::io("read", &path)(error));
        }
        // A nonce that no header gives any more verifies nothing: reading says `Corrupt`.
        let nonce = headers.nonce.unwrap_or([0; 32]);
        let file = Arc::new(SegmentFile { file, path, nonce });
        lock(&self.open).insert(number, file.clone());
        Ok(file)
    }
}
