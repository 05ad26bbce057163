//! `store`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::ids::{ChunkId, HashAlgorithm, KeyId, NodeId, Secret, Serial};
use crate::storage_node::Node;
use crate::token::{Claims, Operation, Token};
use crate::wire::frame::encode_request;
use crate::wire::to_node::{Store, StoreChunk};
use crate::wire::{Fault, FaultCode, Hello, Role};

use super::fake_main::{FakeMain, TIME, Told};
use super::talk::*;

const BYTES: &[u8] = b"some bytes of a chunk";

fn serials(main: &FakeMain, node: NodeId) -> Vec<u64> {
    main.held(node).into_iter().map(|Serial(serial)| serial).collect()
}

#[test]
fn a_stored_chunk_is_durable_and_confirmed_before_it_is_answered() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    let stored = store(&main, &node.node, 7, BYTES).unwrap();
    assert_eq!((stored.copies, stored.nodes), (1, vec![number]));
    assert_eq!(serials(&main, number), [7]);
    assert_eq!(fetch(&main, &node.node, 7, BYTES).unwrap(), BYTES);
    assert_eq!(node.node.counters().client_bytes(), BYTES.len() as u64);
    let report = node.check();
    assert!(report.is_sound());
    assert_eq!(report.chunk(Serial(7)).unwrap().id, blake3(BYTES));
}

#[test]
fn a_chunk_can_be_named_by_its_sha1() {
    let main = FakeMain::start();
    let node = join(&main);
    let id = ChunkId::of(HashAlgorithm::Sha1, BYTES);
    let token = token(&main, node.number(), |claims| claims.id = id);
    let stored = store_all(&mut node.connect(), &[(id, BYTES, token)]).unwrap();
    assert!(stored[0].is_ok());
    assert_eq!(node.check().chunks[0].id, id);
}

#[test]
fn bytes_of_another_chunk_are_a_hash_mismatch_and_nothing_is_stored() {
    let main = FakeMain::start();
    let node = join(&main);
    let mut other = BYTES.to_vec();
    other[0] ^= 1;
    let token = token(&main, node.number(), |_| {});
    let stored = store_all(&mut node.connect(), &[(blake3(BYTES), &other, token)]).unwrap();
    assert_eq!(stored[0].as_ref().unwrap_err().code, FaultCode::HashMismatch);
    assert!(serials(&main, node.number()).is_empty());
    let report = node.check();
    assert!(report.chunks.is_empty() && report.segments[0].records == 0);
}

/// A token to store `BYTES`, good but for what `change` changes.
fn token(main: &FakeMain, node: NodeId, change: impl FnOnce(&mut Claims)) -> Token {
    let books = main.books();
    let mut claims = books.claims(Operation::Store, node, blake3(BYTES), 7);
    claims.length = BYTES.len() as u32;
    change(&mut claims);
    books.mint(&claims)
}

fn fault_of(node: &Node, token: Token) -> Fault {
    let stored = store_all(&mut connect(node), &[(blake3(BYTES), BYTES, token)]).unwrap();
    stored[0].clone().unwrap_err()
}

#[test]
fn a_token_that_is_not_good_for_the_very_chunk_is_denied_without_a_word_on_why() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    let good = token(&main, number, |_| {});
    let other_cluster = {
        let claims = main.books().claims(Operation::Store, number, blake3(BYTES), 7);
        claims.mint(&Secret::from_bytes([7; 32]))
    };
    let mut bad = vec![
        Token::from_text(String::new()),
        Token::from_text("v1.x.y".to_string()),
        other_cluster,
        token(&main, number, |claims| claims.node = NodeId(99)),
        token(&main, number, |claims| claims.id = blake3(b"another chunk")),
        token(&main, number, |claims| claims.operation = Operation::Fetch),
        token(&main, number, |claims| claims.length += 1),
    ];
    // One character changed, in the claims and in the mac (not in the key's number, which reads as
    // a key that is gone).
    for at in [0, 1, 2, 12, 50, 93, 94, 95, 120, good.as_str().len() - 2] {
        let mut text = good.as_str().as_bytes().to_vec();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        bad.push(Token::from_text(String::from_utf8(text).unwrap()));
    }
    let denied = fault_of(&node.node, bad[0].clone());
    assert_eq!(denied.code, FaultCode::Denied);
    for (at, token) in bad.into_iter().enumerate() {
        assert_eq!(fault_of(&node.node, token), denied, "token {at}");
    }
    let other_key = token(&main, number, |claims| claims.key = KeyId(9));
    assert_eq!(fault_of(&node.node, other_key).code, FaultCode::TokenExpired);
    assert!(serials(&main, number).is_empty());
    assert!(node.check().chunks.is_empty());
}

