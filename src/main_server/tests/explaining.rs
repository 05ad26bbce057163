//! `explain` and `what_if`.

use super::*;

fn explain(desk: &Desk, path: &str) -> ExplainReply {
    let request = Explain::File { path: path.to_string(), from: 0 };
    desk.client().call(&request).expect("a file")
}

fn what_if(desk: &Desk, nodes: &[NodeId], zones: &[&str]) -> WhatIfReply {
    let zones = zones.iter().map(|zone| zone.to_string()).collect();
    let request = WhatIf { nodes: nodes.to_vec(), zones, after: None };
    desk.client().call(&request).expect("a page")
}

/// Has one file on each node alone, named after it, and one on both.
fn two_nodes() -> (Desk, [FakeNode; 2]) {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node(), desk.node()];
    desk.store(2, id(0), &mut nodes);
    ok(&desk.commit("/both", 2, &[id(0)]));
    let mut number = 1;
    for node in &mut nodes {
        // Where a single copy goes is drawn.
        let place = loop {
            let place = desk.place(1, id(number));
            if place.node == node.id {
                break place;
            }
            number += 1;
        };
        node.stored(&place.token).expect("it counts");
        ok(&desk.commit(&format!("/{}", node.id), 1, &[id(number)]));
        number += 1;
    }
    (desk, nodes)
}

#[test]
fn a_file_is_explained_by_its_copies_and_by_what_speaks_against_other_nodes() {
    let (desk, nodes) = two_nodes();
    let reply = explain(&desk, "/both");
    let chunk = &reply.chunks[0];
    assert_eq!((chunk.id, chunk.wanted, chunk.state.as_str()), (id(0), 2, "enough"));
    assert!(chunk.copies.iter().all(|copy| copy.counts && copy.state == "alive"));
    assert!(chunk.copies.iter().any(|copy| copy.reason == "emptier of two drawn"));
    let refused = reply.nodes.iter().map(|node| node.refused.as_deref());
    assert_eq!(refused.collect::<Vec<_>>(), [Some("holds_it"), Some("holds_it")]);
    assert_eq!(reply.addresses[&nodes[0].id], nodes[0].server.address().into());

    let single = explain(&desk, &format!("/{}", nodes[0].id));
    assert_eq!(single.nodes.iter().filter(|node| node.refused.is_none()).count(), 1);
    let by_id = desk.client().call(&Explain::Chunk { id: single.chunks[0].id }).expect("its own");
    assert_eq!(by_id.chunks, single.chunks);
    assert_eq!(code(desk.client().call(&Explain::Chunk { id: id(99) })), FaultCode::NotFound);
}

#[test]
fn a_chunk_is_explained_by_what_it_waits_for() {
    let (desk, mut nodes) = two_nodes();
    nodes[1].control = None;
    until("the node is suspect", || desk.state(&nodes[1]) == "suspect");
    let chunk = &explain(&desk, "/both").chunks[0];
    assert_eq!(chunk.state, "waiting");
    assert!(chunk.detail.contains("1 of 2 copies missing"), "{}", chunk.detail);
    assert_eq!(chunk.copies.iter().filter(|copy| copy.counts).count(), 1);
    let alone = &explain(&desk, &format!("/{}", nodes[1].id)).chunks[0];
    assert_eq!(alone.state, "unreadable");
    assert!(alone.detail.contains("suspect"), "{}", alone.detail);
    let serials = [alone.serial];
    desk.catalog.lose_copies(nodes[1].id, &serials).expect("a catalog");
    assert_eq!(explain(&desk, &format!("/{}", nodes[1].id)).chunks[0].state, "lost");

    let node = Explain::Node { node: nodes[1].id };
    let explained = &desk.client().call(&node).expect("known").nodes;
    assert_eq!((explained.len(), explained[0].state.as_str()), (1, "suspect"));
    let unknown = Explain::Node { node: NodeId(9) };
    assert_eq!(code(desk.client().call(&unknown)), FaultCode::NotFound);
}

#[test]
fn what_if_tells_what_would_be_lost_from_what_would_be_out_of_reach() {
    let (desk, mut nodes) = two_nodes();
    let [first, second] = [nodes[0].id, nodes[1].id];
    let counts = |reply: &WhatIfReply| (reply.safe, reply.unreadable, reply.lost);
    assert_eq!(counts(&what_if(&desk, &[], &[])), (3, 0, 0));
    let one = what_if(&desk, &[first], &[]);
    assert_eq!((counts(&one), one.next), ((2, 0, 1), None));
    assert_eq!(one.lost_files, [format!("/{first}")]);
    assert_eq!(counts(&what_if(&desk, &[first, second], &[])), (0, 0, 3));
    let zone = what_if(&desk, &[], &[""]);
    assert_eq!((counts(&zone), zone.nodes), ((0, 0, 3), vec![first, second]));

    // The other node is away: what it holds is out of reach, but not lost.
    nodes[1].control = None;
    until("the node is suspect", || desk.state(&nodes[1]) == "suspect");
    let reply = what_if(&desk, &[first], &[]);
    assert_eq!(counts(&reply), (0, 2, 1));
    assert_eq!(reply.unreadable_files, ["/both".to_string(), format!("/{second}")]);
    let request = WhatIf { zones: vec!["attic".to_string()], ..WhatIf::default() };
    assert_eq!(code(desk.client().call(&request)), FaultCode::NotFound);
}

#[test]
fn what_if_goes_through_many_files_in_pages() {
    let desk = Desk::new(SHORT);
    let mut nodes = [desk.node()];
    desk.store(1, id(1), &mut nodes);
    let mut files = Vec::new();
    for number in 0..1500 {
        files.push(CommitFile {
            path: format!("/{number}"),
            chunks: Some(vec![id(1)].into()),
            upload: None,
            parts: None,
            copies: 1,
            mtime_ms: 0,
            executable: false,
            if_version: None,
            parents: false,
        });
    }
    for files in files.chunks(1000) {
        let commit = Commit { request_id: RequestId::random(), files: files.to_vec().into() };
        desk.client().call(&commit).expect("committed");
    }
    let (mut after, mut pages, mut lost) = (None, 0, 0);
    loop {
        let request = WhatIf { nodes: vec![nodes[0].id], zones: Vec::new(), after };
        let page = desk.client().call(&request).expect("a page");
        (pages, lost) = (pages + 1, lost + page.lost);
        assert!(page.lost_files.len() <= MAX_NAMED_FILES);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((pages, lost), (2, 1500));
}
