//! Connections that only read, beside the writer.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use super::rows::Done;
use super::schema;

/// The most idle connections that are kept: as many as are used at once under load, since one that is
/// opened anew reads the schema and prepares its statements. Each has a page cache of its own.
const MAX_IDLE: usize = 16;

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
        conn.prepare_cached("BEGIN")?.execute(())?;
        let result = read(&conn);
        conn.prepare_cached("COMMIT")?.execute(())?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(conn);
        }
        result
    }
}
