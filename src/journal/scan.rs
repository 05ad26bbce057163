//! What a node that cannot open the pieces can tell of a file: where it is whole.

use std::fs::File;
use std::io::{self, BufReader, Read};

use super::file::{HEADER_BYTES, Header, MAX_PIECE_BYTES, PIECE_HEAD_BYTES, PieceHead};

/// How far a file is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// `None` when even the header is not whole.
    pub header: Option<Header>,
    /// Bytes up to the end of the last piece before which nothing is wrong.
    pub good_bytes: u64,
    /// The number of that piece.
    pub sequence: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Reads a file from its start up to its end or to what is not whole.
pub fn scan(file: &File) -> io::Result<Scan> {
    let bytes = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut header = [0; HEADER_BYTES];
    let mut scan = Scan { header: None, good_bytes: 0, sequence: 0, bytes };
    if !fill(&mut reader, &mut header)? {
        return Ok(scan);
    }
    scan.header = Header::from_bytes(&header);
    if scan.header.is_none() {
        return Ok(scan);
    }
    scan.good_bytes = HEADER_BYTES as u64;
    let mut block = vec![0; 64 << 10];
    while let Some(length) = whole_piece(&mut reader, scan.sequence + 1, &mut block)? {
        scan.good_bytes += length;
        scan.sequence += 1;
    }
    Ok(scan)
}

/// Reads on over one piece; its bytes, or `None` when there is no whole one with this number.
fn whole_piece(reader: &mut impl Read, sequence: u64, block: &mut [u8]) -> io::Result<Option<u64>> {
    let mut head = [0; PIECE_HEAD_BYTES];
    if !fill(reader, &mut head)? {
        return Ok(None);
    }
    let head = PieceHead::from_bytes(&head);
    let length = head.length as usize;
    if head.sequence != sequence || length > MAX_PIECE_BYTES {
        return Ok(None);
    }
    let (mut sum, mut left) = (PieceHead::sum_of(sequence), length);
    while left > 0 {
        let part = &mut block[..left.min(64 << 10)];
        if !fill(reader, part)? {
            return Ok(None);
        }
        sum = crc32c::crc32c_append(sum, part);
        left -= part.len();
    }
    Ok((sum == head.sum).then_some((PIECE_HEAD_BYTES + length) as u64))
}

/// Fills the buffer; false when the file ends before.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
