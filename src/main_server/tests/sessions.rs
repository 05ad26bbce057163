//! Who may say what.

use super::*;
use crate::wire::frame::encode_request;

/// A request that no version of the protocol has.
#[derive(serde::Serialize)]
struct Nonsense {}

impl Message for Nonsense {
    const NAME: &'static str = "nonsense";
    type Reply = Done;
}

fn greeted(desk: &Desk, hello: Hello) -> Result<(), CallError> {
    desk.dial(&hello).map(drop)
}

#[test]
fn hello_says_which_versions_would_do() {
    let desk = Desk::new(SHORT);
    let hello = Hello { versions: [7, 9], key: Some(desk.key), ..Hello::new(Role::Client) };
    let fault = fault(greeted(&desk, hello));
    assert_eq!((fault.code, fault.versions), (FaultCode::UnsupportedVersion, Some([1, 1])));
    let later = Hello { versions: [1, 9], key: Some(desk.key), ..Hello::new(Role::Client) };
    assert_eq!(desk.dial(&later).expect("version 1 is spoken").hello().version, 1);
}

#[test]
fn a_wrong_key_or_secret_is_denied() {
    let desk = Desk::new(SHORT);
    let node = desk.node();
    let wrong = Some(Secret::random());
    let good = Hello { node: Some(node.id), secret: Some(node.secret), ..Hello::new(Role::Node) };
    for hello in [
        Hello::new(Role::Client),
        Hello::new(Role::Main),
        Hello { key: wrong, ..Hello::new(Role::Client) },
        Hello { key: Some(node.secret), ..Hello::new(Role::Client) },
        Hello { secret: wrong, ..good.clone() },
        Hello { secret: None, ..good.clone() },
        Hello { node: Some(NodeId(99)), ..good.clone() },
    ] {
        assert_eq!(code(greeted(&desk, hello.clone())), FaultCode::Denied, "{hello:?}");
    }
    greeted(&desk, good).expect("its own secret");
}

#[test]
fn an_unknown_request_costs_only_itself() {
    let desk = Desk::new(SHORT);
    let mut client = desk.client();
    assert_eq!(code(client.call(&Nonsense {})), FaultCode::UnknownRequest);
    client.call(&Status::default()).expect("the connection lives");
}

#[test]
fn the_first_request_must_be_hello_and_there_is_one_alone() {
    let desk = Desk::new(SHORT);
    let stream = std::net::TcpStream::connect(desk.server.address()).expect("a server");
    let mut reader = crate::wire::frame::FrameReader::default();
    let mut ask = |json: Vec<u8>| -> Outcome<serde::de::IgnoredAny> {
        crate::wire::frame::write_message(&stream, &json, &[]).expect("sent");
        let mut json = Vec::new();
        reader.read_message(&stream, Duration::from_secs(20), &mut json).expect("an answer");
        serde_json::from_slice(&json).expect("an outcome")
    };

    assert_eq!(code_of(&ask(encode_request(&Status::default()))), Some(FaultCode::HelloFirst));
    let hello = Hello { key: Some(desk.key), ..Hello::new(Role::Client) };
    assert_eq!(code_of(&ask(encode_request(&hello))), None);
    assert_eq!(code_of(&ask(encode_request(&hello))), Some(FaultCode::Invalid));
    assert_eq!(code_of(&ask(encode_request(&Status::default()))), None);
}

#[test]
fn clients_and_nodes_send_each_their_own_requests() {
    let desk = Desk::new(SHORT);
    let mut client = desk.client();
    let mut node = desk.node();
    let stored = Stored { tokens: List::default() };
    assert_eq!(code(client.call(&stored)), FaultCode::Denied);
    assert_eq!(code(client.call(&node.beat())), FaultCode::Denied);
    assert_eq!(code(client.call(&node.add_me())), FaultCode::Denied);
    assert_eq!(code(node.control().call(&Status::default())), FaultCode::Denied);
    let invite = Invite { uses: None, valid_s: None };
    assert_eq!(code(node.control().call(&invite)), FaultCode::Denied);
    client.call(&Status::default()).expect("its own request");
    node.control().call(&stored).expect("its own request");
}

#[test]
fn a_node_that_has_not_joined_can_only_ask_to_be_added() {
    let desk = Desk::new(SHORT);
    let mut node = FakeNode::new(&desk);
    let mut stranger = desk.dial(&Hello::new(Role::Node)).expect("anybody may");
    assert_eq!(code(stranger.call(&node.beat())), FaultCode::Denied);
    assert_eq!(code(stranger.call(&Stored { tokens: List::default() })), FaultCode::Denied);
    assert_eq!(code(stranger.call(&node.add_me())), FaultCode::Denied);
    assert_eq!(code(node.join(Secret::random())), FaultCode::Denied);
    let reply = node.join(desk.invite()).expect("a good invite");
    assert_eq!(reply.node, NodeId(1));
}

