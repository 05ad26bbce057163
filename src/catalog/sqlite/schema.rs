//! The tables of the catalog, how a catalog is made, and how its file is opened.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::migrate;
use super::rows::{Done, Stop, signed};
use super::writer::Sums;
use crate::catalog::CatalogError;
use crate::durable::{self, SyncPoint};
use crate::ids::{ClusterId, Secret};

/// The format that this program writes and reads.
pub const FORMAT: i64 = 4;
/// The database in a catalog's directory.
pub const FILE_NAME: &str = "catalog.db";
/// The file whose lock keeps a second process out.
pub const LOCK_NAME: &str = "catalog.lock";
/// SQLite's name for the database's log.
const LOG_NAME: &str = "catalog.db-wal";
/// The page cache of the writer. Of 10 million chunks it holds what is above the leaves of the index
/// by id, so that a chunk that is looked up reads one page of it and not two or three.
const WRITER_CACHE_KIB: i64 = 24 * 1024;

// `chunks`: one row a chunk of one account. `id` is the number of the hash function and the digest;
// `copies` holds five bytes a copy, the node's number in big-endian and the reason, by node; `refs`
// counts each place in each version that names the chunk. The index `under_copied` has only the
// rows that repair has to look at.
//
// `incarnations`: the starts of main servers on these books, or on books that a person took for
// earlier lives of these, each with the mark that they came to. That is NULL for the start which goes
// on, and taken from `catalog` when the next one begins.
//
// `entries`: the trees. The parent of what stands in an account's root is 0; `version` is NULL for
// a directory. A removed file loses its entry and gets a row in `removed`; the chain `previous`
// leads from a version to the one before it.
//
// A version that is replaced or removed has an `ended_at`, which is 0 when it was removed for good.
// While a long one is ended, part by part from the last one down, it has `is_ending`.
//
// `condemned`: copies that count no more and are to be deleted on their nodes. `why` is 1 when
// nothing refers to the chunk, 2 for surplus, 3 when the serial is unknown; one of the last kind
// whose `due` is 0 was named to somebody who may have it deleted.
//
// `manifests`: the serials of a version in big-endian, `SERIALS_IN_PART` of them in each part but
// the last. A short manifest stands in the version's own row instead.
const TABLES: &str = "
CREATE TABLE catalog (
    id INTEGER PRIMARY KEY, format INTEGER NOT NULL, cluster BLOB NOT NULL, secret BLOB NOT NULL,
    next_number INTEGER NOT NULL, files INTEGER NOT NULL, chunks INTEGER NOT NULL,
    copies INTEGER NOT NULL, condemned INTEGER NOT NULL DEFAULT 0,
    unknown INTEGER NOT NULL DEFAULT 0, latest_time INTEGER NOT NULL DEFAULT 0,
    mark INTEGER NOT NULL DEFAULT 0);
CREATE TABLE incarnations (
    position INTEGER PRIMARY KEY, incarnation BLOB NOT NULL UNIQUE, started_at INTEGER NOT NULL,
    last_mark INTEGER);
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, is_admin INTEGER NOT NULL);
CREATE TABLE account_keys (fingerprint BLOB PRIMARY KEY, account INTEGER NOT NULL);
CREATE TABLE invites (
    fingerprint BLOB PRIMARY KEY, uses INTEGER NOT NULL, expires INTEGER NOT NULL);
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY, invite BLOB NOT NULL, secret BLOB NOT NULL, incarnation BLOB,
    address TEXT, zone TEXT NOT NULL, offered_bytes INTEGER NOT NULL, key_id INTEGER,
    standing INTEGER NOT NULL DEFAULT 0);
CREATE TABLE chunks (
    serial INTEGER PRIMARY KEY, account INTEGER NOT NULL, id BLOB NOT NULL,
    length INTEGER NOT NULL, wanted INTEGER NOT NULL, refs INTEGER NOT NULL,
    lease_until INTEGER NOT NULL, copies BLOB NOT NULL);
