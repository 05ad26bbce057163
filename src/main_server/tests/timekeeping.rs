//! Wall clocks that jump.

use super::deleting::collect;
use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// A start of the main server on the same books, on a machine whose clock shows `wall`.
fn restart_at(desk: Desk, wall: WallTime) -> Desk {
    let Desk { server, catalog, key, .. } = desk;
    drop(server);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let clock = Clock::manual(wall);
    let config = Config { heartbeat: SHORT, keep_removed: DAY * 5, ..Config::default() };
    let server = MainServer::start(config, catalog.clone(), listener, clock.clone());
    Desk { server: server.expect("a start"), catalog, clock, key }
}

/// A removed file, one day old, that is kept for five, on a node that is at work.
fn removed_file() -> (Desk, FakeNode) {
    let desk = restart_at(Desk::new(SHORT), NOW - DAY);
    let mut nodes = [desk.node()];
    desk.store(1, id(1), &mut nodes);
    ok(&desk.commit("/f", 1, &[id(1)]));
    let request_id = RequestId::random();
    let path = "/f".to_string();
    let remove = Remove { request_id, path, recursive: false, if_version: None, purge: false };
    desk.client().call(&remove).expect("removed");
    let [mut node] = nodes;
    desk.clock.advance(DAY);
    node.heartbeat();
    desk.server.main.keep_up();
    (desk, node)
}

fn notices(desk: &Desk) -> Vec<String> {
    let status = desk.client().call(&Status::default()).expect("an admin's right");
    status.notices.into_iter().map(|notice| notice.code).collect()
}

fn expired(desk: &Desk) -> bool {
    collect(desk);
    desk.catalog.condemned_totals().expect("a catalog").copies > 0
}

/// The node says what its own clock shows, and the main server judges by it.
fn says(desk: &Desk, node: &mut FakeNode, time: WallTime) {
    let beat = Heartbeat { time: Some(time), ..node.beat() };
    node.control().call(&beat).expect("at work");
    desk.clock.advance(Duration::from_secs(61));
    node.control().call(&beat).expect("at work");
    desk.server.main.keep_up();
}

fn add_again(desk: &Desk, node: &mut FakeNode) {
    node.main = desk.address();
    node.add(node.dial(), &node.add_me()).expect("the same start of the node");
    node.come_back(desk);
}

#[test]
fn a_jump_of_the_wall_clock_costs_no_token_and_no_node_and_expires_nothing() {
    let (desk, mut node) = removed_file();
    let place = desk.place(1, id(2));
    for jumped in [NOW + HOUR, NOW - HOUR, NOW + DAY * 10, NOW - DAY * 10] {
        desk.clock.set_wall(jumped);
        desk.server.main.keep_up();
        assert_eq!(node.heartbeat().time, NOW);
        assert_eq!(desk.state(&node), "alive");
        let claims = node.claims(&desk.place(1, id(3)).token);
        assert_eq!(claims.expires, node.claims(&place.token).expires);
        assert!(!expired(&desk));
        assert_eq!(desk.catalog.latest_time().expect("a catalog"), NOW);
        assert!(notices(&desk).is_empty());
    }
}

#[test]
fn a_start_days_ahead_expires_nothing_until_most_nodes_agree() {
    let (desk, mut node) = removed_file();
    let later = NOW + DAY * 10;
    let desk = restart_at(desk, later);
    assert_eq!(notices(&desk), ["clock"]);
    assert!(!expired(&desk));
    add_again(&desk, &mut node);
    assert_eq!(node.heartbeat().time, NOW, "the time goes on from where it was");

    says(&desk, &mut node, later);
    assert!(notices(&desk).is_empty());
    assert!(node.heartbeat().time > later);
    assert!(!expired(&desk), "what was leased a moment ago is not over yet");
    desk.clock.advance(DAY);
    node.heartbeat();
    assert!(expired(&desk));
}

#[test]
fn a_start_days_back_expires_nothing_until_a_person_says_that_it_is_right() {
    let (desk, mut node) = removed_file();
    let before = NOW - DAY * 10;
    let desk = restart_at(desk, before);
    assert_eq!(notices(&desk), ["clock"]);
    add_again(&desk, &mut node);
    says(&desk, &mut node, before);
    assert_eq!(notices(&desk), ["clock"], "no node's word takes it back");
    desk.client().call(&Adopt { what: Adopted::Clock }).expect("an admin's right");
    assert!(notices(&desk).is_empty());
    assert!(node.heartbeat().time < NOW);
    let latest = desk.catalog.latest_time().expect("a catalog");
    assert!(latest < NOW, "the next start doubts nothing");
    assert!(notices(&restart_at(desk, latest)).is_empty());
}

#[test]
fn a_start_in_doubt_that_is_followed_by_another_is_still_in_doubt() {
    let (desk, _) = removed_file();
    let desk = restart_at(desk, NOW + DAY * 10);
    desk.server.main.keep_up();
    let desk = restart_at(desk, NOW + DAY * 10);
    assert_eq!(notices(&desk), ["clock"]);
    assert!(!expired(&desk));
}

#[test]
fn nothing_expires_while_most_nodes_say_another_time() {
    let (desk, mut node) = removed_file();
    says(&desk, &mut node, NOW + DAY * 10);
    assert_eq!(notices(&desk), ["clock"]);
    desk.clock.advance(DAY * 5);
    assert!(!expired(&desk));
    let now = desk.server.main.clock.wall();
    says(&desk, &mut node, now);
    assert!(notices(&desk).is_empty());
    assert!(expired(&desk));
}
