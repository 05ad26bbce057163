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

/// Brings the tables from the format `found` to `FORMAT`, in one transaction: a crash on the way
/// leaves them as they were.
pub(super) fn migrate(conn: &Connection, found: i64) -> rusqlite::Result<()> {
    if found == FORMAT {
        return Ok(());
    }
    let transaction = conn.unchecked_transaction()?;
    transaction.execute_batch(FROM_1)?;
    transaction.execute("UPDATE catalog SET format = ?", (FORMAT,))?;
    transaction.commit()?;
    log::info!("catalog brought to another format from={found} to={FORMAT}");
    Ok(())
}
