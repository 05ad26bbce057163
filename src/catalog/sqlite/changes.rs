//! What changes, for the journal: which rows were touched between one boundary and the next, and
//! what they are then.
//!
//! A *boundary* is a moment between two transactions. At each, a reader's snapshot is begun on the
//! writer's own thread, right behind a commit, so that it shows exactly what was committed until
//! then; the rows themselves are read later, on another thread, and hold no commit up.
//!
//! Which rows were touched, SQLite's update hook says. It says nothing of tables WITHOUT ROWID, so
//! there must be none (`Layout::read` refuses them); of rows that an `INSERT OR REPLACE` displaces, so
//! there must be none of these; and of a `DELETE` of a whole table that cuts it short, which the
//! writer's authorizer prevents (`schema::configure_writer`). It also tells of changes that are rolled
//! back; then the row is read all the same, and is as it was.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::Connection;
use rusqlite::hooks::Action;

use super::encoded::Body;
use super::rows::{Done, Stop};
use super::snapshot::Snapshot;
use super::writer::{Kind, Sums};
use super::{SCAN_CACHE_KIB, SqliteCatalog, schema};
use crate::catalog::CatalogError;

/// The most touches that are noted between two boundaries, repeats included.
const MAX_TOUCHES: usize = 1 << 20;

/// A row that was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Touch {
    rowid: i64,
    table: u16,
    /// It was inserted: there was none of this number before.
    is_new: bool,
}

/// The tables, as the journal names them.
#[derive(Debug)]
pub(super) struct Layout {
    /// The statements that made tables and indexes.
    pub schema: Vec<String>,
    pub tables: Vec<Table>,
}

/// One table.
#[derive(Debug)]
pub(super) struct Table {
    pub name: String,
    /// Without the one that stands for the rowid, if there is one.
    pub columns: Vec<String>,
}

impl Layout {
    /// Reads what tables there are. `Damaged` for one whose changes could not be followed.
    pub fn read(conn: &Connection) -> Done<Layout> {
        let sql = "SELECT type, name, sql FROM sqlite_schema
                   WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
                   ORDER BY type DESC, name";
        let (mut schema, mut tables) = (Vec::new(), Vec::new());
        let mut statement = conn.prepare(sql)?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            if row.get_ref(0)?.as_str().is_ok_and(|kind| kind == "table") {
                tables.push(Table::read(conn, row.get(1)?)?);
            }
            schema.push(row.get(2)?);
        }
        Ok(Layout { schema, tables })
    }
}

impl Table {
    fn read(conn: &Connection, name: String) -> Done<Table> {
        let has_no_rowid: bool =
            conn.query_row("SELECT wr FROM pragma_table_list(?)", (&name,), |row| row.get(0))?;
        if has_no_rowid {
            return Err(Stop::Damaged(format!("the table {name} has no row numbers to follow")));
        }
        let mut statement = conn.prepare("SELECT name, type, pk FROM pragma_table_info(?)")?;
        let columns = statement.query_map((&name,), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        })?;
        let columns: Vec<_> = columns.collect::<Result<_, _>>()?;
        let keys = columns.iter().filter(|(.., key)| *key > 0).count();
        let is_rowid = |kind: &str, key: i64| keys == 1 && key > 0 && kind == "INTEGER";
        let columns = columns.into_iter().filter(|(_, kind, key)| !is_rowid(kind, *key));
        Ok(Table { columns: columns.map(|(name, ..)| name).collect(), name })
    }

    /// The start of a statement that reads rows: the rowid, then the columns.
    pub fn select(&self) -> String {
        let columns: String =
            self.columns.iter().map(|column| format!(", {}", quoted(column))).collect();
        format!("SELECT rowid{columns} FROM {}", quoted(&self.name))
    }
}

/// A name as SQL quotes it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the writer notes, and hands over at boundaries.
pub(super) struct Feed {
    /// Until then nobody follows, and nothing is noted.
    is_on: AtomicBool,
    layout: OnceLock<Arc<Layout>>,
    state: Mutex<State>,
    /// Told after commits that changed something.
    changed: (Sender<()>, Receiver<()>),
    /// A reader's connection, kept for the next boundary.
    spare: Mutex<Option<Connection>>,
}

