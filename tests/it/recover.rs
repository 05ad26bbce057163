//! Row 34: the main server's disk is gone. The catalog is built anew from what nodes keep of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use p2pdfs::wire::admin::StatusReply;

use crate::harness::load::Load;
use crate::harness::mixed::{Expected, Mixed};
use crate::harness::{Process, Random, Setup, TestCluster, bytes, until};

/// The line with which a first start shows the recovery key.
const KEY_LINE: &str = "p2pdfs-main recovery key: ";

/// What changes is on two nodes within this, under load: promised in the design.
const MAX_LAG_MS: u64 = 1000;

/// Keeps the recovery key that the main server showed in a file.
pub fn key_file(cluster: &mut TestCluster) -> PathBuf {
    let key = cluster.main().line_after(KEY_LINE).expect("the first start shows it");
    let path = cluster.path().join("recovery.key");
    fs::write(&path, key).expect("a place for the key");
    path
}

pub fn is_caught_up(status: &StatusReply) -> bool {
    status.journal.keepers.len() >= 2 && status.journal.lag_ms == 0
}

/// The command that recovers into the main server's own, missing directory.
pub fn recovery(cluster: &TestCluster, key: &Path, node: usize, more: &[&str]) -> Command {
    let mut command = cluster.main_command(cluster.address().as_str());
    command.arg("--recover").arg("--recovery-key-file").arg(key);
    command.args(["--from", cluster.node_address(node).as_str()]).args(more);
    command
}

/// Kills the main server and takes its directory away.
fn lose_main(cluster: &mut TestCluster) {
    cluster.main().kill();
    fs::remove_dir_all(cluster.main_dir()).expect("its directory");
}

/// A recovery that must be refused, and what it said.
fn refused(mut command: Command) -> String {
    let mut process = Process::start("p2pdfs-main --recover", &mut command);
    let said = process.line_after("p2pdfs-main ready ").expect_err("it should be refused");
    assert_eq!(process.wait().code(), Some(5), "{said}");
    said
}

#[test]
fn the_catalog_outlives_the_main_servers_disk() {
    loses_nothing_that_was_safe(5, 60);
}

/// The same with as many files as make several generations of work; takes minutes.
#[test]
#[ignore = "long, and for an optimised build: README says how"]
fn the_catalog_of_a_hundred_thousand_files_outlives_the_main_servers_disk() {
    let mut cluster = TestCluster::start(3);
    let key = key_file(&mut cluster);
    let tree = cluster.path().join("tree");
    for directory in 0..100 {
        let directory = tree.join(format!("{directory:02}"));
        fs::create_dir_all(&directory).expect("a directory");
        for file in 0..1000 {
            let path = directory.join(file.to_string());
            fs::write(&path, path.to_str().expect("plain")).expect("a file");
        }
    }
    let tree = tree.to_str().expect("a plain path").to_string();
    let began = Instant::now();
    let mut put_all = cluster.cli().command(&["put", "-r", "--copies", "2", &tree, "/tree"]);
    let mut put_all = put_all.spawn().expect("the client starts");
    let mut worst = 0;
    while put_all.try_wait().expect("our child").is_none() {
        worst = worst.max(cluster.status().journal.lag_ms);
        std::thread::yield_now();
    }
    eprintln!("put in {:?}, the journal was at most {worst} ms behind", began.elapsed());
    assert!(worst <= MAX_LAG_MS, "{worst} ms behind");
    // One version that only `removed` knows.
    put(&cluster, "/removed", 9);
    cluster.cli().ok(&["rm", "/removed"]);
    cluster.wait_status("all is on two nodes", is_caught_up);
    let mut random = Random::announced();
    let mut expected = loses_main_under_load(&mut cluster, &key, &mut random);
    expected.assert_kept(&cluster);
    for _ in 0..200 {
        let inside = format!("{:02}/{}", random.below(100), random.below(1000));
        let run = cluster.cli().run(&["cat", &format!("/tree/{inside}")]);
        assert_eq!(run.ok(), Path::new(&tree).join(&inside).to_str().expect("plain"));
    }
    cluster.cli().ok(&["undelete", "/removed"]);
    assert!(cluster.cli().run(&["cat", "/removed"]).stdout == bytes(9, 1000));
    wait_kept_again(&cluster);
    let witness = cluster.settle_and_check();
    witness.assert_copies("/tree/", 2);
    let below = witness.files.keys().filter(|path| path.starts_with("/tree/")).count();
    assert_eq!(below, 100_000);
}

