//! Putting a generation together again from the copies that several nodes have of its file.
//!
//! All copies begin alike, since each was copied from the main server's own file. So a piece is at
//! the same place in each that has it, and where it is bad in one, it is taken from another.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};

use crate::clock::WallTime;

use super::file::{
    HEADER_BYTES, Header, Kind, MAX_PIECE_BYTES, PIECE_HEAD_BYTES, Piece, PieceHead,
};
use super::keys::SealingKey;
use super::seal::Seal;

/// Reads a node's copy of the file: what it has from an offset on, as much as fits, or why it cannot.
pub type ReadAt<'a> = Box<dyn FnMut(u64) -> Result<Vec<u8>, String> + 'a>;

/// A node's copy of a generation's file.
pub struct Kept<'a> {
    /// Where it is, for people.
    pub place: String,
    /// How many bytes it has: nobody is asked for more.
    length: u64,
    read: ReadAt<'a>,
    /// What was read ahead, and where that begins.
    ahead: Vec<u8>,
    ahead_at: u64,
}

/// A piece that no copy has whole, and what each has in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub sequence: u64,
    /// Place and reason.
    pub asked: Vec<(String, String)>,
    /// Some copy has something there: it is damaged, and not simply the end.
    pub is_damage: bool,
}

/// What the copies came to together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    pub generation: u64,
    /// The last piece with a boundary at its end, behind a complete snapshot; `None` when the
    /// snapshot is not complete.
    pub boundary: Option<u64>,
    /// When that piece was written.
    pub time: WallTime,
    /// The last piece that was found.
    pub sequence: u64,
    /// Why there are no more; `None` when no more were wanted.
    pub ends: Option<Missing>,
    /// Pieces that were bad in one copy and good in another.
    pub mended: Vec<(u64, String, String)>,
}

impl<'a> Kept<'a> {
    /// A copy of so many bytes that is read so.
    pub fn new(place: String, length: u64, read: ReadAt<'a>) -> Kept<'a> {
        Kept { place, length, read, ahead: Vec::new(), ahead_at: 0 }
    }

    /// The bytes from `offset` on, `length` of them; fewer where the copy ends.
    fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], String> {
        let end = self.ahead_at + self.ahead.len() as u64;
        if offset < self.ahead_at || offset > end {
            (self.ahead, self.ahead_at) = (Vec::new(), offset);
        }
        let skipped = (offset - self.ahead_at) as usize;
        if self.ahead.len() - skipped < length {
            self.ahead.drain(..skipped);
            self.ahead_at = offset;
            while self.ahead.len() < length && offset + (self.ahead.len() as u64) < self.length {
                let more = (self.read)(offset + self.ahead.len() as u64)?;
                if more.is_empty() {
                    break;
                }
                self.ahead.extend_from_slice(&more);
            }
        }
        let from = (offset - self.ahead_at) as usize;
        let to = self.ahead.len().min(from + length);
        Ok(&self.ahead[from..to])
    }

    fn header(&mut self, generation: u64) -> Result<Header, String> {
        let bytes = self.bytes(0, HEADER_BYTES)?;
        let header = bytes.try_into().ok().and_then(Header::from_bytes);
        header
            .filter(|header| header.generation == generation)
            .ok_or_else(|| "its header is damaged".to_string())
    }

    /// A whole piece; the error says whether there was anything at all.
    fn piece(
        &mut self,
        seal: &Seal,
        offset: u64,
        sequence: u64,
    ) -> Result<Vec<u8>, (bool, String)> {
        let damaged = |why: String| (true, format!("it is damaged there: {why}"));
        let unread = |why: String| (true, why);
        let head = self.bytes(offset, PIECE_HEAD_BYTES).map_err(unread)?;
        if head.is_empty() {
            return Err((false, "it ends before".to_string()));
        }
        let cut = || (false, "it ends within".to_string());
        let head = PieceHead::from_bytes(head.try_into().map_err(|_| cut())?);
        let length = PIECE_HEAD_BYTES + head.length as usize;
        if length > MAX_PIECE_BYTES {
            return Err(damaged("no piece is as long".to_string()));
        }
        let bytes = self.bytes(offset, length).map_err(unread)?;
        if bytes.len() < length {
            return Err(cut());
        }
        match seal.open(bytes, sequence) {
            Ok(_) => Ok(bytes.to_vec()),
            Err(why) => Err(damaged(why.to_string())),
        }
    }
}

