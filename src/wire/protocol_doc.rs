//! protocol.md, held against the code: its examples are parsed by the real types, its tables and
//! vectors compared with what the code says and does.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::value::Error as PlainError;
use serde::de::{DeserializeOwned, Deserializer, Error, Visitor};
use serde_json::{Value, json};

use super::frame::{Pace, encode};
use super::node_to_main::{BUCKET_SERIALS, MAX_HOLDINGS};
use super::to_main::ToMain;
use super::to_node::ToNode;
use super::*;
use crate::clock::WallTime;
use crate::ids::{
    AccountId, ChunkId, DEFAULT_COPIES, HashAlgorithm, KeyId, MAX_CHUNK_BYTES, MAX_COPIES, Serial,
};
use crate::policy::inventory;
use crate::token::{Claims, Operation, node_key};

const PAGE: &str = include_str!("../../protocol.md");

/// A request, as far as its section in the page can be checked without knowing it.
pub(crate) struct Described {
    name: &'static str,
    /// The members of the request and of the reply's `ok`.
    members: Vec<&'static str>,
    /// Reads a request's own object, or an answer, and writes it again.
    rewrite_request: fn(&Value) -> Result<Value, serde_json::Error>,
    rewrite_reply: fn(&Value) -> Result<Value, serde_json::Error>,
}

pub(crate) fn describe<M: Message + DeserializeOwned>() -> Described {
    fn rewrite<T: Serialize + DeserializeOwned>(value: &Value) -> Result<Value, serde_json::Error> {
        let typed: T = serde_json::from_str(&value.to_string())?;
        serde_json::from_slice(&encode(&typed))
    }
    Described {
        name: M::NAME,
        members: [names_in::<M>(), names_in::<M::Reply>()].concat(),
        rewrite_request: rewrite::<M>,
        rewrite_reply: rewrite::<Outcome<M::Reply>>,
    }
}

thread_local! {
    static NAMES: std::cell::Cell<&'static [&'static str]> = const { std::cell::Cell::new(&[]) };
}

/// Asks a type for the names of its members, or of its variants, as its derived reader knows them.
struct Names;

impl<'de> Deserializer<'de> for Names {
    type Error = PlainError;
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, PlainError> {
        Err(PlainError::custom("neither a struct nor an enum"))
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PlainError> {
        NAMES.set(fields);
        self.deserialize_any(visitor)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PlainError> {
        NAMES.set(variants);
        self.deserialize_any(visitor)
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

fn names_in<T: DeserializeOwned>() -> Vec<&'static str> {
    NAMES.set(&[]);
    let _ = T::deserialize(Names);
    NAMES.get().to_vec()
}

fn described() -> Vec<Described> {
    // Both have `hello`.
    ToMain::described().into_iter().chain(ToNode::described().into_iter().skip(1)).collect()
}

/// The blocks fenced with this info string, in a part of the page.
fn blocks<'a>(part: &'a str, info: &str) -> Vec<&'a str> {
    let fence = format!("```{info}\n");
    let ends = |rest: &'a str| rest.split_once("\n```").expect("each fence is closed").0;
    part.split(fence.as_str()).skip(1).map(ends).collect()
}

/// The part of the page from a heading's line up to the next of its level or a higher one.
fn section(heading: &str) -> &'static str {
    let start = PAGE.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let rest = &PAGE[start + 1..];
    let level = heading.split(' ').next().expect("a heading").len();
    let end = (1..=level).filter_map(|level| rest.find(&format!("\n{} ", "#".repeat(level)))).min();
    &rest[..end.unwrap_or(rest.len())]
}

/// The cells of the tables' rows in a part of the page.
fn rows(part: &str) -> impl Iterator<Item = Vec<&str>> {
    part.lines().filter_map(|line| {
        let inner = line.strip_prefix("| ")?.strip_suffix('|')?;
        Some(inner.split('|').map(str::trim).collect())
    })
}

