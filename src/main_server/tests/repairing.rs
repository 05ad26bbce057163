//! Nodes die, return and fill up, and the copies are as many as wanted in the end.

use super::*;
use crate::policy::liveness::{DEAD_AFTER, SUSPECT_AFTER};

/// Nodes with some committed chunks, of `copies` copies each.
pub(super) fn stored(desk: &Desk, count: u32, copies: u8, chunks: u32) -> Vec<FakeNode> {
    let mut nodes: Vec<FakeNode> = (0..count).map(|_| desk.node()).collect();
    for number in 1..=chunks {
        desk.store(copies, id(number), &mut nodes);
        ok(&desk.commit(&format!("/{number}"), copies, &[id(number)]));
    }
    nodes
}

/// Lets nodes do what they are told, until the main server has nothing more to say.
pub(super) fn work(nodes: &mut [FakeNode]) -> usize {
    let mut done = 0;
    for at in 0..nodes.len() {
        for order in nodes[at].heartbeat().orders.into_vec() {
            carry_out(nodes, at, &order);
            done += 1;
        }
    }
    done
}

fn carry_out(nodes: &mut [FakeNode], at: usize, order: &Order) {
    if let Action::Copy { targets } = &order.action {
        for target in targets {
            if let Some(node) = nodes.iter_mut().find(|node| node.id == target.node) {
                let _ = node.stored(&target.token);
            }
        }
    }
    nodes[at].acknowledge(order.order);
}

/// Lets nodes work until it is so.
pub(super) fn work_until(what: &str, nodes: &mut [FakeNode], is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        work(nodes);
    }
}

/// Lets time pass in which these nodes, and no others, are heard.
pub(super) fn pass(desk: &Desk, nodes: &mut [FakeNode], intervals: u32) {
    let main = &desk.server.main;
    for _ in 0..intervals {
        desk.clock.advance(SHORT);
        for node in nodes.iter_mut() {
            main.nodes.heard(node.id, super::copying::node_session(desk, node.id));
        }
    }
    main.keep_up();
}

pub(super) fn status(desk: &Desk) -> StatusReply {
    desk.client().call(&Status::default()).expect("an admin's right")
}

/// True when all chunks were counted, and nothing is wrong with any of them.
pub(super) fn is_well(desk: &Desk) -> bool {
    let status = status(desk);
    let RepairStatus { chunks_left, bytes_left, moves_left, surplus_copies, .. } = status.repair;
    let left = [chunks_left, bytes_left, moves_left, surplus_copies];
    let wrong = [
        status.under_copied_chunks,
        status.single_copy_chunks,
        status.unreadable_chunks,
        status.lost_chunks,
        status.files_at_risk,
    ];
    status.is_surveyed && left == [0; 4] && wrong == [0; 5]
}

fn copies_on(desk: &Desk, number: u32, nodes: &[FakeNode]) -> usize {
    let record = desk.record(id(number));
    record.copies.iter().filter(|copy| nodes.iter().any(|node| node.id == copy.node)).count()
}

fn orders(desk: &Desk) -> usize {
    let table = desk.server.main.nodes.lock();
    table.nodes.values().map(|node| node.orders.len()).sum()
}

/// The node's connection breaks.
fn cut(desk: &Desk, node: &mut FakeNode) {
    (node.control, node.confirmer) = (None, None);
    until("it is suspect", || desk.state(node) == "suspect");
}

#[test]
fn a_dead_nodes_chunks_are_copied_and_all_numbers_fall_to_nothing() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 5, 3, 12);
    until("all is counted", || is_well(&desk));
    let mut dead = nodes.remove(0);
    cut(&desk, &mut dead);
    let lacking = (1..=12).filter(|&number| copies_on(&desk, number, &nodes) < 3).count() as u64;
    assert!(lacking > 0);
    until("it is seen", || status(&desk).under_copied_chunks == lacking);
    pass(&desk, &mut nodes, DEAD_AFTER - 1);
    assert_eq!((desk.state(&dead).as_str(), orders(&desk)), ("suspect", 0), "it may be back soon");
    pass(&desk, &mut nodes, 1);
    assert_eq!(desk.state(&dead), "dead");
    work_until("all copies are made", &mut nodes, || is_well(&desk));
    assert!((1..=12).all(|number| copies_on(&desk, number, &nodes) == 3));
}

