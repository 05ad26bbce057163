//! A node's chunks on disk: appended and synced, and read with their checksums checked.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use p2pdfs::clock::WallTime;
use p2pdfs::ids::{AccountId, ChunkId, ClusterId, HashAlgorithm, NodeId, Serial};
use p2pdfs::segments::{NewChunk, Store, StoreId, StoreOptions};
use tempfile::TempDir;

use crate::{LARGE, SMALL, content};

/// A store in a directory of its own.
fn new_store() -> (TempDir, Store) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let directory = place.path().join("node");
    let id = StoreId { cluster: ClusterId::random(), node: NodeId(1) };
    Store::create(&directory, id, WallTime(0), &[]).expect("a new store");
    let (store, _) = Store::open(&directory, StoreOptions::offering(64 << 30)).expect("opened");
    (place, store)
}

fn chunk(id: ChunkId, serial: u64, bytes: &[u8]) -> NewChunk<'_> {
    NewChunk { id, serial: Serial(serial), account: AccountId(1), bytes }
}

/// Appends `count` batches of `batch` chunks, each durable before the next. What they take is
/// removed between the samples.
fn append(count: u64, batch: u64, bytes: &[u8], id: ChunkId) -> Duration {
    const MOST_BYTES: u64 = 1 << 30;
    let per_store = (MOST_BYTES / (batch * bytes.len() as u64)).max(1);
    let mut took = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let (_place, store) = new_store();
        let now = left.min(per_store);
        for number in 0..now {
            let first = 1 + number * batch;
            let chunks: Vec<_> =
                (first..first + batch).map(|serial| chunk(id, serial, bytes)).collect();
            let begun = Instant::now();
            let ticket = store.append(&chunks).expect("there is room");
            store.wait_durable(ticket).expect("the disk is well");
            took += begun.elapsed();
        }
        left -= now;
    }
    took
}

pub fn all(criterion: &mut Criterion) {
    let (small, large) = (content(SMALL), content(LARGE));
    let mut group = criterion.benchmark_group("segment");
    for (name, bytes) in [("4 KiB", &small), ("4 MiB", &large)] {
        let id = ChunkId::of(HashAlgorithm::Blake3, bytes);
        let batches: &[u64] = if bytes.len() == SMALL { &[1, 256] } else { &[1] };
        for &batch in batches {
            group.throughput(Throughput::Bytes(batch * bytes.len() as u64));
            let benchmark = BenchmarkId::new(format!("append {batch}, synced"), name);
            group.bench_function(benchmark, |bencher| {
                bencher.iter_custom(|count| append(count, batch, bytes, id));
            });
        }
        let (_place, store) = new_store();
        let serials = if bytes.len() == SMALL { 1000 } else { 16 };
        for serial in 1..=serials {
            let ticket = store.append(&[chunk(id, serial, bytes)]).expect("there is room");
            store.wait_durable(ticket).expect("the disk is well");
        }
        let (mut out, mut number) = (vec![0; bytes.len()], 0);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("read, warm", name), |bencher| {
            bencher.iter(|| {
                number = (number + 7) % serials;
                store.read_into(Serial(1 + number), &id, 0, &mut out).expect("it is there");
            });
        });
    }
    group.finish();
}