#[derive(Default)]
struct State {
    touched: Vec<Touch>,
    /// Too much was touched to be noted.
    overflowed: bool,
    /// When the first of it was.
    since: Option<Instant>,
    wanted: Option<Wanted>,
}

/// A boundary is waited for.
struct Wanted {
    reader: Connection,
    reply: Sender<rusqlite::Result<(Connection, Taken)>>,
}

/// What is taken at a boundary.
struct Taken {
    touched: Vec<Touch>,
    is_whole: bool,
    since: Option<Instant>,
    sums: Sums,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed {
            is_on: AtomicBool::new(false),
            layout: OnceLock::new(),
            state: Mutex::default(),
            changed: bounded(1),
            spare: Mutex::new(None),
        }
    }
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, table: usize, rowid: i64, is_new: bool) {
        let mut state = self.lock();
        if state.touched.len() >= MAX_TOUCHES {
            state.touched = distinct(std::mem::take(&mut state.touched));
            if state.touched.len() > MAX_TOUCHES / 2 {
                state.overflowed = true;
                state.touched = Vec::new();
            }
        }
        state.since.get_or_insert_with(Instant::now);
        state.touched.push(Touch { rowid, table: table as u16, is_new });
    }

    /// To be called by the writer, right behind each commit.
    pub fn committed(&self, sums: &Sums) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let (wanted, taken) = {
            let mut state = self.lock();
            let Some(wanted) = state.wanted.take() else {
                if !state.touched.is_empty() {
                    // One that was not taken note of yet is enough.
                    let _ = self.changed.0.try_send(());
                }
                return;
            };
            let touched = std::mem::take(&mut state.touched);
            let is_whole = !std::mem::take(&mut state.overflowed);
            let taken = Taken { touched, is_whole, since: state.since.take(), sums: *sums };
            (wanted, taken)
        };
        let begun = begin_reading(&wanted.reader).map(|()| (wanted.reader, taken));
        // Whoever waited may be gone.
        let _ = wanted.reply.send(begun);
    }
}

/// Fixes what the connection sees until the transaction ends.
fn begin_reading(reader: &Connection) -> rusqlite::Result<()> {
    reader.prepare_cached("BEGIN")?.execute(())?;
    reader.prepare_cached("SELECT next_number FROM catalog")?.query_row((), |_| Ok(()))
}

/// The touched rows, by table and number, each once, with what was done to it first.
fn distinct(mut touched: Vec<Touch>) -> Vec<Touch> {
    touched.sort_by_key(|touch| (touch.table, touch.rowid));
    touched.dedup_by_key(|touch| (touch.table, touch.rowid));
    touched
}

/// A connection inside a reader's transaction. Goes back to the feed when it is dropped.
pub(super) struct Reader {
    conn: Option<Connection>,
    feed: Arc<Feed>,
}

impl Reader {
    pub fn conn(&self) -> &Connection {
        self.conn.as_ref().expect("taken only by `drop`")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take()
            && conn.prepare_cached("COMMIT").and_then(|mut end| end.execute(())).is_ok()
        {
            *self.feed.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(conn);
        }
    }
}

/// A moment between two transactions: what was touched since the one before, and the tables as they
/// are there.
pub struct Boundary {
    reader: Reader,
    layout: Arc<Layout>,
    taken: Taken,
}

impl SqliteCatalog {
    /// Has changes noted from now on: the first boundary is to be the start of a snapshot. The
    /// receiver is told when there are some. `Damaged` when there is a table that cannot be followed.
    pub fn begin_changes(&self) -> Result<Receiver<()>, CatalogError> {
        let feed = self.writer.feed().clone();
        let changed = feed.changed.1.clone();
        self.writer.submit(Kind::Read, "begin to note changes", move |books| {
            let layout = Arc::new(Layout::read(&books.conn)?);
            let names: Vec<String> = layout.tables.iter().map(|table| table.name.clone()).collect();
            if feed.layout.set(layout).is_err() {
                return Ok(());
            }
            let noting = feed.clone();
            let hook = move |action: Action, _: &str, table: &str, rowid: i64| {
                let number = names.iter().position(|name| name == table);
                let number = number.expect("the layout has every table");
                noting.touch(number, rowid, action == Action::SQLITE_INSERT);
            };
            books.conn.update_hook(Some(hook))?;
            feed.is_on.store(true, Ordering::Relaxed);
            Ok(())
        })?;
        Ok(changed)
    }

