//! The main server's time. It goes on with the monotonic clock from where it was at the start, so a
//! jump of the machine's wall clock is never seen in tokens, leases or expiry; and as long as the
//! start itself is in doubt, nothing expires (see `policy::brakes`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Main;
use super::inventory::UNKNOWN_WAIT;
use super::nodes::Nodes;
use crate::catalog::CatalogError;
use crate::clock::{Clock, Moment, WallTime};
use crate::policy::brakes::{ClockJudge, Doubt};
use crate::wire::admin::Notice;

/// How often the time is noted in the catalog, and held against the nodes' clocks.
const EVERY: Duration = Duration::from_secs(60);
/// How often it is while it is in doubt: nodes that agree should not be waited for long.
const EVERY_IN_DOUBT: Duration = Duration::from_secs(1);

/// Keeps the time.
pub struct Timekeeper {
    machine: Clock,
    state: Mutex<State>,
}

struct State {
    judge: ClockJudge,
    next: Moment,
    /// Nothing expires before this. When the time was set forward, leases that were given before
    /// would seem to be over at once.
    rests_until: Option<Moment>,
}

impl Timekeeper {
    /// Begins to keep the time of a main server on this machine. `latest` is the latest time that was
    /// noted, where there are nodes whose copies could be lost by a mistake. Returns the clock to go
    /// by.
    pub fn start(machine: Clock, latest: Option<WallTime>) -> (Timekeeper, Clock) {
        let (judge, time) = ClockJudge::start(machine.wall(), latest);
        if let Some(doubt) = judge.doubt() {
            log::error!("the clock is in doubt, nothing expires why={:?}", words(doubt));
        }
        let clock = machine.steady(time);
        let state = State { judge, next: clock.now(), rests_until: None };
        (Timekeeper { machine, state: Mutex::new(state) }, clock)
    }

    /// The state holds no invariant across its lock that a panic could break.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    /// What the clocks of all nodes say now, where they have told.
    fn clocks(&self, now: Moment) -> Vec<Option<WallTime>> {
        let table = self.lock();
        let nodes = table.nodes.values().filter(|node| !node.has_left());
        nodes.map(|node| node.its_time.map(|(said, at)| said + now.since(at))).collect()
    }
}

impl Main {
    /// Notes the time and judges it anew, when that is due. Says when it will be due next.
    pub(super) fn keep_time(&self, now: Moment) -> Result<Moment, CatalogError> {
        let keeper = &self.timekeeper;
        let (time, machine, said) =
            (self.clock.wall(), keeper.machine.wall(), self.nodes.clocks(now));
        let mut state = keeper.lock();
        if state.next > now {
            return Ok(state.next);
        }
        let before = state.judge.doubt();
        let taken = state.judge.judge(time, machine, &said);
        if let Some(taken) = taken {
            self.clock.set_wall(taken);
            state.rests_until = Some(now + self.config.upload_lease.max(UNKNOWN_WAIT));
        }
        let doubt = state.judge.doubt();
        state.next = now + if doubt.is_some() { EVERY_IN_DOUBT } else { EVERY };
        let next = state.next;
        drop(state);
        match (before, doubt) {
            (Some(_), None) => log::info!("the clock is in doubt no more time_ms={}", time.0),
            (None, Some(doubt)) => {
                log::error!("the clock is in doubt, nothing expires why={:?}", words(doubt));
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.catalog.note_time(self.clock.wall(), false)?;
        Ok(next)
    }

    /// True when what is old enough may expire.
    pub(super) fn may_expire(&self, now: Moment) -> bool {
        let state = self.timekeeper.lock();
        state.judge.doubt().is_none() && state.rests_until.is_none_or(|until| until <= now)
    }

    /// A person has said that the machine's clock is right.
    pub(super) fn adopt_clock(&self) -> Result<(), CatalogError> {
        let (now, before) = (self.clock.now(), self.clock.wall());
        let machine = self.timekeeper.machine.wall();
        // Durable first: a start after this must not doubt the clock for what was noted before.
        self.catalog.note_time(machine, true)?;
        self.catalog.sync()?;
        let mut state = self.timekeeper.lock();
        state.judge.confirm();
        self.clock.set_wall(machine);
        if machine > before {
            state.rests_until = Some(now + self.config.upload_lease.max(UNKNOWN_WAIT));
        }
        log::warn!("clock adopted time_ms={} before_ms={}", machine.0, before.0);
        Ok(())
    }

    pub(super) fn clock_notice(&self) -> Option<Notice> {
        let doubt = self.timekeeper.lock().judge.doubt()?;
        let what = words(doubt);
        let message = format!(
            "{what}; nothing expires and nothing is collected. If the main server's clock is right, \
             type: p2pdfs admin adopt clock"
        );
        Some(Notice { code: "clock".to_string(), message })
    }
}

fn words(doubt: Doubt) -> String {
    match doubt {
        Doubt::Ahead { by } => format!(
            "at its start the main server's clock was {} after the time that it last noted, and most \
             nodes' clocks have not confirmed that",
            span(by)
        ),
        Doubt::Behind { by } => format!(
            "at its start the main server's clock was {} before the time that it last noted",
            span(by)
        ),
        Doubt::Nodes { differ, of } => format!(
            "the clocks of {differ} of {of} nodes are more than a day off the main server's time"
        ),
    }
}

fn span(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    match hours {
        0..48 => format!("{hours} hours"),
        _ => format!("{} days", hours / 24),
    }
}
