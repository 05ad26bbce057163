//! A running node: what is started in which order, and stopped in which.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::causes::with_causes;
use crate::ids::{Address, NodeId};
use crate::metrics::Page;
use crate::server::{Limits, Server};
use crate::wire::CallError;
use crate::wire::node_to_main::AddMeReply;

use super::compaction;
use super::config::{NodeConfig, ScrubRate};
use super::control::{self, FirstContact};
use super::counters::Counters;
use super::error::NodeError;
use super::identity::{DirectoryLock, Identity};
use super::join;
use super::journal;
use super::keys::Keys;
use super::metrics;
use super::orders;
use super::scrub;
use super::service::NodeService;
use super::shared::Shared;
use crate::wire::Dialled;

/// A storage node that runs in this process. Dropping it stops it, too.
pub struct Node {
    pub(super) shared: Arc<Shared>,
    node: NodeId,
    server: Server,
    pub(super) control: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    /// Dropped to stop all that pauses.
    stop: Option<Sender<Infallible>>,
    failures: Receiver<NodeError>,
    unreachable: Option<CallError>,
    /// Given up last, after all that works in the directory.
    _lock: DirectoryLock,
}

/// What runs before the node has found the main server.
struct Starting {
    shared: Arc<Shared>,
    server: Server,
    stop: Sender<Infallible>,
    failures: Receiver<NodeError>,
    lock: DirectoryLock,
}

impl Node {
    /// Starts the node of a directory, or makes a new one there with an invite.
    ///
    /// Returns once the main server counts its copies; or, for a node that has joined before, once
    /// it is known that the main server cannot be reached just now: it is tried again for as long
    /// as the node runs, and fetches with good tokens are served meanwhile.
    pub fn start(config: NodeConfig) -> Result<Node, NodeError> {
        let starting = Starting::open(&config)?;
        let shared = starting.shared.clone();
        let mut joined = None;
        let member = match join::open_store(&shared, &config)? {
            Some(member) => member,
            None => {
                let (connection, reply, member) = join::join(&shared, &config)?;
                joined = Some((connection, reply));
                member
            }
        };
        let node = member.membership.node;
        shared.set_member(Some(Arc::new(member)));
        let mut running = starting.run(node)?;
        running.find_main(joined)?;
        Ok(running)
    }

