//! What is left after a crash, a cut, damage, or a failing disk: with `check` as the witness.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::ids::Serial;

use super::check::{CheckReport, FindingKind, HintState, check};
use super::format::FIRST_RECORD_AT;
use super::segment::Segment;
use super::store::{OpenSegment, lock};
use super::tests::{
    bytes_of, chunk, close_and_check, directory, get, new_store, open, put, remove, store_id,
};
use super::*;

pub(super) fn segment_path(directory: &TempDir, number: u32) -> PathBuf {
    directory.path().join(format!("segments/{number:08}.seg"))
}

pub(super) fn change_byte(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

/// Where the record of a chunk begins and ends, padding aside.
fn span(report: &CheckReport, serial: u64) -> (u64, u64) {
    let chunk = report.chunk(Serial(serial)).unwrap();
    let end = chunk.offset + format::data_at(chunk.length) + u64::from(chunk.length);
    (chunk.offset, end)
}

/// Chunks 1 to 5 in one segment, 2 with its tombstone at the end; the report before that.
fn five_chunks(directory: &TempDir, lengths: [usize; 5]) -> (Vec<Vec<u8>>, CheckReport) {
    let store = new_store(directory, 1 << 20);
    let bytes: Vec<_> = (1..).zip(lengths).map(|(n, length)| bytes_of(n, length)).collect();
    for (n, bytes) in (1..).zip(&bytes) {
        put(&store, &[chunk(n, bytes)]);
    }
    let before = close_and_check(store, directory);
    let (store, _) = open(directory.path(), 1 << 20);
    remove(&store, 2);
    close_and_check(store, directory);
    (bytes, before)
}

/// Opens what was damaged; whatever can be read must be right. Returns the serials that can be.
fn survivors(directory: &TempDir, bytes: &[Vec<u8>]) -> (Vec<u64>, OpenReport) {
    let (store, report) = open(directory.path(), 1 << 20);
    let readable = (1..).zip(bytes).filter(|(n, bytes)| match get(&store, &chunk(*n, bytes)) {
        Ok(read) => {
            assert_eq!(&read, *bytes);
            true
        }
        Err(StoreError::NotFound(_)) => false,
        Err(error) => panic!("listed and not readable: {error}"),
    });
    let readable = readable.map(|(n, _)| n).collect();
    close_and_check(store, directory);
    (readable, report)
}

#[test]
fn a_last_segment_cut_at_any_byte_keeps_every_whole_record_before_the_cut() {
    let directory = directory();
    let (bytes, before) = five_chunks(&directory, [40, 0, 100, 1, 33]);
    let path = segment_path(&directory, 1);
    let whole = std::fs::read(&path).unwrap();
    let tombstone_at = (span(&before, 5).1).next_multiple_of(16);
    // Before the first record, where every byte is as good as the next, a sample is enough.
    let cuts = (0..FIRST_RECORD_AT as usize - 8).step_by(97);
    for cut in cuts.chain(FIRST_RECORD_AT as usize - 8..=whole.len()) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        check(directory.path()).unwrap();
        let (survivors, report) = survivors(&directory, &bytes);
        let tombstone_is_whole = cut as u64 >= tombstone_at + 80;
        let expected: Vec<u64> = (1..=5)
            .filter(|n| span(&before, *n).1 <= cut as u64 && !(*n == 2 && tombstone_is_whole))
            .collect();
        assert_eq!(survivors, expected, "cut at {cut}");
        assert!(report.damaged.is_empty() && report.gaps.is_empty(), "cut at {cut}: {report:?}");
        let mut spans =
            (1..=5).map(|n| span(&before, n)).chain([(tombstone_at, tombstone_at + 80)]);
        let is_in_record = spans.any(|(start, end)| start < cut as u64 && (cut as u64) < end);
        let is_in_headers = (cut as u64) < FIRST_RECORD_AT;
        assert_eq!(report.cut.len(), usize::from(is_in_record || is_in_headers), "cut at {cut}");
        // The next append goes on after what is whole.
        let (store, _) = open(directory.path(), 1 << 20);
        put(&store, &[chunk(9, b"after the cut")]);
        assert!(close_and_check(store, &directory).is_sound(), "cut at {cut}");
    }
}

#[test]
fn any_one_byte_changed_costs_at_most_the_record_that_it_is_in() {
    let directory = directory();
    let (bytes, before) = five_chunks(&directory, [40, 0, 100, 1, 33]);
    let path = segment_path(&directory, 1);
    let whole = std::fs::read(&path).unwrap();
    let headers = (0..64).chain(4096..4160).step_by(5);
    for at in headers.chain(FIRST_RECORD_AT..whole.len() as u64) {
        std::fs::write(&path, &whole).unwrap();
        change_byte(&path, at);
        expect_loss_of_one(&directory, &bytes, &before, at);
    }
}

