//! From `allocate` to `commit`.

use super::copying::copy_order;
use super::*;
use crate::token::Operation;

#[test]
fn a_chunk_is_allocated_stored_duplicated_and_committed() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node(), desk.node()];
    let place = desk.place(3, id(1));
    let holder = node_of(&mut nodes, place.node);
    let claims = holder.claims(&place.token);
    assert_eq!((claims.operation, claims.id, claims.length), (Operation::Store, id(1), LENGTH));
    let targets = holder.stored(&place.token).expect("it counts").targets;
    assert_eq!(targets.len(), 2);
    for target in &targets {
        let node = node_of(&mut nodes, target.node);
        let duplicate = node.claims(&target.token);
        assert_eq!(duplicate.operation, Operation::Duplicate);
        assert_eq!(duplicate.serial, claims.serial);
        assert_eq!(node.stored(&target.token).expect("it counts").targets, []);
    }
    let stored = desk.allocate(3, &[id(1)]).expect("an answer");
    assert_eq!(ok(&stored.chunks[0]), &Allocated::Stored { copies: 3 });
    let committed = desk.commit("/f", 3, &[id(1)]);
    assert_eq!(ok(&committed).under_copied_chunks, 0);
    let holders: Vec<NodeId> = desk.record(id(1)).copies.iter().map(|copy| copy.node).collect();
    assert_eq!(holders, [NodeId(1), NodeId(2), NodeId(3)]);
}

#[test]
fn an_invented_or_foreign_confirmation_is_refused() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node()];
    let place = desk.place(1, id(1));
    let other = nodes.iter_mut().find(|node| node.id != place.node).expect("another");
    let refused = other.stored(&place.token).expect_err("the token is for another node");
    assert_eq!(refused.code, FaultCode::Denied);

    let holder = node_of(&mut nodes, place.node);
    let mut claims = holder.claims(&place.token);
    claims.id = id(2);
    let invented = claims.mint(&Secret::random());
    assert_eq!(holder.stored(&invented).expect_err("invented").code, FaultCode::Denied);
    let nothing = Token::from_text("v1.AAAA.BBBB".to_string());
    assert_eq!(holder.stored(&nothing).expect_err("no token").code, FaultCode::Denied);
    assert_eq!(desk.record(id(1)).copies, []);

    holder.stored(&place.token).expect("its own token");
    let reading = desk.client().call(&Locate { chunks: vec![id(1)].into() }).expect("stored");
    let fetch = ok(&reading.chunks[0]).copies[0].token.clone();
    let refused = holder.stored(&fetch).expect_err("a token to fetch proves nothing");
    assert_eq!(refused.code, FaultCode::Denied);
}

#[test]
fn a_repeated_confirmation_changes_nothing_and_a_late_one_counts() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let place = desk.place(1, id(1));
    node.stored(&place.token).expect("it counts");
    let before = desk.record(id(1));
    node.stored(&place.token).expect("a repeat");
    assert_eq!(desk.record(id(1)), before);

    let late = desk.place(1, id(2));
    desk.clock.advance(Duration::from_secs(24 * 3600));
    node.stored(&late.token).expect("what was once allowed stays so");
    assert_eq!(desk.record(id(2)).copies.len(), 1);
}

#[test]
fn a_chunk_counts_as_stored_on_enough_live_nodes_alone() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node(), desk.node()];
    let place = desk.place(2, id(1));
    let confirmed = node_of(&mut nodes, place.node).stored(&place.token).expect("it counts");
    assert_eq!(confirmed.targets.len(), 1);
    // One copy is not enough, and its holder is the place to store it again.
    let again = desk.place(2, id(1));
    assert_eq!(again.node, place.node);
    assert_eq!(code_of(&desk.commit("/f", 2, &[id(1)])), Some(FaultCode::NotStored));

    let target = &confirmed.targets[0];
    node_of(&mut nodes, target.node).stored(&target.token).expect("it counts");
    ok(&desk.commit("/f", 2, &[id(1)]));
}

#[test]
fn a_commit_does_not_count_a_copy_on_a_node_that_died_before_it_forwarded() {
    let desk = Desk::new(LONG);
    let mut nodes = vec![desk.node(), desk.node(), desk.node()];
    let place = desk.place(2, id(1));
    let targets = node_of(&mut nodes, place.node).stored(&place.token).expect("it counts").targets;
    node_of(&mut nodes, targets[0].node).stored(&targets[0].token).expect("it counts");
    // The holder dies while the main server holds its heartbeat back.
    let at = nodes.iter().position(|node| node.id == place.node).expect("one of them");
    let mut dead = nodes.remove(at);
    let beat = dead.beat();
    dead.control().send(&beat, &[]).expect("sent");
    drop(dead.control.take());
    until("the node is suspect", || desk.state(&dead) == "suspect");

    let refused = desk.commit("/f", 2, &[id(1)]);
    assert_eq!(code_of(&refused), Some(FaultCode::NotStored));
    // The copy that lives is the place to try again, and its node is told to make the missing one.
    assert_eq!(desk.place(2, id(1)).node, targets[0].node);
    let (holder, _, target) = copy_order(&mut nodes, &desk);
    assert_eq!(holder.id, targets[0].node);
    assert!(target.node != dead.id && target.node != targets[0].node);
    node_of(&mut nodes, target.node).stored(&target.token).expect("it counts");
    ok(&desk.commit("/f", 2, &[id(1)]));
}

