//! What the store promises, through its public surface, with `check` as the witness.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use crate::clock::WallTime;
use crate::ids::{AccountId, ChunkId, ClusterId, HashAlgorithm, NodeId, Serial};

use super::check::{CheckError, CheckReport, HintState, check};
use super::*;

pub(super) const ALL: std::ops::RangeInclusive<Serial> = Serial(0)..=Serial(u64::MAX);

/// A directory in memory where there is one: these tests are about bytes, not about disks.
pub(super) fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(super) fn store_id() -> StoreId {
    StoreId { cluster: ClusterId::from_bytes([1; 16]), node: NodeId(3) }
}

/// Makes and opens a store of small segments.
pub(super) fn new_store(directory: &TempDir, segment_bytes: u64) -> Store {
    Store::create(directory.path(), store_id(), WallTime(5), &[]).unwrap();
    open(directory.path(), segment_bytes).0
}

pub(super) fn open(directory: &Path, segment_bytes: u64) -> (Store, OpenReport) {
    let offered = StoreOptions::offering(1 << 30);
    let options = StoreOptions { segment_bytes, reserve_bytes: Some(0), ..offered };
    Store::open(directory, options).unwrap()
}

/// Bytes that differ from serial to serial and have no zeros.
pub(super) fn bytes_of(serial: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|n| (serial * 31 + n * 7 + n / 251) as u8 | 1).collect()
}

pub(super) fn chunk(serial: u64, bytes: &[u8]) -> NewChunk<'_> {
    let id = ChunkId::of(HashAlgorithm::Blake3, bytes);
    NewChunk { id, serial: Serial(serial), account: AccountId(9), bytes }
}

pub(super) fn put(store: &Store, chunks: &[NewChunk<'_>]) {
    let ticket = store.append(chunks).unwrap();
    store.wait_durable(ticket).unwrap();
}

/// Removes a chunk that is held, durably.
pub(super) fn remove(store: &Store, serial: u64) {
    let ticket = store.remove(Serial(serial), false).unwrap().expect("it is held");
    store.wait_durable(ticket).unwrap();
}

pub(super) fn get(store: &Store, chunk: &NewChunk<'_>) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    store.read(chunk.serial, &chunk.id, 0, chunk.bytes.len(), &mut out).map(|()| out)
}

/// Closes the store and returns what `check` finds, which must be what the store held.
pub(super) fn close_and_check(store: Store, directory: &TempDir) -> CheckReport {
    let held = store.holdings(ALL, usize::MAX);
    store.close().unwrap();
    let report = check(directory.path()).unwrap();
    let found = report.chunks.iter().map(|chunk| Held {
        serial: chunk.serial,
        length: chunk.length,
        fingerprint: fingerprint(&chunk.id),
    });
    assert_eq!(found.collect::<Vec<_>>(), held);
    report
}

#[test]
fn a_chunk_that_is_durable_reads_back_in_any_range_also_after_a_restart() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let (large, small) = (bytes_of(1, 300_001), bytes_of(2, 100));
    let chunks = [chunk(1, &large), chunk(2, &small), chunk(3, b"")];
    put(&store, &chunks);
    let read_all = |store: &Store| {
        for chunk in &chunks {
            assert_eq!(get(store, chunk).unwrap(), chunk.bytes);
        }
        for (start, end) in [(0, 1), (1, 65_536), (65_535, 65_537), (65_536, 131_072), (1, 300_001)]
        {
            let mut out = vec![7];
            store.read(Serial(1), &chunks[0].id, start, end - start as usize, &mut out).unwrap();
            assert_eq!(out[1..], large[start as usize..end]);
        }
        let beyond = store.read(Serial(1), &chunks[0].id, 300_000, 2, &mut Vec::new());
        assert!(matches!(beyond, Err(StoreError::OutOfRange { length: 300_001, .. })));
    };
    read_all(&store);
    assert!(close_and_check(store, &directory).is_sound());
    let (store, report) = open(directory.path(), 1 << 20);
    read_all(&store);
    assert_eq!((report.chunks, report.highest_serial), (3, Some(Serial(3))));
    assert!(report.cut.is_empty() && report.damaged.is_empty() && report.gaps.is_empty());
}

