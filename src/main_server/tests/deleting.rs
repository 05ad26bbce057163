//! Removing, expiry, collection, and the orders to delete that come of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::catalog::{Condemned, CondemnedTotals};
use crate::policy::inventory::{bucket_of, fingerprint};
use crate::token::Operation;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Goes through what is to be collected now.
pub(super) fn collect(desk: &Desk) {
    while desk.server.main.collect_step().expect("a catalog").is_none() {}
}

/// Lets `span` pass, while the node goes on with its heartbeats.
fn pass(desk: &Desk, span: Duration, nodes: &mut [FakeNode]) {
    desk.clock.advance(span);
    for node in nodes {
        node.heartbeat();
    }
}

/// The order to delete that the node has, and its serials.
pub(super) fn removal(node: &mut FakeNode) -> (Order, Vec<Serial>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "no order to delete came");
        for order in node.heartbeat().orders.iter() {
            if let Action::Remove { serials, .. } = &order.action {
                return (order.clone(), serials.to_vec());
            }
        }
    }
}

/// True when the node has no order to delete, after whatever is due was done.
fn has_nothing_to_delete(desk: &Desk, node: &mut FakeNode) -> bool {
    desk.server.main.condemned();
    desk.server.main.keep_up();
    let orders = node.heartbeat().orders;
    orders.iter().all(|order| !matches!(order.action, Action::Remove { .. }))
}

fn purge(desk: &Desk, path: &str) {
    remove(desk, path, true);
}

fn remove(desk: &Desk, path: &str, purge: bool) {
    let request = Remove {
        request_id: RequestId::random(),
        path: path.to_string(),
        recursive: false,
        if_version: None,
        purge,
    };
    assert_eq!(desk.client().call(&request).expect("removed").files, 1);
}

fn totals(desk: &Desk) -> CondemnedTotals {
    desk.catalog.condemned_totals().expect("a catalog")
}

fn notices(desk: &Desk) -> Vec<String> {
    let status = desk.client().call(&Status::default()).expect("an admin's right");
    status.notices.into_iter().map(|notice| notice.code).collect()
}

/// A node with a file of one chunk.
fn one_file() -> (Desk, [FakeNode; 1], Serial) {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node()];
    desk.store(1, id(1), &mut nodes);
    ok(&desk.commit("/f", 1, &[id(1)]));
    let serial = desk.record(id(1)).serial;
    (desk, nodes, serial)
}

#[test]
fn what_is_purged_is_deleted_at_once_by_an_order_that_names_its_serials() {
    let (desk, [mut node], serial) = one_file();
    purge(&desk, "/f");
    let (order, serials) = removal(&mut node);
    assert_eq!(serials, [serial]);
    assert!(matches!(order.action, Action::Remove { purge: true, .. }));
    let claims = node.claims(&order.token);
    assert_eq!((claims.operation, claims.serial, claims.length), (Operation::Remove, serial, 8));
    assert_eq!(claims.id, ChunkId::of(HashAlgorithm::Blake3, &serial.0.to_be_bytes()));
    assert_eq!(claims.account, AccountId(0));

    node.acknowledge(order.order);
    assert_eq!(totals(&desk).copies, 0);
    assert!(has_nothing_to_delete(&desk, &mut node));
}

#[test]
fn an_order_to_delete_is_sent_again_until_it_is_acknowledged_and_outlives_the_main_server() {
    let (desk, [mut node], serial) = one_file();
    purge(&desk, "/f");
    let (order, _) = removal(&mut node);
    let fresh = node.dial();
    let old = node.control.replace(fresh);
    assert_eq!(removal(&mut node).0.order, order.order, "on a new connection too");
    drop(old);
    // It falls silent, and is given a new order when it is back.
    desk.clock.advance(SHORT * 12);
    until("the order is taken back", || {
        desk.server.main.wake_upkeep();
        let table = desk.server.main.nodes.lock();
        table.nodes.values().all(|node| node.orders.is_empty())
    });
    assert_eq!(removal(&mut node).1, [serial]);
    let Desk { server, catalog, key, .. } = desk;
    drop(server);
    let desk = Desk::on(catalog, key, SHORT);
    node.main = desk.address();
    node.add(node.dial(), &node.add_me()).expect("the same start of the node");
    assert!(node.heartbeat().orders.is_empty(), "what it holds was not compared yet");
    node.compare_holding(&[(serial, id(1))]);
    assert_eq!(removal(&mut node).1, [serial]);
}