#[test]
fn no_node_or_too_few_of_them_is_said_with_what_is_wrong_with_each() {
    let desk = Desk::new(SHORT);
    let none = fault(desk.allocate(2, &[id(1)]));
    assert_eq!(none.code, FaultCode::TooFewNodes);
    assert!(none.message.contains("no node has joined"), "{}", none.message);

    let (_alive, mut gone) = (desk.node(), desk.node());
    gone.control().call(&DropMe::default()).expect("it goes");
    let few = fault(desk.allocate(3, &[id(1), id(2)]));
    assert_eq!((few.code, few.retryable), (FaultCode::TooFewNodes, true));
    assert!(few.message.contains("2 copies are safe, but only 1 node is there"), "{}", few.message);
    let said: Vec<_> = few.nodes.iter().map(|n| (n.why.as_str(), n.detail.as_str())).collect();
    assert_eq!(said, [("ok", "1.0 GiB free"), ("stopped", "it was stopped")]);
    desk.allocate(1, &[id(1)]).expect("one copy can be had");
}

#[test]
fn full_nodes_are_said_to_be_full_and_what_is_promised_counts() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    node.space.free_bytes = u64::from(LENGTH);
    node.heartbeat();
    let two = desk.allocate(1, &[id(1), id(2)]).expect("one of them");
    assert!(matches!(ok(&two.chunks[0]), Allocated::Store(_)));
    assert_eq!(code_of(&two.chunks[1]), Some(FaultCode::NoSpace));

    let full = fault(desk.allocate(1, &[id(3)]));
    assert_eq!(full.code, FaultCode::NoSpace);
    assert!(full.message.contains("no node has 5 B free"), "{}", full.message);
    assert_eq!((full.nodes[0].why.as_str(), full.nodes.len()), ("full", 1));
    // Once the token is void, nobody can come with the bytes any more.
    desk.clock.advance(Duration::from_secs(17 * 60));
    node.heartbeat();
    desk.allocate(1, &[id(3)]).expect("room again");
}

#[test]
fn with_fewer_nodes_than_copies_but_enough_it_goes_on_under_copied() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node()];
    desk.store(3, id(1), &mut nodes);
    assert_eq!(ok(&desk.commit("/f", 3, &[id(1)])).under_copied_chunks, 1);
    let status = desk.client().call(&Status::default()).expect("an admin's right");
    assert_eq!(status.under_copied_chunks, 1);
}

#[test]
fn a_chunk_that_is_named_twice_goes_to_one_place() {
    let desk = Desk::new(SHORT);
    let _nodes = [desk.node(), desk.node(), desk.node()];
    let reply = desk.allocate(1, &[id(1), id(2), id(1), id(1)]).expect("places");
    assert_eq!(reply.chunks[0], reply.chunks[2]);
    assert_eq!(reply.chunks[0], reply.chunks[3]);
}

#[test]
fn a_bad_item_costs_only_itself() {
    let desk = Desk::new(SHORT);
    let _node = desk.node();
    let lengths = [0, LENGTH, MAX_CHUNK_BYTES + 1, MAX_CHUNK_BYTES];
    let chunks = (1..).zip(lengths).map(|(n, length)| AllocateChunk { id: id(n), length });
    let request = Allocate { copies: 1, chunks: chunks.collect() };
    let reply = desk.client().call(&request).expect("an answer");
    let codes: Vec<_> = reply.chunks.iter().map(code_of).collect();
    let invalid = Some(FaultCode::Invalid);
    assert_eq!(codes, [invalid, None, invalid, None]);
    for copies in [0, MAX_COPIES + 1] {
        assert_eq!(code(desk.allocate(copies, &[id(1)])), FaultCode::Invalid);
    }
    let bad = desk.commit("/../f", 1, &[]);
    assert_eq!(code_of(&bad), Some(FaultCode::BadName));
}

#[test]
fn a_target_that_failed_is_replaced_by_another_until_there_is_none() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node(), desk.node(), desk.node()];
    let place = desk.place(2, id(1));
    let holder = node_of(&mut nodes, place.node);
    let first = holder.stored(&place.token).expect("it counts").targets;
    assert_eq!(first.len(), 1);
    assert_eq!(holder.stored(&place.token).expect("a repeat").targets, [], "it is on its way");
    let second = holder.failed(&place.token, &[first[0].node]);
    assert_eq!(second.len(), 1);
    let third = holder.failed(&place.token, &[second[0].node]);
    assert_eq!(third.len(), 1);
    let mut tried = vec![place.node, first[0].node, second[0].node, third[0].node];
    tried.sort_unstable();
    tried.dedup();
    assert_eq!(tried.len(), 4, "each was tried once");
    assert_eq!(holder.failed(&place.token, &[third[0].node]), []);
}
