//! Frames and the parser, fed with what no honest peer sends.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::frame::{FrameError, FrameReader, PayloadBuffer, write_message};
use super::to_main::ToMain;
use super::to_node::ToNode;
use super::*;

/// Turns a hang into a failure; nothing waits for it to pass.
const HANG: Duration = Duration::from_secs(30);
/// The stack of a connection's thread.
const STACK_BYTES: usize = 512 * 1024;

/// A connected pair: the end that is read, the end that is written.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let written = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    written.set_nodelay(true).expect("a socket option");
    (listener.accept().expect("connected").0, written)
}

fn head(json_bytes: u32, payload_bytes: u32) -> Vec<u8> {
    [json_bytes.to_be_bytes(), payload_bytes.to_be_bytes()].concat()
}

#[test]
fn a_length_over_the_limits_is_refused_before_anything_is_allocated() {
    for (json_bytes, payload_bytes) in [
        (u32::MAX, 0),
        (MAX_JSON_BYTES + 1, 0),
        (2, MAX_PAYLOAD_BYTES + 1),
        (2, u32::MAX),
        (u32::MAX, u32::MAX),
    ] {
        let (read, mut written) = pair();
        written.write_all(&head(json_bytes, payload_bytes)).expect("room in the socket");
        let mut json = Vec::new();
        let result = FrameReader::default().read_message(&read, HANG, &mut json);
        assert!(matches!(result, Err(FrameError::TooLarge { .. })), "{result:?}");
        assert_eq!(json.capacity(), 0);
    }
}

#[test]
fn buffers_grow_only_with_bytes_that_arrived() {
    let (read, mut written) = pair();
    written.write_all(&head(MAX_JSON_BYTES, 0)).expect("room in the socket");
    written.write_all(&[b' '; 10_000]).expect("room in the socket");
    drop(written);
    let mut json = Vec::new();
    let result = FrameReader::default().read_message(&read, HANG, &mut json);
    assert!(matches!(result, Err(FrameError::CutOff)), "{result:?}");
    assert!(json.capacity() <= 20_000, "{} bytes for 10,000", json.capacity());

    let (read, mut written) = pair();
    written.write_all(&head(0, MAX_PAYLOAD_BYTES)).expect("room in the socket");
    written.write_all(&[7; 100_000]).expect("room in the socket");
    drop(written);
    let (mut reader, mut payload) = (FrameReader::default(), PayloadBuffer::default());
    assert!(matches!(reader.read_message(&read, HANG, &mut json), Ok(Some(_))));
    let result = reader.read_payload(&read, &mut payload, |_| {});
    assert!(matches!(result, Err(FrameError::CutOff)), "{result:?}");
    assert!(payload.capacity() <= 200_000, "{} bytes for 100,000", payload.capacity());
}

#[test]
fn a_message_cut_off_at_any_byte_is_an_error_and_at_none_an_end() {
    let message = [head(3, 2), b"{ }ab".to_vec()].concat();
    for cut in 0..message.len() {
        let (read, mut written) = pair();
        written.write_all(&message[..cut]).expect("room in the socket");
        drop(written);
        let (mut reader, mut json) = (FrameReader::default(), Vec::new());
        let result = reader.read_message(&read, HANG, &mut json).and_then(|head| {
            reader.read_payload(&read, &mut PayloadBuffer::default(), |_| {})?;
            Ok(head)
        });
        match cut {
            0 => assert!(matches!(result, Ok(None)), "{result:?}"),
            _ => assert!(matches!(result, Err(FrameError::CutOff)), "cut at {cut}: {result:?}"),
        }
    }
}

/// Parses with the stack that a connection has.
fn parse(json: Vec<u8>) -> Result<ToMain, ParseError> {
    let parser = thread::Builder::new().stack_size(STACK_BYTES);
    let parsing = parser.spawn(move || ToMain::parse(&json)).expect("a thread");
    parsing.join().expect("the parser does not panic")
}

fn is_malformed(json: impl Into<Vec<u8>>) -> bool {
    matches!(parse(json.into()), Err(ParseError::Malformed(_)))
}

