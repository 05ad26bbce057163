//! A disk that fails to read: what that costs, and what comes back once it reads again.

use std::time::Duration;

use tempfile::TempDir;

use crate::clock::{Clock, WallTime};
use crate::ids::Serial;

use super::format::{FIRST_RECORD_AT, record_bytes};
use super::tests::{ALL, bytes_of, chunk, close_and_check, directory, get, new_store, open, put};
use super::tests_compact::compact_all;
use super::tests_damage::segment_path;
use super::tests_trash::{open_at, restore};
use super::*;

const SEGMENT: u64 = 36_000;

/// Chunks 1 to 12, nine of them in the first segment.
fn filled(directory: &TempDir) -> Store {
    let store = new_store(directory, SEGMENT);
    for serial in 1..=12 {
        put(&store, &[chunk(serial, &bytes_of(serial, 3000))]);
    }
    store
}

/// Some bytes of a chunk of the first segment cannot be read.
fn bad(directory: &TempDir, serial: u64) -> BadSectors {
    let at = FIRST_RECORD_AT + (serial - 1) * record_bytes(3000) + 1000;
    BadSectors::of(&segment_path(directory, 1), at..at + 512)
}

fn read(store: &Store, serial: u64) -> Result<Vec<u8>, StoreError> {
    get(store, &chunk(serial, &bytes_of(serial, 3000)))
}

fn is_whole(store: &Store, serial: u64) -> bool {
    read(store, serial).is_ok_and(|bytes| bytes == bytes_of(serial, 3000))
}

fn serials(held: &[Held]) -> Vec<u64> {
    held.iter().map(|held| held.serial.0).collect()
}

fn scrub(store: &Store) -> Vec<LostCopy> {
    let (mut lost, mut cursor) = (Vec::new(), ScrubCursor::default());
    loop {
        let step = store.scrub(cursor, 1 << 20).unwrap();
        lost.extend(step.lost);
        assert_eq!(step.healed, 0);
        cursor = step.cursor;
        if step.is_end {
            return lost;
        }
    }
}

/// A moment's trouble of the disk cost the copy for good.
#[test]
fn a_chunk_that_the_disk_cannot_read_is_put_aside_and_comes_back_when_it_can() {
    let directory = directory();
    let store = filled(&directory);
    let id = chunk(3, &bytes_of(3, 3000)).id;
    let failing = bad(&directory, 3);
    assert!(matches!(read(&store, 3), Err(StoreError::Unreadable { .. })));
    let (ticket, loss) = store.give_up(Serial(3), &id).unwrap().unwrap();
    store.wait_durable(ticket).unwrap();
    assert_eq!(loss, Loss::Unreadable);
    assert!(matches!(read(&store, 3), Err(StoreError::NotFound(_))));
    assert_eq!(serials(&store.trash(ALL, 10)), [3]);
    assert!(matches!(store.restore(Serial(3)), Err(StoreError::Unreadable { .. })));
    drop(failing);
    // Also after a restart.
    assert!(close_and_check(store, &directory).is_sound());
    let (store, _) = open(directory.path(), SEGMENT);
    assert!(restore(&store, 3));
    assert!((1..=12).all(|serial| is_whole(&store, serial)));
    assert!(close_and_check(store, &directory).is_sound());
}

#[test]
fn a_chunk_that_can_be_read_again_is_not_given_up() {
    let directory = directory();
    let store = filled(&directory);
    let failing = bad(&directory, 3);
    assert!(read(&store, 3).is_err());
    drop(failing);
    assert_eq!(store.give_up(Serial(3), &chunk(3, &bytes_of(3, 3000)).id).unwrap(), None);
    assert!(is_whole(&store, 3));
}

