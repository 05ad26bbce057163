//! Nodes die, come back, leave and fill up: the promise of a constant number of copies.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use p2pdfs::client::Quiet;
use p2pdfs::remote_path::RemotePath;
use p2pdfs::wire::to_main::StatusReply;

use crate::harness::mixed::client;
use crate::harness::{Random, Setup, TestCluster, bytes, is_at_rest, raw};

/// What the test cluster's heartbeat makes of "dead after 12 intervals".
const DEAD_AFTER: Duration = Duration::from_millis(12 * 500);

fn state_of(status: &StatusReply, index: usize) -> &str {
    let node = status.nodes.iter().find(|node| node.node == raw::node_at(index));
    node.map_or("not there", |node| node.state.as_str())
}

fn put(cluster: &TestCluster, path: &str, copies: u8, content: &[u8]) {
    cluster.cli().run_with(&["put", "--copies", &copies.to_string(), "-", path], content).ok();
}

#[test]
fn a_dead_nodes_copies_are_made_anew_and_reads_never_fail_meanwhile() {
    let mut cluster = TestCluster::start(4);
    let contents: Vec<_> = (0..12).map(|number| bytes(100 + number, 5 << 20)).collect();
    for (number, content) in contents.iter().enumerate() {
        put(&cluster, &format!("/file-{number}"), 2, content);
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = client(&cluster);
        let (contents, is_over) = (&contents, &is_over);
        scope.spawn(move || {
            for number in (0..contents.len()).cycle() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let path: RemotePath = format!("/file-{number}").parse().expect("a path");
                let mut read = Vec::new();
                let done = reader.read(&path, None, 0..u64::MAX, &mut read, &Quiet);
                done.unwrap_or_else(|error| panic!("{path}: {error}"));
                assert!(read == contents[number], "{path} has other bytes");
            }
        });
        let killed = Instant::now();
        cluster.node(1).kill();
        cluster.wait_status("the node is dead", |status| state_of(status, 1) == "dead");
        let silent = killed.elapsed();
        assert!(silent + Duration::from_millis(500) >= DEAD_AFTER, "dead after {silent:?} already");
        cluster.wait_status("every chunk has its copies", is_at_rest);
        is_over.store(true, Ordering::SeqCst);
    });

    // It comes back: its copies are too many now, and are trimmed.
    cluster.start_node(1);
    cluster.wait_alive(4);
    cluster.wait_status("no copy is too many", is_at_rest);
    let witness = cluster.stop_and_check();
    witness.assert_copies("/", 2);
}

#[test]
fn a_chunk_that_is_down_to_one_copy_is_repaired_before_its_node_is_dead() {
    let mut cluster = TestCluster::start(3);
    put(&cluster, "/two", 2, &bytes(120, 3 << 20));
    let holders: BTreeSet<_> = holders(&cluster, "/two");
    let victim = *holders.first().expect("it has two copies");
    cluster.node(victim).kill();
    let status = cluster.wait_status("it has two copies again", |status| {
        state_of(status, victim) != "alive" && status.is_surveyed && status.under_copied_chunks == 0
    });
    assert_eq!(state_of(&status, victim), "suspect", "it waited until the node was dead");
    cluster.start_node(victim);
    cluster.wait_alive(3);
    cluster.wait_status("no copy is too many", is_at_rest);
    cluster.stop_and_check().assert_copies("/", 2);
}

fn holders(cluster: &TestCluster, path: &str) -> BTreeSet<usize> {
    let mut main = cluster.connect().expect("the main server runs");
    let chunks = raw::open(&mut main, path);
    let nodes = chunks.iter().flat_map(|chunk| &chunk.copies).map(|copy| raw::index_of(copy.node));
    nodes.collect()
}

#[test]
fn a_planned_stop_starts_no_repair() {
    let mut cluster = TestCluster::start(4);
    put(&cluster, "/file", 3, &bytes(130, 9 << 20));
    let victim = *holders(&cluster, "/file").first().expect("a copy");
    let copies = cluster.status().copies;
    cluster.stop_node(victim);
    cluster.wait_status("it has said goodbye", |s| state_of(s, victim) == "stopped");
    // What would have been ordered, would have been before this is answered.
    put(&cluster, "/other", 1, &bytes(131, 10));
    cluster.start_node(victim);
    cluster.wait_alive(4);
    cluster.wait_status("all is well", is_at_rest);
    assert_eq!(cluster.status().copies, copies + 1, "copies were made while it was away");
    cluster.stop_and_check().assert_copies("/file", 3);
}

