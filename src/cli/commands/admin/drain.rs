//! `admin drain` and `admin forget`: how nodes leave.

use clap::Args;
use serde::Serialize;

use super::node_number;
use crate::cli::client::Context;
use crate::cli::commands::confirm;
use crate::cli::countdown::{Countdown, EVERY};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{counted, failure, print, print_json, shown};
use crate::cli::size::ByteSize;
use crate::client::ClientError;
use crate::ids::NodeId;
use crate::wire::to_main::DrainReply;

/// Move all copies off a node, so that it can leave
///
/// The node keeps serving what it has; nothing new is stored there. The main server goes on with it whether
/// or not anybody waits: run it again to see how far it is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs admin drain 3 --wait && p2pdfs admin forget 3
  p2pdfs admin drain 3 --undo")]
pub struct DrainArgs {
    /// The node's number
    #[arg(value_parser = node_number)]
    node: NodeId,
    /// Take it back: the node stays, and takes copies again
    #[arg(long, conflicts_with = "wait")]
    undo: bool,
    /// Show the progress, and end when nothing depends on the node any more
    #[arg(long)]
    wait: bool,
}

/// Strike a node off for good: its copies do not count any more, and it can never come back
///
/// For a node that was drained, or whose disk is gone. Refused where it has the only copy of something,
/// unless with --force. It asks before, on a terminal; elsewhere it needs --yes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs admin forget 3
  p2pdfs admin forget 3 --yes --force")]
pub struct ForgetArgs {
    /// The node's number
    #[arg(value_parser = node_number)]
    node: NodeId,
    /// Also when files are lost with it
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Serialize)]
struct Drained {
    node: NodeId,
    #[serde(flatten)]
    reply: DrainReply,
}

/// The command `drain`.
pub fn drain(context: &Context, args: &DrainArgs) -> Result<Exit, Failure> {
    let what = format!("cannot drain node {}", args.node);
    let ask = || context.client.drain(args.node, args.undo);
    let mut reply = ask().map_err(|error| failure(&what, &error))?;
    if args.wait {
        let cancel = context.client.cancel_handle();
        let mut countdown = Countdown::new(&context.common, "bytes");
        while !reply.is_done {
            countdown.left(reply.bytes_left, reply.waits_for.as_deref());
            let next = cancel.wait(EVERY).and_then(|()| ask());
            reply = next.map_err(|error| goes_on(failure(&what, &error), &error, args.node))?;
        }
    }
    if context.common.json {
        print_json(&Drained { node: args.node, reply })?;
    } else if args.undo {
        print(&format!("node {} is not drained any more\n", args.node))?;
    } else {
        print(&progress(args.node, &reply))?;
    }
    Ok(Exit::Done)
}

/// Who stops watching should know that the work goes on.
fn goes_on(failure: Failure, error: &ClientError, node: NodeId) -> Failure {
    match error {
        ClientError::Cancelled => failure
            .hint(format!("it goes on all the same; to stop it: p2pdfs admin drain {node} --undo")),
        _ => failure,
    }
}

fn progress(node: NodeId, reply: &DrainReply) -> String {
    if reply.is_done {
        return format!(
            "node {node} is drained: nothing depends on it any more\n\
             it can go: p2pdfs admin forget {node}\n"
        );
    }
    let (chunks, bytes) = (counted(reply.chunks_left, "chunk"), ByteSize(reply.bytes_left));
    let mut text = format!("node {node} is draining: {chunks}, {bytes} left\n");
    if reply.only_copies > 0 {
        text.push_str(&format!(
            "{} have their only copy there\n",
            counted(reply.only_copies, "chunk")
        ));
        for file in &reply.files {
            text.push_str(&format!("  {}\n", shown(file)));
        }
    }
    if let Some(why) = &reply.waits_for {
        text.push_str(&format!("waiting: {}\n", shown(why)));
    }
    text.push_str(&format!("see it through: p2pdfs admin drain {node} --wait\n"));
    text
}

/// The command `forget`.
pub fn forget(context: &Context, args: &ForgetArgs) -> Result<Exit, Failure> {
    let node = args.node;
    let question = match args.force {
        true => format!("strike off node {node} for good, with all that only it has?"),
        false => format!("strike off node {node} for good?"),
    };
    if !args.yes && !confirm(&question)? {
        return Err(Failure::new(Exit::Failed, format!("node {node} stays: nothing was done")));
    }
    context.client.forget(node, args.force).map_err(|error| {
        let mut failure = failure(&format!("cannot forget node {node}"), &error);
        failure.hint = failure.hint.map(|hint| hint.replace("NODE", &node.to_string()));
        failure
    })?;
    if context.common.json {
        #[derive(Serialize)]
        struct Document {
            forgotten: NodeId,
        }
        print_json(&Document { forgotten: node })?;
    } else if !context.common.quiet {
        eprintln!("node {node} is struck off; its directory is of no more use");
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_says_what_is_left_what_hangs_on_the_node_and_what_it_waits_for() {
        let reply = DrainReply {
            chunks_left: 12,
            bytes_left: 12 << 20,
            only_copies: 1,
            files: vec!["/a\u{1b}b".to_string()],
            is_done: false,
            waits_for: Some("no other node has room".to_string()),
        };
        let text = progress(NodeId(3), &reply);
        for part in [
            "node 3 is draining: 12 chunks, 12.0 MiB",
            "1 chunk",
            "/a\\u{1b}b",
            "no other node",
            "--wait",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        let done = progress(NodeId(3), &DrainReply { is_done: true, ..reply });
        assert!(done.contains("p2pdfs admin forget 3"), "{done}");
    }
}