    /// Its number in the cluster.
    pub fn number(&self) -> NodeId {
        self.node
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Where it told others to reach it.
    pub fn advertised(&self) -> &Address {
        &self.shared.address
    }

    /// Why the main server was not reached when the node started, if it was not.
    pub fn unreachable(&self) -> Option<&CallError> {
        self.unreachable.as_ref()
    }

    /// Gets the error, if there comes to be one, after which the node can only be stopped.
    pub fn failures(&self) -> &Receiver<NodeError> {
        &self.failures
    }

    /// What it did since its start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// What fills in a page of metrics.
    pub fn metrics(&self) -> impl Fn(&mut Page) + Send + Sync + use<> {
        let (shared, server) = (self.shared.clone(), self.server.watch());
        move |page| metrics::fill(&shared, server.open_connections(), page)
    }

    /// Stops in order: says goodbye to the main server, answers what has arrived, closes the store.
    pub fn stop(mut self) {
        self.stop_all();
    }

    /// Starts the control thread, and waits for what comes of it first.
    fn find_main(&mut self, joined: Option<(Dialled, AddMeReply)>) -> Result<(), NodeError> {
        let (first, contact) = bounded(1);
        let shared = self.shared.clone();
        self.control = Some(spawn("control", move || control::run(&shared, joined, first))?);
        match contact.recv() {
            Ok(FirstContact::Alive) => Ok(()),
            Ok(FirstContact::Fatal(error)) => Err(error),
            Ok(FirstContact::Unreachable(error)) => {
                self.unreachable = Some(error);
                Ok(())
            }
            // The thread panicked, which is logged: the node could serve reads, and nothing else.
            Err(_) => Err(NodeError::Thread(std::io::ErrorKind::Other.into())),
        }
    }

    fn stop_all(&mut self) {
        let Some(stop) = self.stop.take() else { return };
        let shared = self.shared.clone();
        // A stale copy must not say goodbye in the name of the node that it is not any more. While the
        // control connection stands: the end of that alone has copies made of what is here.
        let parts = self.control.is_some() && !shared.is_given_up();
        let is_heard = parts && control::part(&shared);
        drop(stop);
        shared.orders.stop();
        if let Some(member) = shared.member() {
            member.store.wake_compaction();
        }
        shared.links.control.cut();
        shared.links.journal.cut();
        join_thread(self.control.take());
        // Whoever hears no goodbye hears no confirmation either.
        if !is_heard {
            abandon_main(&shared);
        }
        // Requests that have arrived are answered, for which they may have something confirmed.
        self.server.stop_cutting(|| {
            shared.links.peers.cut();
            abandon_main(&shared);
        });
        shared.links.peers.cut();
        shared.confirmer.stop();
        if !shared.confirmer.wait_over(shared.limits.parting_patience) {
            abandon_main(&shared);
        }
        self.workers.drain(..).for_each(|worker| join_thread(Some(worker)));
        self.close_store();
        log::info!("stopped node={} {}", self.node, shared.counters);
    }

    fn close_store(&self) {
        let Some(member) = self.shared.set_member(None) else { return };
        let closed = match Arc::try_unwrap(member) {
            Ok(member) => member.store.close(),
            // A request was cut off and has not noticed yet; the store closes behind it.
            Err(member) => member.store.sync(),
        };
        if let Err(error) = closed {
            log::error!("the store was not closed well error={}", with_causes(&error));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_all();
    }
}

impl Starting {
    /// Locks the directory, reads what it says, and listens.
    fn open(config: &NodeConfig) -> Result<Starting, NodeError> {
        if !config.listen.ip().is_loopback() && !config.insecure_plaintext {
            return Err(NodeError::NotLoopback(config.listen));
        }
        let (identity, lock) = Identity::open(config)?;
        let keys = Keys::open(&config.directory)?;
        let file = identity.get();
        let listener = listen(config.listen, file.listen)?;
        let address = listener
            .local_addr()
            .map_err(|source| NodeError::Listen { address: config.listen, source })?;
        let advertised = match file.address {
            Some(advertised) => advertised,
            None if address.ip().is_unspecified() => return Err(NodeError::NoAddress(address)),
            None => address.into(),
        };
        if file.listen != Some(address) {
            identity.update(|file| file.listen = Some(address))?;
        }
        let (stop, stopped) = bounded(0);
        let (fatal, failures) = unbounded();
        let shared = Arc::new(Shared::new(config, identity, keys, advertised, stopped, fatal));
        let limits = Limits {
            connections: config.limits.connections,
            node_connections: config.limits.connections / 10,
            ..Limits::default()
        };
        let service = Arc::new(NodeService(shared.clone()));
        let server = Server::start(listener, limits, service).map_err(NodeError::Thread)?;
        Ok(Starting { shared, server, stop, failures, lock })
    }

    /// Starts the threads that work for all connections.
    fn run(self, node: NodeId) -> Result<Node, NodeError> {
        let Starting { shared, server, stop, failures, lock } = self;
        let mut running = Node {
            shared: shared.clone(),
            node,
            server,
            control: None,
            workers: Vec::new(),
            stop: Some(stop),
            failures,
            unreachable: None,
            _lock: lock,
        };
        let for_confirmer = shared.clone();
        running
            .workers
            .push(spawn("confirmer", move || for_confirmer.confirmer.run(&for_confirmer))?);
        let for_keeper = shared.clone();
        running.workers.push(spawn("journal", move || journal::run(&for_keeper))?);
        for _ in 0..orders::WORKERS {
            let shared = shared.clone();
            running.workers.push(spawn("orders", move || shared.orders.run(&shared))?);
        }
        let for_compaction = shared.clone();
        let compact = move || compaction::run(&for_compaction);
        running.workers.push(spawn("compaction", compact)?);
        if shared.scrubbing.rate != ScrubRate::Off {
            running.workers.push(spawn("scrub", move || scrub::run(&shared))?);
        }
        Ok(running)
    }
}

/// Gives up what waits for the main server.
fn abandon_main(shared: &Shared) {
    shared.confirmer.abandon();
    shared.links.main.cut();
}

/// Listens where it is wanted; where any port would do, on the one of the last start if it is free.
fn listen(wanted: SocketAddr, last: Option<SocketAddr>) -> Result<TcpListener, NodeError> {
    if let Some(last) = last.filter(|last| wanted.port() == 0 && last.ip() == wanted.ip()) {
        match TcpListener::bind(last) {
            Ok(listener) => return Ok(listener),
            Err(error) => log::warn!("the last port is taken address={last} error={error}"),
        }
    }
    TcpListener::bind(wanted).map_err(|source| NodeError::Listen { address: wanted, source })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, NodeError> {
    let builder = thread::Builder::new().name(name.to_string()).stack_size(512 * 1024);
    builder.spawn(body).map_err(NodeError::Thread)
}

fn join_thread(thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        log::error!("a thread of the node ended in a panic");
    }
}