#[test]
fn a_chunk_can_be_read_only_once_it_is_durable() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let chunk = chunk(1, b"hello");
    let ticket = store.append(&[chunk]).unwrap();
    assert!(matches!(get(&store, &chunk), Err(StoreError::NotFound(_))));
    assert!(store.holdings(ALL, 10).is_empty());
    store.wait_durable(ticket).unwrap();
    assert_eq!(get(&store, &chunk).unwrap(), b"hello");
}

#[test]
fn a_batch_of_a_thousand_small_chunks_is_stored_whole_over_several_segments() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let payload = bytes_of(1, 1024 * 4096);
    let chunks: Vec<_> = (1..).zip(payload.chunks(4096)).map(|(n, part)| chunk(n, part)).collect();
    put(&store, &chunks);
    assert_eq!(store.sync_count(), 1);
    for chunk in &chunks {
        assert_eq!(get(&store, chunk).unwrap(), chunk.bytes);
    }
    assert_eq!(store.space().chunk_bytes, payload.len() as u64);
    let some = store.holdings(Serial(10)..=Serial(900), 3);
    assert_eq!(some.iter().map(|held| held.serial.0).collect::<Vec<_>>(), [10, 11, 12]);
    let report = close_and_check(store, &directory);
    assert!(report.is_sound() && report.findings.is_empty());
    let (last, sealed) = report.segments.split_last().unwrap();
    assert!(sealed.len() >= 4 && sealed.iter().all(|segment| segment.hint == HintState::Good));
    assert_eq!(last.hint, HintState::Missing);
}

#[test]
fn writes_that_wait_together_share_one_sync() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let tickets: Vec<_> = (1..=20).map(|n| store.append(&[chunk(n, b"x")]).unwrap()).collect();
    for ticket in tickets {
        store.wait_durable(ticket).unwrap();
    }
    assert_eq!(store.sync_count(), 1);
    put(&store, &[chunk(21, b"y")]);
    assert_eq!(store.sync_count(), 2);
}

#[test]
fn threads_that_fill_segments_together_lose_nothing_and_skip_no_number() {
    let directory = directory();
    let store = Arc::new(new_store(&directory, 64 << 10));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let store = store.clone();
            std::thread::spawn(move || {
                for n in 0..60 {
                    let serial = thread * 1000 + n;
                    put(&store, &[chunk(serial, &bytes_of(serial, 5000))]);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let store = Arc::into_inner(store).unwrap();
    for serial in (0..4).flat_map(|thread| thread * 1000..thread * 1000 + 60) {
        let bytes = bytes_of(serial, 5000);
        assert_eq!(get(&store, &chunk(serial, &bytes)).unwrap(), bytes);
    }
    let report = close_and_check(store, &directory);
    assert!(report.is_sound() && report.findings.is_empty() && report.chunks.len() == 240);
    assert!(report.segments.len() > 15);
}

#[test]
fn a_serial_that_is_held_or_under_way_is_stored_once() {
    let directory = directory();
    let store = Arc::new(new_store(&directory, 1 << 20));
    let bytes = bytes_of(1, 100_000);
    let chunk = chunk(1, &bytes);
    // Twice in one call, again before it is durable, from several threads, and again afterwards.
    let ticket = store.append(&[chunk, chunk]).unwrap();
    assert_eq!(store.append(&[chunk]).unwrap(), ticket);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| put(&store, &[chunk]));
        }
    });
    put(&store, &[chunk]);
    let other = NewChunk { id: ChunkId::of(HashAlgorithm::Sha1, b"other"), ..chunk };
    assert!(matches!(store.append(&[other]), Err(StoreError::SerialTaken { .. })));
    let report = close_and_check(Arc::into_inner(store).unwrap(), &directory);
    assert_eq!(report.segments[0].records, 1);
}

#[test]
fn a_removed_chunk_is_gone_for_good_and_the_same_bytes_under_another_serial_are_not() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let (old, new) = (chunk(1, b"same bytes"), chunk(2, b"same bytes"));
    put(&store, &[old, new]);
    remove(&store, 1);
    assert!(matches!(get(&store, &old), Err(StoreError::NotFound(_))));
    assert_eq!(store.remove(old.serial, false).unwrap(), None);
    assert_eq!(get(&store, &new).unwrap(), b"same bytes");
    let report = close_and_check(store, &directory);
    assert_eq!((report.tombstones.len(), report.tombstones[0].was_damaged), (1, false));
    let (store, _) = open(directory.path(), 1 << 20);
    assert!(matches!(get(&store, &old), Err(StoreError::NotFound(_))));
    // A serial stored again after its end, as a repair does it, stands after the tombstone.
    put(&store, &[old]);
    assert_eq!(close_and_check(store, &directory).chunks.len(), 2);
}