#[test]
fn an_invite_is_good_for_its_uses_and_a_repeat_takes_none() {
    let desk = Desk::new(SHORT);
    let invite = desk.invite();
    let (mut first, mut second) = (FakeNode::new(&desk), FakeNode::new(&desk));
    let id = first.join(invite).expect("the one use").node;
    assert_eq!(first.join(invite).expect("a repeat").node, id);
    assert_eq!(code(second.join(invite)), FaultCode::Denied);
}

#[test]
fn a_stop_does_not_wait_for_heartbeats_that_are_held_back() {
    let mut desk = Desk::new(LONG);
    let mut node = desk.node();
    let beat = node.beat();
    node.control().send(&beat, &[]).expect("sent");
    let begun = Instant::now();
    desk.server.stop();
    match node.control().receive::<Heartbeat>() {
        Ok(_) => {}
        Err(CallError::Fault(fault)) => assert_eq!(fault.code, FaultCode::Stopping),
        Err(error) => panic!("the heartbeat was not answered: {error}"),
    }
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_failure_of_the_catalog_asks_for_a_stop() {
    let desk = Desk::new(SHORT);
    let failures = desk.server.failures();
    assert!(failures.is_empty());
    let fault = desk.server.main.fault(CatalogError::Failed("a sync failed".to_string()));
    assert_eq!(fault.code, FaultCode::Internal);
    assert!(failures.recv().expect("a reason").contains("a sync failed"));
    let refused = crate::catalog::Refusal::NotFound("/a".to_string());
    assert_eq!(desk.server.main.fault(refused.into()).code, FaultCode::NotFound);
    assert!(failures.is_empty(), "a refusal is no failure");
}

/// What was said there may have lain unread while the node said and did other things.
#[test]
fn what_a_node_says_on_a_connection_that_it_has_given_up_is_not_heard() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let place = desk.place(1, id(1));
    let (mut given_up, mut used) = (node.dial_as(3), node.dial_as(4));
    let beat = Heartbeat { oldest_dial: 4, ..node.beat() };
    node.control().call(&beat).expect("at work");
    let stored = Stored { tokens: vec![place.token].into() };
    assert_eq!(code(given_up.call(&stored)), FaultCode::Busy);
    assert!(desk.record(id(1)).copies.is_empty());
    let reply = used.call(&stored).expect("heard");
    ok(&reply.chunks[0]);
    // The same start that is added anew goes on counting.
    node.add(node.dial(), &node.add_me()).expect("added");
    node.compare();
    assert_eq!(code(node.dial_as(3).call(&stored)), FaultCode::Busy);
    // A later start counts from the beginning.
    node.restart().expect("added");
    node.compare();
    node.dial_as(0).call(&stored).expect("heard");
}

/// A copy that is lost is told of on the next connection, before a heartbeat says that the one on which
/// it was told to be there is given up.
#[test]
fn a_connection_that_is_used_ends_what_lies_unread_on_those_before() {
    let desk = Desk::new(SHORT);
    let node = desk.node();
    let place = desk.place(1, id(1));
    let (mut given_up, mut used) = (node.dial_as(3), node.dial_as(4));
    let serials = vec![desk.record(id(1)).serial];
    used.call(&Lost { serials: serials.into() }).expect("heard");
    let stored = Stored { tokens: vec![place.token].into() };
    assert_eq!(code(given_up.call(&stored)), FaultCode::Busy);
    assert!(desk.record(id(1)).copies.is_empty());
}

#[test]
fn what_was_listed_on_an_earlier_control_connection_is_not_heard() {
    let desk = Desk::new(SHORT);
    let mut node = desk.node();
    let fresh = node.dial();
    let mut earlier = node.control.replace(fresh).expect("it was added");
    node.heartbeat();
    let holdings = Holdings { bucket: 0, held: List::default() };
    assert_eq!(code(earlier.call(&holdings)), FaultCode::Busy);
    node.control().call(&holdings).expect("heard");
}

#[test]
fn a_heartbeat_that_gives_a_connection_up_waits_for_what_is_being_taken_in() {
    let desk = Desk::new(SHORT);
    let node = desk.node();
    let nodes = &desk.server.main.nodes;
    let control = nodes.lock().nodes[&node.id].control.clone().expect("it is connected");
    let oldest_dial = nodes.oldest_dial(node.id);
    let taken_in = oldest_dial.read().expect("no panic");
    let beat = Heartbeat { oldest_dial: 4, ..node.beat() };
    std::thread::scope(|scope| {
        let given_up = scope.spawn(|| nodes.beat(node.id, control, &beat).expect("at work"));
        // One that does not wait is over by now, or as good as.
        (0..1000).for_each(|_| std::thread::yield_now());
        assert!(!given_up.is_finished());
        drop(taken_in);
    });
    assert_eq!(*oldest_dial.read().expect("no panic"), 4);
}
