//! What compaction does, and what is there when it is cut off at any step.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use crate::clock::{Clock, WallTime};
use crate::ids::Serial;

use super::check::check;
use super::format::FIRST_RECORD_AT;
use super::store::{Step, lock};
use super::tests::{
    ALL, bytes_of, chunk, close_and_check, directory, get, new_store, open, put, remove, store_id,
};
use super::tests_damage::{change_byte, segment_path};
use super::tests_trash::{open_at, restore};
use super::*;

const SEGMENT: u64 = 36_000;

/// Compacts until nothing is left to do, and says what was done.
pub(super) fn compact_all(store: &Store) -> Vec<Compaction> {
    std::iter::from_fn(|| store.compact_one(&mut |_| true).unwrap()).collect()
}

fn serials(held: &[Held]) -> Vec<u64> {
    held.iter().map(|held| held.serial.0).collect()
}

/// Chunks 1 to `count` of 3000 bytes, in segments of nine.
fn fill(store: &Store, count: u64) {
    for serial in 1..=count {
        put(store, &[chunk(serial, &bytes_of(serial, 3000))]);
    }
}

fn purge(store: &Store, serial: u64) {
    let ticket = store.remove(Serial(serial), true).unwrap().expect("it is held");
    store.wait_durable(ticket).unwrap();
}

#[test]
fn a_segment_that_is_half_dead_goes_and_its_chunks_stay() {
    let directory = directory();
    let store = new_store(&directory, SEGMENT);
    fill(&store, 20);
    assert_eq!(compact_all(&store), []);
    for serial in 1..=4 {
        purge(&store, serial);
    }
    assert_eq!(compact_all(&store), []);
    purge(&store, 5);
    let used = store.space().used;
    let done = compact_all(&store);
    assert_eq!((done.len(), done[0].segment), (1, 1));
    assert!(done[0].freed_bytes > 0 && done[0].copied_bytes < done[0].freed_bytes);
    assert_eq!(store.space().used, used + done[0].copied_bytes - done[0].freed_bytes);
    assert!(!segment_path(&directory, 1).exists());
    for serial in 6..=20 {
        let bytes = bytes_of(serial, 3000);
        assert_eq!(get(&store, &chunk(serial, &bytes)).unwrap(), bytes);
    }
    let report = close_and_check(store, &directory);
    assert!(report.is_sound() && report.missing.is_empty());
    let (store, report) = open(directory.path(), SEGMENT);
    assert!(report.missing.is_empty());
    assert_eq!(serials(&store.holdings(ALL, 99)), (6..=20).collect::<Vec<_>>());
}

#[test]
fn a_wholly_dead_segment_goes_without_a_copy() {
    let directory = directory();
    let store = new_store(&directory, SEGMENT);
    fill(&store, 12);
    for serial in 1..=9 {
        purge(&store, serial);
    }
    let done = compact_all(&store);
    assert_eq!((done.len(), done[0].copied_bytes), (1, 0));
    assert!(close_and_check(store, &directory).is_sound());
}

#[test]
fn trash_that_is_held_survives_compaction_and_a_restart_and_can_be_restored() {
    let directory = directory();
    let store = new_store(&directory, SEGMENT);
    fill(&store, 12);
    for serial in 1..=6 {
        purge(&store, serial);
    }
    remove(&store, 7);
    remove(&store, 8);
    assert_eq!(compact_all(&store).len(), 1);
    assert_eq!(serials(&store.trash(ALL, 9)), [7, 8]);
    assert!(restore(&store, 7));
    close_and_check(store, &directory);
    let (store, _) = open(directory.path(), SEGMENT);
    assert_eq!(serials(&store.trash(ALL, 9)), [8]);
    assert!(restore(&store, 8));
    assert_eq!(serials(&store.holdings(ALL, 99)), (7..=12).collect::<Vec<_>>());
    assert_eq!(get(&store, &chunk(8, &bytes_of(8, 3000))).unwrap(), bytes_of(8, 3000));
}