    /// When the oldest change since the last boundary was made; `None` when there is none.
    pub fn changed_since(&self) -> Option<Instant> {
        self.writer.feed().lock().since
    }

    /// Waits for the next boundary; all that was answered before, early or not, is on its near side.
    ///
    /// Panics unless `begin_changes` was called.
    pub fn boundary(&self) -> Result<Boundary, CatalogError> {
        let feed = self.writer.feed();
        let layout = feed.layout.get().expect("`begin_changes` was called").clone();
        let spare = feed.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let opened =
            spare.map_or_else(|| schema::open_reader(self.readers.database(), SCAN_CACHE_KIB), Ok);
        let engine = |source| CatalogError::Engine { doing: "be read at a boundary", source };
        let reader = opened.map_err(engine)?;
        let (reply, answer) = bounded(1);
        feed.lock().wanted = Some(Wanted { reader, reply });
        // Brings a commit about, even where nothing waits for one.
        self.writer.submit(Kind::Durable, "come to a boundary", |_| Ok(()))?;
        match answer.recv() {
            Ok(begun) => {
                let (conn, taken) = begun.map_err(engine)?;
                let reader = Reader { conn: Some(conn), feed: feed.clone() };
                Ok(Boundary { reader, layout, taken })
            }
            Err(_) => Err(CatalogError::Failed("its writer has stopped".to_string())),
        }
    }
}

impl Boundary {
    /// False when so much was touched that it was not noted: then only a snapshot tells.
    pub fn is_whole(&self) -> bool {
        self.taken.is_whole
    }

    /// When the oldest change since the boundary before was made; `None` when there was none.
    pub fn since(&self) -> Option<Instant> {
        self.taken.since
    }

    /// Gives what changed since the boundary before, in bodies of about `most` bytes, each with
    /// whether it is the last; none when nothing did. Returns how many rows were touched.
    pub fn changes<E: From<CatalogError>>(
        &mut self,
        most: usize,
        mut give: impl FnMut(Vec<u8>, bool) -> Result<(), E>,
    ) -> Result<u64, E> {
        let touched = distinct(std::mem::take(&mut self.taken.touched));
        if touched.is_empty() {
            return Ok(0);
        }
        let mut body = Body::default();
        // First all that may be in the way: two rows can have exchanged what must be unique.
        for touch in touched.iter().filter(|touch| !touch.is_new) {
            body.gone(touch.table.into(), touch.rowid);
            if body.len() >= most {
                give(std::mem::take(&mut body).0, false)?;
            }
        }
        for rows in touched.chunk_by(|one, other| one.table == other.table) {
            self.read(rows, most, &mut body, &mut give)?;
        }
        body.sums(&self.taken.sums);
        give(body.0, true)?;
        Ok(touched.len() as u64)
    }

    /// Adds those of the rows, which are of one table, that are there.
    fn read<E: From<CatalogError>>(
        &self,
        touched: &[Touch],
        most: usize,
        body: &mut Body,
        give: &mut impl FnMut(Vec<u8>, bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let number = usize::from(touched[0].table);
        let table = &self.layout.tables[number];
        let engine = |source| CatalogError::Engine { doing: "read a changed row", source };
        let sql = format!("{} WHERE rowid = ?", table.select());
        let mut statement = self.reader.conn().prepare_cached(&sql).map_err(engine)?;
        for touch in touched {
            let mut rows = statement.query((touch.rowid,)).map_err(engine)?;
            if let Some(row) = rows.next().map_err(engine)? {
                body.row(number, touch.rowid, table.columns.len(), row).map_err(engine)?;
            }
            if body.len() >= most {
                give(std::mem::take(body).0, false)?;
            }
        }
        Ok(())
    }

    /// All tables as they are at this boundary.
    pub fn into_snapshot(self) -> Snapshot {
        Snapshot::new(self.reader, self.layout, self.taken.sums)
    }
}
