//! Chunks and their copies.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::Connection;

use super::condemned;
use super::nodes::check_can_hold;
use super::rows::{
    ChunkRow, Done, chunk_by_id, chunk_by_serial, chunk_columns, chunk_row, copy_bytes, id_bytes,
    signed,
};
use super::writer::Books;
use crate::catalog::{ChunkRecord, Confirmation, Copy, Refusal};
use crate::clock::WallTime;
use crate::ids::{AccountId, ChunkId, NodeId, Serial};

pub(super) fn reserve(
    books: &mut Books,
    account: AccountId,
    copies: u8,
    lease_until: WallTime,
    chunks: &[(ChunkId, u32)],
) -> Done<Vec<Result<ChunkRecord, Refusal>>> {
    let mut answers = Vec::with_capacity(chunks.len());
    for &(id, length) in chunks {
        let Some(old) = chunk_by_id(&books.conn, account, &id)? else {
            let serial = Serial(books.draw());
            let record =
                ChunkRecord { serial, account, id, length, wanted: copies, copies: Vec::new() };
            let lease_until = lease_until.0;
            insert(books, &ChunkRow { record: record.clone(), refs: 0, lease_until })?;
            answers.push(Ok(record));
            continue;
        };
        if old.record.length != length && old.length_is_settled() {
            let recorded = old.record.length;
            answers.push(Err(Refusal::LengthDiffers { id, recorded, asked: length }));
            continue;
        }
        let mut new = old.clone();
        new.record.length = length;
        new.record.wanted = copies.max(old.record.wanted);
        new.lease_until = old.lease_until.max(lease_until.0);
        update(books, &old, &new)?;
        answers.push(Ok(new.record));
    }
    Ok(answers)
}

pub(super) fn confirm_copies(
    books: &mut Books,
    confirmations: &[Confirmation],
    lease_until: WallTime,
) -> Done<Vec<Result<ChunkRecord, Refusal>>> {
    let mut known: BTreeMap<NodeId, Result<(), Refusal>> = BTreeMap::new();
    let mut answers = Vec::with_capacity(confirmations.len());
    for confirmation in confirmations {
        let node = confirmation.node;
        let can_hold = match known.entry(node) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(check_can_hold(&books.conn, node)?),
        };
        answers.push(match can_hold {
            Ok(()) => confirm(books, confirmation, lease_until)?,
            Err(refusal) => Err(refusal.clone()),
        });
    }
    Ok(answers)
}

fn confirm(
    books: &mut Books,
    said: &Confirmation,
    lease_until: WallTime,
) -> Done<Result<ChunkRecord, Refusal>> {
    let Confirmation { id, serial, length, node, .. } = *said;
    let mark = condemned::mark(books, node, serial)?;
    if mark.is_some_and(|mark| mark.is_final()) {
        condemned::is_there(books, node, serial)?;
        return Ok(Err(Refusal::Superseded { id, serial }));
    }
    let Some(old) = confirmed_chunk(books, said, lease_until)? else {
        let is_ours = serial.0 > 0 && serial.0 < books.sums.next;
        if is_ours && chunk_by_serial(&books.conn, serial)?.is_none() {
            condemned::condemn_late_copy(books, node, serial, length)?;
        }
        return Ok(Err(Refusal::Superseded { id, serial }));
    };
    if old.record.length != length && old.length_is_settled() {
        let recorded = old.record.length;
        return Ok(Err(Refusal::LengthDiffers { id, recorded, asked: length }));
    }
    if mark.is_some() {
        condemned::strike(books, node, serial)?;
    }
    let mut new = old.clone();
    new.record.length = length;
    new.record.wanted = said.wanted.max(old.record.wanted);
    add_copy(&mut new.record.copies, Copy { node: said.node, reason: said.reason });
    update(books, &old, &new)?;
    Ok(Ok(new.record))
}

/// The record that the confirmation is of, made where it was reserved and then lost; `None` when
/// its serial stands for something else, or for nothing any more.
fn confirmed_chunk(
    books: &mut Books,
    said: &Confirmation,
    lease_until: WallTime,
) -> Done<Option<ChunkRow>> {
    let Confirmation { account, id, serial, length, wanted, .. } = *said;
    // By serial first: rows that came together stand together, while ids are all over their index.
    let recorded = chunk_by_serial(&books.conn, serial)?;
    let is_its_own = |row: &ChunkRow| row.record.account == account && row.record.id == id;
    if recorded.as_ref().is_some_and(is_its_own) {
        return Ok(recorded);
    }
    if chunk_by_id(&books.conn, account, &id)?.is_some() {
        return Ok(None);
    }
    let was_given_out = serial.0 > 0 && serial.0 < books.sums.next;
    if !was_given_out
        || recorded.is_some()
        || condemned::is_condemned_somewhere(&books.conn, serial)?
    {
        return Ok(None);
    }
    let record = ChunkRecord { serial, account, id, length, wanted, copies: Vec::new() };
    let made = ChunkRow { record, refs: 0, lease_until: lease_until.0 };
    insert(books, &made)?;
    Ok(Some(made))
}

