//! What the update hook cannot tell of does not happen.

use super::changes::Layout;
use super::rows::Stop;
use super::writer::Kind;
use super::*;

fn new() -> (tempfile::TempDir, SqliteCatalog) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let catalog = SqliteCatalog::create(dir.path(), "admin", &[7; 32]).expect("made");
    (dir, catalog)
}

fn execute(catalog: &SqliteCatalog, sql: &'static str) {
    let run = catalog.writer.submit(Kind::Durable, "run a statement", move |books| {
        Ok(books.conn.execute(sql, ()).map(drop)?)
    });
    run.expect("it runs");
}

#[test]
fn each_row_is_told_of_when_all_of_a_table_are_deleted() {
    let (_dir, catalog) = new();
    execute(&catalog, "INSERT INTO accounts (name, is_admin) VALUES ('a', 0), ('b', 0), ('c', 1)");
    catalog.begin_changes().expect("every table can be followed");
    drop(catalog.boundary().expect("a boundary"));
    execute(&catalog, "DELETE FROM accounts");
    let mut boundary = catalog.boundary().expect("a boundary");
    let touched = boundary.changes(1 << 20, |_, _| Ok::<(), CatalogError>(()));
    // The fourth is the administrator, the fifth how far the catalog is.
    assert_eq!(touched.expect("rows can be read"), 5);
}

#[test]
fn a_table_without_row_numbers_is_refused() {
    let conn = Connection::open_in_memory().expect("a database");
    conn.execute_batch("CREATE TABLE good (a); CREATE TABLE bad (a PRIMARY KEY) WITHOUT ROWID")
        .expect("tables");
    let refused = Layout::read(&conn);
    assert!(matches!(&refused, Err(Stop::Damaged(why)) if why.contains("bad")), "{refused:?}");
}

#[test]
fn no_statement_of_the_engine_replaces_rows_or_changes_their_numbers() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/catalog/sqlite");
    for entry in std::fs::read_dir(directory).expect("the sources") {
        let path = entry.expect("a file").path();
        if path.file_name().is_some_and(|name| name == "tests_changes.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("source is text");
        let code: Vec<&str> =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n").to_uppercase();
        for word in ["OR REPLACE", "REPLACE INTO", "SET ROWID", "VACUUM"] {
            assert!(!code.contains(word), "{word:?} in {}", path.display());
        }
    }
}

#[test]
fn more_touches_than_are_noted_are_said_to_be_too_many() {
    let (_dir, catalog) = new();
    catalog.begin_changes().expect("every table can be followed");
    drop(catalog.boundary().expect("a boundary"));
    // Far more touches of one row are nothing new.
    execute(
        &catalog,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600000)
         INSERT INTO requests (request, account, kind, answered_at, answer)
         SELECT i, 1, '', 0, '' FROM n",
    );
    assert!(catalog.boundary().expect("a boundary").is_whole());
    execute(&catalog, "UPDATE requests SET account = 2");
    execute(&catalog, "UPDATE requests SET account = 3");
    assert!(!catalog.boundary().expect("a boundary").is_whole());
    assert!(catalog.boundary().expect("a boundary").is_whole());
}

/// Says what following the changes costs the writer. By hand, in a release build:
/// `cargo test --release --lib what_following_costs -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement: run it by its name"]
fn what_following_costs() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};
    const CHUNKS: u32 = 200_000;
    let run = |is_followed: bool| {
        let (_dir, catalog) = new();
        catalog.create_invite(&[9; 32], 1, WallTime(u64::MAX)).expect("an invite");
        catalog.join_node(&[9; 32], &[1; 32], WallTime(0)).expect("a node");
        if is_followed {
            catalog.begin_changes().expect("every table can be followed");
            drop(catalog.boundary().expect("a boundary"));
        }
        let is_over = AtomicBool::new(false);
        let (took, (rows, bytes, reading)) = std::thread::scope(|scope| {
            let follower = scope.spawn(|| {
                let (mut rows, mut bytes, mut reading) = (0, 0, Duration::ZERO);
                loop {
                    if !is_followed {
                        break;
                    }
                    let is_last = is_over.load(Ordering::SeqCst);
                    let mut boundary = catalog.boundary().expect("a boundary");
                    let began = Instant::now();
                    let sum = |body: Vec<u8>, _| {
                        bytes += body.len();
                        Ok::<(), CatalogError>(())
                    };
                    rows += boundary.changes(1 << 20, sum).expect("rows can be read");
                    reading += began.elapsed();
                    if is_last {
                        break;
                    }
                    std::thread::park_timeout(Duration::from_millis(200));
                }
                (rows, bytes, reading)
            });
            let began = Instant::now();
            for first in (0..CHUNKS).step_by(1000) {
                let id = |n: u32| ChunkId::of(HashAlgorithm::Blake3, &n.to_be_bytes());
                let chunks: Vec<_> = (first..first + 1000).map(|n| (id(n), 5)).collect();
                let lease = WallTime(u64::MAX);
                let reserved = catalog.reserve(AccountId(1), 2, lease, &chunks).expect("answers");
                let said = reserved.into_iter().flatten().map(|record| Confirmation {
                    account: record.account,
                    id: record.id,
                    serial: record.serial,
                    length: 5,
                    wanted: 2,
                    node: NodeId(1),
                    reason: 0,
                });
                catalog.confirm_copies(&said.collect::<Vec<_>>(), lease).expect("answers");
            }
            catalog.sync().expect("synced");
            let took = began.elapsed();
            is_over.store(true, Ordering::SeqCst);
            follower.thread().unpark();
            (took, follower.join().expect("no panic"))
        });
        eprintln!(
            "followed={is_followed}: {CHUNKS} chunks reserved and confirmed in {took:?}; \
             {rows} rows, {bytes} bytes read in {reading:?}"
        );
    };
    for is_followed in [false, true, false, true] {
        run(is_followed);
    }
}
