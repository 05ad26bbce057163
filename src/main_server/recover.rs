//! Builds the catalog anew from what nodes keep of its journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::DirectoryError;
use super::directory;
use super::journal::JournalKeys;
use crate::catalog::sqlite::Rebuild;
use crate::catalog::{CatalogError, check};
use crate::causes::with_causes;
use crate::clock::WallTime;
use crate::ids::{Address, NodeId};
use crate::journal::{Assembled, Kept, Missing, RecoveryKey, assemble, for_each_piece};
use crate::wire::connection::Dialing;
use crate::wire::frame::PayloadBuffer;
use crate::wire::node_to_main::{JournalHead, KeptGeneration};
use crate::wire::to_node::ReadJournal;
use crate::wire::{CallError, Connection, Hello, Role};

/// What is put together, before it is a catalog; sealed.
const TEMPORARY: &str = "recovery.new";
/// The most nodes that are asked.
const MAX_ASKED: usize = 1024;

/// What to recover from, and how far.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// Nodes to begin with; they name the others.
    pub from: Vec<Address>,
    pub key: RecoveryKey,
    /// Do with the pieces up to this one, and without any that are missing behind it.
    pub until: Option<u64>,
    pub insecure_plaintext: bool,
}

/// What was recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub generation: u64,
    /// The last piece that is in it.
    pub sequence: u64,
    /// When that was written: the catalog is as it was then.
    pub time: WallTime,
    /// What the main server said last, as far as any node that answered has heard.
    pub head: Option<JournalHead>,
    /// Nodes that were asked and did not answer, and why.
    pub silent: Vec<(String, String)>,
    /// What was damaged on one node and whole on another.
    pub mended: Vec<String>,
    /// The account for which a new key is in `client.toml`.
    pub account: String,
    pub files: u64,
    pub chunks: u64,
}

/// Why nothing was recovered. Nothing is left in the directory then that a start would take for a
/// catalog.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// None of the nodes asked has a journal that could be read.
    #[error("no node that answers has a journal of the catalog")]
    Nothing { asked: Vec<(String, String)> },
    /// What one node or another had is gone. `asked`: who has what in its place.
    #[error("piece {sequence} of generation {generation} of the journal is missing: {why}")]
    Missing {
        generation: u64,
        sequence: u64,
        why: String,
        asked: Vec<(String, String)>,
        usable: Option<u64>,
    },
    /// It was put together, and is not the catalog that it should be.
    #[error("what was kept of the catalog does not fit together: {0}")]
    Wrong(String),
}

/// The nodes that were asked, and what they said.
#[derive(Default)]
struct Asked {
    nodes: BTreeMap<Address, Node>,
    silent: Vec<(String, String)>,
    head: Option<JournalHead>,
}

struct Node {
    name: String,
    connection: Connection,
    kept: Vec<KeptGeneration>,
}

