//! Brings the tables of an earlier format to this one.

use rusqlite::Connection;

use super::schema::FORMAT;

/// The oldest format that can be brought to this one.
pub(super) const OLDEST_FORMAT: i64 = 1;

// What format 2 has and format 1 had not. Rows of `manifests` had no number; the rest is added.
const FROM_1: &str = "
ALTER TABLE catalog ADD COLUMN condemned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE catalog ADD COLUMN unknown INTEGER NOT NULL DEFAULT 0;
ALTER TABLE catalog ADD COLUMN latest_time INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN standing INTEGER NOT NULL DEFAULT 0;
ALTER TABLE versions ADD COLUMN is_ending INTEGER NOT NULL DEFAULT 0;
CREATE INDEX ended_versions ON versions (ended_at) WHERE ended_at IS NOT NULL;
ALTER TABLE manifests RENAME TO old_manifests;
CREATE TABLE manifests (
    number INTEGER PRIMARY KEY, version INTEGER NOT NULL, part INTEGER NOT NULL,
    serials BLOB NOT NULL);
INSERT INTO manifests (version, part, serials)
    SELECT version, part, serials FROM old_manifests ORDER BY version, part;
DROP TABLE old_manifests;
CREATE UNIQUE INDEX manifest_parts ON manifests (version, part);
CREATE INDEX removed_paths ON removed (account, path);
CREATE INDEX removed_times ON removed (account, removed_at, version);
CREATE TABLE condemned (
    number INTEGER PRIMARY KEY, node INTEGER NOT NULL, serial INTEGER NOT NULL,
    length INTEGER NOT NULL, why INTEGER NOT NULL, purge INTEGER NOT NULL, due INTEGER NOT NULL);
CREATE UNIQUE INDEX condemned_copies ON condemned (node, serial);
CREATE INDEX condemned_serials ON condemned (serial);
";

// What format 3 has and format 2 had not. Nobody was told a mark before: whatever start is in the
// history counts as one that came to mark 0.
const FROM_2: &str = "
ALTER TABLE catalog ADD COLUMN mark INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incarnations ADD COLUMN last_mark INTEGER;
";

// What format 4 has and format 3 had not.
const FROM_3: &str = "
CREATE INDEX unknown_copies ON condemned (due) WHERE why = 3;
";

/// Brings the tables from the format `found` to `FORMAT`, in one transaction: a crash on the way
/// leaves them as they were.
pub(super) fn migrate(conn: &Connection, found: i64) -> rusqlite::Result<()> {
    if found == FORMAT {
        return Ok(());
    }
    let transaction = conn.unchecked_transaction()?;
    for (format, changes) in [(1, FROM_1), (2, FROM_2), (3, FROM_3)] {
        if found <= format {
            transaction.execute_batch(changes)?;
        }
    }
    transaction.execute("UPDATE catalog SET format = ?", (FORMAT,))?;
    transaction.commit()?;
    log::info!("catalog brought to another format from={found} to={FORMAT}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::catalog::{
        Catalog, CatalogError, Condition, Confirmation, LiveNodes, MAX_PART_CHUNKS, Manifest,
        NewFile, SqliteCatalog, check,
    };
    use crate::clock::WallTime;
    use crate::ids::{AccountId, ChunkId, HashAlgorithm, RequestId, Version};
    use crate::remote_path::RemotePath;

    const A: AccountId = AccountId(1);
    const NOW: WallTime = WallTime(1_800_000_000_000);

    /// The tables of format 1, word for word.
    const TABLES_1: &str = "
CREATE TABLE catalog (
    id INTEGER PRIMARY KEY, format INTEGER NOT NULL, cluster BLOB NOT NULL, secret BLOB NOT NULL,
    next_number INTEGER NOT NULL, files INTEGER NOT NULL, chunks INTEGER NOT NULL,
    copies INTEGER NOT NULL);
CREATE TABLE incarnations (
    position INTEGER PRIMARY KEY, incarnation BLOB NOT NULL UNIQUE, started_at INTEGER NOT NULL);
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, is_admin INTEGER NOT NULL);
CREATE TABLE account_keys (fingerprint BLOB PRIMARY KEY, account INTEGER NOT NULL);
CREATE TABLE invites (
    fingerprint BLOB PRIMARY KEY, uses INTEGER NOT NULL, expires INTEGER NOT NULL);
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY, invite BLOB NOT NULL, secret BLOB NOT NULL, incarnation BLOB,
    address TEXT, zone TEXT NOT NULL, offered_bytes INTEGER NOT NULL, key_id INTEGER);
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
    is_executable INTEGER NOT NULL, serials BLOB);