/// Recovers, and leaves the new main server running.
pub fn recover(cluster: &mut TestCluster, key: &Path, more: &[&str]) -> String {
    recover_from(cluster, key, 1, more)
}

fn recover_from(cluster: &mut TestCluster, key: &Path, node: usize, more: &[&str]) -> String {
    let command = recovery(cluster, key, node, more);
    cluster.start_main_as(command);
    // The settings are new, as their key is.
    let copy = cluster.path().join("client.toml");
    fs::copy(cluster.main_dir().join("client.toml"), copy).expect("new settings");
    cluster.main().said()
}

fn loses_nothing_that_was_safe(clients: usize, puts: usize) {
    let mut cluster = TestCluster::start(3);
    let mut random = Random::announced();
    let key = key_file(&mut cluster);
    cluster.wait_status("the journal begins", is_caught_up);
    let load = Load::start(&cluster, clients, 2, &mut random);
    let mut worst = 0;
    for _ in 0..puts / 2 {
        load.wait_for_more(2);
        worst = worst.max(cluster.status().journal.lag_ms);
    }
    let puts = load.stop();
    eprintln!("the journal was at most {worst} ms behind");
    assert!(worst <= MAX_LAG_MS, "{worst} ms behind");
    let status = cluster.wait_status("all is on two nodes", is_caught_up);
    assert_eq!(status.journal.keepers.len(), 3);
    lose_main(&mut cluster);
    let said = recover(&mut cluster, &key, &[]);
    assert!(said.contains("recovered the catalog as of"), "{said}");
    assert!(said.contains("was on two nodes at"), "{said}");
    cluster.wait_alive(3);
    puts.assert_kept(&cluster);
    // And it is kept again.
    cluster.wait_status("the journal begins anew", is_caught_up);
    let witness = cluster.stop_and_check();
    puts.assert_copied(&witness, 2);
}

#[test]
fn what_was_safe_outlives_a_loss_of_the_main_servers_disk_under_load() {
    let mut cluster = TestCluster::start(3);
    let mut random = Random::announced();
    let key = key_file(&mut cluster);
    let mut expected = Expected::default();
    for _ in 0..3 {
        wait_kept_again(&cluster);
        expected.extend(loses_main_under_load(&mut cluster, &key, &mut random));
        expected.assert_kept(&cluster);
    }
    wait_kept_again(&cluster);
    cluster.settle_and_check();
}

/// Waits until nodes keep the journal, and lets those obey that have seen more than was recovered.
fn wait_kept_again(cluster: &TestCluster) {
    until("the journal is kept", || {
        let status = cluster.status();
        if status.notices.iter().any(|notice| notice.code == "unadopted") {
            cluster.cli().ok(&["admin", "adopt", "nodes"]);
        }
        is_caught_up(&status).then_some(())
    });
}

/// Loses the main server's disk in the middle of puts, overwrites and removals, and recovers. What is
/// expected is all that was acknowledged before the moment up to which a status, asked for right
/// before, called everything safe.
fn loses_main_under_load(cluster: &mut TestCluster, key: &Path, random: &mut Random) -> Expected {
    let load = Mixed::start(cluster, 4, 2, random);
    load.wait_for_more(60);
    // Otherwise a slow machine may lose all of it, and nothing would be shown. The time is taken first.
    let then = Instant::now();
    until("some of the load is safe", || {
        (then.elapsed().as_millis() > 1 + u128::from(cluster.status().journal.lag_ms)).then_some(())
    });
    load.wait_for_more(1 + random.below(60) as usize);
    let asked = Instant::now();
    let lag_ms = cluster.status().journal.lag_ms;
    lose_main(cluster);
    let history = load.break_off();
    // Its milliseconds are whole ones, rounded down.
    let safe = asked - Duration::from_millis(lag_ms + 1);
    let last_put = history.last_put_before(safe).expect("something was safe");
    let later = history.acknowledged_after(safe);
    eprintln!(
        "lost with {lag_ms} ms that were not safe, and {later} operations acknowledged since"
    );
    let began = Instant::now();
    let said = recover(cluster, key, &[]);
    eprintln!("recovered in {:?}", began.elapsed());
    cluster.wait_alive(3);
    let time_after = |before: &str| {
        let (_, rest) = said.split_once(before).unwrap_or_else(|| panic!("no {before:?}: {said}"));
        rest.get(..UTC.len()).expect("a time").to_string()
    };
    let (as_of, heard) =
        (time_after("recovered the catalog as of "), time_after("was on two nodes at "));
    assert!(as_of >= utc(SystemTime::now() - last_put.elapsed()), "an older one: {said}");
    assert!(heard <= as_of, "what was heard of is not in it: {said}");
    history.kept_up_to(safe)
}

