//! `open`, `locate`, `stat`, `list` and what changes the tree.

use super::*;
use crate::catalog::{Confirmation, NodeStart};
use crate::token::Operation;

fn open(desk: &Desk, files: Vec<OpenFile>, explain: bool) -> OpenReply {
    desk.client().call(&Open { files: files.into(), explain }).expect("an answer")
}

fn file(path: &str) -> OpenFile {
    OpenFile { path: path.to_string(), version: None, from: 0 }
}

#[test]
fn a_file_is_opened_with_a_token_for_each_copy_and_says_why_it_is_there() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node()];
    desk.store(2, id(1), &mut nodes);
    ok(&desk.commit("/f", 2, &[id(1)]));
    let reply = open(&desk, vec![file("/f"), file("/g"), file("g"), file("/")], true);
    let opened = ok(&reply.files[0]);
    assert_eq!((opened.file.size, opened.file.mtime_ms), (u64::from(LENGTH), 7));
    let chunk = &opened.chunks[0];
    assert_eq!((chunk.id, chunk.length, chunk.copies.len()), (id(1), LENGTH, 2));
    for copy in &chunk.copies {
        let node = node_of(&mut nodes, copy.node);
        let claims = node.claims(&copy.token);
        assert_eq!((claims.operation, claims.id), (Operation::Fetch, id(1)));
        assert_eq!(reply.nodes[&copy.node], node.server.address().into());
        let reasons = ["emptier of two drawn", "only one that could take it"];
        assert!(reasons.contains(&copy.reason.as_deref().expect("it was asked for")), "{copy:?}");
    }
    let codes: Vec<_> = reply.files.iter().map(code_of).collect();
    let (not_found, bad) = (Some(FaultCode::NotFound), Some(FaultCode::BadName));
    assert_eq!(codes, [None, not_found, bad, Some(FaultCode::IsADirectory)]);
}

#[test]
fn copies_that_count_come_first_and_reads_are_spread_over_them() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node(), desk.node()];
    desk.store(3, id(1), &mut nodes);
    nodes[0].control = None;
    until("the node is suspect", || desk.state(&nodes[0]) == "suspect");
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let read = desk.client().call(&Locate { chunks: vec![id(1)].into() }).expect("stored");
        let copies = &ok(&read.chunks[0]).copies;
        assert_eq!(copies.len(), 3);
        assert_eq!(copies[2].node, nodes[0].id, "the suspect one may still serve");
        firsts.insert(copies[0].node);
    }
    assert_eq!(firsts.len(), 2);
    let unknown = desk.client().call(&Locate { chunks: vec![id(2)].into() }).expect("an answer");
    assert_eq!(code_of(&unknown.chunks[0]), Some(FaultCode::NotFound));
}

/// Books with 16 nodes, and one file of chunks that are on all of them.
fn large_file(chunks: u32) -> Desk {
    let key = Secret::random();
    let catalog = Arc::new(MemoryCatalog::new("admin", &key.fingerprint()));
    let later = NOW + Duration::from_secs(3600);
    catalog.create_invite(&[9; 32], 16, later).expect("an invite");
    let mut live = crate::catalog::LiveNodes::new();
    for number in 1..=16 {
        let node = catalog.join_node(&[9; 32], &[number; 32], NOW).expect("a node");
        let start = NodeStart {
            previous: Vec::new(),
            incarnation: Incarnation::random(),
            address: "127.0.0.1:65535".parse().expect("an address"),
            zone: String::new(),
            offered_bytes: GIB,
            highest_serial: None,
        };
        catalog.start_node(node, &start).expect("started");
        catalog.set_node_key(node, KeyId(1)).expect("a key");
        live.insert(node);
    }
    let wanted: Vec<(ChunkId, u32)> = (0..chunks).map(|n| (id(n), LENGTH)).collect();
    let account = AccountId(1);
    let reserved = catalog.reserve(account, 16, later, &wanted).expect("reserved");
    for record in reserved.into_iter().map(|record| record.expect("reserved")) {
        let confirmation = |&node| Confirmation {
            account,
            id: record.id,
            serial: record.serial,
            length: LENGTH,
            wanted: 16,
            node,
            reason: 1,
        };
        let confirmations: Vec<_> = live.iter().map(confirmation).collect();
        catalog.confirm_copies(&confirmations, WallTime(0)).expect("confirmed");
    }
    let ids = wanted.iter().map(|(id, _)| *id).collect();
    let file = crate::catalog::NewFile {
        path: "/f".parse().expect("a path"),
        manifest: crate::catalog::Manifest::Inline(ids),
        copies: 16,
        mtime_ms: 0,
        executable: false,
        condition: crate::catalog::Condition::Any,
        parents: false,
    };
    let request = RequestId::random();
    let done = catalog.commit_files(account, request, NOW, &live, &[file]).expect("a catalog");
    assert!(done[0].is_ok());
    Desk::on(catalog, key, SHORT)
}

