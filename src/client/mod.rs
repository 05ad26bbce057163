//! The client: cuts files into chunks, moves them straight to and from the nodes, and has the main
//! server keep the books.
//!
//! It prints nothing, holds no globals and exits nowhere; progress is told to an `Observer`. All
//! calls block, and may be made from any number of threads at a time. It knows the wire and the
//! vocabulary, and nothing of how servers work.

mod cluster;
mod connections;
mod cut;
mod desk;
mod error;
mod get;
mod observer;
mod patience;
mod put;
mod read_chunk;
#[cfg(test)]
mod tests;
mod together;
mod tree;
mod verify;
mod versions;
mod workers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use error::{ClientError, CopyFailure};
pub use get::{Download, FetchedFile};
pub use observer::{Observer, Quiet, Report};
pub use patience::{Cancel, Patience};
pub use put::{PutOptions, Source, StoredFile, Upload};
pub use tree::{
    Files, LocalEntry, LocalKind, RemoteEntry, make_local_directory, stored_name, walk_local,
};
pub use verify::{CopyProblem, ProblemCopy, VerifiedFile, Wholeness};

use connections::{Connections, Peer};
use error::is_transient;
use patience::Tries;
use together::Together;
use workers::Workers;

use crate::ids::{Address, NodeId, RequestId, Secret, Version};
use crate::remote_path::RemotePath;
use crate::wire::connection::{CallError, Dialing};
use crate::wire::to_main::{
    Addresses, Entry, ListDirectory, ListReply, MakeDirectory, Move, Open, OpenFile, OpenedFile,
    Remove, Stat,
};
use crate::wire::{Fault, Message, Outcome};

/// What a client must be told to begin.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The main server.
    pub main: Address,
    /// The account key of this machine.
    pub key: Secret,
    /// Allow connections in plain text to other machines.
    pub insecure_plaintext: bool,
    pub patience: Patience,
    /// Threads at most, and so transfers at the same time.
    pub threads: usize,
}

impl Settings {
    /// The usual settings for this main server and key.
    pub fn new(main: Address, key: Secret) -> Settings {
        Settings {
            main,
            key,
            insecure_plaintext: false,
            patience: Patience::default(),
            threads: 12,
        }
    }
}

/// A client of one cluster, under one account. Cheap to clone; clones share connections and
/// threads. Making one reaches nobody yet.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    settings: Settings,
    to_main: Connections,
    to_nodes: Connections,
    together: Together,
    workers: Workers,
    cancel: Cancel,
    /// Held for reading while a thread has a temporary file of its own: whoever ends the work waits
    /// for it, so that no such file is left behind.
    has_temporary: RwLock<()>,
    /// The main server answered at least once.
    is_established: AtomicBool,
}

impl Client {
    pub fn new(settings: Settings) -> Client {
        let dialing = |answer_timeout| Dialing {
            connect_timeout: Duration::from_secs(5),
            hello_timeout: answer_timeout,
            answer_timeout,
            insecure_plaintext: settings.insecure_plaintext,
        };
        let cancel = Cancel::default();
        let to_main = Connections::new(
            dialing(Duration::from_secs(30)),
            settings.key,
            cancel.sockets().clone(),
        );
        let to_nodes = Connections::new(
            dialing(read_chunk::FIRST_BYTE),
            settings.key,
            cancel.sockets().clone(),
        );
        let workers = Workers::new(settings.threads);
        Client(Arc::new(Inner {
            settings,
            to_main,
            to_nodes,
            together: Together::new(),
            workers,
            cancel,
            has_temporary: RwLock::new(()),
            is_established: AtomicBool::new(false),
        }))
    }

    /// With which everything that this client does can be ended.
    pub fn cancel_handle(&self) -> Cancel {
        self.0.cancel.clone()
    }

    /// What stands at `path`.
    pub fn stat(&self, path: &RemotePath) -> Result<Entry, ClientError> {
        let paths = vec![path.to_string()].into();
        let reply = self.0.call(&Stat { paths })?;
        one(reply.entries.into_vec())
    }

