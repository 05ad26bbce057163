//! A server's skeleton: the accept loop, a thread for each connection, limits, the orderly stop.
//! It knows no message: what is said on a connection is the role's business.

mod budget;
mod connection;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use budget::{Budget, Share};
pub use connection::{ServerConnection, Woken};

use crate::wire::frame::{self, Pace};
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
    /// How long it may be silent before its `hello`.
    pub hello_timeout: Duration,
    /// How long a message may take on its way.
    pub pace: Pace,
    /// Bytes of JSON that all requests in work may have together, small ones aside.
    pub json_bytes: u64,
    /// How long a connection that ends waits for its peer to have read the last answer.
    pub farewell: Duration,
    /// Stack of a connection's thread, in bytes; only what is used of it costs memory.
    pub stack_bytes: usize,
    /// How long connections have to finish what they are doing once the server stops.
    pub stop_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 10_000,
            node_connections: 1_000,
            idle_timeout: Duration::from_secs(600),
            hello_timeout: Duration::from_secs(10),
            pace: Pace::default(),
            json_bytes: 64 << 20,
            farewell: Duration::from_secs(1),
            stack_bytes: 512 * 1024,
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

/// Looks at a server.
#[derive(Clone)]
pub struct Watch(Arc<Shared>);

impl Watch {
    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.0.lock().open.len()
    }
}

struct Shared {
    limits: Limits,
    json_budget: Arc<Budget>,
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
    /// How many of `open` have a client's place.
    clients: usize,
    open: HashMap<u64, Arc<TcpStream>>,
    /// Those of `open` that have not said a good `hello`, by age: when there is no room, the oldest
    /// of them gives way. Otherwise whoever opens connections and says nothing shuts all others out.
    new: BTreeSet<u64>,
    /// Refusals under way, each in a thread of its own.
    refusals: usize,
}

/// How many connections beyond the limit there may be while others give way, and how many
/// refusals under way.
const MARGIN: usize = 32;

impl Shared {
    /// The table holds no invariant across its lock that a panic could break.
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.lock().stopping
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
            json_budget: Budget::new(limits.json_bytes),
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
        self.watch().open_connections()
    }

    /// To look at the server from elsewhere, also after it has stopped.
    pub fn watch(&self) -> Watch {
        Watch(self.shared.clone())
    }

    /// Stops in order: no new connection, and what is asked from now on is answered `stopping`;
    /// requests in work are finished and answered.
    /// What is not done within the grace time is cut off, so this returns within twice that time
    /// even when peers hang.
    pub fn stop(&mut self) {
        self.stop_cutting(|| {});
    }

    /// As `stop`; when the grace time is over, `cut` is to end what requests wait for elsewhere.
    pub fn stop_cutting(&mut self, cut: impl FnOnce()) {
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
            cut();
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
    let mut is_failing = false;
    loop {
        let accepted = listener.accept();
        if shared.is_stopping() {
            return;
        }
        match accepted {
            Ok((stream, peer)) => {
                is_failing = false;
                admit(stream, peer, shared, service);
            }
            Err(error) => {
                // Out of file descriptors, most likely: others end, so a moment's wait is a cure.
                if !is_failing {
                    log::warn!("connections cannot be accepted, trying on error={error}");
                }
                is_failing = true;
                let connections = shared.lock();
                let wait = Duration::from_millis(100);
                drop(shared.changed.wait_timeout_while(connections, wait, |c| !c.stopping));
            }
        }
    }
}

/// Gives the connection its thread, or tells it that there is no room.
fn admit(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>, service: &Arc<dyn Service>) {
    let stream = Arc::new(stream);
    let Some(slot) = Slot::claim(shared, &stream) else {
        return refuse_aside(stream, shared);
    };
    let (service, for_thread) = (service.clone(), stream.clone());
    let spawned = connection_thread(&shared.limits)
        .spawn(move || serve_connection(ServerConnection::new(for_thread, peer, slot), &*service));
    if let Err(error) = spawned {
        log::warn!("no thread for a connection peer={peer} error={error}");
        let why = "the server cannot start a thread for this connection";
        // In the accept loop's own time: short of threads, it had better not go on at full speed.
        refuse(&stream, why, Duration::from_millis(100));
    }
}

