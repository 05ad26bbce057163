//! `admin status` and `admin nodes`: the cluster on one screen.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::health::{Health, health, next_step};
use crate::cli::client::Context;
use crate::cli::commands::nodes::{state_of, zone_of};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{
    copies, counted, failure, percent, print, print_json, shown, span, table,
};
use crate::cli::size::ByteSize;
use crate::client::ClientError;
use crate::clock::WallTime;
use crate::wire::to_main::{
    DeleteStatus, JournalStatus, NodeStatus, Notice, RepairStatus, StatusReply,
};

/// How long a screen stands with --watch.
const EVERY: Duration = Duration::from_secs(2);

/// Show how the cluster is: one screen
///
/// The first line says it all: healthy, repairing, at risk, damaged, or waiting for somebody; what waits
/// says what to type. Then files, repair and the time it takes, space, the catalog, and each node.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs admin status
  p2pdfs admin status --watch
  p2pdfs admin status --json")]
pub struct StatusArgs {
    /// Show it anew every 2 seconds, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

/// Show the nodes: state, fill, scrub, and what is wrong with each
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  p2pdfs admin nodes")]
pub struct NodesArgs {}

/// What `--json` shows.
#[derive(Serialize)]
struct Document<'a> {
    health: Health,
    summary: String,
    time_ms: WallTime,
    files: u64,
    files_at_risk: u64,
    chunks: u64,
    copies: u64,
    under_copied_chunks: u64,
    single_copy_chunks: u64,
    unreadable_chunks: u64,
    lost_chunks: u64,
    is_surveyed: bool,
    repair: &'a RepairStatus,
    deletes: &'a DeleteStatus,
    journal: &'a JournalStatus,
    last_commit_ms: Option<u64>,
    space: SpaceSums,
    notices: &'a [Notice],
    nodes: &'a [NodeStatus],
}

/// Of the nodes that are neither dead nor struck off.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
struct SpaceSums {
    nodes: u64,
    offered_bytes: u64,
    used_bytes: u64,
    free_bytes: u64,
    trash_bytes: u64,
}

fn document<'a>(status: &'a StatusReply, nodes: &'a [NodeStatus]) -> Document<'a> {
    let (health, summary) = health(status, nodes);
    Document {
        health,
        summary,
        time_ms: status.time,
        files: status.files,
        files_at_risk: status.files_at_risk,
        chunks: status.chunks,
        copies: status.copies,
        under_copied_chunks: status.under_copied_chunks,
        single_copy_chunks: status.single_copy_chunks,
        unreadable_chunks: status.unreadable_chunks,
        lost_chunks: status.lost_chunks,
        is_surveyed: status.is_surveyed,
        repair: &status.repair,
        deletes: &status.deletes,
        journal: &status.journal,
        last_commit_ms: status.last_commit_ms,
        space: space_of(nodes),
        notices: &status.notices,
        nodes,
    }
}

/// The command `status`.
pub fn status(context: &Context, args: &StatusArgs) -> Result<Exit, Failure> {
    let cancel = context.client.cancel_handle();
    loop {
        let (status, nodes) = match context.client.status() {
            Ok(answer) => answer,
            Err(ClientError::Cancelled) if args.watch => return Ok(Exit::Done),
            Err(error) => return Err(failure("cannot show the state of the cluster", &error)),
        };
        if context.common.json {
            print_json(&document(&status, &nodes))?;
        } else if args.watch && stdout().is_terminal() {
            print(&redrawn(&screen(&status, &nodes)))?;
        } else {
            print(&screen(&status, &nodes))?;
        }
        if !args.watch || cancel.wait(EVERY).is_err() {
            return Ok(Exit::Done);
        }
    }
}

