//! Rows 4 to 6, 22 and 36, and who may read, write and commit what: on the bare wire, against real
//! processes.

use p2pdfs::ids::{ChunkId, HashAlgorithm};
use p2pdfs::wire::node_to_main::Stored;
use p2pdfs::wire::to_main::{Locate, Place};
use p2pdfs::wire::{Fault, FaultCode, Outcome};

use crate::harness::fake_node::{FakeNode, Reads};
use crate::harness::raw::{self, Bare, id_of};
use crate::harness::{Random, TestCluster, bytes};

fn is_refused<T: std::fmt::Debug>(outcome: Result<T, Fault>, what: &str) {
    match outcome {
        Err(fault) => assert_eq!(fault.code, FaultCode::Denied, "{what}: {fault}"),
        Ok(value) => panic!("{what} was let through: {value:?}"),
    }
}

#[test]
fn a_chunk_is_read_only_with_a_token_for_it() {
    let mut cluster = TestCluster::start(2);
    let content = bytes(31, 100_000);
    let id = raw::store_whole(&cluster, 2, &content);
    let mut main = cluster.connect().expect("the main server runs");
    raw::commit(&mut main, "/file", 2, &[id]).expect("it is stored");
    let copies = raw::open(&mut main, "/file").remove(0).copies;
    let [here, there] = copies.as_slice() else { panic!("two copies, not {copies:?}") };
    let mut node = cluster.connect_to_node(raw::index_of(here.node)).expect("the node runs");

    assert_eq!(raw::fetch(&mut node, &here.token, 0, None), Ok(content.clone()));
    assert_eq!(raw::fetch(&mut node, &here.token, 99_990, Some(5)).expect("a range").len(), 5);
    is_refused(raw::fetch(&mut node, &there.token, 0, None), "another node's token");
    for text in ["", "v1", "v1..", "v2.AAAA.AAAA"] {
        is_refused(raw::fetch(&mut node, &raw::token(text), 0, None), text);
    }
    let place = raw::place_for(&mut main, 1, b"another chunk");
    if place.node == here.node {
        is_refused(raw::fetch(&mut node, &place.token, 0, None), "a token to store");
    }
    for changed in each_byte_changed(here.token.as_str()) {
        let fault = raw::fetch(&mut node, &raw::token(&changed), 0, None).expect_err(&changed);
        let codes = [FaultCode::Denied, FaultCode::TokenExpired];
        assert!(codes.contains(&fault.code), "{changed}: {fault}");
    }
    // Without any token the request is none; the connection goes on.
    let mut bare = Bare::dial(cluster.node_address(0).as_str());
    bare.hello(None);
    bare.send(r#"{"fetch":{"chunks":[{"offset":0}]}}"#, &[]);
    assert_eq!(bare.fault(), "malformed");
    cluster.stop_and_check().assert_copies("/file", 2);
}

/// The text with each of its bytes changed in turn.
fn each_byte_changed(text: &str) -> Vec<String> {
    let changed = |at: usize| {
        let mut other = text.as_bytes().to_vec();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(other).expect("still ASCII")
    };
    (0..text.len()).map(changed).collect()
}

#[test]
fn a_node_takes_only_the_very_bytes_that_a_token_names() {
    let mut cluster = TestCluster::start(1);
    let content = bytes(32, 5000);
    let mut main = cluster.connect().expect("the main server runs");
    let mut node = cluster.connect_to_node(0).expect("the node runs");
    let Place { token, .. } = raw::place_for(&mut main, 1, &content);

    let mut wrong = content.clone();
    wrong[2500] ^= 1;
    let fault = raw::store(&mut node, &token, id_of(&content), &wrong).expect_err("wrong bytes");
    assert_eq!(fault.code, FaultCode::HashMismatch);
    is_refused(raw::store(&mut node, &token, id_of(&wrong), &wrong), "another chunk");
    is_refused(raw::store(&mut node, &token, id_of(&content), &content[..4999]), "shorter");
    let sha1 = ChunkId::of(HashAlgorithm::Sha1, &content);
    is_refused(raw::store(&mut node, &token, sha1, &content), "another kind of id");
    let mut random = Random::new(1);
    for _ in 0..20 {
        let all = each_byte_changed(token.as_str());
        let changed = &all[random.below(all.len() as u64) as usize];
        let stored = raw::store(&mut node, &raw::token(changed), id_of(&content), &content);
        stored.expect_err("a changed token");
    }
    // Nothing of all this is there, and the right bytes are taken, twice.
    raw::place_for(&mut main, 1, &content);
    for _ in 0..2 {
        let stored = raw::store(&mut node, &token, id_of(&content), &content);
        assert_eq!(stored.expect("the right bytes").copies, 1);
    }
    cluster.stop();
    assert_eq!(cluster.look().nodes.values().map(|node| node.chunks.len()).sum::<usize>(), 1);
}

#[test]
fn a_store_that_is_cut_off_anywhere_leaves_nothing() {
    let mut cluster = TestCluster::start(1);
    let content = bytes(33, 200_000);
    let mut main = cluster.connect().expect("the main server runs");
    let Place { token, .. } = raw::place_for(&mut main, 1, &content);
    let json = format!(
        r#"{{"store":{{"chunks":[{{"id":"{}","length":{},"token":"{}"}}]}}}}"#,
        id_of(&content),
        content.len(),
        token.as_str()
    );
    let mut message: Vec<u8> = Vec::new();
    message.extend((json.len() as u32).to_be_bytes());
    message.extend((content.len() as u32).to_be_bytes());
    message.extend(json.as_bytes());
    message.extend(&content);
    let mut random = Random::new(2);
    let mut cuts: Vec<usize> = vec![1, 7, 8, 9, 8 + json.len(), message.len() - 1];
    cuts.extend((0..10).map(|_| random.below(message.len() as u64) as usize));
    for cut in cuts {
        let mut bare = Bare::dial(cluster.node_address(0).as_str());
        bare.hello(None);
        bare.write(&message[..cut]);
    }
    // A payload longer or shorter than the chunks say.
    for (payload, code) in [(&content[..199_999], "malformed"), (&content[..1], "malformed")] {
        let mut bare = Bare::dial(cluster.node_address(0).as_str());
        bare.hello(None);
        bare.send(&json, payload);
        assert_eq!(bare.fault(), code, "{} bytes", payload.len());
        bare.send(r#"{"no_such":{}}"#, &[]);
        assert_eq!(bare.fault(), "unknown_request", "the connection lives");
    }
    raw::place_for(&mut main, 1, &content);
    cluster.stop();
    assert_eq!(cluster.look().nodes.values().map(|node| node.chunks.len()).sum::<usize>(), 0);
}

#[test]
fn a_commit_of_a_chunk_that_was_never_stored_is_refused() {
    let mut cluster = TestCluster::start(2);
    let mut main = cluster.connect().expect("the main server runs");
    let (unknown, content) = (id_of(b"never heard of"), bytes(34, 1000));
    let refused = |commit: Result<_, Fault>, id: ChunkId| {
        let fault: Fault = commit.map(|_| ()).expect_err("it is not stored");
        assert_eq!((fault.code, fault.chunks), (FaultCode::NotStored, vec![id]));
    };
    refused(raw::commit(&mut main, "/a", 1, &[unknown]), unknown);
    raw::place_for(&mut main, 1, &content);
    refused(raw::commit(&mut main, "/a", 1, &[id_of(&content)]), id_of(&content));
    let stored = raw::store_whole(&cluster, 1, &content);
    refused(raw::commit(&mut main, "/a", 1, &[stored, unknown]), unknown);
    raw::commit(&mut main, "/a", 1, &[stored]).expect("now it is stored");
    assert_eq!(cluster.stop_and_check().files.len(), 1);
}

#[test]
fn invented_confirmations_are_refused_and_repeated_ones_change_nothing() {
    let cluster = TestCluster::start(1);
    let fake = FakeNode::join(&cluster, Reads::NotFound);
    cluster.wait_alive(2);
    let mut main = cluster.connect().expect("the main server runs");
    // A place on each of the nodes, whichever comes first; small ones would all go to the same.
    let places: Vec<(Place, ChunkId)> = (0..100)
        .map(|seed| bytes(seed, 100_000))
        .map(|content| (raw::place_for(&mut main, 1, &content), id_of(&content)))
        .collect();
    let on = |is_fake: bool| places.iter().find(|(p, _)| (p.node == fake.node()) == is_fake);
    let (own, id) = on(true).expect("the fake one is used");
    let (other, other_id) = on(false).expect("the real one is used");
    let mut copies = |id: &ChunkId| {
        let located = main.call(&Locate { chunks: vec![*id].into() }).expect("an answer");
        match &located.chunks[0] {
            Outcome::Ok(chunk) => chunk.copies.len(),
            Outcome::Fault(fault) => {
                assert_eq!(fault.code, FaultCode::NotFound, "{fault}");
                0
            }
        }
    };

    let mut node = fake.connect();
    let mut confirm = |text: &str| {
        let request = Stored { tokens: vec![raw::token(text)].into() };
        let reply = node.call(&request).expect("the request itself is good");
        Result::from(reply.chunks.into_vec().remove(0))
    };
    is_refused(confirm(other.token.as_str()), "another node's token");
    is_refused(confirm("v1.AAAA.AAAA"), "an invented token");
    for changed in each_byte_changed(own.token.as_str()) {
        confirm(&changed).expect_err(&changed);
    }
    assert_eq!((copies(id), copies(other_id)), (0, 0));
    for _ in 0..3 {
        confirm(own.token.as_str()).expect("its own");
        assert_eq!((copies(id), copies(other_id)), (1, 0));
    }
    // A client cannot confirm anything.
    let fault = main.call(&Stored { tokens: vec![own.token.clone()].into() });
    assert_eq!(fault.expect_err("no node").fault().map(|f| f.code), Some(FaultCode::Denied));
}

#[test]
fn a_wrong_key_opens_no_account() {
    let cluster = TestCluster::start(1);
    let mut bare = Bare::dial(cluster.address().as_str());
    let key = "ab".repeat(32);
    bare.send(
        &format!(r#"{{"hello":{{"versions":[1,1],"role":"client","agent":"x","key":"{key}"}}}}"#),
        &[],
    );
    assert_eq!(bare.fault(), "denied");
    let mut bare = Bare::dial(cluster.address().as_str());
    bare.send(r#"{"list":{"path":"/"}}"#, &[]);
    assert_eq!(bare.fault(), "hello_first");
}

#[test]
fn a_copy_on_a_node_that_died_does_not_count_for_a_commit() {
    let mut cluster = TestCluster::start(2);
    let content = bytes(36, 1000);
    let id = raw::store_whole(&cluster, 2, &content);
    cluster.node(0).kill();
    cluster.wait_alive(1);
    let mut main = cluster.connect().expect("the main server runs");
    let fault = raw::commit(&mut main, "/file", 2, &[id]).expect_err("one copy is on a dead node");
    assert_eq!(fault.code, FaultCode::NotStored);
    cluster.start_node(0);
    cluster.wait_alive(2);
    raw::commit(&mut main, "/file", 2, &[id]).expect("both live");
    cluster.stop_and_check().assert_copies("/file", 2);
}
