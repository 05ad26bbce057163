//! Connections that only read, beside the writer.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::rows::Done;
use super::schema;

/// A bounded number of connections: each has a page cache, and together they stay within the memory
/// that a main server may have. Whoever finds none free waits; a read is short.
pub(super) struct Readers {
    database: PathBuf,
    most: usize,
    cache_kib: usize,
    /// Guards the list alone: a connection that reads is not in it.
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    /// Those that read just now.
    lent: usize,
}

impl Readers {
    /// At most so many connections, with page caches of so many KiB together.
    pub(super) fn new(database: PathBuf, most: usize, cache_kib: usize) -> Readers {
        let cache_kib = cache_kib / most;
        Readers { database, most, cache_kib, pool: Mutex::default(), returned: Condvar::new() }
    }

    /// The database that they read.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    /// Runs `read`, which must not read through these in turn, on one snapshot of all that is durable.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> Done<T>) -> Done<T> {
        let mut lent = self.lend();
        let conn = match lent.conn.take() {
            Some(conn) => conn,
            None => schema::open_reader(&self.database, self.cache_kib)?,
        };
        conn.prepare_cached("BEGIN")?.execute(())?;
        let result = read(&conn);
        conn.prepare_cached("COMMIT")?.execute(())?;
        // Only one that came to its end well is used again.
        lent.conn = Some(conn);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(&self) -> Lent<'_> {
        let is_busy = |pool: &mut Pool| pool.lent >= self.most;
        let pool = self.returned.wait_while(self.lock(), is_busy);
        let mut pool = pool.unwrap_or_else(PoisonError::into_inner);
        pool.lent += 1;
        Lent { readers: self, conn: pool.idle.pop() }
    }
}

/// The right to read, with a connection if there was one. Goes back when it is dropped.
struct Lent<'a> {
    readers: &'a Readers,
    conn: Option<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut pool = self.readers.lock();
        pool.lent -= 1;
        pool.idle.extend(self.conn.take());
        drop(pool);
        self.readers.returned.notify_one();
    }
}
