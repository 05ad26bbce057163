//! Connections that only read, beside the writer.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use super::rows::Done;
use super::schema;

/// The most idle connections that are kept; each has a page cache.
const MAX_IDLE: usize = 4;

pub(super) struct Readers {
    database: PathBuf,
    /// Guards the list alone: a connection that reads is not in it.
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(database: PathBuf) -> Readers {
        Readers { database, idle: Mutex::new(Vec::new()) }
    }

    /// The database that they read.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    /// Runs `read` on one snapshot of all that is durable.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> Done<T>) -> Done<T> {
        let free = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match free {
            Some(conn) => conn,
            None => schema::open_reader(&self.database)?,
        };
        let snapshot = conn.unchecked_transaction()?;
        let result = read(&conn);
        snapshot.finish()?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(conn);
        }
        result
    }
}