#[test]
fn a_chunk_down_to_one_copy_gets_a_second_at_once() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 4, 2, 16);
    let mut silent = nodes.remove(0);
    let single = (1..=16).filter(|&number| copies_on(&desk, number, &nodes) == 1).count() as u64;
    assert!(single > 0);
    cut(&desk, &mut silent);
    until("it is seen", || status(&desk).single_copy_chunks == single);
    until("the files are known", || status(&desk).files_at_risk == single);
    work_until("each has two", &mut nodes, || is_well(&desk));
    assert_eq!(desk.state(&silent), "suspect");
}

#[test]
fn a_planned_stop_starts_no_repair_until_its_time_is_over() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 5, 3, 6);
    let mut gone = nodes.remove(0);
    gone.control().call(&DropMe { back_in_s: Some(2), ..DropMe::default() }).expect("it goes");
    (gone.control, gone.confirmer) = (None, None);
    assert_eq!(desk.state(&gone), "stopped");
    pass(&desk, &mut nodes, 90);
    until("all is counted", || status(&desk).is_surveyed);
    assert_eq!((desk.state(&gone).as_str(), orders(&desk)), ("stopped", 0));
    pass(&desk, &mut nodes, 10);
    assert_eq!(desk.state(&gone), "dead");
    work_until("all copies are made", &mut nodes, || is_well(&desk));
    assert!((1..=6).all(|number| copies_on(&desk, number, &nodes) == 3));
}

// All of its chunks that had one other copy were copied while it was compared.
#[test]
fn a_planned_stop_starts_no_repair_when_the_node_is_back_either() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 3, 2, 6);
    nodes[0].control().call(&DropMe { back_in_s: Some(60), ..DropMe::default() }).expect("it goes");
    let all: Vec<Serial> = (1..=6).map(|number| desk.record(id(number)).serial).collect();
    let look = |desk: &Desk| {
        desk.server.main.see_to(all.clone());
        desk.server.main.keep_up();
        until("all is judged", || status(desk).is_surveyed);
    };
    look(&desk);
    nodes[0].restart().expect("the same directory");
    assert_eq!(desk.state(&nodes[0]), "returning");
    look(&desk);
    assert_eq!(orders(&desk), 0, "it has come back as it said");
}

#[test]
fn when_many_fall_silent_together_repair_waits_and_says_why_until_a_person_decides() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 5, 3, 10);
    let mut silent = nodes.split_off(3);
    silent.iter_mut().for_each(|node| (node.control, node.confirmer) = (None, None));
    for node in &silent {
        until("it is suspect", || desk.state(node) == "suspect");
    }
    pass(&desk, &mut nodes, DEAD_AFTER);
    until("all is counted", || status(&desk).is_surveyed);
    assert!(silent.iter().all(|node| desk.state(node) == "dead"));
    let notices = status(&desk).notices;
    assert_eq!(notices[0].code, "mass_silence");
    assert!(notices[0].message.starts_with("2 nodes fell silent together"), "{notices:?}");
    assert!(status(&desk).under_copied_chunks > 0);
    assert_eq!(orders(&desk), 0);
    desk.server.main.adopt_silence();
    work_until("all copies are made", &mut nodes, || is_well(&desk));
    assert!(status(&desk).notices.is_empty());
    assert!((1..=10).all(|number| copies_on(&desk, number, &nodes) == 3));
}

#[test]
fn a_main_server_that_starts_gives_nodes_time_to_come_back() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 4, 2, 6);
    let Desk { server, catalog, key, .. } = desk;
    drop(server);
    let desk = Desk::on(catalog, key, SHORT);
    for node in &mut nodes[1..] {
        node.main = desk.address();
        let request = node.add_me();
        node.add(node.dial(), &request).expect("the same start of the node");
        node.come_back(&desk);
    }
    let missing = nodes.remove(0);
    pass(&desk, &mut nodes, SUSPECT_AFTER);
    assert!(!status(&desk).is_surveyed);
    assert_eq!((desk.state(&missing).as_str(), orders(&desk)), ("suspect", 0));
    pass(&desk, &mut nodes, DEAD_AFTER - SUSPECT_AFTER);
    work_until("all copies are made", &mut nodes, || is_well(&desk));
}

