//! Builds the catalog anew from what nodes keep of its journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::DirectoryError;
use super::directory;
use super::journal::JournalKeys;
use crate::catalog::sqlite::Rebuild;
use crate::catalog::{CatalogError, check};
use crate::causes::with_causes;
use crate::clock::WallTime;
use crate::ids::{Address, NodeId};
use crate::journal::{Assembled, Kept, Missing, RecoveryKey, assemble, for_each_piece};
use crate::policy::recovery::may_hide;
use crate::wire::connection::Dialing;
use crate::wire::frame::PayloadBuffer;
use crate::wire::node_to_main::{JournalHead, KeptGeneration};
use crate::wire::to_node::ReadJournal;
use crate::wire::{CallError, Connection, Hello, Role};

/// What is put together, before it is a catalog; sealed.
const TEMPORARY: &str = "recovery.new";
/// The most nodes that are asked, and how many of them at a time.
const MAX_ASKED: usize = 1024;
const ASKED_AT_ONCE: usize = 16;
/// How long a node may think before it says hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// What to recover from, and how far.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// Nodes to begin with; they, and what they keep, name the others.
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
    /// Enough nodes do not answer that all of a later change may be on them alone. `silent`: which,
    /// and why.
    #[error(
        "{} nodes do not answer, and more of the journal than piece {usable} of generation \
         {generation} may be on them alone", silent.len()
    )]
    MayBeMore { generation: u64, usable: u64, silent: Vec<(String, String)> },
    /// It was put together, and is not the catalog that it should be.
    #[error("what was kept of the catalog does not fit together: {0}")]
    Wrong(String),
}

/// The nodes that were asked, and what they said.
#[derive(Default)]
struct Asked {
    seen: BTreeSet<Address>,
    nodes: BTreeMap<Address, Node>,
    /// Why those did not answer that did not.
    silent: BTreeMap<Address, String>,
    /// What the nodes that answered have heard.
    heads: Vec<JournalHead>,
}

struct Node {
    number: NodeId,
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
    let mut asked = Asked::default();
    asked.ask(recovery, recovery.from.clone());
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
    let (found, boundary, members) = loop {
        let (found, spoiled) = find(recovery, &mut asked, &file)?;
        let judged = judge(recovery, &asked, &found, spoiled);
        if let Err(error) = apply(recovery, &found, &file, &path, &mut rebuild) {
            return Err(judged.err().unwrap_or(error));
        }
        // A keeper that no other one named, since it became one after them, is among the nodes.
        let assembled = file.metadata().map_err(io("look at"))?.len();
        let is_whole = judged.is_ok().then_some(assembled);
        let members = rebuild.members()?;
        let addresses = members.values().cloned().collect();
        if !asked.ask_more(recovery, addresses, found.generation, is_whole) {
            break (found, judged?, members);
        }
        // Its lock has to go before it is taken anew.
        drop(rebuild);
        rebuild = Rebuild::begin(dir)?;
    };
    if recovery.until.is_none() {
        asked.judge_silent(&members, found.generation, boundary)?;
    }
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
        head: asked.newest_head().cloned(),
        silent: asked.silent(),
        account,
        files: report.files,
        chunks: report.chunks,
    })
}

