//! Starts, accounts, invites, nodes.

use super::*;

const KEY: [u8; 32] = [1; 32];

fn start(previous: &[u8], incarnation: u8) -> NodeStart {
    NodeStart {
        previous: previous.iter().map(|n| Incarnation::from_bytes([*n; 16])).collect(),
        incarnation: Incarnation::from_bytes([incarnation; 16]),
        address: "127.0.0.1:7000".parse().expect("an address"),
        zone: "cellar".to_string(),
        offered_bytes: 1 << 40,
        highest_serial: None,
    }
}

#[test]
fn an_incarnation_is_known_once_it_began() {
    on_each(|desk| {
        let incarnation = Incarnation::from_bytes([1; 16]);
        let other = Incarnation::from_bytes([2; 16]);
        for _ in 0..2 {
            desk.catalog.begin_incarnation(incarnation, NOW).expect("begun");
        }
        let knows = |one| desk.catalog.knows_incarnation(one, BooksMark(0)).expect("an answer");
        assert!(knows(&incarnation) && !knows(&other));
    });
}

#[test]
fn a_start_is_known_up_to_the_mark_to_which_it_came() {
    on_each(|desk| {
        let [first, second] = [1, 2].map(|byte| Incarnation::from_bytes([byte; 16]));
        let knows = |one, mark| desk.catalog.knows_incarnation(one, mark).expect("an answer");
        desk.catalog.begin_incarnation(first, NOW).expect("begun");
        let early = desk.catalog.mark();
        desk.commit(A, file("/file", &[])).expect("committed");
        let late = desk.catalog.mark();
        assert!(late > early && knows(&first, late));
        desk.catalog.note_time(LATER, false).expect("noted");
        desk.catalog.sync().expect("synced");
        assert_eq!(desk.catalog.mark(), late, "it is no later for what the time is");

        desk.catalog.begin_incarnation(second, NOW).expect("begun");
        desk.commit(A, file("/other", &[])).expect("committed");
        let later = desk.catalog.mark();
        assert!(knows(&first, early) && knows(&first, late) && knows(&second, later));
        assert!(!knows(&first, later), "that is what another life of these books came to");
        desk.catalog.adopt_incarnations(&[(first, later), (second, later)], NOW).expect("adopted");
        assert!(knows(&first, later) && !knows(&first, BooksMark(later.0 + 1)));
        assert!(knows(&second, BooksMark(later.0 + 1)), "it goes on");
    });
}

#[test]
fn a_start_moves_the_number_sequence_to_the_time_and_never_back() {
    on_each(|desk| {
        let by_clock = ((NOW.0 / 1000) - 1_577_836_800) << 20;
        desk.catalog.begin_incarnation(Incarnation::random(), NOW).expect("begun");
        let first = desk.reserve(A, id(1)).serial;
        assert_eq!(first, Serial(by_clock));
        desk.catalog.begin_incarnation(Incarnation::random(), WallTime(0)).expect("begun");
        assert_eq!(desk.reserve(A, id(2)).serial, Serial(by_clock + 1));
        desk.catalog.begin_incarnation(Incarnation::random(), WallTime(u64::MAX)).expect("begun");
        assert!(desk.reserve(A, id(3)).serial.0 < 1 << 53, "a serial stays below 2^53");
    });
}

#[test]
fn an_account_is_found_by_the_fingerprint_of_its_key_alone() {
    on_each(|desk| {
        let account = desk.catalog.account_by_key(&ADMIN_KEY).expect("an answer");
        let admin = AccountRecord { id: A, name: "admin".to_string(), is_admin: true };
        assert_eq!(account, Some(admin));
        assert_eq!(desk.catalog.account_by_key(&KEY).expect("an answer"), None);
    });
}