#[test]
fn nothing_is_stored_beyond_the_space_offered_and_what_is_held_stays_a_success() {
    let directory = directory();
    Store::create(directory.path(), store_id(), WallTime(5), &[]).unwrap();
    let mut options = StoreOptions::offering(20_000);
    options.reserve_bytes = Some(0);
    let (store, _) = Store::open(directory.path(), options).unwrap();
    let bytes = bytes_of(1, 5000);
    put(&store, &[chunk(1, &bytes), chunk(2, &bytes)]);
    let free = 20_000 - 8192 - 2 * 5088;
    assert_eq!(store.space().free, free);
    let refused = store.append(&[chunk(1, &bytes), chunk(3, &bytes)]);
    assert!(matches!(refused, Err(StoreError::NoSpace { needed: 5088, free: f }) if f == free));
    put(&store, &[chunk(1, &bytes)]);
    put(&store, &[chunk(4, b"small")]);
    // A tombstone needs no space that was offered.
    remove(&store, 1);
    assert_eq!(close_and_check(store, &directory).chunks.len(), 2);
}

#[test]
fn the_file_system_keeps_its_reserve() {
    let directory = directory();
    Store::create(directory.path(), store_id(), WallTime(5), &[]).unwrap();
    let mut options = StoreOptions::offering(1 << 40);
    options.reserve_bytes = Some(u64::MAX);
    let (store, _) = Store::open(directory.path(), options).unwrap();
    assert_eq!(store.space().free, 0);
    let refused = store.append(&[chunk(1, b"x")]);
    assert!(matches!(refused, Err(StoreError::NoSpace { free: 0, .. })));
    assert!(close_and_check(store, &directory).chunks.is_empty());
}

#[test]
fn a_directory_is_one_process_s_at_a_time() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let again = Store::open(directory.path(), StoreOptions::offering(1 << 30));
    assert!(matches!(again, Err(StoreError::Locked(_))));
    assert!(matches!(check(directory.path()), Err(CheckError::Locked(_))));
    drop(store);
    check(directory.path()).unwrap();
    open(directory.path(), 1 << 20);
}

#[test]
fn a_directory_without_a_store_is_refused_and_left_as_it_is() {
    let directory = directory();
    let opened = Store::open(directory.path(), StoreOptions::offering(1 << 30));
    assert!(matches!(opened, Err(StoreError::NotAStore(_))));
    assert!(matches!(check(directory.path()), Err(CheckError::NotAStore(_))));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_store_is_made_only_where_nothing_is() {
    let directory = directory();
    let create = || Store::create(directory.path(), store_id(), WallTime(5), &["node.json"]);
    std::fs::write(directory.path().join("letters"), "dear").unwrap();
    let refused = create();
    assert!(matches!(refused, Err(StoreError::NotEmpty { found, .. }) if found == "letters"));
    assert!(!directory.path().join("lock").exists());
    std::fs::remove_file(directory.path().join("letters")).unwrap();
    std::fs::write(directory.path().join("node.json"), "{}").unwrap();
    create().unwrap();
    assert!(matches!(create(), Err(StoreError::NotEmpty { .. })));
    // As after an end before the marker was written.
    std::fs::remove_file(directory.path().join("store.json")).unwrap();
    create().unwrap();
    let (store, report) = open(directory.path(), 1 << 20);
    assert_eq!((report.id, report.created), (store_id(), WallTime(5)));
    put(&store, &[chunk(1, b"x")]);
    drop(store);
    // A marker that was lost gives nobody the right to clear the segments.
    std::fs::remove_file(directory.path().join("store.json")).unwrap();
    assert!(matches!(create(), Err(StoreError::NotEmpty { .. })));
}

#[test]
fn another_format_is_refused_by_its_version() {
    let directory = directory();
    drop(new_store(&directory, 1 << 20));
    let marker = directory.path().join("store.json");
    let text = std::fs::read_to_string(&marker).unwrap();
    std::fs::write(&marker, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let opened = Store::open(directory.path(), StoreOptions::offering(1 << 30));
    assert!(matches!(opened, Err(StoreError::Version { found: 2, known: 1, .. })));
    assert!(matches!(check(directory.path()), Err(CheckError::Version { found: 2, .. })));
}
