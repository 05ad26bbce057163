//! One connection: who is at its other end, and what they may ask.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::Main;
use super::bell::Bell;
use super::node::Control;
use super::nodes::NotWorking;
use crate::catalog::AccountRecord;
use crate::ids::{Incarnation, NodeId};
use crate::server::{ServerConnection, Service};
use crate::wire::to_main::ToMain;
use crate::wire::{Fault, FaultCode, Hello, HelloReply, Message, Role};

/// Who is at the other end.
enum Peer {
    /// Nobody who said a good `hello` yet.
    Unknown,
    Client(AccountRecord),
    /// A node that has yet to join.
    Joining,
    /// A node that proved its number. `incarnation` is the one that was registered last when this
    /// connection said hello, or the one that was added on it.
    Node {
        id: NodeId,
        incarnation: Option<Incarnation>,
        dial: Option<u64>,
    },
}

/// A connection and what is known of its peer.
pub(super) struct Session<'a> {
    pub(super) main: &'a Main,
    pub(super) connection: &'a mut ServerConnection,
    pub(super) number: u64,
    peer: Peer,
    control: Option<Control>,
    /// When the request that is being served was read.
    since: Instant,
}

impl Service for Main {
    fn serve(&self, connection: &mut ServerConnection) {
        let number = self.next_session();
        let mut session = Session {
            main: self,
            connection,
            number,
            peer: Peer::Unknown,
            control: None,
            since: Instant::now(),
        };
        session.run();
    }
}

/// However the session ends, also in a panic, its node is suspect from then on.
impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Peer::Node { id, .. } = self.peer
            && self.main.nodes.session_over(id, self.number)
        {
            self.main.wake_upkeep();
        }
    }
}