/// The text over what stands on the terminal: from its top, each line's rest and all below cleared.
fn redrawn(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

/// The command `nodes`.
pub fn nodes(context: &Context, _args: &NodesArgs) -> Result<Exit, Failure> {
    let status = context.client.status();
    let (_, nodes) = status.map_err(|error| failure("cannot show the nodes", &error))?;
    if context.common.json {
        #[derive(Serialize)]
        struct Document {
            nodes: Vec<NodeStatus>,
        }
        print_json(&Document { nodes })?;
        return Ok(Exit::Done);
    }
    if nodes.is_empty() {
        eprintln!("hint: `p2pdfs admin invite` makes an invite, with which p2pdfs-node can join");
        print("no node has joined yet\n")?;
        return Ok(Exit::Done);
    }
    print(&node_table(&nodes))?;
    Ok(Exit::Done)
}

fn space_of(nodes: &[NodeStatus]) -> SpaceSums {
    let mut sums = SpaceSums::default();
    for node in nodes.iter().filter(|node| !matches!(node.state.as_str(), "dead" | "left")) {
        sums.nodes += 1;
        let add = |sum: &mut u64, bytes: u64| *sum = sum.saturating_add(bytes);
        add(&mut sums.offered_bytes, node.space.offered_bytes);
        add(&mut sums.used_bytes, node.space.used_bytes);
        add(&mut sums.free_bytes, node.space.free_bytes);
        add(&mut sums.trash_bytes, node.space.trash_bytes);
    }
    sums
}

/// All of it, for people.
fn screen(status: &StatusReply, nodes: &[NodeStatus]) -> String {
    let (health, why) = health(status, nodes);
    let mut text = format!("{}: {}\n\n", health.words(), shown(why));
    let rows = [
        ("files", files_line(status)),
        ("chunks", chunks_line(status)),
        ("repair", repair_line(&status.repair)),
        ("space", space_line(&space_of(nodes))),
        ("catalog", catalog_line(status)),
        ("deletes", deletes_line(&status.deletes)),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, line)| vec![name.to_string(), line]).collect();
    text.push_str(&table(&rows));
    for notice in &status.notices {
        text.push_str(&format!("\n! {}\n", shown(&notice.message)));
        if let Some(next) = next_step(notice) {
            text.push_str(&format!("  {next}\n"));
        }
    }
    if nodes.is_empty() {
        text.push_str("\n  make an invite for the first node: p2pdfs admin invite\n");
    } else {
        text.push('\n');
        text.push_str(&node_table(nodes));
    }
    text
}

fn files_line(status: &StatusReply) -> String {
    let files = counted(status.files, "file");
    match status.files_at_risk {
        0 => format!("{files}, none at risk"),
        count => format!("{files}, {count} at risk"),
    }
}

fn chunks_line(status: &StatusReply) -> String {
    let mut text = format!("{} in {}", counted(status.chunks, "chunk"), copies(status.copies));
    let classes = [
        (status.under_copied_chunks, "with fewer copies than wanted"),
        (status.single_copy_chunks, "with one copy left"),
        (status.unreadable_chunks, "unreadable now"),
        (status.lost_chunks, "lost"),
    ];
    for (count, what) in classes.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!("; {count} {what}"));
    }
    if !status.is_surveyed {
        text.push_str(" (not all were looked at yet)");
    }
    text
}

fn repair_line(repair: &RepairStatus) -> String {
    let mut parts = Vec::new();
    if repair.chunks_left > 0 {
        let (chunks, bytes) = (counted(repair.chunks_left, "chunk"), ByteSize(repair.bytes_left));
        parts.push(format!("{chunks}, {bytes} left"));
    }
    if repair.bytes_per_second > 0 {
        parts.push(format!("{}/s", ByteSize(repair.bytes_per_second)));
    }
    if let Some(seconds) = repair.left_s.filter(|_| repair.chunks_left > 0) {
        parts.push(format!("about {}", span(seconds * 1000)));
    }
    if repair.moves_left > 0 {
        parts.push(format!("{} to move", counted(repair.moves_left, "chunk")));
    }
    if repair.orders > 0 {
        parts.push(format!("{} under way", counted(repair.orders, "order")));
    }
    if repair.surplus_copies > 0 {
        parts.push(format!("{} too many", copies(repair.surplus_copies)));
    }
    if parts.is_empty() {
        parts.push("nothing to do".to_string());
    }
    if let Some(limit) = repair.limit_bytes_per_second {
        parts.push(format!("at most {}/s", ByteSize(limit)));
    }
    parts.join(", ")
}

