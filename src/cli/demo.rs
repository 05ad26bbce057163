//! `demo`: all of it once, in a temporary directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::client::Common;
use super::cluster::{LocalCluster, Plan};
use super::exit::{Exit, Failure};
use super::output::{failure, print, shown};
use super::signals;
use super::size::ByteSize;
use crate::client::{Client, ClientError, Download, Observer, PutOptions, Report, Source, Upload};
use crate::ids::NodeId;
use crate::remote_path::RemotePath;
use crate::wire::to_main::LocatedChunk;

const COPIES: u8 = 2;
const NODES: u32 = 3;
/// Rows of the table of chunks.
const SHOWN_CHUNKS: usize = 8;

/// The command.
pub fn demo(common: &Common) -> Result<Exit, Failure> {
    let io = |error: &io::Error| Failure::because(Exit::Failed, "the demo failed", error);
    let requests = signals::stop_requests().map_err(|error| io(&error))?;
    let directory = tempfile::Builder::new().prefix("p2pdfs-demo-").tempdir();
    let directory = directory.map_err(|error| io(&error))?;
    let plan = Plan {
        directory: directory.path().to_path_buf(),
        nodes: Some(NODES),
        copies: Some(COPIES),
        space: Some(ByteSize(2 << 30)),
    };
    let say = |text: &str| if common.quiet { Ok(()) } else { print(&format!("{text}\n")) };

    say("1. A main server and three storage nodes, each a process of its own:")?;
    let mut steps = Vec::new();
    let mut cluster = LocalCluster::start(&plan, |step| steps.push(format!("     {step}")))?;
    say(&steps.join("\n"))?;
    let client = cluster.client()?;
    let cancel = client.cancel_handle();
    // The demo's own steps are short; a signal ends the one that is under way, and all is removed.
    let watcher = std::thread::Builder::new().name("interrupt".to_string());
    watcher.spawn(move || requests.recv().map(|_| cancel.cancel())).map_err(|error| io(&error))?;

    let file = std::env::current_exe().map_err(|error| io(&error))?;
    let path = store(&client, &file, &say)?;
    let victim = show_copies(&client, &path, &say)?;
    kill(&mut cluster, victim, &say)?;
    let copy = directory.path().join("read-back");
    read_back(&client, &path, &copy, &say)?;
    if !same_bytes(&file, &copy).map_err(|error| io(&error))? {
        return Err(Failure::new(Exit::Damaged, "the file that came back is not the one stored"));
    }
    say("   It is the same, byte by byte: every chunk was read from a node that is left.")?;
    drop(cluster);
    directory.close().map_err(|error| io(&error))?;
    say("
   The processes are stopped and their directory is gone. Now for yourself:
     p2pdfs up --detach            start a cluster that stays (in ~/.local/share/p2pdfs)
     p2pdfs put FILE /             store a file in it
     p2pdfs ls -l /                see what is there
     p2pdfs get /FILE copy         and have it back
     p2pdfs --help                 see what else there is")?;
    Ok(Exit::Done)
}

/// Keeps the one report of an operation on one file.
#[derive(Default)]
struct OneReport(std::cell::Cell<Option<Report>>);

impl Observer for OneReport {
    fn file(&self, _from: &std::ffi::OsStr, _to: &std::ffi::OsStr, report: Report) {
        self.0.set(Some(report));
    }
}

impl OneReport {
    fn take(self) -> Result<Report, ClientError> {
        match self.0.take() {
            Some(Report::Failed(error)) => Err(error),
            Some(report) => Ok(report),
            None => Err(ClientError::Worker),
        }
    }
}

type Say<'a> = dyn Fn(&str) -> Result<(), Failure> + 'a;

fn rate(bytes: u64, since: Instant) -> String {
    let seconds = since.elapsed().as_secs_f64().max(0.001);
    format!("{seconds:.2} s, {}/s", ByteSize((bytes as f64 / seconds) as u64))
}

fn store(client: &Client, file: &Path, say: &Say<'_>) -> Result<RemotePath, Failure> {
    let cannot = |error: &ClientError| failure("the demo could not store its file", error);
    let to = RemotePath::root().join("demo-file").map_err(|error| cannot(&error.into()))?;
    let (begun, report) = (Instant::now(), OneReport::default());
    let upload = Upload { from: Source::Path(file.to_path_buf()), to: to.clone() };
    let options = PutOptions { copies: COPIES, ..PutOptions::default() };
    client.put([upload], &options, &report).map_err(|error| cannot(&error))?;
    let Report::Stored(stored) = report.take().map_err(|error| cannot(&error))? else {
        return Err(cannot(&ClientError::Worker));
    };
    say(&format!(
        "\n2. A real file goes in, {COPIES} copies of each chunk (it is this very program):\n     \
         p2pdfs put --copies {COPIES} {} {to}\n   {} durable on {COPIES} nodes each, in {}",
        shown(file),
        ByteSize(stored.size),
        rate(stored.size, begun),
    ))?;
    Ok(to)
}

/// Shows where the copies are; returns the node that has most of the first ones.
fn show_copies(client: &Client, path: &RemotePath, say: &Say<'_>) -> Result<NodeId, Failure> {
    let cannot = |error: &ClientError| failure("the demo could not look at its file", error);
    let mut chunks: Vec<LocatedChunk> = Vec::new();
    loop {
        let from = chunks.len() as u64;
        let (page, _) = client.places(path, None, from).map_err(|error| cannot(&error))?;
        let count = page.file.chunk_count;
        let is_empty = page.chunks.is_empty();
        chunks.extend(page.chunks.into_vec());
        if is_empty || chunks.len() as u64 >= count {
            break;
        }
    }
    let mut text = format!("\n3. Where its chunks are (p2pdfs stat {path}):\n");
    text.push_str("     chunk      size  node 1  node 2  node 3\n");
    let mut per_node: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (at, chunk) in chunks.iter().enumerate() {
        let has = |node: u32| chunk.copies.iter().any(|copy| copy.node == NodeId(node));
        for copy in &chunk.copies {
            *per_node.entry(copy.node).or_default() += 1;
        }
        if at < SHOWN_CHUNKS {
            let marks: String =
                (1..=NODES).map(|n| if has(n) { "  copy  " } else { "   .    " }).collect();
            let size = ByteSize(chunk.length.into());
            text.push_str(&format!("     {at:>5}  {size:>8}{}\n", marks.trim_end()));
        }
    }
    if chunks.len() > SHOWN_CHUNKS {
        let more = chunks.len() - SHOWN_CHUNKS;
        text.push_str(&format!("     and {more} more of the same kind\n"));
    }
    let sums: Vec<String> =
        per_node.iter().map(|(node, count)| format!("{count} copies on node {node}")).collect();
    text.push_str(&format!("   {} chunks: {}.", chunks.len(), sums.join(", ")));
    say(&text)?;
    let first = per_node.iter().max_by_key(|(_, count)| **count).map(|(node, _)| *node);
    first.ok_or_else(|| Failure::new(Exit::Damaged, "the file has no copies"))
}

fn kill(cluster: &mut LocalCluster, victim: NodeId, say: &Say<'_>) -> Result<(), Failure> {
    let name = format!("node {victim}");
    let process = cluster.processes.iter_mut().find(|process| process.record.name == name);
    let Some(process) = process else {
        return Err(Failure::new(Exit::Failed, format!("{name} is not one of the demo's")));
    };
    let pid = process.record.pid;
    process
        .kill()
        .map_err(|e| Failure::because(Exit::Failed, format!("cannot kill {name}"), &e))?;
    say(&format!("\n4. Node {victim}, which has most of them, dies:\n     kill -9 {pid}"))
}

fn read_back(client: &Client, path: &RemotePath, to: &Path, say: &Say<'_>) -> Result<(), Failure> {
    let cannot = |error: &ClientError| failure("the demo could not read its file back", error);
    let (begun, report) = (Instant::now(), OneReport::default());
    let download = Download { from: path.clone(), version: None, to: PathBuf::from(to) };
    client.get([download], &report).map_err(|error| cannot(&error))?;
    let Report::Fetched(fetched) = report.take().map_err(|error| cannot(&error))? else {
        return Err(cannot(&ClientError::Worker));
    };
    say(&format!(
        "\n5. The file is read back all the same:\n     p2pdfs get {path} copy\n   {} in {}",
        ByteSize(fetched.size),
        rate(fetched.size, begun),
    ))
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    use io::BufRead;
    let open = |path| fs::File::open(path).map(|file| io::BufReader::with_capacity(1 << 20, file));
    let (mut one, mut other) = (open(one)?, open(other)?);
    loop {
        let (a, b) = (one.fill_buf()?, other.fill_buf()?);
        let count = a.len().min(b.len());
        if a[..count] != b[..count] || count == 0 {
            return Ok(a.is_empty() && b.is_empty());
        }
        one.consume(count);
        other.consume(count);
    }
}