#[test]
fn a_removed_file_is_kept_for_its_time_and_then_deleted() {
    let (desk, mut nodes, serial) = one_file();
    remove(&desk, "/f", false);
    pass(&desk, DAY * 29, &mut nodes);
    collect(&desk);
    assert_eq!(totals(&desk).copies, 0);
    let path = "/".to_string();
    let removed = desk.client().call(&ListRemoved { path, after: None }).expect("a list");
    let file = &removed.files[0];
    assert_eq!((file.path.as_str(), file.size, removed.more), ("/f", LENGTH.into(), false));
    assert_eq!(file.expires, file.removed + DAY * 30);

    pass(&desk, DAY * 2, &mut nodes);
    collect(&desk);
    assert_eq!(totals(&desk), CondemnedTotals { copies: 1, unknown: 0 });
    let (order, serials) = removal(&mut nodes[0]);
    assert_eq!(serials, [serial]);
    assert!(matches!(order.action, Action::Remove { purge: false, .. }), "it goes to the trash");
}

#[test]
fn a_removed_file_that_was_brought_back_does_not_expire() {
    let (desk, mut nodes, _) = one_file();
    remove(&desk, "/f", false);
    let request = Undelete { request_id: RequestId::random(), path: "/f".into(), version: None };
    let version = desk.client().call(&request).expect("brought back").version;
    assert_eq!(desk.client().call(&request).expect("a repeat").version, version);
    pass(&desk, DAY * 40, &mut nodes);
    collect(&desk);
    assert_eq!(totals(&desk).copies, 0);
    let again = Undelete { request_id: RequestId::random(), ..request };
    assert_eq!(code(desk.client().call(&again)), FaultCode::NotFound);
}

#[test]
fn an_upload_that_came_to_nothing_is_kept_for_its_lease_and_then_collected() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node()];
    desk.store(1, id(1), &mut nodes);
    pass(&desk, DAY - Duration::from_secs(1), &mut nodes);
    collect(&desk);
    assert_eq!(totals(&desk).copies, 0);
    let reply = desk.allocate(1, &[id(1)]).expect("a resume");
    assert_eq!(ok(&reply.chunks[0]), &Allocated::Stored { copies: 1 });
    // The resume holds it for another day.
    pass(&desk, DAY - Duration::from_secs(1), &mut nodes);
    collect(&desk);
    assert_eq!(totals(&desk).copies, 0);
    let serial = desk.record(id(1)).serial;
    pass(&desk, Duration::from_secs(3600), &mut nodes);
    collect(&desk);
    assert_eq!(removal(&mut nodes[0]).1, [serial]);
    assert_eq!(desk.catalog.locate(AccountId(1), &[id(1)]).expect("a catalog"), [None]);
}

#[test]
fn a_file_removed_while_its_chunk_is_repaired_does_not_come_back() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node()];
    desk.store(3, id(1), &mut nodes);
    ok(&desk.commit("/f", 3, &[id(1)]));
    let serial = desk.record(id(1)).serial;
    let mut late = desk.node();
    let (source, order, target) = super::copying::copy_order(&mut nodes, &desk);
    assert_eq!(target.node, late.id);
    let source = source.id;
    purge(&desk, "/f");
    let mut removals = Vec::new();
    for node in &mut nodes {
        let (removal, serials) = removal(node);
        assert_eq!(serials, [serial]);
        removals.push(removal.order);
    }
    // The copy was on its way, and arrives.
    let fault = late.stored(&target.token).expect_err("the chunk is gone");
    assert_eq!(fault.code, FaultCode::Denied);
    node_of(&mut nodes, source).acknowledge(order.order);
    for (node, removal) in nodes.iter_mut().zip(removals) {
        node.acknowledge(removal);
    }
    assert_eq!(desk.catalog.chunks(&[serial]).expect("a catalog"), []);
    desk.server.main.condemned();
    let (order, serials) = removal(&mut late);
    assert_eq!(serials, [serial], "what came too late is deleted as well");
    late.acknowledge(order.order);
    assert_eq!(totals(&desk).copies, 0);
}

