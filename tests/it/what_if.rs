//! What the main server foretells is what happens; and what it explains is what the disks say.

use std::collections::{BTreeMap, BTreeSet};

use p2pdfs::client::Client;
use p2pdfs::ids::NodeId;
use p2pdfs::wire::admin::WhatIfReply;

use crate::harness::mixed::client;
use crate::harness::witness::Witness;
use crate::harness::{Random, Setup, TestCluster, raw, until};

const NODES: usize = 8;
const FILES: usize = 40;
const CHOICES: usize = 100;

#[test]
fn what_if_foretells_what_happens_when_nodes_are_killed() {
    let mut random = Random::announced();
    // Nothing is repaired, so that each choice meets the same copies.
    let mut cluster = Setup::new(NODES).main_args(&["--repair-speed", "0"]).start();
    let cli = cluster.cli();
    let paths: Vec<String> = (0..FILES).map(|number| format!("/file-{number}")).collect();
    for (number, path) in paths.iter().enumerate() {
        let copies = (1 + number % 3).to_string();
        let bytes = random.bytes(1 + random.clone().below(30_000) as usize);
        cli.run_with(&["put", "--copies", &copies, "-", path], &bytes).ok();
    }
    let client = client(&cluster);
    let mut different = BTreeSet::new();
    while different.len() < CHOICES {
        different.insert((0..NODES).filter(|_| random.below(5) < 2).collect::<BTreeSet<usize>>());
    }
    let mut choices: Vec<BTreeSet<usize>> = different.into_iter().collect();
    // All that is foretold, while all nodes are there. Then from one choice to the most alike.
    let foretold: BTreeMap<BTreeSet<usize>, WhatIfReply> =
        choices.iter().map(|down| (down.clone(), ask(&client, down))).collect();
    let mut down = BTreeSet::new();
    while !choices.is_empty() {
        let distance = |other: &BTreeSet<usize>| down.symmetric_difference(other).count();
        let nearest =
            (0..choices.len()).min_by_key(|&n| distance(&choices[n])).expect("one is left");
        let next = choices.swap_remove(nearest);
        let back: Vec<usize> = down.difference(&next).copied().collect();
        next.difference(&down).for_each(|&index| cluster.node(index).kill());
        back.into_iter().for_each(|index| cluster.start_node(index));
        down = next;
        cluster.wait_alive(NODES - down.len());
        let happened: BTreeSet<&String> =
            paths.iter().filter(|path| !can_be_read(&cluster, path, &down)).collect();
        let reply = &foretold[&down];
        let said: BTreeSet<&String> =
            reply.unreadable_files.iter().chain(&reply.lost_files).collect();
        assert_eq!(said, happened, "with {down:?} down");
        assert_eq!(reply.unreadable + reply.lost, happened.len() as u64);
        assert_eq!(reply.safe, (FILES - happened.len()) as u64);
    }
    (0..NODES).filter(|index| down.contains(index)).for_each(|index| cluster.start_node(index));
    cluster.wait_alive(NODES);
    cluster.stop_and_check();
}

fn ask(client: &Client, down: &BTreeSet<usize>) -> WhatIfReply {
    let nodes: Vec<NodeId> = down.iter().map(|&index| raw::node_at(index)).collect();
    client.what_if(&nodes, &[], None).expect("it is answered")
}

/// True if each chunk of the file can be had from some node that runs.
fn can_be_read(cluster: &TestCluster, path: &str, down: &BTreeSet<usize>) -> bool {
    let mut main = cluster.connect().expect("the main server runs");
    raw::open(&mut main, path).iter().all(|chunk| {
        chunk.copies.iter().filter(|copy| !down.contains(&raw::index_of(copy.node))).any(|copy| {
            let mut node = cluster.connect_to_node(raw::index_of(copy.node)).expect("it runs");
            raw::fetch(&mut node, &copy.token, 0, None).is_ok()
        })
    })
}

const GONE: NodeId = NodeId(4);

#[test]
fn explain_says_of_copies_what_the_disks_say() {
    let mut random = Random::announced();
    let mut cluster = Setup::new(4).main_args(&["--repair-speed", "0"]).start();
    let cli = cluster.cli();
    for number in 0..12 {
        let (copies, path) = ((1 + number % 3).to_string(), format!("/file-{number}"));
        let bytes = random.bytes(random.clone().below(9 << 20) as usize);
        cli.run_with(&["put", "--copies", &copies, "-", &path], &bytes).ok();
    }
    until("every chunk has its copies", || {
        (cluster.status().under_copied_chunks == 0).then_some(())
    });
    let explain = || -> BTreeMap<String, serde_json::Value> {
        let paths = (0..12).map(|number| format!("/file-{number}"));
        paths.map(|path| (path.clone(), cli.json(&["admin", "explain", &path]))).collect()
    };
    let in_peace = explain();
    cluster.node(raw::index_of(GONE)).kill();
    cluster.wait_alive(3);
    let with_one_gone = explain();
    cluster.start_node(raw::index_of(GONE));
    cluster.wait_alive(4);
    let witness = cluster.stop_and_check();
    agrees(&witness, &in_peace, None);
    agrees(&witness, &with_one_gone, Some(GONE));
}

/// What was said of these files is what is on the disks, and what counts is what is not gone.
fn agrees(
    witness: &Witness,
    explained: &BTreeMap<String, serde_json::Value>,
    gone: Option<NodeId>,
) {
    for (path, said) in explained {
        let file = witness.file(path);
        let chunks = said["chunks"].as_array().expect("chunks");
        assert_eq!(chunks.len(), file.chunks.len(), "{path}");
        for (said, chunk) in chunks.iter().zip(&file.chunks) {
            assert_eq!(said["serial"], serde_json::json!(chunk.serial), "{path}");
            let copies = said["copies"].as_array().expect("copies");
            let nodes: BTreeSet<NodeId> = copies
                .iter()
                .map(|copy| serde_json::from_value(copy["node"].clone()).expect("a number"))
                .collect();
            assert_eq!(nodes, witness.holders(chunk), "{path}");
            assert!(
                copies.iter().all(|copy| copy["reason"].as_str().is_some_and(|r| !r.is_empty()))
            );
            let there = nodes.iter().filter(|node| Some(**node) != gone).count();
            let counts = copies.iter().filter(|copy| copy["counts"] == true).count();
            assert_eq!(counts, there, "{path}");
            let state = said["state"].as_str().expect("a word");
            let expected: &[&str] = match there {
                0 => &["unreadable"],
                _ if there == nodes.len() => &["enough"],
                _ => &["waiting", "queued"],
            };
            assert!(expected.contains(&state), "{path}: {state} with {nodes:?}");
        }
    }
}
