//! What is taken from the engine for the journal makes the same catalog again, row by row, whatever
//! was done to it and wherever the boundaries fell.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::property::{Step, apply, steps};
use super::*;
use crate::catalog::check;
use crate::catalog::sqlite::{Boundary, Rebuild, Snapshot};

/// So few that one boundary takes several bodies.
const BODY_BYTES: usize = 200;

/// Every row of every table, with its number, as text.
fn all_rows(dir: &Path) -> Vec<String> {
    let conn = Connection::open(dir.join("catalog.db")).expect("a database");
    let names = "SELECT name, sql FROM sqlite_schema ORDER BY type, name";
    let mut statement = conn.prepare(names).expect("a schema");
    let things: Vec<(String, Option<String>)> = statement
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect)
        .expect("a schema");
    let mut lines: Vec<String> = things.iter().map(|thing| format!("{thing:?}")).collect();
    for (table, sql) in things {
        if !sql.is_some_and(|sql| sql.to_uppercase().starts_with("CREATE TABLE")) {
            continue;
        }
        let sql = format!("SELECT rowid, * FROM {table} ORDER BY rowid");
        let mut statement = conn.prepare(&sql).expect("a table");
        let columns = statement.column_count();
        let mut rows = statement.query(()).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            let values: Vec<Value> =
                (0..columns).map(|column| row.get(column).expect("a value")).collect();
            lines.push(format!("{table} {values:?}"));
        }
    }
    lines
}

fn changes(mut boundary: Boundary, bodies: &mut Vec<Vec<u8>>) {
    assert!(boundary.is_whole());
    let take = |body: Vec<u8>, _| {
        bodies.push(body);
        Ok::<(), CatalogError>(())
    };
    boundary.changes(BODY_BYTES, take).expect("rows can be read");
}

fn read_all(snapshot: &mut Snapshot, bodies: &mut Vec<Vec<u8>>) {
    while let Some(body) = snapshot.next(BODY_BYTES).expect("rows can be read") {
        bodies.push(body);
    }
    assert!(snapshot.is_over());
}

fn rebuilt(bodies: &[Vec<u8>]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut rebuild = Rebuild::begin(dir.path()).expect("an empty directory");
    for body in bodies {
        rebuild.apply(body).expect("it fits on the one before");
    }
    rebuild.finish().expect("a catalog");
    dir
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(2026),
        ..Default::default()
    })]

    #[test]
    fn a_snapshot_and_the_changes_since_make_the_same_catalog(
        before in steps(),
        then in proptest::collection::vec((any::<bool>(), steps()), 1..4),
        reads_late in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let engine = SqliteCatalog::create(dir.path(), "admin", &ADMIN_KEY).expect("made");
        join_nodes(&engine);
        let mut now = NOW;
        for step in &before {
            apply(&engine, &mut now, step);
        }
        engine.begin_changes().expect("every table can be followed");
        let mut snapshot = engine.boundary().expect("a boundary").into_snapshot();
        let (mut bodies, mut later) = (Vec::new(), Vec::new());
        if !reads_late {
            read_all(&mut snapshot, &mut bodies);
        }
        for (is_bounded, steps) in &then {
            for step in steps {
                apply(&engine, &mut now, step);
            }
            if *is_bounded {
                changes(engine.boundary().expect("a boundary"), &mut later);
            }
        }
        changes(engine.boundary().expect("a boundary"), &mut later);
        if reads_late {
            read_all(&mut snapshot, &mut bodies);
        }
        bodies.append(&mut later);
        let again = rebuilt(&bodies);
        prop_assert_eq!(all_rows(again.path()), all_rows(dir.path()));
        drop((snapshot, engine));
        let report = check::check(again.path()).expect("checked");
        prop_assert_eq!(report, check::check(dir.path()).expect("checked"));
    }
}

#[test]
fn a_body_that_is_missing_or_cut_is_noticed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let engine = SqliteCatalog::create(dir.path(), "admin", &ADMIN_KEY).expect("made");
    join_nodes(&engine);
    engine.begin_changes().expect("every table can be followed");
    let mut bodies = Vec::new();
    read_all(&mut engine.boundary().expect("a boundary").into_snapshot(), &mut bodies);
    let snapshots = bodies.len();
    for number in 0..3 {
        let step = Step::Store { account: A, chunk: number, nodes: vec![1, 2] };
        apply(&engine, &mut NOW.clone(), &step);
        changes(engine.boundary().expect("a boundary"), &mut bodies);
    }
    drop(rebuilt(&bodies));
    let fails = |bodies: &[Vec<u8>]| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut rebuild = Rebuild::begin(dir.path()).expect("an empty directory");
        bodies.iter().try_for_each(|body| rebuild.apply(body)).is_err()
    };
    for missing in snapshots..bodies.len() {
        let mut rest = bodies.clone();
        let gone = rest.remove(missing);
        assert!(missing + 1 == bodies.len() || fails(&rest), "without body {missing}");
        rest.insert(missing, gone[..gone.len() - 1].to_vec());
        assert!(fails(&rest), "with body {missing} cut");
    }
}

#[test]
fn no_rebuilt_catalog_takes_the_place_of_another() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    drop(SqliteCatalog::create(dir.path(), "admin", &ADMIN_KEY).expect("made"));
    let refused = Rebuild::begin(dir.path());
    assert!(matches!(refused, Err(CatalogError::AlreadyThere(_))));
}