#[test]
fn what_is_stored_again_while_its_delete_is_under_way_is_not_touched_by_it() {
    let (desk, mut nodes, old) = one_file();
    purge(&desk, "/f");
    let (order, _) = removal(&mut nodes[0]);
    desk.store(1, id(1), &mut nodes);
    let new = desk.record(id(1)).serial;
    assert_ne!(new, old);
    assert_eq!(removal(&mut nodes[0]).1, [old], "the order is sent again as it was");
    nodes[0].acknowledge(order.order);
    ok(&desk.commit("/f", 1, &[id(1)]));
    assert!(has_nothing_to_delete(&desk, &mut nodes[0]));
    assert_eq!(desk.record(id(1)).copies.len(), 1);
    // A second acknowledgement of the old order, come late, changes nothing.
    nodes[0].acknowledge(order.order);
    assert_eq!(desk.record(id(1)).copies.len(), 1);
}

#[test]
fn no_order_to_delete_goes_out_while_the_deletion_before_it_is_being_noted() {
    let (desk, [mut node], _) = one_file();
    purge(&desk, "/f");
    let (order, _) = removal(&mut node);
    let (main, nodes) = (&desk.server.main, &desk.server.main.nodes);
    let session = super::copying::node_session(&desk, node.id);
    let control = || nodes.lock().nodes[&node.id].control.clone().expect("it is connected");
    let beat = Heartbeat { acknowledged: vec![order.order].into(), ..node.beat() };
    let closed = nodes.beat(node.id, control(), &beat).expect("at work").closed;
    assert_eq!(closed.len(), 1);
    // The catalog has it condemned still: a second order would hit what is stored there again.
    let given = || nodes.lock().nodes[&node.id].orders.keys().copied().collect::<Vec<_>>();
    main.condemned();
    main.keep_up();
    assert_eq!(given(), [order.order]);
    assert_eq!(nodes.orders_to_send(node.id, session).len(), 0, "nor is the first one repeated");
    assert_eq!(nodes.beat(node.id, control(), &beat).expect("at work").closed.len(), 0);
    desk.clock.advance(DAY);
    main.keep_up();
    assert_eq!(given(), [order.order], "nor taken back");
    main.note_removed(node.id, &closed).expect("a catalog");
    assert_eq!((given(), totals(&desk).copies), (vec![], 0));
    node.heartbeat();
    assert!(has_nothing_to_delete(&desk, &mut node));
}

#[test]
fn what_came_to_a_node_while_it_was_to_be_deleted_there_is_deleted_after_all() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node()];
    let place = desk.place(1, id(1));
    node_of(&mut nodes, place.node).stored(&place.token).expect("it counts");
    ok(&desk.commit("/f", 1, &[id(1)]));
    let serial = desk.record(id(1)).serial;
    let [node] = &mut nodes;
    purge(&desk, "/f");
    let (order, _) = removal(node);
    // It is deleted there, and stored once more before that was heard.
    node.stored(&place.token).expect_err("it is condemned");
    node.acknowledge(order.order);
    let (again, serials) = removal(node);
    assert_eq!((again.order != order.order, serials), (true, vec![serial]));
    node.acknowledge(again.order);
    assert!(has_nothing_to_delete(&desk, node));
    assert_eq!(totals(&desk).copies, 0);
}

#[test]
fn a_commit_that_relied_on_what_was_purged_meanwhile_is_told_so() {
    let (desk, mut nodes, _) = one_file();
    let reply = desk.allocate(1, &[id(1)]).expect("stored already");
    assert_eq!(ok(&reply.chunks[0]), &Allocated::Stored { copies: 1 });
    purge(&desk, "/f");
    removal(&mut nodes[0]);
    assert_eq!(code_of(&desk.commit("/g", 1, &[id(1)])), Some(FaultCode::NotStored));
    desk.store(1, id(1), &mut nodes);
    ok(&desk.commit("/g", 1, &[id(1)]));
}

#[test]
fn a_node_that_obeys_another_main_server_is_told_to_delete_nothing() {
    let (desk, [mut node], _) = one_file();
    let beat = Heartbeat { unadopted: true, ..node.beat() };
    node.control().call(&beat).expect("at work");
    purge(&desk, "/f");
    until("it is condemned", || totals(&desk).copies == 1);
    desk.server.main.condemned();
    desk.server.main.keep_up();
    let reply = node.control().call(&beat).expect("at work");
    assert!(reply.orders.is_empty());
    node.heartbeat();
    desk.server.main.condemned();
    removal(&mut node);
}

