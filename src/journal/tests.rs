//! What is sealed opens, what is damaged is found, and copies make up for each other.

use std::fs::File;
use std::io::{Read, Seek, Write};

use super::*;
use crate::clock::WallTime;
use crate::ids::ClusterId;

const GENERATION: u64 = 7;

/// A file with a snapshot of two pieces and three boundaries behind it, of which the second takes
/// two pieces; and where each piece ends.
fn sample() -> (RecoveryKey, Vec<u8>, Vec<usize>) {
    let key = RecoveryKey::random();
    let header = Header::new(GENERATION, ClusterId::random(), key.reader());
    let seal = Seal::new(&key.sealing(), &header);
    let mut bytes = header.to_bytes().to_vec();
    let mut ends = vec![bytes.len()];
    let pieces = [
        (Kind::Snapshot, false),
        (Kind::Snapshot, true),
        (Kind::Changes, true),
        (Kind::Changes, false),
        (Kind::Changes, true),
        (Kind::Changes, true),
    ];
    for (sequence, (kind, is_boundary)) in (1..).zip(pieces) {
        let body = vec![sequence as u8; 10 * sequence as usize];
        let time = WallTime(1000 + sequence);
        bytes.extend(seal.seal(&Piece { sequence, kind, is_boundary, time, body }));
        ends.push(bytes.len());
    }
    (key, bytes, ends)
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    file.rewind().expect("it is a file");
    file
}

fn kept<'a>(place: &str, bytes: &'a [u8]) -> Kept<'a> {
    // Read in small parts, so that pieces span them.
    let read = move |offset: u64| {
        let from = (offset as usize).min(bytes.len());
        Ok(bytes[from..bytes.len().min(from + 37)].to_vec())
    };
    Kept::new(place.to_string(), bytes.len() as u64, Box::new(read))
}

fn together(key: &RecoveryKey, copies: &[&[u8]], until: Option<u64>) -> (Assembled, Vec<u8>) {
    let mut out = tempfile::tempfile().expect("a temporary file");
    let mut copies: Vec<_> =
        copies.iter().zip(["a", "b", "c"]).map(|(bytes, place)| kept(place, bytes)).collect();
    let found = assemble(&key.sealing(), GENERATION, &mut copies, until, &out).expect("room");
    out.rewind().expect("it is a file");
    let mut bytes = Vec::new();
    out.read_to_end(&mut bytes).expect("what was written");
    (found, bytes)
}

#[test]
fn a_whole_file_comes_out_as_it_went_in_with_the_snapshot_first() {
    let (key, bytes, _) = sample();
    let (found, again) = together(&key, &[&bytes], None);
    assert_eq!((found.boundary, found.sequence, found.time), (Some(6), 6, WallTime(1006)));
    assert!(!found.ends.expect("an end").is_damage);
    assert_eq!(again, bytes);
    let mut order = Vec::new();
    let take = |piece: Piece| {
        assert_eq!(piece.body, vec![piece.sequence as u8; 10 * piece.sequence as usize]);
        order.push(piece.sequence);
        Ok::<(), std::io::Error>(())
    };
    for_each_piece(&key.sealing(), &file_of(&bytes), 6, take).expect("it is whole");
    assert_eq!(order, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn only_whole_boundaries_count_and_a_person_can_stop_at_an_earlier_one() {
    let (key, bytes, ends) = sample();
    for (until, boundary) in [(6, Some(6)), (5, Some(5)), (4, Some(3)), (2, Some(2)), (1, None)] {
        assert_eq!(together(&key, &[&bytes], Some(until)).0.boundary, boundary, "until {until}");
    }
    let (found, _) = together(&key, &[&bytes[..ends[4]]], None);
    assert_eq!((found.boundary, found.sequence), (Some(3), 4));
}

#[test]
fn a_cut_or_damage_at_any_byte_costs_only_what_is_behind_it() {
    let (key, bytes, ends) = sample();
    for at in 0..bytes.len() {
        let whole = ends.iter().filter(|end| **end <= at).count();
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        for copy in [&bytes[..at], &damaged] {
            let found = scan(&file_of(copy)).expect("it can be read");
            let good = if whole == 0 { 0 } else { ends[whole - 1] };
            assert_eq!(found.good_bytes, good as u64, "byte {at}");
            let (found, _) = together(&key, &[copy], None);
            assert_eq!(found.sequence, whole.saturating_sub(1) as u64, "byte {at}");
            assert!(found.ends.is_some());
            // Another copy makes up for it, in whatever order they are asked.
            for copies in [[copy, bytes.as_slice()], [bytes.as_slice(), copy]] {
                let (found, again) = together(&key, &copies, None);
                assert_eq!((found.sequence, &again), (6, &bytes), "byte {at}");
            }
        }
        let (found, _) = together(&key, &[&damaged], None);
        assert_eq!(
            found.ends.expect("an end").sequence,
            whole.max(1) as u64 - u64::from(whole == 0)
        );
    }
}

#[test]
fn what_is_damaged_is_told_from_what_is_not_there() {
    let (key, bytes, ends) = sample();
    let mut damaged = bytes.clone();
    damaged[ends[3] + 20] ^= 1;
    let (found, _) = together(&key, &[&damaged, &bytes[..ends[3]]], None);
    let missing = found.ends.expect("an end");
    assert_eq!((missing.sequence, missing.is_damage), (4, true));
    assert!(missing.asked[0].1.contains("checksum"), "{missing:?}");
    assert_eq!(missing.asked[1], ("b".to_string(), "it ends before".to_string()));
    let (found, _) = together(&key, &[&damaged, &bytes], None);
    assert_eq!((found.sequence, found.mended.len(), found.mended[0].0), (6, 1, 4));
    let (found, _) = together(&key, &[&bytes[..ends[4] + 5], &bytes[..ends[3]]], None);
    assert!(!found.ends.expect("an end").is_damage, "a torn tail is no damage");
}

#[test]
fn a_piece_opens_under_its_own_key_and_number_and_in_its_own_file_alone() {
    let (key, bytes, ends) = sample();
    let header = Header::from_bytes(bytes[..HEADER_BYTES].try_into().expect("its size"));
    let header = header.expect("a header");
    let seal = Seal::new(&key.sealing(), &header);
    let piece = &bytes[ends[2]..ends[3]];
    assert_eq!(seal.open(piece, 3).expect("its own place").sequence, 3);
    assert_eq!(seal.open(piece, 4), Err(BadPiece::Sequence { expected: 4, found: 3 }));
    let other = Header::new(GENERATION, header.cluster, header.reader);
    assert_eq!(Seal::new(&key.sealing(), &other).open(piece, 3), Err(BadPiece::Sealed));
    let other = RecoveryKey::random().sealing();
    assert_eq!(Seal::new(&other, &header).open(piece, 3), Err(BadPiece::Sealed));
    let (found, _) = together(&RecoveryKey::random(), &[&bytes], None);
    assert_eq!((found.sequence, found.boundary), (0, None));
}

#[test]
fn names_of_files_and_the_text_of_a_key_read_back() {
    assert_eq!(number_of(&file_name(u64::MAX)), Some(u64::MAX));
    for name in ["1.journal", "head.json", "00000000000000000001.journal.new", "x.journal"] {
        assert_eq!(number_of(name), None, "{name}");
    }
    let key = RecoveryKey::random();
    assert_eq!(key.to_text().parse(), Ok(key.clone()));
    assert_eq!(format!("{key:?}"), "RecoveryKey(..)");
    assert_ne!(key.reading(), key.sealing().to_secret());
}