/// Asserts that only the record at `at` is lost, and said to be.
fn expect_loss_of_one(directory: &TempDir, bytes: &[Vec<u8>], before: &CheckReport, at: u64) {
    let witness = check(directory.path()).unwrap();
    let (survivors, report) = survivors(directory, bytes);
    let hit: Vec<u64> =
        (1..=5).filter(|n| (span(before, *n).0..span(before, *n).1).contains(&at)).collect();
    let last = span(before, 5).1.next_multiple_of(16);
    let tombstone_is_hit = (last..last + 80).contains(&at);
    let expected: Vec<u64> =
        (1..=5).filter(|n| !hit.contains(n) && (*n != 2 || tombstone_is_hit)).collect();
    assert_eq!(survivors, expected, "changed at {at}");
    let is_header = at < 64 || (4096..4160).contains(&at);
    let lost = usize::from(!hit.is_empty() || is_header);
    assert_eq!(report.damaged.len(), lost, "changed at {at}: {report:?}");
    assert_eq!(report.cut.len(), usize::from(tombstone_is_hit), "changed at {at}: {report:?}");
    assert!(report.gaps.is_empty(), "changed at {at}: {report:?}");
    assert_eq!(witness.damage().count(), lost, "changed at {at}: {witness:?}");
    assert_eq!(witness.is_sound(), lost == 0, "changed at {at}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn damage_anywhere_is_never_served(at in FIRST_RECORD_AT..300_000u64) {
        let directory = directory();
        let (bytes, before) = five_chunks(&directory, [70_000, 10, 65_536, 131_073, 30_000]);
        let path = segment_path(&directory, 1);
        let at = at.min(std::fs::metadata(&path).unwrap().len() - 1);
        // Under a store that runs: said so on read, taken out, and never tried again.
        let (store, _) = open(directory.path(), 1 << 20);
        change_byte(&path, at);
        for (n, bytes) in (1..).zip(&bytes) {
            let chunk = chunk(n, bytes);
            match get(&store, &chunk) {
                Ok(read) => prop_assert_eq!(&read, bytes),
                Err(StoreError::NotFound(_)) => prop_assert_eq!(n, 2),
                Err(StoreError::Corrupt { .. }) => {
                    let (start, end) = span(&before, n);
                    prop_assert!((start..end).contains(&at));
                    let before = store.dropped_count();
                    prop_assert!(store.give_up(chunk.serial, &chunk.id).unwrap().is_some());
                    prop_assert_eq!(store.dropped_count(), before + 1);
                    prop_assert!(matches!(get(&store, &chunk), Err(StoreError::NotFound(_))));
                }
                Err(error) => panic!("{error}"),
            }
        }
        store.sync().unwrap();
        close_and_check(store, &directory);
    }
}

#[test]
fn a_damaged_chunk_that_is_stored_again_is_written_anew_and_lives_on() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let bytes = bytes_of(1, 5000);
    let chunk = chunk(1, &bytes);
    put(&store, &[chunk]);
    assert!(store.give_up(chunk.serial, &chunk.id).unwrap().is_none());
    change_byte(&segment_path(&directory, 1), FIRST_RECORD_AT + 3000);
    assert!(matches!(get(&store, &chunk), Err(StoreError::Corrupt { .. })));
    put(&store, &[chunk]);
    assert_eq!((get(&store, &chunk).unwrap(), store.dropped_count()), (bytes.clone(), 1));
    close_and_check(store, &directory);
    let (store, report) = open(directory.path(), 1 << 20);
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(get(&store, &chunk).unwrap(), bytes);
}

#[test]
fn records_inside_a_chunk_are_never_taken_for_records() {
    let directory = directory();
    let (bytes, _) = five_chunks(&directory, [40, 0, 100, 1, 33]);
    // A chunk that holds all of a segment, tombstone included, and later one that holds itself.
    let copy = std::fs::read(segment_path(&directory, 1)).unwrap();
    let (store, _) = open(directory.path(), 1 << 20);
    put(&store, &[chunk(6, &copy), chunk(7, b"behind it")]);
    let before = close_and_check(store, &directory);
    let twice = std::fs::read(segment_path(&directory, 1)).unwrap();
    let (store, _) = open(directory.path(), 30_000);
    put(&store, &[chunk(8, &twice), chunk(9, b"behind that")]);
    let report = close_and_check(store, &directory);
    assert_eq!(report.chunk(Serial(8)).unwrap().segment, 2);
    // Without their headers both are searched for records, at every place.
    change_byte(&segment_path(&directory, 1), span(&before, 6).0 + 20);
    change_byte(&segment_path(&directory, 2), FIRST_RECORD_AT + 20);
    for number in [1, 2] {
        let _ = std::fs::remove_file(directory.path().join(format!("segments/{number:08}.hint")));
    }
    let (store, report) = open(directory.path(), 30_000);
    let serials: Vec<u64> =
        store.holdings(Serial(0)..=Serial(99), 99).iter().map(|held| held.serial.0).collect();
    assert_eq!(serials, [1, 3, 4, 5, 7, 9]);
    assert_eq!((report.damaged.len(), report.cut.len()), (2, 0));
    assert_eq!(get(&store, &chunk(5, &bytes[4])).unwrap(), bytes[4]);
    assert_eq!(close_and_check(store, &directory).tombstones.len(), 1);
}

