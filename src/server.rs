//! A server's skeleton: the accept loop, a thread for each connection, limits, the orderly stop.
//! It knows no message: what is said on a connection is the role's business.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::wire::frame::{self, FrameError, FrameReader, Head, PayloadBuffer};
use crate::wire::{Fault, FaultCode, Outcome};

/// The limits of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// Of these, how many only nodes may take.
    pub node_connections: usize,
    /// How long a connection may be silent between messages.
    pub idle_timeout: Duration,
    /// How long connections have to finish what they are doing once the server stops.
    pub stop_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 10_000,
            node_connections: 1_000,
            idle_timeout: Duration::from_secs(600),
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// What a role does with a connection: serve it until it ends. It runs in the connection's own
/// thread; a panic in it costs that connection alone.
pub trait Service: Send + Sync + 'static {
    fn serve(&self, connection: &mut ServerConnection);
}

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    limits: Limits,
    connections: Mutex<Connections>,
    /// Told when a connection has ended and when the server begins to stop.
    changed: Condvar,
}

/// `stopping` shares the lock of `open` on purpose: a connection is either listed before the stop,
/// and woken by it, or refused after it. With a flag beside the table one could slip between and
/// never end.
#[derive(Default)]
struct Connections {
    stopping: bool,
    next: u64,
    nodes: usize,
    open: HashMap<u64, TcpStream>,
}

impl Shared {
    /// The table holds no invariant across its lock that a panic could break.
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Serves `listener` in threads of its own until `stop`.
    pub fn start(
        listener: TcpListener,
        limits: Limits,
        service: Arc<dyn Service>,
    ) -> io::Result<Server> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            limits,
            connections: Mutex::new(Connections::default()),
            changed: Condvar::new(),
        });
        let (for_loop, loop_listener) = (shared.clone(), listener.try_clone()?);
        let accepting = thread::Builder::new()
            .name("accept".to_string())
            .spawn(move || accept_loop(&loop_listener, &for_loop, &service))?;
        Ok(Server { shared, listener, address, accepting: Some(accepting) })
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.lock().open.len()
    }

    /// Stops in order: no new connection, no new request; requests that have arrived are answered.
    /// What is not done within the grace time is cut off, so this returns within twice that time
    /// even when peers hang.
    pub fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.close_all(Shutdown::Read);
        // On Linux this wakes a thread that waits in accept(2).
        if let Err(error) = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both) {
            log::debug!("the listener was not shut down: {error}");
        }
        if accepting.join().is_err() {
            log::error!("the accept loop ended in a panic");
        }
        if !self.wait_until_empty() {
            self.close_all(Shutdown::Both);
            if !self.wait_until_empty() {
                log::warn!("stopped with connections={} still busy", self.open_connections());
            }
        }
    }

    fn close_all(&self, how: Shutdown) {
        let mut connections = self.shared.lock();
        connections.stopping = true;
        for stream in connections.open.values() {
            // One that the peer has closed already needs no waking.
            let _ = stream.shutdown(how);
        }
        self.shared.changed.notify_all();
    }

    fn wait_until_empty(&self) -> bool {
        let connections = self.shared.lock();
        let (connections, _) = self
            .shared
            .changed
            .wait_timeout_while(connections, self.shared.limits.stop_grace, |c| !c.open.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        connections.open.is_empty()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept_loop(listener: &TcpListener, shared: &Arc<Shared>, service: &Arc<dyn Service>) {
    loop {
        let accepted = listener.accept();
        if shared.lock().stopping {
            return;
        }
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, shared, service),
            Err(error) => {
                // Out of file descriptors, most likely: others end, so a moment's wait is a cure.
                log::warn!("a connection could not be accepted error={error}");
                let connections = shared.lock();
                let wait = Duration::from_millis(100);
                drop(shared.changed.wait_timeout_while(connections, wait, |c| !c.stopping));
            }
        }
    }
}

/// Gives the connection its thread, or tells it that there is no room.
fn admit(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>, service: &Arc<dyn Service>) {
    let Ok(listed) = stream.try_clone() else {
        return refuse(&stream, FaultCode::Busy, "the server is out of file descriptors");
    };
    let number = {
        let mut connections = shared.lock();
        if connections.open.len() >= shared.limits.connections {
            drop(connections);
            return refuse(&stream, FaultCode::Busy, "the server has all the connections it takes");
        }
        connections.next += 1;
        let number = connections.next;
        connections.open.insert(number, listed);
        number
    };
    let slot = Slot { number, is_node: false, shared: shared.clone() };
    let (service, for_thread) = (service.clone(), stream);
    // Kept back for the case that no thread can start.
    let spare = for_thread.try_clone();
    let spawned = thread::Builder::new()
        .name("connection".to_string())
        .stack_size(512 * 1024)
        .spawn(move || serve_connection(for_thread, peer, slot, &*service));
    if let Err(error) = spawned {
        log::warn!("no thread for a connection peer={peer} error={error}");
        if let Ok(stream) = spare {
            refuse(
                &stream,
                FaultCode::Busy,
                "the server cannot start a thread for this connection",
            );
        }
    }
}

fn refuse(stream: &TcpStream, code: FaultCode, why: &str) {
    let reply: Outcome<()> = Outcome::Fault(Fault::new(code, why));
    // A fresh socket's buffer takes this at once; if not, the peer sees the close alone.
    if stream.set_nonblocking(true).is_ok() {
        let _ = frame::write_message(stream, &frame::encode(&reply), &[]);
    }
}

