//! `heartbeat`: a sign of life, whose answer is held back until there are orders.

use std::time::{Duration, Instant};

use super::node::{Control, Purpose};
use super::session::Session;
use super::{Main, nodes::NotWorking};
use crate::ids::{KeyId, NodeId};
use crate::server::Woken;
use crate::wire::node_to_main::{Heartbeat, HeartbeatReply};
use crate::wire::to_main::Addresses;
use crate::wire::{Fault, FaultCode, Message};

/// How long the heartbeat of a node that has orders is held back.
const AT_WORK: Duration = Duration::from_millis(500);

impl Session<'_> {
    /// Serves a heartbeat. `false` when the connection is over.
    pub(super) fn heartbeat(&mut self, beat: Heartbeat) -> bool {
        let begun = self.begin_heartbeat(&beat);
        let (node, control) = match begun {
            Ok(begun) => begun,
            Err(fault) => return self.reply::<()>(Heartbeat::NAME, Err(fault)),
        };
        self.hold_back(node, &control);
        let reply = self.main.heartbeat_reply(node, self.number, &beat);
        self.reply(Heartbeat::NAME, reply)
    }

    fn begin_heartbeat(&mut self, beat: &Heartbeat) -> Result<(NodeId, Control), Fault> {
        let node = self.known_node()?.ok_or_else(|| {
            Fault::new(FaultCode::Denied, "a node must join before it has a heartbeat")
        })?;
        let control = self.control()?;
        self.main.take_heartbeat(node, control.clone(), beat)?;
        Ok((node, control))
    }

    /// Waits until there is something to say or the interval is over. The end of the connection,
    /// and so the server's stop, ends the wait too.
    fn hold_back(&mut self, node: NodeId, control: &Control) {
        let interval = self.main.nodes.interval();
        // A node that is at work has soon something to say.
        let patience =
            if self.main.nodes.has_orders(node) { interval.min(AT_WORK) } else { interval };
        let deadline = Instant::now() + patience;
        loop {
            control.bell.heed();
            let has_news = self.main.nodes.has_news(node, self.number);
            if has_news || self.main.has_journal_news(node) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.connection.wait_for(&*control.bell, left) {
                Woken::Bell => {}
                Woken::Peer | Woken::Timeout => return,
            }
        }
    }
}

impl Main {
    fn take_heartbeat(
        &self,
        node: NodeId,
        control: Control,
        beat: &Heartbeat,
    ) -> Result<(), Fault> {
        if let Some(key) = beat.newest_key {
            self.take_key(node, key)?;
        }
        let news = self.nodes.beat(node, control, beat)?;
        let is_news = news.is_good_news || !news.closed.is_empty();
        self.note_removed(node, &news.closed)?;
        if news.is_good_news {
            self.repair.retry_waiting();
        }
        for given in news.closed {
            self.close_order(given, self.clock.now());
        }
        if is_news {
            self.wake_upkeep();
        }
        Ok(())
    }

    /// The node has this key on its disk. Noted in the catalog before it is used: a main server that
    /// starts anew must not go back to an older one.
    pub(super) fn take_key(&self, node: NodeId, key: KeyId) -> Result<(), Fault> {
        if self.nodes.is_new_key(node, key) {
            self.catalog.set_node_key(node, key).map_err(|error| self.fault(error))?;
            self.nodes.acknowledge_key(node, key);
        }
        Ok(())
    }

    fn heartbeat_reply(
        &self,
        node: NodeId,
        session: u64,
        beat: &Heartbeat,
    ) -> Result<HeartbeatReply, Fault> {
        match self.nodes.check_working(node, Some(beat.incarnation)) {
            Err(NotWorking::Unknown(_)) | Ok(()) => {}
            Err(over) => return Err(over.into()),
        }
        let mut nodes = Addresses::new();
        let mut orders = Vec::new();
        for (order, purpose) in self.nodes.orders_to_send(node, session) {
            if let Purpose::Copy { targets, .. } | Purpose::Move { targets, .. } = purpose {
                let reach = |target: &NodeId| Some((*target, self.nodes.reach(*target)?.address));
                nodes.extend(targets.iter().filter_map(reach));
            }
            orders.push(order);
        }
        Ok(HeartbeatReply {
            incarnation: self.incarnation,
            mark: Some(self.catalog.mark()),
            time: self.clock.wall(),
            interval_ms: self.nodes.interval().as_millis() as u64,
            keys: self.nodes.keys_for(node, beat.newest_key),
            orders: orders.into(),
            nodes,
            journal: self.journal_head(node),
        })
    }
}
