//! Makes a catalog out of what was kept of another one: a snapshot, and the changes since.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension};

use super::changes::quoted;
use super::encoded::{Item, Items};
use super::nodes;
use super::rows::unsigned;
use super::schema;
use super::writer::Sums;
use crate::catalog::{CatalogError, Standing};
use crate::durable;
use crate::ids::{Address, NodeId};

/// A catalog in the making. It stands under another name until `finish`; dropped, nothing of it
/// stays that a start would take for a catalog.
pub struct Rebuild {
    dir: PathBuf,
    temporary: PathBuf,
    file: File,
    conn: Connection,
    tables: Vec<TableOf>,
    /// Made at the end: rows then come in any order, and faster.
    indexes: Vec<String>,
    counted: Counted,
    _lock: File,
}

struct TableOf {
    insert: String,
    delete: String,
    columns: usize,
    /// Says what a row adds to the sums: files, chunks, copies, condemned and unknown ones.
    measure: Option<String>,
}

/// Files, chunks, copies, condemned copies and unknown ones, as the rows sum up.
type Counted = [i64; 5];

fn damaged(what: impl Into<String>) -> CatalogError {
    CatalogError::Damaged(what.into())
}

fn engine(source: rusqlite::Error) -> CatalogError {
    CatalogError::Engine { doing: "be built anew", source }
}

