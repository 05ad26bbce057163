//! `ls` and `stat`: what is in the store.

use clap::Args;
use serde::Serialize;

use super::{remote, short_id};
use crate::cli::client::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{counted, failure, print, print_json, shown, table, utc};
use crate::cli::size::ByteSize;
use crate::client::ClientError;
use crate::ids::{Address, ChunkId, NodeId, Version};
use crate::remote_path::RemotePath;
use crate::wire::to_main::{Addresses, FileFacts, LocatedChunk};

/// List directories
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  p2pdfs ls
  p2pdfs ls -l /photos
  p2pdfs ls -R / --json")]
pub struct LsArgs {
    /// Directories or files in the store
    #[arg(value_name = "PATH", default_value = "/")]
    paths: Vec<String>,
    /// Show sizes, times (UTC), copies and versions
    #[arg(short, long)]
    long: bool,
    /// List what is in the directories below, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// Show a file, and for each of its chunks the nodes that have it and why they were chosen
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  p2pdfs stat /photos/sea.jpg")]
pub struct StatArgs {
    /// Files or directories in the store
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
}

#[derive(Serialize)]
struct EntryLine {
    path: String,
    /// `file` or `directory`.
    kind: &'static str,
    #[serde(flatten)]
    file: Option<FileFacts>,
}

impl EntryLine {
    fn new(path: String, file: Option<FileFacts>) -> EntryLine {
        EntryLine { path, kind: if file.is_some() { "file" } else { "directory" }, file }
    }
}

/// The command `ls`.
pub fn ls(context: &Context, args: &LsArgs) -> Result<Exit, Failure> {
    let (mut document, mut is_first) = (Vec::new(), true);
    for text in &args.paths {
        let path = remote(text)?;
        let cannot = |error: &ClientError| failure(&format!("cannot list {}", shown(text)), error);
        let entry = context.client.stat(&path).map_err(|error| cannot(&error))?;
        if let Some(facts) = entry.file {
            let lines = vec![EntryLine::new(path.to_string(), Some(facts))];
            show(context, args, lines, &mut document)?;
            continue;
        }
        let mut directories = vec![path.clone()];
        while let Some(directory) = directories.pop() {
            if !context.common.json && (args.recursive || args.paths.len() > 1) {
                let gap = if is_first { "" } else { "\n" };
                print(&format!("{gap}{}:\n", shown(directory.as_str())))?;
                is_first = false;
            }
            let below = list_one(context, args, &directory, &mut document)?;
            if args.recursive {
                directories.extend(below.into_iter().rev());
            }
        }
    }
    if context.common.json {
        #[derive(Serialize)]
        struct Document {
            entries: Vec<EntryLine>,
        }
        print_json(&Document { entries: document })?;
    }
    Ok(Exit::Done)
}

/// Lists one directory page by page; returns the directories in it.
fn list_one(
    context: &Context,
    args: &LsArgs,
    directory: &RemotePath,
    document: &mut Vec<EntryLine>,
) -> Result<Vec<RemotePath>, Failure> {
    let cannot =
        |error: &ClientError| failure(&format!("cannot list {}", shown(directory.as_str())), error);
    let (mut below, mut after) = (Vec::new(), None);
    loop {
        let page = context.client.list(directory, after).map_err(|error| cannot(&error))?;
        let entries = page.entries.into_vec();
        after = entries.last().map(|entry| entry.name.clone());
        let mut lines = Vec::new();
        for entry in entries {
            let path = directory.join(&entry.name).map_err(|error| cannot(&error.into()))?;
            if entry.file.is_none() {
                below.push(path.clone());
            }
            let name = if context.common.json { path.to_string() } else { entry.name };
            lines.push(EntryLine::new(name, entry.file));
        }
        show(context, args, lines, document)?;
        if !page.more || after.is_none() {
            return Ok(below);
        }
    }
}

/// Prints entries, or keeps them for the document.
fn show(
    context: &Context,
    args: &LsArgs,
    lines: Vec<EntryLine>,
    document: &mut Vec<EntryLine>,
) -> Result<(), Failure> {
    if context.common.json {
        document.extend(lines);
        return Ok(());
    }
    let row = |line: &EntryLine| {
        let name = shown(&line.path);
        match &line.file {
            None => {
                vec!["-".into(), String::new(), String::new(), String::new(), format!("{name}/")]
            }
            Some(file) => vec![
                format!("{:>10}", ByteSize(file.size)),
                utc(file.mtime_ms),
                format!("{}x", file.copies),
                format!("v{}", file.version),
                if file.executable { format!("{name}*") } else { name },
            ],
        }
    };
    if args.long {
        let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
        return print(&table(&rows));
    }
    let mut text = String::new();
    for line in &lines {
        text.push_str(&shown(&line.path));
        text.push_str(if line.file.is_some() { "\n" } else { "/\n" });
    }
    print(&text)
}

#[derive(Serialize)]
struct StatDocument {
    #[serde(flatten)]
    entry: EntryLine,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<Vec<ChunkLine>>,
}

#[derive(Serialize)]
struct ChunkLine {
    index: u64,
    id: ChunkId,
    length: u32,
    copies: Vec<CopyLine>,
}

#[derive(Serialize)]
struct CopyLine {
    node: NodeId,
    address: Option<Address>,
    reason: Option<String>,
}

/// The command `stat`.
pub fn stat(context: &Context, args: &StatArgs) -> Result<Exit, Failure> {
    let mut document = Vec::new();
    for text in &args.paths {
        let path = remote(text)?;
        let cannot = |error: &ClientError| failure(&format!("cannot show {}", shown(text)), error);
        let entry = context.client.stat(&path).map_err(|error| cannot(&error))?;
        let chunks = match &entry.file {
            Some(facts) => Some(
                chunks_of(context, &path, facts.version, facts.chunk_count)
                    .map_err(|error| cannot(&error))?,
            ),
            None => None,
        };
        let entry = EntryLine::new(path.to_string(), entry.file);
        document.push(StatDocument { entry, chunks });
    }
    match context.common.json {
        true => {
            #[derive(Serialize)]
            struct Document {
                entries: Vec<StatDocument>,
            }
            print_json(&Document { entries: document })?;
        }
        false => {
            for entry in &document {
                print(&in_words(entry))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn chunks_of(
    context: &Context,
    path: &RemotePath,
    version: Version,
    count: u64,
) -> Result<Vec<ChunkLine>, ClientError> {
    let mut lines: Vec<ChunkLine> = Vec::new();
    while (lines.len() as u64) < count {
        let from = lines.len() as u64;
        let (opened, addresses) = context.client.places(path, Some(version), from)?;
        if opened.chunks.is_empty() {
            return Err(ClientError::Unsuitable("the main server left out chunks of it"));
        }
        let chunks = opened.chunks.into_vec();
        lines.extend((from..).zip(chunks).map(|(at, chunk)| chunk_line(at, chunk, &addresses)));
    }
    Ok(lines)
}

fn chunk_line(index: u64, chunk: LocatedChunk, addresses: &Addresses) -> ChunkLine {
    let copies = chunk.copies.into_iter().map(|place| CopyLine {
        node: place.node,
        address: addresses.get(&place.node).cloned(),
        reason: place.reason,
    });
    ChunkLine { index, id: chunk.id, length: chunk.length, copies: copies.collect() }
}

fn in_words(document: &StatDocument) -> String {
    let path = shown(&document.entry.path);
    let Some(file) = &document.entry.file else { return format!("{path}: directory\n") };
    let mut text = format!("{path}: file\n");
    let facts = [
        ("size", format!("{} ({} bytes)", ByteSize(file.size), file.size)),
        ("modified", format!("{} UTC", utc(file.mtime_ms))),
        ("executable", if file.executable { "yes" } else { "no" }.to_string()),
        ("version", file.version.to_string()),
        (
            "stored as",
            format!(
                "{}, {} wanted of each",
                counted(file.chunk_count, "chunk"),
                match file.copies {
                    1 => "1 copy".to_string(),
                    n => format!("{n} copies"),
                }
            ),
        ),
    ];
    for (name, value) in facts {
        text.push_str(&format!("  {name:<11} {value}\n"));
    }
    let rows: Vec<Vec<String>> = document.chunks.iter().flatten().map(chunk_row).collect();
    for line in table(&rows).lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

fn chunk_row(chunk: &ChunkLine) -> Vec<String> {
    let copy = |copy: &CopyLine| match &copy.reason {
        Some(reason) => format!("node {} ({})", copy.node, shown(reason)),
        None => format!("node {}", copy.node),
    };
    let copies: Vec<String> = chunk.copies.iter().map(copy).collect();
    vec![
        format!("chunk {}", chunk.index),
        short_id(&chunk.id),
        format!("{:>9}", ByteSize(chunk.length.into())),
        if copies.is_empty() { "no copy".to_string() } else { copies.join(", ") },
    ]
}