#[test]
fn json_nested_a_million_deep_is_a_fault_or_ignored() {
    for open in ["[", r#"{"a":"#] {
        let deep = open.repeat(1_000_000 / open.len());
        assert!(is_malformed(deep.as_bytes()));
        assert!(is_malformed(format!(r#"{{"open":{{"files":{deep}"#)));
        assert!(is_malformed(format!(r#"{{"status":{{"x":{deep}"#)));
        assert!(is_malformed(format!(r#"{{"frobnicate":{deep}"#)));
    }
    let deep = "[".repeat(500_000) + &"]".repeat(500_000);
    assert!(matches!(
        parse(format!(r#"{{"status":{{"x":{deep}}}}}"#).into()),
        Ok(ToMain::Status(_))
    ));
}

#[test]
fn a_list_over_its_bound_is_refused_where_the_bound_is_crossed() {
    let file = r#"{"path":"/a"},"#;
    let of = |count: usize| {
        let files = file.repeat(count);
        format!(r#"{{"open":{{"files":[{}]}}}}"#, files.trim_end_matches(','))
    };
    assert!(matches!(parse(of(MAX_ITEMS).into()), Ok(ToMain::Open(_))));
    let Err(ParseError::Malformed(why)) = parse(of(70_000).into()) else { panic!("it was taken") };
    assert!(why.contains("more than 1024 items"), "{why}");
    let column = why.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("a column");
    assert!(column < (MAX_ITEMS + 4) * file.len(), "it read on to {column}");
    assert!(is_malformed(format!(r#"{{"stat":{{"paths":[{}]}}}}"#, "1,".repeat(500_000))));
}

#[test]
fn a_hundred_thousand_unknown_keys_are_ignored_and_known_ones_may_come_once() {
    let keys: String = (0..70_000).map(|n| format!(r#""k{n}":1,"#)).collect();
    let json = format!(r#"{{"list":{{{keys}"path":"/"}}}}"#);
    assert!(json.len() <= MAX_JSON_BYTES as usize);
    assert!(matches!(parse(json.into()), Ok(ToMain::ListDirectory(_))));
    for twice in [
        r#"{"list":{"path":"/","path":"/"}}"#,
        r#"{"list":{"path":"/"},"list":{"path":"/"}}"#,
        r#"{"list":{"path":"/"},"status":{}}"#,
    ] {
        assert!(is_malformed(twice), "{twice}");
    }
}

#[test]
fn a_fault_quotes_only_a_little_of_what_a_peer_sent() {
    let long = "é".repeat(100_000);
    for json in [
        format!(r#"{{"{long}":1}}"#),
        format!(r#"{{"hello":{{"versions":[1,1],"role":"{long}","agent":""}}}}"#),
        format!(r#"{{"locate":{{"chunks":["{long}"]}}}}"#),
    ] {
        let fault = Fault::from(parse(json.into()).expect_err("not a good request"));
        assert!(fault.message.len() <= fault::MAX_MESSAGE_BYTES, "{}", fault.message.len());
    }
}

#[test]
fn the_reply_to_a_hello_of_other_versions_says_which_would_do() {
    let mut hello = Hello::new(Role::Client);
    assert_eq!(hello.agree(), Ok(1));
    hello.versions = [0, 7];
    assert_eq!(hello.agree(), Ok(1));
    for versions in [[2, 7], [0, 0], [7, 0]] {
        hello.versions = versions;
        let fault = hello.agree().expect_err("no version in common");
        assert_eq!((fault.code, fault.versions), (FaultCode::UnsupportedVersion, Some(VERSIONS)));
    }
}

/// Pieces of requests, so that random text gets past the parser's first glance.
fn request_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(ToMain::NAMES).prop_map(|name| format!(r#""{name}""#)),
        proptest::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"path\"",
            "\"chunks\"",
            "\"files\"",
            "null",
            "true",
            "-1",
            "1e400",
            "18446744073709551616",
            "\"/a\"",
            "\"\\ud800\"",
            "\"",
            "\\",
            " ",
        ])
        .prop_map(str::to_string),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>, text in request_like()) {
        for json in [&bytes[..], text.as_bytes(), format!("{{{text}}}").as_bytes()] {
            let _ = ToMain::parse(json);
            let _ = ToNode::parse(json);
            let _ = serde_json::from_slice::<Outcome<to_main::OpenReply>>(json);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn messages_read_back_however_the_stream_is_split(
        messages in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..20_000),
             proptest::collection::vec(any::<u8>(), 0..200_000)), 1..4),
        cuts in proptest::collection::vec(1usize..30_000, 1..20),
    ) {
        let (read, mut written) = pair();
        let stream: Vec<u8> = messages
            .iter()
            .flat_map(|(json, payload)| {
                [head(json.len() as u32, payload.len() as u32), json.clone(), payload.clone()]
            })
            .flatten()
            .collect();
        let writing = thread::spawn(move || {
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                written.write_all(piece).expect("the reader reads");
                rest = after;
                if rest.is_empty() { break }
            }
        });
        let (mut reader, mut json) = (FrameReader::default(), Vec::new());
        let mut payload = PayloadBuffer::default();
        for (index, (sent_json, sent_payload)) in messages.iter().enumerate() {
            let head = reader.read_message(&read, HANG, &mut json).expect("sound frames");
            prop_assert!(head.is_some());
            prop_assert_eq!(&json, sent_json);
            // Every other payload is left to be passed over.
            if index % 2 == 0 {
                let mut seen = Vec::new();
                reader.read_payload(&read, &mut payload, |piece| seen.extend_from_slice(piece))
                    .expect("a whole payload");
                prop_assert_eq!(payload.as_slice(), &sent_payload[..]);
                prop_assert_eq!(&seen, sent_payload);
            }
        }
        prop_assert!(reader.read_message(&read, HANG, &mut json).expect("an end").is_none());
        writing.join().expect("the writer ends");
    }
}

#[test]
fn a_message_of_many_parts_arrives_as_one() {
    let parts: Vec<Vec<u8>> = (0..3000u32).map(|n| vec![n as u8; (n % 7) as usize]).collect();
    let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let (read, written) = pair();
    write_message(&written, b"{}", &slices).expect("room in the socket");
    let (mut reader, mut json) = (FrameReader::default(), Vec::new());
    let mut payload = PayloadBuffer::default();
    assert!(matches!(reader.read_message(&read, HANG, &mut json), Ok(Some(_))));
    reader.read_payload(&read, &mut payload, |_| {}).expect("a whole payload");
    assert_eq!((&json[..], payload.as_slice()), (&b"{}"[..], &parts.concat()[..]));
}

#[test]
fn a_message_over_the_limits_is_not_sent() {
    let (read, written) = pair();
    let json = vec![b' '; MAX_JSON_BYTES as usize + 1];
    assert!(matches!(write_message(&written, &json, &[]), Err(FrameError::TooLarge { .. })));
    drop(written);
    assert!(matches!(FrameReader::default().read_message(&read, HANG, &mut Vec::new()), Ok(None)));
}
