//! Ends versions whose time is over, and collects chunks that nothing refers to: a thread that takes
//! small steps, so that the catalog's writer is never held for long, and rests between them.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Main;
use super::upkeep::Waker;
use crate::catalog::{CatalogError, Collected};
use crate::clock::Moment;
use crate::ids::Serial;

/// How many places of chunks one step looks at.
const STEP: usize = 1024;
/// After a step it rests for so many times as long as the step took.
const REST: u32 = 3;
/// How soon after a start the first round begins.
const FIRST: Duration = Duration::from_secs(60);
/// How soon it looks again while the clock is in doubt.
const IN_DOUBT: Duration = Duration::from_secs(60);

/// What the collector is at.
#[derive(Default)]
pub struct Collecting {
    pub waker: Waker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    work: Work,
    /// When the next round is due; `None` before the first one was planned.
    next_round: Option<Moment>,
    /// Somebody removed something for good.
    has_purged: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Work {
    #[default]
    Rest,
    /// Versions whose time is over; then, in a whole round, chunks.
    Expire {
        is_whole_round: bool,
    },
    Collect {
        after: Option<Serial>,
    },
}

impl Collecting {
    /// The state holds no invariant across its lock that a panic could break.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was removed for good: its space is to be freed at once.
    pub fn purged(&self) {
        self.lock().has_purged = true;
        self.waker.wake();
    }
}

/// The thread. Dropping it stops it.
pub struct Collector {
    main: Arc<Main>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    pub fn start(main: Arc<Main>) -> io::Result<Collector> {
        let for_thread = main.clone();
        let thread = thread::Builder::new().name("collector".to_string());
        let thread = thread.spawn(move || for_thread.collect_until_stopped())?;
        Ok(Collector { main, thread: Some(thread) })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.main.collecting.waker.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the collector's thread ended in a panic");
        }
    }
}

impl Main {
    fn collect_until_stopped(&self) {
        loop {
            let begun = Instant::now();
            let rest = match self.collect_step() {
                Ok(Some(next)) => next.since(self.clock.now()),
                Ok(None) => begun.elapsed() * REST,
                Err(error) => return self.catalog_failed(&error),
            };
            if !self.collecting.waker.wait(Some(rest)) {
                return;
            }
        }
    }

    /// Does one step. `None` when the next one may follow, or else when it is due.
    pub(super) fn collect_step(&self) -> Result<Option<Moment>, CatalogError> {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let mut state = self.collecting.lock();
        state.next_round.get_or_insert(now + self.config.collect_every.min(FIRST));
        if !self.may_expire(now) {
            state.work = Work::Rest;
            return Ok(Some(now + IN_DOUBT));
        }
        drop(state);
        let work = match self.next_work(now) {
            Ok(work) => work,
            Err(next) => return Ok(Some(next)),
        };
        let (collected, after_this) = match work {
            Work::Rest => return Ok(None),
            Work::Expire { is_whole_round } => {
                let before = wall - self.config.keep_removed;
                let ended = self.catalog.expire_versions(before, wall, STEP)?;
                let after_this = match ended.next {
                    Some(_) => work,
                    None if is_whole_round => Work::Collect { after: None },
                    None => Work::Rest,
                };
                (ended, after_this)
            }
            Work::Collect { after } => {
                let collected = self.catalog.collect(after, wall, STEP)?;
                let after_this = match collected.next {
                    Some(next) => Work::Collect { after: Some(next) },
                    None => Work::Rest,
                };
                (collected, after_this)
            }
        };
        self.collecting.lock().work = after_this;
        self.note_collected(&collected);
        Ok(None)
    }

    /// What to do now, or when there will be something to do.
    fn next_work(&self, now: Moment) -> Result<Work, Moment> {
        let every = self.config.collect_every;
        let mut state = self.collecting.lock();
        if state.work != Work::Rest {
            return Ok(state.work);
        }
        let next_round = state.next_round.unwrap_or(now);
        let is_whole_round = next_round <= now;
        if !is_whole_round && !state.has_purged {
            return Err(next_round);
        }
        // Before the look at the catalog, so that a purge after it is not passed over.
        state.has_purged = false;
        if is_whole_round {
            state.next_round = Some(now + every);
        }
        state.work = Work::Expire { is_whole_round };
        Ok(state.work)
    }

    fn note_collected(&self, collected: &Collected) {
        if collected.versions > 0 || collected.chunks > 0 {
            log::info!(
                "collected versions={} chunks={} copies={}",
                collected.versions,
                collected.chunks,
                collected.copies
            );
        }
        if collected.copies > 0 {
            self.condemned();
        }
    }
}
