//! How a node stops, and how it leaves for good.

use std::thread;
use std::time::{Duration, Instant};

use crate::ids::{Incarnation, NodeId, Secret};
use crate::storage_node::{Leaving, Node, NodeConfig, NodeError};
use crate::token::Operation;
use crate::wire::admin::DrainReply;
use crate::wire::node_to_main::{Action, DropMeReply, Order, Target};
use crate::wire::{Fault, FaultCode};

use super::fake_main::{DEADLINE, FakeMain, KnownNode, Told};
use super::talk::*;

#[test]
fn a_stopping_node_says_goodbye_and_when_it_is_back() {
    let main = FakeMain::start();
    let node = join_with(&main, |config| config.back_in = Duration::from_secs(77));
    let number = node.number();
    node.node.stop();
    assert!(main.told_so_far().contains(&Told::DropMe { node: number, back_in_s: Some(77) }));
}

/// Between two heartbeats, too, as here, where there is an order to which it never comes to an end.
#[test]
fn a_node_says_goodbye_before_its_control_connection_ends() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    store(&main, &node.node, 1, b"bytes").unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = NodeId(7);
    let to = main.token(Operation::Duplicate, target, 1, b"bytes");
    let action = Action::Copy { targets: vec![Target { node: target, token: to }] };
    let token = main.token(Operation::Fetch, number, 1, b"bytes");
    main.announce(|books| {
        let (secret, incarnation) = (Secret::random(), Incarnation::random());
        let address = silent.local_addr().unwrap().into();
        books.nodes.insert(target, KnownNode { secret, incarnation, address });
        books.orders.push((number, Order { order: 1, token, action }));
    });
    let _copying = silent.accept().unwrap();
    node.node.stop();
    let told = main.told_so_far();
    let place = |what: &dyn Fn(&Told) -> bool| told.iter().position(what);
    let parted = place(&|told| matches!(told, Told::DropMe { .. })).expect("it says goodbye");
    let ended = place(&|told| matches!(told, Told::ControlEnded { .. }));
    assert!(ended.is_none_or(|ended| parted < ended), "{told:?}");
}

#[test]
fn a_node_without_a_main_server_still_stops() {
    let main = FakeMain::start();
    let node = join(&main);
    main.stop();
    node.node.stop();
}

/// It waited for an answer to its goodbye, to a confirmation, and to a store of its own.
#[test]
fn a_node_stops_soon_though_its_main_server_hangs_and_a_store_waits_for_it() {
    const PATIENCE: Duration = Duration::from_millis(200);
    let main = FakeMain::start();
    let node = join_with(&main, |config| {
        config.limits.parting_patience = PATIENCE;
        config.limits.confirm_patience = DEADLINE;
    });
    main.announce(|books| books.hangs = true);
    thread::scope(|scope| {
        let address = node.node.advertised().clone();
        let token = main.token(Operation::Store, node.number(), 1, b"waits");
        let store = scope.spawn(move || {
            let chunk = (blake3(b"waits"), &b"waits"[..], token);
            store_all(&mut connect_to(&address), &[chunk])
        });
        // It is durable by then, and waits to be confirmed.
        while node.node.counters().stored() == 0 {
            thread::yield_now();
        }
        let began = Instant::now();
        node.node.stop();
        assert!(began.elapsed() < 3 * PATIENCE + Duration::from_secs(3), "{:?}", began.elapsed());
        let fault = store.join().unwrap().unwrap().pop().unwrap().unwrap_err();
        assert_eq!(fault.code, FaultCode::Busy);
    });
}

#[test]
fn a_node_that_leaves_serves_until_all_is_moved_and_then_never_comes_back() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    store(&main, &node.node, 1, b"to be moved").unwrap();
    let drain = DrainReply { chunks_left: 1, bytes_left: 11, ..DrainReply::default() };
    let going = DropMeReply { left: false, drain: Some(drain.clone()) };
    main.announce(|books| books.leaving = Ok(going));
    match node.node.leave(false).unwrap() {
        Leaving::Draining(told) => assert_eq!(told, drain),
        Leaving::Left => panic!("too soon"),
    }
    assert_eq!(fetch(&main, &node.node, 1, b"to be moved").unwrap(), b"to be moved");
    main.announce(|books| books.leaving = Ok(DropMeReply { left: true, drain: None }));
    assert!(matches!(node.node.leave(false).unwrap(), Leaving::Left));
    // As after an answer that was lost.
    assert!(matches!(node.node.leave(false).unwrap(), Leaving::Left));
    let Running { directory, node } = node;
    node.stop();
    assert!(!main.told_so_far().iter().any(|told| matches!(told, Told::DropMe { .. })));
    match Node::start(NodeConfig::new(directory.path())) {
        Err(NodeError::Left(why)) => assert_eq!(why, "struck off"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("node {number} started"),
    }
}

#[test]
fn a_node_with_the_only_copy_of_something_leaves_by_force_alone() {
    let main = FakeMain::start();
    let node = join(&main);
    let mut refusal = Fault::new(FaultCode::WouldLose, "1 chunk has no other copy");
    refusal.files = vec!["/only/here".to_string()];
    main.announce(|books| books.leaving = Err(refusal.clone()));
    assert_eq!(node.node.leave(false).unwrap_err().fault(), Some(&refusal));
    main.await_told(|told| *told == Told::Leave { node: node.number(), force: false });
    main.announce(|books| books.leaving = Ok(DropMeReply { left: true, drain: None }));
    assert!(matches!(node.node.leave(true).unwrap(), Leaving::Left));
    main.await_told(|told| *told == Told::Leave { node: node.number(), force: true });
}

#[test]
fn a_node_that_a_person_struck_off_says_so_and_ends() {
    let main = FakeMain::start();
    let node = join(&main);
    main.announce(|books| {
        books.left.insert(node.number());
    });
    let failure = node.node.failures().recv_timeout(DEADLINE).unwrap();
    assert!(matches!(failure, NodeError::Left(_)), "{failure}");
}