#[test]
fn a_scrub_tells_once_of_what_the_disk_cannot_read() {
    let directory = directory();
    let store = filled(&directory);
    let failing = [bad(&directory, 3), bad(&directory, 8)];
    let lost = scrub(&store);
    let found = |serial| {
        let id = Some(chunk(serial, &bytes_of(serial, 3000)).id);
        move |lost: &LostCopy| {
            // Header and data of a small chunk are read together.
            let is_id = lost.id.is_none() || lost.id == id;
            lost.serial == Serial(serial) && is_id && lost.loss == Loss::Unreadable
        }
    };
    assert!(lost.len() == 2 && found(3)(&lost[0]) && found(8)(&lost[1]), "{lost:?}");
    assert_eq!(scrub(&store), []);
    assert_eq!(store.dropped_count(), 0);
    drop(failing);
    assert!(restore(&store, 3));
    assert!(restore(&store, 8));
    assert!((1..=12).all(|serial| is_whole(&store, serial)));
}

#[test]
fn a_chunk_stored_anew_takes_the_place_of_one_that_cannot_be_read() {
    let directory = directory();
    let store = filled(&directory);
    let _failing = bad(&directory, 3);
    put(&store, &[chunk(3, &bytes_of(3, 3000))]);
    assert!(is_whole(&store, 3));
    assert_eq!(store.trash(ALL, 10), []);
}

#[test]
fn a_segment_that_cannot_be_read_is_not_compacted_before_what_it_holds_is_due() {
    let directory = directory();
    let store = filled(&directory);
    store.close().unwrap();
    let clock = Clock::manual(WallTime(0));
    let hold = Duration::from_secs(3600);
    let store = open_at(&directory, SEGMENT, 1 << 30, &clock);
    for serial in [1, 2, 3, 4, 5, 6] {
        let ticket = store.remove(Serial(serial), true).unwrap().unwrap();
        store.wait_durable(ticket).unwrap();
    }
    let failing = bad(&directory, 8);
    let done = compact_all(&store);
    let lost: Vec<_> = done.iter().flat_map(|done| &done.lost).collect();
    assert_eq!((lost.len(), lost[0].serial, lost[0].loss), (1, Serial(8), Loss::Unreadable));
    assert!(done.iter().all(|done| done.freed_bytes == 0));
    assert_eq!(compact_all(&store), [], "it is not tried again and again");
    drop(failing);
    clock.advance(hold / 2);
    assert!(restore(&store, 8));
    assert!((7..=12).all(|serial| is_whole(&store, serial)));
    clock.advance(hold);
    assert!(compact_all(&store).iter().any(|done| done.segment == 1 && done.freed_bytes > 0));
    assert!((7..=12).all(|serial| is_whole(&store, serial)));
    assert!(close_and_check(store, &directory).is_sound());
}

/// What could not be read at the end of the last segment was cut off as a torn tail.
#[test]
fn a_start_cuts_nothing_off_that_the_disk_cannot_read() {
    let directory = directory();
    let store = filled(&directory);
    store.close().unwrap();
    let failing = BadSectors::of(&segment_path(&directory, 2), FIRST_RECORD_AT..u64::MAX);
    let (store, report) = open(directory.path(), SEGMENT);
    assert!(report.cut.is_empty() && !report.damaged.is_empty());
    assert_eq!(serials(&store.holdings(ALL, 20)), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    put(&store, &[chunk(13, &bytes_of(13, 3000))]);
    store.close().unwrap();
    drop(failing);
    let (store, report) = open(directory.path(), SEGMENT);
    assert!(report.damaged.is_empty());
    assert!((1..=13).all(|serial| is_whole(&store, serial)));
    assert!(close_and_check(store, &directory).is_sound());
}

#[test]
fn headers_that_cannot_be_read_for_a_moment_cost_no_chunk_of_their_segment() {
    let directory = directory();
    let store = filled(&directory);
    let failing = BadSectors::of(&segment_path(&directory, 1), 0..FIRST_RECORD_AT);
    assert!(matches!(read(&store, 3), Err(StoreError::Unreadable { .. })));
    drop(failing);
    assert!(is_whole(&store, 3));
}