/// Builds the catalog as what was found says that it is, up to the last boundary.
fn apply(
    recovery: &Recovery,
    found: &Assembled,
    file: &File,
    path: &Path,
    rebuild: &mut Rebuild,
) -> Result<(), RecoverError> {
    let boundary = found.boundary.expect("`find` gives none without");
    let sealing = recovery.key.sealing();
    for_each_piece(&sealing, file, boundary, |piece| match rebuild.apply(&piece.body) {
        Ok(()) => Ok(()),
        Err(error) => Err(Applying::Catalog(piece.sequence, error)),
    })
    .map_err(|error| match error {
        Applying::Io(source) => {
            RecoverError::Io { doing: "read", path: path.to_path_buf(), source }
        }
        Applying::Catalog(sequence, error) => RecoverError::Wrong(format!(
            "piece {sequence} of generation {}: {}",
            found.generation,
            with_causes(&error)
        )),
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

impl Asked {
    /// Asks these nodes, those that they name, and so on; each once.
    fn ask(&mut self, recovery: &Recovery, addresses: Vec<Address>) {
        let mut left = addresses;
        loop {
            left.retain(|one| self.seen.len() < MAX_ASKED && self.seen.insert(one.clone()));
            if left.is_empty() {
                return;
            }
            for batch in std::mem::take(&mut left).chunks(ASKED_AT_ONCE) {
                let answers: Vec<Result<_, CallError>> = thread::scope(|scope| {
                    let asking = batch.iter().map(|one| scope.spawn(move || ask(one, recovery)));
                    let asking: Vec<_> = asking.collect();
                    let answers = asking.into_iter().map(|one| one.join());
                    answers.map(|one| one.unwrap_or_else(|panic| resume_unwind(panic))).collect()
                });
                for (address, answer) in batch.iter().zip(answers) {
                    left.extend(self.take(address, answer));
                }
            }
        }
    }

    /// Takes an answer in, and returns the nodes that it names.
    fn take(
        &mut self,
        address: &Address,
        answer: Result<(Node, Option<JournalHead>), CallError>,
    ) -> Vec<Address> {
        let (node, head) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let why = with_causes(&error);
                log::warn!("a node does not give the journal addr={address} error={why:?}");
                self.silent.insert(address.clone(), why);
                return Vec::new();
            }
        };
        log::info!("{} keeps {:?} of the journal", node.name, node.kept);
        self.nodes.insert(address.clone(), node);
        let Some(head) = head else { return Vec::new() };
        let named = head.keepers.values().cloned().collect();
        self.heads.push(head);
        named
    }

    fn newest_head(&self) -> Option<&JournalHead> {
        self.heads.iter().max_by_key(|head| age(head))
    }

    /// Those that did not answer, and why.
    fn silent(&self) -> Vec<(String, String)> {
        let name =
            |(address, why): (&Address, &String)| (format!("the node at {address}"), why.clone());
        self.silent.iter().map(name).collect()
    }

    /// Refuses when the nodes of the catalog that did not answer may have something newer than was
    /// found, up to piece `boundary`: see `may_hide`.
    fn judge_silent(
        &self,
        members: &BTreeMap<NodeId, Address>,
        generation: u64,
        boundary: u64,
    ) -> Result<(), RecoverError> {
        let answered: BTreeSet<NodeId> = self.nodes.values().map(|node| node.number).collect();
        let is_silent = |(node, _): &(&NodeId, &Address)| !answered.contains(node);
        let silent: BTreeMap<_, _> = members.iter().filter(is_silent).collect();
        let numbers = silent.keys().map(|node| **node).collect();
        let keepers = self.newest_head().map(|head| head.keepers.keys().copied().collect());
        if !may_hide(&keepers.unwrap_or_default(), &answered, &numbers) {
            return Ok(());
        }
        let explained = silent.into_iter().map(|(node, address)| {
            let why = match self.silent.get(address) {
                Some(why) => why,
                None if self.nodes.contains_key(address) => "another node answers there",
                None => "so many are asked that it was not",
            };
            (format!("node {node} at {address}"), why.to_string())
        });
        Err(RecoverError::MayBeMore { generation, usable: boundary, silent: explained.collect() })
    }

    /// Asks nodes that what was found names. True when one of those that were not asked before has
    /// more than was found: of this generation, or of a later one. `whole` is how many bytes were
    /// found of it, where nothing is missing.
    fn ask_more(
        &mut self,
        recovery: &Recovery,
        addresses: Vec<Address>,
        generation: u64,
        whole: Option<u64>,
    ) -> bool {
        let before: BTreeSet<Address> = self.nodes.keys().cloned().collect();
        let heard =
            |asked: &Asked| asked.newest_head().map(|head| (head.generation, head.sequence));
        let heard_before = heard(self);
        self.ask(recovery, addresses);
        let is_more = |kept: &KeptGeneration| match kept.generation == generation {
            true => whole.is_none_or(|bytes| kept.bytes > bytes),
            false => kept.generation > generation,
        };
        let mut new = self.nodes.iter().filter(|(address, _)| !before.contains(*address));
        new.any(|(_, node)| node.kept.iter().any(is_more)) || heard_before != heard(self)
    }
}

/// By this, of two heads the one that was said later is greater.
fn age(head: &JournalHead) -> (u64, u64, WallTime, u64) {
    // A main server that starts begins a generation, and so counts its choices within it.
    (head.generation, head.sequence, head.time, head.choice)
}

fn ask(address: &Address, recovery: &Recovery) -> Result<(Node, Option<JournalHead>), CallError> {
    let insecure_plaintext = recovery.insecure_plaintext;
    let dialing =
        Dialing { hello_timeout: HELLO_TIMEOUT, insecure_plaintext, ..Dialing::default() };
    let mut connection = Connection::open(address, &dialing, &Hello::new(Role::Main))?;
    let request = ReadJournal { secret: recovery.key.reading(), generation: 0, offset: 0 };
    let reply = connection.call(&request)?;
    let number = connection.hello().node.unwrap_or(NodeId(0));
    let name = format!("node {number} at {address}");
    Ok((Node { number, name, connection, kept: reply.kept }, reply.head))
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
        Some(found) => {
            Err(missing(asked, &found, "no generation has a whole snapshot".to_string()))
        }
        None => Err(RecoverError::Nothing { asked: asked.silent() }),
    }
}

fn read_part(connection: &mut Connection, request: ReadJournal) -> Result<Vec<u8>, String> {
    let mut buffer = PayloadBuffer::default();
    let read = connection.call(&request).and_then(|_| connection.read_payload(&mut buffer, |_| {}));
    read.map_err(|error| with_causes(&error))?;
    Ok(buffer.as_slice().to_vec())
}

fn missing(asked: &Asked, found: &Assembled, why: String) -> RecoverError {
    let silent = asked.silent();
    let Missing { sequence, mut asked, .. } = found.ends.clone().unwrap_or(Missing {
        sequence: found.sequence + 1,
        asked: Vec::new(),
        is_damage: false,
    });
    asked.extend(silent);
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
        return Err(missing(asked, found, "no node has it whole".to_string()));
    }
    match asked.newest_head() {
        Some(head) if (head.generation, head.sequence) > (found.generation, boundary) => {
            // Where it was is more to the point than where the one before it ends.
            if let Some(spoiled) = spoiled.filter(|one| one.generation == head.generation) {
                let spoiled = Assembled { boundary: Some(boundary), ..spoiled };
                return Err(missing(asked, &spoiled, "no node has it whole".to_string()));
            }
            let (generation, sequence) = (head.generation, head.sequence);
            Err(missing(
                asked,
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