/// How times are printed: the later of two is the greater text.
const UTC: &str = "2026-11-01 12:00:00 UTC";

fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970").as_secs();
    let mut date = Command::new("date");
    let date = date.args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%d %H:%M:%S UTC"]).output();
    let text = String::from_utf8(date.expect("date runs").stdout).expect("text");
    assert_eq!(text.trim().len(), UTC.len(), "{text:?}");
    text.trim().to_string()
}

/// The newest file of the journal on a node.
fn journal_of(cluster: &TestCluster, index: usize) -> PathBuf {
    let entries = fs::read_dir(cluster.node_dir(index).join("journal")).expect("it keeps one");
    let files = entries.map(|entry| entry.expect("it can be read").path());
    files.filter(|path| path.extension().is_some_and(|end| end == "journal")).max().expect("one")
}

/// What a node has noted of what the main server said.
fn head_of(cluster: &TestCluster, index: usize) -> serde_json::Value {
    let head = cluster.node_dir(index).join("journal/head.json");
    let head = fs::read_to_string(head).unwrap_or_default();
    serde_json::from_str(&head).unwrap_or_default()
}

/// Waits until three nodes have the same file and know of each other, and nothing is on its way.
fn wait_all_have_all(cluster: &TestCluster) {
    cluster.wait_status("all three have the whole journal", |status| {
        let kept = |index| {
            let path = journal_of(cluster, index);
            (path.file_name().map(ToOwned::to_owned), fs::read(path).expect("its journal"))
        };
        let knows_all = |index| {
            let head = head_of(cluster, index);
            head["generation"] == status.journal.generation
                && head["keepers"].as_object().is_some_and(|keepers| keepers.len() == 3)
        };
        let is_everywhere = status.journal.keepers.len() == 3 && is_caught_up(status);
        is_everywhere && (0..3).all(knows_all) && kept(0) == kept(1) && kept(1) == kept(2)
    });
}

#[test]
fn a_piece_that_is_missing_is_named_and_never_passed_over() {
    let mut cluster = TestCluster::start(3);
    let key = key_file(&mut cluster);
    cluster.wait_status("the journal begins", is_caught_up);
    let begun = cluster.status().journal.sequence;
    for number in 0..3 {
        let path = format!("/{number}");
        cluster.cli().run_with(&["put", "--copies", "2", "-", &path], &bytes(number, 1000)).ok();
        cluster.wait_status("it is on two nodes", |status| {
            is_caught_up(status) && status.journal.sequence > begun + number
        });
    }
    wait_all_have_all(&cluster);
    lose_main(&mut cluster);

    // Damaged on two: the third has it.
    let spoil = |cluster: &TestCluster, index: usize| {
        let path = journal_of(cluster, index);
        let mut content = fs::read(&path).expect("its journal");
        let at = content.len() - 40;
        content[at] ^= 1;
        fs::write(&path, content).expect("its journal");
    };
    (0..2).for_each(|index| spoil(&cluster, index));
    recover(&mut cluster, &key, &[]);
    cluster.cli().ok(&["cat", "/2"]);
    wait_all_have_all(&cluster);
    lose_main(&mut cluster);

    // Damaged on all: refused, and named with who was asked.
    (0..3).for_each(|index| spoil(&cluster, index));
    let said = refused(recovery(&cluster, &key, 1, &[]));
    assert!(said.contains("is missing: no node has it whole"), "{said}");
    for node in ["node 1 at", "node 2 at", "node 3 at", "damaged there", "--until "] {
        assert!(said.contains(node), "{node:?} is not in: {said}");
    }
    assert!(!cluster.main_dir().join("catalog.db").exists());
    let until = until_of(&said);

    // A key of another cluster opens nothing.
    let wrong = cluster.path().join("wrong.key");
    fs::write(&wrong, "ab".repeat(32)).expect("a place for the key");
    let process = Process::start("p2pdfs-main --recover", &mut recovery(&cluster, &wrong, 0, &[]));
    let said = process.line_after("p2pdfs-main ready ").expect_err("it should be refused");
    assert!(said.contains("not the secret"), "{said}");

    // What is left is taken when a person says so.
    recover(&mut cluster, &key, &["--until", &until]);
    cluster.wait_alive(3);
    cluster.cli().ok(&["cat", "/0"]);
}

