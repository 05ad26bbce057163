//! Orders, and the copies that they bring.

use super::*;
use crate::main_server::node::{Given, OrderState, Purpose};
use crate::token::Operation;

/// Two nodes with a committed chunk of which three copies are wanted.
fn under_copied(desk: &Desk) -> [FakeNode; 2] {
    let mut nodes = [desk.node(), desk.node()];
    desk.store(3, id(1), &mut nodes);
    assert_eq!(ok(&desk.commit("/f", 3, &[id(1)])).under_copied_chunks, 1);
    nodes
}

/// The order to copy that one of the nodes has, and which one that is.
pub(super) fn copy_order<'a>(
    nodes: &'a mut [FakeNode],
    desk: &Desk,
) -> (&'a mut FakeNode, Order, Target) {
    let holder = |desk: &Desk| {
        let table = desk.server.main.nodes.lock();
        table.nodes.values().find(|node| !node.orders.is_empty()).map(|node| node.id)
    };
    until("an order was given", || holder(desk).is_some());
    let node = node_of(nodes, holder(desk).expect("it was given"));
    let order = node.heartbeat().orders[0].clone();
    let Action::Copy { targets } = &order.action else { panic!("an order to copy") };
    let target = targets[0].clone();
    (node, order, target)
}

#[test]
fn a_heartbeat_brings_an_order_at_once() {
    let desk = Desk::new(LONG);
    let mut node = desk.node();
    desk.store(1, id(1), std::slice::from_mut(&mut node));
    let beat = node.beat();
    node.control().send(&beat, &[]).expect("sent");
    let read = desk.client().call(&Locate { chunks: vec![id(1)].into() }).expect("stored");
    let token = ok(&read.chunks[0]).copies[0].token.clone();
    let report = BadCopy { token, what: "wrong bytes".to_string() };
    desk.client().call(&report).expect("noted");
    desk.client().call(&report).expect("a repeat");

    let reply = node.control().receive::<Heartbeat>().expect("long before the interval is over");
    assert_eq!(reply.orders.len(), 1);
    assert!(matches!(reply.orders[0].action, Action::Verify {}));
    let claims = node.claims(&reply.orders[0].token);
    assert_eq!((claims.operation, claims.id), (Operation::Fetch, id(1)));
}

#[test]
fn a_report_of_a_bad_copy_needs_the_token_that_it_was_fetched_with() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let place = desk.place(1, id(1));
    let report = |token| desk.client().call(&BadCopy { token, what: String::new() });
    assert_eq!(code(report(place.token.clone())), FaultCode::Denied);
    let mut claims = node.claims(&place.token);
    claims.operation = Operation::Fetch;
    assert_eq!(code(report(claims.mint(&Secret::random()))), FaultCode::Denied);
    assert_eq!(code(report(Token::from_text("x".to_string()))), FaultCode::Denied);
    // With the node's own key, but of another account.
    claims.account = AccountId(2);
    assert_eq!(code(report(claims.mint(&node.keys[0].key))), FaultCode::Denied);
    assert_eq!(node.heartbeat().orders.len(), 0);
}

#[test]
fn an_order_is_sent_again_until_it_is_acknowledged() {
    let desk = Desk::new(SHORT);
    let mut nodes = under_copied(&desk);
    let _third = desk.node();
    let (node, order, _) = copy_order(&mut nodes, &desk);
    assert_eq!(node.heartbeat().orders[0].order, order.order);
    let new = node.dial();
    let _old = node.control.replace(new);
    assert_eq!(node.heartbeat().orders[0].order, order.order, "also on a new connection");
    assert_eq!(node.acknowledge(order.order).orders.len(), 0);
}

#[test]
fn a_node_that_joins_later_gets_the_copies_that_are_missing() {
    let desk = Desk::new(SHORT);
    let mut nodes = under_copied(&desk);
    let mut third = desk.node();
    let (node, order, target) = copy_order(&mut nodes, &desk);
    assert_eq!(node.claims(&order.token).operation, Operation::Fetch);
    assert_eq!(target.node, third.id);
    assert_eq!(third.claims(&target.token).operation, Operation::Duplicate);
    third.stored(&target.token).expect("it counts");
    assert_eq!(node.acknowledge(order.order).orders.len(), 0);
    assert_eq!(desk.record(id(1)).copies.len(), 3);
    until("nothing is missing", || {
        desk.client().call(&Status::default()).expect("admin").under_copied_chunks == 0
    });
}

