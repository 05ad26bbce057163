//! Nodes come, fall silent, return and go.

use super::*;
use crate::wire::MAX_PREVIOUS;

#[test]
fn a_silent_node_is_suspect_and_then_dead_and_its_next_word_brings_it_back() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    assert_eq!(desk.state(&node), "alive");
    desk.clock.advance(SHORT * 3);
    assert_eq!(desk.state(&node), "suspect");
    desk.clock.advance(SHORT * 9);
    assert_eq!(desk.state(&node), "dead");
    node.heartbeat();
    assert_eq!(desk.state(&node), "alive");
}

#[test]
fn a_node_whose_control_connection_breaks_is_suspect_at_once_and_may_go_on() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    node.control = None;
    until("the node is suspect", || desk.state(&node) == "suspect");
    assert_eq!(code(desk.allocate(1, &[id(1)])), FaultCode::TooFewNodes);
    node.control = Some(node.dial());
    node.heartbeat();
    assert_eq!(desk.state(&node), "alive");
}

#[test]
fn an_old_connection_that_ends_late_takes_nothing_from_the_new_one() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let old = node.control.take();
    node.control = Some(node.dial());
    node.heartbeat();
    drop(old);
    until("the old session is over", || desk.server.server.open_connections() == 1);
    node.heartbeat();
    assert_eq!(desk.state(&node), "alive");
}

#[test]
fn a_returning_node_counts_only_after_its_inventory_was_compared() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node()];
    desk.store(2, id(1), &mut nodes);
    ok(&desk.commit("/f", 2, &[id(1)]));
    let node = &mut nodes[0];
    node.restart().expect("the same directory");
    assert_eq!(desk.state(node), "returning");
    assert_eq!(code(desk.allocate(2, &[id(2)])), FaultCode::TooFewNodes);
    assert_eq!(code_of(&desk.commit("/g", 2, &[id(1)])), Some(FaultCode::NotStored));
    node.heartbeat();
    assert_eq!(desk.state(node), "returning", "a heartbeat is no inventory");
    // It comes back with nothing.
    assert_eq!(node.compare(), 1);
    assert_eq!(desk.state(node), "alive");
    assert_eq!(desk.record(id(1)).copies.len(), 1);
}

#[test]
fn an_inventory_that_agrees_changes_nothing_and_one_that_has_more_is_believed() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node()];
    desk.store(2, id(1), &mut nodes);
    let record = desk.record(id(1));
    let fingerprint = crate::policy::inventory::fingerprint(&id(1));
    let held = HeldChunk { serial: record.serial, length: LENGTH, fingerprint, trashed: false };
    let bucket = crate::policy::inventory::bucket_of(record.serial);
    let digest = crate::policy::inventory::digest([(held.serial, held.length, held.fingerprint)]);
    let buckets = vec![BucketDigest { bucket, count: 1, digest }];
    let inventory = Inventory { from: 0, to: (1 << 41) - 1, buckets: buckets.into() };
    let node = &mut nodes[0];
    let reply = node.control().call(&inventory).expect("compared");
    assert_eq!((reply.differ, reply.next), (Vec::new(), None));

    node.control().call(&Lost { serials: vec![record.serial].into() }).expect("noted");
    assert_eq!(desk.record(id(1)).copies.len(), 1);
    let reply = node.control().call(&inventory).expect("compared");
    assert_eq!(reply.differ, [bucket]);
    let holdings = Holdings { bucket, held: vec![held].into() };
    let reply = node.control().call(&holdings).expect("reconciled");
    assert_eq!((reply.found, reply.lost, reply.unknown), (1, 0, 0));
    assert_eq!(desk.record(id(1)).copies.len(), 2);
    let outside = Holdings { bucket: bucket + 1, held: vec![held].into() };
    assert_eq!(code(node.control().call(&outside)), FaultCode::Invalid);
}

#[test]
fn a_stale_copy_of_a_directory_is_refused() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let backup = node.incarnation;
    node.restart().expect("the same directory");
    let stale =
        AddMe { previous: vec![backup], incarnation: Incarnation::random(), ..node.add_me() };
    let mut connection = node.dial();
    assert_eq!(code(connection.call(&stale)), FaultCode::StaleDirectory);
}

#[test]
fn a_stale_copy_of_a_directory_cannot_speak_for_its_node() {
    let desk = Desk::new(LONG);
    let node = desk.node();
    let (id, secret) = (Some(node.id), Some(node.secret));
    let incarnation = Some(Incarnation::random());
    let hello = Hello { node: id, secret, incarnation, ..Hello::new(Role::Node) };
    let mut copy = desk.dial(&hello).expect("it has the secret");
    assert!(copy.call(&DropMe::default()).is_err());
    assert_eq!(desk.state(&node), "alive");
}

#[test]
fn a_node_is_taken_after_as_many_starts_unheard_of_as_it_can_remember() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let mut previous = vec![node.incarnation];
    previous.resize_with(MAX_PREVIOUS, Incarnation::random);
    let request = AddMe { previous: previous.clone(), ..node.add_me() };
    node.add(node.dial(), &request).expect("the first of them is the registered one");
    previous.push(Incarnation::random());
    let request = AddMe { previous, ..node.add_me() };
    assert_eq!(code(node.dial().call(&request)), FaultCode::Invalid);
}

