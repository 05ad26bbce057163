//! `add_me`: how a node comes.

use std::time::Duration;

use super::Main;
use super::fault::invalid;
use super::node::Control;
use super::session::Session;
use crate::catalog::{CatalogError, NodeRecord, NodeStart, Refusal};
use crate::ids::{BooksMark, NodeId};
use crate::wire::connection::Dialing;
use crate::wire::node_to_main::{AddMe, AddMeReply};
use crate::wire::{CallError, Connection, Fault, FaultCode, Hello, MAX_PREVIOUS, Message, Role};

/// The most bytes of a zone's name.
const MAX_ZONE_BYTES: usize = 64;
/// How long a node has to answer when the main server looks whether it can be reached.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

impl Session<'_> {
    /// Serves `add_me`. `false` when the connection is over.
    pub(super) fn add_me(&mut self, request: &AddMe) -> bool {
        let added = self.try_add(request);
        let is_over = added.as_ref().is_err_and(|fault| fault.code == FaultCode::Busy);
        self.reply(AddMe::NAME, added) && !is_over
    }

    fn try_add(&mut self, request: &AddMe) -> Result<AddMeReply, Fault> {
        let known = self.known_node()?;
        let control = self.control()?;
        self.main.check_add_me(request)?;
        let node = match known {
            Some(node) if self.main.nodes.authenticate(node, &request.secret).is_some() => node,
            Some(_) => return Err(Fault::new(FaultCode::Denied, "this is another node's secret")),
            None => self.main.join(request)?,
        };
        // A stale copy of a directory hears that it is one, wherever it says that it can be reached.
        self.main.check_fresh(node, request)?;
        self.main.check_reachable(node, request)?;
        let reply = self.main.add(node, control, request)?;
        if !self.becomes(node, request.incarnation) {
            return Err(Fault::new(FaultCode::Busy, "the main server has no place for a node"));
        }
        self.main.wake_upkeep();
        Ok(reply)
    }
}

impl Main {
    fn check_add_me(&self, request: &AddMe) -> Result<(), Fault> {
        if let Some(cluster) = request.cluster.filter(|&cluster| cluster != self.cluster) {
            let why =
                format!("the node belongs to cluster {cluster}, and this is {}", self.cluster);
            return Err(Fault::new(FaultCode::Denied, why));
        }
        let zone = &request.zone;
        if zone.len() > MAX_ZONE_BYTES || zone.chars().any(char::is_control) {
            let why =
                format!("a zone has at most {MAX_ZONE_BYTES} bytes and no control characters");
            return Err(invalid(why));
        }
        if request.previous.len() > MAX_PREVIOUS {
            return Err(invalid(format!("more than {MAX_PREVIOUS} previous incarnations")));
        }
        Ok(())
    }

    /// Numbers a new node. The invite comes first: without one, nobody makes this server dial.
    fn join(&self, request: &AddMe) -> Result<NodeId, Fault> {
        let invite = request.invite.as_ref().ok_or_else(|| {
            Fault::new(FaultCode::Denied, "a new node needs an invite to join this cluster")
        })?;
        let (invite, secret) = (invite.fingerprint(), request.secret.fingerprint());
        let joined = self.catalog.join_node(&invite, &secret, self.clock.wall());
        let id = joined.map_err(|error| self.fault(error))?;
        self.nodes.insert(NodeRecord {
            id,
            secret_fingerprint: secret,
            incarnation: None,
            address: None,
            zone: request.zone.clone(),
            offered_bytes: request.space.offered_bytes,
            key: None,
            standing: crate::catalog::Standing::Member,
        });
        log::info!("node joined node={id} addr={}", request.address);
        Ok(id)
    }