/// The number that a refusal says to go on with.
fn until_of(said: &str) -> String {
    let until = said.rsplit("--until ").next().and_then(|rest| rest.split_whitespace().next());
    until.unwrap_or_else(|| panic!("no number in: {said}")).to_string()
}

/// Where each piece of a journal's file ends; the first is the end of the header.
fn piece_ends(content: &[u8]) -> Vec<usize> {
    let mut ends = vec![p2pdfs::journal::HEADER_BYTES];
    loop {
        let from = *ends.last().expect("the header's");
        let Some(length) = content.get(from..from + 4) else { return ends };
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        ends.push(from + p2pdfs::journal::PIECE_HEAD_BYTES + length);
    }
}

#[test]
fn a_piece_that_no_node_has_any_more_is_named_and_never_passed_over() {
    let mut cluster = TestCluster::start(3);
    let key = key_file(&mut cluster);
    for number in 0..3 {
        let status = cluster.wait_status("all is on two nodes", is_caught_up);
        put(&cluster, &format!("/{number}"), number);
        cluster.wait_status("it was written", |now| now.journal.sequence > status.journal.sequence);
    }
    wait_all_have_all(&cluster);
    let last = cluster.status().journal;
    let has_heard = |index| head_of(&cluster, index)["sequence"] == last.sequence;
    until("all have heard of the last piece", || (0..3).all(has_heard).then_some(()));
    lose_main(&mut cluster);

    // On one it ends before the last piece, on the others within the one before.
    for (index, spare) in [0, 10, 1].into_iter().enumerate() {
        let path = journal_of(&cluster, index);
        let content = fs::read(&path).expect("its journal");
        let ends = piece_ends(&content);
        assert_eq!(ends.len() as u64, last.sequence + 1);
        let to = ends[ends.len() - 2] - spare;
        fs::write(&path, &content[..to]).expect("its journal");
    }
    let said = refused(recovery(&cluster, &key, 0, &[]));
    let (generation, sequence) = (last.generation, last.sequence);
    let was = format!("piece {sequence} of generation {generation} was on two nodes once");
    assert!(said.contains(&was), "{said}");
    let is = format!("piece {sequence} of generation {generation} of the journal is missing");
    assert!(said.contains(&is), "{said}");
    assert!(!cluster.main_dir().join("catalog.db").exists());

    let before = (sequence - 1).to_string();
    assert_eq!(until_of(&said), before);
    recover(&mut cluster, &key, &["--until", &before]);
    cluster.wait_alive(3);
    assert!(cluster.cli().run(&["cat", "/1"]).stdout == bytes(1, 1000));
}

#[test]
fn two_silent_keepers_may_have_more_than_a_third_and_are_named() {
    let mut cluster = TestCluster::start(3);
    let key = key_file(&mut cluster);
    put(&cluster, "/early", 1);
    wait_all_have_all(&cluster);
    // The first is cut off before the second file.
    cluster.node(0).kill();
    put(&cluster, "/late", 2);
    cluster.wait_status("it is on the two others", is_caught_up);
    lose_main(&mut cluster);
    (1..3).for_each(|index| cluster.node(index).kill());
    cluster.start_node(0);

    let said = refused(recovery(&cluster, &key, 0, &[]));
    for part in ["2 nodes do not answer", "node 2 at", "node 3 at", "refused", "--until "] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!cluster.main_dir().join("catalog.db").exists());

    // With one of them there is all that was acknowledged.
    cluster.start_node(1);
    recover_from(&mut cluster, &key, 0, &[]);
    cluster.start_node(2);
    cluster.wait_alive(3);
    for (path, seed) in [("/early", 1), ("/late", 2)] {
        assert!(cluster.cli().run(&["cat", path]).stdout == bytes(seed, 1000), "{path}");
    }

    // Gone for good: what is left is taken when a person says so.
    wait_all_have_all(&cluster);
    lose_main(&mut cluster);
    (1..3).for_each(|index| cluster.node(index).kill());
    let said = refused(recovery(&cluster, &key, 0, &[]));
    let said = recover_from(&mut cluster, &key, 0, &["--until", &until_of(&said)]);
    assert!(said.contains("did not answer"), "{said}");
    assert_eq!(cluster.status().files, 2);
}