#[test]
fn a_hint_that_is_gone_or_spoiled_changes_nothing() {
    let directory = directory();
    let store = new_store(&directory, 20_000);
    for n in 1..=20 {
        put(&store, &[chunk(n, &bytes_of(n, 3000))]);
    }
    remove(&store, 4);
    let before = close_and_check(store, &directory);
    assert_eq!(before.segments[0].hint, HintState::Good);
    let hint = |n| directory.path().join(format!("segments/{n:08}.hint"));
    std::fs::remove_file(hint(1)).unwrap();
    std::fs::write(hint(2), "nonsense").unwrap();
    std::fs::copy(hint(4), hint(3)).unwrap();
    let states: Vec<_> =
        check(directory.path()).unwrap().segments[..4].iter().map(|s| s.hint).collect();
    use HintState::{Good, Invalid, Missing};
    assert_eq!(states, [Missing, Invalid, Invalid, Good]);
    let (store, report) = open(directory.path(), 20_000);
    assert_eq!((report.scanned, report.chunks), (4, 19));
    let after = close_and_check(store, &directory);
    assert_eq!(after.chunks, before.chunks);
    assert_eq!(after.segments, before.segments, "the hints are there again");
}

#[test]
fn a_sealed_segment_that_became_shorter_is_damage_and_costs_what_is_gone() {
    let directory = directory();
    let store = new_store(&directory, 20_000);
    for n in 1..=8 {
        put(&store, &[chunk(n, &bytes_of(n, 3000))]);
    }
    let before = close_and_check(store, &directory);
    let file = File::options().write(true).open(segment_path(&directory, 1)).unwrap();
    file.set_len(span(&before, 3).1 - 1).unwrap();
    let (survivors, report) =
        survivors(&directory, &(1..=8).map(|n| bytes_of(n, 3000)).collect::<Vec<_>>());
    assert_eq!(survivors, [1, 2, 4, 5, 6, 7, 8]);
    assert_eq!((report.damaged.len(), report.damaged[0].segment), (1, 1));
    assert_eq!((report.cut.len(), &report.cut[0].serials[..]), (1, &[Serial(3)][..]));
}

#[test]
fn segments_that_are_missing_are_named() {
    let directory = directory();
    let store = new_store(&directory, 20_000);
    for n in 1..=20 {
        put(&store, &[chunk(n, &bytes_of(n, 3000))]);
    }
    store.close().unwrap();
    std::fs::remove_file(segment_path(&directory, 2)).unwrap();
    std::fs::remove_file(segment_path(&directory, 3)).unwrap();
    let (store, report) = open(directory.path(), 20_000);
    assert_eq!(report.missing, [2..=3]);
    let witness = close_and_check(store, &directory);
    assert_eq!(witness.missing, [2..=3]);
    assert!(!witness.is_sound());
    std::fs::remove_dir_all(directory.path().join("segments")).unwrap();
    let opened = Store::open(directory.path(), StoreOptions::offering(1 << 30));
    assert!(matches!(opened, Err(StoreError::SegmentsMissing(_))));
    assert!(!check(directory.path()).unwrap().is_sound());
}

#[test]
fn a_write_that_was_never_finished_is_a_gap_and_no_damage() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let (one, two, three) = (bytes_of(1, 9000), bytes_of(2, 200_000), bytes_of(3, 9000));
    put(&store, &[chunk(1, &one)]);
    put(&store, &[chunk(2, &two)]);
    put(&store, &[chunk(3, &three)]);
    put(&store, &[chunk(4, b"behind them")]);
    let before = close_and_check(store, &directory);
    let file = File::options().write(true).open(segment_path(&directory, 1)).unwrap();
    let zero =
        |from: u64, to: u64| file.write_all_at(&vec![0; (to - from) as usize], from).unwrap();
    // A small record written up to the edge of a page; a large one that has no header yet, and
    // half of its data; one not begun at all.
    let (start, end) = span(&before, 1);
    zero((start + 2000).next_multiple_of(4096), end);
    let (start, end) = span(&before, 2);
    zero(start, start + 80 + 16);
    zero(start + 100_000, end);
    zero(span(&before, 3).0, span(&before, 3).1);
    let kinds = |report: CheckReport| -> Vec<FindingKind> {
        report.findings.iter().map(|finding| finding.kind).collect()
    };
    assert_eq!(kinds(check(directory.path()).unwrap()), [FindingKind::Gap; 2]);
    let (store, report) = open(directory.path(), 1 << 20);
    assert!(report.damaged.is_empty() && report.cut.is_empty());
    let serials: Vec<_> = report.gaps.iter().map(|gap| gap.serial).collect();
    assert_eq!(serials, [Some(Serial(1)), None]);
    assert_eq!(get(&store, &chunk(4, b"behind them")).unwrap(), b"behind them");
    assert!(close_and_check(store, &directory).is_sound());
}

