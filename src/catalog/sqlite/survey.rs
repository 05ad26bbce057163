//! Looking at everything, page by page, beside the writer.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use super::names::ROOT;
use super::rows::{Done, chunk_columns, chunk_row, signed, unsigned};
use crate::catalog::{CondemnedTotals, SeenFile, SurveyedChunk, Totals};
use crate::ids::{AccountId, Serial, Version};

pub(super) fn chunks(
    conn: &Connection,
    after: Option<Serial>,
    limit: usize,
) -> Done<Vec<SurveyedChunk>> {
    let sql = concat!(chunk_columns!(), "WHERE serial > ? ORDER BY serial LIMIT ?");
    let mut statement = conn.prepare_cached(sql)?;
    let after = after.map_or(-1, |serial| signed(serial.0));
    let rows = statement.query_map((after, signed(limit as u64)), chunk_row)?;
    rows.map(|row| {
        let row = row?;
        Ok(SurveyedChunk { is_referred: row.refs > 0, record: row.record })
    })
    .collect()
}

pub(super) fn seen_files(
    conn: &Connection,
    after: Option<u64>,
    limit: usize,
) -> Done<Vec<SeenFile>> {
    let sql = "SELECT e.id, e.account, e.parent, e.name, e.version, v.chunk_count
               FROM entries e JOIN versions v ON v.version = e.version
               WHERE e.id > ? ORDER BY e.id";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query((after.map_or(-1, signed),))?;
    let mut directories = HashMap::from([(ROOT, String::new())]);
    let mut files = Vec::new();
    while files.len() < limit {
        let Some(row) = rows.next()? else { break };
        let directory = directory_path(conn, unsigned(row, 2)?, &mut directories)?;
        let name: String = row.get(3)?;
        // A tree moved by an earlier release can have paths beyond the limits; nobody can name those.
        let Ok(path) = format!("{directory}/{name}").parse() else { continue };
        files.push(SeenFile {
            position: unsigned(row, 0)?,
            account: AccountId(row.get(1)?),
            path,
            version: Version(unsigned(row, 4)?),
            chunk_count: unsigned(row, 5)?,
        });
    }
    Ok(files)
}

/// The path of a directory; those found on the way are remembered.
fn directory_path(
    conn: &Connection,
    directory: u64,
    known: &mut HashMap<u64, String>,
) -> Done<String> {
    let mut unnamed = Vec::new();
    let mut at = directory;
    while !known.contains_key(&at) {
        let sql = "SELECT parent, name FROM entries WHERE id = ?";
        let row = conn
            .prepare_cached(sql)?
            .query_row((signed(at),), |row| Ok((unsigned(row, 0)?, row.get::<_, String>(1)?)));
        let Some((parent, name)) = row.optional()? else { break };
        unnamed.push((at, name));
        at = parent;
    }
    let mut path = known.get(&at).cloned().unwrap_or_default();
    for (id, name) in unnamed.into_iter().rev() {
        path = format!("{path}/{name}");
        known.insert(id, path.clone());
    }
    Ok(path)
}

pub(super) fn totals(conn: &Connection) -> Done<Totals> {
    let sql = "SELECT files, chunks, copies FROM catalog";
    Ok(conn.prepare_cached(sql)?.query_row((), |row| {
        let (files, chunks, copies) = (unsigned(row, 0)?, unsigned(row, 1)?, unsigned(row, 2)?);
        Ok(Totals { files, chunks, copies })
    })?)
}

pub(super) fn condemned_totals(conn: &Connection) -> Done<CondemnedTotals> {
    let sql = "SELECT condemned, unknown FROM catalog";
    let sums = |row: &rusqlite::Row<'_>| Ok((unsigned(row, 0)?, unsigned(row, 1)?));
    let (copies, mut unknown) = conn.prepare_cached(sql)?.query_row((), sums)?;
    if unknown > 0 {
        unknown -= super::condemned::named_unknown(conn)?.min(unknown);
    }
    Ok(CondemnedTotals { copies, unknown })
}
