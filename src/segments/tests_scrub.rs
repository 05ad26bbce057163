//! What scrubbing finds, and what it mends.

use proptest::prelude::*;
use tempfile::TempDir;

use crate::ids::{ChunkId, Serial};

use super::check::check;
use super::format::{FIRST_RECORD_AT, record_bytes};
use super::tests::{
    ALL, bytes_of, chunk, close_and_check, directory, get, new_store, open, put, remove,
};
use super::tests_compact::compact_all;
use super::tests_damage::{change_byte, segment_path};
use super::*;

/// Scrubs once through all, in steps of that size: what was damaged, and how much was healed.
pub(super) fn scrub_all(store: &Store, budget: u64) -> (Vec<(Serial, Option<ChunkId>)>, u64) {
    let (mut damaged, mut healed) = (Vec::new(), 0);
    let mut cursor = ScrubCursor::default();
    loop {
        let step = store.scrub(cursor, budget).unwrap();
        damaged.extend(step.lost.iter().map(|lost| (lost.serial, lost.id)));
        healed += step.healed;
        cursor = step.cursor;
        if step.is_end {
            return (damaged, healed);
        }
    }
}

const SEGMENT: u64 = 36_000;

/// Chunks 1 to 24 in three segments; 20 to 22 are trash, with their tombstones in segment 3.
fn filled(directory: &TempDir) -> Store {
    let store = new_store(directory, SEGMENT);
    for serial in 1..=24 {
        put(&store, &[chunk(serial, &bytes_of(serial, 3000))]);
    }
    for serial in [2, 20, 21] {
        remove(&store, serial);
    }
    store
}

#[test]
fn a_scrub_of_a_sound_store_finds_nothing_and_reads_all_of_it() {
    let directory = directory();
    let store = filled(&directory);
    for budget in [1, 5000, 1 << 20] {
        assert_eq!(scrub_all(&store, budget), (Vec::new(), 0));
    }
    let step = store.scrub(ScrubCursor::default(), 1 << 20).unwrap();
    assert_eq!((step.bytes, step.is_end), (9 * record_bytes(3000), false));
    assert!(close_and_check(store, &directory).is_sound());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_flipped_bit_is_found_in_one_pass_and_costs_no_other_chunk(
        number in 1..=3u32,
        at in 0..36_000u64,
    ) {
        let directory = directory();
        let store = filled(&directory);
        let path = segment_path(&directory, number);
        let at = at.min(std::fs::metadata(&path).unwrap().len() - 1);
        let before = check_copy(&directory);
        change_byte(&path, at);
        let (damaged, healed) = scrub_all(&store, 10_000);
        let hit = before.chunks.iter().find(|chunk| {
            let end = chunk.offset + format::data_at(chunk.length) + u64::from(chunk.length);
            chunk.segment == number && (chunk.offset..end).contains(&at)
        });
        let found: Vec<_> = damaged.iter().map(|(serial, _)| *serial).collect();
        prop_assert_eq!(found, hit.map(|chunk| chunk.serial).into_iter().collect::<Vec<_>>());
        prop_assert!(healed <= 1);
        for serial in (1..=24).filter(|n| ![2, 20, 21].contains(n)) {
            let bytes = bytes_of(serial, 3000);
            match get(&store, &chunk(serial, &bytes)) {
                Ok(read) => prop_assert_eq!(read, bytes),
                Err(StoreError::NotFound(_)) => prop_assert_eq!(hit.unwrap().serial.0, serial),
                Err(error) => panic!("{error}"),
            }
        }
        prop_assert_eq!(scrub_all(&store, 10_000), (Vec::new(), 0));
        // No removed chunk comes back, with the hints or without.
        close_and_check(store, &directory);
        for number in 1..=4 {
            let hint = directory.path().join(format!("segments/{number:08}.hint"));
            let _ = std::fs::remove_file(hint);
        }
        let (store, _) = open(directory.path(), SEGMENT);
        let held = store.holdings(ALL, 99);
        prop_assert!(!held.iter().any(|held| [2, 20, 21].contains(&held.serial.0)));
    }
}

/// What the witness says of a copy of the directory of a store that runs.
fn check_copy(directory: &TempDir) -> check::CheckReport {
    let copy = super::tests::directory();
    std::fs::create_dir(copy.path().join("segments")).unwrap();
    std::fs::copy(directory.path().join("store.json"), copy.path().join("store.json")).unwrap();
    for number in 1..=3 {
        std::fs::copy(segment_path(directory, number), segment_path(&copy, number)).unwrap();
    }
    check(copy.path()).unwrap()
}

#[test]
fn damaged_segment_headers_are_written_anew_even_both() {
    let directory = directory();
    let store = filled(&directory);
    for at in [20, 4096 + 20] {
        change_byte(&segment_path(&directory, 1), at);
    }
    change_byte(&segment_path(&directory, 3), 4096);
    assert_eq!(scrub_all(&store, 1 << 20), (Vec::new(), 3));
    assert_eq!(scrub_all(&store, 1 << 20), (Vec::new(), 0));
    assert!(close_and_check(store, &directory).is_sound());
}

#[test]
fn a_damaged_tombstone_is_written_anew_and_its_damage_goes_with_its_segment() {
    let directory = directory();
    let store = filled(&directory);
    let path = segment_path(&directory, 4);
    assert!(!path.exists());
    // The last record of the last segment is the tombstone of 21.
    let end = std::fs::metadata(segment_path(&directory, 3)).unwrap().len();
    change_byte(&segment_path(&directory, 3), end - 50);
    assert_eq!(scrub_all(&store, 1 << 20), (Vec::new(), 1));
    assert_eq!(scrub_all(&store, 1 << 20), (Vec::new(), 0));
    assert_eq!(compact_all(&store).len(), 1);
    let report = close_and_check(store, &directory);
    assert!(report.is_sound() && report.findings.is_empty());
    assert_eq!((report.chunks.len(), report.trash.len()), (21, 3));
}

#[test]
fn a_damaged_chunk_goes_by_serial_and_place_even_if_its_header_cannot_be_read() {
    let directory = directory();
    let store = filled(&directory);
    change_byte(&segment_path(&directory, 1), FIRST_RECORD_AT + 40);
    change_byte(&segment_path(&directory, 2), FIRST_RECORD_AT + 1000);
    let id = chunk(10, &bytes_of(10, 3000)).id;
    let expected = vec![(Serial(1), None), (Serial(10), Some(id))];
    assert_eq!(scrub_all(&store, 1 << 20), (expected, 0));
    assert_eq!(store.dropped_count(), 2);
    store.close().unwrap();
    // Said and dealt with, it is no problem any more.
    assert!(check(directory.path()).unwrap().is_sound());
    let (store, _) = open(directory.path(), SEGMENT);
    assert_eq!(store.holdings(ALL, 99).len(), 19);
}
