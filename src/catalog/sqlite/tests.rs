//! What only the engine on disk promises: what survives, what shares a sync, what is refused.

use std::fs;
use std::path::Path;
use std::thread;

use tempfile::TempDir;

use super::rows::Stop;
use super::*;
use crate::catalog::check;

const KEY: [u8; 32] = [7; 32];
const A: AccountId = AccountId(1);
const NOW: WallTime = WallTime(1_800_000_000_000);

fn new() -> (TempDir, SqliteCatalog) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let catalog = SqliteCatalog::create(dir.path(), "admin", &KEY).expect("made");
    (dir, catalog)
}

fn id(number: u32) -> ChunkId {
    ChunkId::of(HashAlgorithm::Blake3, &number.to_be_bytes())
}

fn path(text: &str) -> RemotePath {
    text.parse().expect("a good path")
}

fn make(catalog: &SqliteCatalog, at: &str) {
    catalog.make_directory(A, RequestId::random(), NOW, &path(at), false).expect("made");
}

fn names(catalog: &SqliteCatalog) -> Vec<String> {
    let entries = catalog.list(A, &RemotePath::root(), None, 100).expect("a root");
    entries.into_iter().map(|entry| entry.name).collect()
}

fn reserve(catalog: &SqliteCatalog, number: u32) -> ChunkRecord {
    let answers = catalog.reserve(A, 2, NOW, &[(id(number), 5)]).expect("answers");
    answers.into_iter().next().expect("one").expect("reserved")
}

/// The directory as a kill at this moment would leave it.
fn killed_copy(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory");
    for name in ["catalog.db", "catalog.db-wal"] {
        if dir.join(name).exists() {
            fs::copy(dir.join(name), copy.path().join(name)).expect("copied");
        }
    }
    copy
}

/// Each read of a chunk prepared its statement anew, because the table has a partial index.
#[test]
fn a_statement_is_prepared_once_for_all_that_is_bound_to_it() {
    let (_dir, catalog) = new();
    let prepared_again = |conn: &Connection| {
        let sql = concat!(rows::chunk_columns!(), "WHERE account = ? AND id = ?");
        let mut statement = conn.prepare_cached(sql)?;
        statement.reset_status(rusqlite::StatementStatus::RePrepare);
        for number in 0..10 {
            let _ = statement.query((1, rows::id_bytes(&id(number))))?.next()?;
        }
        Ok(statement.get_status(rusqlite::StatementStatus::RePrepare))
    };
    assert_eq!(catalog.read("be read", prepared_again).expect("read"), 0);
    let written = catalog.change("be read", move |books| prepared_again(&books.conn));
    assert_eq!(written.expect("read"), 0);
}

#[test]
fn what_is_read_again_comes_from_memory_until_somebody_is_told_of_a_change() {
    let (_dir, catalog) = new();
    make(&catalog, "/a");
    for change in [
        Box::new(|| make(&catalog, "/b")) as Box<dyn Fn()>,
        // Answered early, and seen by readers who do not ask the writer only once it is durable.
        Box::new(|| drop(reserve(&catalog, 1))),
        Box::new(|| catalog.sync().expect("synced")),
    ] {
        catalog.look_up(A, &path("/a")).expect("it is there");
        let is_hot = || catalog.hot.name(catalog.writer.epoch(), A, &path("/a")).is_some();
        assert!(is_hot(), "it was read just now");
        change();
        assert!(!is_hot(), "it may be from before the change");
    }
}

#[test]
fn a_copy_of_a_catalog_in_use_knows_its_start_only_up_to_the_copy() {
    let (dir, catalog) = new();
    let start = Incarnation::random();
    catalog.begin_incarnation(start, NOW).expect("begun");
    make(&catalog, "/before");
    let copied_at = catalog.mark();
    let copy = killed_copy(dir.path());
    make(&catalog, "/after");
    let seen = catalog.mark();
    drop(catalog);

    for (dir, has_seen) in [(copy.path(), false), (dir.path(), true)] {
        // However long it goes on by itself, and however often it starts.
        for _ in 0..3 {
            let catalog = SqliteCatalog::open(dir).expect("opened");
            catalog.begin_incarnation(Incarnation::random(), NOW).expect("begun");
            make(&catalog, &format!("/{}", catalog.mark()));
            let knows = |mark| catalog.knows_incarnation(&start, mark).expect("an answer");
            assert!(knows(copied_at));
            assert_eq!(knows(seen), has_seen);
        }
    }
}

