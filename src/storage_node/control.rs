//! The node's life with the main server: one thread, one connection, over which it returns, compares
//! its inventory, and sends heartbeats, for as long as the node runs.

use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::causes::with_causes;
use crate::clock::Moment;
use crate::ids::Incarnation;
use crate::wire::node_to_main::{
    Action, AddMeReply, DropMe, Heartbeat, HeartbeatReply, Order, Stored,
};
use crate::wire::{CallError, Connection, FaultCode, MAX_CONFIRMATIONS};

use super::error::NodeError;
use super::inventory;
use super::join::{self, AddMeError};
use super::shared::Shared;
use crate::wire::Dialled;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long what is done may wait for what is not, before the main server hears of it.
const ORDERS_PAUSE: Duration = Duration::from_millis(500);
/// How much longer than it said the main server may hold a heartbeat back.
const GRACE: Duration = Duration::from_secs(15);

/// How often it is kept on disk how far the main server's books are. What a main server did in this
/// time before its end, and a node that ends with it, the node cannot miss in a copy of its catalog.
const SAVE_HEARD_EVERY: Duration = Duration::from_secs(60);

/// How long the main server may take over one answer of a comparison.
const COMPARISON_PATIENCE: Duration = Duration::from_secs(60);
/// A comparison of a node that is alive is followed by none for so many times as long as it took, and
/// for at most so long: it holds confirmations up, and those that wait too long for it ask for the
/// next.
const COMPARISON_REST: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(120);
/// The same after one that failed: what it has changed is to be put right soon.
const REST_AFTER_FAULT: Duration = Duration::from_secs(5);

/// What came of the first try to reach the main server.
#[derive(Debug)]
pub(super) enum FirstContact {
    /// The node's copies count.
    Alive,
    /// It is tried again, and reads go on meanwhile.
    Unreachable(CallError),
    Fatal(NodeError),
}

/// Why a control connection ended.
enum End {
    Stopped,
    Lost(CallError),
    Fatal(NodeError),
}

impl From<CallError> for End {
    fn from(error: CallError) -> End {
        match error {
            CallError::Fault(fault) if fault.code == FaultCode::Left => {
                End::Fatal(NodeError::Left(fault.message))
            }
            error => End::Lost(error),
        }
    }
}

impl From<AddMeError> for End {
    fn from(error: AddMeError) -> End {
        match error {
            AddMeError::Call(error) => error.into(),
            AddMeError::Fatal(error) => End::Fatal(error),
        }
    }
}

struct Control<'a> {
    shared: &'a Shared,
    /// The start of the main server with which the inventory was compared.
    compared_with: Option<Incarnation>,
    interval: Duration,
    /// When it is next kept on disk how far the main server's books are.
    save_heard_at: Moment,
    /// Until then nothing is compared again.
    rest_until: Moment,
    /// Until it was used once.
    first: Option<Sender<FirstContact>>,
    is_alive: bool,
}

/// The body of the control thread. `joined` is the connection of a join, where there was one.
pub(super) fn run(
    shared: &Shared,
    joined: Option<(Dialled, AddMeReply)>,
    first: Sender<FirstContact>,
) {
    let mut control = Control {
        shared,
        compared_with: None,
        interval: Duration::from_secs(5),
        save_heard_at: shared.clock.now() + SAVE_HEARD_EVERY,
        rest_until: shared.clock.now(),
        first: Some(first),
        is_alive: false,
    };
    control.live(joined);
    shared.save_heard();
}

