//! The server's promises, tried by peers on raw sockets.

mod limits;
mod stopping;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::wire::frame::PayloadBuffer;
use crate::wire::to_main::{Done, ToMain};
use crate::wire::{Fault, FaultCode};

/// Turns a hang into a failure; nothing waits for it to pass.
const HANG: Duration = Duration::from_secs(30);

/// Does as the agent of a `hello` says; answers every other request with `{}`.
struct Obedient {
    entered: Sender<String>,
    released: Mutex<Receiver<()>>,
}

impl Service for Obedient {
    fn serve(&self, connection: &mut ServerConnection) {
        let mut buffer = PayloadBuffer::default();
        while connection.next_request().is_some() {
            let request = ToMain::parse(connection.request_json());
            let is_good = match request {
                Err(error) => connection.reply::<()>(Err(error.into()), &[]),
                Ok(ToMain::Hello(hello)) => self.obey(connection, &hello.agent),
                Ok(ToMain::Stage(_)) => {
                    let _ = self.entered.send("staging".to_string());
                    let is_whole = connection.read_payload(&mut buffer, |_| {});
                    let _ = self.entered.send(format!("payload whole: {is_whole}"));
                    is_whole && connection.reply(Ok(buffer.as_slice().len()), &[])
                }
                Ok(_) => connection.reply(Ok(Done {}), &[]),
            };
            if !is_good {
                break;
            }
        }
        let _ = self.entered.send("ended".to_string());
    }
}

impl Obedient {
    fn obey(&self, connection: &mut ServerConnection, agent: &str) -> bool {
        let _ = self.entered.send(agent.to_string());
        match agent {
            "panic" => panic!("as the test asked"),
            "huge" => connection.reply(Ok("x".repeat(2 << 20)), &[]),
            "payload" => connection.reply(Ok(Done {}), &[&[7; 16 << 20]]),
            "client" | "node" => {
                let has_place = connection.take_place(agent == "node");
                let full = || Fault::new(FaultCode::Busy, "no place");
                connection.reply(has_place.then_some(Done {}).ok_or_else(full), &[]) && has_place
            }
            "wait" => {
                let released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
                released.recv_timeout(HANG).expect("the test lets it go");
                connection.reply(Ok(Done {}), &[])
            }
            _ => connection.reply(Ok(Done {}), &[]),
        }
    }
}

struct Running {
    server: Server,
    entered: Receiver<String>,
    release: Sender<()>,
}

fn run(limits: Limits) -> Running {
    let (entered_tx, entered) = channel();
    let (release, released) = channel();
    let service = Obedient { entered: entered_tx, released: Mutex::new(released) };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = Server::start(listener, limits, Arc::new(service)).expect("a server");
    Running { server, entered, release }
}

impl Running {
    fn connect(&self) -> Peer {
        let stream = TcpStream::connect(self.server.address()).expect("the server listens");
        stream.set_read_timeout(Some(HANG)).expect("a socket option");
        stream.set_write_timeout(Some(HANG)).expect("a socket option");
        Peer(stream)
    }

    /// A connection whose `hello` was answered.
    fn greet(&self) -> Peer {
        let mut peer = self.connect();
        assert_eq!(peer.ask(&hello("client"))["ok"], serde_json::json!({}));
        peer
    }

    fn wait_for(&self, what: &str) {
        while self.entered.recv_timeout(HANG).expect("the service tells what it does") != what {}
    }
}

/// A peer that keeps to no rule.
struct Peer(TcpStream);

impl Peer {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the server reads");
    }

    fn ask(&mut self, json: &str) -> Value {
        self.write(&message(json, b""));
        self.answer()
    }

    fn answer(&mut self) -> Value {
        self.try_answer().expect("an answer")
    }

    /// The next answer's JSON; `None` when the connection has ended in order.
    fn try_answer(&mut self) -> Option<Value> {
        let mut head = [0; 8];
        if self.0.read(&mut head[..1]).expect("an answer or an orderly end") == 0 {
            return None;
        }
        self.0.read_exact(&mut head[1..]).expect("a head");
        let length = |at: usize| {
            u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes")) as usize
        };
        let mut rest = vec![0; length(0) + length(4)];
        self.0.read_exact(&mut rest).expect("the message that was announced");
        Some(serde_json::from_slice(&rest[..length(0)]).expect("JSON"))
    }

    fn fault_code(&mut self) -> String {
        self.answer()["fault"]["code"].as_str().expect("a fault").to_string()
    }
}

