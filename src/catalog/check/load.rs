//! Reads the tables of a stopped catalog into plain values. It believes nothing: what does not read
//! as it should becomes a problem, and reading goes on.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

use crate::catalog::CatalogError;
use crate::ids::{ChunkId, HashAlgorithm};

/// The format that this reader knows, and the names of the files, as they stand in its description.
const KNOWN_FORMAT: i64 = 4;
const DATABASE: &str = "catalog.db";
const LOCK: &str = "catalog.lock";
const SERIALS_IN_PART: i64 = 4096;

/// A catalog as its tables say.
#[derive(Default)]
pub(super) struct Tables {
    pub format: i64,
    pub cluster: Vec<u8>,
    pub next: i64,
    pub files: i64,
    pub chunk_count: i64,
    pub copies: i64,
    pub condemned_sum: i64,
    pub unknown_sum: i64,
    pub accounts: Vec<i64>,
    /// The standing of each node.
    pub nodes: BTreeMap<i64, i64>,
    pub chunks: BTreeMap<i64, ChunkFacts>,
    pub versions: BTreeMap<i64, VersionFacts>,
    pub entries: BTreeMap<i64, EntryFacts>,
    /// Entry and version of each removed file.
    pub removed: Vec<(i64, i64)>,
    pub condemned: Vec<CondemnedFacts>,
    pub problems: Vec<String>,
}

pub(super) struct ChunkFacts {
    pub account: i64,
    pub id: Option<ChunkId>,
    pub length: i64,
    pub wanted: i64,
    pub refs: i64,
    pub nodes: Vec<u32>,
}

pub(super) struct VersionFacts {
    pub account: i64,
    pub entry: i64,
    pub has_ended: bool,
    /// It loses its parts, one after the other.
    pub is_ending: bool,
    pub size: i64,
    pub chunk_count: i64,
    pub serials: Vec<i64>,
}

pub(super) struct EntryFacts {
    pub account: i64,
    pub parent: i64,
    pub name: String,
    pub version: Option<i64>,
}

pub(super) struct CondemnedFacts {
    pub node: i64,
    pub serial: i64,
    pub why: i64,
}

/// Reads the catalog in `dir` while its lock is held against a main server.
pub(super) fn load(dir: &Path) -> Result<Tables, CatalogError> {
    let path = dir.join(DATABASE);
    if !path.exists() {
        return Err(CatalogError::Missing(dir.to_path_buf()));
    }
    let _lock = lock(dir)?;
    let tidy = Tidy::before_opening(&path);
    let tables = read(&path);
    drop(tidy);
    tables
}