#[test]
fn what_was_answered_as_durable_survives_a_kill_at_that_moment() {
    let (dir, catalog) = new();
    for number in 0..10 {
        make(&catalog, &format!("/{number}"));
        let killed = killed_copy(dir.path());
        assert_eq!(check::check(killed.path()).expect("checked").problems, [""; 0]);
        let again = SqliteCatalog::open(killed.path()).expect("opened");
        assert_eq!(names(&again).len(), number + 1);
    }
}

#[test]
fn an_early_answer_is_durable_with_the_next_durable_one() {
    let (dir, catalog) = new();
    let record = reserve(&catalog, 1);
    make(&catalog, "/d");
    let killed = killed_copy(dir.path());
    let again = SqliteCatalog::open(killed.path()).expect("opened");
    assert_eq!(again.chunks(&[record.serial]).expect("an answer"), [record]);
}

#[test]
fn an_early_answer_is_durable_after_a_sync_and_after_an_orderly_end() {
    let (dir, catalog) = new();
    let one = reserve(&catalog, 1);
    catalog.sync().expect("synced");
    let killed = killed_copy(dir.path());
    let again = SqliteCatalog::open(killed.path()).expect("opened");
    assert_eq!(again.locate(A, &[id(1)]).expect("an answer"), [Some(one)]);
    let two = reserve(&catalog, 2);
    drop(catalog);
    let again = SqliteCatalog::open(dir.path()).expect("opened");
    assert_eq!(again.locate(A, &[id(2)]).expect("an answer"), [Some(two)]);
}

/// Lets operations pile up behind one that is held, and returns how many commits they all took.
fn commits_of_a_pile(
    catalog: &SqliteCatalog,
    held_kind: Kind,
    operations: usize,
    operation: impl Fn(usize) + Sync,
) -> u64 {
    let before = catalog.commits();
    let (go_on, held) = crossbeam_channel::bounded::<()>(0);
    let (start, started) = crossbeam_channel::bounded::<()>(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            let wait = move |_: &mut Books| -> Done<()> {
                start.send(()).expect("the test waits");
                held.recv().expect("released");
                Ok(())
            };
            catalog.writer.submit(held_kind, "wait", wait).expect("answered");
        });
        started.recv().expect("the writer has it in hand");
        for number in 0..operations {
            let operation = &operation;
            scope.spawn(move || operation(number));
        }
        while catalog.writer.queued() < operations {
            thread::yield_now();
        }
        go_on.send(()).expect("the writer waits");
    });
    catalog.sync().expect("synced");
    catalog.commits() - before
}

#[test]
fn operations_that_wait_together_share_one_sync() {
    let (_dir, catalog) = new();
    let make_one = |number| make(&catalog, &format!("/{number}"));
    assert_eq!(commits_of_a_pile(&catalog, Kind::Durable, 16, make_one), 1);
    assert_eq!(names(&catalog).len(), 16);
}

#[test]
fn early_answers_share_one_sync_that_nobody_waits_for() {
    let (_dir, catalog) = new();
    let reserve_one = |number| drop(reserve(&catalog, number as u32));
    assert_eq!(commits_of_a_pile(&catalog, Kind::Early, 16, reserve_one), 1);
}

#[test]
fn a_panic_in_an_operation_reaches_its_caller_and_nothing_else() {
    let (_dir, catalog) = new();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        catalog.change("panic", |books| -> Done<()> {
            names::add_directory(books, A, names::ROOT, "half-made")?;
            panic!("a planted panic");
        })
    }));
    assert!(caught.is_err());
    make(&catalog, "/whole");
    assert_eq!(names(&catalog), ["whole"]);
}