#[test]
fn pages_of_a_large_file_fit_into_messages_and_stay_with_one_version() {
    let desk = large_file(600);
    let first = open(&desk, vec![file("/f"), file("/f")], true);
    assert_eq!(first.files.len(), 1, "a file that is cut is the last");
    let version = ok(&first.files[0]).file.version;
    // Somebody replaces it while it is read.
    ok(&desk.commit("/f", 1, &[]));
    let mut seen = 0u32;
    while seen < 600 {
        let wanted = OpenFile { version: Some(version), from: seen.into(), ..file("/f") };
        let reply = open(&desk, vec![wanted], true);
        let page = ok(&reply.files[0]);
        assert_eq!((page.file.version, page.file.chunk_count), (version, 600));
        assert!(!page.chunks.is_empty() && page.from == u64::from(seen));
        for chunk in page.chunks.iter() {
            assert_eq!((chunk.id, chunk.copies.len()), (id(seen), 16));
            seen += 1;
        }
    }
    assert_eq!(ok(&open(&desk, vec![file("/f")], false).files[0]).file.chunk_count, 0);
}

#[test]
fn a_page_of_located_chunks_fits_into_a_message() {
    let desk = large_file(1024);
    let wanted: Vec<ChunkId> = (0..1024).map(id).collect();
    let mut seen = 0;
    while seen < wanted.len() {
        let request = Locate { chunks: wanted[seen..].to_vec().into() };
        let reply = desk.client().call(&request).expect("it fits");
        assert!(!reply.chunks.is_empty());
        for chunk in reply.chunks.iter() {
            assert_eq!(ok(chunk).id, wanted[seen]);
            seen += 1;
        }
    }
}

#[test]
fn names_are_made_listed_moved_and_removed() {
    let desk = Desk::new(SHORT);
    let mut client = desk.client();
    let request_id = RequestId::random;
    for (name, parents) in [("/a", false), ("/a/b/c", true)] {
        let path = name.to_string();
        client.call(&MakeDirectory { request_id: request_id(), path, parents }).expect("made");
    }
    ok(&desk.commit("/a/f", 1, &[]));
    let list = |after: Option<&str>, limit| {
        let (path, after) = ("/a".to_string(), after.map(str::to_string));
        desk.client().call(&ListDirectory { path, after, limit })
    };
    let names = |reply: ListReply| -> (Vec<String>, bool) {
        (reply.entries.iter().map(|entry| entry.name.clone()).collect(), reply.more)
    };
    assert_eq!(
        names(list(None, None).expect("a")),
        (vec!["b".to_string(), "f".to_string()], false)
    );
    assert_eq!(names(list(None, Some(1)).expect("a")), (vec!["b".to_string()], true));
    assert_eq!(names(list(Some("b"), Some(9)).expect("a")), (vec!["f".to_string()], false));
    assert_eq!(code(list(None, Some(0))), FaultCode::Invalid);

    let (from, to) = ("/a".to_string(), "/z".to_string());
    let request = Move { request_id: request_id(), from, to, replace: false };
    client.call(&request).expect("moved");
    client.call(&request).expect("a repeat has the same answer");
    let paths = vec!["/z/f".to_string(), "/a".to_string(), "z".to_string()];
    let stat = client.call(&Stat { paths: paths.into() }).expect("an answer");
    assert!(ok(&stat.entries[0]).file.as_ref().is_some_and(|file| file.executable));
    assert_eq!(code_of(&stat.entries[1]), Some(FaultCode::NotFound));
    assert_eq!(code_of(&stat.entries[2]), Some(FaultCode::BadName));

    let remove = |recursive| {
        let (request_id, path) = (RequestId::random(), "/z".to_string());
        desk.client().call(&Remove { request_id, path, recursive, if_version: None, purge: false })
    };
    assert_eq!(code(remove(false)), FaultCode::NotEmpty);
    assert_eq!(remove(true).expect("removed").files, 1);
}

#[test]
fn a_commit_is_bounded_and_says_which_chunks_are_missing() {
    let desk = Desk::new(SHORT);
    let many: Vec<ChunkId> = (0..4096).map(id).collect();
    let part = |path: &str, ids: &[ChunkId]| CommitFile {
        path: path.to_string(),
        chunks: Some(ids.to_vec().into()),
        upload: None,
        parts: None,
        copies: 1,
        mtime_ms: 0,
        executable: false,
        if_version: None,
        parents: false,
    };
    let commit = |files: Vec<CommitFile>| {
        let request = Commit { request_id: RequestId::random(), files: files.into() };
        desk.client().call(&request)
    };
    assert_eq!(code(commit(vec![part("/f", &many), part("/g", &many[..1])])), FaultCode::Invalid);
    let reply = commit(vec![part("/f", &many[..2000]), part("/g", &many[2000..])]).expect("both");
    let named = |at: usize| match &reply.files[at] {
        Outcome::Fault(fault) => (fault.code, fault.chunks.len()),
        Outcome::Ok(_) => panic!("nothing of it is stored"),
    };
    assert_eq!(named(0), (FaultCode::NotStored, 256));
    assert_eq!(named(1), (FaultCode::NotStored, 0), "256 in the whole reply");
    let neither = CommitFile { chunks: None, ..part("/f", &[]) };
    let both = CommitFile { upload: Some(RequestId::random()), ..part("/f", &[]) };
    let reply = commit(vec![neither, both]).expect("an answer");
    assert!(reply.files.iter().all(|file| code_of(file) == Some(FaultCode::Invalid)));
}
