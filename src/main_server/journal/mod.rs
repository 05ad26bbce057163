//! The catalog's journal, as the main server writes it: a snapshot and all changes since, sealed, in
//! a file of its own directory from which the keepers, some of the nodes, copy.
//!
//! `writing` is the thread that writes it, `generation` one file of it, `keepers` decides who keeps
//! it, `following` serves those who do, `keys` has what seals it. What is known of it stands behind
//! one lock that is never held across a socket or a disk.

mod following;
mod generation;
mod keepers;
pub mod keys;
mod progress;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use self::progress::Progress;
use super::Main;
use super::bell::Bell;
use crate::catalog::{LiveNodes, SqliteCatalog};
use crate::ids::NodeId;
use crate::journal::SealingKey;
use crate::wire::admin::{JournalStatus, Notice};
use crate::wire::node_to_main::JournalHead;

pub use self::keys::JournalKeys;
pub use self::writing::Writing;

/// How far the journal may be behind before changes wait for it: half of what is promised.
const BEHIND_MS: u64 = 500;
/// How long a change waits at most.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How long what cannot be undone waits for the keepers.
const LATE: Duration = Duration::from_secs(10);

/// With what a main server keeps a journal.
pub struct JournalSetup {
    /// The catalog that it is of; the one that the main server works on.
    pub catalog: Arc<SqliteCatalog>,
    /// Where its files go: below the main server's own directory.
    pub directory: PathBuf,
    pub keys: JournalKeys,
}

/// What all threads know of the journal.
pub struct Journal {
    /// `None` for a main server that keeps none.
    kept: Option<Kept>,
    state: Mutex<State>,
    /// A keeper is further, or there was nothing to hand on.
    further: Condvar,
    /// Tells the thread that a keeper is further, or that it is to look again.
    wake: (Sender<()>, Receiver<()>),
}

struct Kept {
    catalog: Arc<SqliteCatalog>,
    directory: PathBuf,
    sealing: SealingKey,
    reader: crate::ids::Fingerprint,
}

#[derive(Default)]
struct State {
    progress: Progress,
    /// Since when there are changes that the catalog has handed over and that are in no piece yet.
    taking: Option<Instant>,
    keepers: Vec<NodeId>,
    /// How often other keepers were chosen.
    choices: u64,
    /// What each node heard last: which choice of keepers, and which generation is on two nodes.
    told: BTreeMap<NodeId, (u64, u64)>,
    /// Why it is not written just now.
    trouble: Option<String>,
    /// Wakes the session on which a keeper waits.
    bells: BTreeMap<NodeId, Arc<Bell>>,
    /// Nodes on whose word `floor` was moved.
    believed: BTreeSet<NodeId>,
    /// Generations must be above this: a node has one of that number.
    floor: u64,
}

impl Journal {
    /// Of a main server that keeps one if it has a setup.
    pub fn new(setup: Option<JournalSetup>) -> Journal {
        let kept = setup.map(|setup| Kept {
            catalog: setup.catalog,
            directory: setup.directory,
            sealing: setup.keys.sealing,
            reader: setup.keys.reader,
        });
        Journal { kept, state: Mutex::default(), further: Condvar::new(), wake: bounded(1) }
    }

