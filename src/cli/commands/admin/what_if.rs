//! `admin what-if`: what the loss of nodes would mean.

use clap::Args;
use serde::Serialize;

use super::node_number;
use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{counted, failure, print, print_json, shown};
use crate::ids::NodeId;
use crate::wire::to_main::WhatIfReply;

/// Names of one kind that are shown; --json has all that the main server named.
const SHOWN: usize = 20;

/// Ask what would become of the files if nodes were gone
///
/// Nothing is done: it is a question, and it ends with 0 whatever the answer is. `lost` are files that have
/// a chunk on these nodes alone; `unreadable` are those that could be read again only when one of these, or
/// another node that is away, came back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs admin what-if --stop 3
  p2pdfs admin what-if --stop 3,7 --json
  p2pdfs admin what-if --zone cellar")]
pub struct WhatIfArgs {
    /// Nodes that would be gone
    #[arg(long, value_name = "NODE", value_parser = node_number, value_delimiter = ',', required_unless_present = "zones")]
    stop: Vec<NodeId>,
    /// A zone of which all nodes would be gone; can be given again
    #[arg(long = "zone", value_name = "ZONE")]
    zones: Vec<String>,
}

/// The command.
pub fn what_if(context: &Context, args: &WhatIfArgs) -> Result<Exit, Failure> {
    let cannot = |error| failure("cannot say what would be", &error);
    let mut sums = WhatIfReply::default();
    let mut after = None;
    loop {
        let page = context.client.what_if(&args.stop, &args.zones, after).map_err(cannot)?;
        after = page.next;
        add(&mut sums, page);
        if after.is_none() {
            break;
        }
    }
    match context.common.json {
        true => print_json(&document(sums))?,
        false => print(&in_words(&sums))?,
    }
    Ok(Exit::Done)
}

fn add(sums: &mut WhatIfReply, page: WhatIfReply) {
    sums.nodes = page.nodes;
    sums.safe += page.safe;
    sums.unreadable += page.unreadable;
    sums.lost += page.lost;
    sums.unreadable_files.extend(page.unreadable_files);
    sums.lost_files.extend(page.lost_files);
}

#[derive(Serialize)]
struct Document {
    nodes: Vec<NodeId>,
    files: u64,
    safe: u64,
    unreadable: u64,
    lost: u64,
    unreadable_files: Vec<String>,
    lost_files: Vec<String>,
}

fn document(sums: WhatIfReply) -> Document {
    let WhatIfReply { nodes, safe, unreadable, lost, unreadable_files, lost_files, next: _ } = sums;
    let files = safe + unreadable + lost;
    Document { nodes, files, safe, unreadable, lost, unreadable_files, lost_files }
}

fn in_words(sums: &WhatIfReply) -> String {
    let numbers: Vec<String> = sums.nodes.iter().map(ToString::to_string).collect();
    let who = match numbers.len() {
        0 => return "there are no such nodes: nothing would change\n".to_string(),
        1 => format!("node {}", numbers[0]),
        _ => format!("nodes {}", numbers.join(", ")),
    };
    let files = counted(sums.safe + sums.unreadable + sums.lost, "file");
    let mut text = format!("without {who}, of {files}:\n");
    let classes = [
        ("lost", sums.lost, &sums.lost_files),
        ("unreadable", sums.unreadable, &sums.unreadable_files),
        ("safe", sums.safe, &Vec::new()),
    ];
    for (word, count, names) in classes {
        text.push_str(&format!("  {word:<11} {count}\n"));
        for name in names.iter().take(SHOWN) {
            text.push_str(&format!("    {}\n", shown(name)));
        }
        let more = count.saturating_sub(names.len().min(SHOWN) as u64);
        if more > 0 && word != "safe" {
            text.push_str(&format!("    and {more} more\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lost: u64, next: Option<u64>) -> WhatIfReply {
        WhatIfReply {
            nodes: vec![NodeId(3), NodeId(7)],
            safe: 10,
            unreadable: 1,
            lost,
            unreadable_files: vec!["/u".to_string()],
            lost_files: (0..lost).map(|at| format!("/l{at}")).collect(),
            next,
        }
    }

    #[test]
    fn pages_are_added_up_and_what_would_be_lost_stands_first() {
        let mut sums = WhatIfReply::default();
        add(&mut sums, page(1, Some(1)));
        add(&mut sums, page(0, None));
        let expected = "\
without nodes 3, 7, of 23 files:
  lost        1
    /l0
  unreadable  2
    /u
    /u
  safe        20
";
        assert_eq!(in_words(&sums), expected);
        assert_eq!(document(sums).files, 23);
    }

    #[test]
    fn many_names_are_counted_rather_than_shown() {
        let text = in_words(&page(64, None));
        assert!(text.contains("/l19\n    and 44 more\n") && !text.contains("/l20"), "{text}");
    }
}
