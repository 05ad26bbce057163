//! Starts of the main server, accounts, invites, nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row};

use super::rows::{Done, Stop, signed, time, unsigned};
use super::writer::Books;
use crate::catalog::{
    AccountRecord, MAX_BELIEVED_SERIAL, NodeRecord, NodeStart, Refusal, Standing,
};
use crate::clock::WallTime;
use crate::ids::{AccountId, BooksMark, Incarnation, KeyId, NodeId};

/// 2020-01-01 00:00 UTC, from which the number sequence counts seconds.
const NUMBERS_EPOCH: Duration = Duration::from_secs(1_577_836_800);
/// How many numbers each second since then stands for, as a power of two.
const NUMBERS_IN_SECOND: u32 = 20;

pub(super) fn begin_incarnation(
    books: &mut Books,
    incarnation: Incarnation,
    now: WallTime,
) -> Done<()> {
    let sql = "UPDATE incarnations SET last_mark = ? WHERE last_mark IS NULL AND incarnation <> ?";
    books.conn.prepare_cached(sql)?.execute((signed(books.mark), incarnation.as_bytes()))?;
    let sql = "INSERT INTO incarnations (incarnation, started_at) VALUES (?, ?)
               ON CONFLICT DO NOTHING";
    books.conn.prepare_cached(sql)?.execute((incarnation.as_bytes(), time(now)))?;
    let seconds = (now - NUMBERS_EPOCH).0 / 1000;
    // Far in the future the clock is wrong, and the sequence must last.
    let by_clock = (seconds << NUMBERS_IN_SECOND).min(MAX_BELIEVED_SERIAL.0);
    books.sums.next = books.sums.next.max(by_clock);
    Ok(())
}

/// Enters one into the history, as far as a person said that these books go on from it.
pub(super) fn adopt_incarnation(
    books: &mut Books,
    (incarnation, mark): (Incarnation, BooksMark),
    now: WallTime,
) -> Done<()> {
    let sql = "INSERT INTO incarnations (incarnation, started_at, last_mark) VALUES (?, ?, ?)
               ON CONFLICT DO UPDATE SET last_mark = max(last_mark, excluded.last_mark)
               WHERE last_mark IS NOT NULL";
    let row = (incarnation.as_bytes(), time(now), signed(mark.0));
    books.conn.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

pub(super) fn knows_incarnation(
    conn: &Connection,
    incarnation: &Incarnation,
    mark: BooksMark,
) -> Done<bool> {
    let sql = "SELECT 1 FROM incarnations
               WHERE incarnation = ? AND (last_mark IS NULL OR last_mark >= ?)";
    Ok(conn.prepare_cached(sql)?.exists((incarnation.as_bytes(), signed(mark.0)))?)
}

pub(super) fn account_by_key(
    conn: &Connection,
    fingerprint: &[u8; 32],
) -> Done<Option<AccountRecord>> {
    let sql = "SELECT id, name, is_admin FROM accounts JOIN account_keys ON account = id
               WHERE fingerprint = ?";
    let record = |row: &Row<'_>| {
        let id = AccountId(row.get(0)?);
        Ok(AccountRecord { id, name: row.get(1)?, is_admin: row.get(2)? })
    };
    Ok(conn.prepare_cached(sql)?.query_row((fingerprint,), record).optional()?)
}

pub(super) fn create_invite(
    books: &mut Books,
    fingerprint: &[u8; 32],
    uses: u32,
    expires: WallTime,
) -> Done<()> {
    let sql = "INSERT INTO invites (fingerprint, uses, expires) VALUES (?, ?, ?)
               ON CONFLICT DO NOTHING";
    books.conn.prepare_cached(sql)?.execute((fingerprint, uses, time(expires)))?;
    Ok(())
}

pub(super) fn join_node(
    books: &mut Books,
    invite: &[u8; 32],
    secret: &[u8; 32],
    now: WallTime,
) -> Done<NodeId> {
    let conn = &books.conn;
    let sql = "SELECT id FROM nodes WHERE invite = ? AND secret = ?";
    let joined = conn.prepare_cached(sql)?.query_row((invite, secret), |row| row.get(0));
    if let Some(number) = joined.optional()? {
        return Ok(NodeId(number));
    }
    let sql =
        "UPDATE invites SET uses = uses - 1 WHERE fingerprint = ? AND uses > 0 AND expires > ?";
    if conn.prepare_cached(sql)?.execute((invite, time(now)))? == 0 {
        return Err(Refusal::UnknownInvite.into());
    }
    let sql = "SELECT coalesce(max(id), 0) + 1 FROM nodes";
    let number: u32 = conn.prepare_cached(sql)?.query_row((), |row| row.get(0))?;
    let sql = "INSERT INTO nodes (id, invite, secret, zone, offered_bytes) VALUES (?, ?, ?, '', 0)";
    conn.prepare_cached(sql)?.execute((number, invite, secret))?;
    Ok(NodeId(number))
}

