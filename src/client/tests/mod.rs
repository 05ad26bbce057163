//! What the client does about servers that fail, tried on servers that fail to order. What it does
//! with real ones is tried in the integration tests.

mod fake;
mod hedging;
mod verify;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::*;
use crate::ids::{ChunkId, HashAlgorithm};
use crate::wire::FaultCode;
use fake::{Fake, Trouble};

const CHUNK: usize = 4 << 20;

/// Keeps what became of each file.
#[derive(Default)]
struct Reports(RefCell<Vec<(String, Report)>>);

impl Observer for Reports {
    fn file(&self, from: &OsStr, _to: &OsStr, report: Report) {
        self.0.borrow_mut().push((from.to_string_lossy().into_owned(), report));
    }
}

impl Reports {
    fn only(self) -> Report {
        let mut reports = self.0.into_inner();
        assert_eq!(reports.len(), 1, "{reports:?}");
        reports.remove(0).1
    }

    fn stored(self) -> StoredFile {
        match self.only() {
            Report::Stored(stored) => stored,
            other => panic!("{other:?}"),
        }
    }
}

fn path(text: &str) -> RemotePath {
    text.parse().expect("a good path")
}

fn put_path(client: &Client, from: &Path, to: &str) -> Reports {
    let reports = Reports::default();
    let upload = Upload { from: Source::Path(from.to_path_buf()), to: path(to) };
    client.put([upload], &PutOptions::default(), &reports).expect("the operation as a whole");
    reports
}

fn put_bytes(client: &Client, bytes: &[u8], to: &str) -> Reports {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, bytes).expect("written");
    put_path(client, &file, to)
}

fn read(client: &Client, from: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    client.read(&path(from), None, range, &mut bytes, &Quiet).map(|_| bytes)
}

/// Bytes that differ from chunk to chunk.
fn sample(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 1024 % 251) as u8 ^ (at / CHUNK) as u8).collect()
}

#[test]
fn a_busy_main_server_is_asked_again() {
    let fake = Fake::start(1);
    fake.make_trouble([Trouble::MainBusy, Trouble::MainBusy]);
    fake.client().make_directory(&path("/a"), false).expect("made at last");
    assert_eq!(fake.count("mkdir"), 3);
}

#[test]
fn a_lost_connection_to_the_main_server_is_opened_again() {
    let fake = Fake::start(1);
    let client = fake.client();
    client.make_directory(&path("/a"), false).expect("made");
    fake.make_trouble([Trouble::MainHangsUp, Trouble::MainHangsUp]);
    client.make_directory(&path("/b"), false).expect("made at last");
}

#[test]
fn a_refusal_is_not_tried_again() {
    let fake = Fake::start(1);
    let error = fake.client().stat(&path("/nothing")).expect_err("it is not there");
    assert_eq!(error.code(), Some(FaultCode::NotFound));
    assert_eq!(fake.count("stat"), 1);
}

#[test]
fn a_node_is_not_taken_for_a_main_server() {
    let fake = Fake::start(1);
    let settings = Settings::new(fake.node_address(1), fake.key());
    let error = Client::new(settings).stat(&path("/")).expect_err("it is a node");
    assert!(matches!(error, ClientError::NotAMainServer { .. }), "{error:?}");
}

#[test]
fn a_file_comes_back_as_it_went_in() {
    let fake = Fake::start(3);
    let (client, bytes) = (fake.client(), sample(9 * CHUNK + 5));
    let stored = put_bytes(&client, &bytes, "/file").stored();
    assert_eq!((stored.size, stored.sent_bytes), (bytes.len() as u64, bytes.len() as u64));
    assert!(read(&client, "/file", 0..u64::MAX).expect("read") == bytes);
    let (start, end) = (CHUNK as u64 - 3, 2 * CHUNK as u64 + 3);
    let part = read(&client, "/file", start..end).expect("read");
    assert!(part == bytes[start as usize..end as usize]);
}

#[test]
fn a_stream_is_stored_to_its_end() {
    let fake = Fake::start(2);
    let (client, bytes) = (fake.client(), sample(2 * CHUNK));
    let from = Source::Stream(Box::new(std::io::Cursor::new(bytes.clone())));
    let reports = Reports::default();
    client
        .put([Upload { from, to: path("/s") }], &PutOptions::default(), &reports)
        .expect("the operation as a whole");
    assert_eq!(reports.stored().size, bytes.len() as u64);
    assert!(read(&client, "/s", 0..u64::MAX).expect("read") == bytes);
}