impl Rebuild {
    /// Begins in `dir`, which is made when it is missing. Refused: `AlreadyThere`, `Locked`.
    pub fn begin(dir: &Path) -> Result<Rebuild, CatalogError> {
        let io = |doing, path: &Path| {
            let path = path.to_path_buf();
            move |source| CatalogError::Io { doing, path, source }
        };
        durable::make_directories(dir).map_err(io("make", dir))?;
        let lock = schema::lock(dir)?;
        if schema::database(dir).exists() {
            return Err(CatalogError::AlreadyThere(dir.to_path_buf()));
        }
        let temporary = dir.join("catalog.db.new");
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io("clear the way for", &temporary)(error));
            }
            _ => {}
        }
        let private = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let file = private.map_err(io("make", &temporary))?;
        let conn = Connection::open(&temporary).map_err(engine)?;
        let pragmas = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
                       PRAGMA temp_store = MEMORY; PRAGMA cache_size = -32768; BEGIN";
        conn.execute_batch(pragmas).map_err(engine)?;
        conn.set_prepared_statement_cache_capacity(256);
        Ok(Rebuild {
            dir: dir.to_path_buf(),
            temporary,
            file,
            conn,
            tables: Vec::new(),
            indexes: Vec::new(),
            counted: [0; 5],
            _lock: lock,
        })
    }

    /// Takes in the next body. All bodies of the snapshot come first, in order, then those of the
    /// changes, in order, up to a boundary. `Damaged` when it does not fit on those before, or the
    /// sums are not those that it says.
    pub fn apply(&mut self, body: &[u8]) -> Result<(), CatalogError> {
        let mut items = Items(body);
        while !items.is_at_end() {
            let item = items.next().ok_or_else(|| damaged("what was kept of it does not read"))?;
            match item {
                Item::Schema(sql) => self.define(sql)?,
                Item::Table { name, columns } => self.tables.push(TableOf::new(name, &columns)),
                Item::Row { table, rowid, values } => self.insert(table, rowid, &values)?,
                Item::Gone { table, rowid } => self.delete(table, rowid)?,
                Item::Sums(sums) => self.check(&sums)?,
            }
        }
        Ok(())
    }

    /// The nodes that belong to it, as far as it is built, and where they can be reached. One that
    /// never said where is not among them.
    pub fn members(&self) -> Result<BTreeMap<NodeId, Address>, CatalogError> {
        let sql = "SELECT id, address FROM nodes WHERE address IS NOT NULL AND standing <> ?";
        let mut statement = self.conn.prepare(sql).map_err(engine)?;
        let left = nodes::number_of(Standing::Left);
        let row = |row: &rusqlite::Row<'_>| Ok((NodeId(row.get(0)?), row.get::<_, String>(1)?));
        let rows = statement.query_map((left,), row).map_err(engine)?;
        let texts = rows.collect::<rusqlite::Result<Vec<_>>>().map_err(engine)?;
        Ok(texts.iter().filter_map(|(node, text)| Some((*node, text.parse().ok()?))).collect())
    }

    /// Lets this key open the first administrator's account, besides those that do already; returns
    /// the account's name.
    pub fn admit(&mut self, key_fingerprint: &[u8; 32]) -> Result<String, CatalogError> {
        let sql = "SELECT id, name FROM accounts WHERE is_admin ORDER BY id LIMIT 1";
        let first = self.conn.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?))).optional();
        let first: Option<(i64, String)> = first.map_err(engine)?;
        let (account, name) = first.ok_or_else(|| damaged("it has no administrator"))?;
        let sql = "INSERT INTO account_keys (fingerprint, account) VALUES (?, ?)";
        self.conn.execute(sql, (key_fingerprint, account)).map_err(engine)?;
        Ok(name)
    }

    /// Ends it: from here on there is a catalog in the directory, durable.
    pub fn finish(self) -> Result<(), CatalogError> {
        let Rebuild { dir, temporary, file, conn, indexes, _lock, .. } = self;
        for sql in &indexes {
            conn.execute(sql, ()).map_err(engine)?;
        }
        conn.execute_batch("COMMIT").map_err(engine)?;
        schema::check_format(&conn, &temporary).map(drop)?;
        conn.close().map_err(|(_, error)| engine(error))?;
        schema::take_name(&dir, &temporary, &file)
    }

    fn define(&mut self, sql: &str) -> Result<(), CatalogError> {
        if sql.trim_start().to_ascii_uppercase().starts_with("CREATE TABLE") {
            self.conn.execute(sql, ()).map_err(engine)?;
        } else {
            self.indexes.push(sql.to_string());
        }
        Ok(())
    }

    fn insert(
        &mut self,
        table: usize,
        rowid: i64,
        values: &[ValueRef<'_>],
    ) -> Result<(), CatalogError> {
        let of = self.tables.get(table).filter(|of| of.columns == values.len());
        let of = of.ok_or_else(|| damaged(format!("row {rowid} is of an unknown table")))?;
        let mut statement = self.conn.prepare_cached(&of.insert).map_err(engine)?;
        statement.raw_bind_parameter(1, rowid).map_err(engine)?;
        for (column, value) in values.iter().enumerate() {
            let value = ToSqlOutput::Borrowed(*value);
            statement.raw_bind_parameter(column + 2, value).map_err(engine)?;
        }
        statement.raw_execute().map_err(engine)?;
        drop(statement);
        let added = self.measure(table, rowid)?;
        self.count(added, 1);
        Ok(())
    }

    fn delete(&mut self, table: usize, rowid: i64) -> Result<(), CatalogError> {
        let taken = self.measure(table, rowid)?;
        self.count(taken, -1);
        let of = self.tables.get(table);
        let of = of.ok_or_else(|| damaged(format!("row {rowid} is of an unknown table")))?;
        let mut statement = self.conn.prepare_cached(&of.delete).map_err(engine)?;
        statement.execute((rowid,)).map_err(engine)?;
        Ok(())
    }

    /// What a row adds to the sums.
    fn measure(&self, table: usize, rowid: i64) -> Result<Counted, CatalogError> {
        let sql = self.tables.get(table).and_then(|of| of.measure.as_deref());
        let Some(sql) = sql else { return Ok([0; 5]) };
        let mut statement = self.conn.prepare_cached(sql).map_err(engine)?;
        let measured = statement.query_row((rowid,), |row| {
            Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?])
        });
        Ok(measured.optional().map_err(engine)?.unwrap_or_default())
    }

    fn count(&mut self, what: Counted, sign: i64) {
        for (counted, more) in self.counted.iter_mut().zip(what) {
            *counted += sign * more;
        }
    }

    /// The sums are those of the rows, and those that the catalog itself says.
    fn check(&self, sums: &Sums) -> Result<(), CatalogError> {
        let sql = "SELECT next_number, files, chunks, copies, condemned, unknown FROM catalog";
        let mut statement = self.conn.prepare_cached(sql).map_err(engine)?;
        let said = statement.query_row((), |row| {
            Ok(Sums {
                next: unsigned(row, 0)?,
                files: unsigned(row, 1)?,
                chunks: unsigned(row, 2)?,
                copies: unsigned(row, 3)?,
                condemned: unsigned(row, 4)?,
                unknown: unsigned(row, 5)?,
            })
        });
        let said = said.optional().map_err(engine)?;
        if said != Some(*sums) {
            return Err(damaged(format!("its sums are {said:?} where they should be {sums:?}")));
        }
        let should_be =
            [sums.files, sums.chunks, sums.copies, sums.condemned, sums.unknown].map(|n| n as i64);
        match self.counted == should_be {
            true => Ok(()),
            false => {
                let counted = self.counted;
                Err(damaged(format!("its rows sum up to {counted:?}, and not to {should_be:?}")))
            }
        }
    }
}

impl TableOf {
    fn new(name: &str, columns: &[&str]) -> TableOf {
        let names: String = columns.iter().map(|column| format!(", {}", quoted(column))).collect();
        let places = ", ?".repeat(columns.len());
        let table = quoted(name);
        let measure = match name {
            "chunks" => Some("SELECT 0, 1, length(copies) / 5, 0, 0 FROM chunks WHERE rowid = ?"),
            "entries" => {
                Some("SELECT version IS NOT NULL, 0, 0, 0, 0 FROM entries WHERE rowid = ?")
            }
            // Of these, the unknown ones are `Condemned::Unknown`.
            "condemned" => Some("SELECT 0, 0, 0, 1, why = 3 FROM condemned WHERE rowid = ?"),
            _ => None,
        };
        TableOf {
            insert: format!("INSERT INTO {table} (rowid{names}) VALUES (?{places})"),
            delete: format!("DELETE FROM {table} WHERE rowid = ?"),
            columns: columns.len(),
            measure: measure.map(str::to_string),
        }
    }
}