#[test]
fn a_write_that_fails_stops_the_catalog_and_says_so() {
    let (dir, catalog) = new();
    let reserved = reserve(&catalog, 1);
    let failures = catalog.failures();
    // What a full disk or a failed write makes the engine do.
    let broken = catalog.change("fail", |books| -> Done<()> {
        books.conn.execute_batch("ROLLBACK").map_err(Stop::Sql)
    });
    assert!(matches!(broken, Err(CatalogError::Failed(_))), "{broken:?}");
    let why = failures.recv().expect("the reason");
    assert!(why.contains("a write failed"), "{why}");
    let durable = catalog.sync();
    assert!(matches!(durable, Err(CatalogError::Failed(_))), "{durable:?}");
    let early = catalog.reserve(A, 1, NOW, &[(id(2), 1)]);
    assert!(matches!(early, Err(CatalogError::Failed(_))), "{early:?}");
    let read = catalog.look_up(A, &RemotePath::root());
    assert!(matches!(read, Err(CatalogError::Failed(_))), "{read:?}");
    drop(catalog);
    let again = SqliteCatalog::open(dir.path()).expect("opened");
    assert_eq!(again.chunks(&[reserved.serial]).expect("an answer"), []);
    assert!(reserve(&again, 3).serial > reserved.serial, "its number is never given out again");
}

#[test]
fn a_full_disk_stops_the_catalog_and_costs_nothing_that_was_durable() {
    let (dir, catalog) = new();
    let record = reserve(&catalog, 1);
    make(&catalog, "/before");
    let full = catalog.change("fill the disk", |books| {
        let pages: i64 = books.conn.query_row("PRAGMA page_count", (), |row| row.get(0))?;
        books.conn.pragma_update(None, "max_page_count", pages).map_err(Stop::Sql)
    });
    full.expect("as full as it gets");
    let part = vec![id(1); MAX_PART_CHUNKS];
    let staged = catalog.stage_part(A, RequestId::random(), 0, &part, NOW);
    assert!(matches!(&staged, Err(CatalogError::Failed(why)) if why.contains("write failed")));
    drop(catalog);
    assert_eq!(check::check(dir.path()).expect("checked").problems, [""; 0]);
    let again = SqliteCatalog::open(dir.path()).expect("opened");
    assert_eq!(names(&again), ["before"]);
    assert_eq!(again.chunks(&[record.serial]).expect("an answer"), [record]);
}

#[test]
fn a_number_that_was_lost_in_a_kill_is_never_given_out_again() {
    let (dir, catalog) = new();
    catalog.sync().expect("synced");
    let killed = killed_copy(dir.path());
    let lost = reserve(&catalog, 1).serial;
    let again = SqliteCatalog::open(killed.path()).expect("opened");
    let second = reserve(&again, 2).serial;
    assert!(second > lost, "{second} was given out after {lost}");
    drop(again);
    let third = SqliteCatalog::open(killed.path()).expect("opened");
    assert!(reserve(&third, 3).serial > second);
}