#[test]
fn an_invite_admits_as_many_nodes_as_it_has_uses() {
    on_each(|desk| {
        let join = |secret: u8| refusal(desk.catalog.join_node(&KEY, &[secret; 32], NOW));
        assert_eq!(join(4), Err(Refusal::UnknownInvite));
        desk.catalog.create_invite(&KEY, 2, LATER).expect("made");
        assert_eq!(join(4), Ok(NodeId(4)));
        assert_eq!(join(4), Ok(NodeId(4)), "a repeat takes nothing");
        desk.catalog.create_invite(&KEY, 2, LATER).expect("a repeat, which adds no uses");
        assert_eq!(join(5), Ok(NodeId(5)));
        assert_eq!(join(6), Err(Refusal::UnknownInvite), "used up");
        assert_eq!(join(5), Ok(NodeId(5)), "a repeat, though it is used up");
    });
}

#[test]
fn an_expired_invite_admits_only_repeats() {
    on_each(|desk| {
        desk.catalog.create_invite(&KEY, 2, LATER).expect("made");
        let join = |secret: u8, now| refusal(desk.catalog.join_node(&KEY, &[secret; 32], now));
        assert_eq!(join(4, NOW), Ok(NodeId(4)));
        assert_eq!(join(5, LATER), Err(Refusal::UnknownInvite));
        assert_eq!(join(4, LATER), Ok(NodeId(4)));
    });
}

#[test]
fn a_node_that_started_is_listed_as_it_said() {
    on_each(|desk| {
        desk.catalog.start_node(N2, &start(&[], 1)).expect("started");
        let nodes = desk.catalog.nodes().expect("nodes");
        assert_eq!(nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [N1, N2, N3]);
        assert_eq!((nodes[0].incarnation, nodes[0].secret_fingerprint), (None, [1; 32]));
        let node = &nodes[1];
        assert_eq!(node.incarnation, Some(Incarnation::from_bytes([1; 16])));
        assert_eq!(node.address.as_ref().map(|a| a.as_str()), Some("127.0.0.1:7000"));
        assert_eq!((node.zone.as_str(), node.offered_bytes), ("cellar", 1 << 40));
    });
}

#[test]
fn a_directory_whose_previous_start_is_not_the_last_registered_is_stale() {
    on_each(|desk| {
        let begin =
            |previous: &[u8], new| refusal(desk.catalog.start_node(N1, &start(previous, new)));
        assert_eq!(begin(&[], 1), Ok(()), "the first");
        assert_eq!(begin(&[], 1), Ok(()), "a repeat");
        assert_eq!(begin(&[1], 2), Ok(()));
        assert_eq!(begin(&[2, 3], 4), Ok(()), "a crash left two candidates");
        assert_eq!(begin(&[1], 5), Err(Refusal::StaleDirectory(N1)), "a restored backup");
        assert_eq!(begin(&[], 5), Err(Refusal::StaleDirectory(N1)));
        assert_eq!(begin(&[4], 5), Ok(()), "the refusals changed nothing");
        let unknown = desk.catalog.start_node(NodeId(9), &start(&[], 1));
        assert_eq!(refusal(unknown), Err(Refusal::UnknownNode(NodeId(9))));
    });
}

#[test]
fn a_start_moves_the_sequence_above_what_the_node_holds() {
    on_each(|desk| {
        let with = |highest| NodeStart { highest_serial: Some(Serial(highest)), ..start(&[], 1) };
        desk.catalog.start_node(N1, &with(5000)).expect("started");
        assert_eq!(desk.reserve(A, id(1)).serial, Serial(5001));
        desk.catalog.start_node(N1, &with(70)).expect("started");
        assert_eq!(desk.reserve(A, id(2)).serial, Serial(5002));
        desk.catalog.start_node(N1, &with(u64::MAX)).expect("started");
        assert_eq!(desk.reserve(A, id(3)).serial, Serial(5003), "one wrong word is not believed");
    });
}

#[test]
fn the_key_of_a_node_never_goes_down() {
    on_each(|desk| {
        let key = || desk.catalog.nodes().expect("nodes")[0].key;
        assert_eq!(key(), None);
        for (given, then) in [(0, 0), (3, 3), (2, 3), (4, 4)] {
            desk.catalog.set_node_key(N1, KeyId(given)).expect("set");
            assert_eq!(key(), Some(KeyId(then)));
        }
        let unknown = desk.catalog.set_node_key(NodeId(9), KeyId(1));
        assert_eq!(refusal(unknown), Err(Refusal::UnknownNode(NodeId(9))));
    });
}
