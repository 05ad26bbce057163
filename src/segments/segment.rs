//! One segment file: how it is made, and how records are written into it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::durable::{self, SyncPoint};

use super::error::StoreError;
use super::file;
use super::format::{
    self, BLOCK_BYTES, FIRST_RECORD_AT, FORMAT_VERSION, Nonce, Record, SECOND_HEADER_AT,
    SEGMENT_HEADER_BYTES,
};

/// Small records are gathered up to this size before they are written.
const GATHER_BYTES: usize = 256 * 1024;

/// A segment file that is being written to.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u32,
    pub path: PathBuf,
    pub file: File,
    pub nonce: Nonce,
}

/// The path of segment `number` in the directory of segments.
pub(super) fn path_of(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08}.seg"))
}

impl Segment {
    /// Makes an empty segment, durable with its name when this returns: so a segment without a good
    /// header has no records, unless it was damaged later.
    ///
    /// `Failed` if a sync failed: then the caller can trust the disk no longer.
    pub fn create(directory: &Path, number: u32) -> Result<Segment, StoreError> {
        let path = path_of(directory, number);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(|error| no_room_or("create", &path, error))?;
        durable::entry_created(&path);
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
        if let Err(error) = write_headers(&file, number, &nonce) {
            // It is empty: should it stay, the next start finds it unfinished and makes it anew.
            let _ = std::fs::remove_file(&path);
            return Err(no_room_or("write", &path, error));
        }
        let failed = |path: &Path, source| {
            Err(StoreError::Failed { path: path.to_path_buf(), source: Arc::new(source) })
        };
        if let Err(error) = durable::sync_file(&file, SyncPoint::SegmentData) {
            return failed(&path, error);
        }
        if let Err(error) = durable::sync_directory(directory, SyncPoint::SegmentDirectory) {
            return failed(directory, error);
        }
        Ok(Segment { number, path, file, nonce })
    }

    /// Writes these records one after another from `offset` on.
    ///
    /// Small ones are gathered into large writes. The header of a large one is written after its
    /// data, so that a process killed in between leaves no header without its data.
    pub fn write(&self, offset: u64, records: &[(Record, &[u8])]) -> io::Result<()> {
        let mut at = offset;
        let mut gathered = Vec::new();
        for (record, data) in records {
            let size = format::record_bytes(record.body.length());
            let checksums = format::block_checksums(data);
            let is_large = data.len() > BLOCK_BYTES;
            if is_large || gathered.len() >= GATHER_BYTES {
                self.file.write_all_at(&gathered, at - gathered.len() as u64)?;
                gathered.clear();
            }
            let gathered_before = gathered.len();
            format::encode(&mut gathered, record, &checksums, &self.nonce, at);
            if is_large {
                self.file.write_all_at(data, at + gathered.len() as u64)?;
                self.file.write_all_at(&gathered, at)?;
                gathered.clear();
            } else {
                gathered.extend_from_slice(data);
                gathered.resize(gathered_before + size as usize, 0);
            }
            at += size;
        }
        self.file.write_all_at(&gathered, at - gathered.len() as u64)
    }
}

fn write_headers(file: &File, number: u32, nonce: &Nonce) -> io::Result<()> {
    let mut bytes = vec![0; FIRST_RECORD_AT as usize];
    let header = format::encode_segment_header(number, nonce);
    for at in [0, SECOND_HEADER_AT as usize] {
        bytes[at..at + SEGMENT_HEADER_BYTES].copy_from_slice(&header);
    }
    file.write_all_at(&bytes, 0)
}

/// What the two headers of a segment say.
#[derive(Debug)]
pub(super) struct Headers {
    /// From the first good one.
    pub nonce: Option<Nonce>,
    /// Where a header should be and is not.
    pub bad: Vec<u64>,
    /// Why the disk could not read one.
    pub unread: Option<io::Error>,
}

/// Reads the headers of segment `number`. `Version` if it is from another version of the program.
pub(super) fn read_headers(file: &File, path: &Path, number: u32) -> Result<Headers, StoreError> {
    let mut headers = Headers { nonce: None, bad: Vec::new(), unread: None };
    for at in [0, SECOND_HEADER_AT] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        // What cannot be read is as bad as what cannot be understood: there is another.
        let read = file::read_exact_at(file, &mut bytes, at);
        let is_read = read.is_ok();
        let unread = read.err().filter(|error| error.kind() != io::ErrorKind::UnexpectedEof);
        headers.unread = headers.unread.or(unread);
        match format::decode_segment_header(&bytes, number).filter(|_| is_read) {
            Some((FORMAT_VERSION, nonce)) => headers.nonce = headers.nonce.or(Some(nonce)),
            Some((found, _)) => {
                let path = path.to_path_buf();
                return Err(StoreError::Version { path, found, known: FORMAT_VERSION });
            }
            None => headers.bad.push(at),
        }
    }
    Ok(headers)
}

/// `NoSpace` or `Io`, after a failed write. How much is free is the caller's to add.
pub(super) fn no_room_or(doing: &'static str, path: &Path, error: io::Error) -> StoreError {
    if StoreError::is_lack_of_space(&error) {
        return StoreError::NoSpace { needed: FIRST_RECORD_AT, free: 0 };
    }
    StoreError::io(doing, path)(error)
}
