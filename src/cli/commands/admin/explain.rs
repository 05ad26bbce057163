//! `admin explain`: where copies are, why there, and what is being done.

use clap::Args;
use serde::Serialize;

use super::node_number;
use crate::cli::client::Context;
use crate::cli::commands::{remote, short_id};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{copies, counted, failure, print, print_json, shown, table};
use crate::cli::size::ByteSize;
use crate::ids::ChunkId;
use crate::wire::to_main::{
    Addresses, Explain, ExplainReply, ExplainedChunk, ExplainedCopy, ExplainedNode,
};

/// Say where each copy is and why there, what is wanted, queued or refused, and when it is done
///
/// What is asked about can be a file, a chunk, or a node: what begins with `blake3:` or `sha1:` is a chunk,
/// a number (or `node 3`) is a node, all else is a path. A file that is called 3 is /3.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs admin explain /photos/sea.jpg
  p2pdfs admin explain blake3:3f1c26744d50...
  p2pdfs admin explain node 3")]
pub struct ExplainArgs {
    /// A path, a chunk's id, or a node's number
    #[arg(required = true, num_args = 1..=2, value_name = "PATH|CHUNK|NODE")]
    what: Vec<String>,
}

/// What the words mean.
fn parse(words: &[String]) -> Result<Explain, Failure> {
    let joined = words.join(" ");
    let number = joined.strip_prefix("node ").unwrap_or(&joined).trim();
    if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
        let node = node_number(number).map_err(|why| Failure::new(Exit::Usage, why))?;
        return Ok(Explain::Node { node });
    }
    let [word] = words else {
        let what = format!("{:?} is neither a path nor a chunk nor a node", shown(&joined));
        return Err(Failure::new(Exit::Usage, what).hint("p2pdfs admin explain node 3"));
    };
    if word.starts_with("blake3:") || word.starts_with("sha1:") {
        let id = word.parse::<ChunkId>().map_err(|error| {
            Failure::because(Exit::Usage, format!("{:?} is no chunk's id", shown(word)), &error)
                .hint("p2pdfs --json stat PATH shows whole ids")
        })?;
        return Ok(Explain::Chunk { id });
    }
    Ok(Explain::File { path: remote(word)?.to_string(), from: 0 })
}

#[derive(Default, Serialize)]
struct Document {
    chunks: Vec<ExplainedChunk>,
    nodes: Vec<ExplainedNode>,
    addresses: Addresses,
}

/// The command.
pub fn explain(context: &Context, args: &ExplainArgs) -> Result<Exit, Failure> {
    let mut what = parse(&args.what)?;
    let named = shown(args.what.join(" "));
    let mut document = Document::default();
    let mut at = 0;
    loop {
        let reply = context.client.explain(&what);
        let reply = reply.map_err(|error| failure(&format!("cannot explain {named}"), &error))?;
        let ExplainReply { chunks, more, nodes, addresses } = reply;
        if !context.common.json {
            print(&chunks_in_words(at, &chunks))?;
        }
        at += chunks.len() as u64;
        let is_last = !more || chunks.is_empty();
        if document.nodes.is_empty() {
            document.nodes = nodes;
        }
        if context.common.json {
            document.chunks.extend(chunks);
            document.addresses.extend(addresses);
        }
        match &mut what {
            Explain::File { from, .. } if !is_last => *from = at,
            Explain::File { .. } | Explain::Chunk { .. } | Explain::Node { .. } => break,
        }
    }
    match context.common.json {
        true => print_json(&document)?,
        false => print(&nodes_in_words(&document.nodes, at > 0))?,
    }
    Ok(Exit::Done)
}