impl Session<'_> {
    fn run(&mut self) {
        while let Some(head) = self.connection.next_request() {
            self.since = Instant::now();
            let (json_bytes, payload_bytes) = (head.json_bytes, head.payload_bytes);
            log::trace!("recv json_bytes={json_bytes} payload_bytes={payload_bytes}");
            let parsed = ToMain::parse(self.connection.request_json());
            self.connection.shrink();
            let goes_on = match parsed {
                Ok(request) => self.answer(request),
                Err(error) => self.reply::<()>("unreadable", Err(error.into())),
            };
            if !goes_on {
                return;
            }
        }
    }

    fn answer(&mut self, request: ToMain) -> bool {
        match request {
            ToMain::Hello(hello) => self.hello(&hello),
            ToMain::Allocate(r) => self.change(r, Main::allocate),
            ToMain::Locate(r) => self.client(r, Main::locate),
            ToMain::Open(r) => self.client(r, Main::open),
            ToMain::Stage(r) => self.change(r, Main::stage),
            ToMain::Commit(r) => self.change(r, Main::commit),
            ToMain::Stat(r) => self.client(r, Main::stat),
            ToMain::ListDirectory(r) => self.client(r, Main::list),
            ToMain::MakeDirectory(r) => self.change(r, Main::make_directory),
            ToMain::Move(r) => self.change(r, Main::move_entry),
            ToMain::Remove(r) => self.change(r, Main::remove),
            ToMain::BadCopy(r) => self.client(r, Main::bad_copy),
            ToMain::Invite(r) => self.client(r, Main::invite),
            ToMain::Status(r) => self.client(r, Main::status),
            ToMain::Drain(r) => self.client(r, Main::drain),
            ToMain::Forget(r) => self.client(r, Main::forget),
            ToMain::Adopt(r) => self.client(r, Main::adopt),
            ToMain::Explain(r) => self.client(r, Main::explain),
            ToMain::WhatIf(r) => self.client(r, Main::what_if),
            ToMain::SetCopies(r) => self.change(r, Main::set_copies),
            ToMain::ListRemoved(r) => self.client(r, Main::list_removed),
            ToMain::Undelete(r) => self.change(r, Main::undelete),
            ToMain::AddMe(r) => self.add_me(&r),
            ToMain::DropMe(r) => self.node(r, Main::drop_me),
            ToMain::Heartbeat(r) => self.heartbeat(r),
            ToMain::Stored(r) => self.node(r, Main::stored),
            ToMain::Duplicated(r) => self.node(r, Main::duplicated),
            ToMain::Lost(r) => self.node(r, Main::lost),
            ToMain::Inventory(r) => self.node(r, Main::inventory),
            ToMain::Holdings(r) => self.node(r, Main::holdings),
            ToMain::Compared(r) => self.node(r, Main::compared),
            ToMain::Follow(r) => self.follow(&r),
        }
    }

    fn hello(&mut self, hello: &Hello) -> bool {
        let greeted = hello.agree().and_then(|version| {
            if !matches!(self.peer, Peer::Unknown) {
                return Err(Fault::new(FaultCode::Invalid, "hello was said on this connection"));
            }
            self.peer = self.recognise(hello)?;
            Ok(version)
        });
        if greeted.is_ok() {
            let agent: String = hello.agent.chars().take(128).collect();
            log::debug!(
                "hello role={:?} agent={agent:?} peer={}",
                hello.role,
                self.connection.peer()
            );
        }
        let is_known = greeted.is_ok();
        if is_known && !self.take_place() {
            let why = "the main server has all the connections that it takes";
            self.reply::<()>(Hello::NAME, Err(Fault::new(FaultCode::Busy, why)));
            return false;
        }
        let main = self.main;
        self.reply(Hello::NAME, greeted.map(|version| main.hello_reply(version)))
    }

    /// Who says so, if it is true.
    fn recognise(&self, hello: &Hello) -> Result<Peer, Fault> {
        let denied = |why: &str| Err(Fault::new(FaultCode::Denied, why));
        match (hello.role, &hello.key, hello.node, &hello.secret) {
            (Role::Client, Some(key), ..) => {
                let account = self.main.catalog.account_by_key(&key.fingerprint());
                match account.map_err(|error| self.main.fault(error))? {
                    Some(account) => Ok(Peer::Client(account)),
                    None => denied("this key opens no account here"),
                }
            }
            (Role::Client, None, ..) => denied("a client says hello with the key of its account"),
            (Role::Node, _, None, None) => Ok(Peer::Joining),
            (Role::Node, _, Some(id), Some(secret)) => {
                match self.main.nodes.authenticate(id, secret) {
                    Some(_) if self.main.nodes.has_left(id) => Err(NotWorking::Left(id).into()),
                    Some(registered) => {
                        let incarnation = hello.incarnation.or(registered);
                        Ok(Peer::Node { id, incarnation, dial: hello.dial })
                    }
                    None => denied("this is not the secret of a node of this number here"),
                }
            }
            (Role::Node, ..) => denied("a node says hello with its number and its secret"),
            (Role::Main, ..) => denied("a main server has nothing to ask here"),
        }
    }

    /// One who has yet to join has no place: it is the first to go when others need room.
    fn take_place(&mut self) -> bool {
        match self.peer {
            Peer::Unknown | Peer::Joining => true,
            Peer::Client(_) => self.connection.take_place(false),
            Peer::Node { .. } => self.connection.take_place(true),
        }
    }

    /// Serves a request that clients may send.
    fn client<M: Message>(
        &mut self,
        request: M,
        serve: fn(&Main, &AccountRecord, M) -> Result<M::Reply, Fault>,
    ) -> bool {
        let main = self.main;
        let result = match (&self.peer, main.door.enter()) {
            (Peer::Client(account), Some(_inside)) => serve(main, account, request),
            (Peer::Client(_), None) => {
                Err(Fault::new(FaultCode::Stopping, "the main server is stopping"))
            }
            (other, _) => Err(not_for(other, "a client's")),
        };
        self.reply(M::NAME, result)
    }

    /// Serves a request of a client that changes the catalog.
    fn change<M: Message>(
        &mut self,
        request: M,
        serve: fn(&Main, &AccountRecord, M) -> Result<M::Reply, Fault>,
    ) -> bool {
        if matches!(self.peer, Peer::Client(_)) {
            self.main.journal.wait_for_keepers();
        }
        self.client(request, serve)
    }

    /// Serves a request that nodes at work may send.
    fn node<M: Message>(
        &mut self,
        request: M,
        serve: fn(&Main, NodeId, M) -> Result<M::Reply, Fault>,
    ) -> bool {
        let oldest_dial = match self.peer {
            Peer::Node { id, incarnation, dial } => {
                if let Some(dial) = dial {
                    self.main.nodes.heard_on(id, incarnation, dial);
                }
                self.main.nodes.oldest_dial(id)
            }
            _ => Arc::default(),
        };
        let oldest_dial = oldest_dial.read().unwrap_or_else(PoisonError::into_inner);
        let id = match self.working_node().and_then(|id| self.check_heard(id, *oldest_dial)) {
            Ok(id) => id,
            Err(fault) => return self.reply::<()>(M::NAME, Err(fault)) && self.is_current(),
        };
        self.main.nodes.heard(id, self.number);
        let result = serve(self.main, id, request);
        drop(oldest_dial);
        self.main.nodes.heard(id, self.number);
        self.reply(M::NAME, result)
    }

    /// Fails on a connection that the node has given up, on which something may have lain unread: the
    /// node may have said and done other things since.
    fn check_heard(&self, id: NodeId, oldest_dial: u64) -> Result<NodeId, Fault> {
        let is_heard = match (&self.control, &self.peer) {
            (Some(_), _) => self.main.nodes.is_control(id, self.number),
            (None, Peer::Node { dial: Some(dial), .. }) => *dial >= oldest_dial,
            (None, _) => true,
        };
        let why = "the node has given this connection up";
        if is_heard { Ok(id) } else { Err(Fault::new(FaultCode::Busy, why)) }
    }

    pub(super) fn working_node(&self) -> Result<NodeId, Fault> {
        match self.peer {
            Peer::Node { id, incarnation, .. } => {
                match self.main.nodes.check_working(id, incarnation) {
                    Ok(()) => Ok(id),
                    // Told by a new connection of the same node, which need not be a stale one.
                    Err(error @ NotWorking::Outdated(_)) => {
                        Err(Fault::new(FaultCode::Busy, error.to_string()))
                    }
                    Err(error) => Err(error.into()),
                }
            }
            ref other => Err(not_for(other, "a node's")),
        }
    }

    /// False for a connection of an earlier start of a node, which must say hello again, and for
    /// one of a node that was struck off.
    pub(super) fn is_current(&self) -> bool {
        let Peer::Node { id, incarnation, .. } = self.peer else { return true };
        let checked = self.main.nodes.check_working(id, incarnation);
        !matches!(checked, Err(NotWorking::Outdated(_) | NotWorking::Left(_)))
    }

    /// The node at the other end, when it has proved to be one, at work or not.
    pub(super) fn known_node(&self) -> Result<Option<NodeId>, Fault> {
        match &self.peer {
            Peer::Node { id, .. } => Ok(Some(*id)),
            Peer::Joining => Ok(None),
            other => Err(not_for(other, "a node's")),
        }
    }

    /// From now on, the peer is this start of this node. `false` when there is no place for it.
    pub(super) fn becomes(&mut self, id: NodeId, incarnation: Incarnation) -> bool {
        self.peer = Peer::Node { id, incarnation: Some(incarnation), dial: None };
        self.connection.take_place(true)
    }

    /// What another thread needs to wake this session.
    pub(super) fn control(&mut self) -> Result<Control, Fault> {
        if let Some(control) = &self.control {
            return Ok(control.clone());
        }
        let bell: Arc<Bell> = Bell::new().map_err(|error| {
            log::warn!("no file descriptors for a control connection error={error}");
            Fault::new(FaultCode::Busy, "the main server is out of file descriptors")
        })?;
        let control = Control { session: self.number, bell };
        self.control = Some(control.clone());
        Ok(control)
    }

    /// Answers and logs. `false` when the connection is over.
    pub(super) fn reply<T: serde::Serialize>(
        &mut self,
        name: &str,
        result: Result<T, Fault>,
    ) -> bool {
        self.main.requests.count(name, result.as_ref().err().map(|fault| fault.code));
        if log::log_enabled!(log::Level::Debug) {
            let (peer, ms) = (self.connection.peer(), self.since.elapsed().as_millis());
            match &result {
                Ok(_) => log::debug!("{name} session={} peer={peer} ok ms={ms}", self.number),
                Err(fault) => log::debug!(
                    "{name} session={} peer={peer} fault={:?} why={:?} ms={ms}",
                    self.number,
                    fault.code,
                    fault.message
                ),
            }
        }
        self.connection.reply(result, &[])
    }
}

fn not_for(peer: &Peer, whose: &str) -> Fault {
    match peer {
        Peer::Unknown => Fault::new(FaultCode::HelloFirst, "the first request must be hello"),
        Peer::Joining => {
            Fault::new(FaultCode::Denied, "a node that has not joined can only ask to be added")
        }
        Peer::Client(_) | Peer::Node { .. } => {
            Fault::new(FaultCode::Denied, format!("this is {whose} request"))
        }
    }
}

impl Main {
    fn hello_reply(&self, version: u32) -> HelloReply {
        HelloReply {
            version,
            agent: Hello::new(Role::Main).agent,
            cluster: Some(self.cluster),
            node: None,
            incarnation: Some(self.incarnation),
            time: self.clock.wall(),
        }
    }
}
