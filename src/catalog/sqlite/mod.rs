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

mod changes;
mod chunks;
mod commit;
mod encoded;
mod inventory;
mod names;
mod nodes;
mod readers;
mod rebuild;
mod requests;
mod rows;
mod schema;
mod snapshot;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_changes;
mod tree;
mod writer;

use std::fs::File;
use std::path::Path;

use crossbeam_channel::Receiver;
use rusqlite::Connection;

use self::readers::Readers;
use self::requests::Request;
use self::rows::{Done, signed, unsigned};
use self::writer::{Books, Kind, NUMBERS_SKIPPED, Writer};
use crate::catalog::*;
use crate::clock::WallTime;
use crate::durable;
use crate::ids::*;
use crate::remote_path::RemotePath;

pub use self::changes::Boundary;
pub use self::rebuild::Rebuild;
pub use self::snapshot::Snapshot;

pub use self::schema::{FILE_NAME, FORMAT, LOCK_NAME};

/// The catalog in an embedded SQLite, with group commit.
///
/// Dropping it makes durable what was answered early. There is one at a time on a directory.
pub struct SqliteCatalog {
    cluster: ClusterId,
    secret: Secret,
    // In this order: the writer is the last to close the database, and the lock goes after it.
    readers: Readers,
    writer: Writer,
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
        let writer = Writer::start(Books { conn, sums: head.sums });
        let writer = writer.map_err(|source| {
            let path = schema::database(dir);
            CatalogError::Io { doing: "start the thread that writes", path, source }
        })?;
        let readers = Readers::new(schema::database(dir));
        Ok(SqliteCatalog {
            cluster: head.cluster,
            secret: head.secret,
            readers,
            writer,
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
        self.read(doing, read)
    }
}

impl Catalog for SqliteCatalog {
    fn identity(&self) -> (ClusterId, Secret) {
        (self.cluster, self.secret)
    }

    fn begin_incarnation(
        &self,
        incarnation: Incarnation,
        now: WallTime,
    ) -> Result<(), CatalogError> {
        self.change("enter a start", move |b| nodes::begin_incarnation(b, incarnation, now))
    }

    fn knows_incarnation(&self, incarnation: &Incarnation) -> Result<bool, CatalogError> {
        self.read("look up a start", |conn| nodes::knows_incarnation(conn, incarnation))
    }

    fn sync(&self) -> Result<(), CatalogError> {
        self.change("sync", |_| Ok(()))
    }

    fn account_by_key(
        &self,
        fingerprint: &[u8; 32],
    ) -> Result<Option<AccountRecord>, CatalogError> {
        self.read("look up a key", |conn| nodes::account_by_key(conn, fingerprint))
    }

    fn create_invite(
        &self,
        fingerprint: &[u8; 32],
        uses: u32,
        expires: WallTime,
    ) -> Result<(), CatalogError> {
        let fingerprint = *fingerprint;
        self.change("enter an invite", move |b| {
            nodes::create_invite(b, &fingerprint, uses, expires)
        })
    }

    fn join_node(
        &self,
        invite: &[u8; 32],
        secret: &[u8; 32],
        now: WallTime,
    ) -> Result<NodeId, CatalogError> {
        let (invite, secret) = (*invite, *secret);
        self.change("enter a node", move |b| nodes::join_node(b, &invite, &secret, now))
    }

    fn start_node(&self, node: NodeId, start: &NodeStart) -> Result<(), CatalogError> {
        let start = start.clone();
        self.change("enter a node's start", move |b| nodes::start_node(b, node, &start))
    }

    fn set_node_key(&self, node: NodeId, key: KeyId) -> Result<(), CatalogError> {
        self.change("enter a node's key", move |b| nodes::set_node_key(b, node, key))
    }

    fn nodes(&self) -> Result<Vec<NodeRecord>, CatalogError> {
        self.read("list nodes", nodes::nodes)
    }

