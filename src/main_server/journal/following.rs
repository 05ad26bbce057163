//! `follow`: a keeper asks for what it lacks of the journal, and says what it has.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use super::Journal;
use crate::ids::NodeId;
use crate::journal::path_of;
use crate::main_server::Main;
use crate::main_server::bell::Bell;
use crate::main_server::session::Session;
use crate::server::Woken;
use crate::wire::node_to_main::{Follow, FollowReply};
use crate::wire::{Fault, FaultCode, Message};

/// The highest generation that is believed on a node's word: far above any that time gives.
const MAX_BELIEVED: u64 = 1 << 52;

impl Session<'_> {
    /// Serves `follow`. `false` when the connection is over.
    pub(in crate::main_server) fn follow(&mut self, request: &Follow) -> bool {
        let (node, bell) = match self.begin_to_follow(request) {
            Ok(begun) => begun,
            Err(fault) => return self.reply::<()>(Follow::NAME, Err(fault)) && self.is_current(),
        };
        let deadline = Instant::now() + self.main.nodes.interval();
        loop {
            bell.heed();
            if let Some((reply, payload)) = self.main.journal_part(node) {
                log::trace!("follow node={node} {reply:?} bytes={}", payload.len());
                return self.connection.reply(Ok(reply), &[&payload]);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.connection.wait_for(&*bell, left) {
                Woken::Bell => {}
                Woken::Peer | Woken::Timeout => break,
            }
        }
        let nothing = self.main.journal.lock().progress.nothing();
        self.reply(Follow::NAME, Ok(nothing))
    }

    fn begin_to_follow(&mut self, request: &Follow) -> Result<(NodeId, Arc<Bell>), Fault> {
        let node = self.working_node()?;
        let bell = self.control()?.bell;
        let journal = &self.main.journal;
        if journal.kept.is_none() {
            return Err(Fault::new(FaultCode::Invalid, "this main server keeps no journal"));
        }
        journal.hear(node, request);
        if let Some(why) = &request.failed {
            log::warn!("a node cannot keep the journal node={node} why={why:?}");
        }
        journal.lock().bells.insert(node, bell.clone());
        Ok((node, bell))
    }
}

impl Journal {
    fn hear(&self, node: NodeId, request: &Follow) {
        let mut state = self.lock();
        if !state.keepers.contains(&node) {
            return;
        }
        state.progress.heard(node, request, Instant::now());
        let is_awaited = state.progress.is_unsettled();
        let (newest, _) = state.progress.written();
        let highest = request.kept.iter().map(|kept| kept.generation).max().unwrap_or(0);
        // A clock that was wrong, or an old copy of this directory, began a lower one: nodes and
        // whoever recovers take the highest for the newest.
        if newest > 0 && highest > newest && highest < MAX_BELIEVED && state.may_believe(node) {
            state.floor = state.floor.max(highest);
        }
        drop(state);
        self.further.notify_all();
        if is_awaited || request.failed.is_some() {
            self.wake();
        }
    }

    /// Has the keepers that wait look for more.
    pub(super) fn ring(&self) {
        self.lock().bells.values().for_each(|bell| bell.ring());
    }
}

impl super::State {
    /// Once for each node: a node could otherwise have one snapshot written after the other.
    fn may_believe(&mut self, node: NodeId) -> bool {
        self.believed.insert(node)
    }
}

impl Main {
    /// What a keeper is to be sent now, if anything.
    fn journal_part(&self, node: NodeId) -> Option<(FollowReply, Vec<u8>)> {
        let kept = self.journal.kept.as_ref()?;
        // What it has may be the journal of the better books.
        if self.nodes.is_unadopted(node) {
            return None;
        }
        let mut state = self.journal.lock();
        if !state.keepers.contains(&node) {
            return None;
        }
        let (reply, bytes) = state.progress.next_part(node, Instant::now())?;
        drop(state);
        let path = path_of(&kept.directory, reply.generation);
        let mut payload = vec![0; bytes as usize];
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut payload, reply.offset));
        match read {
            Ok(()) => Some((reply, payload)),
            // It was ended and removed just now; another one goes on.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                log::error!(
                    "the journal cannot be read generation={} error={error}",
                    reply.generation
                );
                None
            }
        }
    }
}
