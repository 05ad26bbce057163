//! The catalog on disk, in an embedded SQLite.
//!
//! One thread writes (`writer`), many read (`readers`). What may be answered early is seen at once
//! by every later operation, while the readers' connections see only what is committed. So there
//! are three ways to read:
//! - names, nodes, accounts and sums change only durably: a reader's connection shows them;
//! - chunks and copies change early: while an early answer is not durable, they are read on the
//!   writer's connection, in its open transaction, and otherwise by a reader;
//! - long scans of chunks first wait until early answers are durable, and then keep a reader busy
//!   and not the writer.
//!
//! Names and manifests that were read since the last change are read from memory (`hot`).

mod changes;
mod chunks;
mod commit;
mod condemned;
mod copies;
mod encoded;
mod expiry;
mod hot;
mod inventory;
mod migrate;
mod names;
mod nodes;
mod operations;
mod readers;
mod rebuild;
mod removed;
mod requests;
mod rows;
mod schema;
mod snapshot;
mod survey;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_changes;
mod tree;
mod writer;

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread::available_parallelism;

use crossbeam_channel::Receiver;
use rusqlite::Connection;

use self::hot::Hot;
use self::readers::Readers;
use self::requests::Request;
use self::rows::{Done, signed};
use self::writer::{Books, Kind, NUMBERS_SKIPPED, Writer};
use crate::catalog::*;
use crate::durable;
use crate::ids::*;

pub use self::changes::Boundary;
pub use self::rebuild::Rebuild;
pub use self::snapshot::Snapshot;

pub use self::schema::{FILE_NAME, FORMAT, LOCK_NAME};

/// How many may read at once at least, whatever the machine.
const MIN_READERS: usize = 4;
/// The page caches of all that read single rows, together.
const READ_CACHE_KIB: usize = 24 * 1024;
/// The page cache of one that reads rows one after the other.
const SCAN_CACHE_KIB: usize = 512;

/// The catalog in an embedded SQLite, with group commit.
///
/// Dropping it makes durable what was answered early. There is one at a time on a directory.
pub struct SqliteCatalog {
    cluster: ClusterId,
    secret: Secret,
    // In this order: the writer is the last to close the database, and the lock goes after it.
    readers: Readers,
    /// Apart from the others, whose caches a scan would fill with what is not needed again.
    scanners: Readers,
    writer: Writer,
    hot: Hot,
    _lock: File,
}

impl SqliteCatalog {
    /// Makes a catalog in `dir`, which is made when it is missing, with a first account that is an
    /// admin and opens with this key. A crash on the way leaves none behind.
    /// Refused: `AlreadyThere`, `Locked`.
    pub fn create(
        dir: &Path,
        first_account: &str,
        key_fingerprint: &[u8; 32],
    ) -> Result<SqliteCatalog, CatalogError> {
        durable::make_directories(dir).map_err(|source| {
            let path = dir.to_path_buf();
            CatalogError::Io { doing: "make", path, source }
        })?;
        let lock = schema::lock(dir)?;
        schema::create(dir, first_account, key_fingerprint)?;
        SqliteCatalog::start(dir, lock, 0)
    }

    /// Opens the catalog in `dir`. Refused: `Missing`, `Locked`, `Format`, `Damaged`.
    pub fn open(dir: &Path) -> Result<SqliteCatalog, CatalogError> {
        // Nothing is made in a directory that holds no catalog.
        if !schema::database(dir).exists() {
            return Err(CatalogError::Missing(dir.to_path_buf()));
        }
        let lock = schema::lock(dir)?;
        SqliteCatalog::start(dir, lock, NUMBERS_SKIPPED)
    }

    /// Starts on the database in `dir`, and skips so many numbers: those which an earlier process
    /// may have given out and lost.
    fn start(dir: &Path, lock: File, skipped: u64) -> Result<SqliteCatalog, CatalogError> {
        let conn = schema::open_writer(dir)?;
        let reading = |stop: rows::Stop| stop.during("be read");
        if skipped > 0 {
            let sql = "UPDATE catalog SET next_number = next_number + ?";
            let skip = conn.execute(sql, (signed(skipped),));
            skip.map_err(|source| CatalogError::Engine { doing: "skip numbers", source })?;
        }
        let head = schema::read_head(&conn).map_err(reading)?;
        let writer = Writer::start(Books { conn, sums: head.sums, mark: head.mark, unmarked: 0 });
        let writer = writer.map_err(|source| {
            let path = schema::database(dir);
            CatalogError::Io { doing: "start the thread that writes", path, source }
        })?;
        // More at once would read no faster.
        let most = available_parallelism().map_or(1, NonZeroUsize::get).max(MIN_READERS);
        let database = schema::database(dir);
        Ok(SqliteCatalog {
            cluster: head.cluster,
            secret: head.secret,
            readers: Readers::new(database.clone(), most, READ_CACHE_KIB),
            scanners: Readers::new(database, most, most * SCAN_CACHE_KIB),
            writer,
            hot: Hot::default(),
            _lock: lock,
        })
    }

    /// Gets the reason, once, when a write or a sync has failed and the process must stop.
    pub fn failures(&self) -> Receiver<String> {
        self.writer.failures()
    }

    /// How many syncs the operations since the start took together.
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }

    fn change<T: Send + 'static>(
        &self,
        doing: &'static str,
        operation: impl FnOnce(&mut Books) -> Done<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        self.writer.submit(Kind::Durable, doing, operation)
    }

    /// Changes names under a request id.
    fn request<T>(
        &self,
        request: Request,
        operation: impl FnOnce(&mut Books) -> Done<T> + Send + 'static,
        is_kept: impl FnOnce(&T) -> bool + Send + 'static,
    ) -> Result<T, CatalogError>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    {
        self.change(request.kind, move |books| requests::once(books, request, operation, is_kept))
    }

    /// Reads through the rows in memory: what is not there is read, and kept for this epoch.
    fn read_hot<T>(
        &self,
        find: impl FnOnce(&Hot, u64) -> Option<T>,
        read: impl FnOnce() -> Result<T, CatalogError>,
        keep: impl FnOnce(&Hot, u64, &T),
    ) -> Result<T, CatalogError> {
        self.writer.check()?;
        let epoch = self.writer.epoch();
        if let Some(found) = find(&self.hot, epoch) {
            return Ok(found);
        }
        let found = read()?;
        // Otherwise it may be from before a change, or from after one.
        if self.writer.epoch() == epoch {
            keep(&self.hot, epoch, &found);
        }
        Ok(found)
    }

    /// Reads what changes only durably.
    fn read<T>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Done<T>,
    ) -> Result<T, CatalogError> {
        self.writer.check()?;
        self.readers.read(read).map_err(|stop| stop.during(doing))
    }

    /// Reads what may have been changed early.
    fn read_latest<T: Send + 'static>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Done<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        if self.writer.has_early() {
            self.writer.submit(Kind::Read, doing, move |books| read(&books.conn))
        } else {
            self.read(doing, read)
        }
    }

    /// Reads much of what may have been changed early.
    fn scan<T>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Done<T>,
    ) -> Result<T, CatalogError> {
        if self.writer.has_early() {
            self.sync()?;
        }
        self.pass(doing, read)
    }

    /// Reads much of what changes only durably.
    fn pass<T>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Done<T>,
    ) -> Result<T, CatalogError> {
        self.writer.check()?;
        self.scanners.read(read).map_err(|stop| stop.during(doing))
    }
}