pub(super) fn start_node(books: &mut Books, node: NodeId, start: &NodeStart) -> Done<()> {
    check_can_hold(&books.conn, node)??;
    let conn = &books.conn;
    let sql = "SELECT incarnation FROM nodes WHERE id = ?";
    let row = conn.prepare_cached(sql)?.query_row((node.0,), |row| row.get(0)).optional()?;
    let registered: Option<[u8; 16]> = row.ok_or(Refusal::UnknownNode(node))?;
    if let Some(registered) = registered.map(Incarnation::from_bytes)
        && registered != start.incarnation
        && !start.previous.contains(&registered)
    {
        return Err(Refusal::StaleDirectory(node).into());
    }
    let sql = "UPDATE nodes SET incarnation = ?, address = ?, zone = ?, offered_bytes = ?
               WHERE id = ?";
    conn.prepare_cached(sql)?.execute((
        start.incarnation.as_bytes(),
        start.address.as_str(),
        &start.zone,
        signed(start.offered_bytes),
        node.0,
    ))?;
    if let Some(highest) = start.highest_serial.filter(|highest| *highest <= MAX_BELIEVED_SERIAL) {
        books.sums.next = books.sums.next.max(highest.0 + 1);
    }
    Ok(())
}

pub(super) fn set_node_key(books: &mut Books, node: NodeId, key: KeyId) -> Done<()> {
    standing(&books.conn, node)?.ok_or(Refusal::UnknownNode(node))?;
    let sql = "UPDATE nodes SET key_id = ? WHERE id = ? AND coalesce(key_id, -1) < ?";
    books.conn.prepare_cached(sql)?.execute((key.0, node.0, key.0))?;
    Ok(())
}

pub(super) fn note_time(books: &mut Books, now: WallTime, is_confirmed: bool) -> Done<()> {
    let sql = "UPDATE catalog SET latest_time = ? WHERE ? OR latest_time < ?";
    let noted = books.conn.prepare_cached(sql)?.execute((time(now), is_confirmed, time(now)))?;
    books.unmarked += noted as u64;
    Ok(())
}

pub(super) fn latest_time(conn: &Connection) -> Done<WallTime> {
    let sql = "SELECT latest_time FROM catalog";
    Ok(WallTime(conn.prepare_cached(sql)?.query_row((), |row| unsigned(row, 0))?))
}

/// How a standing is written down.
pub(super) fn number_of(standing: Standing) -> u8 {
    match standing {
        Standing::Member => 0,
        Standing::Draining => 1,
        Standing::Left => 2,
    }
}

fn standing_of(row: &Row<'_>, column: usize) -> Done<Standing> {
    match row.get(column)? {
        0_i64 => Ok(Standing::Member),
        1 => Ok(Standing::Draining),
        2 => Ok(Standing::Left),
        other => Err(Stop::Damaged(format!("a node has the standing {other}"))),
    }
}

/// `None` for a node that never joined.
pub(super) fn standing(conn: &Connection, node: NodeId) -> Done<Option<Standing>> {
    let mut statement = conn.prepare_cached("SELECT standing FROM nodes WHERE id = ?")?;
    let mut rows = statement.query((node.0,))?;
    rows.next()?.map(|row| standing_of(row, 0)).transpose()
}

/// Refused: `UnknownNode`, `NodeLeft`.
pub(super) fn check_can_hold(conn: &Connection, node: NodeId) -> Done<Result<(), Refusal>> {
    Ok(match standing(conn, node)? {
        None => Err(Refusal::UnknownNode(node)),
        Some(Standing::Left) => Err(Refusal::NodeLeft(node)),
        Some(Standing::Member | Standing::Draining) => Ok(()),
    })
}

/// The nodes that are not to lose their copies.
pub(super) fn members(conn: &Connection) -> Done<BTreeSet<NodeId>> {
    standing_as(conn, Standing::Member)
}

/// The nodes that were struck off.
pub(super) fn left(conn: &Connection) -> Done<BTreeSet<NodeId>> {
    standing_as(conn, Standing::Left)
}

fn standing_as(conn: &Connection, standing: Standing) -> Done<BTreeSet<NodeId>> {
    let mut statement = conn.prepare_cached("SELECT id FROM nodes WHERE standing = ?")?;
    let rows = statement.query_map((number_of(standing),), |row| row.get(0))?;
    rows.map(|id| Ok(NodeId(id?))).collect()
}

pub(super) fn set_standing(books: &mut Books, node: NodeId, new: Standing) -> Done<()> {
    match standing(&books.conn, node)?.ok_or(Refusal::UnknownNode(node))? {
        Standing::Left if new != Standing::Left => return Err(Refusal::NodeLeft(node).into()),
        Standing::Member | Standing::Draining | Standing::Left => {}
    }
    let sql = "UPDATE nodes SET standing = ? WHERE id = ? AND standing <> ?";
    let number = number_of(new);
    books.conn.prepare_cached(sql)?.execute((number, node.0, number))?;
    Ok(())
}

pub(super) fn nodes(conn: &Connection) -> Done<Vec<NodeRecord>> {
    let sql = "SELECT id, secret, incarnation, address, zone, offered_bytes, key_id, standing
               FROM nodes
               ORDER BY id";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(())?;
    let mut nodes = Vec::new();
    while let Some(row) = rows.next()? {
        let address: Option<String> = row.get(3)?;
        let address = address.map(|text| text.parse()).transpose();
        let incarnation: Option<[u8; 16]> = row.get(2)?;
        nodes.push(NodeRecord {
            standing: standing_of(row, 7)?,
            id: NodeId(row.get(0)?),
            secret_fingerprint: row.get(1)?,
            incarnation: incarnation.map(Incarnation::from_bytes),
            address: address.map_err(|error| Stop::Damaged(format!("a node: {error}")))?,
            zone: row.get(4)?,
            offered_bytes: unsigned(row, 5)?,
            key: row.get::<_, Option<u32>>(6)?.map(KeyId),
        });
    }
    Ok(nodes)
}
