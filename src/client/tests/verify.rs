//! Verifying files, and the requests that come in pages.

use super::*;
use crate::client::{CopyProblem, VerifiedFile, Wholeness};
use crate::ids::NodeId;

/// A file of a few chunks, with a copy of each on nodes 1 to `copies`.
fn store(fake: &Fake, to: &str, bytes: &[u8], copies: u32) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, bytes).expect("written");
    let options = PutOptions { copies: copies as u8, ..PutOptions::default() };
    let upload = Upload { from: Source::Path(file), to: path(to) };
    fake.client().put([upload], &options, &Quiet).expect("stored");
    for chunk in bytes.chunks(CHUNK) {
        (1..=copies).for_each(|node| fake.hold(node, chunk));
    }
}

fn verify(fake: &Fake, root: &str) -> Vec<(String, Report)> {
    let reports = Reports::default();
    fake.client().verify(&[path(root)], &reports).expect("the operation as a whole");
    reports.0.into_inner()
}

fn verified(fake: &Fake, root: &str) -> VerifiedFile {
    match verify(fake, root).pop() {
        Some((_, Report::Verified(file))) => file,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_whole_when_every_copy_of_every_chunk_was_read_and_is_good() {
    let fake = Fake::start(2);
    store(&fake, "/file", &sample(7 * CHUNK + 5), 2);
    let file = verified(&fake, "/file");
    assert_eq!(file.wholeness(), Wholeness::Whole);
    assert_eq!((file.chunks, file.good_copies), (8, 16), "8 chunks, and 2 copies of each");
    assert_eq!(fake.count("bad_copy"), 0);
}

#[test]
fn a_damaged_copy_is_found_although_another_is_good_and_is_reported() {
    let fake = Fake::start(2);
    store(&fake, "/file", &sample(1000), 2);
    fake.make_trouble([Trouble::WrongBytes(2)]);
    let file = verified(&fake, "/file");
    assert_eq!(file.wholeness(), Wholeness::Damaged);
    assert_eq!((file.good_copies, file.bad_copies, file.unreadable_chunks), (1, 1, 0));
    let problem = &file.problems[0];
    assert_eq!((problem.index, problem.node), (0, NodeId(2)));
    assert!(matches!(problem.what, CopyProblem::Damaged(_)), "{problem:?}");
    assert_eq!(fake.count("bad_copy"), 1);
}

#[test]
fn a_chunk_without_a_good_copy_makes_a_file_unreadable() {
    let fake = Fake::start(1);
    store(&fake, "/file", &sample(1000), 1);
    fake.make_trouble([Trouble::WrongBytes(1)]);
    let file = verified(&fake, "/file");
    assert_eq!(file.wholeness(), Wholeness::Unreadable);
    assert_eq!((file.bad_copies, file.unreadable_chunks), (1, 1));
}

#[test]
fn a_copy_that_is_not_where_the_books_say_is_missing() {
    let fake = Fake::start(2);
    store(&fake, "/file", &sample(1000), 2);
    fake.make_trouble([Trouble::NodeForgets(1)]);
    let file = verified(&fake, "/file");
    assert_eq!(file.wholeness(), Wholeness::Damaged);
    assert_eq!(file.problems[0].what, CopyProblem::Missing);
    assert_eq!(fake.count("bad_copy"), 1);
}

#[test]
fn a_copy_that_moved_meanwhile_is_read_where_it_is_now() {
    let fake = Fake::start(3);
    store(&fake, "/file", &sample(1000), 2);
    fake.make_trouble([Trouble::CopyMoves(2, 3)]);
    let file = verified(&fake, "/file");
    assert_eq!((file.wholeness(), file.good_copies), (Wholeness::Whole, 2));
    assert_eq!(fake.count("bad_copy"), 0, "nothing was wrong with it");
}

#[test]
fn a_copy_on_a_node_that_is_away_is_unreachable_and_not_called_bad() {
    let fake = Fake::start(2);
    store(&fake, "/file", &sample(2 * CHUNK), 2);
    fake.stop_node(1);
    let mut settings = Settings::new(fake.main_address(), fake.key());
    settings.patience.established = std::time::Duration::ZERO;
    let reports = Reports::default();
    Client::new(settings).verify(&[path("/file")], &reports).expect("the operation as a whole");
    let Report::Verified(file) = reports.only() else { panic!("it was verified") };
    assert_eq!(file.wholeness(), Wholeness::Unreachable);
    assert_eq!((file.good_copies, file.unreachable_copies, file.bad_copies), (2, 2, 0));
    assert_eq!(fake.count("bad_copy"), 0);
}

#[test]
fn a_file_with_fewer_copies_than_wanted_is_under_copied() {
    let fake = Fake::start(1);
    put_bytes(&fake.client(), &sample(2 * CHUNK), "/file").stored();
    let file = verified(&fake, "/file");
    assert_eq!(file.wholeness(), Wholeness::UnderCopied);
    assert_eq!((file.good_copies, file.under_copied_chunks), (2, 2));
}

#[test]
fn every_file_of_a_tree_is_verified_and_an_empty_one_is_whole() {
    let fake = Fake::start(1);
    for at in 0..7 {
        store(&fake, &format!("/file{at}"), &sample(at * 1000), 1);
    }
    let mut reports = verify(&fake, "/");
    reports.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert_eq!(reports.len(), 7);
    for (at, (name, report)) in reports.into_iter().enumerate() {
        let Report::Verified(file) = report else { panic!("{report:?}") };
        assert_eq!((name, file.wholeness()), (format!("/file{at}"), Wholeness::Whole));
    }
}

#[test]
fn a_file_that_is_removed_meanwhile_is_neither_good_nor_bad() {
    for trouble in [Trouble::OpenIsLate("/b"), Trouble::FetchIsLate] {
        let fake = Fake::start(1);
        store(&fake, "/b", b"b", 1);
        fake.make_trouble([trouble]);
        let reports = verify(&fake, "/");
        assert!(matches!(reports[..], [(_, Report::Skipped(_))]), "{reports:?}");
        assert_eq!(fake.count("bad_copy"), 0);
    }
}

#[test]
fn all_pages_of_the_nodes_make_one_status() {
    let fake = Fake::start(3);
    let (_, nodes) = fake.client().status().expect("answered");
    assert_eq!(nodes.iter().map(|node| node.node.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(fake.count("status"), 3);
}

#[test]
fn a_refusal_to_lose_copies_names_the_files() {
    let fake = Fake::start(1);
    let error = fake.client().forget(NodeId(1), false).expect_err("refused");
    let fault = error.fault().expect("by the server");
    assert_eq!((fault.code, fault.files.clone()), (FaultCode::WouldLose, vec!["/only".into()]));
}