/// Keeps a main server out while its catalog is read. Without a lock file none ever ran here.
fn lock(dir: &Path) -> Result<Option<File>, CatalogError> {
    let path = dir.join(LOCK);
    let io = |source| CatalogError::Io { doing: "lock", path: path.clone(), source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(CatalogError::Locked(dir.to_path_buf())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// A read-only connection takes the log of a killed main server into account and writes neither to
/// it nor to the database; but it makes an empty log where there is none, and an index of the log
/// in shared memory. Those that were not there before are taken away again.
struct Tidy(Vec<PathBuf>);

impl Tidy {
    fn before_opening(database: &Path) -> Tidy {
        let beside = |suffix: &str| {
            let mut name = database.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let mut made = vec![beside("-wal"), beside("-shm")];
        made.retain(|path| !path.exists());
        Tidy(made)
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        for path in &self.0 {
            // Not made after all, or of no meaning.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn read(path: &Path) -> Result<Tables, CatalogError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(|error| unreadable(path, error))?;
    let mut tables = Tables::default();
    let head = "SELECT format, cluster, next_number, files, chunks, copies, condemned, unknown
                FROM catalog";
    let format = "SELECT format FROM catalog";
    let found = conn.query_row(format, (), |row| row.get(0));
    let found: i64 = found.map_err(|error| unreadable(path, error))?;
    if found != KNOWN_FORMAT {
        return Err(CatalogError::Format { path: path.into(), found, known: KNOWN_FORMAT });
    }
    let filled = conn.query_row(head, (), |row| {
        tables.format = row.get(0)?;
        tables.cluster = row.get(1)?;
        tables.next = row.get(2)?;
        (tables.files, tables.chunk_count, tables.copies) = (row.get(3)?, row.get(4)?, row.get(5)?);
        (tables.condemned_sum, tables.unknown_sum) = (row.get(6)?, row.get(7)?);
        Ok(())
    });
    filled.map_err(|error| unreadable(path, error))?;
    read_all(&conn, &mut tables);
    Ok(tables)
}

fn unreadable(path: &Path, error: rusqlite::Error) -> CatalogError {
    match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            CatalogError::Engine { doing: "be opened", source: error }
        }
        _ => CatalogError::Damaged(format!("{} cannot be read: {error}", path.display())),
    }
}

fn read_all(conn: &Connection, tables: &mut Tables) {
    each_row(conn, tables, "PRAGMA integrity_check(20)", |row, tables| {
        let line: String = row.get(0)?;
        if line != "ok" {
            tables.problems.push(format!("the database: {line}"));
        }
        Ok(())
    });
    each_row(conn, tables, "SELECT id FROM accounts", |row, tables| {
        tables.accounts.push(row.get(0)?);
        Ok(())
    });
    each_row(conn, tables, "SELECT id, standing FROM nodes", |row, tables| {
        tables.nodes.insert(row.get(0)?, row.get(1)?);
        Ok(())
    });
    let sql = "SELECT serial, account, id, length, wanted, refs, copies FROM chunks";
    each_row(conn, tables, sql, read_chunk);
    let sql = "SELECT version, account, entry, ended_at IS NOT NULL, size, chunk_count, serials,
               is_ending FROM versions";
    each_row(conn, tables, sql, read_version);
    let sql = "SELECT version, part, serials FROM manifests ORDER BY version, part";
    each_row(conn, tables, sql, read_part);
    let sql = "SELECT id, account, parent, name, version FROM entries";
    each_row(conn, tables, sql, |row, tables| {
        let (account, parent) = (row.get(1)?, row.get(2)?);
        let facts = EntryFacts { account, parent, name: row.get(3)?, version: row.get(4)? };
        tables.entries.insert(row.get(0)?, facts);
        Ok(())
    });
    each_row(conn, tables, "SELECT entry, version FROM removed", |row, tables| {
        tables.removed.push((row.get(0)?, row.get(1)?));
        Ok(())
    });
    each_row(conn, tables, "SELECT node, serial, why FROM condemned", |row, tables| {
        let (node, serial, why) = (row.get(0)?, row.get(1)?, row.get(2)?);
        tables.condemned.push(CondemnedFacts { node, serial, why });
        Ok(())
    });
}

/// Gives each row to `take`; where the table cannot be read further, that is a problem.
fn each_row(
    conn: &Connection,
    tables: &mut Tables,
    sql: &str,
    take: impl Fn(&Row<'_>, &mut Tables) -> rusqlite::Result<()>,
) {
    let mut read = || -> rusqlite::Result<()> {
        let mut statement = conn.prepare(sql)?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            if let Err(error) = take(row, tables) {
                tables.problems.push(format!("a row does not read, of {sql:?}: {error}"));
            }
        }
        Ok(())
    };
    if let Err(error) = read() {
        tables.problems.push(format!("reading ended early, of {sql:?}: {error}"));
    }
}

fn read_chunk(row: &Row<'_>, tables: &mut Tables) -> rusqlite::Result<()> {
    let serial: i64 = row.get(0)?;
    let id: Vec<u8> = row.get(2)?;
    let id = match id.split_first() {
        Some((1, digest)) => ChunkId::from_digest(HashAlgorithm::Blake3, digest),
        Some((2, digest)) => ChunkId::from_digest(HashAlgorithm::Sha1, digest),
        _ => None,
    };
    let copies: Vec<u8> = row.get(6)?;
    if id.is_none() {
        tables.problems.push(format!("chunk {serial} has no well-formed id"));
    }
    if !copies.len().is_multiple_of(5) {
        tables.problems.push(format!("chunk {serial} has {} bytes of copies", copies.len()));
    }
    let node = |copy: &[u8]| u32::from_be_bytes([copy[0], copy[1], copy[2], copy[3]]);
    let facts = ChunkFacts {
        account: row.get(1)?,
        id,
        length: row.get(3)?,
        wanted: row.get(4)?,
        refs: row.get(5)?,
        nodes: copies.chunks_exact(5).map(node).collect(),
    };
    tables.chunks.insert(serial, facts);
    Ok(())
}

fn read_version(row: &Row<'_>, tables: &mut Tables) -> rusqlite::Result<()> {
    let version = row.get(0)?;
    let inline: Option<Vec<u8>> = row.get(6)?;
    let facts = VersionFacts {
        account: row.get(1)?,
        entry: row.get(2)?,
        has_ended: row.get(3)?,
        is_ending: row.get(7)?,
        size: row.get(4)?,
        chunk_count: row.get(5)?,
        serials: inline.map(|bytes| serials(version, &bytes, tables)).unwrap_or_default(),
    };
    tables.versions.insert(version, facts);
    Ok(())
}

fn read_part(row: &Row<'_>, tables: &mut Tables) -> rusqlite::Result<()> {
    let (version, part): (i64, i64) = (row.get(0)?, row.get(1)?);
    let bytes: Vec<u8> = row.get(2)?;
    let serials = serials(version, &bytes, tables);
    match tables.versions.get_mut(&version) {
        Some(facts) if facts.serials.len() as i64 == part * SERIALS_IN_PART => {
            facts.serials.extend(serials);
        }
        Some(_) => {
            let problem =
                format!("part {part} of version {version} does not follow on the one before");
            tables.problems.push(problem);
        }
        None => tables.problems.push(format!("part {part} is of version {version}, which is not")),
    }
    Ok(())
}

fn serials(version: i64, bytes: &[u8], tables: &mut Tables) -> Vec<i64> {
    if !bytes.len().is_multiple_of(8) {
        let problem = format!("a manifest of version {version} has {} bytes", bytes.len());
        tables.problems.push(problem);
    }
    let (serials, _) = bytes.as_chunks::<8>();
    serials.iter().map(|serial| i64::from_be_bytes(*serial)).collect()
}