#[test]
fn a_token_expires_by_the_main_servers_clock_whatever_this_machines_clock_says() {
    let main = FakeMain::start();
    let clock = crate::clock::Clock::manual(crate::clock::WallTime(5));
    let node = join_with(&main, |config| config.clock = clock.clone());
    let expired = token(&main, node.number(), |claims| claims.expires = TIME);
    assert_eq!(fault_of(&node.node, expired).code, FaultCode::TokenExpired);
    let soon = TIME + Duration::from_secs(10);
    let token = token(&main, node.number(), |claims| claims.expires = soon);
    clock.set_wall(TIME + Duration::from_secs(864_000));
    assert!(store_with(&node, token.clone()).is_ok());
    clock.advance(Duration::from_secs(10));
    assert_eq!(store_with(&node, token).unwrap_err().code, FaultCode::TokenExpired);
}

fn store_with(node: &Running, token: Token) -> Stored {
    store_all(&mut node.connect(), &[(blake3(BYTES), BYTES, token)])?.pop().unwrap()
}

#[test]
fn a_replayed_store_is_a_success_is_confirmed_again_and_stores_nothing_twice() {
    let main = FakeMain::start();
    let node = join(&main);
    let token = token(&main, node.number(), |_| {});
    for _ in 0..2 {
        assert!(store_with(&node, token.clone()).is_ok());
        main.await_told(|told| matches!(told, Told::Stored { serial: Serial(7), .. }));
    }
    // Twice in one message, too.
    let twice = [(blake3(BYTES), BYTES, token.clone()), (blake3(BYTES), BYTES, token)];
    let stored = store_all(&mut node.connect(), &twice).unwrap();
    assert!(stored.iter().all(Result::is_ok));
    let report = node.check();
    assert_eq!((report.chunks.len(), report.segments[0].records), (1, 1));
}

#[test]
fn a_payload_of_another_length_than_its_chunks_is_malformed_and_the_stream_stays_in_step() {
    let main = FakeMain::start();
    let node = join(&main);
    let mut connection = node.connect();
    for payload in [&BYTES[1..], b"one byte more than was said", b""] {
        let token = token(&main, node.number(), |_| {});
        let length = BYTES.len() as u32;
        let chunks = vec![StoreChunk { id: blake3(BYTES), length, token }].into();
        connection.send(&Store { chunks }, &[payload]).unwrap();
        let answer = connection.receive::<Store>().unwrap_err();
        assert_eq!(answer.fault().unwrap().code, FaultCode::Malformed);
    }
    assert!(serials(&main, node.number()).is_empty());
    let token = token(&main, node.number(), |_| {});
    let stored = store_all(&mut connection, &[(blake3(BYTES), BYTES, token)]).unwrap();
    assert!(stored[0].is_ok());
}

#[test]
fn a_request_cut_off_at_any_byte_stores_nothing() {
    let main = FakeMain::start();
    let node = join(&main);
    let token = token(&main, node.number(), |_| {});
    let chunk = StoreChunk { id: blake3(BYTES), length: BYTES.len() as u32, token };
    let mut sent = message(&encode_request(&Hello::new(Role::Client)), b"");
    let from = sent.len();
    let store = encode_request(&Store { chunks: vec![chunk].into() });
    sent.extend(message(&store, BYTES));
    for end in from..sent.len() {
        let mut stream = TcpStream::connect(node.node.address()).unwrap();
        stream.write_all(&sent[..end]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).unwrap();
        assert!(!answers.is_empty(), "hello was answered");
    }
    assert!(serials(&main, node.number()).is_empty());
    let report = node.check();
    assert!(report.chunks.is_empty() && report.segments[0].records == 0);
}

fn message(json: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = (json.len() as u32).to_be_bytes().to_vec();
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(json);
    bytes.extend(payload);
    bytes
}

