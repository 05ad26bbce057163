//! What a start found on disk.

use std::fmt;
use std::ops::RangeInclusive;

use crate::clock::WallTime;
use crate::ids::Serial;

use super::store::StoreId;

/// What `Store::open` found. Everything but the counts is for people to see.
#[derive(Debug, Clone)]
pub struct OpenReport {
    /// Whose store it is.
    pub id: StoreId,
    /// When it was made.
    pub created: WallTime,
    /// The segment files that were read.
    pub segments: usize,
    /// Those of them that had no valid hint and were scanned, the last one always among them.
    pub scanned: usize,
    /// The chunks that the store holds.
    pub chunks: usize,
    /// The highest serial of any record, tombstones and chunks alike.
    pub highest_serial: Option<Serial>,
    /// Ends of segments that held no whole record and were cut off.
    pub cut: Vec<CutTail>,
    /// Bytes that are not what was written there, and what they cost.
    pub damaged: Vec<Damage>,
    /// Places of writes that were never finished, and so never confirmed.
    pub gaps: Vec<Gap>,
    /// Numbers of segments which should be there and are not.
    pub missing: Vec<RangeInclusive<u32>>,
}

/// The end of a segment, without a whole record in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutTail {
    /// The segment.
    pub segment: u32,
    /// Where the last whole record ends.
    pub offset: u64,
    /// The bytes after that.
    pub bytes: u64,
    /// The chunks there whose header could be read.
    pub serials: Vec<Serial>,
}

/// Bytes of a segment that are not what was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: u32,
    /// Where the damaged record begins.
    pub offset: u64,
    /// How far the damage can reach: to the end of the record, or to the next one that is good.
    pub bytes: u64,
    /// The chunk, if the record's header could be read.
    pub serial: Option<Serial>,
}

/// The place of a write that was never finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The segment.
    pub segment: u32,
    /// Where the place begins.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
    /// The chunk, if the record's header was written before the rest.
    pub serial: Option<Serial>,
}

impl fmt::Display for CutTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CutTail { segment, offset, bytes, serials } = self;
        write!(f, "segment={segment} offset={offset} bytes={bytes} serials={serials:?}")
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { segment, offset, bytes, serial } = self;
        write!(f, "segment={segment} offset={offset} bytes={bytes}")?;
        serial.map_or(Ok(()), |serial| write!(f, " serial={serial}"))
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gap { segment, offset, bytes, serial } = self;
        write!(f, "segment={segment} offset={offset} bytes={bytes}")?;
        serial.map_or(Ok(()), |serial| write!(f, " serial={serial}"))
    }
}