/// Copies of chunks of which the books know nothing, from this serial on.
fn unknown(from: u64, count: u64) -> Vec<(Serial, ChunkId)> {
    (from..from + count).map(|serial| (Serial(serial), id(serial as u32))).collect()
}

#[test]
fn unknown_copies_are_deleted_after_a_day_unless_they_are_many() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node()];
    nodes[0].compare_holding(&unknown(7, 3));
    assert_eq!(totals(&desk), CondemnedTotals { copies: 3, unknown: 3 });
    assert!(has_nothing_to_delete(&desk, &mut nodes[0]));
    pass(&desk, DAY + SHORT, &mut nodes);
    desk.server.main.condemned();
    let (order, serials) = removal(&mut nodes[0]);
    assert_eq!(serials.len(), 3);
    nodes[0].acknowledge(order.order);

    nodes[0].compare_holding(&unknown(0, 1001));
    pass(&desk, DAY + SHORT, &mut nodes);
    assert!(has_nothing_to_delete(&desk, &mut nodes[0]), "three and these are too many");
    assert_eq!(notices(&desk), ["deletes_held"]);
    pass(&desk, DAY, &mut nodes);
    assert!(has_nothing_to_delete(&desk, &mut nodes[0]), "time alone lets nothing go");
    desk.client().call(&Adopt { what: Adopted::Deletes }).expect("an admin's right");
    assert_eq!(removal(&mut nodes[0]).1.len(), 1001);
    assert!(notices(&desk).is_empty());
}

#[test]
fn unknown_copies_that_come_soon_after_others_were_let_go_are_held() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node()];
    nodes[0].compare_holding(&unknown(0, 600));
    pass(&desk, DAY + SHORT, &mut nodes);
    desk.server.main.condemned();
    let (order, serials) = removal(&mut nodes[0]);
    assert_eq!(serials.len(), 600);
    nodes[0].acknowledge(order.order);
    nodes[0].compare_holding(&unknown(BUCKET_SERIALS, 600));
    until("they are held", || notices(&desk) == ["deletes_held"]);
    assert!(has_nothing_to_delete(&desk, &mut nodes[0]));
    pass(&desk, DAY + SHORT, &mut nodes);
    assert!(has_nothing_to_delete(&desk, &mut nodes[0]), "time alone lets nothing go");
    assert_eq!(notices(&desk), ["deletes_held"]);
}

#[test]
fn what_a_person_let_go_is_let_go_after_a_restart_too() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node()];
    nodes[0].compare_holding(&unknown(0, 2500));
    pass(&desk, DAY + SHORT, &mut nodes);
    assert!(has_nothing_to_delete(&desk, &mut nodes[0]));
    desk.client().call(&Adopt { what: Adopted::Deletes }).expect("an admin's right");
    let named = removal(&mut nodes[0]).1.len();
    assert!((1..2500).contains(&named));
    let waiting = CondemnedTotals { copies: 2500, unknown: 2500 - named as u64 };
    assert_eq!(totals(&desk), waiting);
    let Desk { server, catalog, key, .. } = desk;
    drop(server);
    let desk = Desk::on(catalog, key, SHORT);
    let [node] = &mut nodes;
    node.main = desk.address();
    node.add(node.dial(), &node.add_me()).expect("the same start of the node");
    // They were deleted, and nobody heard of it.
    node.compare_holding(&unknown(named as u64, waiting.unknown));
    let (order, serials) = removal(node);
    assert_eq!(serials.len(), named);
    node.acknowledge(order.order);
    assert_eq!(totals(&desk), CondemnedTotals { copies: waiting.unknown, ..waiting });
    assert!(
        notices(&desk).contains(&"deletes_held".to_string()),
        "the others are asked about again"
    );
}