    /// Fails, without registering anything, where the registration would for a stale directory.
    fn check_fresh(&self, node: NodeId, request: &AddMe) -> Result<(), Fault> {
        let nodes = self.catalog.nodes().map_err(|error| self.fault(error))?;
        let registered = nodes.iter().find(|known| known.id == node).and_then(|n| n.incarnation);
        match registered {
            Some(last) if last != request.incarnation && !request.previous.contains(&last) => {
                Err(self.stale(node, request, Refusal::StaleDirectory(node).into()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What a node hears whose directory seems to be a stale copy: whose is the old one, a main
    /// server that does not know the start of one that the node saw last cannot tell.
    fn stale(&self, node: NodeId, request: &AddMe, error: CatalogError) -> Fault {
        match self.is_adopted(request) {
            Ok(true) => self.fault(error),
            Ok(false) => {
                self.strangers.note(node, request, Some(start_of(request)));
                estranged(node)
            }
            Err(error) => self.fault(error),
        }
    }

    fn is_adopted(&self, request: &AddMe) -> Result<bool, CatalogError> {
        match &request.main_incarnation {
            None => Ok(true),
            Some(seen) => {
                // A node that was told no mark saw nothing that these books could lack.
                self.catalog.knows_incarnation(seen, request.main_mark.unwrap_or(BooksMark(0)))
            }
        }
    }

    /// Dials the node where it says that clients and other nodes can reach it.
    fn check_reachable(&self, node: NodeId, request: &AddMe) -> Result<(), Fault> {
        let dialing = Dialing {
            connect_timeout: DIAL_TIMEOUT,
            hello_timeout: DIAL_TIMEOUT,
            answer_timeout: DIAL_TIMEOUT,
            insecure_plaintext: self.config.insecure_plaintext,
        };
        let unreachable = |why: String| Fault::new(FaultCode::Unreachable, why);
        let address = &request.address;
        let connection = Connection::open(address, &dialing, &Hello::new(Role::Main));
        let connection = connection.map_err(|error| match error {
            CallError::NotLoopback(_) => unreachable(format!(
                "{address} is not on the main server's machine, and the connection would not be \
                 encrypted; start the main server with --insecure-plaintext to allow that"
            )),
            error => unreachable(format!("the main server cannot reach the node: {error}")),
        })?;
        let there = connection.hello();
        let is_another = there.node.is_some_and(|number| number != node)
            || there.cluster.is_some_and(|cluster| cluster != self.cluster)
            || there.incarnation.is_some_and(|start| start != request.incarnation);
        match is_another {
            true => Err(unreachable(format!("another server answers at {address}"))),
            false => Ok(()),
        }
    }

    fn add(&self, node: NodeId, control: Control, request: &AddMe) -> Result<AddMeReply, Fault> {
        let is_adopted = self.is_adopted(request).map_err(|error| self.fault(error))?;
        self.catalog.start_node(node, &start_of(request)).map_err(|error| match error {
            CatalogError::Refused(Refusal::StaleDirectory(_)) => self.stale(node, request, error),
            error => self.fault(error),
        })?;
        self.note_adopted(node, request, is_adopted);
        self.nodes.start(node, control, request, is_adopted);
        self.journal.forgive(node);
        self.under_way().forgive(node);
        log::info!("node added node={node} addr={} zone={:?}", request.address, request.zone);
        Ok(AddMeReply {
            cluster: self.cluster,
            node,
            incarnation: self.incarnation,
            is_adopted,
            mark: Some(self.catalog.mark()),
            time: self.clock.wall(),
            keys: self.nodes.keys_for(node, None),
            interval_ms: self.nodes.interval().as_millis() as u64,
        })
    }
}

/// The start of the node's directory, as the catalog takes it.
fn start_of(request: &AddMe) -> NodeStart {
    NodeStart {
        previous: request.previous.clone(),
        incarnation: request.incarnation,
        address: request.address.clone(),
        zone: request.zone.clone(),
        offered_bytes: request.space.offered_bytes,
        highest_serial: request.highest_serial,
    }
}

/// What a node hears whose last start is unknown here, as is the main server that it saw last: this
/// catalog may be the stale one, so the node must neither be taken nor be told that it is over.
fn estranged(node: NodeId) -> Fault {
    log::error!("the catalog may be an old backup: a node knows of later starts node={node}");
    Fault::new(
        FaultCode::Internal,
        format!(
            "this main server does not know the start of a main server that node {node} saw last, or \
             not all of it: its catalog may be an old backup or a copy, and a person must decide which \
             to keep"
        ),
    )
}