impl Control<'_> {
    /// Until the node stops, or cannot go on.
    fn live(&mut self, mut joined: Option<(Dialled, AddMeReply)>) {
        let shared = self.shared;
        let mut pause = FIRST_PAUSE;
        loop {
            let end = match self.session(joined.take()) {
                Err(end) => end,
                Ok(never) => match never {},
            };
            if std::mem::take(&mut self.is_alive) {
                pause = FIRST_PAUSE;
            }
            match end {
                End::Stopped => return,
                End::Fatal(error) => return self.give_up(error),
                End::Lost(_) if shared.stops_within(Duration::ZERO) => return,
                End::Lost(error) => self.lost(error, pause == FIRST_PAUSE),
            }
            shared.payloads.trim();
            shared.reads.trim();
            if shared.stops_within(pause) {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn lost(&mut self, error: CallError, is_news: bool) {
        let level = if is_news { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "main server not reached error={}", with_causes(&error));
        self.tell(FirstContact::Unreachable(error));
    }

    fn give_up(&mut self, error: NodeError) {
        log::error!("the node cannot go on error={}", with_causes(&error));
        self.shared.give_up(error, self.first.take());
    }

    fn tell(&mut self, contact: FirstContact) {
        if let Some(first) = self.first.take() {
            // Nobody waits any more when the start was given up.
            let _ = first.send(contact);
        }
    }

    /// One connection, to its end.
    fn session(
        &mut self,
        joined: Option<(Dialled, AddMeReply)>,
    ) -> Result<std::convert::Infallible, End> {
        let (mut connection, mut reply) = match joined {
            Some((connection, reply)) => (connection, Some(reply)),
            None => (self.shared.dial_control()?, None),
        };
        let Some(member) = self.shared.member() else { return Err(End::Stopped) };
        self.check_cluster(&connection, member.membership.cluster)?;
        let main = connection.hello().incarnation;
        if self.compared_with.is_none() || self.compared_with != main {
            // Whatever comes of it: another main server may be on its way to be obeyed, and the one
            // before must be asked again whether it is.
            self.compared_with = None;
            self.shared.orders.end_removals();
            let reply = match reply.take() {
                Some(reply) => reply,
                None => {
                    let Some(_adding) = self.shared.parting.begin_adding() else {
                        return Err(End::Stopped);
                    };
                    join::return_to(self.shared, &mut connection)?
                }
            };
            self.interval = Duration::from_millis(reply.interval_ms);
            self.shared.confirmer.tell_only(reply.incarnation);
            self.confirm_again(&mut connection)?;
            // What goes unheard from here on may be held too late for what follows.
            self.shared.confirmer.take_unheard();
            inventory::compare(&mut connection, &member, &self.shared.confirmer)?;
            self.compared_with = Some(reply.incarnation);
        }
        drop(member);
        log::info!("alive at the main server main={}", connection.address());
        self.is_alive = true;
        self.shared.confirmer.nudge();
        self.tell(FirstContact::Alive);
        loop {
            self.heartbeat(&mut connection)?;
            self.compare_again(&mut connection)?;
        }
    }

    /// Has copies counted that were told to be lost and are held again, and those of which the main
    /// server may not have heard.
    fn compare_again(&mut self, connection: &mut Connection) -> Result<(), End> {
        let shared = self.shared;
        let began = shared.clock.now();
        if began < self.rest_until {
            return Ok(());
        }
        let are_back = shared.aside.take_back();
        if !shared.confirmer.take_unheard() && !are_back {
            return Ok(());
        }
        let Some(member) = shared.member() else { return Err(End::Stopped) };
        connection.set_answer_timeout(COMPARISON_PATIENCE);
        let compared = inventory::compare(connection, &member, &shared.confirmer);
        let now = shared.clock.now();
        let longest = if compared.is_ok() { LONGEST_REST } else { REST_AFTER_FAULT };
        self.rest_until = now + (now.since(began) * COMPARISON_REST).min(longest);
        compared.map_err(|error| {
            shared.aside.note_back();
            error.into()
        })
    }

    /// Tells a main server that started anew of the latest copies, of which it may have lost the
    /// confirmation. Before the inventory, which would take them for copies that nobody knows.
    fn confirm_again(&self, connection: &mut Connection) -> Result<(), CallError> {
        // What is removed from now on is acknowledged by this same thread, after these.
        let held = self.shared.recent.copies().into_iter().filter(|copy| self.shared.holds(copy));
        let tokens: Vec<_> = held.map(|copy| copy.token).collect();
        for tokens in tokens.chunks(MAX_CONFIRMATIONS) {
            // Where else they are to go, the main server finds out by itself once all nodes are back.
            match connection.call(&Stored { tokens: tokens.to_vec().into() }) {
                Ok(_) => log::info!("copies confirmed again chunks={}", tokens.len()),
                Err(CallError::Fault(fault)) if !fault.retryable => {
                    log::warn!("copies not confirmed again chunks={} {fault}", tokens.len());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Nothing is said to the main server of another cluster.
    fn check_cluster(
        &self,
        connection: &Connection,
        own: crate::ids::ClusterId,
    ) -> Result<(), End> {
        match connection.hello().cluster {
            Some(found) if found != own => {
                let main = connection.address().clone();
                let error = NodeError::OtherCluster { main, found, own };
                let (address, what) = (connection.address().clone(), error.to_string());
                Err(End::Lost(CallError::BadReply { address, what }))
            }
            _ => Ok(()),
        }
    }

    /// One heartbeat and what its answer brings.
    fn heartbeat(&mut self, connection: &mut Connection) -> Result<(), End> {
        let shared = self.shared;
        let Some(member) = shared.member() else { return Err(End::Stopped) };
        let request = Heartbeat {
            incarnation: shared.incarnation,
            space: shared.space(&member),
            transfers: shared.counters.transfers(),
            received_bytes: shared.counters.client_bytes(),
            newest_key: shared.keys.newest(),
            acknowledged: shared.orders.done().into(),
            failed: member.failure(),
            damaged_copies: shared.counters.damaged() + shared.counters.unreadable(),
            scrub: shared.scrub.state(),
            unadopted: !shared.is_adopted(),
            time: Some(shared.clock.wall()),
            // Looked up after what is acknowledged.
            oldest_dial: shared.confirmer.dial(),
        };
        drop(member);
        connection.set_answer_timeout(self.interval + GRACE);
        let sent = Instant::now();
        let reply = match connection.call(&request) {
            Ok(reply) => reply,
            Err(CallError::Fault(fault)) if fault.code == FaultCode::StaleDirectory => {
                return Err(End::Fatal(shared.identity.stale()));
            }
            Err(error) => {
                // It wants the node added anew, perhaps because a person has adopted it since.
                if error.fault().is_some() {
                    self.compared_with = None;
                }
                return Err(error.into());
            }
        };
        shared.orders.forget(&request.acknowledged);
        let brought_news = self.take_in(reply)?;
        shared.recent.trim();
        shared.payloads.trim();
        shared.reads.trim();
        // An answer that was not held back and brings nothing new must not make us ask at once
        // again: orders under way, say, which the main server repeats.
        let due = (self.interval / 2).saturating_sub(sent.elapsed());
        // Nor is the next one sent before there is something done to say: it may be held back.
        let is_over = match shared.orders.has_open() {
            true => shared.orders.wait_all_done(due.min(ORDERS_PAUSE)),
            false => !brought_news && !due.is_zero() && shared.orders.wait_done(due),
        };
        if is_over { Err(End::Stopped) } else { Ok(()) }
    }

    /// True if there is something to say about it at once.
    fn take_in(&mut self, reply: HeartbeatReply) -> Result<bool, End> {
        let shared = self.shared;
        self.interval = Duration::from_millis(reply.interval_ms);
        shared.time.tell(reply.time);
        shared.journal.take_head(reply.journal, self.interval, shared.is_adopted());
        let newest = shared.keys.newest();
        if let Err(error) = shared.keys.announce(&reply.keys, reply.time) {
            // Not acknowledged, so not used: the old keys go on.
            log::error!("new token keys could not be kept error={}", with_causes(&error));
        }
        let Some(member) = shared.member() else { return Err(End::Stopped) };
        let orders = reply.orders.into_vec();
        if shared.is_adopted() {
            shared.identity.hear(reply.mark);
            // Whoever deletes by the word of these books must not come to obey older ones.
            let removes = |order: &Order| matches!(order.action, Action::Remove { .. });
            let now = shared.clock.now();
            if now >= self.save_heard_at || orders.iter().any(removes) {
                shared.save_heard();
                self.save_heard_at = now + SAVE_HEARD_EVERY;
            }
        }
        let any_new_order = shared.orders.take(shared, member.membership.node, orders, reply.nodes);
        Ok(any_new_order || shared.keys.newest() != newest)
    }
}

/// Says goodbye, so that the main server need not find out by silence. True if it heard.
pub(super) fn part(shared: &Shared) -> bool {
    shared.parting.begin(shared.limits.parting_patience);
    let goodbye = DropMe { back_in_s: Some(shared.back_in.as_secs()), ..DropMe::default() };
    let parted = shared.dial_to_part().and_then(|mut connection| {
        connection.set_answer_timeout(shared.limits.parting_patience);
        connection.call(&goodbye)
    });
    match &parted {
        Ok(_) => log::info!("parted from the main server"),
        Err(error) => log::warn!("the main server heard no goodbye error={}", with_causes(error)),
    }
    parted.is_ok()
}