    fn reserve(
        &self,
        account: AccountId,
        copies: u8,
        lease_until: WallTime,
        chunks: &[(ChunkId, u32)],
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError> {
        let chunks = chunks.to_vec();
        self.writer.submit(Kind::Early, "reserve chunks", move |b| {
            chunks::reserve(b, account, copies, lease_until, &chunks)
        })
    }

    fn confirm_copies(
        &self,
        confirmations: &[Confirmation],
        _lease_until: WallTime,
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError> {
        let confirmations = confirmations.to_vec();
        self.writer
            .submit(Kind::Early, "enter copies", move |b| chunks::confirm_copies(b, &confirmations))
    }

    fn lose_copies(
        &self,
        node: NodeId,
        serials: &[Serial],
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        let serials = serials.to_vec();
        self.change("take copies off", move |b| chunks::lose_copies(b, node, &serials))
    }

    fn copies_on(
        &self,
        node: NodeId,
        from: Serial,
        to: Serial,
        limit: usize,
    ) -> Result<Vec<Holding>, CatalogError> {
        self.scan("list copies", |conn| inventory::copies_on(conn, node, from, to, limit))
    }

    fn reconcile(
        &self,
        node: NodeId,
        from: Serial,
        to: Serial,
        held: &[Holding],
        _unknown_due: WallTime,
    ) -> Result<Reconciled, CatalogError> {
        let held = held.to_vec();
        self.change("compare copies", move |b| inventory::reconcile(b, node, from, to, &held))
    }

    fn locate(
        &self,
        account: AccountId,
        chunks: &[ChunkId],
    ) -> Result<Vec<Option<ChunkRecord>>, CatalogError> {
        let chunks = chunks.to_vec();
        self.read_latest("locate chunks", move |conn| chunks::locate(conn, account, &chunks))
    }

    fn chunks(&self, serials: &[Serial]) -> Result<Vec<ChunkRecord>, CatalogError> {
        let serials = serials.to_vec();
        self.read_latest("look up chunks", move |conn| chunks::chunks(conn, &serials))
    }

    fn under_copied(
        &self,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        self.scan("list chunks to repair", |conn| chunks::under_copied(conn, after, limit))
    }

    fn stage_part(
        &self,
        account: AccountId,
        upload: RequestId,
        part: u32,
        chunks: &[ChunkId],
        now: WallTime,
    ) -> Result<(), CatalogError> {
        let chunks = chunks.to_vec();
        self.change("stage a part", move |b| {
            commit::stage_part(b, account, upload, part, &chunks, now)
        })
    }

    fn commit_files(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        live: &LiveNodes,
        files: &[NewFile],
    ) -> Result<Vec<Result<Committed, Refusal>>, CatalogError> {
        let (live, files) = (live.clone(), files.to_vec());
        self.request(
            Request { account, id: request, kind: "commit", now },
            move |b| commit::commit_files(b, account, now, &live, &files),
            |answers| answers.iter().any(Result::is_ok),
        )
    }

    fn make_directory(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        parents: bool,
    ) -> Result<(), CatalogError> {
        let path = path.clone();
        self.request(
            Request { account, id: request, kind: "mkdir", now },
            move |b| tree::make_directory(b, account, &path, parents),
            |()| true,
        )
    }

    fn move_entry(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        from: &RemotePath,
        to: &RemotePath,
        replace: bool,
    ) -> Result<(), CatalogError> {
        let (from, to) = (from.clone(), to.clone());
        self.request(
            Request { account, id: request, kind: "move", now },
            move |b| tree::move_entry(b, account, now, &from, &to, replace),
            |()| true,
        )
    }

    fn remove_entry(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        recursive: bool,
        if_version: Option<Version>,
        _purge: bool,
    ) -> Result<u64, CatalogError> {
        let path = path.clone();
        self.request(
            Request { account, id: request, kind: "remove", now },
            move |b| tree::remove_entry(b, account, now, &path, recursive, if_version),
            |_| true,
        )
    }

    fn look_up(&self, account: AccountId, path: &RemotePath) -> Result<Entry, CatalogError> {
        self.read("look a name up", |conn| names::look_up(conn, account, path))
    }

    fn list(
        &self,
        account: AccountId,
        path: &RemotePath,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, CatalogError> {
        self.read("list a directory", |conn| names::list(conn, account, path, after, limit))
    }

    fn version(&self, account: AccountId, version: Version) -> Result<FileInfo, CatalogError> {
        self.read_latest("look up a version", move |conn| {
            names::version_info(conn, account, version)
        })
    }

    fn manifest(
        &self,
        account: AccountId,
        version: Version,
        from: u64,
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        self.read_latest("read a manifest", move |conn| {
            names::manifest(conn, account, version, from, limit)
        })
    }

    fn totals(&self) -> Result<Totals, CatalogError> {
        self.read("sum up", |conn| {
            let sql = "SELECT files, chunks, copies FROM catalog";
            Ok(conn.prepare_cached(sql)?.query_row((), |row| {
                let (files, chunks, copies) =
                    (unsigned(row, 0)?, unsigned(row, 1)?, unsigned(row, 2)?);
                Ok(Totals { files, chunks, copies })
            })?)
        })
    }
}
