//! Damage is done to a good catalog by hand, and the checker must say what was done.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::catalog::{
    Catalog, ChunkRecord, Condition, Confirmation, LiveNodes, Manifest, NewFile, SqliteCatalog,
};
use crate::clock::WallTime;
use crate::ids::{HashAlgorithm, RequestId};

const A: AccountId = AccountId(1);
const NOW: WallTime = WallTime(1_800_000_000_000);

fn id(number: u8) -> ChunkId {
    ChunkId::of(HashAlgorithm::Sha1, &[number])
}

fn file(at: &str, chunks: &[u8]) -> NewFile {
    NewFile {
        path: at.parse().expect("a good path"),
        manifest: Manifest::Inline(chunks.iter().map(|number| id(*number)).collect()),
        copies: 3,
        mtime_ms: 0,
        executable: false,
        condition: Condition::Any,
        parents: true,
    }
}

/// A catalog with `/a/b/f` of chunks 1, 2, 1, with `/big` of 200 chunks, a replaced and a removed
/// file, chunk 9 that nothing refers to, and a chunk 4 that was condemned on node 2; each of the
/// others has copies on nodes 1 and 2.
fn catalog(dir: &Path) -> SqliteCatalog {
    let catalog = SqliteCatalog::create(dir, "admin", &[7; 32]).expect("made");
    catalog.create_invite(&[1; 32], 2, WallTime(u64::MAX)).expect("made");
    let live: LiveNodes =
        (1..=2).map(|n| catalog.join_node(&[1; 32], &[n; 32], NOW).expect("joined")).collect();
    for number in [1, 2, 9] {
        let asked = [(id(number), 10 * u32::from(number))];
        let answers = catalog.reserve(A, 2, NOW, &asked).expect("answers");
        let record = answers[0].as_ref().expect("reserved");
        for &node in &live {
            let said = Confirmation {
                account: A,
                id: record.id,
                serial: record.serial,
                length: record.length,
                wanted: 2,
                node,
                reason: 0,
            };
            catalog.confirm_copies(&[said], NOW).expect("answers");
        }
    }
    let files = [
        file("/a/b/f", &[2]),
        file("/a/b/f", &[1, 2, 1]),
        file("/big", &[1; 200]),
        file("/gone", &[1]),
    ];
    let answers = catalog.commit_files(A, RequestId::random(), NOW, &live, &files);
    assert!(answers.expect("answers").iter().all(Result::is_ok));
    let gone = "/gone".parse().expect("a good path");
    catalog.remove_entry(A, RequestId::random(), NOW, &gone, false, None, false).expect("removed");
    // A copy of what was never confirmed elsewhere, for a chunk that is collected.
    let record = catalog.reserve(A, 1, NOW, &[(id(4), 40)]).expect("answers").remove(0);
    let ChunkRecord { serial, id, length, .. } = record.expect("reserved");
    let node = NodeId(2);
    let said = Confirmation { account: A, id, serial, length, wanted: 1, node, reason: 0 };
    catalog.confirm_copies(&[said], NOW).expect("answers");
    catalog.collect(Some(Serial(serial.0 - 1)), NOW, 1).expect("collected");
    catalog
}

fn stopped() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    drop(catalog(dir.path()));
    dir
}

#[test]
fn a_good_catalog_is_described_and_has_no_problems() {
    let dir = stopped();
    let report = check(dir.path()).expect("checked");
    assert_eq!(report.problems, [""; 0]);
    let counts = (report.accounts, report.nodes, report.files, report.directories);
    assert_eq!(counts, (1, 2, 2, 2));
    let counts = (report.versions, report.chunks, report.copies, report.under_copied);
    assert_eq!(counts, (4, 3, 6, 2));
    assert_eq!(report.condemned, 1);
}

#[test]
fn every_file_is_listed_with_where_its_chunks_are() {
    let dir = stopped();
    let files = files(dir.path()).expect("listed");
    assert_eq!(files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["/a/b/f", "/big"]);
    let chunks = &files[0].chunks;
    assert_eq!(chunks.iter().map(|c| c.id).collect::<Vec<_>>(), [id(1), id(2), id(1)]);
    assert_eq!(chunks.iter().map(|c| c.length).collect::<Vec<_>>(), [10, 20, 10]);
    assert_eq!((files[0].size, files[0].account), (40, A));
    assert!(chunks.iter().all(|chunk| chunk.nodes == [NodeId(1), NodeId(2)]));
    assert_eq!(files[1].chunks.len(), 200);
}

#[test]
fn the_log_of_a_killed_main_server_is_taken_into_account_and_left_alone() {
    let live = tempfile::tempdir().expect("a temporary directory");
    let running = catalog(live.path());
    let killed = tempfile::tempdir().expect("a temporary directory");
    for name in ["catalog.db", "catalog.db-wal"] {
        fs::copy(live.path().join(name), killed.path().join(name)).expect("copied");
    }
    drop(running);
    let content = |dir: &Path| {
        let mut all: Vec<_> = fs::read_dir(dir)
            .expect("listed")
            .map(|entry| entry.expect("listed").path())
            .map(|path| (path.clone(), fs::read(path).expect("read")))
            .collect();
        all.sort();
        all
    };
    for dir in [killed.path(), live.path()] {
        let before = content(dir);
        assert_eq!(files(dir).expect("listed").len(), 2);
        assert_eq!(check(dir).expect("checked").problems, [""; 0]);
        assert!(content(dir) == before, "the checker changed something");
    }
}

