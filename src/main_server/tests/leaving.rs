//! Nodes are drained, leave, and are struck off; and copies move to nodes that come.

use super::repairing::{is_well, pass, status, stored, work, work_until};
use super::*;

fn drain(desk: &Desk, node: NodeId) -> DrainReply {
    desk.client().call(&Drain { node, undo: false }).expect("an admin's right")
}

fn holds(desk: &Desk, node: NodeId) -> usize {
    desk.catalog.copies_on(node, Serial(0), Serial(u64::MAX), 1 << 20).expect("a catalog").len()
}

#[test]
fn a_node_is_drained_to_the_last_copy_and_can_be_struck_off_then() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 4, 2, 12);
    let leaving = nodes[0].id;
    let before = holds(&desk, leaving);
    assert!(before > 0);
    let progress = drain(&desk, leaving);
    assert_eq!((progress.chunks_left, progress.is_done), (before as u64, false));
    assert_eq!(
        (progress.bytes_left, progress.waits_for),
        (before as u64 * u64::from(LENGTH), None)
    );
    let of_node = status(&desk).nodes.iter().find(|n| n.node == leaving).cloned();
    let of_node = of_node.expect("it is there");
    assert!(of_node.draining && of_node.drain_left.is_some_and(|left| left > 0));
    work_until("it is drained", &mut nodes, || drain(&desk, leaving).is_done);
    work_until("nothing is left there", &mut nodes, || holds(&desk, leaving) == 0);
    work_until("all is well", &mut nodes, || is_well(&desk));
    assert_eq!(drain(&desk, leaving), DrainReply { is_done: true, ..DrainReply::default() });

    desk.client().call(&Forget { node: leaving, force: false }).expect("nothing is lost");
    desk.client().call(&Forget { node: leaving, force: false }).expect("a repeat");
    assert_eq!(desk.state(&nodes[0]), "left");
    let beat = nodes[0].beat();
    assert_eq!(code(nodes[0].control().call(&beat)), FaultCode::Left);
    let (node, secret) = (Some(leaving), Some(nodes[0].secret));
    let hello = Hello { node, secret, ..Hello::new(Role::Node) };
    let denied = fault(desk.dial(&hello));
    assert_eq!(denied.code, FaultCode::Left);
    assert!(denied.message.contains("struck off"), "{}", denied.message);
    assert!((1..=12).all(|number| desk.record(id(number)).copies.len() == 2));
}

#[test]
fn a_drain_that_is_taken_back_leaves_the_node_as_it_was() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 4, 2, 4);
    let node = nodes[0].id;
    drain(&desk, node);
    let back = desk.client().call(&Drain { node, undo: true }).expect("an admin's right");
    assert!(!back.is_done);
    work_until("all is well", &mut nodes, || is_well(&desk));
    assert!(!status(&desk).nodes.iter().any(|node| node.draining));
    let records = desk.catalog.nodes().expect("a catalog");
    assert!(records.iter().all(|record| record.standing == crate::catalog::Standing::Member));
}

#[test]
fn the_only_copy_of_something_is_not_struck_off_unless_it_is_forced() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 1, 1, 2);
    let node = nodes[0].id;
    let refused = fault(desk.client().call(&Forget { node, force: false }));
    assert_eq!(refused.code, FaultCode::WouldLose);
    assert_eq!(refused.files, ["/1", "/2"]);
    assert_eq!(desk.state(&nodes[0]), "alive");
    let standing = desk.catalog.nodes().expect("a catalog")[0].standing;
    assert_eq!(standing, crate::catalog::Standing::Member, "it goes on as before");

    let progress = drain(&desk, node);
    assert_eq!((progress.only_copies, progress.files.len(), progress.is_done), (2, 2, false));
    let waits_for = progress.waits_for.expect("nothing can move");
    assert!(waits_for.contains("no other node"), "{waits_for}");

    desk.client().call(&Forget { node, force: true }).expect("it is meant");
    until("it is known to be lost", || status(&desk).lost_chunks == 2);
    assert_eq!(holds(&desk, node), 0);
    assert!(status(&desk).notices.iter().any(|notice| notice.code == "lost_chunks"));
    nodes.clear();
}

#[test]
fn a_node_that_wants_to_leave_is_drained_first_and_ends_when_it_has_left() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 3, 1, 24);
    let leaving = nodes[0].id;
    let ask = |node: &mut FakeNode| {
        node.confirmer().call(&DropMe { leave: true, ..DropMe::default() }).expect("an answer")
    };
    let first = ask(&mut nodes[0]);
    let held = holds(&desk, leaving) as u64;
    assert!(held > 0 && !first.left);
    assert_eq!(first.drain.expect("its progress").chunks_left, held);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ask(&mut nodes[0]).left {
        assert!(Instant::now() < deadline, "it never left");
        work(&mut nodes);
    }
    assert_eq!(desk.state(&nodes[0]), "left");
    assert!(
        (1..=24).all(|number| {
            desk.record(id(number)).copies.iter().any(|copy| copy.node != leaving)
        })
    );
}

#[test]
fn with_fewer_other_nodes_than_copies_wanted_a_drain_ends_with_all_that_can_be() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 3, 3, 3);
    let leaving = nodes[0].id;
    let progress = drain(&desk, leaving);
    assert!(progress.is_done, "{progress:?}");
    desk.client().call(&Forget { node: leaving, force: false }).expect("two copies remain");
    until("it shows", || status(&desk).under_copied_chunks == 3);
    nodes.remove(0);
    nodes.push(desk.node());
    work_until("another node takes its place", &mut nodes, || is_well(&desk));
}

#[test]
fn a_node_that_comes_is_filled_until_all_are_about_equally_full() {
    let desk = Desk::new(SHORT);
    let mut nodes = stored(&desk, 3, 2, 60);
    let offered = u64::from(LENGTH) * 100;
    nodes.push(desk.node());
    let fill = |desk: &Desk, nodes: &mut [FakeNode]| {
        for node in nodes.iter_mut() {
            let used = holds(desk, node.id) as u64 * u64::from(LENGTH);
            node.space = Space {
                offered_bytes: offered,
                used_bytes: used,
                free_bytes: offered - used,
                ..Space::default()
            };
        }
    };
    fill(&desk, &mut nodes);
    let counts = |nodes: &[FakeNode]| -> Vec<usize> {
        nodes.iter().map(|node| holds(&desk, node.id)).collect()
    };
    // The first look at it may have come before the nodes had said how full they are; the next one
    // comes after half a minute.
    work(&mut nodes);
    pass(&desk, &mut nodes, 1500);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !counts(&nodes).iter().all(|count| (27..=33).contains(count)) || !is_well(&desk) {
        assert!(Instant::now() < deadline, "{:?}", counts(&nodes));
        work(&mut nodes);
        fill(&desk, &mut nodes);
        // A pause between rounds.
        pass(&desk, &mut nodes, 50);
    }
    assert!((1..=60).all(|number| desk.record(id(number)).copies.len() == 2));
}
