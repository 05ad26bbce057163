//! The survey: a thread that looks at all chunks, page by page, and finds those that do not have
//! the copies that they should. First it counts all of them, and hands on what cannot wait; then it
//! goes through them again and hands on the rest as fast as repair takes it. It runs at the start,
//! whenever the nodes that count have changed, and once an hour.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Main;
use super::census::{Census, Trouble, Troubled};
use super::circle::Circle;
use super::files_at_risk::FilesAtRisk;
use super::view::View;
use crate::catalog::{CatalogError, SurveyedChunk};
use crate::clock::Moment;
use crate::ids::{NodeId, Serial};
use crate::policy::placement::Placer;
use crate::policy::repair::{Urgency, could_spread};

/// How many chunks are looked at together.
const PAGE: usize = 1024;
/// How long after the end of a survey the next one begins, when nothing else asks for it.
const EVERY: Duration = Duration::from_secs(3600);

/// What the survey knows and what it is at.
#[derive(Default)]
pub struct Survey {
    state: Mutex<State>,
    changed: Condvar,
}

/// What remains to be done, each step before the ones below it.
#[derive(Default)]
pub struct State {
    pub census: Census,
    pub files: FilesAtRisk,
    /// The nodes as they are judged by.
    view: Arc<View>,
    /// Nodes that were struck off and may be in the books still, and behind which chunk.
    stripping: Vec<(NodeId, Option<Serial>)>,
    counting: Option<Circle>,
    feeding: Option<Circle>,
    /// Both go on where they were when they begin anew.
    last_count: Circle,
    last_feed: Circle,
    /// Nothing is counted before this: nodes have time to come back.
    not_before: Option<Moment>,
    next: Option<Moment>,
    /// All chunks were counted since the nodes changed last.
    is_counted: bool,
    /// Repair had no room for something that the count has passed.
    is_wanted_again: bool,
    is_repair_idle: bool,
    woken: bool,
    stopping: bool,
}

/// One step of the survey, as it is decided on.
enum Step {
    Strip(NodeId, Option<Serial>),
    Count(Option<Serial>),
    Files(HashSet<Serial>),
    Feed(Option<Serial>),
    /// Nothing to do before this.
    Rest(Option<Moment>),
}

impl Survey {
    /// The state holds no invariant across its lock that a panic could break.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges by these nodes from now on. All chunks are counted anew when they have changed.
    pub fn look_at(&self, view: View) {
        let mut state = self.lock();
        if *state.view == view {
            return;
        }
        state.view = Arc::new(view);
        state.renew();
        drop(state);
        self.wake();
    }

    /// Counts all chunks anew: something may be wrong with some of which nobody spoke.
    pub fn look_again(&self) {
        self.lock().renew();
        self.wake();
    }

    /// Nothing is counted before this, or from now on.
    pub fn wait_until(&self, not_before: Option<Moment>) {
        let mut state = self.lock();
        let ends = state.not_before.is_some() && not_before.is_none();
        state.not_before = not_before;
        drop(state);
        if ends {
            self.wake();
        }
    }

    /// Takes a node that was struck off out of the books.
    pub fn strip(&self, node: NodeId) {
        let mut state = self.lock();
        if state.stripping.iter().all(|(other, _)| *other != node) {
            state.stripping.push((node, None));
        }
        drop(state);
        self.wake();
    }

    /// Repair has done what it can for now. `wants_more` says that chunks found no room there which
    /// are to be found again, and `is_idle` that it has nothing to do. True when nothing is to be found
    /// any more before the nodes change.
    pub fn feed(&self, wants_more: bool, has_room: bool, is_idle: bool, now: Moment) -> bool {
        let mut state = self.lock();
        if wants_more && state.counting.is_none() && state.feeding.is_none() {
            state.begin_feeding();
        }
        if wants_more {
            state.is_wanted_again = state.counting.is_some();
        }
        if is_idle && state.is_done() && state.census.is_stale() {
            state.renew();
        }
        state.is_repair_idle = is_idle;
        let goes_on = state.counting.is_some() || state.feeding.is_some() && has_room;
        let is_due = state.files.is_due(&state.census, is_idle).is_some_and(|at| at <= now);
        let is_done = state.is_done();
        drop(state);
        if goes_on || is_due {
            self.wake();
        }
        is_done
    }

