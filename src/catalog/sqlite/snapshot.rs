//! All rows of the catalog at one boundary, a body at a time, for the journal.

use std::sync::Arc;

use super::changes::{Layout, Reader};
use super::encoded::Body;
use super::writer::Sums;
use crate::catalog::CatalogError;

/// The tables at one boundary. While it lives, SQLite's log cannot be emptied behind it and grows.
pub struct Snapshot {
    reader: Reader,
    layout: Arc<Layout>,
    sums: Sums,
    /// The table to go on with, and the row after which.
    table: usize,
    after: Option<i64>,
    is_begun: bool,
    is_over: bool,
}

impl Snapshot {
    pub(super) fn new(reader: Reader, layout: Arc<Layout>, sums: Sums) -> Snapshot {
        Snapshot { reader, layout, sums, table: 0, after: None, is_begun: false, is_over: false }
    }

    /// The next body, of about `most` bytes; `None` when there are no more.
    pub fn next(&mut self, most: usize) -> Result<Option<Vec<u8>>, CatalogError> {
        if self.is_over {
            return Ok(None);
        }
        let mut body = Body::default();
        if !std::mem::replace(&mut self.is_begun, true) {
            self.layout.schema.iter().for_each(|sql| body.schema(sql));
            self.layout.tables.iter().for_each(|table| body.table(&table.name, &table.columns));
        }
        while body.len() < most && self.table < self.layout.tables.len() {
            let read = self.read(&mut body, most);
            read.map_err(|source| CatalogError::Engine { doing: "read a snapshot", source })?;
        }
        if self.table == self.layout.tables.len() {
            body.sums(&self.sums);
            self.is_over = true;
        }
        Ok(Some(body.0))
    }

    /// True when `next` has given the last body.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Reads on in the table until the body is full or the table ends.
    fn read(&mut self, body: &mut Body, most: usize) -> rusqlite::Result<()> {
        let table = &self.layout.tables[self.table];
        let sql = format!("{} WHERE rowid > ? ORDER BY rowid", table.select());
        let mut statement = self.reader.conn().prepare_cached(&sql)?;
        // No row has the lowest number of all.
        let mut rows = statement.query((self.after.unwrap_or(i64::MIN),))?;
        while let Some(row) = rows.next()? {
            let rowid = row.get(0)?;
            body.row(self.table, rowid, table.columns.len(), row)?;
            self.after = Some(rowid);
            if body.len() >= most {
                return Ok(());
            }
        }
        (self.table, self.after) = (self.table + 1, None);
        Ok(())
    }
}