#[test]
fn tombstones_outlive_their_segment_while_a_record_stands_that_they_hide() {
    let directory = directory();
    let store = new_store(&directory, SEGMENT);
    fill(&store, 9);
    // The tombstone of 1 comes into segment 2, which then dies; segment 1 lives on.
    purge(&store, 1);
    for serial in 10..=19 {
        put(&store, &[chunk(serial, &bytes_of(serial, 3000))]);
    }
    for serial in 10..=17 {
        purge(&store, serial);
    }
    let done = compact_all(&store);
    assert_eq!(done.iter().map(|done| done.segment).collect::<Vec<_>>(), [2]);
    assert_eq!(compact_all(&store), [], "what was copied is not copied again and again");
    let report = close_and_check(store, &directory);
    assert!(report.chunk(Serial(1)).is_none());
    let (store, _) = open(directory.path(), SEGMENT);
    assert!(matches!(get(&store, &chunk(1, &bytes_of(1, 3000))), Err(StoreError::NotFound(_))));
}

#[test]
fn numbers_of_segments_are_never_used_again() {
    let directory = directory();
    let mut seen = BTreeSet::new();
    let mut store = new_store(&directory, SEGMENT);
    for round in 0..4 {
        let first = round * 20 + 1;
        for serial in first..first + 20 {
            put(&store, &[chunk(serial, &bytes_of(serial, 3000))]);
        }
        let before: BTreeSet<u32> = lock(&store.state).sealed.keys().copied().collect();
        assert!(before.is_disjoint(&seen), "{before:?} {seen:?}");
        for serial in first..first + 20 {
            purge(&store, serial);
        }
        seen.extend(compact_all(&store).iter().map(|done| done.segment));
        assert!(close_and_check(store, &directory).is_sound());
        store = open(directory.path(), SEGMENT).0;
    }
    assert!(seen.len() > 8);
}

#[test]
fn a_chunk_found_damaged_by_compaction_is_not_copied_and_is_told() {
    let directory = directory();
    let store = new_store(&directory, SEGMENT);
    fill(&store, 12);
    for serial in 1..=6 {
        purge(&store, serial);
    }
    let record = format::record_bytes(3000);
    change_byte(&segment_path(&directory, 1), FIRST_RECORD_AT + 6 * record + 1000);
    change_byte(&segment_path(&directory, 1), FIRST_RECORD_AT + 7 * record + 20);
    let done = compact_all(&store);
    let id = chunk(7, &bytes_of(7, 3000)).id;
    let lost: Vec<_> = done[0].lost.iter().map(|lost| (lost.serial, lost.id)).collect();
    assert_eq!(lost, [(Serial(7), Some(id)), (Serial(8), None)]);
    assert_eq!(store.dropped_count(), 2);
    let report = close_and_check(store, &directory);
    assert!(report.is_sound(), "the damage went with its segment");
    assert_eq!(report.chunks.len(), 4);
}

#[test]
fn a_pace_that_says_stop_leaves_a_whole_store_and_the_next_call_goes_on() {
    let directory = directory();
    let store = new_store(&directory, SEGMENT);
    fill(&store, 12);
    for serial in 1..=6 {
        purge(&store, serial);
    }
    let stopped = store.compact_one(&mut |_| false).unwrap().unwrap();
    assert_eq!(stopped.freed_bytes, 0);
    assert!(segment_path(&directory, 1).exists());
    let done = compact_all(&store);
    assert_eq!((done.len(), done[0].copied_bytes), (1, 0));
    assert!(close_and_check(store, &directory).is_sound());
}

