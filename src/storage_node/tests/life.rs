//! The life with the main server: returns, heartbeats, keys, goodbyes.

use crate::ids::{Incarnation, KeyId, Serial};
use crate::token::{Claims, Operation};
use crate::wire::FaultCode;

use super::fake_main::{FakeMain, Told};
use super::talk::*;

#[test]
fn a_main_server_that_started_anew_compares_what_the_node_really_holds() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    // Three buckets of serials: one that agrees, one with a copy that the books lost, one with a
    // copy that the node never had.
    for serial in [1, 5000, 5001, 9000] {
        store(&main, &node.node, serial, format!("chunk {serial}").as_bytes()).unwrap();
    }
    let (mut books, address) = main.stop();
    let copies = books.copies.get_mut(&number).unwrap();
    copies.remove(&Serial(5001));
    copies.insert(Serial(9001), (1, 1));
    copies.insert(Serial(1 << 40), (1, 1));
    books.incarnation = Incarnation::random();
    let main = FakeMain::with(books, address);
    main.await_told(|told| *told == Told::AddMe { node: number });
    main.await_told(|told| *told == Told::Compared { node: number });
    let held: Vec<u64> = main.held(number).into_iter().map(|serial| serial.0).collect();
    assert_eq!(held, [1, 5000, 5001, 9000]);
}

#[test]
fn a_main_server_that_was_only_out_of_reach_is_not_asked_to_compare_again() {
    let main = FakeMain::start();
    let node = join(&main);
    let (books, address) = main.stop();
    let main = FakeMain::with(books, address);
    let told = main.await_told(|_| true);
    assert!(matches!(told, Told::Received { .. }), "{told:?}");
    store(&main, &node.node, 1, b"goes on").unwrap();
}

#[test]
fn a_new_key_is_safe_on_disk_before_it_is_acknowledged_and_the_old_one_stays_good() {
    let main = FakeMain::start();
    let node = join(&main);
    store(&main, &node.node, 1, b"x").unwrap();
    let old = main.token(Operation::Fetch, node.number(), 1, b"x");
    let new = {
        let books = main.books();
        let claims = books.claims(Operation::Fetch, node.number(), blake3(b"x"), 1);
        books.mint(&Claims { key: KeyId(2), length: 1, ..claims })
    };
    let fetched = |node: &Running, token| {
        let chunk = crate::wire::to_node::FetchChunk { token, offset: 0, length: None };
        fetch_all(&mut node.connect(), vec![chunk]).unwrap().pop().unwrap()
    };
    assert_eq!(fetched(&node, new.clone()).unwrap_err().code, FaultCode::TokenExpired);
    main.announce(|books| books.announce.push(KeyId(2)));
    main.await_told(|told| *told == Told::Key { node: node.number(), key: KeyId(2) });
    assert!(fetched(&node, new.clone()).is_ok() && fetched(&node, old.clone()).is_ok());
    main.announce(|books| books.key = KeyId(2));
    let node = node.restart();
    assert!(fetched(&node, new).is_ok() && fetched(&node, old).is_ok());
}

#[test]
fn a_heartbeat_counts_what_clients_sent() {
    let main = FakeMain::start();
    let node = join(&main);
    store(&main, &node.node, 1, &[1; 1000]).unwrap();
    store(&main, &node.node, 2, &[2; 234]).unwrap();
    // An announcement of nothing new makes the next heartbeats come.
    main.announce(|books| books.announce.push(KeyId(1)));
    main.await_told(|told| *told == Told::Received { node: node.number(), bytes: 1234 });
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_or_stored_and_reads_go_on() {
    let main = FakeMain::start();
    let node = join(&main);
    store(&main, &node.node, 1, b"before").unwrap();
    node.node.shared.member().unwrap().store.fail_next_sync();
    for serial in [2, 3] {
        let fault = store(&main, &node.node, serial, b"after").unwrap_err();
        assert_eq!(fault.code, FaultCode::Internal);
    }
    assert_eq!(main.held(node.number()).len(), 1);
    assert_eq!(fetch(&main, &node.node, 1, b"before").unwrap(), b"before");
    main.announce(|books| books.announce.push(KeyId(1)));
    main.await_told(|told| *told == Told::Failed { node: node.number() });
}

#[test]
fn a_stopping_node_says_goodbye() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    node.node.stop();
    assert!(main.told_so_far().contains(&Told::DropMe { node: number }));
}

#[test]
fn a_node_without_a_main_server_still_stops() {
    let main = FakeMain::start();
    let node = join(&main);
    main.stop();
    node.node.stop();
}

#[test]
fn metrics_say_what_was_stored_and_read() {
    let main = FakeMain::start();
    let node = join(&main);
    store(&main, &node.node, 1, b"four").unwrap();
    let mut page = crate::metrics::Page::default();
    node.node.metrics()(&mut page);
    let text = page.text();
    for line in [
        "p2pdfs_node_chunks 1\n",
        "p2pdfs_node_received_bytes_total{from=\"client\"} 4\n",
        "p2pdfs_node_stored_chunks_total 1\n",
        "p2pdfs_node_failed 0\n",
        "# TYPE p2pdfs_node_space_bytes gauge\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
}
