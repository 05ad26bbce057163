//! Gets from nodes that are late.

use std::time::Instant;

use super::*;
use crate::client::read_chunk::FIRST_BYTE;

/// A file of some chunks, each on two nodes, the first of which holds its answer to one fetch back.
fn with_a_late_node() -> (Fake, Client, Vec<u8>) {
    let fake = Fake::start(2);
    let (client, bytes) = (fake.client(), sample(5 * CHUNK));
    put_bytes(&client, &bytes, "/file").stored();
    for chunk in bytes.chunks(CHUNK) {
        fake.hold(1, chunk);
        fake.hold(2, chunk);
    }
    fake.make_trouble([Trouble::NodeHolds(1)]);
    (fake, client, bytes)
}

/// The node has seen the end of the fetch that nobody wants any more, and was given no other time
/// for it than until the other node had answered.
fn assert_cut_off(fake: &Fake, since: Instant) {
    while fake.count("cut off") == 0 {
        std::thread::yield_now();
    }
    assert!(since.elapsed() < FIRST_BYTE, "it was waited for until it counted as dead");
}

#[test]
fn a_stream_goes_on_when_the_node_whose_turn_it_is_is_late() {
    let (fake, client, bytes) = with_a_late_node();
    let since = Instant::now();
    assert!(read(&client, "/file", 0..u64::MAX).expect("read") == bytes);
    assert_cut_off(&fake, since);
}

#[test]
fn a_file_is_whole_before_a_late_node_has_answered_and_nothing_is_left_beside_it() {
    let (fake, client, bytes) = with_a_late_node();
    let directory = tempfile::tempdir().expect("a directory");
    let to = directory.path().join("target");
    let since = Instant::now();
    let reports = Reports::default();
    let download = Download { from: path("/file"), version: None, to: to.clone() };
    client.get([download], &reports).expect("the operation as a whole");
    assert!(matches!(reports.only(), Report::Fetched(_)));
    assert!(fs::read(&to).expect("it is there") == bytes);
    assert_cut_off(&fake, since);
    assert_eq!(fake.count("bad_copy"), 0);
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
}

#[test]
fn a_late_fetch_of_a_file_of_one_chunk_is_made_elsewhere_too() {
    let fake = Fake::start(2);
    let (client, bytes) = (fake.client(), sample(CHUNK));
    put_bytes(&client, &bytes, "/file").stored();
    fake.hold(2, &bytes);
    fake.make_trouble([Trouble::NodeHolds(1)]);
    let since = Instant::now();
    assert!(read(&client, "/file", 0..u64::MAX).expect("read") == bytes);
    assert_cut_off(&fake, since);
}

#[test]
fn where_the_copy_that_was_asked_for_instead_is_wrong_a_third_one_is() {
    let fake = Fake::start(3);
    let (client, bytes) = (fake.client(), sample(CHUNK));
    put_bytes(&client, &bytes, "/file").stored();
    fake.hold(2, &bytes);
    fake.hold(3, &bytes);
    fake.make_trouble([Trouble::NodeHolds(1), Trouble::WrongBytes(2)]);
    let since = Instant::now();
    assert!(read(&client, "/file", 0..u64::MAX).expect("read") == bytes);
    assert_cut_off(&fake, since);
    assert_eq!(fake.count("bad_copy"), 1);
}