    /// There is something to do.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_one();
    }

    fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_one();
    }

    /// Waits until it is woken or `patience` is over. `false` when it is to stop.
    fn wait(&self, patience: Option<Duration>) -> bool {
        let mut state = self.lock();
        let is_idle = |state: &mut State| !state.woken && !state.stopping;
        state = match patience {
            Some(patience) => {
                let waited = self.changed.wait_timeout_while(state, patience, is_idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.changed.wait_while(state, is_idle);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        };
        state.woken = false;
        !state.stopping
    }

    fn is_stopping(&self) -> bool {
        self.lock().stopping
    }
}

impl State {
    /// True once all chunks were counted since the last change of the nodes.
    pub fn is_surveyed(&self) -> bool {
        self.is_counted && self.counting.is_none()
    }

    /// True when nothing is to be found any more before the nodes change.
    pub fn is_done(&self) -> bool {
        self.is_surveyed() && self.feeding.is_none()
    }

    fn renew(&mut self) {
        self.is_counted = false;
        self.feeding = None;
        let mut circle = self.counting.unwrap_or(self.last_count);
        circle.begin();
        self.counting = Some(circle);
        self.census.begin();
    }

    fn begin_feeding(&mut self) {
        let mut circle = self.last_feed;
        circle.begin();
        self.feeding = Some(circle);
    }

    fn next_step(&mut self, now: Moment, has_room: bool) -> Step {
        if let Some(&(node, after)) = self.stripping.first() {
            return Step::Strip(node, after);
        }
        if let Some(not_before) = self.not_before.filter(|at| *at > now) {
            return Step::Rest(Some(not_before));
        }
        if self.counting.is_none() && self.next.is_some_and(|next| next <= now) {
            self.renew();
        }
        if let Some(circle) = self.counting {
            return Step::Count(circle.after());
        }
        if let Some(circle) = self.feeding.filter(|_| has_room) {
            return Step::Feed(circle.after());
        }
        match self.files.is_due(&self.census, self.is_repair_idle) {
            Some(at) if at <= now => Step::Files(self.files.begin(&self.census, now)),
            at => Step::Rest(at.into_iter().chain(self.next).min()),
        }
    }

    /// The count has come to its end.
    fn counted(&mut self, now: Moment) {
        self.census.end();
        self.is_counted = true;
        self.next = Some(now + EVERY);
        if std::mem::take(&mut self.is_wanted_again) || self.census.has_more() {
            self.begin_feeding();
        }
    }
}

impl Main {
    /// Does one step of the survey. `Some` when there is nothing to do before then.
    fn survey_step(&self) -> Result<Option<Option<Moment>>, CatalogError> {
        let now = self.clock.now();
        let has_room = self.repair.has_room();
        let step = self.survey.lock().next_step(now, has_room);
        match step {
            Step::Strip(node, after) => self.strip_page(node, after)?,
            Step::Count(after) => {
                let page = self.catalog.survey(after, PAGE)?;
                self.count_page(&page, now);
            }
            Step::Files(at_risk) => {
                let counted = self.count_files(&at_risk, &|| self.survey.is_stopping())?;
                self.survey.lock().files.end(counted, self.clock.now());
            }
            Step::Feed(after) => {
                let page = self.catalog.survey(after, PAGE)?;
                self.feed_page(&page, now);
            }
            Step::Rest(until) => return Ok(Some(until)),
        }
        Ok(None)
    }

    /// Goes through all that is due.
    pub(super) fn survey_all(&self) -> Result<Option<Moment>, CatalogError> {
        loop {
            if self.survey.is_stopping() {
                return Ok(None);
            }
            if let Some(until) = self.survey_step()? {
                return Ok(until);
            }
        }
    }

    fn strip_page(&self, node: NodeId, after: Option<Serial>) -> Result<(), CatalogError> {
        let (lost, next) = self.catalog.strip_node(node, after, PAGE)?;
        self.see_to(lost.iter().map(|record| record.serial));
        self.wake_upkeep();
        let mut state = self.survey.lock();
        match next {
            Some(_) => {
                state.stripping.iter_mut().filter(|(n, _)| *n == node).for_each(|s| s.1 = next)
            }
            None => {
                state.stripping.retain(|(other, _)| *other != node);
                // What was counted before rests on its copies.
                state.renew();
                log::info!("node struck off the books node={node}");
            }
        }
        Ok(())
    }

    fn count_page(&self, page: &[SurveyedChunk], now: Moment) {
        let (recent, placer) = (self.recent_among(page, now), self.placer());
        let mut state = self.survey.lock();
        let Some(mut circle) = state.counting else { return };
        let (count, is_end) = circle.pass(&serials_of(page), PAGE);
        let view = state.view.clone();
        for chunk in &page[..count] {
            state.census.counted(chunk.record.serial, trouble(chunk, &view));
        }
        self.repair.offer(&due_among(&page[..count], &view, &recent, &placer, now));
        (state.last_count, state.counting) = (circle, (!is_end).then_some(circle));
        if is_end {
            state.counted(now);
        }
        drop(state);
        self.wake_upkeep();
    }

    fn feed_page(&self, page: &[SurveyedChunk], now: Moment) {
        let (recent, placer) = (self.recent_among(page, now), self.placer());
        let mut state = self.survey.lock();
        // None when the nodes have changed while the page was read.
        let Some(mut circle) = state.feeding else { return };
        let (count, is_end) = circle.pass(&serials_of(page), PAGE);
        let view = state.view.clone();
        for chunk in &page[..count] {
            if let Some(found) = trouble(chunk, &view) {
                state.census.taken_in(chunk.record.serial, found);
            }
        }
        self.repair.offer(&due_among(&page[..count], &view, &recent, &placer, now));
        (state.last_feed, state.feeding) = (circle, (!is_end).then_some(circle));
        drop(state);
        self.wake_upkeep();
    }

    fn recent_among(&self, page: &[SurveyedChunk], now: Moment) -> HashSet<Serial> {
        self.recent.among(page.iter().map(|chunk| chunk.record.serial), now)
    }
}

fn serials_of(page: &[SurveyedChunk]) -> Vec<Serial> {
    page.iter().map(|chunk| chunk.record.serial).collect()
}

/// What is wrong with the chunk. One that nothing refers to may lack copies: its upload goes on, or came
/// to nothing, and a commit that refers to it says what it lacks. What it has too many is seen here alone.
fn trouble(chunk: &SurveyedChunk, view: &View) -> Option<Troubled> {
    let found = view.trouble(&chunk.record)?;
    let is_due = match found.trouble {
        Trouble::Leaving | Trouble::Surplus => true,
        Trouble::Few | Trouble::Single | Trouble::Unreadable | Trouble::Lost => chunk.is_referred,
    };
    is_due.then_some(found)
}

/// The chunks about which something is to be done now.
fn due_among(
    page: &[SurveyedChunk],
    view: &View,
    recent: &HashSet<Serial>,
    placer: &Placer,
    now: Moment,
) -> Vec<(Serial, Urgency)> {
    let is_due = |chunk: &&SurveyedChunk| match trouble(chunk, view) {
        Some(_) => view.is_due(&chunk.record),
        None => chunk.is_referred && could_spread(&view.holders(&chunk.record), placer),
    };
    let urgency = |chunk: &SurveyedChunk| {
        let record = &chunk.record;
        let (holders, wanted) = (view.holders(record), usize::from(record.wanted));
        let is_idle = !recent.contains(&record.serial);
        (record.serial, Urgency::of(&holders, wanted, is_idle, now))
    };
    page.iter().filter(is_due).map(urgency).collect()
}

/// The thread. Dropping it stops it.
pub struct SurveyThread {
    main: Arc<Main>,
    thread: Option<JoinHandle<()>>,
}

impl SurveyThread {
    pub fn start(main: Arc<Main>) -> io::Result<SurveyThread> {
        main.nodes.left().into_iter().for_each(|node| main.survey.strip(node));
        let for_thread = main.clone();
        let run = move || loop {
            let next = match for_thread.survey_all() {
                Ok(next) => next,
                Err(error) => return for_thread.catalog_failed(&error),
            };
            let patience = next.map(|at| at.since(for_thread.clock.now()));
            if !for_thread.survey.wait(patience) {
                return;
            }
        };
        let thread = thread::Builder::new().name("survey".to_string()).spawn(run)?;
        Ok(SurveyThread { main, thread: Some(thread) })
    }
}

impl Drop for SurveyThread {
    fn drop(&mut self) {
        self.main.survey.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the survey thread ended in a panic");
        }
    }
}
