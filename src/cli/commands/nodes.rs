//! `nodes`: the state of the cluster.

use serde::Serialize;

use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{counted, failure, print, print_json, shown, table};
use crate::cli::size::ByteSize;
use crate::wire::to_main::NodeStatus;

#[derive(Serialize)]
struct Document {
    files: u64,
    chunks: u64,
    copies: u64,
    under_copied_chunks: u64,
    nodes: Vec<NodeStatus>,
}

/// The command.
pub fn nodes(context: &Context) -> Result<Exit, Failure> {
    let status = context.client.status();
    let (reply, nodes) =
        status.map_err(|error| failure("cannot show the state of the cluster", &error))?;
    let (files, chunks, copies) = (reply.files, reply.chunks, reply.copies);
    let under_copied_chunks = reply.under_copied_chunks;
    if context.common.json {
        print_json(&Document { files, chunks, copies, under_copied_chunks, nodes })?;
        return Ok(Exit::Done);
    }
    let mut text = node_table(&nodes);
    text.push_str(&format!(
        "{} in {}, {} of them",
        counted(files, "file"),
        counted(chunks, "chunk"),
        if copies == 1 { "1 copy".to_string() } else { format!("{copies} copies") },
    ));
    if under_copied_chunks > 0 {
        let waiting = counted(under_copied_chunks, "chunk");
        text.push_str(&format!("; {waiting} with fewer copies than wanted"));
    }
    text.push('\n');
    if nodes.is_empty() {
        text = "no node has joined yet\n".to_string();
        eprintln!("hint: `p2pdfs admin invite` makes an invite, with which p2pdfs-node can join");
    }
    print(&text)?;
    Ok(Exit::Done)
}

/// The nodes as a table.
pub fn node_table(nodes: &[NodeStatus]) -> String {
    let mut rows = Vec::new();
    if !nodes.is_empty() {
        let head = ["node", "state", "zone", "address", "chunks", "used", "free", "last heard"];
        rows.push(head.map(str::to_string).to_vec());
    }
    for status in nodes {
        let address = status.address.as_ref().map_or("-".to_string(), ToString::to_string);
        let heard = match status.silent_ms {
            Some(ms) if ms < 60_000 => format!("{:.1} s ago", ms as f64 / 1000.0),
            Some(ms) => format!("{} min ago", ms / 60_000),
            None => "not since the main server's start".to_string(),
        };
        rows.push(vec![
            status.node.to_string(),
            state_of(status),
            zone_of(status),
            address,
            status.space.chunks.to_string(),
            ByteSize(status.space.used_bytes).to_string(),
            ByteSize(status.space.free_bytes).to_string(),
            heard,
        ]);
    }
    table(&rows)
}

/// A node's state, and whether it is draining.
pub fn state_of(status: &NodeStatus) -> String {
    let state = shown(&status.state);
    if status.draining { format!("{state}, draining") } else { state }
}

/// A node's zone; `-` for none.
pub fn zone_of(status: &NodeStatus) -> String {
    if status.zone.is_empty() { "-".to_string() } else { shown(&status.zone) }
}
