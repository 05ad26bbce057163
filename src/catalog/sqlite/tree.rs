//! Changing the trees of names: directories, moves, removals.

use rusqlite::{Connection, OptionalExtension};

use super::expiry::PURGED;
use super::names::{ROOT, add_directory, child, find, find_directory, make_directories};
use super::rows::{Done, Stop, signed, time, unsigned};
use super::writer::Books;
use crate::catalog::Refusal;
use crate::clock::WallTime;
use crate::ids::{AccountId, Version};
use crate::remote_path::{MAX_PATH_BYTES, MAX_PATH_DEPTH, RemotePath};

/// How many entries of a directory are read at a time when it is removed.
const ENTRIES_AT_A_TIME: i64 = 256;

/// The path's last component and the directory that holds it; the root has neither.
pub(super) fn split(path: &RemotePath) -> Done<(RemotePath, &str)> {
    match (path.parent(), path.name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(Refusal::IsADirectory(path.to_string()).into()),
    }
}

pub(super) fn make_directory(
    books: &mut Books,
    account: AccountId,
    path: &RemotePath,
    parents: bool,
) -> Done<()> {
    let exists = || Refusal::Exists(path.to_string());
    let Ok((parent, name)) = split(path) else {
        return if parents { Ok(()) } else { Err(exists().into()) };
    };
    let parent = match parents {
        true => make_directories(books, account, &parent)?,
        false => find_directory(&books.conn, account, &parent)?,
    };
    match child(&books.conn, account, parent, name)? {
        None => add_directory(books, account, parent, name).map(|_| ()),
        Some(node) if parents && node.is_directory() => Ok(()),
        Some(_) => Err(exists().into()),
    }
}

pub(super) fn move_entry(
    books: &mut Books,
    account: AccountId,
    now: WallTime,
    from: &RemotePath,
    to: &RemotePath,
    replace: bool,
    extent: Extent,
) -> Done<()> {
    split(from)?;
    let node = find(&books.conn, account, from)?;
    if from == to {
        return Ok(());
    }
    let (parent, name) = split(to)?;
    if node.is_directory() && to.is_within(from) {
        return Err(Refusal::IntoItself { from: from.to_string(), to: to.to_string() }.into());
    }
    let parent = find_directory(&books.conn, account, &parent)?;
    match child(&books.conn, account, parent, name)? {
        None => {}
        Some(in_the_way) => match in_the_way.version {
            Some(version) if replace => {
                let removal = Removal { account, now, purge: false };
                remove_file(books, removal, in_the_way.id, version, to.as_str())?;
            }
            _ => return Err(Refusal::Exists(to.to_string()).into()),
        },
    }
    if to.as_str().len() + extent.bytes > MAX_PATH_BYTES
        || to.components().count() + extent.depth > MAX_PATH_DEPTH
    {
        return Err(Refusal::PathTooLong(to.to_string()).into());
    }
    let sql = "UPDATE entries SET parent = ?, name = ? WHERE id = ?";
    books.conn.prepare_cached(sql)?.execute((signed(parent), name, signed(node.id)))?;
    Ok(())
}

/// How far the paths below a directory go on behind its own.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    bytes: usize,
    depth: usize,
}

/// True when paths below could break the limits after a move that they kept before it.
pub(super) fn grows(from: &RemotePath, to: &RemotePath) -> bool {
    to.as_str().len() > from.as_str().len() || to.components().count() > from.components().count()
}

/// The extent of what stands at `path`, if anything does.
pub(super) fn extent(conn: &Connection, account: AccountId, path: &RemotePath) -> Done<Extent> {
    let mut whole = Extent::default();
    let top = match find(conn, account, path) {
        Ok(node) if node.is_directory() => node.id,
        Ok(_) | Err(Stop::Refused(_)) => return Ok(whole),
        Err(stop) => return Err(stop),
    };
    let sql = "SELECT id, length(CAST(name AS BLOB)), version IS NULL FROM entries
               WHERE account = ? AND parent = ?";
    let mut statement = conn.prepare_cached(sql)?;
    let mut open = vec![(top, Extent::default())];
    while let Some((directory, above)) = open.pop() {
        let mut rows = statement.query((account.0, signed(directory)))?;
        while let Some(row) = rows.next()? {
            let name_bytes = unsigned(row, 1)? as usize;
            let here = Extent { bytes: above.bytes + 1 + name_bytes, depth: above.depth + 1 };
            whole.bytes = whole.bytes.max(here.bytes);
            whole.depth = whole.depth.max(here.depth);
            if row.get(2)? {
                open.push((unsigned(row, 0)?, here));
            }
        }
    }
    Ok(whole)
}