    /// What is in it holds no invariant across its lock that a panic could break.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // One that was not taken note of yet is enough.
        let _ = self.wake.0.try_send(());
    }

    /// When the oldest change was made that is not on two nodes yet.
    fn unsafe_since(&self, state: &State) -> Option<Instant> {
        let pending = self.kept.as_ref().and_then(|kept| kept.catalog.changed_since());
        let known = [state.progress.unsafe_since(), state.taking, pending];
        known.into_iter().flatten().min()
    }

    /// Milliseconds since then.
    fn lag_ms(&self, state: &State) -> u64 {
        // Nothing is 0 but what is on two nodes.
        self.unsafe_since(state).map_or(0, |since| (since.elapsed().as_millis() as u64).max(1))
    }

    /// Waits until all that was changed before now is on two nodes. `false` when there are no two of
    /// these that get on with it, or when it takes longer than `patience`.
    fn wait_safe(&self, alive: &LiveNodes, patience: Duration) -> bool {
        let asked = Instant::now();
        let mut state = self.lock();
        let keepers: Vec<NodeId> =
            state.keepers.iter().copied().filter(|node| alive.contains(node)).collect();
        while self.unsafe_since(&state).is_some_and(|since| since <= asked) {
            let left = patience.saturating_sub(asked.elapsed());
            if left.is_zero() || !state.progress.is_kept_up(&keepers, Instant::now()) {
                return false;
            }
            let waited = self.further.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// True when all that was changed before `asked` is on two nodes, or when it helps nobody to wait
    /// for that any longer.
    pub fn is_safe_or_late(&self, asked: Instant) -> bool {
        let state = self.lock();
        let is_safe = self.unsafe_since(&state).is_none_or(|since| since > asked);
        let is_late = || asked.elapsed() >= LATE;
        is_safe || is_late() || !state.progress.is_kept_up(&state.keepers, Instant::now())
    }

    /// A node has started anew: it is asked again, even if it said that it could not.
    pub fn forgive(&self, node: NodeId) {
        self.lock().progress.forgive(node);
    }

    /// Holds up whoever is about to change much, while what was changed before is on its way to the
    /// keepers for so long already that the promised lag would not be kept. Not for longer than
    /// `LONGEST_WAIT`, and not where keepers are missing: that is no reason to serve nobody.
    pub fn wait_for_keepers(&self) {
        let deadline = Instant::now() + LONGEST_WAIT;
        let mut state = self.lock();
        while self.lag_ms(&state) > BEHIND_MS && state.trouble.is_none() {
            let now = Instant::now();
            if now >= deadline || !state.progress.is_kept_up(&state.keepers, now) {
                return;
            }
            let waited = self.further.wait_timeout(state, deadline - now);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How far it is, for people.
    pub fn status(&self) -> JournalStatus {
        let state = self.lock();
        let (generation, sequence) = state.progress.written();
        let keepers = state.progress.near_the_end(&state.keepers);
        JournalStatus { keepers, lag_ms: self.lag_ms(&state), generation, sequence }
    }

    /// What a person should know of it.
    pub fn notice(&self) -> Option<Notice> {
        let state = self.lock();
        let kept = self.kept.as_ref()?;
        let lag_s = self.lag_ms(&state) / 1000;
        let message = match &state.trouble {
            Some(why) => format!(
                "the catalog's journal in {} cannot be written, so the catalog is on this disk \
                 alone: {why}",
                kept.directory.display()
            ),
            None if lag_s >= 60 => format!(
                "changes of the catalog of {lag_s} s are not on two nodes, and would be lost with \
                 this disk: {} nodes keep its journal, and 2 should",
                state.progress.near_the_end(&state.keepers).len()
            ),
            None => return None,
        };
        Some(Notice { code: "journal".to_string(), message })
    }
}

/// How long the end of a main server waits for requests in work, and then for the nodes.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

impl Main {
    /// Turns clients away, and has all that they were told is done on two nodes, as good as that goes.
    pub(super) fn end_journal(&self) {
        if self.journal.kept.is_none() {
            return;
        }
        let all_left = self.door.close(LAST_PATIENCE);
        if !all_left || !self.journal.wait_safe(&self.nodes.live(), LAST_PATIENCE) {
            log::warn!("the last changes of the catalog may not be on two nodes");
        }
    }

    /// What a node is told of the journal with the reply to its heartbeat.
    pub(super) fn journal_head(&self, node: NodeId) -> Option<JournalHead> {
        let kept = self.journal.kept.as_ref()?;
        let mut state = self.journal.lock();
        let follow = state.keepers.contains(&node);
        let (generation, sequence, time) = state.progress.safe();
        let choice = state.choices;
        state.told.insert(node, (choice, generation));
        let lag_ms = self.journal.lag_ms(&state);
        let keepers = state.keepers.clone();
        drop(state);
        let table = self.nodes.lock();
        let address = |id: NodeId| Some((id, table.nodes.get(&id)?.address.clone()?));
        let keepers = keepers.into_iter().filter_map(address).collect();
        let reader = kept.reader;
        Some(JournalHead { generation, sequence, lag_ms, time, reader, keepers, choice, follow })
    }

    /// True when a node should hear at once who the keepers are from now on, or where a new
    /// generation is: by both, whoever recovers knows what there may be.
    pub(super) fn has_journal_news(&self, node: NodeId) -> bool {
        let state = self.journal.lock();
        let now = (state.choices, state.progress.safe().0);
        now != state.told.get(&node).copied().unwrap_or((0, 0))
    }
}