#[test]
fn what_was_read_lately_is_repaired_first_and_no_faster_than_a_person_allows() {
    let key = Secret::random();
    let catalog = Arc::new(MemoryCatalog::new("admin", &key.fingerprint()));
    let repair_speed = RepairSpeed::BytesPerSecond(1);
    let desk =
        Desk::with(catalog, key, Config { heartbeat: SHORT, repair_speed, ..Config::default() });
    let mut nodes = stored(&desk, 4, 2, 16);
    let mut dead = nodes.remove(0);
    let single = (1..=16).rev().find(|&number| copies_on(&desk, number, &nodes) == 1);
    let single = single.expect("one of sixteen");
    let file = OpenFile { path: format!("/{single}"), version: None, from: 0 };
    desk.client().call(&Open { files: vec![file].into(), explain: false }).expect("it is there");
    cut(&desk, &mut dead);
    until("an order was given", || orders(&desk) == 1);
    let given = |nodes: &mut [FakeNode]| -> Vec<ChunkId> {
        let orders = |node: &mut FakeNode| {
            let orders = node.heartbeat().orders;
            orders.iter().map(|order| node.claims(&order.token).id).collect::<Vec<_>>()
        };
        nodes.iter_mut().flat_map(orders).collect()
    };
    assert_eq!(given(&mut nodes), [id(single)]);
    assert_eq!(status(&desk).repair.limit_bytes_per_second, Some(1));
    // Each chunk is five bytes.
    pass(&desk, &mut nodes, 150);
    assert_eq!(orders(&desk), 1, "after three seconds");
    pass(&desk, &mut nodes, 110);
    until("the next order was given", || orders(&desk) == 2);
}

#[test]
fn a_copy_too_many_is_seen_and_trimmed_when_it_comes() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 3, 2, 1);
    until("all is counted", || is_well(&desk));
    let record = desk.record(id(1));
    let third = nodes.iter().find(|node| record.copies.iter().all(|copy| copy.node != node.id));
    let third = third.expect("one of three").id;
    // Asked for when it seemed to be needed, and late.
    let copy = crate::catalog::Copy { node: third, reason: 0 };
    let mut addresses = Default::default();
    let targets = desk.server.main.targets_for(&record, &[copy], &mut addresses);
    node_of(&mut nodes, third).stored(&targets[0].token).expect("it counts");
    until("it is trimmed", || desk.record(id(1)).copies.len() == 2);
    until("all is well", || is_well(&desk));
}

/// It came before its node counted again, and before the commit of which the chunk is.
#[test]
fn a_copy_too_many_of_an_upload_that_goes_on_is_trimmed_when_its_node_is_back() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 3, 2, 0);
    desk.store(2, id(1), &mut nodes);
    until("all is counted", || is_well(&desk));
    let record = desk.record(id(1));
    let at = nodes.iter().position(|node| record.copies.iter().all(|copy| copy.node != node.id));
    let third = &mut nodes[at.expect("one of three")];
    let copy = crate::catalog::Copy { node: third.id, reason: 0 };
    let mut addresses = Default::default();
    let targets = desk.server.main.targets_for(&record, &[copy], &mut addresses);
    third.restart().expect("added");
    third.stored(&targets[0].token).expect("it counts, once the node does");
    third.come_back(&desk);
    until("it is trimmed", || desk.record(id(1)).copies.len() == 2);
    ok(&desk.commit("/f", 2, &[id(1)]));
    until("all is well", || is_well(&desk));
}

#[test]
fn a_node_that_returns_has_what_is_too_many_trimmed() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 4, 2, 16);
    let mut away = nodes.remove(0);
    cut(&desk, &mut away);
    work_until("each has two", &mut nodes, || is_well(&desk));
    let three = (1..=16).filter(|&number| desk.record(id(number)).copies.len() == 3).count();
    assert!(three > 0);
    away.control = Some(away.dial());
    away.heartbeat();
    nodes.push(away);
    work_until("none has three", &mut nodes, || {
        is_well(&desk) && (1..=16).all(|number| desk.record(id(number)).copies.len() == 2)
    });
}