#[test]
fn a_store_full_of_trash_takes_chunks_again_when_its_time_is_over() {
    let directory = directory();
    let clock = Clock::manual(WallTime(5));
    Store::create(directory.path(), store_id(), WallTime(5), &[]).unwrap();
    let store = open_at(&directory, SEGMENT, 150_000, &clock);
    let mut serial = 0;
    let refused = loop {
        serial += 1;
        let bytes = bytes_of(serial, 3000);
        match store.append(&[chunk(serial, &bytes)]) {
            Ok(ticket) => store.wait_durable(ticket).unwrap(),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::NoSpace { .. }));
    for serial in 1..serial {
        remove(&store, serial);
    }
    assert_eq!(compact_all(&store), [], "trash is held for an hour");
    let bytes = bytes_of(1000, 3000);
    assert!(matches!(store.append(&[chunk(1000, &bytes)]), Err(StoreError::NoSpace { .. })));
    clock.advance(Duration::from_secs(3700));
    assert_eq!(serials(&store.trash(ALL, 99)).len() as u64, serial - 1);
    // With a thread that compacts, the chunk waits for it and is taken.
    let stopping = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (store, stopping) = (&store, &stopping);
        let compactor = scope.spawn(move || {
            while !stopping.load(Ordering::SeqCst) {
                if store.wait_for_compaction(Duration::from_secs(600)) {
                    compact_all(store);
                }
            }
        });
        while lock(&store.state).compactors == 0 {
            std::thread::yield_now();
        }
        put(store, &[chunk(1000, &bytes)]);
        stopping.store(true, Ordering::SeqCst);
        store.wake_compaction();
        compactor.join().unwrap();
    });
    assert_eq!(get(&store, &chunk(1000, &bytes)).unwrap(), bytes);
    assert!(close_and_check(store, &directory).is_sound());
}

#[test]
fn readers_never_fail_while_segments_go_away() {
    let directory = directory();
    let store = new_store(&directory, SEGMENT);
    fill(&store, 60);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (store, is_done) = (&store, &is_done);
            scope.spawn(move || {
                let mut rounds = 0;
                while !is_done.load(Ordering::SeqCst) || rounds == 0 {
                    for serial in (1..=60).filter(|serial| serial % 3 == 0) {
                        let bytes = bytes_of(serial, 3000);
                        assert_eq!(get(store, &chunk(serial, &bytes)).unwrap(), bytes);
                    }
                    rounds += 1;
                }
            });
        }
        for serial in (1..=60).filter(|serial| serial % 3 != 0) {
            purge(&store, serial);
        }
        assert!(compact_all(&store).len() >= 5);
        is_done.store(true, Ordering::SeqCst);
    });
    assert!(close_and_check(store, &directory).is_sound());
}

#[test]
fn what_is_removed_or_restored_while_its_segment_is_compacted_stays_so() {
    let directory = directory();
    let store = new_store(&directory, SEGMENT);
    fill(&store, 12);
    for serial in 1..=5 {
        purge(&store, serial);
    }
    remove(&store, 6);
    remove(&store, 7);
    // Each is done by another thread, and done, before the compaction takes its next step.
    let (at, steps) = std::sync::mpsc::channel();
    let (go, is_done) = std::sync::mpsc::channel();
    *lock(&store.on_step) = Some(Step(Box::new(move |name| {
        at.send(name).unwrap();
        is_done.recv().unwrap();
    })));
    std::thread::scope(|scope| {
        let compaction = scope.spawn(|| compact_all(&store));
        let mut seen = Vec::new();
        while !compaction.is_finished() {
            let Ok(name) = steps.recv_timeout(Duration::from_millis(10)) else { continue };
            match name {
                _ if seen.contains(&name) => {}
                "chunks are written" => remove(&store, 8),
                "trash is written" => assert!(restore(&store, 6) && restore(&store, 7)),
                "all is copied" => remove(&store, 9),
                _ => {}
            }
            seen.push(name);
            go.send(()).unwrap();
        }
        assert!(seen.contains(&"trash is written") && seen.contains(&"it is gone"), "{seen:?}");
    });
    *lock(&store.on_step) = None;
    assert_eq!(serials(&store.holdings(ALL, 99)), [6, 7, 10, 11, 12]);
    assert_eq!(serials(&store.trash(ALL, 99)), [8, 9]);
    assert!(close_and_check(store, &directory).is_sound());
    for number in 1..=9 {
        let _ = std::fs::remove_file(directory.path().join(format!("segments/{number:08}.hint")));
    }
    let (store, _) = open(directory.path(), SEGMENT);
    assert_eq!(serials(&store.holdings(ALL, 99)), [6, 7, 10, 11, 12]);
    assert!(restore(&store, 8) && restore(&store, 9));
}

