//! Fewer nodes than copies wanted: what is stored says so, and the copies are made up.

use crate::harness::{TestCluster, bytes};

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
    cluster.stop_and_check().assert_copies("/file", 3);
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
    cluster.stop_and_check().assert_copies("/file", 3);
}
