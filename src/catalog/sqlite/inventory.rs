//! What the catalog counts on a node, and the comparison with what the node holds.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::chunks::{add_copy, lose_copy, update};
use super::condemned::{self, Entered, Mark};
use super::nodes::check_can_hold;
use super::rows::{
    ChunkRow, Done, chunk_by_serial, chunk_columns, chunk_row, copies_from_bytes, signed, unsigned,
};
use super::writer::Books;
use crate::catalog::{ChunkRecord, Condemned, Copy, Holding, Reconciled};
use crate::clock::WallTime;
use crate::ids::{NodeId, Serial};

fn holding(row: &ChunkRow) -> Holding {
    Holding {
        serial: row.record.serial,
        length: row.record.length,
        fingerprint: Holding::fingerprint_of(&row.record.id),
    }
}

fn has_copy_on(row: &ChunkRow, node: NodeId) -> bool {
    row.record.copies.iter().any(|copy| copy.node == node)
}

/// The rows with a copy on `node`, by serial. There is no index of copies by node, which would cost
/// more than all else in the budget of a chunk: a comparison reads the range that it compares.
fn rows_on(
    conn: &Connection,
    node: NodeId,
    from: Serial,
    to: Serial,
    limit: usize,
) -> Done<Vec<ChunkRow>> {
    let sql = concat!(chunk_columns!(), "WHERE serial >= ? AND serial <= ? ORDER BY serial");
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map((signed(from.0), signed(to.0)), chunk_row)?;
    let is_on = |row: &rusqlite::Result<ChunkRow>| match row {
        Ok(row) => has_copy_on(row, node),
        Err(_) => true,
    };
    Ok(rows.filter(is_on).take(limit).collect::<rusqlite::Result<_>>()?)
}

pub(super) fn copies_on(
    conn: &Connection,
    node: NodeId,
    from: Serial,
    to: Serial,
    limit: usize,
) -> Done<Vec<Holding>> {
    Ok(rows_on(conn, node, from, to, limit)?.iter().map(holding).collect())
}

pub(super) fn reconcile(
    books: &mut Books,
    node: NodeId,
    from: Serial,
    to: Serial,
    held: &[Holding],
    unknown_due: WallTime,
) -> Done<Reconciled> {
    check_can_hold(&books.conn, node)??;
    let held: BTreeMap<Serial, &Holding> = held
        .iter()
        .filter(|held| (from..=to).contains(&held.serial))
        .map(|held| (held.serial, held))
        .collect();
    let mut result = Reconciled::default();
    for row in rows_on(&books.conn, node, from, to, usize::MAX)? {
        if held.get(&row.record.serial) != Some(&&holding(&row)) {
            result.lost.extend(lose_copy(books, &row, node)?);
        }
    }
    let marks = condemned::marks(&books.conn, node, from, to)?;
    // For the others an order may be out, which would hit what is stored there again.
    let not_held =
        |(serial, mark): &(&Serial, &Mark)| !mark.is_final() && !held.contains_key(serial);
    for (serial, _) in marks.iter().filter(not_held) {
        condemned::strike(books, node, *serial)?;
    }
    for (serial, held) in held {
        let row = chunk_by_serial(&books.conn, serial)?.filter(|row| holding(row) == *held);
        match (row, marks.get(&serial)) {
            (Some(row), None) => result.found += count(books, &row, node)?,
            (Some(row), Some(mark)) if !mark.is_final() => {
                condemned::strike(books, node, serial)?;
                result.found += count(books, &row, node)?;
            }
            (_, Some(mark)) => {
                if mark.is_final() {
                    condemned::is_there(books, node, serial)?;
                }
                result.unknown.push(serial);
            }
            (None, None) => {
                condemn_unknown(books, node, held, unknown_due)?;
                result.unknown.push(serial);
            }
        }
    }
    Ok(result)
}

/// Counts a copy that was found; 0 when it counted already.
fn count(books: &mut Books, row: &ChunkRow, node: NodeId) -> Done<u64> {
    if has_copy_on(row, node) {
        return Ok(0);
    }
    let mut new = row.clone();
    add_copy(&mut new.record.copies, Copy { node, reason: 0 });
    update(books, row, &new)?;
    Ok(1)
}

fn condemn_unknown(books: &mut Books, node: NodeId, held: &Holding, due: WallTime) -> Done<()> {
    // A serial beyond what the table can keep was never given out by any catalog.
    if i64::try_from(held.serial.0).is_err() {
        return Ok(());
    }
    let Holding { serial, length, .. } = *held;
    let why = Condemned::Unknown;
    condemned::enter(books, &Entered { node, serial, length, why, purge: false, due })
}

/// Of the next `limit` chunks those with a copy on `node`, and the last one looked at.
pub(super) fn page_of(
    conn: &Connection,
    node: NodeId,
    after: Option<Serial>,
    limit: usize,
) -> Done<(Vec<Serial>, Option<Serial>)> {
    let sql = "SELECT serial, copies FROM chunks WHERE serial > ? ORDER BY serial LIMIT ?";
    let mut statement = conn.prepare_cached(sql)?;
    let limit = limit.max(1);
    let after = after.map_or(-1, |serial| signed(serial.0));
    let mut rows = statement.query((after, signed(limit as u64)))?;
    let (mut found, mut looked_at, mut last) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        let serial = Serial(unsigned(row, 0)?);
        let copies = copies_from_bytes(row.get_ref(1)?.as_blob().unwrap_or_default());
        if copies.is_some_and(|copies| copies.iter().any(|copy| copy.node == node)) {
            found.push(serial);
        }
        looked_at += 1;
        last = Some(serial);
    }
    Ok((found, last.filter(|_| looked_at == limit)))
}

/// Takes the node's copies of these chunks off, and what is condemned on it of the serials above
/// `after`, up to `to` if that is given.
pub(super) fn strip(
    books: &mut Books,
    node: NodeId,
    after: Option<Serial>,
    to: Option<Serial>,
    found: &[Serial],
) -> Done<Vec<ChunkRecord>> {
    let from = after.map_or(Serial(0), |after| Serial(after.0.saturating_add(1)));
    let to = to.unwrap_or(Serial(u64::MAX));
    for serial in condemned::marks(&books.conn, node, from, to)?.into_keys() {
        condemned::strike(books, node, serial)?;
    }
    super::chunks::lose_copies(books, node, found)
}