#[test]
fn a_bad_chunk_in_a_message_costs_only_itself() {
    let main = FakeMain::start();
    let node = join(&main);
    let number = node.number();
    let parts: Vec<Vec<u8>> = (0..6).map(|n| vec![n; 100_000 + n as usize]).collect();
    let mut chunks: Vec<(ChunkId, &[u8], Token)> = Vec::new();
    for (n, part) in parts.iter().enumerate() {
        let token = main.token(Operation::Store, number, 10 + n as u64, part);
        chunks.push((blake3(part), part, token));
    }
    // A token for another chunk, a wrong hash, and a token that has expired.
    chunks[1].2 = chunks[0].2.clone();
    let wrong = blake3(b"other");
    chunks[3].0 = wrong;
    chunks[3].2 = {
        let books = main.books();
        let claims = books.claims(Operation::Store, number, wrong, 13);
        books.mint(&Claims { length: parts[3].len() as u32, ..claims })
    };
    chunks[5].2 = {
        let books = main.books();
        let claims = books.claims(Operation::Store, number, chunks[5].0, 15);
        books.mint(&Claims { length: parts[5].len() as u32, expires: TIME, ..claims })
    };
    let stored = store_all(&mut node.connect(), &chunks).unwrap();
    let codes: Vec<_> = stored.iter().map(|one| one.as_ref().err().map(|f| f.code)).collect();
    let (denied, mismatch) = (Some(FaultCode::Denied), Some(FaultCode::HashMismatch));
    let expired = Some(FaultCode::TokenExpired);
    assert_eq!(codes, [None, denied, None, mismatch, None, expired]);
    assert_eq!(serials(&main, number), [10, 12, 14]);
    assert_eq!(fetch(&main, &node.node, 14, &parts[4]).unwrap(), parts[4]);
    assert_eq!(node.check().chunks.len(), 3);
}

#[test]
fn a_thousand_chunks_travel_in_one_message_and_share_their_syncs() {
    let main = FakeMain::start();
    let node = join(&main);
    let parts: Vec<Vec<u8>> = (0..1024_u32).map(|n| n.to_be_bytes().repeat(20)).collect();
    let token = |n: usize| main.token(Operation::Store, node.number(), n as u64 + 1, &parts[n]);
    let chunks: Vec<_> =
        parts.iter().enumerate().map(|(n, part)| (blake3(part), &part[..], token(n))).collect();
    let stored = store_all(&mut node.connect(), &chunks).unwrap();
    let faults: Vec<_> = stored.into_iter().filter_map(Result::err).collect();
    assert_eq!(faults, []);
    assert_eq!(main.held(node.number()).len(), 1024);
}

#[test]
fn a_chunk_that_the_main_server_cannot_be_told_of_is_busy_and_counts_once_it_can() {
    let main = FakeMain::start();
    let node = join_with(&main, |config| {
        config.limits.confirm_patience = Duration::from_millis(50);
    });
    let (books, address) = main.stop();
    let token = {
        let claims = books.claims(Operation::Store, node.number(), blake3(BYTES), 7);
        books.mint(&Claims { length: BYTES.len() as u32, ..claims })
    };
    let fault = store_with(&node, token.clone()).unwrap_err();
    assert_eq!((fault.code, fault.retryable), (FaultCode::Busy, true));
    let main = FakeMain::with(books, address);
    main.await_told(|told| matches!(told, Told::Received { .. }));
    // A repeat of the store, as a client would, tells it in any case.
    assert!(retry(|| store_with(&node, token.clone())).is_ok());
    assert_eq!(serials(&main, node.number()), [7]);
}

/// Tries again while the answer is `busy`.
fn retry(store: impl Fn() -> Stored) -> Stored {
    let mut stored = store();
    for _ in 0..1000 {
        match &stored {
            Err(fault) if fault.code == FaultCode::Busy => stored = store(),
            _ => break,
        }
    }
    stored
}

#[test]
fn what_the_main_server_refuses_to_count_is_refused_to_the_client() {
    let main = FakeMain::start();
    let node = join(&main);
    let refusal = Fault::new(FaultCode::Denied, "never heard of it");
    main.announce(|books| books.stored_fault = Some(refusal.clone()));
    assert_eq!(store(&main, &node.node, 7, BYTES).unwrap_err(), refusal);
}
