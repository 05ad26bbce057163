//! Making further copies: chunks go from here to other nodes, to all targets at once. A target that
//! fails is reported, and the main server names another.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::causes::with_causes;
use crate::ids::{Address, ChunkId, NodeId};
use crate::token::Token;
use crate::wire::connection::Dialing;
use crate::wire::node_to_main::{DuplicatedChunk, FailedTarget};
use crate::wire::to_node::{Store, StoreChunk};
use crate::wire::{CallError, Connection, Hello, Outcome, Role};

use super::batch::Destination;
use super::shared::Shared;
use crate::wire::{Dialled, Sockets};

/// How often further targets are tried for the same chunks.
const ROUNDS: usize = 4;
/// Payloads up to this size fit into the sockets' buffers, so that sending to one target does not
/// hold up the next.
const SMALL_BYTES: usize = 64 * 1024;
/// Idle connections that are kept, for each node and in all.
const IDLE_PER_PEER: usize = 4;
const IDLE_IN_ALL: usize = 64;
/// The most bytes of a reason that goes to the main server.
const MAX_REASON_BYTES: usize = 200;

/// A chunk that is to be on other nodes too.
pub(super) struct Outgoing<'a> {
    pub id: ChunkId,
    pub bytes: &'a [u8],
    /// With which it came here, or with which the order to copy it came.
    pub token: Token,
    /// Where it is to go; empty once it is settled.
    pub destinations: Vec<Destination>,
    /// Where it is durable.
    pub done: Vec<NodeId>,
}

/// Connections to other nodes.
#[derive(Debug)]
pub(super) struct Peers {
    dialing: Dialing,
    sockets: Arc<Sockets>,
    /// Held for memory only.
    idle: Mutex<HashMap<Address, Vec<Dialled>>>,
}

impl Peers {
    pub fn new(insecure_plaintext: bool, sockets: Arc<Sockets>) -> Peers {
        let dialing = Dialing {
            connect_timeout: Duration::from_secs(2),
            hello_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            insecure_plaintext,
        };
        Peers { dialing, sockets, idle: Mutex::default() }
    }

    fn take(&self, address: &Address) -> Option<Dialled> {
        self.lock().get_mut(address)?.pop()
    }

    fn give_back(&self, connection: Dialled) {
        let mut idle = self.lock();
        if idle.values().map(Vec::len).sum::<usize>() < IDLE_IN_ALL {
            let own = idle.entry(connection.address().clone()).or_default();
            if own.len() < IDLE_PER_PEER {
                own.push(connection);
            }
        }
    }

