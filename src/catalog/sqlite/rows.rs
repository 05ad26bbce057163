//! How values stand in the tables, and how an operation ends that does not go through.

use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::catalog::{CatalogError, ChunkRecord, Copy, Refusal};
use crate::clock::WallTime;
use crate::ids::{AccountId, ChunkId, HashAlgorithm, NodeId, Serial};

/// Why an operation ended without a result. The writer then takes back what it did.
#[derive(Debug)]
pub(super) enum Stop {
    Refused(Refusal),
    Sql(rusqlite::Error),
    Damaged(String),
}

pub(super) type Done<T> = Result<T, Stop>;

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Stop {
        Stop::Sql(error)
    }
}

impl Stop {
    /// The same for the caller, who was `doing` this.
    pub(super) fn during(self, doing: &'static str) -> CatalogError {
        match self {
            Stop::Refused(refusal) => CatalogError::Refused(refusal),
            Stop::Sql(source) => CatalogError::Engine { doing, source },
            Stop::Damaged(what) => CatalogError::Damaged(what),
        }
    }
}

/// A number as SQL keeps it. Only times can be above what fits, and then all mean "never".
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

pub(super) fn time(at: WallTime) -> i64 {
    signed(at.0)
}

/// What was noted at this time or before is older than `span`. Below zero when nothing can be.
pub(super) fn time_before(now: WallTime, span: Duration) -> i64 {
    time(now).saturating_sub(signed(span.as_millis() as u64))
}

fn out_of_form(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, what.into())
}

/// A chunk id as it stands in the table: the hash function's number, then the digest.
pub(super) fn id_bytes(id: &ChunkId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + id.digest().len());
    bytes.push(id.algorithm() as u8);
    bytes.extend_from_slice(id.digest());
    bytes
}

/// Reads back what `id_bytes` wrote.
pub(super) fn id_from_bytes(bytes: &[u8]) -> Option<ChunkId> {
    let (&number, digest) = bytes.split_first()?;
    ChunkId::from_digest(HashAlgorithm::from_number(number)?, digest)
}

/// Bytes of one copy in the column `copies`.
const COPY_BYTES: usize = 5;

/// Copies as they stand in the table.
pub(super) fn copy_bytes(copies: &[Copy]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(copies.len() * COPY_BYTES);
    for copy in copies {
        bytes.extend_from_slice(&copy.node.0.to_be_bytes());
        bytes.push(copy.reason);
    }
    bytes
}

/// Reads back what `copy_bytes` wrote.
pub(super) fn copies_from_bytes(bytes: &[u8]) -> Option<Vec<Copy>> {
    let (whole, rest) = bytes.as_chunks::<COPY_BYTES>();
    let copy = |&[a, b, c, d, reason]: &[u8; COPY_BYTES]| Copy {
        node: NodeId(u32::from_be_bytes([a, b, c, d])),
        reason,
    };
    rest.is_empty().then(|| whole.iter().map(copy).collect())
}

/// A row of `chunks`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ChunkRow {
    pub record: ChunkRecord,
    pub refs: u64,
    pub lease_until: u64,
}

impl ChunkRow {
    /// True when the length was confirmed by a node or promised to a version, and so stays.
    pub(super) fn length_is_settled(&self) -> bool {
        self.refs > 0 || !self.record.copies.is_empty()
    }
}

macro_rules! chunk_columns {
    () => {
        "SELECT serial, account, id, length, wanted, refs, lease_until, copies FROM chunks "
    };
}
pub(super) use chunk_columns;

/// Reads a row of the columns that `chunk_columns!` names.
pub(super) fn chunk_row(row: &Row<'_>) -> rusqlite::Result<ChunkRow> {
    let id = id_from_bytes(row.get_ref(2)?.as_blob()?).ok_or(out_of_form(2, "a chunk id"))?;
    let copies =
        copies_from_bytes(row.get_ref(7)?.as_blob()?).ok_or(out_of_form(7, "five bytes a copy"))?;
    let record = ChunkRecord {
        serial: Serial(unsigned(row, 0)?),
        account: AccountId(row.get(1)?),
        id,
        length: row.get(3)?,
        wanted: row.get(4)?,
        copies,
    };
    Ok(ChunkRow { record, refs: unsigned(row, 5)?, lease_until: unsigned(row, 6)? })
}

pub(super) fn chunk_by_id(
    conn: &Connection,
    account: AccountId,
    id: &ChunkId,
) -> Done<Option<ChunkRow>> {
    let sql = concat!(chunk_columns!(), "WHERE account = ? AND id = ?");
    let mut statement = conn.prepare_cached(sql)?;
    Ok(statement.query_row((account.0, id_bytes(id)), chunk_row).optional()?)
}

pub(super) fn chunk_by_serial(conn: &Connection, serial: Serial) -> Done<Option<ChunkRow>> {
    let sql = concat!(chunk_columns!(), "WHERE serial = ?");
    let mut statement = conn.prepare_cached(sql)?;
    Ok(statement.query_row((signed(serial.0),), chunk_row).optional()?)
}