#[test]
fn only_what_is_missing_is_sent() {
    let fake = Fake::start(1);
    let (client, bytes) = (fake.client(), sample(3 * CHUNK));
    fake.hold(1, &bytes[..CHUNK]);
    let stored = put_bytes(&client, &bytes, "/file").stored();
    assert_eq!(stored.sent_bytes, 2 * CHUNK as u64);
}

#[test]
fn bytes_in_memory_are_stored_like_a_file() {
    let fake = Fake::start(2);
    let client = fake.client();
    for length in [0, 1, CHUNK, 2 * CHUNK + 7] {
        let (bytes, reports) = (sample(length), Reports::default());
        let upload = Upload { from: Source::Bytes(bytes.clone()), to: path("/bytes") };
        client.put([upload], &PutOptions::default(), &reports).expect("the operation as a whole");
        assert_eq!(reports.stored().size, length as u64);
        assert!(read(&client, "/bytes", 0..u64::MAX).expect("read") == bytes);
    }
}

/// The thread of the operation itself waits for the answer then, and nothing else could wake it.
#[test]
fn a_cancel_ends_a_wait_for_an_answer_that_never_comes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let settings = Settings::new(address.parse().expect("good"), Secret::random());
    let client = Client::new(settings);
    let waiting = client.clone();
    let thread = std::thread::spawn(move || read(&waiting, "/file", 0..u64::MAX));
    let (mut silent, _) = listener.accept().expect("a connection");
    // It has asked, and waits.
    std::io::Read::read_exact(&mut silent, &mut [0; 8]).expect("the head of `hello`");
    client.cancel_handle().cancel();
    let ended = thread.join().expect("no panic");
    assert!(matches!(ended, Err(ClientError::Cancelled)), "{ended:?}");
}

/// The file without an answer was neither stored nor told of, and the put succeeded.
#[test]
fn an_allocate_with_an_answer_left_out_fails_the_put() {
    let fake = Fake::start(1);
    fake.make_trouble([Trouble::AllocateIsShort]);
    let from = Source::Stream(Box::new(std::io::Cursor::new(b"bytes".to_vec())));
    let upload = Upload { from, to: path("/file") };
    let error = fake.client().put([upload], &PutOptions::default(), &Quiet).expect_err("refused");
    assert!(matches!(error, ClientError::Unsuitable(_)), "{error:?}");
    assert_eq!(fake.count("commit"), 0);
}

#[test]
fn equal_chunks_travel_once() {
    let fake = Fake::start(1);
    let stored = put_bytes(&fake.client(), &vec![7; 20 * CHUNK], "/sevens").stored();
    assert_eq!(stored.size, 20 * CHUNK as u64);
    assert_eq!(fake.stored_chunks(), 1);
}

#[test]
fn a_chunk_whose_node_fails_is_placed_anew() {
    let fake = Fake::start(2);
    fake.make_trouble([
        Trouble::NodeHangsUp(1),
        Trouble::NodeHangsUp(1),
        Trouble::NodeFull(2),
        Trouble::TokenExpired(2),
    ]);
    let (client, bytes) = (fake.client(), sample(4 * CHUNK));
    put_bytes(&client, &bytes, "/file").stored();
    assert!(read(&client, "/file", 0..u64::MAX).expect("read") == bytes);
}

#[test]
fn chunks_that_a_commit_misses_are_stored_again() {
    let fake = Fake::start(1);
    let bytes = sample(3 * CHUNK);
    let lost = ChunkId::of(HashAlgorithm::Blake3, &bytes[CHUNK..2 * CHUNK]);
    fake.make_trouble([Trouble::CommitLoses(lost)]);
    let stored = put_bytes(&fake.client(), &bytes, "/file").stored();
    assert_eq!(stored.sent_bytes, 4 * CHUNK as u64);
    assert_eq!(fake.count("commit"), 2);
}

#[test]
fn a_file_that_changes_while_it_is_read_fails() {
    let fake = Fake::start(1);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, sample(20 * CHUNK)).expect("written");
    // More chunks than there are buffers: the first is placed before the last is read.
    fake.make_trouble([Trouble::AllocateTouches(file.clone())]);
    let report = put_path(&fake.client(), &file, "/file").only();
    assert!(matches!(report, Report::Failed(ClientError::Changed)), "{report:?}");
    assert_eq!(fake.count("commit"), 0);
}

