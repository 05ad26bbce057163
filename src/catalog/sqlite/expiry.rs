//! Ending versions whose time is over, and collecting chunks to which nothing refers.

use rusqlite::{Connection, OptionalExtension};

use super::condemned::condemn_chunk;
use super::names::{SERIALS_IN_PART, unpack};
use super::rows::{ChunkRow, Done, Stop, chunk_by_serial, signed, time, unsigned};
use super::writer::Books;
use crate::catalog::Collected;
use crate::clock::WallTime;
use crate::ids::{Serial, Version};

/// When what was removed for good has ended: before everything else that did.
pub(super) const PURGED: WallTime = WallTime(0);

pub(super) fn expire_versions(
    books: &mut Books,
    before: WallTime,
    now: WallTime,
    limit: usize,
) -> Done<Collected> {
    let mut collected = Collected::default();
    let mut looked_at = 0;
    while let Some(ended) = first_ended(&books.conn, before)? {
        if looked_at >= limit.max(1) {
            collected.next = Some(Serial(ended.version.0));
            break;
        }
        looked_at += end_some(books, &ended, now, &mut collected)?.max(1);
    }
    Ok(collected)
}

/// A version that was replaced or removed.
struct Ended {
    version: Version,
    entry: u64,
    is_purged: bool,
    inline: Option<Vec<u8>>,
}

/// The one that ended first, if that was before `before`.
fn first_ended(conn: &Connection, before: WallTime) -> Done<Option<Ended>> {
    let sql = "SELECT version, entry, ended_at, serials FROM versions
               WHERE ended_at < ? ORDER BY ended_at, version LIMIT 1";
    let mut statement = conn.prepare_cached(sql)?;
    let ended = statement.query_row((time(before),), |row| {
        Ok(Ended {
            version: Version(unsigned(row, 0)?),
            entry: unsigned(row, 1)?,
            is_purged: unsigned(row, 2)? == PURGED.0,
            inline: row.get(3)?,
        })
    });
    Ok(ended.optional()?)
}

/// Ends a short version, or the last part of a long one: the parts before it stay whole, so that a
/// crash, or a pause, between two of them costs nothing. Returns how many places it looked at.
fn end_some(
    books: &mut Books,
    ended: &Ended,
    now: WallTime,
    collected: &mut Collected,
) -> Done<usize> {
    let version = signed(ended.version.0);
    let sql = "DELETE FROM removed WHERE entry = ? AND version = ?";
    books.conn.prepare_cached(sql)?.execute((signed(ended.entry), version))?;
    let (serials, is_last) = match &ended.inline {
        Some(bytes) => (unpack(bytes, 0, 0, u64::MAX), true),
        None => take_last_part(books, ended.version)?,
    };
    for serial in &serials {
        let row = chunk_by_serial(&books.conn, *serial)?.ok_or_else(|| {
            let version = ended.version;
            Stop::Damaged(format!("version {version} names chunk {serial}, which has no record"))
        })?;
        release(books, &row, ended.is_purged, now, collected)?;
    }
    if is_last {
        let sql = "DELETE FROM versions WHERE version = ?";
        books.conn.prepare_cached(sql)?.execute((version,))?;
        collected.versions += 1;
    } else {
        let sql = "UPDATE versions SET is_ending = 1 WHERE version = ?";
        books.conn.prepare_cached(sql)?.execute((version,))?;
    }
    Ok(serials.len())
}

/// Takes the last part that is left off a manifest; true when it was the first.
fn take_last_part(books: &Books, version: Version) -> Done<(Vec<Serial>, bool)> {
    let sql = "SELECT number, part, serials FROM manifests WHERE version = ?
               ORDER BY part DESC LIMIT 1";
    let mut statement = books.conn.prepare_cached(sql)?;
    let part = statement.query_row((signed(version.0),), |row| {
        Ok((unsigned(row, 0)?, unsigned(row, 1)?, row.get::<_, Vec<u8>>(2)?))
    });
    let Some((number, part, bytes)) = part.optional()? else { return Ok((Vec::new(), true)) };
    let sql = "DELETE FROM manifests WHERE number = ?";
    books.conn.prepare_cached(sql)?.execute((signed(number),))?;
    debug_assert!(bytes.len() <= SERIALS_IN_PART * 8);
    Ok((unpack(&bytes, 0, 0, u64::MAX), part == 0))
}

/// Takes one place that names the chunk off it, and condemns it if that was the last and nothing
/// else holds it.
fn release(
    books: &mut Books,
    old: &ChunkRow,
    is_purged: bool,
    now: WallTime,
    collected: &mut Collected,
) -> Done<()> {
    let mut new = old.clone();
    new.refs = old.refs.checked_sub(1).ok_or_else(|| {
        Stop::Damaged(format!("chunk {} is named in more places than it counts", new.record.serial))
    })?;
    if new.refs == 0 && (is_purged || new.lease_until <= now.0) {
        collected.copies += condemn_chunk(books, old, is_purged)?;
        collected.chunks += 1;
        return Ok(());
    }
    super::chunks::update(books, old, &new)
}

/// Of the next `limit` chunks those that `collect` would take now, and the last one looked at.
pub(super) fn unreferred(
    conn: &Connection,
    after: Option<Serial>,
    now: WallTime,
    limit: usize,
) -> Done<(Vec<Serial>, Option<Serial>)> {
    let sql = "SELECT serial, refs = 0 AND lease_until <= ? FROM chunks
               WHERE serial > ? ORDER BY serial LIMIT ?";
    let mut statement = conn.prepare_cached(sql)?;
    let limit = limit.max(1);
    let after = after.map_or(-1, |serial| signed(serial.0));
    let mut rows = statement.query((time(now), after, signed(limit as u64)))?;
    let (mut found, mut looked_at, mut last) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        let serial = Serial(unsigned(row, 0)?);
        if row.get(1)? {
            found.push(serial);
        }
        looked_at += 1;
        last = Some(serial);
    }
    Ok((found, last.filter(|_| looked_at == limit)))
}

/// Condemns those of these chunks that are still without a file and a lease.
pub(super) fn collect(books: &mut Books, found: &[Serial], now: WallTime) -> Done<Collected> {
    let mut collected = Collected::default();
    for &serial in found {
        match chunk_by_serial(&books.conn, serial)? {
            Some(row) if row.refs == 0 && row.lease_until <= now.0 => {
                collected.copies += condemn_chunk(books, &row, false)?;
                collected.chunks += 1;
            }
            _ => {}
        }
    }
    Ok(collected)
}