/// True when `whole` says all that `part` says; it may say more.
fn says_all_of(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, value)| whole.get(key).is_some_and(|own| says_all_of(own, value))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(w, p)| says_all_of(w, p))
        }
        _ => whole == part,
    }
}

fn check_example(text: &str, rewrite: fn(&Value) -> Result<Value, serde_json::Error>) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in {text}"));
    let rewritten = rewrite(&value).unwrap_or_else(|e| panic!("{e} in {text}"));
    // What the code adds are defaults; what it drops, it would not know.
    assert!(says_all_of(&rewritten, &value), "{text}\nis read as\n{rewritten:#}");
}

/// The request in a message's JSON: its name and its own object.
fn request_in(text: &str) -> (Described, Value) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in {text}"));
    let members = value.as_object().expect("an object");
    assert_eq!(members.len(), 1, "{text}");
    let (name, request) = members.iter().next().expect("one member");
    let known = described().into_iter().find(|d| d.name == name);
    (known.unwrap_or_else(|| panic!("no request {name}")), request.clone())
}

#[test]
fn every_request_has_a_section_of_the_same_form_with_examples_that_are_read() {
    for request in described() {
        let part = section(&format!("#### `{}`", request.name));
        for word in ["**Purpose**", "**Faults**", "**Repeat**"] {
            assert_eq!(part.matches(word).count(), 1, "{word} in {}", request.name);
        }
        for member in &request.members {
            assert!(part.contains(&format!("`{member}`")), "{}: no `{member}`", request.name);
        }
        let (requests, replies) = (blocks(part, "json request"), blocks(part, "json reply"));
        assert!(!requests.is_empty() && !replies.is_empty(), "{}: no example", request.name);
        for text in requests {
            let (named, own) = request_in(text);
            assert_eq!(named.name, request.name);
            check_example(&own.to_string(), request.rewrite_request);
            let is_for_node = ToNode::NAMES.contains(&request.name);
            let is_for_main = ToMain::NAMES.contains(&request.name);
            assert!(!is_for_main || ToMain::parse(text.as_bytes()).is_ok(), "{text}");
            assert!(!is_for_node || ToNode::parse(text.as_bytes()).is_ok(), "{text}");
        }
        replies.iter().for_each(|text| check_example(text, request.rewrite_reply));
    }
}

#[test]
fn the_page_describes_no_request_and_no_example_that_the_code_does_not_have() {
    let names: BTreeSet<&str> = described().iter().map(|d| d.name).collect();
    let headings: Vec<&str> = PAGE.lines().filter_map(|l| l.strip_prefix("#### `")).collect();
    let on_page: BTreeSet<&str> = headings.iter().map(|h| h.trim_end_matches('`')).collect();
    assert_eq!(on_page, names);
    assert_eq!(headings.len(), names.len());
    for info in PAGE.lines().filter_map(|line| line.strip_prefix("```")) {
        let known = ["", "text", "json request", "json reply"].contains(&info)
            || info.starts_with("vector ");
        assert!(known, "a fence that no test reads: {info}");
    }
}

#[test]
fn every_member_of_every_message_is_named_on_the_page() {
    let sources = [
        include_str!("mod.rs"),
        include_str!("fault.rs"),
        include_str!("to_main.rs"),
        include_str!("to_node.rs"),
        include_str!("node_to_main.rs"),
    ];
    let fields = sources.iter().flat_map(|source| source.lines()).filter_map(|line| {
        let (name, rest) = line.strip_prefix("    pub ")?.split_once(':')?;
        (rest.starts_with(' ') && !name.contains(' ')).then_some(name)
    });
    let mut count = 0;
    for field in fields {
        let quoted = PAGE.contains(&format!("`{field}`")) || PAGE.contains(&format!("\"{field}\""));
        assert!(quoted, "{field}");
        count += 1;
    }
    assert!(count > 100, "only {count} members were found");
}