/// Makes a catalog in `dir`, and `client.toml` with a new key of its first administrator, out of what
/// nodes keep. `address` is where the main server can be reached. Nothing of the nodes is changed.
pub fn recover(
    dir: &Path,
    address: std::net::SocketAddr,
    recovery: &Recovery,
) -> Result<Recovered, RecoverError> {
    let mut asked = ask_all(recovery);
    // First, so that a directory with a catalog is refused before anything is written to it.
    let mut rebuild = Rebuild::begin(dir)?;
    let path = dir.join(TEMPORARY);
    let io = |doing| {
        let path = path.clone();
        move |source| RecoverError::Io { doing, path, source }
    };
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&path).map_err(io("make"))?;
    let (found, spoiled) = find(recovery, &mut asked, &file)?;
    let boundary = judge(recovery, &asked, &found, spoiled)?;
    let sealing = recovery.key.sealing();
    for_each_piece(&sealing, &file, boundary, |piece| match rebuild.apply(&piece.body) {
        Ok(()) => Ok(()),
        Err(error) => Err(Applying::Catalog(piece.sequence, error)),
    })
    .map_err(|error| match error {
        Applying::Io(source) => io("read")(source),
        Applying::Catalog(sequence, error) => RecoverError::Wrong(format!(
            "piece {sequence} of generation {}: {}",
            found.generation,
            with_causes(&error)
        )),
    })?;
    // The key comes first: a catalog whose key nobody has would be of no use.
    let key = directory::first_key(&dir.join(directory::CLIENT_FILE), address)?;
    let account = rebuild.admit(&key.fingerprint())?;
    JournalKeys::of(&recovery.key).save(dir)?;
    rebuild.finish()?;
    std::fs::remove_file(&path).map_err(io("remove"))?;
    let report = check::check(dir)?;
    if let Some(first) = report.problems.first() {
        // Kept for whoever wants to look, and not for a start to find.
        let (there, aside) = (dir.join("catalog.db"), dir.join("catalog.db.wrong"));
        std::fs::rename(there, aside).map_err(io("set aside what was made of"))?;
        let more = report.problems.len() - 1;
        let why = format!("{first}, and {more} more things are wrong");
        return Err(RecoverError::Wrong(why));
    }
    let mended = found
        .mended
        .iter()
        .map(|(sequence, place, why)| format!("piece {sequence} on {place}: {why}"));
    Ok(Recovered {
        generation: found.generation,
        sequence: boundary,
        time: found.time,
        mended: mended.collect(),
        head: asked.head,
        silent: asked.silent,
        account,
        files: report.files,
        chunks: report.chunks,
    })
}

enum Applying {
    Io(io::Error),
    Catalog(u64, CatalogError),
}

impl From<io::Error> for Applying {
    fn from(error: io::Error) -> Applying {
        Applying::Io(error)
    }
}

/// Asks the nodes that were named, and those that they name, and so on.
fn ask_all(recovery: &Recovery) -> Asked {
    let mut asked = Asked::default();
    let mut seen: BTreeSet<Address> = recovery.from.iter().cloned().collect();
    let mut left: Vec<Address> = recovery.from.clone();
    while let Some(address) = left.pop() {
        match ask(&address, recovery) {
            Ok((node, head)) => {
                log::info!("{} keeps {:?} of the journal", node.name, node.kept);
                asked.nodes.insert(address, node);
                let Some(head) = head else { continue };
                for keeper in head.keepers.values() {
                    if seen.len() < MAX_ASKED && seen.insert(keeper.clone()) {
                        left.push(keeper.clone());
                    }
                }
                let order = |head: &JournalHead| (head.generation, head.sequence, head.time);
                if asked.head.as_ref().is_none_or(|newest| order(newest) < order(&head)) {
                    asked.head = Some(head);
                }
            }
            Err(error) => {
                let why = with_causes(&error);
                log::warn!("a node does not give the journal addr={address} error={why:?}");
                asked.silent.push((format!("the node at {address}"), why));
            }
        }
    }
    asked
}

fn ask(address: &Address, recovery: &Recovery) -> Result<(Node, Option<JournalHead>), CallError> {
    let dialing = Dialing { insecure_plaintext: recovery.insecure_plaintext, ..Dialing::default() };
    let mut connection = Connection::open(address, &dialing, &Hello::new(Role::Main))?;
    let request = ReadJournal { secret: recovery.key.reading(), generation: 0, offset: 0 };
    let reply = connection.call(&request)?;
    let number = connection.hello().node.unwrap_or(NodeId(0));
    let name = format!("node {number} at {address}");
    Ok((Node { name, connection, kept: reply.kept }, reply.head))
}

