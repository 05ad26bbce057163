//! Row 12: bits that flip on a disk at rest are found by the scrub, before anybody reads them.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use p2pdfs::client::Quiet;
use p2pdfs::ids::NodeId;
use p2pdfs::remote_path::RemotePath;
use p2pdfs::segments::check::LiveChunk;
use p2pdfs::segments::format::{BLOCK_BYTES, RECORD_HEADER_BYTES};
use p2pdfs::wire::FaultCode;

use crate::harness::mixed::client;
use crate::harness::{Random, Setup, TestCluster, raw};

const FLIPS: usize = 1000;
const FILES: usize = 120;
/// As fast as the disk reads, and no second time within the test.
const ONE_PASS: [&str; 4] = ["--scrub-rate", "unlimited", "--scrub-every", "1d"];

#[test]
fn a_thousand_flipped_bits_are_all_found_by_one_scrub_repaired_and_never_served() {
    let mut random = Random::announced();
    let mut cluster =
        Setup::new(3).node_args(&[&ONE_PASS[..], &["--segment", "4M"]].concat()).start();
    let files = store(&cluster, &mut random);
    let witness = cluster.stop_and_check();
    let victim = witness.nodes.values().next().expect("a node");
    let index = raw::index_of(victim.node);
    let hit = flip_bits(&cluster, index, &victim.chunks, &mut random);
    let damaged = cluster.look();
    let whole = |serial| damaged.nodes[&victim.node].chunk(serial).is_some();
    let spoiled: BTreeSet<_> = hit.into_iter().filter(|serial| !whole(*serial)).collect();
    let (hits, chunks) = (spoiled.len(), victim.chunks.len());
    assert!(hits > chunks / 3, "the bits hit only {hits} of {chunks} chunks");

    cluster.start_main();
    (0..3).for_each(|index| cluster.start_node(index));
    cluster.wait_alive(3);
    for (path, _) in &files {
        fetch_from(&cluster, victim.node, path);
    }
    // Readers meet the damage while the scrub is on its way, and never see it.
    let reader = client(&cluster);
    for (path, content) in &files {
        let path: RemotePath = path.parse().expect("a path");
        let mut bytes = Vec::new();
        reader.read(&path, None, 0..u64::MAX, &mut bytes, &Quiet).expect("it can be read");
        assert!(bytes == *content, "{path} has other bytes");
    }
    let status = cluster.wait_status("one pass is over and all is repaired", |status| {
        let node = status.nodes.iter().find(|node| node.node == victim.node);
        let is_scrubbed = node.is_some_and(|node| node.scrub.passes > 0);
        is_scrubbed && status.is_surveyed && status.under_copied_chunks == 0
    });
    let node = status.nodes.iter().find(|node| node.node == victim.node).expect("it is there");
    // Some were found by the start already, which reads the last segment.
    assert!((1..=spoiled.len() as u64).contains(&node.damaged_copies), "{}", node.damaged_copies);
    cluster.stop();
    let witness = cluster.look();
    // A spoiled copy that was not found would still be counted, and is not whole.
    witness.assert_whole();
    witness.assert_copies("/", 2);
}

/// Fetches what the node has of the file, and sees that whatever it serves is what it should be.
fn fetch_from(cluster: &TestCluster, node: NodeId, path: &str) {
    let mut main = cluster.connect().expect("the main server runs");
    let mut there = cluster.connect_to_node(raw::index_of(node)).expect("the node runs");
    for chunk in raw::open(&mut main, path) {
        let Some(copy) = chunk.copies.iter().find(|copy| copy.node == node) else { continue };
        match raw::fetch(&mut there, &copy.token, 0, None) {
            Ok(bytes) => assert_eq!(raw::id_of(&bytes), chunk.id, "{path}"),
            Err(fault) => {
                let is_known = [FaultCode::Damaged, FaultCode::NotFound].contains(&fault.code);
                assert!(is_known, "{path}: {fault}");
            }
        }
    }
}

/// Large and small ones, two copies each.
fn store(cluster: &TestCluster, random: &mut Random) -> Vec<(String, Vec<u8>)> {
    let local = cluster.path().join("files");
    std::fs::create_dir(&local).expect("a directory");
    let files = (0..FILES).map(|number| {
        let size = if number % 10 == 0 { 3 << 20 } else { 1 + random.below(150_000) };
        let content = random.bytes(size as usize);
        std::fs::write(local.join(format!("f{number}")), &content).expect("there is room");
        (format!("/files/f{number}"), content)
    });
    let files = files.collect();
    let local = local.to_str().expect("a plain path").to_string();
    cluster.cli().ok(&["put", "-r", "--copies", "2", &local, "/files"]);
    files
}

/// A record is a header, a checksum for each block, and the data.
fn record_bytes(chunk: &LiveChunk) -> u64 {
    let blocks = u64::from(chunk.length).div_ceil(BLOCK_BYTES as u64);
    RECORD_HEADER_BYTES as u64 + 4 * blocks + u64::from(chunk.length)
}

/// Flips bits anywhere in the records of chunks, their headers and checksums included; returns the
/// serials of those that were hit.
fn flip_bits(
    cluster: &TestCluster,
    index: usize,
    chunks: &[LiveChunk],
    random: &mut Random,
) -> BTreeSet<p2pdfs::ids::Serial> {
    let total: u64 = chunks.iter().map(record_bytes).sum();
    let mut hit = BTreeSet::new();
    for _ in 0..FLIPS {
        let mut at = random.below(total);
        let chunk = chunks
            .iter()
            .find(|chunk| {
                let is_in = at < record_bytes(chunk);
                if !is_in {
                    at -= record_bytes(chunk);
                }
                is_in
            })
            .expect("it is below the sum");
        let path = cluster.node_dir(index).join(format!("segments/{:08}.seg", chunk.segment));
        let file = std::fs::File::options().read(true).write(true).open(path).expect("a segment");
        let mut byte = [0];
        file.read_exact_at(&mut byte, chunk.offset + at).expect("it is in the segment");
        let flipped = byte[0] ^ (1 << random.below(8));
        file.write_all_at(&[flipped], chunk.offset + at).expect("it can be written");
        hit.insert(chunk.serial);
    }
    hit
}