#[test]
fn the_examples_in_two_columns_are_read() {
    let mut waiting: Vec<Described> = Vec::new();
    let mut read = 0;
    for row in rows(section("## 9. An example: five bytes go in and come back")) {
        let [sent, answered] = row[..] else { panic!("two columns: {row:?}") };
        let quoted = |cell: &str| {
            let text = cell.split('`').nth(1).filter(|text| text.starts_with('{'));
            text.map(str::to_string)
        };
        if let Some(text) = quoted(sent) {
            let (request, own) = request_in(&text);
            check_example(&own.to_string(), request.rewrite_request);
            waiting.push(request);
            read += 1;
        }
        if let Some(text) = quoted(answered) {
            // The store to the second node is answered before the client's own.
            let request = waiting.pop().expect("an answer follows its request");
            check_example(&text, request.rewrite_reply);
            read += 1;
        }
    }
    assert!(waiting.is_empty() && read >= 20, "{read} messages");
}

#[test]
fn every_fault_code_has_its_row_with_what_the_code_says() {
    let codes: BTreeSet<&str> = names_in::<FaultCode>().into_iter().collect();
    let mut on_page = BTreeSet::new();
    for row in rows(section("## 6. Faults")).filter(|row| row.len() == 4) {
        let Some(name) = row[0].strip_prefix('`').and_then(|n| n.strip_suffix('`')) else {
            continue;
        };
        let code: FaultCode = serde_json::from_value(json!(name)).expect("any text is a code");
        let retryable = if code.is_retryable() { "yes" } else { "no" };
        assert_eq!(row[2], retryable, "{name}");
        assert!(!row[1].is_empty() && !row[3].is_empty(), "{name}");
        assert!(on_page.insert(name), "{name} twice");
    }
    // Not a code of the wire, but what a reader takes a code for that it does not know.
    assert_eq!(on_page, codes.into_iter().filter(|code| *code != "unknown").collect());
    let members = names_in::<Fault>();
    assert!(members.iter().all(|m| section("## 6. Faults").contains(&format!("| `{m}` |"))));
}

#[test]
fn the_limits_are_those_of_the_code() {
    let pace = Pace::default();
    let expected: BTreeMap<&str, u64> = BTreeMap::from([
        ("max_json_bytes", u64::from(MAX_JSON_BYTES)),
        ("max_payload_bytes", u64::from(MAX_PAYLOAD_BYTES)),
        ("max_hello_bytes", u64::from(MAX_HELLO_BYTES)),
        ("max_chunk_bytes", u64::from(MAX_CHUNK_BYTES)),
        ("max_items", MAX_ITEMS as u64),
        ("max_part_chunks", MAX_PART_CHUNKS as u64),
        ("max_parts", u64::from(crate::catalog::MAX_PARTS)),
        ("max_confirmations", MAX_CONFIRMATIONS as u64),
        ("max_previous", MAX_PREVIOUS as u64),
        ("max_holdings", MAX_HOLDINGS as u64),
        ("bucket_serials", BUCKET_SERIALS),
        ("max_copies", u64::from(MAX_COPIES)),
        ("default_copies", u64::from(DEFAULT_COPIES)),
        ("max_message_bytes", fault::MAX_MESSAGE_BYTES as u64),
        ("message_seconds", pace.base.as_secs()),
        ("message_bytes_per_second", u64::from(pace.bytes_per_second)),
    ]);
    let on_page: BTreeMap<&str, u64> = rows(section("## 4. The head, and the limits"))
        .filter_map(|row| {
            let number = row.get(1)?.replace(',', "").parse().ok()?;
            Some((row[0].trim_matches('`'), number))
        })
        .collect();
    assert_eq!(on_page, expected);
    assert_eq!(BUCKET_SERIALS, inventory::BUCKET_SERIALS);
    assert!(PAGE.contains(&format!("**version {}**", VERSIONS[1])));
}