CREATE UNIQUE INDEX chunk_ids ON chunks (account, id);
CREATE INDEX under_copied ON chunks (serial) WHERE refs > 0 AND length(copies) < 5 * wanted;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, account INTEGER NOT NULL, parent INTEGER NOT NULL,
    name TEXT NOT NULL, version INTEGER);
CREATE UNIQUE INDEX entry_names ON entries (account, parent, name);
CREATE TABLE versions (
    version INTEGER PRIMARY KEY, account INTEGER NOT NULL, entry INTEGER NOT NULL,
    previous INTEGER, committed_at INTEGER NOT NULL, ended_at INTEGER, size INTEGER NOT NULL,
    chunk_count INTEGER NOT NULL, copies INTEGER NOT NULL, mtime_ms INTEGER NOT NULL,
    is_executable INTEGER NOT NULL, serials BLOB, is_ending INTEGER NOT NULL DEFAULT 0);
CREATE INDEX ended_versions ON versions (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE manifests (
    number INTEGER PRIMARY KEY, version INTEGER NOT NULL, part INTEGER NOT NULL,
    serials BLOB NOT NULL);
CREATE UNIQUE INDEX manifest_parts ON manifests (version, part);
CREATE TABLE removed (
    entry INTEGER PRIMARY KEY, account INTEGER NOT NULL, path TEXT NOT NULL,
    version INTEGER NOT NULL, removed_at INTEGER NOT NULL);
CREATE INDEX removed_paths ON removed (account, path);
CREATE INDEX removed_times ON removed (account, removed_at, version);
CREATE TABLE condemned (
    number INTEGER PRIMARY KEY, node INTEGER NOT NULL, serial INTEGER NOT NULL,
    length INTEGER NOT NULL, why INTEGER NOT NULL, purge INTEGER NOT NULL, due INTEGER NOT NULL);
CREATE UNIQUE INDEX condemned_copies ON condemned (node, serial);
CREATE INDEX condemned_serials ON condemned (serial);
CREATE INDEX unknown_copies ON condemned (due) WHERE why = 3;
CREATE TABLE staged (
    number INTEGER PRIMARY KEY, account INTEGER NOT NULL, upload BLOB NOT NULL,
    part INTEGER NOT NULL, staged_at INTEGER NOT NULL, ids BLOB NOT NULL);
CREATE UNIQUE INDEX staged_parts ON staged (account, upload, part);
CREATE TABLE requests (
    number INTEGER PRIMARY KEY, request BLOB NOT NULL UNIQUE, account INTEGER NOT NULL,
    kind TEXT NOT NULL, answered_at INTEGER NOT NULL, answer TEXT NOT NULL);
";

/// Takes the lock of the catalog in `dir`; it is held as long as the file is open.
pub(super) fn lock(dir: &Path) -> Result<File, CatalogError> {
    let path = dir.join(LOCK_NAME);
    let io = |source| CatalogError::Io { doing: "lock", path: path.clone(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CatalogError::Locked(dir.to_path_buf())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Makes the database of a new cluster, whole or not at all: it is filled under another name, made
/// durable, and only then gets its own. The caller holds the lock.
pub(super) fn create(
    dir: &Path,
    first_account: &str,
    key_fingerprint: &[u8; 32],
) -> Result<(), CatalogError> {
    let path = dir.join(FILE_NAME);
    if path.exists() {
        return Err(CatalogError::AlreadyThere(dir.to_path_buf()));
    }
    let temporary = dir.join("catalog.db.new");
    let io = |doing| {
        let path = path.clone();
        move |source| CatalogError::Io { doing, path, source }
    };
    // What a crashed attempt left behind was never a catalog.
    for name in ["catalog.db.new", "catalog.db.new-journal"] {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("clear the way for")(error));
            }
            _ => {}
        }
    }
    // The master secret is inside: nobody but the owner reads it. SQLite gives its log and its
    // shared memory the permissions of the database.
    let private = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let file = private.map_err(io("make"))?;
    let fill = || -> rusqlite::Result<()> {
        let conn = Connection::open(&temporary)?;
        conn.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;")?;
        conn.execute_batch(TABLES)?;
        conn.execute(
            "INSERT INTO accounts (id, name, is_admin) VALUES (1, ?, 1)",
            (first_account,),
        )?;
        conn.execute(
            "INSERT INTO account_keys (fingerprint, account) VALUES (?, 1)",
            (key_fingerprint,),
        )?;
        conn.execute(
            "INSERT INTO catalog (id, format, cluster, secret, next_number, files, chunks, copies)
             VALUES (1, ?, ?, ?, 1, 0, 0, 0)",
            (FORMAT, ClusterId::random().as_bytes(), Secret::random().as_bytes()),
        )?;
        conn.close().map_err(|(_, error)| error)
    };
    fill().map_err(|source| CatalogError::Engine { doing: "make its tables", source })?;
    take_name(dir, &temporary, &file)
}

/// Makes a database that was filled under another name durable, and then the catalog of `dir`.
pub(super) fn take_name(dir: &Path, temporary: &Path, file: &File) -> Result<(), CatalogError> {
    let path = dir.join(FILE_NAME);
    let io = |doing| {
        let path = path.clone();
        move |source| CatalogError::Io { doing, path, source }
    };
    durable::sync_file(file, SyncPoint::StateData).map_err(io("sync"))?;
    std::fs::rename(temporary, &path).map_err(io("name"))?;
    durable::entry_created(&path);
    durable::sync_directory(dir, SyncPoint::StateDirectory).map_err(io("sync the directory of"))
}

/// Opens the database for its one writer.
pub(super) fn open_writer(dir: &Path) -> Result<Connection, CatalogError> {
    let path = dir.join(FILE_NAME);
    if !path.exists() {
        return Err(CatalogError::Missing(dir.to_path_buf()));
    }
    drop_cached_log(dir)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(&path, flags);
    let mut conn = conn.map_err(|error| unreadable(&path, error))?;
    // Before anything is written: a format of tomorrow is not ours to touch.
    let format = check_format(&conn, &path)?;
    configure_writer(&conn)
        .map_err(|source| CatalogError::Engine { doing: "be set up", source })?;
    migrate::migrate(&conn, format)
        .map_err(|source| CatalogError::Engine { doing: "be brought to this format", source })?;
    empty_log(&conn).map_err(|source| CatalogError::Engine { doing: "empty its log", source })?;
    tell_of_deletes(&mut conn)
        .map_err(|source| CatalogError::Engine { doing: "be set up", source })?;
    Ok(conn)
}

/// Has the log recovered from what the disk holds of it, and not from what an earlier process failed
/// to sync.
fn drop_cached_log(dir: &Path) -> Result<(), CatalogError> {
    let path = dir.join(LOG_NAME);
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => file,
    };
    file.and_then(|file| durable::drop_cached(&file, SyncPoint::CatalogCommit))
        .map_err(|source| CatalogError::Io { doing: "sync", path, source })
}

