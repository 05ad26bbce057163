//! Copies that are condemned: taken off their chunk's record and to be deleted on their node.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, Row};

use super::chunks;
use super::nodes::members;
use super::rows::{ChunkRow, Done, Stop, chunk_by_serial, signed, time, unsigned};
use super::writer::Books;
use crate::catalog::{Condemned, CondemnedCopy, Copy, LiveNodes};
use crate::clock::WallTime;
use crate::ids::{NodeId, Serial};

/// Due at once. An `Unknown` copy with this date was named to somebody who may have it deleted.
const AT_ONCE: WallTime = WallTime(0);
/// Due at once, and said to be there since it was last named: whoever was told then and has deleted it
/// may have done so before it came, and must be told again.
const AGAIN: WallTime = WallTime(1);

/// Why a copy is condemned, and from when on it is to be deleted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub why: Condemned,
    pub due: WallTime,
}

impl Mark {
    /// No confirmation takes it back.
    pub(super) fn is_final(&self) -> bool {
        self.why != Condemned::Unknown || self.due <= AGAIN
    }
}

fn why(row: &Row<'_>, column: usize) -> Done<Condemned> {
    match row.get(column)? {
        1_i64 => Ok(Condemned::Unreferred),
        2 => Ok(Condemned::Surplus),
        3 => Ok(Condemned::Unknown),
        other => Err(Stop::Damaged(format!("a copy was condemned for the reason {other}"))),
    }
}

/// How this copy is condemned, if it is.
pub(super) fn mark(books: &Books, node: NodeId, serial: Serial) -> Done<Option<Mark>> {
    // Most of the time nothing is condemned at all, and this is asked for every copy confirmed.
    if books.sums.condemned == 0 {
        return Ok(None);
    }
    Ok(marks(&books.conn, node, serial, serial)?.remove(&serial))
}

/// What is condemned on the node, of these serials.
pub(super) fn marks(
    conn: &Connection,
    node: NodeId,
    from: Serial,
    to: Serial,
) -> Done<BTreeMap<Serial, Mark>> {
    let sql = "SELECT serial, why, due FROM condemned
               WHERE node = ? AND serial >= ? AND serial <= ?";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query((node.0, signed(from.0), signed(to.0)))?;
    let mut marks = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let mark = Mark { why: why(row, 1)?, due: WallTime(unsigned(row, 2)?) };
        marks.insert(Serial(unsigned(row, 0)?), mark);
    }
    Ok(marks)
}

/// True when copies of a chunk with this serial were condemned for what was decided about them, and
/// not because the serial was unknown.
pub(super) fn is_condemned_somewhere(conn: &Connection, serial: Serial) -> Done<bool> {
    let sql = "SELECT 1 FROM condemned WHERE serial = ? AND why <> ?";
    let key = (signed(serial.0), Condemned::Unknown as u8);
    Ok(conn.prepare_cached(sql)?.exists(key)?)
}

/// A copy to enter: it is not counted, and not condemned yet.
pub(super) struct Entered {
    pub node: NodeId,
    pub serial: Serial,
    pub length: u32,
    pub why: Condemned,
    pub purge: bool,
    pub due: WallTime,
}

pub(super) fn enter(books: &mut Books, entered: &Entered) -> Done<()> {
    let Entered { node, serial, length, why, purge, due } = *entered;
    let sql = "INSERT INTO condemned (node, serial, length, why, purge, due)
               VALUES (?, ?, ?, ?, ?, ?)";
    let row = (node.0, signed(serial.0), length, why as u8, purge, time(due));
    books.conn.prepare_cached(sql)?.execute(row)?;
    books.sums.condemned += 1;
    books.sums.unknown += u64::from(why == Condemned::Unknown);
    Ok(())
}

/// The node says that it holds a copy for whose deletion an order may be out.
pub(super) fn is_there(books: &mut Books, node: NodeId, serial: Serial) -> Done<()> {
    let sql = "UPDATE condemned SET due = ? WHERE node = ? AND serial = ? AND due <> ?";
    let key = (time(AGAIN), node.0, signed(serial.0), time(AGAIN));
    books.conn.prepare_cached(sql)?.execute(key)?;
    Ok(())
}

/// The node has deleted it, as it was told. It may have come again since.
pub(super) fn deleted(books: &mut Books, node: NodeId, serial: Serial) -> Done<()> {
    match mark(books, node, serial)? {
        Some(mark) if mark.due == AT_ONCE => strike(books, node, serial),
        Some(_) | None => Ok(()),
    }
}

/// Forgets that the copy is condemned; one that is not is passed over.
pub(super) fn strike(books: &mut Books, node: NodeId, serial: Serial) -> Done<()> {
    let sql = "DELETE FROM condemned WHERE node = ? AND serial = ? RETURNING why";
    let mut statement = books.conn.prepare_cached(sql)?;
    let struck = statement.query_row((node.0, signed(serial.0)), |row| row.get(0)).optional()?;
    if let Some(why) = struck {
        let why: i64 = why;
        books.sums.condemned -= 1;
        books.sums.unknown -= u64::from(why == Condemned::Unknown as i64);
    }
    Ok(())
}