#[test]
fn a_running_main_server_is_not_looked_at() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = catalog(dir.path());
    assert!(matches!(check(dir.path()), Err(CatalogError::Locked(_))));
    assert!(matches!(files(dir.path()), Err(CatalogError::Locked(_))));
    drop(running);
    check(dir.path()).expect("checked");
    let empty = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(check(empty.path()), Err(CatalogError::Missing(_))));
    assert_eq!(fs::read_dir(empty.path()).expect("listed").count(), 0);
}

/// What is done to the tables, and what the checker must say.
const DAMAGE: [(&str, &str); 33] = [
    ("DELETE FROM chunks WHERE serial = 2", "names chunk 2, which has no record"),
    ("UPDATE chunks SET account = 2 WHERE serial = 1", "of account 2"),
    ("UPDATE chunks SET length = 11 WHERE serial = 1", "bytes, and its chunks have"),
    ("UPDATE chunks SET refs = 0 WHERE serial = 1", "counts 0 places in versions"),
    ("UPDATE chunks SET refs = 1 WHERE serial = 3", "counts 1 places in versions, and there are 0"),
    ("UPDATE chunks SET copies = x'0000000100' WHERE serial = 1", "counts 6 copies"),
    ("UPDATE chunks SET copies = x'00000001' WHERE serial = 1", "has 4 bytes of copies"),
    ("UPDATE chunks SET copies = x'00000002000000000100' WHERE serial = 1", "out of order"),
    ("UPDATE chunks SET copies = x'00000001000000000100' WHERE serial = 1", "out of order"),
    ("UPDATE chunks SET copies = x'00000001000000000900' WHERE serial = 1", "node 9, which never"),
    ("UPDATE chunks SET id = x'0303' WHERE serial = 1", "no well-formed id"),
    ("UPDATE catalog SET next_number = 3", "is not below the next number, 3"),
    ("UPDATE catalog SET files = 3", "counts 3 files, and there are 2"),
    ("UPDATE catalog SET chunks = 9", "counts 9 chunks, and there are 3"),
    ("UPDATE versions SET chunk_count = 7 WHERE ended_at IS NULL", "has 7 chunks"),
    ("DELETE FROM manifests", "its manifest names 0"),
    ("UPDATE manifests SET part = 1", "does not follow"),
    ("UPDATE entries SET parent = 999 WHERE name = 'f'", "is in 999, which is not"),
    ("UPDATE entries SET parent = id WHERE name = 'a'", "does not lead to the root"),
    ("UPDATE entries SET name = '..' WHERE name = 'f'", "has a bad name"),
    ("UPDATE versions SET ended_at = 1", "not its own current one"),
    ("UPDATE versions SET ended_at = NULL", "has not ended, and is no file's"),
    ("UPDATE versions SET is_ending = 1 WHERE ended_at IS NULL", "and has not ended"),
    ("UPDATE versions SET is_ending = 1", "the removed file"),
    ("UPDATE nodes SET standing = 7 WHERE id = 1", "node 1 has the standing 7"),
    ("DELETE FROM condemned", "counts 1 condemned copies, and there are 0"),
    ("UPDATE catalog SET unknown = 1", "counts 1 unknown condemned copies, and there are 0"),
    ("UPDATE condemned SET node = 9", "on a node that never joined"),
    ("UPDATE condemned SET why = 4", "has no reason"),
    ("UPDATE condemned SET serial = 999999999999999", "never given out"),
    ("UPDATE condemned SET serial = 1", "counts, too"),
    ("UPDATE condemned SET serial = 1", "which is there"),
    ("DELETE FROM nodes WHERE id = 2", "never joined"),
];

#[test]
fn each_kind_of_damage_is_named() {
    let good = stopped();
    for (damage, expected) in DAMAGE {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::copy(good.path().join("catalog.db"), dir.path().join("catalog.db")).expect("copied");
        let conn = Connection::open(dir.path().join("catalog.db")).expect("opened");
        assert!(conn.execute(damage, ()).expect("damaged") > 0, "{damage} hit nothing");
        conn.close().expect("closed");
        let problems = check(dir.path()).expect("checked").problems;
        let is_named = problems.iter().any(|problem| problem.contains(expected));
        assert!(is_named, "after {damage:?}, {expected:?} is not among {problems:#?}");
    }
}

#[test]
fn a_damaged_page_is_named() {
    let dir = stopped();
    let file = dir.path().join("catalog.db");
    let good = fs::read(&file).expect("read");
    let pages = good.len() / 4096;
    let mut named = 0;
    // The first page holds the description of the tables: without it nothing can be said.
    for page in 1..pages {
        let mut bad = good.clone();
        bad[page * 4096..(page + 1) * 4096].fill(0xff);
        fs::write(&file, bad).expect("written");
        match check(dir.path()) {
            Ok(report) if report.problems.is_empty() => {}
            Ok(_) | Err(CatalogError::Damaged(_)) => named += 1,
            Err(other) => panic!("page {page}: {other:?}"),
        }
    }
    assert_eq!(named, pages - 1);
}