fn put(cluster: &TestCluster, path: &str, seed: u64) {
    cluster.cli().run_with(&["put", "--copies", "2", "-", path], &bytes(seed, 1000)).ok();
}

/// The numbers of the nodes that keep the journal.
fn keepers(status: &StatusReply) -> Vec<u32> {
    status.journal.keepers.iter().map(|keeper| keeper.0).collect()
}

#[test]
fn an_orderly_end_loses_nothing_even_with_a_keeper_down_and_in_a_later_generation() {
    let mut cluster = TestCluster::start(3);
    let key = key_file(&mut cluster);
    let begun = cluster.wait_status("all keep the journal", |status| {
        is_caught_up(status) && status.journal.keepers.len() == 3
    });
    // Nothing is waited for between the last change and the end.
    put(&cluster, "/first", 1);
    assert!(cluster.main().stop().success());
    cluster.start_main();
    cluster.wait_alive(3);
    let rolled = cluster.wait_status("the next generation is there", |status| {
        is_caught_up(status) && status.journal.generation > begun.journal.generation
    });
    put(&cluster, "/second", 2);
    assert!(cluster.main().stop().success());
    fs::remove_dir_all(cluster.main_dir()).expect("its directory");
    cluster.node(2).kill();

    let said = recover(&mut cluster, &key, &[]);
    assert!(said.contains(&format!("generation {},", rolled.journal.generation)), "{said}");
    assert!(said.contains("did not answer"), "{said}");
    cluster.start_node(2);
    cluster.wait_alive(3);
    for (path, seed) in [("/first", 1), ("/second", 2)] {
        assert!(cluster.cli().run(&["cat", path]).stdout == bytes(seed, 1000), "{path}");
    }
    // What the nodes heard is in it, so it is the one to obey.
    let status = cluster.status();
    assert!(status.notices.iter().all(|notice| notice.code != "unadopted"), "{status:?}");
    cluster.settle_and_check().assert_copies("/", 2);
}

#[test]
fn keepers_that_no_node_names_are_found_by_what_an_old_one_keeps() {
    let mut cluster = TestCluster::start(3);
    let key = key_file(&mut cluster);
    cluster.wait_status("all keep the journal", |status| {
        is_caught_up(status) && status.journal.keepers.len() == 3
    });
    for _ in 0..2 {
        cluster.add_node();
    }
    cluster.wait_alive(5);
    cluster.wait_status("their joining is on two nodes", is_caught_up);
    wait_all_have_all(&cluster);
    // The first knows of no other keepers than these three.
    (0..3).for_each(|index| cluster.node(index).kill());
    cluster.wait_status("the others keep it", |status| {
        let knows = |index| {
            let head = head_of(&cluster, index);
            head["keepers"].as_object().is_some_and(|keepers| keepers.len() == 2)
        };
        keepers(status) == [4, 5] && is_caught_up(status) && (3..5).all(knows)
    });
    put(&cluster, "/late", 7);
    cluster.wait_status("it is on both", is_caught_up);
    lose_main(&mut cluster);
    cluster.start_node(0);

    recover_from(&mut cluster, &key, 0, &[]);
    cluster.wait_alive(3);
    assert!(cluster.cli().run(&["cat", "/late"]).stdout == bytes(7, 1000));
}

#[test]
fn a_node_tells_what_it_keeps_to_nobody_without_the_key() {
    let mut cluster = Setup::new(1).start();
    let key = key_file(&mut cluster);
    let text = fs::read_to_string(key).expect("the key");
    cluster.wait_status("the journal begins", |status| !status.journal.keepers.is_empty());
    // Neither the recovery key itself nor anything that is in the main server's directory will do.
    let kept = fs::read_to_string(cluster.main_dir().join("journal.json")).expect("what seals");
    let kept: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
    let found = [
        text.as_str(),
        kept["sealing"].as_str().expect("a key"),
        kept["reader"].as_str().expect("a fingerprint"),
    ];
    for secret in found {
        let secret = secret.trim().parse().expect("a secret");
        let request = p2pdfs::wire::to_node::ReadJournal { secret, generation: 0, offset: 0 };
        let mut connection = cluster.connect_to_node(0).expect("the node runs");
        let denied = connection.call(&request).expect_err("no right");
        let code = denied.fault().expect("a fault").code;
        assert_eq!(code, p2pdfs::wire::FaultCode::Denied);
    }
}