#[test]
fn a_failed_sync_ends_all_storing_and_confirms_nothing() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    put(&store, &[chunk(1, b"before")]);
    let ticket = store.append(&[chunk(2, b"lost")]).unwrap();
    let other = store.append(&[chunk(3, b"lost too")]).unwrap();
    store.next_sync_fails.store(true, Ordering::SeqCst);
    assert!(matches!(store.wait_durable(ticket), Err(StoreError::Failed { .. })));
    assert!(matches!(store.wait_durable(other), Err(StoreError::Failed { .. })));
    assert!(store.has_failed());
    for serial in [2, 4] {
        let again = store.append(&[chunk(serial, b"lost")]);
        assert!(matches!(again, Err(StoreError::Failed { .. })));
    }
    assert!(matches!(get(&store, &chunk(2, b"lost")), Err(StoreError::NotFound(_))));
    assert_eq!(get(&store, &chunk(1, b"before")).unwrap(), b"before");
    assert!(store.close().is_err());
}

#[test]
fn a_full_disk_refuses_the_write_and_leaves_nothing_visible() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let used = store.space().used;
    let path = PathBuf::from("/dev/full");
    let file = File::options().write(true).open(&path).unwrap();
    let full = Arc::new(Segment { number: 2, path, file, nonce: [0; 32] });
    lock(&store.state).open.push(OpenSegment::new(full, FIRST_RECORD_AT, Vec::new()));
    let bytes = bytes_of(1, 5000);
    let refused = store.append(&[chunk(1, &bytes), chunk(2, b"x")]);
    assert!(matches!(refused, Err(StoreError::NoSpace { needed: 5184, .. })), "{refused:?}");
    assert_eq!(store.space().used, used);
    assert!(matches!(get(&store, &chunk(1, &bytes)), Err(StoreError::NotFound(_))));
    let full = lock(&store.state).open.pop().unwrap();
    assert_eq!((full.in_flight, full.unsynced), (0, 0));
    // A part of it may stand there whole: so a start must look, and no tombstone go meanwhile.
    assert!(full.is_doubtful);
    let known: Vec<_> = store.index().remains.of(Serial(1)).map(|(place, _)| place).collect();
    assert_eq!(known, [format::Place { segment: 2, offset: FIRST_RECORD_AT as u32 }]);
    // With room again the same serials are taken.
    put(&store, &[chunk(1, &bytes), chunk(2, b"x")]);
    assert_eq!(close_and_check(store, &directory).chunks.len(), 2);
}

#[test]
fn a_call_that_fails_hands_its_claims_to_those_who_waited_for_them() {
    let directory = directory();
    let store = new_store(&directory, 1 << 20);
    let chunk = chunk(1, b"wanted twice");
    let (claimed, is_claimed) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let refs = [&chunk];
        let sorted = store.sort_out(&refs).unwrap();
        let waiter = scope.spawn(|| {
            claimed.send(()).unwrap();
            put(&store, &[chunk]);
        });
        is_claimed.recv().unwrap();
        drop(sorted);
        waiter.join().unwrap();
    });
    assert_eq!(get(&store, &chunk).unwrap(), b"wanted twice");
}

#[test]
fn a_segment_whose_headers_are_both_bad_is_reported_and_never_written_to() {
    let directory = directory();
    let (bytes, _) = five_chunks(&directory, [40, 0, 100, 1, 33]);
    let path = segment_path(&directory, 1);
    change_byte(&path, 20);
    change_byte(&path, 4096 + 20);
    let before = std::fs::read(&path).unwrap();
    let (survivors, report) = survivors(&directory, &bytes);
    assert!(survivors.is_empty());
    assert_eq!((report.damaged.len(), report.damaged[0].bytes), (1, before.len() as u64));
    assert!(!check(directory.path()).unwrap().is_sound());
    let (store, _) = open(directory.path(), 1 << 20);
    put(&store, &[chunk(9, b"elsewhere")]);
    assert_eq!(close_and_check(store, &directory).chunk(Serial(9)).unwrap().segment, 2);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(open(directory.path(), 1 << 20).1.id, store_id());
}
