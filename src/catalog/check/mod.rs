//! Reads a stopped main server's catalog by code of its own: nothing here is shared with the engine
//! that wrote it, so the two cannot be wrong in the same way. It changes nothing, and takes a log
//! that a killed main server left into account.

mod load;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use self::load::{EntryFacts, Tables, VersionFacts};
use crate::catalog::CatalogError;
use crate::ids::{AccountId, ChunkId, NodeId, Serial, Version};
use crate::remote_path::check_name;

/// The most problems of which each is named.
const MAX_PROBLEMS: usize = 1000;

/// What a catalog holds, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogReport {
    pub format: i64,
    pub cluster: String,
    pub accounts: u64,
    pub nodes: u64,
    /// Files that can be seen.
    pub files: u64,
    pub directories: u64,
    /// Versions, replaced and removed ones included.
    pub versions: u64,
    pub chunks: u64,
    pub copies: u64,
    /// Chunks in some version with fewer copies than wanted.
    pub under_copied: u64,
    /// Copies that are condemned, and not deleted on their nodes yet.
    pub condemned: u64,
    /// One sentence for each thing that is wrong; empty when all is well.
    pub problems: Vec<String>,
}

/// A file that can be seen, with where each of its chunks is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedFile {
    pub account: AccountId,
    pub path: String,
    pub version: Version,
    pub size: u64,
    pub chunks: Vec<CheckedChunk>,
}

/// A chunk of a checked file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedChunk {
    pub serial: Serial,
    pub id: ChunkId,
    pub length: u32,
    /// The nodes with a confirmed copy.
    pub nodes: Vec<NodeId>,
}