#[test]
fn a_main_server_finds_the_copies_that_are_missing_when_it_starts() {
    let desk = Desk::new(SHORT);
    let nodes = under_copied(&desk);
    let Desk { server, catalog, key, .. } = desk;
    drop(server);
    let desk = Desk::on(catalog, key, SHORT);
    // Nodes have time to come back.
    desk.clock.advance(SHORT * crate::policy::liveness::DEAD_AFTER);
    desk.server.main.wake_upkeep();
    let known = || desk.client().call(&Status::default()).expect("admin").under_copied_chunks;
    until("the chunk is found", || known() == 1);
    drop(nodes);
}

#[test]
fn an_order_that_is_not_done_in_time_is_given_anew_after_a_pause() {
    let desk = Desk::new(Duration::from_secs(30));
    let nodes = under_copied(&desk);
    let third = desk.node();
    let main = &desk.server.main;
    let given = || {
        let table = main.nodes.lock();
        let all = table.nodes.values().flat_map(|node| node.orders.keys().copied());
        all.collect::<Vec<u64>>()
    };
    // The main server's own thread may be at it too.
    until("an order was given", || given().len() == 1);
    let first = given();
    // Nobody is silent for so long that it would not be alive.
    desk.clock.advance(super::orders::ORDER_LIFE - Duration::from_millis(1));
    for node in nodes.iter().chain([&third]) {
        main.nodes.heard(node.id, node_session(&desk, node.id));
    }
    main.keep_up();
    assert_eq!(given(), first);
    desk.clock.advance(Duration::from_millis(1));
    main.keep_up();
    until("it is taken back, and not given again at once", || given().is_empty());
    desk.clock.advance(Duration::from_secs(10));
    main.keep_up();
    until("it is given anew", || given().len() == 1);
    assert!(given()[0] > first[0]);
}

/// A node that had many large chunks to send over a slow link lost its orders again and again.
#[test]
fn an_order_has_time_while_others_get_done_and_more_for_a_large_chunk() {
    let desk = Desk::new(Duration::from_secs(30));
    let mut node = desk.node();
    let nodes = &desk.server.main.nodes;
    let give = |order: u64, length: u32| {
        let token = Token::from_text(String::new());
        let order = Order { order, token, action: Action::Verify {} };
        let (serial, from, targets) = (Serial(order.order), node.id, Vec::new());
        let purpose = Purpose::Move { serial, from, targets, length };
        assert!(nodes.give(
            node.id,
            Given { order, purpose, since: desk.clock.now(), state: OrderState::Sent }
        ));
    };
    give(1, 0);
    give(2, 0);
    give(3, 10 * 64 * 1024);
    let id = node.id;
    let given = || nodes.lock().nodes[&id].orders.keys().copied().collect::<Vec<u64>>();
    let pass = |seconds: u64| {
        desk.clock.advance(Duration::from_secs(seconds));
        nodes.heard(id, node_session(&desk, id));
        desk.server.main.keep_up();
    };
    pass(59);
    node.acknowledge(1);
    assert_eq!(given(), [2, 3]);
    pass(59);
    assert_eq!(given(), [2, 3]);
    pass(1);
    assert_eq!(given(), [3]);
    pass(9);
    assert_eq!(given(), [3]);
    pass(1);
    assert!(given().is_empty());
}

pub(super) fn node_session(desk: &Desk, node: NodeId) -> u64 {
    let table = desk.server.main.nodes.lock();
    table.nodes[&node].control.as_ref().expect("connected").session
}

#[test]
fn a_copy_that_is_lost_is_made_again() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node(), desk.node()];
    desk.store(3, id(1), &mut nodes);
    ok(&desk.commit("/f", 3, &[id(1)]));
    let serial = desk.record(id(1)).serial;
    nodes[1].control().call(&Lost { serials: vec![serial].into() }).expect("noted");
    assert_eq!(desk.record(id(1)).copies.len(), 2);
    let lost = nodes[1].id;
    let (_, _, target) = copy_order(&mut nodes, &desk);
    assert_eq!(target.node, lost);
}