fn connection_thread(limits: &Limits) -> thread::Builder {
    thread::Builder::new().name("connection".to_string()).stack_size(limits.stack_bytes)
}

/// Tells a connection for which there is no room, in a thread of its own if it can have one.
fn refuse_aside(stream: Arc<TcpStream>, shared: &Arc<Shared>) {
    let mut connections = shared.lock();
    if connections.stopping || connections.refusals >= MARGIN {
        return;
    }
    connections.refusals += 1;
    drop(connections);
    let refusal = Refusal(shared.clone());
    let spawned = connection_thread(&shared.limits).spawn(move || {
        let why = "the server has all the connections it takes";
        refuse(&stream, why, refusal.0.limits.farewell);
    });
    if let Err(error) = spawned {
        log::debug!("no thread for a refusal error={error}");
    }
}

fn refuse(stream: &TcpStream, why: &str, patience: Duration) {
    let reply = Outcome::<()>::Fault(Fault::new(FaultCode::Busy, why));
    let pace = Pace { base: patience, ..Pace::default() };
    if frame::write_message_within(stream, pace, &frame::encode(&reply), &[]).is_ok() {
        frame::say_farewell(stream, patience);
    }
}

/// A refusal under way, counted until it is over.
struct Refusal(Arc<Shared>);

impl Drop for Refusal {
    fn drop(&mut self) {
        self.0.lock().refusals -= 1;
    }
}

fn serve_connection(mut connection: ServerConnection, service: &dyn Service) {
    connection.set_nodelay();
    if catch_unwind(AssertUnwindSafe(|| service.serve(&mut connection))).is_err() {
        connection.admit_panic();
    }
    connection.say_farewell();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Node,
    Client,
}

/// A connection's place in the table, given back when it ends, however it ends.
struct Slot {
    number: u64,
    place: Option<Place>,
    shared: Arc<Shared>,
}

impl Slot {
    /// Lists a new connection; `None` when there is no room or the server stops.
    fn claim(shared: &Arc<Shared>, stream: &Arc<TcpStream>) -> Option<Slot> {
        let mut guard = shared.lock();
        let connections = &mut *guard;
        if connections.stopping {
            return None;
        }
        if connections.open.len() >= shared.limits.connections {
            let oldest = connections.new.pop_first()?;
            if let Some(stream) = connections.open.get(&oldest) {
                // Its thread wakes and leaves the table; until then the margin bears both.
                let _ = stream.shutdown(Shutdown::Both);
            }
            if connections.open.len() >= shared.limits.connections + MARGIN {
                return None;
            }
        }
        connections.next += 1;
        let number = connections.next;
        connections.open.insert(number, stream.clone());
        connections.new.insert(number);
        Some(Slot { number, place: None, shared: shared.clone() })
    }

    fn take_place(&mut self, is_node: bool) -> bool {
        let mut connections = self.shared.lock();
        let limits = &self.shared.limits;
        let wanted = if is_node { Place::Node } else { Place::Client };
        if self.place == Some(wanted) {
            return true;
        }
        let for_clients = limits.connections.saturating_sub(limits.node_connections);
        if wanted == Place::Client && connections.clients >= for_clients {
            return false;
        }
        connections.clients += usize::from(wanted == Place::Client);
        connections.clients -= usize::from(self.place == Some(Place::Client));
        connections.new.remove(&self.number);
        self.place = Some(wanted);
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut connections = self.shared.lock();
        connections.open.remove(&self.number);
        connections.new.remove(&self.number);
        connections.clients -= usize::from(self.place == Some(Place::Client));
        self.shared.changed.notify_all();
    }
}