#[test]
fn a_wrong_copy_is_passed_over_and_reported() {
    let fake = Fake::start(2);
    let (client, bytes) = (fake.client(), sample(1000));
    put_bytes(&client, &bytes, "/file").stored();
    fake.hold(2, &bytes);
    fake.make_trouble([Trouble::WrongBytes(1)]);
    assert_eq!(read(&client, "/file", 0..u64::MAX).expect("read"), bytes);
    assert_eq!(fake.count("bad_copy"), 1);
}

#[test]
fn a_node_that_hangs_up_is_passed_over() {
    let fake = Fake::start(2);
    let (client, bytes) = (fake.client(), sample(3 * CHUNK));
    put_bytes(&client, &bytes, "/file").stored();
    bytes.chunks(CHUNK).for_each(|chunk| fake.hold(2, chunk));
    fake.stop_node(1);
    assert!(read(&client, "/file", 0..u64::MAX).expect("read") == bytes);
}

#[test]
fn a_file_without_a_good_copy_leaves_its_target_alone() {
    let fake = Fake::start(1);
    let client = fake.client();
    let length = 2 * CHUNK;
    put_bytes(&client, &sample(length), "/file").stored();
    fake.make_trouble([Trouble::WrongBytes(1), Trouble::WrongBytes(1)]);
    let directory = tempfile::tempdir().expect("a directory");
    let to = directory.path().join("target");
    fs::write(&to, "as it was").expect("written");
    let reports = Reports::default();
    let download = Download { from: path("/file"), version: None, to: to.clone() };
    client.get([download], &reports).expect("the operation as a whole");
    let report = reports.only();
    assert!(matches!(report, Report::Failed(ClientError::Damaged { .. })), "{report:?}");
    assert_eq!(fs::read_to_string(&to).expect("still there"), "as it was");
    let left = fs::read_dir(directory.path()).expect("listed").count();
    assert_eq!(left, 1, "a temporary file was left behind");
}

#[test]
fn many_small_files_share_their_messages() {
    let fake = Fake::start(1);
    let directory = tempfile::tempdir().expect("a directory");
    for number in 0..500 {
        fs::write(directory.path().join(number.to_string()), format!("file {number}"))
            .expect("written");
    }
    let entries = walk_local(directory.path(), &path("/many"));
    let uploads = entries.into_iter().map(|entry| match entry.kind {
        LocalKind::File { to, .. } => Upload { from: Source::Path(entry.path), to },
        other => panic!("{other:?}"),
    });
    let reports = Reports::default();
    fake.client().put(uploads, &PutOptions::default(), &reports).expect("stored");
    assert_eq!(reports.0.into_inner().len(), 500);
    for request in ["allocate", "store", "commit"] {
        assert!(fake.count(request) <= 2, "{} of {request}", fake.count(request));
    }
}

#[test]
fn a_bad_local_name_costs_only_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in [&b"good"[..], b"not\xffutf-8", b"control\x1b"] {
        fs::write(directory.path().join(OsStr::from_bytes(name)), "x").expect("written");
    }
    std::os::unix::fs::symlink("good", directory.path().join("link")).expect("linked");
    fs::create_dir_all(directory.path().join("empty")).expect("made");
    let mut kinds: Vec<String> = walk_local(directory.path(), &path("/t"))
        .into_iter()
        .map(|entry| match entry.kind {
            LocalKind::File { to, .. } => format!("file {to}"),
            LocalKind::EmptyDirectory { to } => format!("directory {to}"),
            LocalKind::Skipped(_) => "skipped".to_string(),
            LocalKind::Failed(_) => "failed".to_string(),
        })
        .collect();
    kinds.sort();
    assert_eq!(kinds, ["directory /t/empty", "failed", "failed", "file /t/good", "skipped"]);
}

#[test]
fn a_link_in_the_target_is_not_followed() {
    let directory = tempfile::tempdir().expect("a directory");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("/", &link).expect("linked");
    assert!(make_local_directory(&link).is_err());
}

#[test]
fn a_cancel_ends_an_operation_that_waits() {
    let fake = Fake::start(1);
    let client = fake.client();
    client.cancel_handle().cancel();
    let error = client.stat(&path("/")).expect_err("it was cancelled");
    assert!(matches!(error, ClientError::Cancelled), "{error:?}");
}