#[test]
fn a_long_version_that_is_ended_in_parts_survives_a_kill_between_them() {
    let (dir, catalog) = new();
    catalog.create_invite(&[1; 32], 1, WallTime(u64::MAX)).expect("made");
    let node = catalog.join_node(&[1; 32], &[1; 32], NOW).expect("joined");
    let ChunkRecord { serial, id, length, .. } = reserve(&catalog, 1);
    let said = Confirmation { account: A, id, serial, length, wanted: 1, node, reason: 1 };
    catalog.confirm_copies(&[said], NOW).expect("answers");
    let upload = RequestId::random();
    for part in 0..3 {
        catalog.stage_part(A, upload, part, &[id; MAX_PART_CHUNKS], NOW).expect("staged");
    }
    let file = NewFile {
        path: path("/long"),
        manifest: Manifest::Staged { upload, parts: 3 },
        copies: 1,
        mtime_ms: 0,
        executable: false,
        condition: Condition::Any,
        parents: false,
    };
    let live = LiveNodes::from([node]);
    let answers = catalog.commit_files(A, RequestId::random(), NOW, &live, &[file]);
    answers.expect("answers").remove(0).expect("committed");
    let removed =
        catalog.remove_entry(A, RequestId::random(), NOW, &path("/long"), false, None, false);
    removed.expect("removed");
    let later = WallTime(NOW.0 + 1);
    for steps in 1..=3 {
        let ended = catalog.expire_versions(later, later, 1).expect("a step");
        assert_eq!((ended.next.is_some(), ended.chunks), (steps < 3, u64::from(steps == 3)));
        let killed = killed_copy(dir.path());
        assert_eq!(check::check(killed.path()).expect("checked").problems, [""; 0]);
        let again = SqliteCatalog::open(killed.path()).expect("opened");
        let rest = again.expire_versions(later, later, usize::MAX).expect("ended");
        assert_eq!((rest.next, rest.chunks), (None, u64::from(steps < 3)));
        assert_eq!(again.condemned_totals().expect("sums").copies, 1);
    }
}

#[test]
fn the_moment_of_the_last_durable_commit_is_known() {
    let (_dir, catalog) = new();
    let before = std::time::Instant::now();
    make(&catalog, "/d");
    let first = catalog.last_commit().expect("there was one");
    assert!(first >= before);
    catalog.sync().expect("synced");
    assert_eq!(catalog.last_commit(), Some(first), "nothing was written");
}

#[test]
fn the_cluster_keeps_its_identity() {
    let (dir, catalog) = new();
    let (cluster, secret) = catalog.identity();
    drop(catalog);
    let again = SqliteCatalog::open(dir.path()).expect("opened");
    assert!(again.identity() == (cluster, secret));
}

#[test]
fn a_second_process_on_the_directory_is_refused() {
    let (dir, catalog) = new();
    let open = SqliteCatalog::open(dir.path()).map(drop);
    assert!(matches!(open, Err(CatalogError::Locked(_))), "{open:?}");
    let create = SqliteCatalog::create(dir.path(), "admin", &KEY).map(drop);
    assert!(matches!(create, Err(CatalogError::Locked(_))), "{create:?}");
    drop(catalog);
    let create = SqliteCatalog::create(dir.path(), "admin", &KEY).map(drop);
    assert!(matches!(create, Err(CatalogError::AlreadyThere(_))), "{create:?}");
    SqliteCatalog::open(dir.path()).expect("opened");
}

#[test]
fn nothing_is_opened_or_made_where_there_is_no_catalog() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let open = SqliteCatalog::open(dir.path()).map(drop);
    assert!(matches!(open, Err(CatalogError::Missing(_))), "{open:?}");
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
}

#[test]
fn a_half_made_catalog_is_none() {
    let (dir, catalog) = new();
    make(&catalog, "/d");
    drop(catalog);
    // A crash before the last step of making one leaves it under its first name.
    fs::rename(dir.path().join("catalog.db"), dir.path().join("catalog.db.new")).expect("renamed");
    let open = SqliteCatalog::open(dir.path()).map(drop);
    assert!(matches!(open, Err(CatalogError::Missing(_))), "{open:?}");
    let catalog = SqliteCatalog::create(dir.path(), "admin", &KEY).expect("made anew");
    assert_eq!(names(&catalog), [""; 0]);
}

#[test]
fn a_catalog_of_another_format_is_refused_and_left_as_it_is() {
    let (dir, catalog) = new();
    drop(catalog);
    let file = dir.path().join(FILE_NAME);
    let conn = Connection::open(&file).expect("opened");
    conn.execute("UPDATE catalog SET format = 99", ()).expect("changed");
    conn.close().expect("closed");
    let before = fs::read(&file).expect("read");
    let open = SqliteCatalog::open(dir.path()).map(drop);
    assert!(matches!(open, Err(CatalogError::Format { found: 99, known: FORMAT, .. })), "{open:?}");
    let checked = check::check(dir.path());
    assert!(matches!(checked, Err(CatalogError::Format { found: 99, .. })), "{checked:?}");
    assert!(fs::read(&file).expect("read") == before);
}

