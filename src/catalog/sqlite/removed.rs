//! Removed files, as long as they can be brought back.

use rusqlite::{Connection, OptionalExtension};

use super::names::{child, make_directories};
use super::rows::{Done, signed, unsigned};
use super::tree::split;
use super::writer::Books;
use crate::catalog::{FileInfo, Refusal, RemovedEntry};
use crate::clock::WallTime;
use crate::ids::{AccountId, Version};
use crate::remote_path::RemotePath;

pub(super) fn list(
    conn: &Connection,
    account: AccountId,
    path: &RemotePath,
    after: Option<Version>,
    limit: usize,
) -> Done<Vec<RemovedEntry>> {
    let start = match after {
        None => (i64::MAX, i64::MAX),
        Some(version) => match removed_at(conn, account, version)? {
            Some(at) => (at, signed(version.0)),
            None => return Ok(Vec::new()),
        },
    };
    // By time, so that a page ends early; what is elsewhere is passed over.
    let sql = "SELECT r.path, r.removed_at, v.version, v.size, v.chunk_count, v.copies, v.mtime_ms,
               v.is_executable
               FROM removed r INDEXED BY removed_times JOIN versions v ON v.version = r.version
               WHERE r.account = ? AND (r.removed_at, r.version) < (?, ?)
               AND (r.path = ? OR r.path >= ? AND r.path < ?)
               ORDER BY r.removed_at DESC, r.version DESC";
    let stem = path.as_str().trim_end_matches('/');
    // All that begins with the path and a slash, which comes just before `0`.
    let (low, high) = (format!("{stem}/"), format!("{stem}0"));
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query((account.0, start.0, start.1, path.as_str(), low, high))?;
    let mut entries = Vec::new();
    while entries.len() < limit {
        let Some(row) = rows.next()? else { break };
        // A tree moved by an earlier release can have paths beyond the limits.
        let Ok(path) = row.get::<_, String>(0)?.parse() else { continue };
        let info = FileInfo {
            version: Version(unsigned(row, 2)?),
            size: unsigned(row, 3)?,
            chunk_count: unsigned(row, 4)?,
            copies: row.get(5)?,
            mtime_ms: row.get(6)?,
            executable: row.get(7)?,
        };
        entries.push(RemovedEntry { path, info, removed_at: WallTime(unsigned(row, 1)?) });
    }
    Ok(entries)
}

fn removed_at(conn: &Connection, account: AccountId, version: Version) -> Done<Option<i64>> {
    let sql = "SELECT r.removed_at FROM versions v
               JOIN removed r ON r.entry = v.entry AND r.version = v.version
               WHERE v.version = ? AND r.account = ?";
    let key = (signed(version.0), account.0);
    Ok(conn.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()?)
}

pub(super) fn undelete(
    books: &mut Books,
    account: AccountId,
    path: &RemotePath,
    version: Option<Version>,
) -> Done<Version> {
    let found = find(&books.conn, account, path, version)?;
    let (entry, version) = found.ok_or_else(|| Refusal::NotFound(path.to_string()))?;
    let (parent, name) = split(path)?;
    let parent = make_directories(books, account, &parent)?;
    if child(&books.conn, account, parent, name)?.is_some() {
        return Err(Refusal::Exists(path.to_string()).into());
    }
    let sql = "DELETE FROM removed WHERE entry = ?";
    books.conn.prepare_cached(sql)?.execute((signed(entry),))?;
    // Under its old number, by which the earlier versions know it.
    let sql = "INSERT INTO entries (id, account, parent, name, version) VALUES (?, ?, ?, ?, ?)";
    let row = (signed(entry), account.0, signed(parent), name, signed(version.0));
    books.conn.prepare_cached(sql)?.execute(row)?;
    let sql = "UPDATE versions SET ended_at = NULL WHERE version = ?";
    books.conn.prepare_cached(sql)?.execute((signed(version.0),))?;
    books.sums.files += 1;
    Ok(version)
}

/// Entry and version of the file removed last at this path, or of the one with this version.
fn find(
    conn: &Connection,
    account: AccountId,
    path: &RemotePath,
    version: Option<Version>,
) -> Done<Option<(u64, Version)>> {
    let sql = "SELECT entry, version FROM removed
               WHERE account = ? AND path = ? AND (? IS NULL OR version = ?)
               ORDER BY removed_at DESC, version DESC LIMIT 1";
    let version = version.map(|version| signed(version.0));
    let mut statement = conn.prepare_cached(sql)?;
    let found = statement.query_row((account.0, path.as_str(), version, version), |row| {
        Ok((unsigned(row, 0)?, Version(unsigned(row, 1)?)))
    });
    Ok(found.optional()?)
}
