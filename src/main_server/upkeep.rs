//! The one thread of the main server's own: it notes which nodes fall silent, takes back orders
//! that are not done in time, and has missing copies made. It sleeps until one of these is due or
//! it is woken.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Main;
use super::view::View;
use crate::catalog::CatalogError;
use crate::clock::Moment;
use crate::policy::liveness::State;
use crate::policy::mass_silence::{MassSilence, Turn};

/// How many silent nodes are named.
const NAMED_NODES: usize = 8;

/// `stopping` and `woken` share a lock, so that no wake is lost between a look and a wait.
#[derive(Default)]
pub struct Waker {
    state: Mutex<Wake>,
    changed: Condvar,
}

#[derive(Default)]
struct Wake {
    woken: bool,
    stopping: bool,
}

impl Waker {
    /// There is something to do.
    pub fn wake(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).woken = true;
        self.changed.notify_one();
    }

    /// Whoever waits, and will wait, is to end.
    pub fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopping = true;
        self.changed.notify_one();
    }

    /// Waits until it is woken or `patience` is over. `false` when it is to stop.
    pub fn wait(&self, patience: Option<Duration>) -> bool {
        let mut wake = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !wake.woken && !wake.stopping {
            // An hour stands for ever: nothing is lost by a look too many.
            let patience = patience.unwrap_or(Duration::from_secs(3600));
            let waited =
                self.changed.wait_timeout_while(wake, patience, |w| !w.woken && !w.stopping);
            wake = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        wake.woken = false;
        !wake.stopping
    }
}

/// The thread. Dropping it stops it.
pub struct Upkeep {
    main: Arc<Main>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub fn start(main: Arc<Main>) -> io::Result<Upkeep> {
        let for_thread = main.clone();
        let run = move || loop {
            let next = for_thread.keep_up();
            let patience = next.map(|at| at.since(for_thread.clock.now()));
            if !for_thread.waker.wait(patience) {
                return;
            }
        };
        let thread = thread::Builder::new().name("upkeep".to_string()).spawn(run)?;
        Ok(Upkeep { main, thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.main.waker.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the upkeep thread ended in a panic");
        }
    }
}

impl Main {
    /// Does what is due now, and says when something will be due next.
    pub(super) fn keep_up(&self) -> Option<Moment> {
        let now = self.clock.now();
        let next_change = self.note_nodes(now);
        let (overdue, next_overdue) = self.nodes.take_back_orders(now);
        for given in overdue {
            self.close_order(given, now);
        }
        let next_repair = self.repair_what_is_due();
        let of_books = self.keep_time_and_delete(now).inspect_err(|e| self.catalog_failed(e));
        let [next_time, next_delete] = of_books.ok()?;
        let next = [next_change, next_overdue, next_repair, self.grace(), next_time, next_delete];
        next.into_iter().flatten().min()
    }

    fn keep_time_and_delete(&self, now: Moment) -> Result<[Option<Moment>; 2], CatalogError> {
        Ok([Some(self.keep_time(now)?), self.delete_what_is_condemned(now)?])
    }

    /// Notes which nodes have fallen silent or are back, and says when silence alone will change one
    /// next.
    fn note_nodes(&self, now: Moment) -> Option<Moment> {
        let (changes, next_change) = self.nodes.note_states(now);
        for (node, was, is) in &changes {
            match is {
                State::Suspect | State::Dead => log::warn!("node {} node={node}", is.name()),
                State::Alive | State::Returning | State::Rejoining | State::Stopped => {
                    log::info!("node {} node={node} was={}", is.name(), was.name());
                }
            }
        }
        let counting = self.nodes.view(true).counting();
        let interval = self.nodes.interval();
        let mut silence = self.silence();
        let turn = silence.note(&changes, counting, interval, now);
        let next_doubt = silence.next_change(interval);
        drop(silence);
        match turn {
            Some(Turn::Began) => log::error!("many nodes fell silent together, repair waits"),
            Some(Turn::Ended) => log::info!("enough nodes are there, repair goes on"),
            None => {}
        }
        if changes.iter().any(|(.., is)| *is == State::Alive) {
            self.repair.retry_waiting();
            self.look_at_fill();
        }
        self.look_at_nodes();
        next_change.into_iter().chain(next_doubt).min()
    }

    /// Judges by the nodes as they are now. Chunks are surveyed anew when something has changed.
    pub(super) fn look_at_nodes(&self) {
        let is_whole = self.nodes.view(false).is_whole();
        let mut grace = self.grace.lock().unwrap_or_else(PoisonError::into_inner);
        *grace = grace.filter(|grace| !is_whole && *grace > self.clock.now());
        let not_before = *grace;
        drop(grace);
        self.survey.wait_until(not_before);
        self.survey.look_at(self.view());
    }

    /// Until when nodes have time to come back after the main server's start.
    fn grace(&self) -> Option<Moment> {
        *self.grace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes as they are now, or as they are to be taken while nobody is given up.
    pub(super) fn view(&self) -> View {
        let is_patient = self.grace().is_some() || self.silence().is_patient();
        self.nodes.view(is_patient)
    }

    /// Why nothing is done on the strength of silence, where nothing is.
    pub(super) fn why_patient(&self) -> Option<String> {
        if let Some(grace) = self.grace() {
            let left = grace.since(self.clock.now()).as_secs() + 1;
            return Some(format!(
                "the main server has just started: nodes have {left} s to come back before \
                 anything is copied on their account"
            ));
        }
        let silence = self.silence();
        silence.is_doubted().then(|| {
            let missing = silence.missing();
            let named: Vec<String> =
                missing.iter().take(NAMED_NODES).map(|node| node.to_string()).collect();
            let more = if missing.len() > NAMED_NODES { ", ..." } else { "" };
            format!(
                "{} nodes fell silent together ({}{more}): the main server may be cut off itself, \
                 so nothing is copied on their account until most of them are back, or somebody \
                 says that they are gone: p2pdfs admin adopt silence",
                missing.len(),
                named.join(", ")
            )
        })
    }

    /// True while the main server suspects itself, and not for its own start.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.grace().is_none() && self.silence().is_doubted()
    }

    /// A person says that nodes that fell silent together are really gone.
    pub(super) fn adopt_silence(&self) {
        self.silence().adopt();
        log::warn!("nodes that are silent are given up by a person's word");
        self.nodes_changed();
    }

    /// Something was decided about nodes, or they said something.
    pub(super) fn nodes_changed(&self) {
        self.look_at_nodes();
        self.wake_upkeep();
    }

    /// The doubt holds no invariant across its lock that a panic could break.
    pub(super) fn silence(&self) -> MutexGuard<'_, MassSilence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