fn space_line(space: &SpaceSums) -> String {
    let SpaceSums { nodes, offered_bytes, used_bytes, free_bytes, trash_bytes } = *space;
    format!(
        "{} used of {} on {} ({}), {} free, {} of trash",
        ByteSize(used_bytes),
        ByteSize(offered_bytes),
        counted(nodes, "node"),
        percent(used_bytes, offered_bytes),
        ByteSize(free_bytes),
        ByteSize(trash_bytes),
    )
}

fn catalog_line(status: &StatusReply) -> String {
    let mut text = match status.last_commit_ms {
        Some(ms) => format!("durable {} ago", span(ms)),
        None => "nothing new since the start".to_string(),
    };
    let JournalStatus { keepers, lag_ms, .. } = &status.journal;
    let numbers: Vec<String> = keepers.iter().map(ToString::to_string).collect();
    text.push_str(&match numbers.len() {
        0 => "; no node keeps a copy of it".to_string(),
        1 => format!("; kept by node {} alone", numbers[0]),
        _ => format!("; kept by nodes {}", numbers.join(", ")),
    });
    text.push_str(&match lag_ms {
        0 => String::new(),
        ms => format!(", {} behind", span(*ms)),
    });
    text
}

fn deletes_line(deletes: &DeleteStatus) -> String {
    match (deletes.condemned_copies, deletes.unexplained_copies) {
        (0, _) => "none".to_string(),
        (count, 0) => format!("{} on their way out", copies(count)),
        (count, held) => {
            format!("{} on their way out, {held} of them explained by no removal", copies(count))
        }
    }
}

/// The nodes, with all that is known of them.
pub fn node_table(nodes: &[NodeStatus]) -> String {
    let head = ["node", "state", "zone", "fill", "free", "trash", "last heard", "scrub", ""];
    let mut rows = vec![head.map(str::to_string).to_vec()];
    rows.extend(nodes.iter().map(|node| {
        let space = &node.space;
        vec![
            node.node.to_string(),
            state_of(node),
            zone_of(node),
            percent(space.used_bytes, space.offered_bytes),
            ByteSize(space.free_bytes).to_string(),
            ByteSize(space.trash_bytes).to_string(),
            node.silent_ms.map_or("-".to_string(), |ms| format!("{} ago", span(ms))),
            scrub_of(node),
            remarks(node),
        ]
    }));
    table(&rows)
}

fn scrub_of(node: &NodeStatus) -> String {
    let part = percent(node.scrub.done_bytes, node.scrub.total_bytes);
    match node.scrub.passes {
        0 => part,
        1 => format!("{part} after 1 pass"),
        passes => format!("{part} after {passes} passes"),
    }
}

