//! What a node knows of itself: `node.json` in its directory, and the order in which it learns it.
//!
//! A join writes the node's own secret first, then makes the store, and last notes the number that
//! it was given. So a number in `node.json` means that there was a store: where there is none now,
//! the disk is not mounted or something was lost, and the node must not start as if it were new.
//! Whatever is interrupted before that goes on with the same secret, by which the main server knows
//! it again.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::ids::{Address, BooksMark, ClusterId, Incarnation, NodeId, Secret};
use crate::wire::MAX_PREVIOUS;

use super::config::{MAX_ZONE_BYTES, NodeConfig};
use super::error::NodeError;

const FORMAT: u32 = 1;
const FILE: &str = "node.json";
const LOCK: &str = "node.lock";
/// The most starts that a node names when it joins: all of its `add_me` must fit into what the main
/// server takes from a stranger. Those that were refused are not among them.
const MAX_TRIES: usize = 64;
/// The files of a node beside its store.
pub(super) const OWN_FILES: [&str; 6] =
    [FILE, "node.json.new", super::keys::FILE, "keys.json.new", LOCK, super::journal::DIRECTORY];

/// The content of `node.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NodeFile {
    format: u32,
    /// Drawn by the node itself, before it joins.
    pub secret: Secret,
    /// Where it belongs, once it has joined and its store is made.
    pub member: Option<Membership>,
    /// The incarnations of which one is the last that the main server registered: several, when
    /// starts were cut off between being sent and being answered.
    pub incarnations: Vec<Incarnation>,
    /// The last incarnation of a main server that knew the one before it.
    pub main_incarnation: Option<Incarnation>,
    /// How far that one's books were when this was written; see `Identity::heard`.
    #[serde(default)]
    pub main_mark: Option<BooksMark>,
    pub main: Address,
    pub space_bytes: u64,
    pub zone: String,
    /// Only if it is not simply where the node listens.
    pub address: Option<Address>,
    /// Where it listened last.
    pub listen: Option<SocketAddr>,
}

/// A node's place in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    pub cluster: ClusterId,
    pub node: NodeId,
}

/// `node.json`, in memory and on disk. One thread at a time writes it.
#[derive(Debug)]
pub(super) struct Identity {
    directory: PathBuf,
    /// Held for memory only: what is in it is on disk already.
    file: Mutex<NodeFile>,
    /// How far the books were of the main server in `file`, as it said last. On disk only now and then.
    heard: Mutex<Option<BooksMark>>,
}

/// Keeps other processes out of a node's directory for as long as it lives.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

impl Identity {
    /// Reads the directory's `node.json` and brings it up to the configuration; makes both anew when
    /// there is nothing yet and the node is invited.
    pub fn open(config: &NodeConfig) -> Result<(Identity, DirectoryLock), NodeError> {
        let directory = &config.directory;
        if config.zone.as_ref().is_some_and(|zone| zone.len() > MAX_ZONE_BYTES) {
            return Err(NodeError::ZoneTooLong(config.zone.as_ref().map_or(0, String::len)));
        }
        let path = directory.join(FILE);
        if !path.exists() {
            check_new(config)?;
            configured(None, config)?;
            durable::make_directories(directory).map_err(NodeError::io("create", directory))?;
        }
        let lock = take_lock(directory)?;
        let before = if path.exists() { Some(read(&path)?) } else { None };
        let file = configured(before.as_ref(), config)?;
        let identity = Identity {
            directory: directory.clone(),
            heard: Mutex::new(file.main_mark),
            file: Mutex::new(file.clone()),
        };
        identity.write(&file)?;
        Ok((identity, lock))
    }

    /// As it is now.
    pub fn get(&self) -> NodeFile {
        self.lock().clone()
    }

    /// Changes it, on disk first.
    pub fn update(&self, change: impl FnOnce(&mut NodeFile)) -> Result<(), NodeError> {
        let mut file = self.get();
        change(&mut file);
        self.write(&file)?;
        *self.lock() = file;
        Ok(())
    }

    /// Notes that `incarnation` may be the last registered one from now on, and returns those that
    /// may be it as yet, and whether it is one more. To be called before the main server hears of it.
    pub fn add_candidate(
        &self,
        incarnation: Incarnation,
    ) -> Result<(Vec<Incarnation>, bool), NodeError> {
        let mut previous = self.get().incarnations;
        let is_new = !previous.contains(&incarnation);
        previous.retain(|known| *known != incarnation);
        if is_new {
            self.update(|file| {
                // The first was registered for sure; of the rest the latest are the likeliest.
                let most = if file.member.is_some() { MAX_PREVIOUS } else { MAX_TRIES };
                if file.incarnations.len() == most {
                    file.incarnations.remove(1);
                }
                file.incarnations.push(incarnation);
            })?;
        }
        Ok((previous, is_new))
    }

