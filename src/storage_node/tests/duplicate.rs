//! Further copies: at `stored`, by order, and when nodes are in each other's way.

use std::thread;
use std::time::Duration;

use crate::ids::{NodeId, Serial};
use crate::token::{Operation, Token};
use crate::wire::node_to_main::{Action, Order, Target};
use crate::wire::{Fault, FaultCode};

use super::fake_main::{DEADLINE, FakeMain, Told};
use super::talk::*;

const BYTES: &[u8] = b"to be in three places";

#[test]
fn a_stored_chunk_goes_to_all_its_targets_before_it_is_answered() {
    let main = FakeMain::start();
    let [a, b, c] = [join(&main), join(&main), join(&main)];
    for (serial, bytes) in [(1, BYTES.to_vec()), (2, vec![5; 1 << 20])] {
        let targets = vec![b.number(), c.number()];
        main.announce(|books| drop(books.targets.insert(blake3(&bytes), targets)));
        let stored = store(&main, &a.node, serial, &bytes).unwrap();
        assert_eq!(stored.copies, 3);
        assert_eq!(stored.nodes, [a.number(), b.number(), c.number()]);
        for node in [&a, &b, &c] {
            assert!(main.held(node.number()).contains(&Serial(serial)));
            assert_eq!(fetch(&main, &node.node, serial, &bytes).unwrap(), bytes);
        }
        let done = [b.number(), c.number()].to_vec();
        main.await_told(|told| {
            *told == Told::Duplicated { node: a.number(), done: done.clone(), failed: vec![] }
        });
    }
    assert_eq!(b.node.counters().client_bytes(), 0);
    assert_eq!(b.node.counters().node_bytes(), BYTES.len() as u64 + (1 << 20));
    for node in [a, b, c] {
        assert_eq!(node.check().chunks.len(), 2);
    }
}

#[test]
fn a_target_that_fails_is_reported_and_another_takes_its_place() {
    let main = FakeMain::start();
    let [a, b, c, d] = [join(&main), join(&main), join(&main), join(&main)];
    let (gone, number) = (b.number(), a.number());
    b.node.stop();
    main.announce(|books| {
        books.targets.insert(blake3(BYTES), vec![gone, c.number()]);
        books.further.insert(blake3(BYTES), vec![d.number()]);
    });
    let stored = store(&main, &a.node, 1, BYTES).unwrap();
    assert_eq!(stored.nodes, [number, c.number(), d.number()]);
    let told =
        main.await_told(|told| matches!(told, Told::Duplicated { node, .. } if *node == number));
    assert_eq!(told, Told::Duplicated { node: number, done: vec![c.number()], failed: vec![gone] });
    assert_eq!(fetch(&main, &d.node, 1, BYTES).unwrap(), BYTES);
}

#[test]
fn a_chunk_without_a_good_target_left_is_answered_with_the_copies_that_there_are() {
    let main = FakeMain::start();
    let [a, b] = [join(&main), join(&main)];
    let gone = b.number();
    b.node.stop();
    main.announce(|books| drop(books.targets.insert(blake3(BYTES), vec![gone])));
    let stored = store(&main, &a.node, 1, BYTES).unwrap();
    assert_eq!((stored.copies, stored.nodes), (1, vec![a.number()]));
}

#[test]
fn a_connection_that_died_while_it_was_idle_is_no_failed_target() {
    let main = FakeMain::start();
    let [a, b] = [join(&main), join(&main)];
    main.announce(|books| {
        books.targets.insert(blake3(b"one"), vec![b.number()]);
        books.targets.insert(blake3(b"two"), vec![b.number()]);
    });
    assert_eq!(store(&main, &a.node, 1, b"one").unwrap().copies, 2);
    let b = b.restart();
    assert_eq!(store(&main, &a.node, 2, b"two").unwrap().nodes, [a.number(), b.number()]);
}

#[test]
fn an_order_to_copy_is_carried_out_once_and_acknowledged() {
    let main = FakeMain::start();
    let [a, b] = [join(&main), join(&main)];
    store(&main, &a.node, 1, BYTES).unwrap();
    let order = |order, token, to: NodeId| {
        let token_for = main.token(Operation::Duplicate, to, 1, BYTES);
        let targets = vec![Target { node: to, token: token_for }];
        (a.number(), Order { order, token, action: Action::Copy { targets } })
    };
    let good = main.token(Operation::Fetch, a.number(), 1, BYTES);
    let bad = Token::from_text("v1.nothing.good".to_string());
    let orders = vec![order(5, good, b.number()), order(6, bad, b.number())];
    main.announce(|books| books.orders.extend(orders));
    main.await_obeyed();
    assert!(main.held(b.number()).contains(&Serial(1)));
    main.told_so_far();
    assert_eq!(fetch(&main, &b.node, 1, BYTES).unwrap(), BYTES);
    let again = main.told_so_far();
    assert!(!again.iter().any(|told| matches!(told, Told::Stored { .. })), "{again:?}");
}

