//! Changing how many copies files are to have.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, Row};

use super::chunks::update;
use super::names::{find, serials_of};
use super::rows::{Done, Stop, chunk_by_serial, signed, unsigned};
use super::writer::Books;
use crate::catalog::{CopiesSet, MAX_PART_CHUNKS};
use crate::ids::{AccountId, Serial, Version};
use crate::remote_path::RemotePath;

pub(super) fn set_copies(
    books: &mut Books,
    account: AccountId,
    path: &RemotePath,
    copies: u8,
    after: Option<u64>,
    limit: usize,
) -> Done<CopiesSet> {
    let mut walk = Walk::new(&books.conn, account, path, after)?;
    let mut done = Tally::default();
    let (mut looked_at, mut last) = (0, None);
    while let Some((entry, version)) = walk.next(&books.conn)? {
        if looked_at >= limit.max(1) {
            done.set.next = last;
            break;
        }
        looked_at += set_copies_of(books, version, copies, &mut done)?.max(1);
        last = Some(entry);
    }
    done.set.changed = done.changed.into_iter().collect();
    Ok(done.set)
}

#[derive(Default)]
struct Tally {
    set: CopiesSet,
    changed: BTreeSet<Serial>,
}

/// Sets the copies of one version; returns how many places its manifest has.
fn set_copies_of(books: &mut Books, version: Version, copies: u8, done: &mut Tally) -> Done<usize> {
    let serials = serials_of(&books.conn, version, 0, usize::MAX)?;
    let mut places: BTreeMap<Serial, u64> = BTreeMap::new();
    for serial in &serials {
        *places.entry(*serial).or_default() += 1;
    }
    for (serial, own) in &places {
        let old = chunk_by_serial(&books.conn, *serial)?.ok_or_else(|| {
            Stop::Damaged(format!("version {version} names chunk {serial}, which has no record"))
        })?;
        let mut new = old.clone();
        new.record.wanted = match old.refs == *own {
            true => copies,
            false => old.record.wanted.max(copies),
        };
        done.set.chunks += 1;
        done.set.kept += u64::from(new.record.wanted > copies);
        if new != old {
            done.changed.insert(*serial);
            if done.changed.len() > MAX_PART_CHUNKS {
                done.changed.pop_last();
            }
        }
        update(books, &old, &new)?;
    }
    let sql = "UPDATE versions SET copies = ? WHERE version = ?";
    books.conn.prepare_cached(sql)?.execute((copies, signed(version.0)))?;
    done.set.files += 1;
    Ok(serials.len())
}

/// The files at or below a path, one after the other: a directory's entries by name, and what is
/// below one of them right after it.
struct Walk {
    account: AccountId,
    /// The file at the path itself, if that is what stands there.
    only: Option<(u64, Version)>,
    /// From the top down: a directory, and the name in it behind which to go on.
    levels: Vec<(u64, String)>,
}

impl Walk {
    /// Begins behind the file `after`, or with the first one when that is not below the path.
    fn new(
        conn: &Connection,
        account: AccountId,
        path: &RemotePath,
        after: Option<u64>,
    ) -> Done<Walk> {
        let top = find(conn, account, path)?;
        if let Some(version) = top.version {
            let only = (after != Some(top.id)).then_some((top.id, version));
            return Ok(Walk { account, only, levels: Vec::new() });
        }
        let levels = after.map(|after| levels(conn, account, top.id, after)).transpose()?;
        let levels = levels.flatten().unwrap_or_else(|| vec![(top.id, String::new())]);
        Ok(Walk { account, only: None, levels })
    }

    fn next(&mut self, conn: &Connection) -> Done<Option<(u64, Version)>> {
        if let Some(only) = self.only.take() {
            return Ok(Some(only));
        }
        while let Some((directory, name)) = self.levels.last_mut() {
            let sql = "SELECT id, name, version FROM entries
                       WHERE account = ? AND parent = ? AND name > ? ORDER BY name LIMIT 1";
            let mut statement = conn.prepare_cached(sql)?;
            let key = (self.account.0, signed(*directory), &*name);
            match statement.query_row(key, entry).optional()? {
                None => drop(self.levels.pop()),
                Some((id, found, version)) => {
                    *name = found;
                    match version {
                        Some(version) => return Ok(Some((id, version))),
                        None => self.levels.push((id, String::new())),
                    }
                }
            }
        }
        Ok(None)
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<(u64, String, Option<Version>)> {
    let version: Option<i64> = row.get(2)?;
    let version = version.map(|_| unsigned(row, 2)).transpose()?.map(Version);
    Ok((unsigned(row, 0)?, row.get(1)?, version))
}

/// The way from the directory `top` to the file `after`; `None` when it leads elsewhere.
fn levels(
    conn: &Connection,
    account: AccountId,
    top: u64,
    after: u64,
) -> Done<Option<Vec<(u64, String)>>> {
    let sql = "SELECT parent, name, version IS NOT NULL FROM entries WHERE id = ? AND account = ?";
    let mut statement = conn.prepare_cached(sql)?;
    let mut levels = Vec::new();
    let mut at = after;
    while at != top || levels.is_empty() {
        let row = statement.query_row((signed(at), account.0), |row| {
            Ok((unsigned(row, 0)?, row.get::<_, String>(1)?, row.get::<_, bool>(2)?))
        });
        let Some((parent, name, is_file)) = row.optional()? else { return Ok(None) };
        if is_file != levels.is_empty() {
            return Ok(None);
        }
        levels.push((parent, name));
        at = parent;
    }
    levels.reverse();
    Ok(Some(levels))
}