fn remarks(node: &NodeStatus) -> String {
    let mut remarks = Vec::new();
    if let Some(why) = &node.failed {
        remarks.push(format!("failed: {}", shown(why)));
    }
    if node.damaged_copies > 0 {
        remarks.push(format!("{} damaged", copies(node.damaged_copies)));
    }
    if let Some(left) = node.drain_left {
        remarks.push(format!("{} to move off", counted(left, "chunk")));
    }
    remarks.join("; ")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ids::NodeId;
    use crate::wire::node_to_main::{ScrubState, Space};

    /// A healthy cluster's.
    pub fn status() -> StatusReply {
        let text = r#"{"time":0,"files":12,"chunks":40,"copies":120,"under_copied_chunks":0,
            "is_surveyed":true,"last_commit_ms":400,"nodes":[],
            "journal":{"keepers":[1,3],"lag_ms":300,"generation":1,"sequence":9}}"#;
        serde_json::from_str(text).expect("a good reply")
    }

    /// An alive node that is half full.
    pub fn node(number: u32) -> NodeStatus {
        let offered_bytes = 10 << 30;
        let (used_bytes, free_bytes) = (offered_bytes / 2, 4 << 30);
        let space = Space { offered_bytes, used_bytes, free_bytes, chunks: 40, trash_bytes: 0 };
        NodeStatus {
            node: NodeId(number),
            address: None,
            zone: "a".to_string(),
            state: "alive".to_string(),
            draining: false,
            silent_ms: Some(700),
            space,
            received_bytes: 0,
            failed: None,
            damaged_copies: 0,
            scrub: ScrubState { passes: 1, done_bytes: 1, total_bytes: 4 },
            drain_left: None,
        }
    }

    #[test]
    fn a_healthy_cluster_is_one_short_screen() {
        let text = screen(&status(), &[node(1), node(3)]);
        let expected = "\
healthy: every chunk of every file has its copies

files    12 files, none at risk
chunks   40 chunks in 120 copies
repair   nothing to do
space    10.0 GiB used of 20.0 GiB on 2 nodes (50 %), 8.0 GiB free, 0 B of trash
catalog  durable 0.4 s ago; kept by nodes 1, 3, 0.3 s behind
deletes  none

node  state  zone  fill  free     trash  last heard  scrub
1     alive  a     50 %  4.0 GiB  0 B    0.7 s ago   25 % after 1 pass
3     alive  a     50 %  4.0 GiB  0 B    0.7 s ago   25 % after 1 pass
";
        assert_eq!(text, expected);
    }

    #[test]
    fn whatever_is_wrong_is_said_with_its_numbers_and_the_next_thing_to_type() {
        let mut status = status();
        (status.under_copied_chunks, status.single_copy_chunks, status.files_at_risk) = (30, 4, 2);
        let repair = r#"{"chunks_left":30,"bytes_left":125829120,"bytes_per_second":1048576,
            "left_s":120,"limit_bytes_per_second":2097152,"moves_left":3,"orders":2,"surplus_copies":1}"#;
        status.repair = serde_json::from_str(repair).expect("a good status");
        (status.deletes.condemned_copies, status.deletes.unexplained_copies) = (9, 5);
        let message = "9 deletes wait\u{1b}[31m".to_string();
        status.notices.push(Notice { code: "deletes_held".to_string(), message });
        let mut bad = node(2);
        (bad.state, bad.draining, bad.drain_left) = ("suspect".to_string(), true, Some(7));
        (bad.failed, bad.damaged_copies) = (Some("a sync failed".to_string()), 2);
        let text = screen(&status, &[bad]);
        for part in [
            "waiting for somebody: 9 deletes wait",
            "12 files, 2 at risk",
            "; 30 with fewer copies than wanted; 4 with one copy left\n",
            "30 chunks, 120.0 MiB left, 1.0 MiB/s, about 2 min, 3 chunks to move, \
             2 orders under way, 1 copy too many, at most 2.0 MiB/s\n",
            "9 copies on their way out, 5 of them explained by no removal\n",
            "p2pdfs admin adopt deletes",
            "suspect, draining",
            "failed: a sync failed; 2 copies damaged; 7 chunks to move off",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "what a server says could steer the terminal");
    }

    #[test]
    fn dead_nodes_offer_no_space() {
        let mut dead = node(2);
        dead.state = "dead".to_string();
        assert_eq!(space_of(&[node(1), dead]), space_of(&[node(1)]));
    }

    #[test]
    fn the_document_has_what_programs_rely_on() {
        let (status, nodes) = (status(), [node(1)]);
        let json = serde_json::to_value(document(&status, &nodes)).expect("plain data");
        for name in
            ["nodes", "chunks", "under_copied_chunks", "single_copy_chunks", "unreadable_chunks"]
        {
            assert!(!json[name].is_null(), "{name} is not in {json}");
        }
        assert_eq!(json["health"], "healthy");
        assert_eq!(json["nodes"][0]["node"], 1);
    }
}
