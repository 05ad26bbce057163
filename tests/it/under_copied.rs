//! Fewer nodes than copies wanted: what is stored says so, and the copies are made up.

use crate::harness::{TestCluster, bytes, raw, until};

#[test]
fn missing_copies_are_said_and_are_made_when_a_node_joins() {
    let mut cluster = TestCluster::start(2);
    let cli = cluster.cli();
    let content = bytes(11, 9 << 20);
    let put = cli.run_with(&["put", "--copies", "3", "-", "/file"], &content);
    assert_eq!(put.code, Some(0), "{}", put.stderr);
    assert!(put.stderr.contains("wait for more copies"), "it does not say so: {}", put.stderr);
    cluster.wait_status("three copies are missing", |status| status.under_copied_chunks == 3);

    cluster.add_node();
    cluster.wait_status("no copy is missing", |status| status.under_copied_chunks == 0);
    cluster.settle_and_check().assert_copies("/file", 3);
}

#[test]
fn missing_copies_are_made_after_a_restart_of_the_main_server_too() {
    let mut cluster = TestCluster::start(2);
    let cli = cluster.cli();
    cli.run_with(&["put", "--copies", "3", "-", "/file"], &bytes(12, 70_000)).ok();
    cluster.main().kill();
    cluster.start_main();
    cluster.wait_alive(2);
    cluster.add_node();
    cluster.wait_status("no copy is missing", |status| status.under_copied_chunks == 0);
    cluster.settle_and_check().assert_copies("/file", 3);
}

#[test]
fn a_commit_that_lacks_copies_has_them_made() {
    let mut cluster = TestCluster::start(2);
    let content = bytes(13, 70_000);
    let mut main = cluster.connect().expect("the main server runs");
    let place = raw::place_for(&mut main, 2, &content);
    let (holder, other) = (raw::index_of(place.node), 1 - raw::index_of(place.node));
    cluster.node(other).kill();
    cluster.wait_alive(1);
    let mut node = cluster.connect_to_node(holder).expect("the node runs");
    let stored = raw::store(&mut node, &place.token, raw::id_of(&content), &content);
    assert_eq!(stored.expect("one copy is durable").copies, 1);
    // A change that is durable makes what came before it so; what the main server had in mind
    // about the missing copy is forgotten all the same.
    cluster.cli().ok(&["mkdir", "/directory"]);
    cluster.main().kill();
    cluster.start_main();
    cluster.start_node(other);
    cluster.wait_alive(2);
    let mut main = cluster.connect().expect("the main server runs");
    until("a commit finds two copies", || {
        raw::commit(&mut main, "/file", 2, &[raw::id_of(&content)]).ok()
    });
    cluster.settle_and_check().assert_copies("/file", 2);
}
