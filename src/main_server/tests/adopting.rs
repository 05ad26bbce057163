//! Nodes that saw a main server which this one's history lacks.

use super::*;

fn unadopted(desk: &Desk) -> bool {
    let status = desk.client().call(&Status::default()).expect("an admin's right");
    status.notices.iter().any(|notice| notice.code == "unadopted")
}

fn adopt(desk: &Desk) {
    desk.client().call(&Adopt { what: Adopted::Nodes }).expect("an admin's right");
}

#[test]
fn a_node_that_saw_an_unknown_main_server_is_asked_anew_when_a_person_adopts() {
    let desk = Desk::new(LONG);
    let mut node = desk.node();
    let request = AddMe { main_incarnation: Some(Incarnation::random()), ..node.add_me() };
    let reply = node.add(node.dial(), &request).expect("reads go on");
    assert!(!reply.is_adopted);
    node.compare();
    assert!(unadopted(&desk));
    let beat = node.beat();
    node.control().send(&beat, &[]).expect("sent");
    adopt(&desk);
    let told = node.control().receive::<Heartbeat>();
    assert_eq!(code(told), FaultCode::Busy, "long before the interval is over");
    assert!(!unadopted(&desk));
    let reply = node.add(node.dial(), &request).expect("added");
    assert!(reply.is_adopted);
    node.compare();
    assert_eq!(desk.state(&node), "alive");
    adopt(&desk);
    assert_eq!(desk.state(&node), "alive", "there is nothing to adopt");
}

#[test]
fn a_node_whose_last_start_an_old_backup_lacks_works_again_when_a_person_adopts() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    node.restart().expect("the same directory");
    // The backup is from before that, and from before a start that the node has seen.
    let request = AddMe {
        previous: vec![Incarnation::random()],
        incarnation: Incarnation::random(),
        main_incarnation: Some(Incarnation::random()),
        ..node.add_me()
    };
    assert_eq!(code(node.dial().call(&request)), FaultCode::Internal);
    assert!(unadopted(&desk));
    adopt(&desk);
    assert!(!unadopted(&desk));
    // Whatever happens before the node comes again.
    let Desk { server, catalog, key, .. } = desk;
    drop(server);
    let desk = Desk::on(catalog, key, SHORT);
    node.main = desk.address();
    node.incarnation = request.incarnation;
    node.doorman.reply.lock().expect("no panic").incarnation = Some(request.incarnation);
    let reply = node.add(node.dial(), &request).expect("its start is registered");
    assert!(reply.is_adopted);
    let stale = AddMe { incarnation: Incarnation::random(), ..request };
    assert_eq!(code(node.dial().call(&stale)), FaultCode::StaleDirectory);
}

#[test]
fn a_node_that_saw_later_books_of_an_earlier_start_is_not_adopted_until_a_person_says_so() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let told = node.heartbeat().mark.expect("how far the books are");
    let Desk { server, catalog, key, .. } = desk;
    let start = server.main.incarnation;
    drop(server);
    // What the node was told is in the books of the next start; of a copy it would not be.
    let came_to = catalog.mark();
    let desk = Desk::on(catalog, key, SHORT);
    node.main = desk.address();
    let seen =
        |mark| AddMe { main_incarnation: Some(start), main_mark: Some(mark), ..node.add_me() };
    let (honest, later) = (seen(told), seen(BooksMark(came_to.0 + 1)));
    let (previous, incarnation) = (vec![Incarnation::random()], Incarnation::random());
    let another = AddMe { previous, incarnation, ..seen(BooksMark(came_to.0 + 2)) };
    assert!(node.add(node.dial(), &honest).expect("added").is_adopted && !unadopted(&desk));
    let reply = node.add(node.dial(), &later).expect("reads go on");
    assert!(!reply.is_adopted && unadopted(&desk));
    adopt(&desk);
    assert!(node.add(node.dial(), &later).expect("added").is_adopted && !unadopted(&desk));
    let refused = code(node.dial().call(&another));
    assert_eq!(refused, FaultCode::Internal, "which of the two is stale, a person must say");
}

#[test]
fn only_an_administrator_adopts() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let adopt = Adopt { what: Adopted::Silence };
    assert_eq!(code(node.control().call(&adopt)), FaultCode::Denied);
    for what in [Adopted::Nodes, Adopted::Clock, Adopted::Deletes, Adopted::Silence] {
        desk.client().call(&Adopt { what }).expect("nothing is stopped, and that is all");
    }
}