/// The vectors of a kind: the values of each, by name.
fn vectors(kind: &str) -> Vec<BTreeMap<&'static str, &'static str>> {
    let blocks = blocks(PAGE, &format!("vector {kind}"));
    assert!(!blocks.is_empty(), "no vector of {kind}");
    let pairs = |block: &'static str| {
        let pair = |line: &'static str| {
            line.split_once(" =").map(|(name, value)| (name, value.trim())).expect("name = value")
        };
        block.lines().map(pair).collect()
    };
    blocks.into_iter().map(pairs).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).expect("hexadecimal digits")
}

#[test]
fn the_vectors_of_frames_hold() {
    for vector in vectors("frame") {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let written = std::net::TcpStream::connect(address).expect("it listens");
        let payload = bytes(vector["payload"]);
        frame::write_message(&written, vector["json"].as_bytes(), &[&payload]).expect("small");
        drop(written);
        let mut received = Vec::new();
        let (mut read, _) = listener.accept().expect("connected");
        std::io::Read::read_to_end(&mut read, &mut received).expect("what was written");
        assert_eq!(hex::encode(received), vector["bytes"]);
    }
}

#[test]
fn the_vectors_of_chunk_ids_hold() {
    for vector in vectors("chunk") {
        for (name, algorithm) in [("blake3", HashAlgorithm::Blake3), ("sha1", HashAlgorithm::Sha1)]
        {
            let id = ChunkId::of(algorithm, &bytes(vector["bytes"]));
            assert_eq!(id.to_string(), vector[name]);
        }
    }
}

#[test]
fn the_vectors_of_tokens_hold() {
    for vector in vectors("token") {
        let number = |name: &str| vector[name].parse::<u64>().expect("a number");
        let claims = Claims {
            key: KeyId(number("key") as u32),
            operation: match vector["operation"] {
                "1" => Operation::Store,
                "2" => Operation::Fetch,
                "3" => Operation::Duplicate,
                other => panic!("operation {other}"),
            },
            node: NodeId(number("node") as u32),
            id: vector["id"].parse().expect("a chunk id"),
            serial: Serial(number("serial")),
            length: number("length") as u32,
            account: AccountId(number("account") as u32),
            wanted: number("wanted") as u8,
            reason: number("reason") as u8,
            expires: WallTime(number("expires")),
        };
        let secret: Secret = vector["secret"].parse().expect("a secret");
        let token = claims.mint(&secret);
        assert_eq!(token.as_str(), vector["token"]);
        let before = WallTime(number("expires") - 1);
        assert_eq!(token.check(claims.node, |_| Some(secret), |_| true, before), Ok(claims));
        let base64url = |part: &str| {
            use base64::Engine;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes(vector[part]))
        };
        assert_eq!(token.as_str(), format!("v1.{}.{}", base64url("claims"), base64url("mac")));
    }
}

#[test]
fn the_vectors_of_keys_and_inventories_hold() {
    for vector in vectors("key") {
        let number = |name: &str| vector[name].parse::<u32>().expect("a number");
        let master: Secret = vector["master"].parse().expect("a secret");
        let key = node_key(&master, NodeId(number("node")), KeyId(number("key")));
        assert_eq!(hex::encode(key.as_bytes()), vector["secret"]);
    }
    for vector in vectors("inventory") {
        let copies =
            vector["copies"].split(',').filter(|copy| !copy.trim().is_empty()).map(|copy| {
                let numbers: Vec<u64> =
                    copy.split_whitespace().map(|n| n.parse().expect("a number")).collect();
                (Serial(numbers[0]), numbers[1] as u32, numbers[2] as u32)
            });
        assert_eq!(inventory::digest(copies).to_string(), vector["digest"]);
    }
    let id: ChunkId = vectors("chunk")[0]["sha1"].parse().expect("a chunk id");
    let fingerprint = inventory::fingerprint(&id).to_string();
    assert!(vectors("inventory").iter().any(|v| v["copies"].ends_with(&fingerprint)));
}