CREATE TABLE manifests (
    version INTEGER NOT NULL, part INTEGER NOT NULL, serials BLOB NOT NULL,
    PRIMARY KEY (version, part)) WITHOUT ROWID;
CREATE TABLE removed (
    entry INTEGER PRIMARY KEY, account INTEGER NOT NULL, path TEXT NOT NULL,
    version INTEGER NOT NULL, removed_at INTEGER NOT NULL);
CREATE TABLE staged (
    number INTEGER PRIMARY KEY, account INTEGER NOT NULL, upload BLOB NOT NULL,
    part INTEGER NOT NULL, staged_at INTEGER NOT NULL, ids BLOB NOT NULL);
CREATE UNIQUE INDEX staged_parts ON staged (account, upload, part);
CREATE TABLE requests (
    number INTEGER PRIMARY KEY, request BLOB NOT NULL UNIQUE, account INTEGER NOT NULL,
    kind TEXT NOT NULL, answered_at INTEGER NOT NULL, answer TEXT NOT NULL);
";

    /// Writes `/short`, `/long` with a manifest in two parts, and `/gone`, which is removed; returns
    /// the version of `/long`.
    fn fill(catalog: &SqliteCatalog) -> Version {
        catalog.create_invite(&[1; 32], 1, WallTime(u64::MAX)).expect("made");
        let node = catalog.join_node(&[1; 32], &[2; 32], NOW).expect("joined");
        let id = ChunkId::of(HashAlgorithm::Blake3, b"a chunk");
        let answers = catalog.reserve(A, 1, NOW, &[(id, 7)]).expect("answers");
        let (serial, length) = (answers[0].as_ref().expect("reserved").serial, 7);
        let said = Confirmation { account: A, id, serial, length, wanted: 1, node, reason: 1 };
        catalog.confirm_copies(&[said], NOW).expect("answers");
        let upload = RequestId::random();
        for part in 0..2 {
            let chunks = [id; MAX_PART_CHUNKS];
            catalog.stage_part(A, upload, part, &chunks, NOW).expect("staged");
        }
        let file = |at: &str, manifest| NewFile {
            path: at.parse().expect("a path"),
            manifest,
            copies: 1,
            mtime_ms: 0,
            executable: false,
            condition: Condition::Any,
            parents: false,
        };
        let files = [
            file("/long", Manifest::Staged { upload, parts: 2 }),
            file("/short", Manifest::Inline(vec![id])),
            file("/gone", Manifest::Inline(vec![id])),
        ];
        let live = LiveNodes::from([node]);
        let answers = catalog.commit_files(A, RequestId::random(), NOW, &live, &files);
        let version = answers.expect("answers")[0].as_ref().expect("committed").version;
        let gone = "/gone".parse().expect("a path");
        catalog.remove_entry(A, RequestId::random(), NOW, &gone, false, None, false).expect("gone");
        version
    }

    /// Writes what the catalog in `new` holds as a catalog of format 1 into `old`.
    fn write_as_format_1(new: &Path, old: &Path) {
        let conn = Connection::open(old.join("catalog.db")).expect("made");
        conn.execute_batch(TABLES_1).expect("the tables of format 1");
        let new = new.join("catalog.db");
        conn.execute("ATTACH ? AS new", (new.to_str().expect("a path"),)).expect("attached");
        let list = |sql: &str| -> Vec<String> {
            let mut statement = conn.prepare(sql).expect("good SQL");
            let rows = statement.query_map((), |row| row.get(0)).expect("listed");
            rows.collect::<rusqlite::Result<_>>().expect("texts")
        };
        for table in list("SELECT name FROM main.sqlite_master WHERE type = 'table'") {
            let columns = list(&format!("SELECT name FROM pragma_table_info('{table}', 'main')"));
            let columns = columns.join(", ");
            let copy =
                format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}");
            conn.execute(&copy, ()).expect("copied");
        }
        conn.execute("UPDATE main.catalog SET format = 1", ()).expect("marked");
    }

    #[test]
    fn a_catalog_of_format_1_is_brought_to_this_one_and_keeps_all_that_it_had() {
        let (new, old) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let catalog = SqliteCatalog::create(new.path(), "admin", &[7; 32]).expect("made");
        let long = fill(&catalog);
        let manifest = catalog.manifest(A, long, 0, usize::MAX).expect("a manifest");
        let (totals, nodes) = (catalog.totals().expect("sums"), catalog.nodes().expect("nodes"));
        drop(catalog);
        write_as_format_1(new.path(), old.path());
        let found = check::check(old.path());
        assert!(matches!(found, Err(CatalogError::Format { found: 1, .. })), "{found:?}");

        let catalog = SqliteCatalog::open(old.path()).expect("opened");
        assert_eq!(catalog.manifest(A, long, 0, usize::MAX).expect("a manifest"), manifest);
        assert_eq!(manifest.len(), 2 * MAX_PART_CHUNKS);
        assert_eq!(catalog.totals().expect("sums"), totals);
        assert_eq!(catalog.nodes().expect("nodes"), nodes);
        let removed = catalog.removed(A, &RemotePath::root(), None, 9).expect("a list");
        assert_eq!(removed.len(), 1);
        drop(catalog);
        assert_eq!(check::check(old.path()).expect("checked").problems, [""; 0]);
        let again = SqliteCatalog::open(old.path()).expect("opened again");
        assert_eq!(again.totals().expect("sums"), totals);
        // Tables of both have the same rows now, and the same rules for new ones.
        assert_eq!(columns(old.path()), columns(new.path()));
    }

    #[test]
    fn a_catalog_of_format_3_gets_the_index_that_it_lacks() {
        let dir = tempfile::tempdir().expect("made");
        drop(SqliteCatalog::create(dir.path(), "admin", &[7; 32]).expect("made"));
        let before = columns(dir.path());
        let conn = Connection::open(dir.path().join("catalog.db")).expect("opened");
        conn.execute_batch("DROP INDEX unknown_copies; UPDATE catalog SET format = 3;")
            .expect("as it was");
        drop(conn);
        let catalog = SqliteCatalog::open(dir.path()).expect("opened");
        assert_eq!(catalog.condemned_totals().expect("sums").unknown, 0);
        drop(catalog);
        assert_eq!(columns(dir.path()), before);
    }

    /// Every table and index with its columns, as the database describes them.
    fn columns(dir: &Path) -> Vec<String> {
        let conn = Connection::open(dir.join("catalog.db")).expect("opened");
        let sql = "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\"
                   FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'
                   UNION SELECT m.name || ' on ' || m.tbl_name || ' ' || c.name
                   FROM sqlite_master m JOIN pragma_index_info(m.name) c WHERE m.type = 'index'
                   UNION SELECT sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'
                   ORDER BY 1";
        let mut statement = conn.prepare(sql).expect("good SQL");
        let rows = statement.query_map((), |row| row.get(0)).expect("listed");
        rows.collect::<rusqlite::Result<_>>().expect("texts")
    }
}
