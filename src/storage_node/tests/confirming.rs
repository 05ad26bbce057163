//! What a node tells of its copies: to whom, by which connection, and when it was not heard.

use std::time::Duration;

use crate::clock::Clock;
use crate::ids::{Incarnation, KeyId, Serial};
use crate::storage_node::batch::StoredCopy;
use crate::token::Operation;
use crate::wire::{Fault, FaultCode};

use super::fake_main::{DEADLINE, FakeMain, TIME, Told};
use super::removal::{await_beats, bytes, wait_until, with_chunks};
use super::talk::*;

#[test]
fn a_copy_of_which_the_main_server_did_not_hear_in_time_counts_once_it_is_reached() {
    let main = FakeMain::start();
    let node = join_with(&main, |config| config.limits.confirm_patience = Duration::from_millis(1));
    let busy = Fault::new(FaultCode::Busy, "later");
    main.announce(|books| books.stored_fault = Some(busy));
    let fault = store(&main, &node.node, 1, &bytes(1)).unwrap_err();
    assert_eq!((fault.code, main.held(node.number()).len()), (FaultCode::Busy, 0));
    main.told_so_far();
    let compared = |told: &Told| *told == Told::Compared { node: node.number() };
    let is_beat = |told: &Told| matches!(told, Told::Beat { .. });
    wait_until(|| {
        main.announce(|books| books.announce.push(KeyId(1)));
        compared(&main.await_told(|told| compared(told) || is_beat(told)))
    });
    assert!(main.held(node.number()).contains(&Serial(1)));
}

/// What went unheard since a slow comparison began waits for a rest in proportion, so that comparisons,
/// which hold confirmations up, do not ask for each other without an end.
#[test]
fn a_slow_comparison_is_not_followed_by_another_at_once() {
    const SLOW: Duration = Duration::from_secs(5);
    let main = FakeMain::start();
    let clock = Clock::manual(TIME);
    let node = join_with(&main, |config| config.clock = clock.clone());
    let comparisons = || {
        await_beats(&main);
        main.books().comparisons
    };
    let aside = &node.node.shared.aside;
    main.told_so_far();
    main.announce(|books| books.compared_hangs = true);
    aside.note_back();
    main.announce(|books| books.announce.push(KeyId(1)));
    main.await_told(|told| *told == Told::Compared { node: node.number() });
    clock.advance(SLOW);
    aside.note_back();
    main.announce(|books| books.compared_hangs = false);
    assert_eq!(comparisons(), 2);
    clock.advance(SLOW * 9 - Duration::from_millis(1));
    assert_eq!(comparisons(), 2);
    clock.advance(Duration::from_millis(1));
    wait_until(|| comparisons() == 3);
}

#[test]
fn copies_are_told_of_to_no_other_main_server_than_that_at_which_the_node_was_added() {
    let main = FakeMain::start();
    // Also late ones are told of for a few times as long only, which a machine may be busy for.
    let patience = Duration::from_millis(300);
    let node = join_with(&main, |config| config.limits.confirm_patience = patience);
    node.node.shared.confirmer.tell_only(Incarnation::random());
    assert_eq!(store(&main, &node.node, 1, &bytes(1)).unwrap_err().code, FaultCode::Busy);
    await_beats(&main);
    assert!(main.held(node.number()).is_empty());
    // Whoever adds it is told, on this connection or the next.
    let fault = Fault::new(FaultCode::Busy, "add again");
    main.announce(|books| books.heartbeat_fault = Some(fault));
    wait_until(|| main.held(node.number()).contains(&Serial(1)));
    wait_until(|| store(&main, &node.node, 2, &bytes(2)).is_ok());
}

#[test]
fn a_connection_that_was_given_up_is_named_in_the_next_heartbeat() {
    let main = FakeMain::start();
    let node = with_chunks(&main, 1);
    let dials = |main: &FakeMain| main.books().dials.clone();
    assert_eq!(dials(&main), [0]);
    let (books, address) = main.stop();
    let main = FakeMain::with(books, address);
    store(&main, &node.node, 2, &bytes(2)).unwrap();
    let used = *dials(&main).last().unwrap();
    assert!(used > 0);
    await_beats(&main);
    assert_eq!(main.books().oldest_dial, used);
}

#[test]
fn a_node_that_stops_begins_its_goodbye_before_it_says_it() {
    let main = FakeMain::start();
    let Running { node, .. } = with_chunks(&main, 1);
    let shared = node.shared.clone();
    node.stop();
    assert!(shared.parting.begin_adding().is_none());
}

#[test]
fn a_node_that_says_goodbye_is_not_added_again() {
    let main = FakeMain::start();
    let node = with_chunks(&main, 1);
    main.told_so_far();
    node.node.shared.parting.begin(DEADLINE);
    let fault = Fault::new(FaultCode::Busy, "add again");
    main.announce(|books| books.heartbeat_fault = Some(fault));
    wait_until(|| node.node.control.as_ref().is_none_or(|control| control.is_finished()));
    let added = |told: &Told| matches!(told, Told::AddMe { .. } | Told::Tried { .. });
    assert!(!main.told_so_far().iter().any(added));
}

/// The main server was told that the copy was lost, and then that it was there.
#[test]
fn what_is_not_held_is_not_told_of_however_it_went() {
    let main = FakeMain::start();
    let node = with_chunks(&main, 1);
    let shared = &node.node.shared;
    let copy = |serial: u64| {
        let token = main.token(Operation::Store, node.number(), serial, &bytes(serial));
        StoredCopy { serial: Serial(serial), id: blake3(&bytes(serial)), token }
    };
    shared.confirmer.lost(Serial(2));
    let answers = shared.confirmer.confirm(vec![copy(2), copy(1)], DEADLINE);
    let codes: Vec<_> = answers.into_iter().map(|one| one.err().map(|fault| fault.code)).collect();
    assert_eq!(codes, [Some(FaultCode::Busy), None]);
    assert_eq!(main.held(node.number()).into_iter().collect::<Vec<_>>(), [Serial(1)]);
}