#[test]
fn a_panic_over_what_a_node_deleted_does_not_keep_it_from_deleting_more() {
    let (desk, [mut node], _) = one_file();
    purge(&desk, "/f");
    let (order, _) = removal(&mut node);
    let nodes = &desk.server.main.nodes;
    let control = nodes.lock().nodes[&node.id].control.clone().expect("it is connected");
    let beat = Heartbeat { acknowledged: vec![order.order].into(), ..node.beat() };
    let closed = nodes.beat(node.id, control, &beat).expect("at work").closed;
    let noting = AssertUnwindSafe(|| {
        let _noting = super::super::deletes::Noting { nodes, node: node.id, closed: &closed };
        panic!("over what was deleted");
    });
    catch_unwind(noting).expect_err("it panics");
    // By now it may have been given another.
    assert!(!nodes.lock().nodes[&node.id].orders.contains_key(&order.order));
}

#[test]
fn unknown_copies_wait_for_a_day_however_short_leases_are() {
    let key = Secret::random();
    let catalog = Arc::new(MemoryCatalog::new("admin", &key.fingerprint()));
    let lease = Duration::from_secs(60);
    let config = Config { heartbeat: SHORT, upload_lease: lease, ..Config::default() };
    let desk = Desk::with(catalog, key, config);
    let mut nodes = [desk.node()];
    nodes[0].compare_holding(&unknown(7, 3));
    pass(&desk, DAY - lease, &mut nodes);
    assert!(has_nothing_to_delete(&desk, &mut nodes[0]));
    pass(&desk, lease + SHORT, &mut nodes);
    desk.server.main.condemned();
    assert_eq!(removal(&mut nodes[0]).1.len(), 3);
}

#[test]
fn explained_deletes_go_on_while_unexplained_ones_are_held() {
    let (desk, mut nodes, serial) = one_file();
    let mut held = unknown(0, 1500);
    held.push((serial, id(1)));
    nodes[0].compare_holding(&held);
    pass(&desk, DAY + SHORT, &mut nodes);
    assert!(has_nothing_to_delete(&desk, &mut nodes[0]));
    purge(&desk, "/f");
    assert_eq!(removal(&mut nodes[0]).1, [serial]);
}

#[test]
fn trash_that_old_books_count_on_is_restored_and_not_taken_for_lost() {
    let (desk, [mut node], serial) = one_file();
    let held =
        |trashed| HeldChunk { serial, length: LENGTH, fingerprint: fingerprint(&id(1)), trashed };
    let removed_since = HeldChunk { serial: Serial(serial.0 ^ 1), ..held(true) };
    let mut listed = vec![held(true), removed_since];
    listed.sort_by_key(|held| held.serial);
    let bucket = bucket_of(serial);
    let holdings = Holdings { bucket, held: listed.into() };
    let reply = node.control().call(&holdings).expect("reconciled");
    assert_eq!((reply.lost, reply.unknown, reply.restore), (0, 0, vec![serial]));
    assert_eq!(desk.record(id(1)).copies.len(), 1);
    let restored = Holdings { bucket, held: vec![held(false), removed_since].into() };
    let reply = node.control().call(&restored).expect("reconciled");
    assert_eq!((reply.lost, reply.restore), (0, Vec::new()));
    // It could not be restored after all.
    let failed = Holdings { bucket, held: vec![removed_since].into() };
    assert_eq!(node.control().call(&failed).expect("reconciled").lost, 1);
}

#[test]
fn a_file_that_wants_fewer_copies_has_the_others_deleted() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node()];
    desk.store(2, id(1), &mut nodes);
    ok(&desk.commit("/f", 2, &[id(1)]));
    let request_id = RequestId::random();
    let set = |request_id, copies| {
        let path = "/f".to_string();
        desk.client().call(&SetCopies { request_id, path, copies, after: None })
    };
    let reply = set(request_id, 1).expect("set");
    assert_eq!((reply.files, reply.chunks, reply.kept, reply.next), (1, 1, 0, None));
    assert_eq!(set(request_id, 1).expect("a repeat"), reply);
    assert_eq!(code(set(RequestId::random(), 0)), FaultCode::Invalid);
    until("one is trimmed", || totals(&desk).copies == 1);
    let left = desk.record(id(1)).copies;
    assert_eq!(left.len(), 1);
    let trimmed = nodes.iter_mut().find(|node| node.id != left[0].node).expect("one of two");
    let (order, _) = removal(trimmed);
    let due = desk.catalog.condemned_on(trimmed.id, None, true, NOW, 9).expect("a catalog");
    assert_eq!(due[0].why, Condemned::Surplus);
    trimmed.acknowledge(order.order);
    assert_eq!(totals(&desk).copies, 0);
}