/// Copies a store's directory, as a crash at this moment would leave it.
fn copy_directory(from: &Path) -> TempDir {
    let copy = directory();
    std::fs::create_dir(copy.path().join("segments")).unwrap();
    std::fs::copy(from.join("store.json"), copy.path().join("store.json")).unwrap();
    for entry in std::fs::read_dir(from.join("segments")).unwrap() {
        let path = entry.unwrap().path();
        let to = copy.path().join("segments").join(path.file_name().unwrap());
        std::fs::copy(path, to).unwrap();
    }
    copy
}

/// What a store holds after a crash: the chunks, and what can be restored.
fn expect_after_crash(copy: &TempDir, what: &str, live: &[u64], trash: &[u64], gone: &[u64]) {
    check(copy.path()).unwrap();
    let (store, _) = open(copy.path(), SEGMENT);
    assert_eq!(serials(&store.holdings(ALL, 99)), live, "{what}");
    for serial in live {
        let bytes = bytes_of(*serial, 3000);
        assert_eq!(get(&store, &chunk(*serial, &bytes)).unwrap(), bytes, "{what}");
    }
    assert_eq!(serials(&store.trash(ALL, 99)), trash, "{what}");
    let report = close_and_check(store, copy);
    assert!(report.is_sound(), "{what}: {report:?}");
    // What was interrupted is taken up, to the end, and again nothing is other than it was.
    let (store, _) = open(copy.path(), SEGMENT);
    compact_all(&store);
    close_and_check(store, copy);
    let (store, _) = open(copy.path(), SEGMENT);
    assert_eq!(serials(&store.holdings(ALL, 99)), live, "{what}");
    assert!(trash.iter().all(|serial| restore(&store, *serial)), "{what}");
    assert!(!gone.iter().any(|serial| restore(&store, *serial)), "{what}");
}

#[test]
fn a_crash_at_any_step_of_a_compaction_loses_nothing_and_brings_nothing_back() {
    let directory = directory();
    let store = new_store(&directory, SEGMENT);
    fill(&store, 9);
    // Segment 2: a tombstone of 1, which stands in segment 1; chunks that live, trash, dead ones.
    purge(&store, 1);
    remove(&store, 2);
    for serial in 10..=22 {
        put(&store, &[chunk(serial, &bytes_of(serial, 3000))]);
    }
    for serial in 10..=15 {
        purge(&store, serial);
    }
    remove(&store, 16);
    let original = copy_directory(directory.path());
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (path, into) = (directory.path().to_path_buf(), copies.clone());
    let step = Box::new(move |name| into.lock().unwrap().push((name, copy_directory(&path))));
    *lock(&store.on_step) = Some(Step(step));
    assert_eq!(compact_all(&store).len(), 1);
    *lock(&store.on_step) = None;
    let live: Vec<u64> = (3..=9).chain(17..=22).collect();
    let copies = std::mem::take(&mut *copies.lock().unwrap());
    let names: BTreeSet<_> = copies.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    for (name, copy) in &copies {
        let gone = [1, 10, 15];
        // As if the directory had not been synced: what was taken away is back.
        let back = copy_directory(copy.path());
        for name in ["00000002.seg", "00000002.hint"] {
            let (from, to) = (original.path().join("segments"), back.path().join("segments"));
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
        expect_after_crash(&back, name, &live, &[2, 16], &gone);
        // As if hints had not been written.
        let bare = copy_directory(copy.path());
        for number in 1..=9 {
            let hint = format!("segments/{number:08}.hint");
            let _ = std::fs::remove_file(bare.path().join(hint));
        }
        expect_after_crash(&bare, name, &live, &[2, 16], &gone);
        expect_after_crash(copy, name, &live, &[2, 16], &gone);
    }
}
