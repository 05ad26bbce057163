//! What the catalog counts on a node, and the comparison with what the node holds.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::chunks::{add_copy, lose_copy, node_exists, update};
use super::rows::{ChunkRow, Done, chunk_by_serial, chunk_columns, chunk_row, signed};
use super::writer::Books;
use crate::catalog::{Copy, Holding, Reconciled, Refusal};
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
) -> Done<Reconciled> {
    if !node_exists(&books.conn, node)? {
        return Err(Refusal::UnknownNode(node).into());
    }
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
    for (serial, held) in held {
        match chunk_by_serial(&books.conn, serial)? {
            Some(row) if holding(&row) == *held => {
                if !has_copy_on(&row, node) {
                    let mut new = row.clone();
                    add_copy(&mut new.record.copies, Copy { node, reason: 0 });
                    update(books, &row, &new)?;
                    result.found += 1;
                }
            }
            _ => result.unknown.push(serial),
        }
    }
    Ok(result)
}