/// With `synchronous = FULL` in WAL mode each commit syncs the log once: the one sync that all
/// operations of a batch share. Once that is set up, a checkpoint that fails loses nothing and
/// stops nobody: what it would have moved stays in the log, which is durable, and is moved again
/// later.
fn configure_writer(conn: &Connection) -> rusqlite::Result<()> {
    plan_once(conn)?;
    conn.query_row("PRAGMA journal_mode = WAL", (), |_| Ok(()))?;
    let left_out = SyncPoint::CatalogCommit.is_left_out();
    conn.pragma_update(None, "synchronous", if left_out { "OFF" } else { "FULL" })?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    conn.query_row("PRAGMA wal_autocheckpoint = 2000", (), |_| Ok(()))?;
    conn.query_row("PRAGMA journal_size_limit = 33554432", (), |_| Ok(()))?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Has the journal told of each row that goes. Set last: a table cannot be dropped any more then.
fn tell_of_deletes(conn: &mut Connection) -> rusqlite::Result<()> {
    // Has a `DELETE` of all rows of a table delete each of them, and so told of by the update hook
    // (sqlite3_set_authorizer: SQLITE_IGNORE for SQLITE_DELETE).
    conn.authorizer(Some(|asked: AuthContext<'_>| match asked.action {
        AuthAction::Delete { .. } => Authorization::Ignore,
        _ => Authorization::Allow,
    }))
}