#[test]
fn a_copy_whose_target_fails_goes_to_another_and_with_all_full_it_shows_until_there_is_room() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 2, 2, 1);
    let mut spare = [desk.node(), desk.node()];
    let mut dead = nodes.remove(0);
    cut(&desk, &mut dead);
    let (holder, order, first) = super::copying::copy_order(&mut nodes, &desk);
    assert_eq!(holder.failed(&order.token, &[first.node]).len(), 1, "another is named at once");
    let other = spare.iter().position(|node| node.id != first.node).expect("two of them");
    // That one fails, too, and then both are full.
    assert_eq!(holder.failed(&order.token, &[spare[other].id]).len(), 0);
    for node in &mut spare {
        node.space.free_bytes = 1;
        node.heartbeat();
    }
    holder.acknowledge(order.order);
    let reading = desk.client().call(&Locate { chunks: vec![id(1)].into() }).expect("readable");
    assert_eq!(ok(&reading.chunks[0]).copies[0].node, nodes[0].id);
    desk.clock.advance(SHORT);
    until("it shows", || {
        let status = status(&desk);
        status.single_copy_chunks == 1 && status.repair.chunks_left == 1
    });
    nodes.extend(spare);
    pass(&desk, &mut nodes, 3100);
    until("it is said", || status(&desk).notices.iter().any(|notice| notice.code == "no_space"));
    nodes.iter_mut().for_each(|node| node.space.free_bytes = GIB);
    work_until("it has two", &mut nodes, || is_well(&desk));
    drop(dead);
}

/// A survey passes over what no file refers to yet.
#[test]
fn a_commit_that_took_a_node_for_alive_that_fell_silent_has_its_chunks_looked_at() {
    let desk = Desk::new(SHORT);
    let mut nodes: Vec<FakeNode> = (0..3).map(|_| desk.node()).collect();
    desk.store(2, id(1), &mut nodes);
    let main = &desk.server.main;
    let live = main.nodes.live();
    let holder = desk.record(id(1)).copies[0].node;
    let silent = nodes.iter().position(|node| node.id == holder).expect("one of them");
    let mut silent = nodes.remove(silent);
    cut(&desk, &mut silent);
    until("all is counted", || status(&desk).is_surveyed && is_well(&desk));
    let file = CommitFile {
        path: "/f".to_string(),
        chunks: Some(vec![id(1)].into()),
        upload: None,
        parts: None,
        copies: 2,
        mtime_ms: 7,
        executable: false,
        if_version: None,
        parents: false,
    };
    let commit = Commit { request_id: RequestId::random(), files: vec![file].into() };
    let account = desk.catalog.account_by_key(&desk.key.fingerprint());
    let account = account.expect("a catalog").expect("known");
    let reply = main.commit_by(&account, commit, &live).expect("an answer");
    ok(&reply.files[0]);
    let is_there = |copy: &&crate::catalog::Copy| copy.node != silent.id;
    let copies = || desk.record(id(1)).copies.iter().filter(is_there).count();
    work_until("it has two", &mut nodes, || copies() == 2);
}

/// Three nodes, two of which hold the chunk, and the one that does not.
fn with_one_that_holds_nothing() -> (Desk, Vec<FakeNode>, ChunkRecord, usize) {
    let desk = Desk::new(SHORT);
    let nodes = stored(&desk, 3, 2, 1);
    until("all is counted", || status(&desk).is_surveyed && is_well(&desk));
    let record = desk.record(id(1));
    let has_copy = |node: &FakeNode| record.copies.iter().any(|copy| copy.node == node.id);
    let other = nodes.iter().position(|node| !has_copy(node)).expect("three hold two");
    (desk, nodes, record, other)
}

#[test]
fn what_is_found_on_a_node_that_was_alive_all_the_time_is_trimmed() {
    let (desk, mut nodes, record, other) = with_one_that_holds_nothing();
    nodes[other].compare_holding(&[(record.serial, id(1))]);
    until("one is trimmed", || desk.catalog.condemned_totals().expect("sums").copies == 1);
}

/// It was back before upkeep looked, which saw the same nodes as before.
#[test]
fn what_is_found_on_a_node_of_which_nobody_saw_that_it_was_away_is_counted() {
    let (mut desk, mut nodes, record, other) = with_one_that_holds_nothing();
    drop(desk.server.upkeep.take());
    assert!(desk.server.main.survey.lock().is_surveyed(), "nobody has anything to look at");
    nodes[other].restart().expect("added anew");
    nodes[other].compare_holding(&[(record.serial, id(1))]);
    assert!(!desk.server.main.survey.lock().is_surveyed(), "there is something to count");
}
