//! Reading the trees of names.

use rusqlite::{Connection, OptionalExtension, Row};

use super::rows::{Done, Stop, chunk_by_serial, signed, unsigned};
use super::writer::Books;
use crate::catalog::{ChunkRecord, Entry, EntryKind, FileInfo, Refusal};
use crate::ids::{AccountId, Serial, Version};
use crate::remote_path::RemotePath;

/// The serials in each part of a stored manifest but the last.
pub(super) const SERIALS_IN_PART: usize = 4096;
/// The parent of what stands in an account's root.
pub(super) const ROOT: u64 = 0;

/// What stands at a name: a file with its current version, or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    pub id: u64,
    pub version: Option<Version>,
}

impl Node {
    const ROOT: Node = Node { id: ROOT, version: None };

    pub(super) fn is_directory(&self) -> bool {
        self.version.is_none()
    }
}

pub(super) fn child(
    conn: &Connection,
    account: AccountId,
    parent: u64,
    name: &str,
) -> Done<Option<Node>> {
    let sql = "SELECT id, version FROM entries WHERE account = ? AND parent = ? AND name = ?";
    let node = |row: &Row<'_>| {
        let version: Option<i64> = row.get(1)?;
        let version = version.map(|_| unsigned(row, 1)).transpose()?.map(Version);
        Ok(Node { id: unsigned(row, 0)?, version })
    };
    let mut statement = conn.prepare_cached(sql)?;
    Ok(statement.query_row((account.0, signed(parent), name), node).optional()?)
}

/// What stands at `path`; otherwise `NotFound` or `NotADirectory` with the first path from the root
/// down that is missing or in the way.
pub(super) fn find(conn: &Connection, account: AccountId, path: &RemotePath) -> Done<Node> {
    let mut node = Node::ROOT;
    let mut walked = String::new();
    for name in path.components() {
        if !node.is_directory() {
            return Err(Refusal::NotADirectory(walked).into());
        }
        walked.push('/');
        walked.push_str(name);
        match child(conn, account, node.id, name)? {
            Some(found) => node = found,
            None => return Err(Refusal::NotFound(walked).into()),
        }
    }
    Ok(node)
}

pub(super) fn find_directory(
    conn: &Connection,
    account: AccountId,
    path: &RemotePath,
) -> Done<u64> {
    match find(conn, account, path)? {
        node if node.is_directory() => Ok(node.id),
        _ => Err(Refusal::NotADirectory(path.to_string()).into()),
    }
}

/// The directory at `path`, made with all those above it where they are missing.
pub(super) fn make_directories(
    books: &mut Books,
    account: AccountId,
    path: &RemotePath,
) -> Done<u64> {
    let mut parent = ROOT;
    let mut walked = String::new();
    for name in path.components() {
        walked.push('/');
        walked.push_str(name);
        parent = match child(&books.conn, account, parent, name)? {
            Some(node) if node.is_directory() => node.id,
            Some(_) => return Err(Refusal::NotADirectory(walked).into()),
            None => add_directory(books, account, parent, name)?,
        };
    }
    Ok(parent)
}

/// Adds a directory.
pub(super) fn add_directory(
    books: &mut Books,
    account: AccountId,
    parent: u64,
    name: &str,
) -> Done<u64> {
    let id = books.draw();
    add_entry(books, id, account, parent, name, None)?;
    Ok(id)
}