fn serve_connection(stream: TcpStream, peer: SocketAddr, slot: Slot, service: &dyn Service) {
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("connection without TCP_NODELAY peer={peer} error={error}");
    }
    let mut connection =
        ServerConnection { stream, peer, slot, reader: FrameReader::default(), json: Vec::new() };
    if catch_unwind(AssertUnwindSafe(|| service.serve(&mut connection))).is_err() {
        log::error!("a request ended in a panic; its connection is closed peer={peer}");
    }
}

/// A connection's place in the table, given back when it ends, however it ends.
struct Slot {
    number: u64,
    is_node: bool,
    shared: Arc<Shared>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut connections = self.shared.lock();
        if let Some(stream) = connections.open.remove(&self.number) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        connections.nodes -= usize::from(self.is_node);
        self.shared.changed.notify_all();
    }
}

/// The server end of a connection.
pub struct ServerConnection {
    stream: TcpStream,
    peer: SocketAddr,
    slot: Slot,
    reader: FrameReader,
    json: Vec<u8>,
}

impl ServerConnection {
    /// Who is at the other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Waits for the next request and reads its JSON, which `request_json` then has. `None` when
    /// the connection is over: the peer closed it, was silent for too long, sent what no reader
    /// can keep in step with (it is told), or the server stops.
    pub fn next_request(&mut self) -> Option<Head> {
        let idle = self.slot.shared.limits.idle_timeout;
        let read = self.reader.read_message(&self.stream, idle, &mut self.json);
        match read {
            Ok(head) => head,
            Err(error) => {
                self.tell_and_log(error);
                None
            }
        }
    }

    /// The JSON of the request that was read last.
    pub fn request_json(&self) -> &[u8] {
        &self.json
    }

    /// Bytes of the request's payload that were not read yet.
    pub fn payload_left(&self) -> u32 {
        self.reader.payload_left()
    }

    /// Reads the request's payload, and shows each piece as it arrives. A payload that is not read
    /// is passed over before the next request. `false` when the connection is over.
    pub fn read_payload(&mut self, buffer: &mut PayloadBuffer, seen: impl FnMut(&[u8])) -> bool {
        match self.reader.read_payload(&self.stream, buffer, seen) {
            Ok(()) => true,
            Err(error) => {
                self.tell_and_log(error);
                false
            }
        }
    }

    /// Passes over the rest of the request's payload. `false` when the connection is over.
    pub fn skip_payload(&mut self) -> bool {
        self.reader.skip_payload(&self.stream).map_err(|error| self.tell_and_log(error)).is_ok()
    }

    /// Answers. `false` when the connection is over.
    pub fn reply<T: Serialize>(&mut self, reply: Result<T, Fault>, payload: &[&[u8]]) -> bool {
        let json = frame::encode(&Outcome::from(reply));
        match frame::write_message(&self.stream, &json, payload) {
            Ok(()) => true,
            Err(error) => {
                log::debug!("no reply could be sent peer={} error={error}", self.peer);
                false
            }
        }
    }

    /// Counts the connection as a node's from now on, or as a client's, for which there are fewer
    /// places. `false` when there is none left: the caller answers `busy` and ends.
    pub fn take_place(&mut self, is_node: bool) -> bool {
        let mut connections = self.slot.shared.lock();
        let limits = &self.slot.shared.limits;
        if is_node && !self.slot.is_node {
            connections.nodes += 1;
            self.slot.is_node = true;
        }
        let clients = connections.open.len() - connections.nodes;
        is_node || clients <= limits.connections.saturating_sub(limits.node_connections)
    }

    /// Gives back the memory of a large request before the connection idles.
    pub fn shrink(&mut self) {
        const KEPT_BYTES: usize = 8 * 1024;
        if self.json.capacity() > KEPT_BYTES {
            self.json = Vec::new();
        }
    }

    fn tell_and_log(&mut self, error: FrameError) {
        let fault = match &error {
            FrameError::TooLarge { .. } => Some(FaultCode::TooLarge),
            FrameError::TimedOut => Some(FaultCode::Timeout),
            FrameError::CutOff | FrameError::Idle | FrameError::Io(_) => None,
        };
        log::debug!("connection over peer={} error={error}", self.peer);
        if let Some(code) = fault {
            refuse(&self.stream, code, &error.to_string());
        }
    }
}

/// Bytes that may be held at once by all requests of a kind. Whoever would exceed it waits.
pub struct Budget {
    left: Mutex<u64>,
    freed: Condvar,
    total: u64,
}

/// Bytes taken from a budget, given back on drop.
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: u64) -> Arc<Budget> {
        Arc::new(Budget { left: Mutex::new(total), freed: Condvar::new(), total })
    }

    /// Takes `bytes`, waiting for them for at most `patience`; `None` when they did not come free.
    /// A request larger than the whole budget takes all of it.
    pub fn take(self: &Arc<Self>, bytes: u64, patience: Duration) -> Option<Share> {
        let bytes = bytes.min(self.total);
        let deadline = Instant::now() + patience;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        while *left < bytes {
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return None;
            }
            let waited = self.freed.wait_timeout(left, patience);
            left = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *left -= bytes;
        Some(Share { budget: self.clone(), bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut left = self.budget.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left += self.bytes;
        self.budget.freed.notify_all();
    }
}
