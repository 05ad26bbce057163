//! The catalog: files committed with their chunks, each commit synced; names and chunks looked up.

use std::cell::Cell;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use p2pdfs::catalog::{
    Catalog, ChunkRecord, Condition, Confirmation, EntryKind, LiveNodes, Manifest, NewFile,
    SqliteCatalog,
};
use p2pdfs::clock::WallTime;
use p2pdfs::ids::{AccountId, ChunkId, HashAlgorithm, NodeId, RequestId};
use p2pdfs::remote_path::RemotePath;

const ACCOUNT: AccountId = AccountId(1);
const NOW: WallTime = WallTime(1_800_000_000_000);
const LATER: WallTime = WallTime(NOW.0 + 3_600_000);
const LENGTH: u32 = 4096;
const COPIES: u8 = 2;
/// Files that are there when something is looked up.
const FILES: u64 = 10_000;

/// A catalog with three nodes, and the number of the next file.
struct Books {
    catalog: SqliteCatalog,
    live: LiveNodes,
    next: Cell<u64>,
}

fn id(number: u64) -> ChunkId {
    ChunkId::of(HashAlgorithm::Blake3, &number.to_be_bytes())
}

fn path(number: u64) -> RemotePath {
    format!("/d{}/f{number}", number / 1000).parse().expect("a good path")
}

impl Books {
    fn new(directory: &std::path::Path) -> Books {
        let catalog = SqliteCatalog::create(directory, "admin", &[7; 32]).expect("a new catalog");
        catalog.create_invite(&[9; 32], 3, LATER).expect("an invite");
        for node in 1..=3 {
            catalog.join_node(&[9; 32], &[node; 32], NOW).expect("a node");
        }
        let live = (1..=3).map(NodeId).collect();
        Books { catalog, live, next: Cell::new(0) }
    }

    /// Numbers of files that are not there yet.
    fn take(&self, count: u64) -> std::ops::Range<u64> {
        let first = self.next.replace(self.next.get() + count);
        first..first + count
    }

    /// What comes before a commit: the chunks are reserved, and confirmed by two nodes.
    fn store(&self, numbers: std::ops::Range<u64>) {
        let wanted: Vec<_> = numbers.map(|number| (id(number), LENGTH)).collect();
        let records = self.catalog.reserve(ACCOUNT, COPIES, LATER, &wanted).expect("an answer");
        let of = |record: &ChunkRecord, node| Confirmation {
            account: ACCOUNT,
            id: record.id,
            serial: record.serial,
            length: record.length,
            wanted: record.wanted,
            node: NodeId(node),
            reason: 4,
        };
        let records: Vec<_> = records.into_iter().map(|record| record.expect("new")).collect();
        for node in 1..=2 {
            let confirmations: Vec<_> = records.iter().map(|record| of(record, node)).collect();
            let answers = self.catalog.confirm_copies(&confirmations, LATER).expect("an answer");
            answers.into_iter().for_each(|answer| drop(answer.expect("confirmed")));
        }
    }

    fn commit(&self, numbers: std::ops::Range<u64>) {
        let file = |number| NewFile {
            path: path(number),
            manifest: Manifest::Inline(vec![id(number)]),
            copies: COPIES,
            mtime_ms: 0,
            executable: false,
            condition: Condition::Any,
            parents: true,
        };
        let files: Vec<NewFile> = numbers.map(file).collect();
        let request = RequestId::random();
        let answers = self.catalog.commit_files(ACCOUNT, request, NOW, &self.live, &files);
        answers.expect("an answer").into_iter().for_each(|answer| drop(answer.expect("made")));
    }
}

fn commits(criterion: &mut Criterion, books: &Books) {
    let mut group = criterion.benchmark_group("catalog");
    for files in [1, 256] {
        group.throughput(Throughput::Elements(files));
        let name = |what: &str| BenchmarkId::new(what, format!("{files} files"));
        group.bench_function(name("reserve and confirm"), |bencher| {
            bencher.iter_batched(
                || books.take(files),
                |numbers| books.store(numbers),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(name("commit, synced"), |bencher| {
            let ready = || {
                let numbers = books.take(files);
                books.store(numbers.clone());
                // So that the commit syncs itself alone.
                books.catalog.sync().expect("the disk is well");
                numbers
            };
            bencher.iter_batched(ready, |numbers| books.commit(numbers), BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn look_ups(criterion: &mut Criterion, books: &Books) {
    let numbers = books.take(FILES);
    for first in numbers.clone().step_by(1000) {
        books.store(first..first + 1000);
        books.commit(first..first + 1000);
    }
    let mut group = criterion.benchmark_group("catalog");
    let any = Cell::new(0);
    let next = || numbers.start + any.replace((any.get() + 7919) % FILES);
    group.bench_function("look up a name", |bencher| {
        bencher.iter(|| books.catalog.look_up(ACCOUNT, &path(next())).expect("it is there"));
    });
    group.bench_function("open a file", |bencher| {
        bencher.iter(|| {
            let entry = books.catalog.look_up(ACCOUNT, &path(next())).expect("it is there");
            let EntryKind::File(file) = entry.kind else { panic!("a file was made") };
            books.catalog.manifest(ACCOUNT, file.version, 0, 64).expect("it has chunks")
        });
    });
    let ids: Vec<ChunkId> = (0..256).map(|_| id(next())).collect();
    group.throughput(Throughput::Elements(256));
    group.bench_function("locate 256 chunks", |bencher| {
        bencher.iter(|| books.catalog.locate(ACCOUNT, &ids).expect("an answer"));
    });
    group.finish();
}

pub fn all(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let books = Books::new(directory.path());
    commits(criterion, &books);
    look_ups(criterion, &books);
}
