//! What a start makes of a directory.

use std::fs;
use std::path::Path;

use crate::clock::WallTime;
use crate::ids::{NodeId, Secret};
use crate::segments::StoreError;
use crate::storage_node::{Node, NodeConfig, NodeError};
use crate::token::{Claims, Operation};
use crate::wire::to_node::FetchChunk;
use crate::wire::{Fault, FaultCode};

use super::fake_main::{DEADLINE, FakeMain, Told};
use super::talk::*;

fn refusal(config: NodeConfig) -> NodeError {
    match Node::start(config) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

#[test]
fn a_directory_without_a_node_becomes_one_only_with_an_invite() {
    let main = FakeMain::start();
    let parent = tempfile::tempdir().unwrap();
    let missing = parent.path().join("missing");
    let uninvited = |directory: &Path| NodeConfig {
        main: Some(main.address.clone()),
        space_bytes: Some(1 << 30),
        ..NodeConfig::new(directory)
    };
    assert!(matches!(refusal(uninvited(&missing)), NodeError::NoNode(_)));
    assert!(!missing.exists());
    // As where a disk is not mounted.
    assert!(matches!(refusal(uninvited(parent.path())), NodeError::NoNode(_)));
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    let invited = NodeConfig { invite: Some(main.invite), ..uninvited(&missing) };
    assert_eq!(Node::start(invited).unwrap().number(), NodeId(1));
}

#[test]
fn a_new_node_wants_to_be_told_where_its_main_server_is_and_how_much_it_may_store() {
    let main = FakeMain::start();
    let directory = tempfile::tempdir().unwrap();
    let config = NodeConfig { main: None, ..joining(&directory, &main) };
    assert!(matches!(refusal(config), NodeError::Missing(_)));
    let config = NodeConfig { space_bytes: None, ..joining(&directory, &main) };
    assert!(matches!(refusal(config), NodeError::Missing(_)));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_node_does_not_move_in_with_files_that_are_not_its_own() {
    let main = FakeMain::start();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("letter.txt"), "dear").unwrap();
    let error = refusal(joining(&directory, &main));
    assert!(matches!(error, NodeError::NotEmpty { found, .. } if found == "letter.txt"));
    assert!(main.books().nodes.is_empty());
}

#[test]
fn a_node_whose_store_is_gone_does_not_start_as_if_it_were_new() {
    let main = FakeMain::start();
    for gone in ["store.json", "segments"] {
        let Running { directory, node } = join(&main);
        node.stop();
        let gone = directory.path().join(gone);
        if gone.is_dir() { fs::remove_dir_all(gone) } else { fs::remove_file(gone) }.unwrap();
        for config in [NodeConfig::new(directory.path()), joining(&directory, &main)] {
            let error = refusal(config);
            let is_missing = matches!(
                error,
                NodeError::Store(StoreError::NotAStore(_) | StoreError::SegmentsMissing(_))
            );
            assert!(is_missing, "{error}");
        }
    }
    let Running { directory, node } = join(&main);
    node.stop();
    fs::remove_file(directory.path().join("node.json")).unwrap();
    let error = refusal(joining(&directory, &main));
    assert!(matches!(error, NodeError::IdentityMissing(_)));
}

#[test]
fn a_directory_is_one_processes_at_a_time() {
    let main = FakeMain::start();
    let running = join(&main);
    let error = refusal(NodeConfig::new(running.directory.path()));
    assert!(matches!(error, NodeError::Locked(_)));
    store(&main, &running.node, 1, b"unharmed").unwrap();
}

#[test]
fn a_copy_of_a_directory_is_refused_once_its_node_has_started_again() {
    let main = FakeMain::start();
    let Running { directory, node } = join(&main);
    node.stop();
    main.told_so_far();
    let copy = tempfile::tempdir().unwrap();
    copy_directory(directory.path(), copy.path());
    let running = Node::start(NodeConfig::new(directory.path())).unwrap();
    let error = refusal(NodeConfig::new(copy.path()));
    assert!(matches!(error, NodeError::StaleDirectory(_)), "{error}");
    // However often it is tried.
    let error = refusal(NodeConfig::new(copy.path()));
    assert!(matches!(error, NodeError::StaleDirectory(_)), "{error}");
    // Neither did the copy say goodbye in the node's name.
    assert!(!main.told_so_far().iter().any(|told| matches!(told, Told::DropMe { .. })));
    running.stop();
    assert!(Node::start(NodeConfig::new(directory.path())).is_ok());
}

fn copy_directory(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_node_that_learns_while_it_runs_that_it_is_a_stale_copy_says_so() {
    let main = FakeMain::start();
    let Running { directory: _directory, node } = join(&main);
    let (mut books, address) = main.stop();
    let known = books.nodes.get_mut(&node.number()).unwrap();
    known.incarnation = crate::ids::Incarnation::random();
    books.incarnation = crate::ids::Incarnation::random();
    let _main = FakeMain::with(books, address);
    let failure = node.failures().recv_timeout(DEADLINE).unwrap();
    assert!(matches!(failure, NodeError::StaleDirectory(_)));
}

#[test]
fn a_join_whose_answer_was_lost_is_finished_under_the_same_number() {
    let main = FakeMain::start();
    let directory = tempfile::tempdir().unwrap();
    main.announce(|books| books.lose_add_me_reply = true);
    let error = refusal(joining(&directory, &main));
    assert!(matches!(error, NodeError::Join { .. }), "{error}");
    let error = refusal(NodeConfig::new(directory.path()));
    assert!(matches!(error, NodeError::JoinUnfinished(_)), "{error}");
    let node = Node::start(joining(&directory, &main)).unwrap();
    assert_eq!((node.number(), main.books().nodes.len()), (NodeId(1), 1));
    store(&main, &node, 1, b"it works").unwrap();
}

/// Each start of it named all before, and the hundredth was more than a stranger may say.
#[test]
fn a_node_that_was_refused_a_hundred_times_can_still_join() {
    let main = FakeMain::start();
    let directory = tempfile::tempdir().unwrap();
    let tried = |main: &FakeMain| main.await_told(|told| matches!(told, Told::Tried { .. }));
    for code in std::iter::repeat_n(FaultCode::Unreachable, 3) {
        main.announce(|books| books.add_me_fault = Some(Fault::new(code, "not yet")));
        assert!(matches!(refusal(joining(&directory, &main)), NodeError::Join { .. }));
        assert_eq!(
            tried(&main),
            Told::Tried { previous: 0, mark: None },
            "a refused start is none"
        );
    }
    // Of these, any could be the registered one.
    for before in 0..100 {
        main.announce(|books| books.add_me_fault = Some(Fault::new(FaultCode::Busy, "later")));
        assert!(matches!(refusal(joining(&directory, &main)), NodeError::Join { .. }));
        assert_eq!(tried(&main), Told::Tried { previous: before.min(64), mark: None });
    }
    assert!(Node::start(joining(&directory, &main)).is_ok());
}

#[test]
fn a_join_cut_off_when_its_store_was_made_is_finished_without_an_invite() {
    let main = FakeMain::start();
    let Running { directory, node } = join(&main);
    node.stop();
    let path = directory.path().join("node.json");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    file["member"] = serde_json::Value::Null;
    fs::write(&path, file.to_string()).unwrap();
    let node = Node::start(NodeConfig::new(directory.path())).unwrap();
    assert_eq!((node.number(), main.books().nodes.len()), (NodeId(1), 1));
}

#[test]
fn a_node_that_is_not_let_in_says_why_and_can_try_again() {
    let main = FakeMain::start();
    let directory = tempfile::tempdir().unwrap();
    let invite = Some(Secret::random());
    let error = refusal(NodeConfig { invite, ..joining(&directory, &main) });
    match error {
        NodeError::Join { source, .. } => {
            assert_eq!(source.fault().unwrap().code, FaultCode::Denied);
        }
        other => panic!("{other}"),
    }
    let (books, address) = main.stop();
    let nobody_there = NodeConfig {
        main: Some(address.into()),
        space_bytes: Some(1 << 30),
        invite: Some(books.invite),
        ..NodeConfig::new(directory.path())
    };
    assert!(matches!(refusal(nobody_there), NodeError::Join { .. }));
    let main = FakeMain::with(books, address);
    assert!(Node::start(joining(&directory, &main)).is_ok());
}

#[test]
fn a_node_listens_beyond_this_machine_only_when_told_that_it_may() {
    let main = FakeMain::start();
    let directory = tempfile::tempdir().unwrap();
    let listen = "0.0.0.0:0".parse().unwrap();
    let config = NodeConfig { listen, ..joining(&directory, &main) };
    assert!(matches!(refusal(config.clone()), NodeError::NotLoopback(_)));
    let config = NodeConfig { insecure_plaintext: true, ..config };
    assert!(matches!(refusal(config), NodeError::NoAddress(_)));
}

#[test]
fn a_restart_needs_nothing_but_the_directory_and_keeps_number_port_and_chunks() {
    let main = FakeMain::start();
    let node = join_with(&main, |config| config.zone = Some("attic".to_string()));
    let (number, address) = (node.number(), node.node.address());
    store(&main, &node.node, 1, b"kept").unwrap();
    let node = node.restart();
    assert_eq!((node.number(), node.node.address()), (number, address));
    assert_eq!(fetch(&main, &node.node, 1, b"kept").unwrap(), b"kept");
    assert!(main.told_so_far().contains(&Told::DropMe { node: number, back_in_s: Some(600) }));
}

#[test]
fn tokens_from_before_a_restart_are_good_while_the_main_server_is_away() {
    let main = FakeMain::start();
    let node = join(&main);
    store(&main, &node.node, 1, b"kept").unwrap();
    let token = {
        let books = main.books();
        let claims = books.claims(Operation::Fetch, node.number(), blake3(b"kept"), 1);
        books.mint(&Claims { expires: WallTime(1 << 50), ..claims })
    };
    let (books, address) = main.stop();
    let node = node.restart();
    assert!(node.node.unreachable().is_some());
    let fetched = |node: &Running| {
        let chunk = FetchChunk { token: token.clone(), offset: 0, length: None };
        fetch_all(&mut node.connect(), vec![chunk]).unwrap().pop().unwrap()
    };
    assert_eq!(fetched(&node).unwrap(), b"kept");
    // It finds the main server once that is back.
    let main = FakeMain::with(books, address);
    main.await_told(|told| matches!(told, Told::Compared { .. }));
    assert_eq!(fetched(&node).unwrap(), b"kept");
    store(&main, &node.node, 2, b"and takes more").unwrap();
}

#[test]
fn the_nodes_secrets_are_readable_by_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let main = FakeMain::start();
    let node = join(&main);
    for name in ["node.json", "keys.json"] {
        let mode = fs::metadata(node.directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