pub(super) fn remove_entry(
    books: &mut Books,
    account: AccountId,
    now: WallTime,
    path: &RemotePath,
    recursive: bool,
    if_version: Option<Version>,
    purge: bool,
) -> Done<u64> {
    let removal = Removal { account, now, purge };
    split(path)?;
    let node = find(&books.conn, account, path)?;
    if if_version.is_some() && if_version != node.version {
        return Err(Refusal::Conflict { path: path.to_string(), current: node.version }.into());
    }
    if let Some(version) = node.version {
        remove_file(books, removal, node.id, version, path.as_str())?;
        return Ok(1);
    }
    if !recursive && !entries(books, account, node.id, 1)?.is_empty() {
        return Err(Refusal::NotEmpty(path.to_string()).into());
    }
    let removed = empty_directory(books, removal, node.id, path.as_str())?;
    delete_entry(books, node.id)?;
    Ok(removed)
}

/// Removes all below a directory, however deep; returns how many files that were.
fn empty_directory(books: &mut Books, removal: Removal, directory: u64, path: &str) -> Done<u64> {
    debug_assert_ne!(directory, ROOT, "the root is refused before");
    let mut removed = 0;
    let mut open = vec![(directory, path.to_string())];
    while let Some((directory, path)) = open.pop() {
        loop {
            let entries = entries(books, removal.account, directory, ENTRIES_AT_A_TIME)?;
            if entries.is_empty() {
                break;
            }
            for (id, name, version) in entries {
                let path = format!("{path}/{name}");
                match version {
                    Some(version) => {
                        remove_file(books, removal, id, version, &path)?;
                        removed += 1;
                    }
                    // Its own entries are found by its number, which stays.
                    None => {
                        delete_entry(books, id)?;
                        open.push((id, path));
                    }
                }
            }
        }
    }
    Ok(removed)
}

type NamedEntry = (u64, String, Option<Version>);

/// Some of the entries of a directory, at most `limit`.
fn entries(books: &Books, account: AccountId, directory: u64, limit: i64) -> Done<Vec<NamedEntry>> {
    let sql = "SELECT id, name, version FROM entries WHERE account = ? AND parent = ? LIMIT ?";
    let mut statement = books.conn.prepare_cached(sql)?;
    let rows = statement.query_map((account.0, signed(directory), limit), |row| {
        let version: Option<i64> = row.get(2)?;
        let version = version.map(|_| unsigned(row, 2)).transpose()?.map(Version);
        Ok((unsigned(row, 0)?, row.get(1)?, version))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn delete_entry(books: &Books, id: u64) -> Done<()> {
    books.conn.prepare_cached("DELETE FROM entries WHERE id = ?")?.execute((signed(id),))?;
    Ok(())
}

/// Whose files are removed, when, and whether for good.
#[derive(Clone, Copy)]
struct Removal {
    account: AccountId,
    now: WallTime,
    purge: bool,
}

/// Takes a file out of the tree. Its versions stay, under the path that it had; for good, they stay
/// only until they are ended.
fn remove_file(
    books: &mut Books,
    removal: Removal,
    id: u64,
    version: Version,
    path: &str,
) -> Done<()> {
    if removal.purge {
        purge_versions(books, version)?;
    } else {
        end_version(books, version, removal.now)?;
        let sql = "INSERT INTO removed (entry, account, path, version, removed_at)
                   VALUES (?, ?, ?, ?, ?)";
        let (entry, version) = (signed(id), signed(version.0));
        let (account, now) = (removal.account.0, time(removal.now));
        books.conn.prepare_cached(sql)?.execute((entry, account, path, version, now))?;
    }
    delete_entry(books, id)?;
    books.sums.files -= 1;
    Ok(())
}

/// Has all versions of a file end before any other, from the current one down.
fn purge_versions(books: &Books, current: Version) -> Done<()> {
    let mut next = Some(signed(current.0));
    while let Some(version) = next {
        end_version(books, Version(version as u64), PURGED)?;
        let sql = "SELECT previous FROM versions WHERE version = ?";
        let previous = books.conn.prepare_cached(sql)?.query_row((version,), |row| row.get(0));
        next = previous.optional()?.flatten();
    }
    Ok(())
}

/// Notes when a version stopped being the current one.
pub(super) fn end_version(books: &Books, version: Version, now: WallTime) -> Done<()> {
    let sql = "UPDATE versions SET ended_at = ? WHERE version = ?";
    books.conn.prepare_cached(sql)?.execute((time(now), signed(version.0)))?;
    Ok(())
}