#[test]
fn orders_to_copy_small_chunks_to_the_same_nodes_travel_together() {
    const CHUNKS: u64 = 300;
    let main = FakeMain::start();
    let [a, b, c] = [join(&main), join(&main), join(&main)];
    let bytes = |serial: u64| serial.to_be_bytes().repeat(512);
    for serial in 1..=CHUNKS {
        store(&main, &a.node, serial, &bytes(serial)).unwrap();
    }
    let order = |serial: u64| {
        let bytes = bytes(serial);
        // Every third goes to another node.
        let to = if serial.is_multiple_of(3) { c.number() } else { b.number() };
        let targets =
            vec![Target { node: to, token: main.token(Operation::Duplicate, to, serial, &bytes) }];
        let token = main.token(Operation::Fetch, a.number(), serial, &bytes);
        (a.number(), Order { order: serial, token, action: Action::Copy { targets } })
    };
    let orders: Vec<_> = (1..=CHUNKS).map(order).collect();
    let syncs = |node: &Running| node.node.shared.member().unwrap().store.sync_count();
    main.announce(|books| books.orders.extend(orders));
    main.await_obeyed();
    assert_eq!(main.held(b.number()).len() as u64, CHUNKS - CHUNKS / 3);
    assert_eq!(main.held(c.number()).len() as u64, CHUNKS / 3);
    assert!(syncs(&b) + syncs(&c) < 20, "{} {}", syncs(&b), syncs(&c));
    for node in [b, c] {
        assert!(node.check().is_sound());
    }
}

#[test]
fn an_order_about_a_copy_that_is_not_here_says_so() {
    let main = FakeMain::start();
    let node = join(&main);
    let token = main.token(Operation::Fetch, node.number(), 3, BYTES);
    let order = Order { order: 1, token, action: Action::Verify {} };
    main.announce(|books| books.orders.push((node.number(), order)));
    let lost = Told::Lost { node: node.number(), serials: vec![Serial(3)] };
    let acknowledged = Told::Acknowledged { node: node.number(), orders: vec![1] };
    // They come on two connections, in either order.
    let first = main.await_told(|told| *told == lost || *told == acknowledged);
    let other = if first == lost { acknowledged } else { lost };
    main.await_told(|told| *told == other);
}

#[test]
fn two_nodes_whose_buffers_are_full_of_stores_for_each_other_both_finish() {
    const EACH: u64 = 6;
    let main = FakeMain::start();
    let tiny = |config: &mut crate::storage_node::NodeConfig| {
        config.limits.client_bytes = 1 << 20;
        config.limits.duplicate_bytes = 1 << 20;
        config.limits.budget_patience = DEADLINE;
    };
    let nodes = [join_with(&main, tiny), join_with(&main, tiny)];
    let bytes = |serial: u64| vec![serial as u8; 1 << 20];
    main.announce(|books| {
        for serial in 0..2 * EACH {
            let other = nodes[1 - (serial % 2) as usize].number();
            books.targets.insert(blake3(&bytes(serial)), vec![other]);
        }
    });
    thread::scope(|scope| {
        for serial in 0..2 * EACH {
            let (main, node) = (&main, &nodes[(serial % 2) as usize].node);
            scope.spawn(move || {
                let stored = store(main, node, serial + 1, &bytes(serial)).unwrap();
                assert_eq!(stored.copies, 2);
            });
        }
    });
    for node in nodes {
        assert_eq!(node.check().chunks.len() as u64, 2 * EACH);
    }
}

#[test]
fn a_store_for_which_there_is_no_memory_is_busy_and_costs_nobody_else_anything() {
    let main = FakeMain::start();
    let node = join_with(&main, |config| {
        config.limits.client_bytes = BYTES.len() as u64;
        config.limits.budget_patience = Duration::ZERO;
        config.limits.confirm_patience = DEADLINE;
    });
    // The first holds all the memory for as long as the main server puts it off.
    main.announce(|books| books.stored_fault = Some(Fault::new(FaultCode::Busy, "later")));
    thread::scope(|scope| {
        let first = scope.spawn(|| store(&main, &node.node, 1, BYTES));
        main.await_told(|told| matches!(told, Told::PutOff));
        let fault = store(&main, &node.node, 2, b"another").unwrap_err();
        assert_eq!((fault.code, fault.retryable), (FaultCode::Busy, true));
        main.announce(|books| books.stored_fault = None);
        assert!(first.join().unwrap().is_ok());
    });
    assert!(store(&main, &node.node, 2, b"another").is_ok());
}