#[test]
fn a_damaged_header_is_refused_as_damage() {
    let (dir, catalog) = new();
    drop(catalog);
    let file = dir.path().join(FILE_NAME);
    let good = fs::read(&file).expect("read");
    let mut wrong_magic = good.clone();
    wrong_magic[..16].fill(b'x');
    for bad in [wrong_magic, good[..good.len() / 3].to_vec(), vec![0; 8192], Vec::new()] {
        fs::write(&file, &bad).expect("written");
        let open = SqliteCatalog::open(dir.path()).map(drop);
        assert!(matches!(open, Err(CatalogError::Damaged(_))), "{} bytes: {open:?}", bad.len());
    }
}

#[test]
fn a_start_takes_the_log_in_before_anything_is_appended_to_it() {
    let (dir, catalog) = new();
    make(&catalog, "/d");
    // What a killed process leaves: its log, with all that it has committed.
    let killed = tempfile::tempdir().expect("a temporary directory");
    for name in ["catalog.db", "catalog.db-wal"] {
        fs::copy(dir.path().join(name), killed.path().join(name)).expect("copied");
    }
    let log = killed.path().join("catalog.db-wal");
    assert!(fs::metadata(&log).expect("there").len() > 0);
    let writer = schema::open_writer(killed.path()).expect("opened");
    assert_eq!(fs::metadata(&log).expect("there").len(), 0);
    drop(writer);
    let catalog = SqliteCatalog::open(killed.path()).expect("opened");
    assert!(catalog.look_up(A, &path("/d")).is_ok());
}

#[test]
fn nobody_but_the_owner_can_read_the_master_secret() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, catalog) = new();
    make(&catalog, "/d");
    for name in ["catalog.db", "catalog.db-wal"] {
        let mode = fs::metadata(dir.path().join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// The budget of a chunk with three copies: 256 bytes, names aside.
#[test]
fn a_chunk_with_three_copies_takes_at_most_256_bytes() {
    const CHUNKS: u32 = 100_000;
    const IN_FILE: usize = 250;
    let (dir, catalog) = new();
    catalog.begin_incarnation(Incarnation::random(), NOW).expect("begun");
    catalog.create_invite(&[1; 32], 3, WallTime(u64::MAX)).expect("made");
    let live: LiveNodes =
        (1..=3).map(|n| catalog.join_node(&[1; 32], &[n; 32], NOW).expect("joined")).collect();
    let all: Vec<_> = (0..CHUNKS).map(|number| (id(number), 4 << 20)).collect();
    for (number, chunks) in all.chunks(IN_FILE).enumerate() {
        let records = catalog.reserve(A, 3, NOW, chunks).expect("answers");
        let records: Vec<_> = records.into_iter().map(|r| r.expect("reserved")).collect();
        for &node in &live {
            let said: Vec<_> = records
                .iter()
                .map(|record| Confirmation {
                    account: A,
                    id: record.id,
                    serial: record.serial,
                    length: record.length,
                    wanted: 3,
                    node,
                    reason: 1,
                })
                .collect();
            catalog.confirm_copies(&said, NOW).expect("answers");
        }
        let file = NewFile {
            path: path(&format!("/{number}")),
            manifest: Manifest::Inline(chunks.iter().map(|(id, _)| *id).collect()),
            copies: 3,
            mtime_ms: 0,
            executable: false,
            condition: Condition::Any,
            parents: false,
        };
        let answers = catalog.commit_files(A, RequestId::random(), NOW, &live, &[file]);
        assert!(answers.expect("answers")[0].is_ok());
    }
    drop(catalog);
    assert!(!dir.path().join("catalog.db-wal").exists(), "the log is in the database");
    let bytes = fs::metadata(dir.path().join(FILE_NAME)).expect("there").len();
    let each = bytes as f64 / f64::from(CHUNKS);
    println!("{each:.1} bytes a chunk with 3 copies");
    assert!(each <= 256.0, "{each:.1} bytes a chunk");
}