/// Moves what the log holds into the database, syncs that, and begins a new log.
///
/// After a sync that failed, the kernel takes the pages for clean and may still show them: what an
/// earlier process wrote and could not make durable would be read back as good, and new commits
/// would stand behind it in the log, to be lost with it at a power cut. Written anew, it is durable.
/// (A. Rebello et al., Can Applications Recover from fsync Failures?, USENIX ATC 2020.)
fn empty_log(conn: &Connection) -> rusqlite::Result<()> {
    let is_busy: bool = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))?;
    match is_busy {
        false => Ok(()),
        true => Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
            None,
        )),
    }
}

/// Opens the database for reading beside the writer, with a page cache of so many KiB.
pub(super) fn open_reader(path: &Path, cache_kib: usize) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    plan_once(&conn)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "cache_size", -signed(cache_kib as u64))?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(conn)
}

/// Has a statement planned without a look at what is bound to it.
///
/// Otherwise each statement on a table with a partial index is prepared anew whenever other values are
/// bound, since these might let it use that index: that was most of what a read cost.
/// (sqlite3_db_config: SQLITE_DBCONFIG_ENABLE_QPSG.)
fn plan_once(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_| ())
}

/// The format of the database, if this program can read it or bring it to its own.
pub(super) fn check_format(conn: &Connection, path: &Path) -> Result<i64, CatalogError> {
    let format = conn.query_row("SELECT format FROM catalog WHERE id = 1", (), |row| row.get(0));
    match format {
        Ok(found @ migrate::OLDEST_FORMAT..=FORMAT) => Ok(found),
        Ok(found) => Err(CatalogError::Format { path: path.into(), found, known: FORMAT }),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// What a first look into the file that failed means.
fn unreadable(path: &Path, error: rusqlite::Error) -> CatalogError {
    match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            CatalogError::Engine { doing: "be opened", source: error }
        }
        _ => CatalogError::Damaged(format!("{} cannot be read: {error}", path.display())),
    }
}

/// What stands in the one row of `catalog`.
pub(super) struct Head {
    pub cluster: ClusterId,
    pub secret: Secret,
    pub sums: Sums,
    pub mark: u64,
}

pub(super) fn read_head(conn: &Connection) -> Done<Head> {
    let sql = "SELECT cluster, secret, next_number, files, chunks, copies, condemned, unknown,
                      mark
               FROM catalog";
    let head = conn.query_row(sql, (), |row| {
        let sums = Sums {
            next: super::rows::unsigned(row, 2)?,
            files: super::rows::unsigned(row, 3)?,
            chunks: super::rows::unsigned(row, 4)?,
            copies: super::rows::unsigned(row, 5)?,
            condemned: super::rows::unsigned(row, 6)?,
            unknown: super::rows::unsigned(row, 7)?,
        };
        let cluster = ClusterId::from_bytes(row.get(0)?);
        let (secret, mark) = (Secret::from_bytes(row.get(1)?), super::rows::unsigned(row, 8)?);
        Ok(Head { cluster, secret, sums, mark })
    });
    head.map_err(Stop::Sql)
}

/// The database of the catalog in `dir`.
pub(super) fn database(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}