/// Adds a copy in its place by node; one that is there already stays as it is.
pub(super) fn add_copy(copies: &mut Vec<Copy>, copy: Copy) {
    if let Err(place) = copies.binary_search_by_key(&copy.node, |c| c.node) {
        copies.insert(place, copy);
    }
}

pub(super) fn lose_copies(
    books: &mut Books,
    node: NodeId,
    serials: &[Serial],
) -> Done<Vec<ChunkRecord>> {
    let mut lost = Vec::new();
    for &serial in serials {
        if let Some(row) = chunk_by_serial(&books.conn, serial)? {
            lost.extend(lose_copy(books, &row, node)?);
        }
    }
    Ok(lost)
}

/// Takes the node's copy off the record; `None` when it had none.
pub(super) fn lose_copy(
    books: &mut Books,
    old: &ChunkRow,
    node: NodeId,
) -> Done<Option<ChunkRecord>> {
    let mut new = old.clone();
    new.record.copies.retain(|copy| copy.node != node);
    if new == *old {
        return Ok(None);
    }
    update(books, old, &new)?;
    Ok(Some(new.record))
}

fn insert(books: &mut Books, row: &ChunkRow) -> Done<()> {
    let sql = "INSERT INTO chunks (serial, account, id, length, wanted, refs, lease_until, copies)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    let ChunkRecord { serial, account, id, length, wanted, copies } = &row.record;
    books.conn.prepare_cached(sql)?.execute((
        signed(serial.0),
        account.0,
        id_bytes(id),
        length,
        wanted,
        signed(row.refs),
        signed(row.lease_until),
        copy_bytes(copies),
    ))?;
    books.sums.chunks += 1;
    books.sums.copies += copies.len() as u64;
    Ok(())
}

/// Deletes a row; its copies are condemned by the caller.
pub(super) fn delete(books: &mut Books, row: &ChunkRow) -> Done<()> {
    let sql = "DELETE FROM chunks WHERE serial = ?";
    books.conn.prepare_cached(sql)?.execute((signed(row.record.serial.0),))?;
    books.sums.chunks -= 1;
    books.sums.copies -= row.record.copies.len() as u64;
    Ok(())
}

/// Writes what changed of a row; serial, account and id never do.
pub(super) fn update(books: &mut Books, old: &ChunkRow, new: &ChunkRow) -> Done<()> {
    if old == new {
        return Ok(());
    }
    let sql = "UPDATE chunks SET length = ?, wanted = ?, refs = ?, lease_until = ?, copies = ?
               WHERE serial = ?";
    books.conn.prepare_cached(sql)?.execute((
        new.record.length,
        new.record.wanted,
        signed(new.refs),
        signed(new.lease_until),
        copy_bytes(&new.record.copies),
        signed(new.record.serial.0),
    ))?;
    books.sums.copies += new.record.copies.len() as u64;
    books.sums.copies -= old.record.copies.len() as u64;
    Ok(())
}

pub(super) fn locate(
    conn: &Connection,
    account: AccountId,
    chunks: &[ChunkId],
) -> Done<Vec<Option<ChunkRecord>>> {
    chunks.iter().map(|id| Ok(chunk_by_id(conn, account, id)?.map(|row| row.record))).collect()
}

pub(super) fn chunks(conn: &Connection, serials: &[Serial]) -> Done<Vec<ChunkRecord>> {
    let mut found = Vec::with_capacity(serials.len());
    for &serial in serials {
        found.extend(chunk_by_serial(conn, serial)?.map(|row| row.record));
    }
    Ok(found)
}

pub(super) fn under_copied(
    conn: &Connection,
    after: Option<Serial>,
    limit: usize,
) -> Done<Vec<ChunkRecord>> {
    // The condition is word for word that of the index, which alone makes this cheap.
    let sql = concat!(
        chunk_columns!(),
        "INDEXED BY under_copied WHERE refs > 0 AND length(copies) < 5 * wanted AND serial > ?
         ORDER BY serial LIMIT ?"
    );
    let mut statement = conn.prepare_cached(sql)?;
    let after = after.map_or(-1, |serial| signed(serial.0));
    let rows = statement.query_map((after, signed(limit as u64)), chunk_row)?;
    rows.map(|row| Ok(row?.record)).collect()
}

/// Enters one more place of a version that names the chunk, with so many copies wanted.
pub(super) fn refer(books: &mut Books, old: &ChunkRow, copies: u8) -> Done<ChunkRow> {
    let mut new = old.clone();
    new.refs += 1;
    new.record.wanted = copies.max(old.record.wanted);
    update(books, old, &new)?;
    Ok(new)
}