#[test]
fn a_main_server_that_lacks_later_starts_does_not_call_a_node_stale() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let backup = node.incarnation;
    node.restart().expect("the same directory");
    let unknown_here = AddMe {
        previous: vec![backup],
        incarnation: Incarnation::random(),
        main_incarnation: Some(Incarnation::random()),
        ..node.add_me()
    };
    let fault = node.dial().call(&unknown_here).expect_err("a person must decide");
    let fault = fault.fault().expect("an answer");
    assert_eq!((fault.code, fault.retryable), (FaultCode::Internal, true));
    let seen_here = AddMe { main_incarnation: Some(desk.server.main.incarnation), ..unknown_here };
    assert_eq!(code(node.dial().call(&seen_here)), FaultCode::StaleDirectory);
}

#[test]
fn of_two_nodes_with_one_identity_the_earlier_one_is_told_to_stop_at_once() {
    let desk = Desk::new(LONG);
    let mut node = desk.node();
    node.confirmer().call(&Stored { tokens: List::default() }).expect("at work");
    let place = desk.place(1, id(1));
    let beat = node.beat();
    node.control().send(&beat, &[]).expect("sent");
    let (mut earlier, confirmer) = (node.control.take(), node.confirmer.take());
    node.restart().expect("the copy knows the last incarnation");
    // Whichever came first: the heartbeat is answered now, and not when its time is over.
    let told = earlier.as_mut().expect("it was added").receive::<Heartbeat>();
    assert_eq!(code(told), FaultCode::StaleDirectory);
    let stored = Stored { tokens: vec![place.token].into() };
    assert_eq!(code(confirmer.expect("dialled").call(&stored)), FaultCode::Busy);
    assert_eq!(desk.record(id(1)).copies, []);
}

#[test]
fn a_node_must_be_reachable_where_it_says() {
    let desk = Desk::new(SHORT);
    let mut node = FakeNode::new(&desk);
    let invite = desk.invite();
    node.doorman.reply.lock().expect("no panic").incarnation = Some(Incarnation::random());
    let another = fault(node.join(invite));
    assert_eq!(another.code, FaultCode::Unreachable);
    assert!(another.message.contains("another server answers"), "{}", another.message);
    node.server.stop();
    assert_eq!(code(node.join(invite)), FaultCode::Unreachable);
    let mut there = FakeNode::new(&desk);
    there.secret = node.secret;
    there.join(invite).expect("the invite was used by this very secret");
}

#[test]
fn a_node_of_another_cluster_or_of_another_secret_is_denied() {
    let desk = Desk::new(SHORT);
    let node = desk.node();
    let foreign = AddMe { cluster: Some(ClusterId::random()), ..node.add_me() };
    assert_eq!(code(node.dial().call(&foreign)), FaultCode::Denied);
    let other = AddMe { secret: Secret::random(), ..node.add_me() };
    assert_eq!(code(node.dial().call(&other)), FaultCode::Denied);
    let zone = AddMe { zone: "z".repeat(65), ..node.add_me() };
    assert_eq!(code(node.dial().call(&zone)), FaultCode::Invalid);
}

#[test]
fn tokens_are_made_with_a_new_key_only_after_it_was_acknowledged() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let used = |node: &FakeNode, number| node.claims(&desk.place(1, id(number)).token).key;
    assert_eq!(used(&node, 1), KeyId(1));
    desk.clock.advance(super::keys::KEY_LIFE);
    let reply = node.heartbeat();
    let announced: Vec<KeyId> = reply.keys.iter().map(|key| key.id).collect();
    assert_eq!(announced, [KeyId(1), KeyId(2)]);
    assert_eq!(used(&node, 2), KeyId(1), "the node has not said that it has the new one");
    let old = desk.place(1, id(3));

    node.keys = reply.keys;
    assert_eq!(node.heartbeat().keys.len(), 0);
    assert_eq!(used(&node, 4), KeyId(2));
    node.stored(&old.token).expect("tokens with the key before are still proof");
    let records = desk.catalog.nodes().expect("a catalog");
    assert_eq!(records[0].key, Some(KeyId(2)));
}

#[test]
fn after_a_restart_of_the_main_server_nodes_are_added_anew_and_keep_their_keys() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    desk.store(1, id(1), std::slice::from_mut(&mut node));
    ok(&desk.commit("/f", 1, &[id(1)]));
    let Desk { server, catalog, key, .. } = desk;
    let before = server.main.incarnation;
    drop(server);

    let desk = Desk::on(catalog, key, SHORT);
    node.main = desk.address();
    assert_eq!(desk.state(&node), "suspect");
    let read = desk.client().call(&Locate { chunks: vec![id(1)].into() }).expect("in the books");
    node.claims(&ok(&read.chunks[0]).copies[0].token);
    let early = Stored { tokens: List::default() };
    assert_eq!(code(node.dial().call(&early)), FaultCode::Busy);

    let request = AddMe { main_incarnation: Some(before), ..node.add_me() };
    let reply = node.add(node.dial(), &request).expect("the same start of the node");
    assert!(reply.is_adopted && reply.incarnation != before);
    let foreign = AddMe { main_incarnation: Some(Incarnation::random()), ..node.add_me() };
    let reply = node.add(node.dial(), &foreign).expect("reads go on");
    assert!(!reply.is_adopted, "its history lacks that start");
}