#[test]
fn when_many_nodes_vanish_together_the_main_server_suspects_itself() {
    let mut cluster = TestCluster::start(5);
    put(&cluster, "/file", 3, &bytes(140, 9 << 20));
    let copies = cluster.status().copies;
    (0..3).for_each(|index| cluster.node(index).signal("STOP"));
    let status = cluster.wait_status("three nodes are dead", |status| {
        (0..3).all(|index| state_of(status, index) == "dead")
    });
    let notice = status.notices.iter().find(|notice| notice.code == "mass_silence");
    let notice = notice.unwrap_or_else(|| panic!("it does not say so: {:?}", status.notices));
    assert!(notice.message.contains('3'), "without its numbers: {}", notice.message);
    assert_eq!(status.copies, copies, "it repaired all the same");
    (0..3).for_each(|index| cluster.node(index).signal("CONT"));
    cluster.wait_alive(5);
    let status = cluster.wait_status("all is well", is_at_rest);
    assert_eq!(status.copies, copies);
    assert!(!status.notices.iter().any(|notice| notice.code == "mass_silence"));

    // When they are really gone, a person says so.
    (0..2).for_each(|index| cluster.node(index).kill());
    cluster.wait_status("two nodes are dead", |status| {
        (0..2).all(|index| state_of(status, index) == "dead")
            && status.notices.iter().any(|notice| notice.code == "mass_silence")
    });
    cluster.cli().ok(&["admin", "adopt", "silence"]);
    cluster.wait_status("every chunk has its copies", is_at_rest);
    assert_eq!(holders(&cluster, "/file").intersection(&(2..5).collect()).count(), 3);
}

#[test]
fn a_drained_node_can_go_and_the_only_copy_of_anything_cannot() {
    let mut cluster = TestCluster::start(3);
    put(&cluster, "/one", 1, &bytes(150, 5 << 20));
    put(&cluster, "/two", 2, &bytes(151, 5 << 20));
    let victim = *holders(&cluster, "/one").first().expect("a copy");
    let number = raw::node_at(victim).to_string();
    let cli = cluster.cli();
    let refused = cli.run(&["admin", "forget", "--yes", &number]);
    refused.failed(1, &["/one"]);
    cli.ok(&["admin", "drain", "--wait", &number]);
    cluster.wait_status("all has its copies", is_at_rest);
    assert!(!holders(&cluster, "/one").contains(&victim));
    assert!(!holders(&cluster, "/two").contains(&victim));
    cli.ok(&["admin", "forget", "--yes", &number]);
    cluster.node(victim).wait();
    let said = cluster.try_start_node(victim).expect_err("it was struck off");
    assert!(said.contains("struck off"), "{said}");
    cluster.wait_status("all has its copies", is_at_rest);
    assert_eq!(cli.run(&["cat", "/one"]).stdout, bytes(150, 5 << 20));
}

#[test]
fn copies_wanted_can_be_changed_up_and_down() {
    let mut cluster = TestCluster::start(4);
    let cli = cluster.cli();
    put(&cluster, "/tree/a", 1, &bytes(160, 3 << 20));
    put(&cluster, "/tree/b", 2, &bytes(161, 100));
    cli.ok(&["copies", "3", "/tree"]);
    cluster.wait_status("all has its copies", is_at_rest);
    assert_eq!(holders(&cluster, "/tree/a").len(), 3);
    cli.ok(&["copies", "1", "/tree/a"]);
    cluster.wait_status("no copy is too many", |status| is_at_rest(status) && status.copies == 4);
    let witness = cluster.stop_and_check();
    witness.assert_copies("/tree/a", 1);
    witness.assert_copies("/tree/b", 3);
}

#[test]
fn where_no_node_has_room_a_file_stays_readable_and_visibly_under_copied() {
    let mut cluster = Setup::new(2).space("40M").start();
    let content = bytes(170, 20 << 20);
    put(&cluster, "/file", 2, &content);
    cluster.node(0).kill();
    cluster.add_node_offering("8M");
    cluster.wait_status("the node is dead", |status| state_of(status, 0) == "dead");
    let short = cluster.wait_status("what fits is copied", |status| {
        status.is_surveyed && (1..5).contains(&status.under_copied_chunks)
    });
    assert!(short.single_copy_chunks > 0);
    assert!(cluster.cli().run(&["cat", "/file"]).stdout == content);
    cluster.add_node_offering("100M");
    cluster.wait_status("there is room again", |status| {
        status.is_surveyed && status.under_copied_chunks == 0
    });
    assert!(cluster.cli().run(&["cat", "/file"]).stdout == content);
}

#[test]
fn removed_files_free_their_space_in_the_end() {
    let setup = Setup::new(2).space("64M");
    let mut cluster = setup.node_args(&["--segment", "4M", "--trash-hold", "1ms"]).start();
    let mut random = Random::new(7);
    // Several times what the nodes can hold together.
    for round in 0..8 {
        let content = random.bytes(20 << 20);
        put(&cluster, "/file", 2, &content);
        assert!(cluster.cli().run(&["cat", "/file"]).stdout == content, "round {round}");
        cluster.cli().ok(&["rm", "--purge", "/file"]);
        cluster.wait_status("it is deleted on the nodes", |status| {
            status.chunks == 0 && status.deletes.condemned_copies == 0
        });
    }
    let witness = cluster.stop_and_check();
    assert!(witness.nodes.values().all(|report| report.chunks.is_empty()));
}