    /// As `stat`, with `None` where nothing stands.
    pub fn find(&self, path: &RemotePath) -> Result<Option<Entry>, ClientError> {
        match self.stat(path) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if error.code() == Some(crate::wire::FaultCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One page of a directory: the entries after the name `after`.
    pub fn list(&self, path: &RemotePath, after: Option<String>) -> Result<ListReply, ClientError> {
        self.0.call(&ListDirectory { path: path.to_string(), after, limit: None })
    }

    /// A file's chunks from index `from` on, at least one of them, with for each copy its node and
    /// why it is there; and the addresses of these nodes.
    pub fn places(
        &self,
        path: &RemotePath,
        version: Option<Version>,
        from: u64,
    ) -> Result<(OpenedFile, Addresses), ClientError> {
        let file = OpenFile { path: path.to_string(), version, from };
        let reply = self.0.call(&Open { files: vec![file].into(), explain: true })?;
        Ok((one(reply.files.into_vec())?, reply.nodes))
    }

    /// Makes a directory. With `parents` also those above it, and one that exists is a success.
    pub fn make_directory(&self, path: &RemotePath, parents: bool) -> Result<(), ClientError> {
        let (request_id, path) = (RequestId::random(), path.to_string());
        self.0.call(&MakeDirectory { request_id, path, parents })?;
        Ok(())
    }

    /// Renames a file or a directory; with `replace` a file at `to` gives way.
    pub fn rename(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        replace: bool,
    ) -> Result<(), ClientError> {
        let (from, to) = (from.to_string(), to.to_string());
        self.0.call(&Move { request_id: RequestId::random(), from, to, replace })?;
        Ok(())
    }

    /// Removes a file or an empty directory, with `recursive` also one with all below it. What is
    /// removed can be brought back for a while (`undelete`), unless with `purge`: then it is gone for
    /// good, and its space is freed at once. Returns how many files are gone.
    pub fn remove(
        &self,
        path: &RemotePath,
        recursive: bool,
        purge: bool,
    ) -> Result<u64, ClientError> {
        let (request_id, path) = (RequestId::random(), path.to_string());
        let request = Remove { request_id, path, recursive, if_version: None, purge };
        Ok(self.0.call(&request)?.files)
    }
}

impl Inner {
    /// Asks the main server, and asks again while it is away or busy. What is asked must be safe to
    /// repeat, as all requests of the protocol are.
    fn call<M: Message>(&self, request: &M) -> Result<M::Reply, ClientError> {
        let mut tries: Option<Tries> = None;
        let begun = std::time::Instant::now();
        loop {
            if self.cancel.is_cancelled() {
                return Err(ClientError::Cancelled);
            }
            let address = &self.settings.main;
            let error = match self.to_main.with(address, Peer::Main, |c| c.call(request)) {
                Ok(reply) => {
                    self.is_established.store(true, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(error) => error,
            };
            if self.cancel.is_cancelled() {
                return Err(ClientError::Cancelled);
            }
            log::debug!("the main server was asked in vain request={} {error}", M::NAME);
            let patience = self.patience(self.is_established.load(Ordering::Relaxed));
            let tries = tries.get_or_insert_with(|| Tries::new(patience));
            if !is_transient(&error) || !tries.pause(&self.cancel)? {
                return Err(self.in_vain(error, begun.elapsed()));
            }
        }
    }

    fn in_vain(&self, error: CallError, waited: Duration) -> ClientError {
        let address = self.settings.main.clone();
        match error {
            CallError::Fault(fault) => ClientError::Refused(fault),
            CallError::BadReply { what, .. } => ClientError::NotAMainServer { address, what },
            CallError::Broken {
                source: crate::wire::frame::FrameError::TooLarge { .. }, ..
            } => {
                let what = "no server of p2pdfs".to_string();
                ClientError::NotAMainServer { address, what }
            }
            CallError::NotLoopback(address) => ClientError::NotLoopback(address),
            source => ClientError::NoMainServer { address, waited, source: Arc::new(source) },
        }
    }

    fn patience(&self, is_established: bool) -> Duration {
        let Patience { first, established } = self.settings.patience;
        if is_established { established } else { first }
    }

    /// Lets `work` have a temporary file, unless everything is to end.
    fn with_temporary<T>(
        &self,
        work: impl FnOnce() -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let _held = self.has_temporary.read().unwrap_or_else(PoisonError::into_inner);
        if self.cancel.is_cancelled() { Err(ClientError::Cancelled) } else { work() }
    }

    /// After a cancel: returns once no thread has a temporary file.
    fn wait_for_temporaries(&self) {
        drop(self.has_temporary.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// One exchange with a node.
    fn with_node<T>(
        &self,
        node: NodeId,
        address: &Address,
        talk: impl FnMut(&mut crate::wire::Connection) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        if self.cancel.is_cancelled() {
            return Err(CallError::Closed(address.clone()));
        }
        self.to_nodes.with(address, Peer::Node(node), talk)
    }
}

/// The answer to a request for one thing.
fn one<T>(outcomes: Vec<Outcome<T>>) -> Result<T, ClientError> {
    let answered = outcomes.into_iter().next();
    let outcome = answered.ok_or(ClientError::Unsuitable("the main server left the answer out"))?;
    Ok(Result::<T, Fault>::from(outcome)?)
}
