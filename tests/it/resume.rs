//! A put that was cut off: nothing of it is visible, and run again it sends only what is missing.

use std::io::Write;
use std::process::{Child, Stdio};

use p2pdfs::ids::NodeId;
use p2pdfs::wire::Outcome;
use p2pdfs::wire::to_main::{Locate, StatusReply};

use crate::harness::{Random, TestCluster, bytes, raw, tree, until};

const CHUNK: usize = 4 << 20;

/// Payload bytes that the nodes have received from clients, when all that is under way is counted:
/// as of a heartbeat that began after now.
fn received_bytes(cluster: &TestCluster) -> u64 {
    let silent = |status: &StatusReply| -> Vec<(NodeId, u64)> {
        status.nodes.iter().filter_map(|n| Some((n.node, n.silent_ms?))).collect()
    };
    // Two heartbeats on, since the first may have been on its way.
    for _ in 0..2 {
        let mut last = silent(&cluster.status());
        let mut waiting: Vec<NodeId> = last.iter().map(|(node, _)| *node).collect();
        until("every node has beaten", || {
            let now = silent(&cluster.status());
            waiting.retain(|node| {
                let of = |list: &[(NodeId, u64)]| list.iter().find(|(n, _)| n == node).map(|f| f.1);
                of(&now) >= of(&last)
            });
            last = now;
            waiting.is_empty().then_some(())
        });
    }
    cluster.status().nodes.iter().map(|node| node.received_bytes).sum()
}

/// A put from a pipe of which only the first part comes, so that it stands still there.
fn start_put(cluster: &TestCluster, path: &str, first_part: &[u8]) -> Child {
    let mut command = cluster.cli().command(&["put", "--copies", "2", "-", path]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the client starts");
    let stdin = child.stdin.as_mut().expect("it was asked for");
    stdin.write_all(first_part).expect("the client reads");
    child
}

fn kill(mut child: Child) {
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
}

#[test]
fn a_put_that_was_killed_sends_only_what_is_missing_when_run_again() {
    let mut cluster = TestCluster::start(3);
    let cli = cluster.cli();
    for (round, chunks_before) in [(0, 2), (1, 5), (2, 9)] {
        let path = format!("/file-{round}");
        let content = bytes(90 + round, 12 * CHUNK);
        let child = start_put(&cluster, &path, &content[..chunks_before * CHUNK + 1000]);
        let ids: Vec<_> = content.chunks(CHUNK).map(raw::id_of).collect();
        // Of what it was given, some has to be stored before it is killed, however it reads ahead.
        let stored = |at_least: usize| {
            until("some chunks are stored", || {
                let mut main = cluster.connect().ok()?;
                let located = main.call(&Locate { chunks: ids.clone().into() }).ok()?;
                let whole = located
                    .chunks
                    .iter()
                    .filter(|chunk| matches!(chunk, Outcome::Ok(chunk) if chunk.copies.len() >= 2));
                let count = whole.count();
                (count >= at_least).then_some(count)
            })
        };
        stored(chunks_before - 1);
        kill(child);
        cli.run(&["stat", &path]).failed(3, &[&path]);
        assert!(!cli.ok(&["ls", "/"]).contains(&path[1..]));

        let before = received_bytes(&cluster);
        let stored = stored(chunks_before - 1);
        cli.run_with(&["put", "--copies", "2", "-", &path], &content).ok();
        let sent = received_bytes(&cluster) - before;
        let missing = ((12 - stored) * CHUNK) as u64;
        assert!(sent <= missing, "{sent} bytes were sent, {missing} were missing");
        assert!(cli.run(&["cat", &path]).stdout == content);
    }
    cluster.settle_and_check().assert_copies("/file-", 2);
}

#[test]
fn a_tree_that_was_stored_is_not_sent_again() {
    let mut cluster = TestCluster::start(2);
    let (cli, original) = (cluster.cli(), cluster.path().join("tree"));
    tree::many(&original, 200, 5);
    let source = original.to_str().expect("a plain path");
    cli.ok(&["put", "-r", "--copies", "2", source, "/tree"]);
    let before = received_bytes(&cluster);
    cli.ok(&["put", "-r", "--copies", "2", source, "/again"]);
    assert_eq!(received_bytes(&cluster), before);
    cluster.settle_and_check().assert_copies("/again/", 2);
}

#[test]
fn a_tree_cut_off_anywhere_shows_only_whole_files_and_is_completed_when_run_again() {
    let mut cluster = TestCluster::start(2);
    let (cli, home) = (cluster.cli(), cluster.home());
    let mut random = Random::announced();
    for round in 0..3 {
        let name = format!("tree-{round}");
        let (original, seen) = (home.join(&name), home.join(format!("seen-{round}")));
        tree::many(&original, 500, random.next());
        let before = cluster.status().copies;
        let mut child = cli.command(&["-q", "put", "-r", "--copies", "2", &name, "/"]);
        let child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let some = before + 1 + random.below(900);
        cluster.wait_status("some copies are made", |status| status.copies >= some);
        kill(child);

        std::fs::create_dir(&seen).expect("it is new");
        if cli.run(&["stat", &format!("/{name}")]).code == Some(0) {
            cli.ok(&["get", "-r", &format!("/{name}"), seen.to_str().expect("plain")]);
        }
        let (all, seen) = (tree::facts(&original), tree::facts(&seen.join(&name)));
        let half: Vec<_> =
            seen.iter().filter(|(path, facts)| all.get(*path) != Some(facts)).collect();
        assert!(half.is_empty(), "half-done files can be seen: {half:?}");

        cli.ok(&["put", "-r", "--copies", "2", &name, "/"]);
        let copy = home.join(format!("copy-{round}"));
        cli.ok(&["get", "-r", &format!("/{name}"), copy.to_str().expect("plain")]);
        tree::assert_same(&original, &copy);
    }
    cluster.settle_and_check().assert_copies("/tree-", 2);
}
