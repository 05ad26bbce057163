//! Rows 12 and 13: damaged copies, and nodes that answer with wrong bytes or not at all.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use p2pdfs::segments::check::{FindingKind, LiveChunk};
use p2pdfs::wire::FaultCode;

use crate::harness::fake_node::{FakeNode, Reads};
use crate::harness::{TestCluster, bytes, is_at_rest, raw, until};

fn segment_file(node_dir: &Path, number: u32) -> PathBuf {
    node_dir.join("segments").join(format!("{number:08}.seg"))
}

/// Flips one bit in the middle of a chunk's bytes on the disk.
fn flip(node_dir: &Path, chunk: &LiveChunk) {
    let path = segment_file(node_dir, chunk.segment);
    let file = std::fs::File::options().read(true).write(true).open(path).expect("a segment");
    let at = chunk.offset + u64::from(chunk.length) / 2 + 100;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is in the segment");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("it can be written");
}

#[test]
fn a_damaged_copy_is_never_served_and_is_replaced_from_another() {
    let mut cluster = TestCluster::start(3);
    let cli = cluster.cli();
    let content = bytes(51, 9 << 20);
    cli.run_with(&["put", "--copies", "2", "-", "/file"], &content).ok();
    let witness = cluster.stop_and_check();
    let victim = witness.file("/file").chunks[0].nodes[0];
    let chunks = witness.nodes[&victim].chunks.clone();

    // The node runs while the disk goes bad under it: reading finds out.
    cluster.start_main();
    (0..3).for_each(|index| cluster.start_node(index));
    cluster.wait_alive(3);
    let index = raw::index_of(victim);
    chunks.iter().for_each(|chunk| flip(cluster.node_dir(index), chunk));
    let mut main = cluster.connect().expect("the main server runs");
    let mut node = cluster.connect_to_node(index).expect("the node runs");
    for chunk in raw::open(&mut main, "/file") {
        let Some(copy) = chunk.copies.iter().find(|copy| copy.node == victim) else { continue };
        let fault = raw::fetch(&mut node, &copy.token, 0, None).expect_err("it is damaged");
        assert!([FaultCode::Damaged, FaultCode::NotFound].contains(&fault.code), "{fault}");
    }
    assert!(cli.run(&["cat", "/file"]).stdout == content);

    until("every chunk has two whole copies again", || {
        raw::open(&mut main, "/file")
            .iter()
            .all(|chunk| {
                let whole = chunk.copies.iter().filter(|copy| {
                    let node = cluster.connect_to_node(raw::index_of(copy.node));
                    raw::fetch(&mut node.expect("the node runs"), &copy.token, 0, None).is_ok()
                });
                whole.count() == 2
            })
            .then_some(())
    });
    assert!(cli.run(&["cat", "/file"]).stdout == content);
    cluster.wait_status("nothing is left to be done", is_at_rest);
    cluster.stop();
    let witness = cluster.look();
    witness.assert_whole();
    witness.assert_copies("/file", 2);
    let mut found = witness.nodes[&victim].findings.iter();
    let was_there = found.any(|finding| finding.kind == FindingKind::Dropped);
    assert!(was_there, "the damage was really there");
}

#[test]
fn damage_to_a_stopped_node_costs_only_what_it_hit() {
    let mut cluster = TestCluster::start(2);
    let cli = cluster.cli();
    let files: Vec<(String, Vec<u8>)> =
        (0..10).map(|n| (format!("/file-{n}"), bytes(60 + n, 100_000))).collect();
    for (path, content) in &files {
        cli.run_with(&["put", "--copies", "2", "-", path], content).ok();
    }
    let witness = cluster.stop_and_check();
    let (_, report) = witness.nodes.iter().next().expect("a node");
    let index = raw::index_of(report.node);
    flip(cluster.node_dir(index), &report.chunks[4]);

    cluster.start_main();
    (0..2).for_each(|index| cluster.start_node(index));
    cluster.wait_alive(2);
    for (path, content) in &files {
        assert!(cli.run(&["cat", path]).stdout == *content, "{path} has other bytes");
    }
    // Without the other node, all but the damaged one can still be read.
    cluster.stop_node(1 - index);
    let unreadable: Vec<_> =
        files.iter().filter(|(path, content)| cli.run(&["cat", path]).stdout != *content).collect();
    assert!(unreadable.len() <= 1, "one flipped bit cost {} files", unreadable.len());
}

#[test]
fn a_node_that_lies_about_what_it_holds_cannot_spoil_a_read() {
    for reads in [Reads::WrongBytes, Reads::NotFound, Reads::HangUp] {
        read_beside(reads, 4);
    }
}

#[test]
fn a_node_that_never_answers_holds_up_a_read_for_a_bounded_time() {
    read_beside(Reads::Silence, 1);
}

/// A file with one copy on a real node and one that a fake node claims to have is read back.
fn read_beside(reads: Reads, times: usize) {
    let cluster = TestCluster::start(1);
    let fake = FakeNode::join(&cluster, reads);
    cluster.wait_alive(2);
    let mut main = cluster.connect().expect("the main server runs");
    let content = store_on_both(&cluster, &fake);
    raw::commit(&mut main, "/file", 2, &[raw::id_of(&content)]).expect("two copies are confirmed");
    for _ in 0..times {
        let run = cluster.cli().run(&["cat", "/file"]);
        assert!(run.stdout == content, "{reads:?}: {}", run.stderr);
    }
    drop(fake);
}

/// Stores a chunk on the real node, which duplicates it to the fake one; returns its bytes.
fn store_on_both(cluster: &TestCluster, fake: &FakeNode) -> Vec<u8> {
    let mut main = cluster.connect().expect("the main server runs");
    let candidates = (0..200).map(|seed| bytes(seed, 100_000));
    let mut places = candidates.map(|c| (raw::place_for(&mut main, 2, &c), c));
    let (place, content) =
        places.find(|(place, _)| place.node != fake.node()).expect("both are used");
    let mut node = cluster.connect_to_node(raw::index_of(place.node)).expect("the node runs");
    let stored = raw::store(&mut node, &place.token, raw::id_of(&content), &content);
    assert_eq!(stored.expect("it is stored").copies, 2);
    content
}
