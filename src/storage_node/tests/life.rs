//! The life with the main server: returns, heartbeats, keys, goodbyes.

use std::time::Duration;

use crate::clock::{Clock, WallTime};
use crate::ids::{Incarnation, KeyId, Serial};
use crate::segments::StoreError;
use crate::token::{Claims, Operation};
use crate::wire::{Fault, FaultCode};

use super::fake_main::{FakeMain, TIME, Told};
use super::talk::*;

#[test]
fn a_main_server_that_started_anew_compares_what_the_node_really_holds() {
    let main = FakeMain::start();
    let clock = Clock::manual(TIME);
    let node = join_with(&main, |config| config.clock = clock.clone());
    let number = node.number();
    // Three buckets of serials: one that agrees, one with a copy that the books lost, one with a
    // copy that the node never had.
    for serial in [1, 5000, 5001, 9000] {
        store(&main, &node.node, serial, format!("chunk {serial}").as_bytes()).unwrap();
    }
    // Long enough that nothing is confirmed again.
    clock.advance(Duration::from_secs(60));
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

/// A put from a pipe cannot be sent again: its chunks must not be forgotten.
#[test]
fn a_main_server_that_started_anew_is_told_of_the_latest_copies_before_all_else() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    for serial in 1..=300 {
        store(&main, &node.node, serial, format!("chunk {serial}").as_bytes()).unwrap();
    }
    let (mut books, address) = main.stop();
    books.copies.clear();
    books.incarnation = Incarnation::random();
    let main = FakeMain::with(books, address);
    let compared = Told::Compared { node: number };
    let mut stored = 0;
    while main.await_told(|told| matches!(told, Told::Stored { .. }) || *told == compared)
        != compared
    {
        stored += 1;
    }
    assert_eq!((stored, main.held(number).len()), (300, 300));
}

#[test]
fn a_main_server_that_was_only_out_of_reach_is_not_asked_to_compare_again() {
    let main = FakeMain::start();
    let node = join(&main);
    let (books, address) = main.stop();
    let main = FakeMain::with(books, address);
    main.await_told(|told| matches!(told, Told::Received { .. }));
    let told = main.told_so_far();
    assert!(!told.iter().any(|told| matches!(told, Told::AddMe { .. })), "{told:?}");
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
fn a_node_that_is_wanted_anew_is_added_and_compared_again() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    main.told_so_far();
    main.announce(|books| books.heartbeat_fault = Some(Fault::new(FaultCode::Busy, "add again")));
    main.await_told(|told| *told == Told::AddMe { node: number });
    main.await_told(|told| *told == Told::Compared { node: number });
}

#[test]
fn a_node_tells_its_own_time_when_it_is_added_and_in_each_heartbeat() {
    let main = FakeMain::start();
    let clock = Clock::manual(WallTime(12345));
    let node = join_with(&main, |config| config.clock = clock.clone());
    let told = |time| Told::Time { node: node.number(), time };
    main.await_told(|it| *it == told(WallTime(12345)));
    clock.set_wall(WallTime(777));
    main.announce(|books| books.announce.push(KeyId(1)));
    main.await_told(|it| *it == told(WallTime(777)));
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

/// Out of inodes, say, or over a quota: `free` is what the store believed.
#[test]
fn a_disk_that_takes_no_more_counts_as_full_for_a_while_though_it_seems_to_have_room() {
    let main = FakeMain::start();
    let clock = Clock::manual(TIME);
    let node = join_with(&main, |config| config.clock = clock.clone());
    let member = node.node.shared.member().unwrap();
    let refused = |free| member.fault(&StoreError::NoSpace { needed: 100, free }).code;
    assert_eq!(refused(99), FaultCode::NoSpace);
    assert_ne!(member.space().free_bytes, 0, "that much was known");
    assert_eq!(refused(1 << 20), FaultCode::NoSpace);
    assert_eq!(member.space().free_bytes, 0);
    clock.advance(Duration::from_secs(60));
    assert_ne!(member.space().free_bytes, 0, "it is tried again");
}