fn chunks_in_words(first: u64, chunks: &[ExplainedChunk]) -> String {
    let mut text = String::new();
    for (index, chunk) in (first..).zip(chunks) {
        text.push_str(&format!(
            "chunk {index}  {}  {}, serial {}, {} wanted: {}\n",
            short_id(&chunk.id),
            ByteSize(chunk.length.into()),
            chunk.serial,
            copies(chunk.wanted.into()),
            shown(&chunk.state),
        ));
        if !chunk.detail.is_empty() {
            text.push_str(&format!("  {}\n", shown(&chunk.detail)));
        }
        let rows: Vec<Vec<String>> = chunk.copies.iter().map(copy_row).collect();
        for line in table(&rows).lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

fn copy_row(copy: &ExplainedCopy) -> Vec<String> {
    let counts = if copy.counts { "counts" } else { "does not count" };
    let node = format!("node {}", copy.node);
    vec![node, shown(&copy.state), counts.to_string(), shown(&copy.reason)]
}

/// `is_about_chunks` when placement was asked for one.
fn nodes_in_words(nodes: &[ExplainedNode], is_about_chunks: bool) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = nodes.iter().map(node_row).collect();
    let head = if is_about_chunks { "a further copy could now go to:\n" } else { "" };
    format!("{head}{}", table(&rows))
}

fn node_row(node: &ExplainedNode) -> Vec<String> {
    let verdict = match &node.refused {
        None => "can take it".to_string(),
        Some(why) => format!("no: {}", shown(why)),
    };
    let orders = match node.orders {
        0 => String::new(),
        count => format!("{} under way", counted(count, "order")),
    };
    let name = format!("node {}", node.node);
    vec![name, shown(&node.state), verdict, shown(&node.detail), orders]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{HashAlgorithm, NodeId, Serial};

    fn parsed(words: &[&str]) -> Result<Explain, Failure> {
        parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_asked_about_is_told_by_its_form() {
        for words in [&["3"][..], &["node 3"], &["node", "3"]] {
            assert!(matches!(parsed(words), Ok(Explain::Node { node: NodeId(3) })), "{words:?}");
        }
        let id = ChunkId::of(HashAlgorithm::Blake3, b"bytes").to_string();
        assert!(matches!(parsed(&[&id]), Ok(Explain::Chunk { .. })));
        for path in ["/3", "3a", "node", "/a b", "photos/blake3:"] {
            assert!(matches!(parsed(&[path]), Ok(Explain::File { .. })), "{path}");
        }
        for wrong in
            [&["blake3:12"][..], &["node", "x"], &["99999999999"], &["/a", "/b"], &["/a/../b"]]
        {
            let failure = parsed(wrong).expect_err("no such thing");
            assert_eq!(failure.exit, Exit::Usage, "{wrong:?}");
        }
    }

    #[test]
    fn each_copy_is_shown_with_its_state_and_its_reason() {
        let copy = |node, state: &str, counts| ExplainedCopy {
            node: NodeId(node),
            reason: "emptier of two drawn".to_string(),
            state: state.to_string(),
            counts,
        };
        let id = ChunkId::of(HashAlgorithm::Blake3, b"bytes");
        let chunk = ExplainedChunk {
            id,
            serial: Serial(77),
            length: 4 << 20,
            wanted: 2,
            copies: vec![copy(1, "alive", true), copy(12, "dead", false)],
            state: "queued".to_string(),
            detail: "third in the queue".to_string(),
        };
        let expected = format!(
            "chunk 5  {}  4.0 MiB, serial 77, 2 copies wanted: queued\n  \
             third in the queue\n  \
             node 1   alive  counts          emptier of two drawn\n  \
             node 12  dead   does not count  emptier of two drawn\n",
            short_id(&id)
        );
        assert_eq!(chunks_in_words(5, &[chunk]), expected);
    }

    #[test]
    fn placements_word_on_each_node_is_shown() {
        let node = |number, refused: Option<&str>, orders| ExplainedNode {
            node: NodeId(number),
            state: "alive".to_string(),
            refused: refused.map(str::to_string),
            detail: "1.0 GiB free".to_string(),
            orders,
        };
        let text = nodes_in_words(&[node(1, None, 0), node(2, Some("holds_it"), 3)], true);
        assert!(text.contains("node 1  alive  can take it   1.0 GiB free\n"), "{text}");
        assert!(text.contains("no: holds_it") && text.contains("3 orders under way"), "{text}");
    }
}