/// Puts together the newest generation that has a whole snapshot. The second is what there is of the
/// newest one, if that is another.
fn find(
    recovery: &Recovery,
    asked: &mut Asked,
    file: &File,
) -> Result<(Assembled, Option<Assembled>), RecoverError> {
    let generations: BTreeSet<u64> =
        asked.nodes.values().flat_map(|node| &node.kept).map(|kept| kept.generation).collect();
    let secret = recovery.key.reading();
    let mut newest: Option<Assembled> = None;
    for generation in generations.into_iter().rev() {
        let mut copies: Vec<Kept<'_>> = asked
            .nodes
            .values_mut()
            .filter_map(|node| {
                let kept = node.kept.iter().find(|kept| kept.generation == generation)?;
                let (bytes, name) = (kept.bytes, node.name.clone());
                let connection = &mut node.connection;
                let read =
                    move |offset| read_part(connection, ReadJournal { secret, generation, offset });
                Some(Kept::new(name, bytes, Box::new(read)))
            })
            .collect();
        let io = |source| RecoverError::Io { doing: "write", path: TEMPORARY.into(), source };
        file.set_len(0).map_err(io)?;
        rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0)).map_err(|e| io(e.into()))?;
        let sealing = recovery.key.sealing();
        let found =
            assemble(&sealing, generation, &mut copies, recovery.until, file).map_err(io)?;
        if found.boundary.is_some() {
            return Ok((found, newest));
        }
        log::warn!("generation {generation} of the journal has no whole snapshot");
        newest.get_or_insert(found);
    }
    match newest {
        Some(found) => Err(missing(&found, "no generation has a whole snapshot".to_string())),
        None => Err(RecoverError::Nothing { asked: asked.silent.clone() }),
    }
}

fn read_part(connection: &mut Connection, request: ReadJournal) -> Result<Vec<u8>, String> {
    let mut buffer = PayloadBuffer::default();
    let read = connection.call(&request).and_then(|_| connection.read_payload(&mut buffer, |_| {}));
    read.map_err(|error| with_causes(&error))?;
    Ok(buffer.as_slice().to_vec())
}

fn missing(found: &Assembled, why: String) -> RecoverError {
    let Missing { sequence, asked, .. } = found.ends.clone().unwrap_or(Missing {
        sequence: found.sequence + 1,
        asked: Vec::new(),
        is_damage: false,
    });
    let (generation, usable) = (found.generation, found.boundary);
    RecoverError::Missing { generation, sequence, why, asked, usable }
}

/// The last piece to be taken, where nothing is missing or a person said that it is enough.
fn judge(
    recovery: &Recovery,
    asked: &Asked,
    found: &Assembled,
    spoiled: Option<Assembled>,
) -> Result<u64, RecoverError> {
    let boundary = found.boundary.expect("`find` gives none without");
    if recovery.until.is_some() {
        return Ok(boundary);
    }
    if found.ends.as_ref().is_some_and(|ends| ends.is_damage) {
        return Err(missing(found, "no node has it whole".to_string()));
    }
    match &asked.head {
        Some(head) if (head.generation, head.sequence) > (found.generation, boundary) => {
            // Where it was is more to the point than where the one before it ends.
            if let Some(spoiled) = spoiled.filter(|one| one.generation == head.generation) {
                let spoiled = Assembled { boundary: Some(boundary), ..spoiled };
                return Err(missing(&spoiled, "no node has it whole".to_string()));
            }
            let (generation, sequence) = (head.generation, head.sequence);
            Err(missing(
                found,
                format!("piece {sequence} of generation {generation} was on two nodes once"),
            ))
        }
        _ => Ok(boundary),
    }
}

/// Reads a recovery key's file.
pub fn read_key(path: &Path) -> Result<RecoveryKey, RecoverError> {
    let text = std::fs::read_to_string(path).map_err(|source| RecoverError::Io {
        doing: "read",
        path: path.to_path_buf(),
        source,
    })?;
    text.trim().parse().map_err(|error: crate::ids::IdError| {
        let (path, why) = (path.to_path_buf(), error.to_string());
        DirectoryError::Settings { path, why }.into()
    })
}

/// Writes a recovery key into a file of its own, which must not be there yet.
pub fn write_key(path: &Path, key: &RecoveryKey) -> io::Result<()> {
    use std::io::Write;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", key.to_text())?;
    crate::durable::sync_file(&file, crate::durable::SyncPoint::StateData)
}