/// Puts a generation together from its copies and writes its file, up to piece `until` at most, to
/// `out`. The error of a copy goes into the result; the error here is that of `out`.
pub fn assemble(
    key: &SealingKey,
    generation: u64,
    copies: &mut [Kept<'_>],
    until: Option<u64>,
    out: &File,
) -> io::Result<Assembled> {
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let mut found = Assembled {
        generation,
        boundary: None,
        time: WallTime(0),
        sequence: 0,
        ends: None,
        mended: Vec::new(),
    };
    let headers: Vec<_> = copies.iter_mut().map(|copy| copy.header(generation)).collect();
    let header = headers.iter().flatten().next().cloned();
    let asked = || {
        let why = headers.iter().map(|header| header.as_ref().err().cloned().unwrap_or_default());
        copies.iter().map(|copy| copy.place.clone()).zip(why).collect()
    };
    let Some(header) = header else {
        found.ends = Some(Missing { sequence: 0, asked: asked(), is_damage: true });
        return Ok(found);
    };
    let seal = Seal::new(key, &header);
    out.write_all(&header.to_bytes())?;
    let (mut offset, mut has_snapshot) = (HEADER_BYTES as u64, false);
    while until.is_none_or(|until| found.sequence < until) {
        let bytes = match next_piece(&seal, copies, offset, &mut found) {
            Ok(bytes) => bytes,
            Err(missing) => {
                found.ends = Some(missing);
                break;
            }
        };
        out.write_all(&bytes)?;
        offset += bytes.len() as u64;
        found.sequence += 1;
        let piece = seal.open(&bytes, found.sequence).expect("it was opened just now");
        has_snapshot |= piece.is_boundary && piece.kind == Kind::Snapshot;
        if has_snapshot && piece.is_boundary {
            (found.boundary, found.time) = (Some(found.sequence), piece.time);
        }
    }
    out.flush()?;
    Ok(found)
}

/// The next piece, from the first copy that has it whole.
fn next_piece(
    seal: &Seal,
    copies: &mut [Kept<'_>],
    offset: u64,
    found: &mut Assembled,
) -> Result<Vec<u8>, Missing> {
    let sequence = found.sequence + 1;
    let mut missing = Missing { sequence, asked: Vec::new(), is_damage: false };
    for copy in copies {
        match copy.piece(seal, offset, sequence) {
            Ok(bytes) => {
                for (place, why) in missing.asked {
                    if missing.is_damage && found.mended.len() < 100 {
                        found.mended.push((sequence, place, why));
                    }
                }
                return Ok(bytes);
            }
            Err((is_damage, why)) => {
                missing.is_damage |= is_damage;
                missing.asked.push((copy.place.clone(), why));
            }
        }
    }
    Err(missing)
}

/// Opens the pieces of an assembled file, up to `boundary`, in the order in which they apply: the
/// snapshot first, then the changes.
pub fn for_each_piece<E: From<io::Error>>(
    key: &SealingKey,
    file: &File,
    boundary: u64,
    mut take: impl FnMut(Piece) -> Result<(), E>,
) -> Result<(), E> {
    for kind in [Kind::Snapshot, Kind::Changes] {
        rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0)).map_err(io::Error::from)?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut header = [0; HEADER_BYTES];
        reader.read_exact(&mut header)?;
        let header = Header::from_bytes(&header).ok_or(io::ErrorKind::InvalidData);
        let seal = Seal::new(key, &header.map_err(io::Error::from)?);
        for sequence in 1..=boundary {
            let mut bytes = vec![0; PIECE_HEAD_BYTES];
            reader.read_exact(&mut bytes)?;
            let head = bytes.as_slice().try_into().expect("a head's length");
            let length = PieceHead::from_bytes(head).length as usize;
            bytes.resize(PIECE_HEAD_BYTES + length, 0);
            reader.read_exact(&mut bytes[PIECE_HEAD_BYTES..])?;
            let piece = seal.open(&bytes, sequence);
            let piece = piece.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
            if piece.kind == kind {
                take(piece)?;
            }
        }
    }
    Ok(())
}