    /// Takes back what `add_candidate` added: the main server refused at once, and never had it.
    pub fn forget_candidate(&self, incarnation: Incarnation) -> Result<(), NodeError> {
        self.update(|file| file.incarnations.retain(|known| *known != incarnation))
    }

    /// How far the books were of the main server that was adopted last, as far as this node heard. One
    /// whose books are not as far is an older life of it.
    pub fn heard(&self) -> Option<BooksMark> {
        *self.lock_heard()
    }

    /// The main server that is adopted says how far its books are.
    pub fn hear(&self, mark: Option<BooksMark>) {
        let mut heard = self.lock_heard();
        *heard = mark.max(*heard);
    }

    /// Another main server was adopted, and says how far its books are.
    pub fn hear_anew(&self, mark: Option<BooksMark>) {
        *self.lock_heard() = mark;
    }

    /// Has on disk what was heard.
    pub fn save_heard(&self) -> Result<(), NodeError> {
        let heard = self.heard();
        let is_saved = self.lock().main_mark == heard;
        if is_saved { Ok(()) } else { self.update(|file| file.main_mark = heard) }
    }

    /// The node's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The error of a directory that is not the one which its node started from last.
    pub fn stale(&self) -> NodeError {
        NodeError::StaleDirectory(self.directory.clone())
    }

    fn write(&self, file: &NodeFile) -> Result<(), NodeError> {
        let path = self.directory.join(FILE);
        let text = serde_json::to_vec_pretty(file).expect("node.json is plain data");
        durable::replace_file(&path, &text).map_err(NodeError::io("write", &path))
    }

    fn lock(&self) -> MutexGuard<'_, NodeFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_heard(&self) -> MutexGuard<'_, Option<BooksMark>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses to make a node where none is wanted or where it would not be alone.
fn check_new(config: &NodeConfig) -> Result<(), NodeError> {
    let directory = &config.directory;
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let entries = entries.map_err(NodeError::io("list", directory))?;
    let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let foreign: Vec<String> =
        names.filter(|name| name != "lost+found" && !OWN_FILES.contains(&name.as_str())).collect();
    if foreign.iter().any(|name| name == "store.json") {
        return Err(NodeError::IdentityMissing(directory.clone()));
    }
    if config.invite.is_none() {
        return Err(NodeError::NoNode(directory.clone()));
    }
    match foreign.into_iter().next() {
        None => Ok(()),
        Some(found) => Err(NodeError::NotEmpty { directory: directory.clone(), found }),
    }
}

fn take_lock(directory: &Path) -> Result<DirectoryLock, NodeError> {
    let path = directory.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(NodeError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(DirectoryLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(NodeError::Locked(directory.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(NodeError::io("lock", &path)(error)),
    }
}

fn read(path: &Path) -> Result<NodeFile, NodeError> {
    /// The part that all versions have.
    #[derive(Deserialize)]
    struct AnyFile {
        format: u32,
    }
    let text = std::fs::read(path).map_err(NodeError::io("read", path))?;
    let bad = |what: String| NodeError::BadFile { path: path.to_path_buf(), what };
    let AnyFile { format } = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    if format != FORMAT {
        return Err(bad(format!("it has format {format}, and this program knows {FORMAT}")));
    }
    serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))
}

/// What `node.json` says after this start's configuration.
fn configured(before: Option<&NodeFile>, config: &NodeConfig) -> Result<NodeFile, NodeError> {
    let main = config.main.clone().or(before.map(|file| file.main.clone()));
    let space_bytes = config.space_bytes.or(before.map(|file| file.space_bytes));
    let zone = config.zone.clone().or(before.map(|file| file.zone.clone()));
    Ok(NodeFile {
        format: FORMAT,
        secret: before.map_or_else(Secret::random, |file| file.secret),
        member: before.and_then(|file| file.member),
        incarnations: before.map(|file| file.incarnations.clone()).unwrap_or_default(),
        main_incarnation: before.and_then(|file| file.main_incarnation),
        main_mark: before.and_then(|file| file.main_mark),
        main: main.ok_or(NodeError::Missing("the address of its main server"))?,
        space_bytes: space_bytes.ok_or(NodeError::Missing("the space that it offers"))?,
        zone: zone.unwrap_or_default(),
        address: config.address.clone().or(before.and_then(|file| file.address.clone())),
        listen: before.and_then(|file| file.listen),
    })
}
