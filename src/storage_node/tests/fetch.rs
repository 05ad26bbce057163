//! `fetch`, and the rest of what a connection can ask.

use crate::ids::NodeId;
use crate::token::{Operation, Token};
use crate::wire::connection::Dialing;
use crate::wire::to_node::{Fetch, FetchChunk};
use crate::wire::{Connection, FaultCode, Hello, Role};

use super::fake_main::{FakeMain, TIME};
use super::talk::*;

fn part(token: &Token, offset: u32, length: Option<u32>) -> FetchChunk {
    FetchChunk { token: token.clone(), offset, length }
}

#[test]
fn any_range_of_a_chunk_can_be_fetched_and_nothing_beyond_it() {
    let main = FakeMain::start();
    let node = join(&main);
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    store(&main, &node.node, 1, &bytes).unwrap();
    let token = main.token(Operation::Fetch, node.number(), 1, &bytes);
    let mut connection = node.connect();
    let good = [(0, Some(1)), (65_535, Some(2)), (1, None), (0, None), (199_999, None)];
    let wanted = good.map(|(offset, length)| part(&token, offset, length));
    let fetched = fetch_all(&mut connection, wanted.to_vec()).unwrap();
    for ((offset, length), fetched) in good.into_iter().zip(fetched) {
        let start = offset as usize;
        let end = length.map_or(bytes.len(), |length| start + length as usize);
        assert_eq!(fetched.unwrap(), bytes[start..end]);
    }
    let bad = [(200_001, None), (199_999, Some(2)), (0, Some(200_001)), (u32::MAX, Some(u32::MAX))];
    let wanted = bad.map(|(offset, length)| part(&token, offset, length));
    for fetched in fetch_all(&mut connection, wanted.to_vec()).unwrap() {
        assert_eq!(fetched.unwrap_err().code, FaultCode::Invalid);
    }
}

#[test]
fn a_fetch_of_more_than_fits_into_a_message_gives_what_fits() {
    let main = FakeMain::start();
    let node = join(&main);
    let bytes = vec![7; 6 << 20];
    store(&main, &node.node, 1, &bytes).unwrap();
    let token = main.token(Operation::Fetch, node.number(), 1, &bytes);
    let wanted = vec![part(&token, 0, None); 3];
    let fetched = fetch_all(&mut node.connect(), wanted).unwrap();
    assert!(fetched[0].as_ref().is_ok_and(|read| *read == bytes) && fetched[1].is_ok());
    assert_eq!(fetched[2].as_ref().unwrap_err().code, FaultCode::Invalid);
}

#[test]
fn reading_needs_a_good_token_for_reading_that_chunk() {
    let main = FakeMain::start();
    let node = join(&main);
    let bytes = b"private";
    store(&main, &node.node, 1, bytes).unwrap();
    let number = node.number();
    let claims = || main.books().claims(Operation::Fetch, number, blake3(bytes), 1);
    let mint = |claims| main.books().mint(&claims);
    let mut changed = mint(claims()).as_str().to_string();
    changed.replace_range(40..41, if &changed[40..41] == "A" { "B" } else { "A" });
    let bad = [
        (Token::from_text(String::new()), FaultCode::Denied),
        (Token::from_text(changed), FaultCode::Denied),
        (main.token(Operation::Store, number, 1, bytes), FaultCode::Denied),
        (main.token(Operation::Duplicate, number, 1, bytes), FaultCode::Denied),
        (main.token(Operation::Fetch, NodeId(9), 1, bytes), FaultCode::Denied),
        (main.token(Operation::Fetch, number, 1, b"another"), FaultCode::NotFound),
        (main.token(Operation::Fetch, number, 2, bytes), FaultCode::NotFound),
        (mint(crate::token::Claims { expires: TIME, ..claims() }), FaultCode::TokenExpired),
    ];
    let good = part(&main.token(Operation::Fetch, number, 1, bytes), 0, None);
    let mut wanted: Vec<_> = bad.iter().map(|(token, _)| part(token, 0, None)).collect();
    wanted.push(good);
    let mut fetched = fetch_all(&mut node.connect(), wanted).unwrap();
    assert_eq!(fetched.pop().unwrap().unwrap(), bytes);
    for ((_, code), fetched) in bad.iter().zip(fetched) {
        assert_eq!(fetched.unwrap_err().code, *code);
    }
}

#[test]
fn nothing_is_served_before_hello_and_the_connection_lives() {
    let main = FakeMain::start();
    let node = join(&main);
    store(&main, &node.node, 1, b"x").unwrap();
    let address = node.node.advertised().clone();
    let refused = Connection::open(
        &address,
        &Dialing::default(),
        &Hello { versions: [9, 10], ..Hello::new(Role::Client) },
    );
    let fault = refused.unwrap_err().fault().unwrap().clone();
    assert_eq!((fault.code, fault.versions), (FaultCode::UnsupportedVersion, Some([1, 1])));
    let mut stream = std::net::TcpStream::connect(node.node.address()).unwrap();
    let token = main.token(Operation::Fetch, node.number(), 1, b"x");
    let fetch = Fetch { chunks: vec![part(&token, 0, None)].into() };
    let answers = [
        (crate::wire::frame::encode_request(&fetch), "hello_first"),
        (b"{\"dance\":{}}".to_vec(), "hello_first"),
        (b"not JSON".to_vec(), "malformed"),
        (crate::wire::frame::encode_request(&Hello::new(Role::Client)), "ok"),
        (b"{\"dance\":{}}".to_vec(), "unknown_request"),
        (crate::wire::frame::encode_request(&fetch), "ok"),
    ];
    for (request, word) in answers {
        let answer = exchange(&mut stream, &request);
        assert!(answer.contains(word), "{answer} has no {word}");
    }
}

/// Sends a bare message, and returns the JSON of the answer.
fn exchange(stream: &mut std::net::TcpStream, json: &[u8]) -> String {
    use std::io::{Read, Write};
    stream.write_all(&(json.len() as u32).to_be_bytes()).unwrap();
    stream.write_all(&[0; 4]).unwrap();
    stream.write_all(json).unwrap();
    let mut head = [0; 8];
    stream.read_exact(&mut head).unwrap();
    let [a, b, c, d, e, f, g, h] = head;
    let mut answer = vec![0; u32::from_be_bytes([a, b, c, d]) as usize];
    stream.read_exact(&mut answer).unwrap();
    let mut payload = vec![0; u32::from_be_bytes([e, f, g, h]) as usize];
    stream.read_exact(&mut payload).unwrap();
    String::from_utf8(answer).unwrap()
}