    fn dial(&self, address: &Address) -> Result<Dialled, CallError> {
        self.sockets.open(address, &self.dialing, &Hello::new(Role::Node))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Address, Vec<Dialled>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends each chunk to its destinations, and to those that are named for the ones that fail.
/// Returns when all are done, or nothing more can be done now.
pub(super) fn duplicate(shared: &Shared, chunks: &mut [Outgoing<'_>]) {
    for _ in 0..ROUNDS {
        let failed = fan_out(shared, chunks);
        let mut settled = Vec::new();
        let (mut troubled, mut reports) = (Vec::new(), Vec::new());
        for (at, (chunk, failed)) in chunks.iter_mut().zip(failed).enumerate() {
            if std::mem::take(&mut chunk.destinations).is_empty() {
                continue;
            }
            let is_settled = failed.is_empty();
            let report =
                DuplicatedChunk { token: chunk.token.clone(), done: chunk.done.clone(), failed };
            if is_settled {
                settled.push(report);
            } else {
                troubled.push(at);
                reports.push(report);
            }
        }
        shared.confirmer.note(settled);
        if reports.is_empty() {
            return;
        }
        let answers = shared.confirmer.report(reports, shared.limits.confirm_patience);
        for (at, answer) in troubled.into_iter().zip(answers) {
            match answer {
                Ok(further) => chunks[at].destinations = further,
                Err(fault) => log::debug!("no further targets chunk={} {fault}", chunks[at].id),
            }
        }
        if chunks.iter().all(|chunk| chunk.destinations.is_empty()) {
            return;
        }
    }
}

/// Everything that goes to one node.
struct Group {
    node: NodeId,
    address: Address,
    /// Index of the chunk, and the token for this node.
    items: Vec<(usize, Token)>,
}

/// A message that is under way to a node.
struct Started {
    connection: Dialled,
    /// The connection was idle before, and may turn out to be dead.
    is_reused: bool,
}

/// One round, to all nodes at once. For each chunk what failed; `done` has what went well.
fn fan_out(shared: &Shared, chunks: &mut [Outgoing<'_>]) -> Vec<Vec<FailedTarget>> {
    let groups = grouped(chunks);
    let sent: Vec<Vec<Result<(), String>>> = send_all(&shared.peers, &groups, chunks);
    let mut failed: Vec<Vec<FailedTarget>> = chunks.iter().map(|_| Vec::new()).collect();
    for (group, outcomes) in groups.into_iter().zip(sent) {
        for ((at, _), outcome) in group.items.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => chunks[at].done.push(group.node),
                Err(mut why) => {
                    let id = chunks[at].id;
                    log::warn!("duplication failed chunk={id} target={} error={why}", group.node);
                    while why.len() > MAX_REASON_BYTES {
                        why.pop();
                    }
                    failed[at].push(FailedTarget { node: group.node, why });
                }
            }
        }
    }
    failed
}

fn grouped(chunks: &[Outgoing<'_>]) -> Vec<Group> {
    let mut groups: BTreeMap<NodeId, Group> = BTreeMap::new();
    for (at, chunk) in chunks.iter().enumerate() {
        for Destination { node, address, token } in &chunk.destinations {
            let group = groups.entry(*node).or_insert_with(|| Group {
                node: *node,
                address: address.clone(),
                items: Vec::new(),
            });
            group.items.push((at, token.clone()));
        }
    }
    groups.into_values().collect()
}

fn send_all(
    peers: &Peers,
    groups: &[Group],
    chunks: &[Outgoing<'_>],
) -> Vec<Vec<Result<(), String>>> {
    let bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    if groups.len() <= 1 || bytes <= SMALL_BYTES {
        // All are on their way before the first answer is waited for.
        let started: Vec<_> = groups.iter().map(|group| peers.start(group, chunks)).collect();
        let pairs = groups.iter().zip(started);
        return pairs.map(|(group, started)| peers.finish(group, chunks, started)).collect();
    }
    let send = |group| peers.finish(group, chunks, peers.start(group, chunks));
    thread::scope(|scope| {
        let (first, others) = groups.split_first().expect("there are at least two");
        let spawn = |group| {
            let builder = thread::Builder::new().name("forward".to_string()).stack_size(256 * 1024);
            (group, builder.spawn_scoped(scope, move || send(group)))
        };
        let others: Vec<_> = others.iter().map(spawn).collect();
        let mut sent = vec![send(first)];
        for (group, thread) in others {
            sent.push(match thread {
                Ok(thread) => thread.join().unwrap_or_else(|_| {
                    vec![Err("the forwarding thread panicked".to_string()); group.items.len()]
                }),
                // No more threads just now: then one after the other.
                Err(_) => send(group),
            });
        }
        sent
    })
}

impl Peers {
    /// Sends the group's `store`, on an idle connection if there is one that takes it.
    fn start(&self, group: &Group, chunks: &[Outgoing<'_>]) -> Result<Started, CallError> {
        while let Some(mut connection) = self.take(&group.address) {
            if send(&mut connection, group, chunks).is_ok() {
                return Ok(Started { connection, is_reused: true });
            }
        }
        self.start_anew(group, chunks)
    }

    fn start_anew(&self, group: &Group, chunks: &[Outgoing<'_>]) -> Result<Started, CallError> {
        let mut connection = self.dial(&group.address)?;
        send(&mut connection, group, chunks)?;
        Ok(Started { connection, is_reused: false })
    }

    /// Takes the answer. Where an idle connection was dead, everything is sent again on a new one:
    /// storing twice is storing once.
    fn finish(
        &self,
        group: &Group,
        chunks: &[Outgoing<'_>],
        started: Result<Started, CallError>,
    ) -> Vec<Result<(), String>> {
        let received =
            started.and_then(|mut started| match started.connection.receive::<Store>() {
                Err(CallError::Closed(_) | CallError::Broken { .. }) if started.is_reused => {
                    let mut started = self.start_anew(group, chunks)?;
                    let reply = started.connection.receive::<Store>()?;
                    Ok((started.connection, reply))
                }
                reply => reply.map(|reply| (started.connection, reply)),
            });
        let count = group.items.len();
        match received {
            Ok((_, reply)) if reply.chunks.len() != count => {
                vec![Err(format!("{} answers for {count} chunks", reply.chunks.len())); count]
            }
            Ok((connection, reply)) => {
                self.give_back(connection);
                let outcomes = reply.chunks.into_vec().into_iter().map(|outcome| match outcome {
                    Outcome::Ok(_) => Ok(()),
                    Outcome::Fault(fault) => Err(fault.message),
                });
                outcomes.collect()
            }
            Err(error) => vec![Err(with_causes(&error)); count],
        }
    }
}

fn send(
    connection: &mut Connection,
    group: &Group,
    chunks: &[Outgoing<'_>],
) -> Result<(), CallError> {
    let items = group.items.iter().map(|(at, token)| {
        let Outgoing { id, bytes, .. } = &chunks[*at];
        StoreChunk { id: *id, length: bytes.len() as u32, token: token.clone() }
    });
    let request = Store { chunks: items.collect() };
    let payload: Vec<&[u8]> = group.items.iter().map(|(at, _)| chunks[*at].bytes).collect();
    connection.send(&request, &payload)
}