/// Adds a name under a number that was drawn for it: of a file with this version, or of a directory.
pub(super) fn add_entry(
    books: &Books,
    id: u64,
    account: AccountId,
    parent: u64,
    name: &str,
    version: Option<Version>,
) -> Done<()> {
    let version = version.map(|version| signed(version.0));
    let sql = "INSERT INTO entries (id, account, parent, name, version) VALUES (?, ?, ?, ?, ?)";
    let row = (signed(id), account.0, signed(parent), name, version);
    books.conn.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

macro_rules! entry_columns {
    () => {
        "SELECT e.name, e.version, v.size, v.chunk_count, v.copies, v.mtime_ms, v.is_executable
         FROM entries e LEFT JOIN versions v ON v.version = e.version "
    };
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let name = row.get(0)?;
    if row.get::<_, Option<i64>>(1)?.is_none() {
        return Ok(Entry { name, kind: EntryKind::Directory });
    }
    let info = FileInfo {
        version: Version(unsigned(row, 1)?),
        size: unsigned(row, 2)?,
        chunk_count: unsigned(row, 3)?,
        copies: row.get(4)?,
        mtime_ms: row.get(5)?,
        executable: row.get(6)?,
    };
    Ok(Entry { name, kind: EntryKind::File(info) })
}

pub(super) fn look_up(conn: &Connection, account: AccountId, path: &RemotePath) -> Done<Entry> {
    let node = find(conn, account, path)?;
    if node == Node::ROOT {
        return Ok(Entry { name: String::new(), kind: EntryKind::Directory });
    }
    let sql = concat!(entry_columns!(), "WHERE e.id = ?");
    Ok(conn.prepare_cached(sql)?.query_row((signed(node.id),), entry)?)
}

pub(super) fn list(
    conn: &Connection,
    account: AccountId,
    path: &RemotePath,
    after: Option<&str>,
    limit: usize,
) -> Done<Vec<Entry>> {
    let directory = find_directory(conn, account, path)?;
    let sql = concat!(
        entry_columns!(),
        "WHERE e.account = ? AND e.parent = ? AND e.name > ? ORDER BY e.name LIMIT ?"
    );
    let mut statement = conn.prepare_cached(sql)?;
    let after = after.unwrap_or_default();
    let limit = signed(limit as u64);
    let rows = statement.query_map((account.0, signed(directory), after, limit), entry)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn version_info(
    conn: &Connection,
    account: AccountId,
    version: Version,
) -> Done<FileInfo> {
    // The entry of a removed file is gone, so the join finds no version of it.
    let sql = "SELECT v.size, v.chunk_count, v.copies, v.mtime_ms, v.is_executable
               FROM versions v JOIN entries e ON e.id = v.entry
               WHERE v.version = ? AND v.account = ? AND NOT v.is_ending";
    let mut statement = conn.prepare_cached(sql)?;
    let info = statement.query_row((signed(version.0), account.0), |row| {
        Ok(FileInfo {
            version,
            size: unsigned(row, 0)?,
            chunk_count: unsigned(row, 1)?,
            copies: row.get(2)?,
            mtime_ms: row.get(3)?,
            executable: row.get(4)?,
        })
    });
    Ok(info.optional()?.ok_or_else(|| Refusal::NotFound(format!("version {version}")))?)
}

pub(super) fn manifest(
    conn: &Connection,
    account: AccountId,
    version: Version,
    from: u64,
    limit: usize,
) -> Done<Vec<ChunkRecord>> {
    version_info(conn, account, version)?;
    let mut records = Vec::new();
    for serial in serials_of(conn, version, from, limit)? {
        let row = chunk_by_serial(conn, serial)?.ok_or_else(|| {
            Stop::Damaged(format!("version {version} names chunk {serial}, which has no record"))
        })?;
        records.push(row.record);
    }
    Ok(records)
}

/// The serials of a version's chunks from index `from` on, whoever's it is; none when it is gone.
pub(super) fn serials_of(
    conn: &Connection,
    version: Version,
    from: u64,
    limit: usize,
) -> Done<Vec<Serial>> {
    let sql = "SELECT chunk_count, serials FROM versions WHERE version = ? AND NOT is_ending";
    let mut statement = conn.prepare_cached(sql)?;
    let row = statement.query_row((signed(version.0),), |row| {
        Ok((unsigned(row, 0)?, row.get::<_, Option<Vec<u8>>>(1)?))
    });
    let Some((count, inline)) = row.optional()? else { return Ok(Vec::new()) };
    let end = from.saturating_add(limit as u64).min(count);
    if from >= end {
        return Ok(Vec::new());
    }
    if let Some(bytes) = inline {
        return Ok(unpack(&bytes, 0, from, end));
    }
    let per_part = SERIALS_IN_PART as u64;
    let mut serials = Vec::with_capacity((end - from) as usize);
    for part in from / per_part..=(end - 1) / per_part {
        let sql = "SELECT serials FROM manifests WHERE version = ? AND part = ?";
        let mut statement = conn.prepare_cached(sql)?;
        let bytes: Vec<u8> =
            statement.query_row((signed(version.0), signed(part)), |row| row.get(0))?;
        serials.extend(unpack(&bytes, part * per_part, from, end));
    }
    Ok(serials)
}

/// The serials of the places `from..end` of a file, out of the part that starts at place `first`.
pub(super) fn unpack(bytes: &[u8], first: u64, from: u64, end: u64) -> Vec<Serial> {
    let (serials, _) = bytes.as_chunks::<8>();
    let places = first..;
    let here = places.zip(serials).filter(|(place, _)| (from..end).contains(place));
    here.map(|(_, bytes)| Serial(u64::from_be_bytes(*bytes))).collect()
}