/// Condemns a copy that was confirmed too late, unless it is condemned already.
pub(super) fn condemn_late_copy(
    books: &mut Books,
    node: NodeId,
    serial: Serial,
    length: u32,
) -> Done<()> {
    if mark(books, node, serial)?.is_some() {
        return Ok(());
    }
    let why = Condemned::Unreferred;
    enter(books, &Entered { node, serial, length, why, purge: false, due: AT_ONCE })
}

/// Deletes the record of a chunk to which nothing refers, and condemns all its copies. Returns how
/// many these were.
pub(super) fn condemn_chunk(books: &mut Books, row: &ChunkRow, purge: bool) -> Done<u64> {
    let (serial, length) = (row.record.serial, row.record.length);
    chunks::delete(books, row)?;
    for copy in &row.record.copies {
        let (node, why) = (copy.node, Condemned::Unreferred);
        enter(books, &Entered { node, serial, length, why, purge, due: AT_ONCE })?;
    }
    Ok(row.record.copies.len() as u64)
}

pub(super) fn trim_copies(
    books: &mut Books,
    copies: &[(Serial, NodeId)],
    live: &LiveNodes,
) -> Done<Vec<bool>> {
    let members = members(&books.conn)?;
    let counting: BTreeSet<NodeId> = live.intersection(&members).copied().collect();
    copies.iter().map(|&(serial, node)| trim_copy(books, serial, node, &counting)).collect()
}

/// Condemns one copy as surplus if there are enough others on nodes that count.
fn trim_copy(
    books: &mut Books,
    serial: Serial,
    node: NodeId,
    counting: &BTreeSet<NodeId>,
) -> Done<bool> {
    let Some(row) = chunk_by_serial(&books.conn, serial)? else { return Ok(false) };
    let (own, others): (Vec<&Copy>, Vec<&Copy>) =
        row.record.copies.iter().partition(|copy| copy.node == node);
    // The last copy is never surplus, whatever is wanted. And what nothing refers to may be about to be
    // committed, on the strength of the copies that it has.
    let needed = row.record.wanted.max(1);
    let others = others.iter().filter(|copy| counting.contains(&copy.node)).count();
    if own.is_empty() || others < needed.into() {
        return Ok(false);
    }
    chunks::lose_copy(books, &row, node)?;
    let (length, why) = (row.record.length, Condemned::Surplus);
    enter(books, &Entered { node, serial, length, why, purge: false, due: AT_ONCE })?;
    Ok(true)
}

/// A condemned copy that is due.
pub(super) struct Due {
    pub copy: CondemnedCopy,
    /// As it was left by the last one who asked.
    pub is_named: bool,
}

pub(super) fn due(
    conn: &Connection,
    node: NodeId,
    after: Option<Serial>,
    with_unknown: bool,
    now: WallTime,
    limit: usize,
) -> Done<Vec<Due>> {
    let sql = "SELECT serial, why, purge, due FROM condemned
               WHERE node = ? AND serial > ? AND due <= ? AND (? OR why <> ? OR due <= ?)
               ORDER BY serial LIMIT ?";
    let after = after.map_or(-1, |serial| signed(serial.0));
    let unknown = Condemned::Unknown as u8;
    let (now, limit) = (time(now), signed(limit as u64));
    let mut statement = conn.prepare_cached(sql)?;
    let asked = (node.0, after, now, with_unknown, unknown, time(AGAIN), limit);
    let mut rows = statement.query(asked)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mark = Mark { why: why(row, 1)?, due: WallTime(unsigned(row, 3)?) };
        let (serial, why, purge) = (Serial(unsigned(row, 0)?), mark.why, row.get(2)?);
        let copy = CondemnedCopy { serial, why, purge, is_decided: mark.is_final() };
        found.push(Due { copy, is_named: mark.due == AT_ONCE });
    }
    Ok(found)
}

/// Makes these final that are still condemned and due, and returns them: from now on somebody may
/// have them deleted.
pub(super) fn make_final(
    books: &mut Books,
    node: NodeId,
    found: &[Due],
    now: WallTime,
) -> Done<Vec<CondemnedCopy>> {
    let mut kept = Vec::with_capacity(found.len());
    for Due { copy, .. } in found {
        let sql = "UPDATE condemned SET due = ? WHERE node = ? AND serial = ? AND due <= ?";
        let key = (time(AT_ONCE), node.0, signed(copy.serial.0), time(now));
        if books.conn.prepare_cached(sql)?.execute(key)? > 0 {
            kept.push(*copy);
        }
    }
    Ok(kept)
}

/// How many unknown copies were named.
pub(super) fn named_unknown(conn: &Connection) -> Done<u64> {
    // The reason in figures, without which the index of these alone would not do.
    let sql = "SELECT COUNT(*) FROM condemned INDEXED BY unknown_copies
               WHERE why = 3 AND due <= ?";
    Ok(conn.prepare_cached(sql)?.query_row((time(AGAIN),), |row| unsigned(row, 0))?)
}

pub(super) fn holders(conn: &Connection, serials: &[Serial]) -> Done<Vec<(Serial, NodeId)>> {
    let sql = "SELECT node FROM condemned WHERE serial = ? ORDER BY node";
    let mut statement = conn.prepare_cached(sql)?;
    let mut holders = Vec::new();
    for &serial in serials {
        let nodes = statement.query_map((signed(serial.0),), |row| row.get(0))?;
        for node in nodes {
            holders.push((serial, NodeId(node?)));
        }
    }
    Ok(holders)
}
