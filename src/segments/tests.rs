//! What the store promises, through its public surface.

use std::path::Path;

use crate::clock::WallTime;
use crate::ids::{AccountId, ChunkId, ClusterId, HashAlgorithm, NodeId, Serial};

use super::*;

/// Makes and opens a store of small segments.
pub(super) fn new_store(directory: &Path, segment_bytes: u64) -> Store {
    let id = StoreId { cluster: ClusterId::from_bytes([1; 16]), node: NodeId(3) };
    Store::create(directory, id, WallTime(5), &[]).unwrap();
    open(directory, segment_bytes).0
}

pub(super) fn open(directory: &Path, segment_bytes: u64) -> (Store, OpenReport) {
    let options = StoreOptions { segment_bytes, offered_bytes: 1 << 30, reserve_bytes: Some(0) };
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

pub(super) fn get(store: &Store, chunk: &NewChunk<'_>) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    store.read(chunk.serial, &chunk.id, 0, chunk.bytes.len(), &mut out).map(|()| out)
}

#[test]
fn a_chunk_that_is_durable_reads_back_in_any_range_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = new_store(directory.path(), 1 << 20);
    let large = bytes_of(1, 300_001);
    let small = bytes_of(2, 100);
    let chunks = [chunk(1, &large), chunk(2, &small), chunk(3, b"")];
    put(&store, &chunks);
    let check = |store: &Store| {
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
    check(&store);
    store.close().unwrap();
    let (store, report) = open(directory.path(), 1 << 20);
    check(&store);
    assert_eq!((report.chunks, report.highest_serial), (3, Some(Serial(3))));
    assert!(report.cut.is_empty() && report.damaged.is_empty() && report.gaps.is_empty());
}