/// Reads the catalog in `dir` and says what is there and what is wrong.
/// Refused: `Missing`, `Locked` when a main server runs on it, `Format`, `Damaged` when so little
/// can be read that nothing can be said.
pub fn check(dir: &Path) -> Result<CatalogReport, CatalogError> {
    let mut tables = load::load(dir)?;
    let mut problems = std::mem::take(&mut tables.problems);
    judge_chunks(&tables, &mut problems);
    judge_versions(&tables, &mut problems);
    judge_entries(&tables, &mut problems);
    judge_condemned(&tables, &mut problems);
    judge_nodes(&tables, &mut problems);
    judge_sums(&tables, &mut problems);
    if problems.len() > MAX_PROBLEMS {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    let files = tables.entries.values().filter(|entry| entry.version.is_some()).count() as u64;
    let is_wanting =
        |chunk: &&load::ChunkFacts| chunk.refs > 0 && (chunk.nodes.len() as i64) < chunk.wanted;
    Ok(CatalogReport {
        format: tables.format,
        cluster: hex::encode(&tables.cluster),
        accounts: tables.accounts.len() as u64,
        nodes: tables.nodes.len() as u64,
        files,
        directories: tables.entries.len() as u64 - files,
        versions: tables.versions.len() as u64,
        chunks: tables.chunks.len() as u64,
        copies: tables.chunks.values().map(|chunk| chunk.nodes.len() as u64).sum(),
        condemned: tables.condemned.len() as u64,
        under_copied: tables.chunks.values().filter(is_wanting).count() as u64,
        problems,
    })
}

/// Every file that can be seen, by account and path. What is wrong with a file is in `check`; here
/// its chunks without a record are left out. Refused as by `check`.
pub fn files(dir: &Path) -> Result<Vec<CheckedFile>, CatalogError> {
    let tables = load::load(dir)?;
    let mut files = Vec::new();
    for (id, entry) in &tables.entries {
        let Some(number) = entry.version else { continue };
        let Some(version) = tables.versions.get(&number) else { continue };
        files.push(CheckedFile {
            account: AccountId(entry.account as u32),
            path: path_of(&tables.entries, *id).unwrap_or_default(),
            version: Version(number as u64),
            size: version.size as u64,
            chunks: version.serials.iter().filter_map(|s| checked_chunk(&tables, *s)).collect(),
        });
    }
    files.sort_by(|a, b| (a.account, &a.path).cmp(&(b.account, &b.path)));
    Ok(files)
}

fn checked_chunk(tables: &Tables, serial: i64) -> Option<CheckedChunk> {
    let chunk = tables.chunks.get(&serial)?;
    Some(CheckedChunk {
        serial: Serial(serial as u64),
        id: chunk.id?,
        length: chunk.length as u32,
        nodes: chunk.nodes.iter().map(|node| NodeId(*node)).collect(),
    })
}

/// The path of an entry; `None` where its parents lead in a circle or nowhere.
fn path_of(entries: &BTreeMap<i64, EntryFacts>, id: i64) -> Option<String> {
    let mut names = Vec::new();
    let mut walked = BTreeSet::new();
    let mut at = id;
    while at != 0 {
        if !walked.insert(at) {
            return None;
        }
        let entry = entries.get(&at)?;
        names.push(entry.name.as_str());
        at = entry.parent;
    }
    names.reverse();
    Some(format!("/{}", names.join("/")))
}

fn judge_chunks(tables: &Tables, problems: &mut Vec<String>) {
    let mut counted: BTreeMap<i64, i64> = BTreeMap::new();
    for serial in tables.versions.values().flat_map(|version| &version.serials) {
        *counted.entry(*serial).or_default() += 1;
    }
    for (serial, chunk) in &tables.chunks {
        let mut say = |what: String| problems.push(format!("chunk {serial} {what}"));
        if *serial <= 0 || *serial >= tables.next {
            say(format!("is not below the next number, {}", tables.next));
        }
        if !tables.accounts.contains(&chunk.account) {
            say(format!("is of account {}, which is not", chunk.account));
        }
        if !chunk.nodes.is_sorted_by(|a, b| a < b) {
            say(format!("lists its copies out of order: {:?}", chunk.nodes));
        }
        for node in chunk.nodes.iter().filter(|node| !tables.nodes.contains_key(&i64::from(**node)))
        {
            say(format!("has a copy on node {node}, which never joined"));
        }
        let named = counted.get(serial).copied().unwrap_or(0);
        if chunk.refs != named {
            say(format!("counts {} places in versions, and there are {named}", chunk.refs));
        }
    }
}

fn judge_versions(tables: &Tables, problems: &mut Vec<String>) {
    for (number, version) in &tables.versions {
        let mut say = |what: String| problems.push(format!("version {number} {what}"));
        if *number <= 0 || *number >= tables.next {
            say(format!("is not below the next number, {}", tables.next));
        }
        if version.is_ending && !version.has_ended {
            say("loses its parts, and has not ended".to_string());
        }
        let is_current =
            tables.entries.get(&version.entry).is_some_and(|e| e.version == Some(*number));
        if !version.has_ended && !is_current {
            say("has not ended, and is no file's current one".to_string());
        }
        if version.is_ending {
            continue;
        }
        let count = version.serials.len() as i64;
        if count != version.chunk_count {
            say(format!("has {} chunks, and its manifest names {count}", version.chunk_count));
        }
        if let Some(what) = judge_manifest(tables, version) {
            say(what);
        }
    }
}

fn judge_manifest(tables: &Tables, version: &VersionFacts) -> Option<String> {
    let mut size = 0;
    for serial in &version.serials {
        match tables.chunks.get(serial) {
            None => return Some(format!("names chunk {serial}, which has no record")),
            Some(chunk) if chunk.account != version.account => {
                return Some(format!("names chunk {serial} of account {}", chunk.account));
            }
            Some(chunk) => size += chunk.length,
        }
    }
    (size != version.size)
        .then(|| format!("has {} bytes, and its chunks have {size}", version.size))
}

fn judge_entries(tables: &Tables, problems: &mut Vec<String>) {
    for (id, entry) in &tables.entries {
        let mut say = |what: String| problems.push(format!("entry {id} {what}"));
        if *id <= 0 || *id >= tables.next {
            say(format!("is not below the next number, {}", tables.next));
        }
        if !tables.accounts.contains(&entry.account) {
            say(format!("is of account {}, which is not", entry.account));
        }
        if let Err(error) = check_name(&entry.name) {
            say(format!("has a bad name: {error}"));
        }
        match tables.entries.get(&entry.parent) {
            None if entry.parent != 0 => say(format!("is in {}, which is not", entry.parent)),
            Some(parent) if parent.version.is_some() || parent.account != entry.account => {
                say(format!("is in {}, which is no directory of its account", entry.parent));
            }
            _ if path_of(&tables.entries, *id).is_none() => {
                say("is in a directory that does not lead to the root".to_string());
            }
            _ => {}
        }
        let Some(current) = entry.version else { continue };
        match tables.versions.get(&current) {
            None => say(format!("has version {current}, which is not")),
            Some(version) => {
                if version.entry != *id || version.account != entry.account || version.has_ended {
                    say(format!("has version {current}, which is not its own current one"));
                }
            }
        }
    }
    for (entry, version) in &tables.removed {
        let is_version_of = tables
            .versions
            .get(version)
            .is_some_and(|facts| facts.entry == *entry && facts.has_ended && !facts.is_ending);
        if tables.entries.contains_key(entry) || !is_version_of {
            problems.push(format!("the removed file {entry} is there, or its version is not"));
        }
    }
}

fn judge_condemned(tables: &Tables, problems: &mut Vec<String>) {
    const UNREFERRED: i64 = 1;
    const UNKNOWN: i64 = 3;
    for copy in &tables.condemned {
        let (serial, node) = (copy.serial, copy.node);
        let mut say = |what: &str| {
            problems.push(format!("the condemned copy of chunk {serial} on node {node} {what}"));
        };
        if !tables.nodes.contains_key(&node) {
            say("is on a node that never joined");
        }
        if !(UNREFERRED..=UNKNOWN).contains(&copy.why) {
            say("has no reason");
        }
        if copy.why != UNKNOWN && !(1..tables.next).contains(&serial) {
            say("has a serial that was never given out");
        }
        let Some(chunk) = tables.chunks.get(&serial) else { continue };
        if chunk.nodes.iter().any(|on| i64::from(*on) == node) {
            say("counts, too");
        }
        if copy.why == UNREFERRED {
            say("was condemned with its chunk, which is there");
        }
    }
}

fn judge_nodes(tables: &Tables, problems: &mut Vec<String>) {
    for (node, standing) in &tables.nodes {
        if !(0..=2).contains(standing) {
            problems.push(format!("node {node} has the standing {standing}"));
        }
    }
}

fn judge_sums(tables: &Tables, problems: &mut Vec<String>) {
    let files = tables.entries.values().filter(|entry| entry.version.is_some()).count();
    let copies: usize = tables.chunks.values().map(|chunk| chunk.nodes.len()).sum();
    let unknown = tables.condemned.iter().filter(|copy| copy.why == 3).count();
    for (what, sum, there) in [
        ("condemned copies", tables.condemned_sum, tables.condemned.len()),
        ("unknown condemned copies", tables.unknown_sum, unknown),
        ("files", tables.files, files),
        ("chunks", tables.chunk_count, tables.chunks.len()),
        ("copies", tables.copies, copies),
    ] {
        if sum != there as i64 {
            problems.push(format!("the catalog counts {sum} {what}, and there are {there}"));
        }
    }
}