fn message(json: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (json.len() as u32).to_be_bytes().to_vec();
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(json.as_bytes());
    bytes.extend(payload);
    bytes
}

fn hello(agent: &str) -> String {
    format!(r#"{{"hello":{{"versions":[1,1],"role":"client","agent":"{agent}"}}}}"#)
}

const STATUS: &str = r#"{"status":{}}"#;
const STAGE: &str =
    r#"{"stage":{"upload":"000102030405060708090a0b0c0d0e0f","part":0,"chunks":[]}}"#;

/// A request that is larger than what a connection may have without asking.
fn large_request(bytes: usize) -> String {
    format!(r#"{{"status":{{"ignored":"{}"}}}}"#, "x".repeat(bytes))
}

#[test]
fn requests_sent_without_waiting_are_answered_in_their_order() {
    let running = run(Limits::default());
    let mut peer = running.greet();
    let mut bytes = Vec::new();
    for length in 0..50 {
        bytes.extend(message(STAGE, &vec![1; length * 1000]));
    }
    peer.write(&bytes);
    for length in 0..50 {
        assert_eq!(peer.answer()["ok"], length * 1000);
    }
}

#[test]
fn a_malformed_request_costs_one_fault_and_the_stream_stays_in_step() {
    let running = run(Limits::default());
    let mut peer = running.greet();
    for bad in ["", "{", "[]", "null", "{}", r#"{"status":[{}]}"#, r#"{"status":{}}}"#, "\u{0}"] {
        peer.write(&message(bad, b"and a payload"));
        assert_eq!(peer.fault_code(), "malformed", "{bad:?}");
        assert!(peer.ask(STATUS)["ok"].is_object());
    }
    peer.write(&message(r#"{"frobnicate":{"a":[1,2]}}"#, b""));
    assert_eq!(peer.fault_code(), "unknown_request");
    assert!(peer.ask(r#"{"status":{"of_a_later_version":1}}"#)["ok"].is_object());
}

#[test]
fn a_payload_cut_off_at_any_byte_is_never_taken_for_whole() {
    let running = run(Limits::default());
    for sent in [0, 1, 99] {
        let mut peer = running.greet();
        let bytes = message(STAGE, &[5; 100]);
        peer.write(&bytes[..bytes.len() - 100 + sent]);
        drop(peer);
        running.wait_for("payload whole: false");
    }
}

#[test]
fn a_payload_that_nobody_reads_is_passed_over() {
    let running = run(Limits::default());
    let mut peer = running.greet();
    peer.write(&message(STATUS, &vec![0; 300_000]));
    assert!(peer.answer()["ok"].is_object());
    assert!(peer.ask(STATUS)["ok"].is_object());
}

#[test]
fn a_panic_costs_its_own_connection_alone() {
    let running = run(Limits::default());
    let mut other = running.greet();
    for _ in 0..3 {
        let mut peer = running.connect();
        peer.write(&message(&hello("panic"), b""));
        assert_eq!(peer.fault_code(), "internal");
        assert_eq!(peer.try_answer(), None);
    }
    assert!(other.ask(STATUS)["ok"].is_object());
    assert!(running.greet().ask(STATUS)["ok"].is_object());
}

#[test]
fn an_answer_that_outgrows_a_message_becomes_a_fault() {
    let running = run(Limits::default());
    let mut peer = running.connect();
    peer.write(&message(&hello("huge"), b""));
    assert_eq!(peer.fault_code(), "too_large");
    assert!(peer.ask(STATUS)["ok"].is_object());
}
