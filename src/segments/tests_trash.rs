//! What becomes of removed chunks: trash, its restoring, and its end.

use std::time::Duration;

use tempfile::TempDir;

use crate::clock::{Clock, WallTime};
use crate::ids::Serial;

use super::check::check;
use super::format::FIRST_RECORD_AT;
use super::tests::{
    ALL, bytes_of, chunk, close_and_check, directory, get, new_store, open, put, remove, store_id,
};
use super::tests_damage::{change_byte, segment_path};
use super::*;

/// Opens a store with a clock that the test moves.
pub(super) fn open_at(
    directory: &TempDir,
    segment_bytes: u64,
    offered_bytes: u64,
    clock: &Clock,
) -> Store {
    let options = StoreOptions {
        segment_bytes,
        reserve_bytes: Some(0),
        clock: clock.clone(),
        ..StoreOptions::offering(offered_bytes)
    };
    Store::open(directory.path(), options).unwrap().0
}

pub(super) fn restore(store: &Store, serial: u64) -> bool {
    let ticket = store.restore(Serial(serial)).unwrap();
    ticket.is_some_and(|ticket| store.wait_durable(ticket).map(|()| true).unwrap())
}

#[test]
fn a_removed_chunk_can_be_restored_also_after_a_restart() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let bytes = bytes_of(1, 100_000);
    put(&store, &[chunk(1, &bytes), chunk(2, b"two"), chunk(3, b"")]);
    for serial in [1, 2, 3] {
        remove(&store, serial);
    }
    let trash: Vec<u64> = store.trash(ALL, 9).iter().map(|held| held.serial.0).collect();
    assert_eq!((trash, store.holdings(ALL, 9).len()), (vec![1, 2, 3], 0));
    assert!(restore(&store, 1));
    assert_eq!(get(&store, &chunk(1, &bytes)).unwrap(), bytes);
    let report = close_and_check(store, &directory);
    assert!(report.is_sound());
    assert_eq!((report.chunks.len(), report.trash.len(), report.dead.records), (1, 2, 1));
    let (store, _) = open(directory.path(), 1 << 20);
    assert_eq!(store.trash(Serial(2)..=Serial(9), 1)[0].serial, Serial(2));
    assert!(restore(&store, 2) && restore(&store, 3) && restore(&store, 3));
    assert_eq!(get(&store, &chunk(2, b"two")).unwrap(), b"two");
    assert_eq!((store.trash(ALL, 9).len(), store.space().trash_held), (0, 0));
    assert_eq!(close_and_check(store, &directory).chunks.len(), 3);
}

#[test]
fn a_purged_chunk_cannot_be_restored_now_or_after_a_restart() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    put(&store, &[chunk(1, b"one"), chunk(2, b"two")]);
    remove(&store, 2);
    for serial in [1, 2] {
        let ticket = store.remove(Serial(serial), true).unwrap().expect("it stands");
        store.wait_durable(ticket).unwrap();
        assert!(!restore(&store, serial));
        assert_eq!(store.remove(Serial(serial), true).unwrap(), None);
    }
    assert!(store.space().dead > 0);
    let report = close_and_check(store, &directory);
    assert_eq!((report.trash.len(), report.dead.records), (0, 2));
    let (store, _) = open(directory.path(), 1 << 20);
    assert!(!restore(&store, 1) && !restore(&store, 2));
}

#[test]
fn removing_what_is_not_there_is_a_success_and_writes_nothing() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let used = store.space().used;
    assert_eq!(store.remove(Serial(1), false).unwrap(), None);
    assert_eq!(store.remove(Serial(1), true).unwrap(), None);
    assert_eq!(store.restore(Serial(1)).unwrap(), None);
    assert_eq!(store.space().used, used);
}

#[test]
fn a_removal_takes_what_is_still_on_its_way_to_the_disk() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let _ = store.append(&[chunk(1, b"not durable yet")]).unwrap();
    remove(&store, 1);
    assert!(store.holdings(ALL, 9).is_empty());
    let report = close_and_check(store, &directory);
    assert_eq!((report.chunks.len(), report.trash.len()), (0, 1));
}

#[test]
fn damaged_trash_is_not_brought_back() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let bytes = bytes_of(1, 5000);
    put(&store, &[chunk(1, &bytes)]);
    remove(&store, 1);
    change_byte(&segment_path(&directory, 1), FIRST_RECORD_AT + 4000);
    assert!(!restore(&store, 1));
    assert!(store.trash(ALL, 9).is_empty());
    // Stored anew it lives on.
    put(&store, &[chunk(1, &bytes)]);
    assert_eq!(get(&store, &chunk(1, &bytes)).unwrap(), bytes);
}

#[test]
fn a_chunk_whose_header_cannot_be_read_can_be_removed_all_the_same() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    put(&store, &[chunk(1, b"one"), chunk(2, b"two")]);
    change_byte(&segment_path(&directory, 1), FIRST_RECORD_AT + 40);
    remove(&store, 1);
    store.close().unwrap();
    let report = check(directory.path()).unwrap();
    assert_eq!((report.chunks.len(), report.tombstones.len()), (1, 1));
    assert_eq!(report.tombstones[0].id.digest()[4..], [0; 28]);
}

#[test]
fn trash_is_held_for_its_time_and_counts_as_free_to_take_afterwards() {
    let directory = directory();
    let clock = Clock::manual(WallTime(5));
    Store::create(directory.path(), store_id(), WallTime(5), &[]).unwrap();
    let store = open_at(&directory, 1 << 20, 1 << 30, &clock);
    put(&store, &[chunk(1, b"one"), chunk(2, b"two")]);
    remove(&store, 1);
    clock.advance(Duration::from_secs(3599));
    let space = store.space();
    assert_eq!((space.trash_held, space.trash_due), (96, 0));
    clock.advance(Duration::from_secs(120));
    let space = store.space();
    assert_eq!((space.trash_held, space.trash_due), (0, 96));
    store.close().unwrap();
    // A restart may follow a long stop: the time of holding begins anew.
    let store = open_at(&directory, 1 << 20, 1 << 30, &clock);
    assert_eq!(store.space().trash_held, 96);
    assert!(restore(&store, 1));
}

/// With small segments little was kept free: a store full of trash looked full to those who place
/// chunks, and each chunk waited.
#[test]
fn trash_makes_room_before_a_chunk_is_refused_however_small_the_segments() {
    let directory = directory();
    let clock = Clock::manual(WallTime(5));
    Store::create(directory.path(), store_id(), WallTime(5), &[]).unwrap();
    let store = open_at(&directory, 64 << 10, 8 << 20, &clock);
    let room = store.space().offered / 8;
    let mut serial = 0;
    while store.space().free > room - (100 << 10) {
        serial += 1;
        put(&store, &[chunk(serial, &bytes_of(serial, 50_000))]);
        remove(&store, serial);
    }
    assert_eq!(store.compact_one(&mut |_| true).unwrap(), None, "all of it is still held");
    clock.advance(Duration::from_secs(2 * 3600));
    while store.compact_one(&mut |_| true).unwrap().is_some() {}
    let space = store.space();
    assert!(space.free >= room && space.trash_due > 0, "{space:?}");
    close_and_check(store, &directory);
}
