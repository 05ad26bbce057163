//! Scrubbing: a thread that reads all that is held from the disk, again and again, at a rate that
//! leaves the disk to those who use it. What is damaged is dropped and reported, so that it is
//! repaired from another copy before that one is damaged too.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::causes::with_causes;
use crate::clock::Moment;
use crate::segments::ScrubCursor;
use crate::wire::node_to_main::ScrubState;

use super::bookmark::{Bookmark, Place};
use super::config::{ScrubConfig, ScrubRate};
use super::shared::Shared;

/// Read between two pauses.
const STEP_BYTES: u64 = 1 << 20;
/// While chunks are stored or fetched, scrubbing takes only this part of its rate.
const BUSY_PART: u32 = 4;
/// How long a scrub waits when the disk would not let it go on.
const TROUBLE_PAUSE: Duration = Duration::from_secs(60);

/// How far the scrub is.
#[derive(Debug, Default)]
pub(super) struct Scrub(Mutex<ScrubState>);

impl Scrub {
    /// What the main server is told of it.
    pub fn state(&self) -> ScrubState {
        *self.lock()
    }

    fn begin(&self, done_bytes: u64, total_bytes: u64) {
        let mut state = self.lock();
        (state.done_bytes, state.total_bytes) = (done_bytes.min(total_bytes), total_bytes);
    }

    fn advance(&self, bytes: u64, is_end: bool) {
        let mut state = self.lock();
        state.done_bytes += bytes;
        // What was stored meanwhile is read, too.
        state.total_bytes = state.total_bytes.max(state.done_bytes);
        if is_end {
            state.passes += 1;
            state.done_bytes = state.total_bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, ScrubState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a step of so many bytes is to take.
fn span_of_step(rate: ScrubRate, bytes: u64, is_busy: bool) -> Duration {
    match rate {
        ScrubRate::Off | ScrubRate::Unlimited => Duration::ZERO,
        ScrubRate::BytesPerSecond(rate) => {
            let span = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            if is_busy { span * BUSY_PART } else { span }
        }
    }
}

/// The body of the scrub's thread.
pub(super) fn run(shared: &Shared) {
    let ScrubConfig { every, .. } = shared.scrubbing;
    let mut bookmark = Bookmark::new(shared.identity.directory(), shared.clock.now());
    loop {
        let begun = shared.clock.now();
        if !pass(shared, &mut bookmark) || !wait_until(shared, begun + every) {
            return;
        }
    }
}

/// Reads everything once, or what the last start left of it. False when the node stops.
fn pass(shared: &Shared, bookmark: &mut Bookmark) -> bool {
    let Place { segment, done_bytes } = bookmark.find();
    let mut cursor = ScrubCursor::at_segment(segment);
    let Some(member) = shared.member() else { return false };
    shared.scrub.begin(done_bytes, member.store.space().used);
    drop(member);
    loop {
        let begun = shared.clock.now();
        let done_bytes = shared.scrub.state().done_bytes;
        bookmark.note(Place { segment: cursor.segment(), done_bytes }, begun);
        let pause = match step(shared, &mut cursor) {
            Some(Step::End) => {
                bookmark.clear();
                return bring_back(shared);
            }
            Some(Step::Read(bytes)) => {
                let is_busy = shared.counters.transfers() > 0;
                span_of_step(shared.scrubbing.rate, bytes, is_busy)
            }
            Some(Step::Trouble) => TROUBLE_PAUSE,
            None => return false,
        };
        if !wait_until(shared, begun + pause) {
            return false;
        }
    }
}

/// Brings back what the disk could not read and can read by now. False when the node stops.
fn bring_back(shared: &Shared) -> bool {
    for serial in shared.aside.take() {
        let Some(member) = shared.member() else { return false };
        let restored = member.store.restore(serial).and_then(|ticket| match ticket {
            Some(ticket) => member.store.wait_durable(ticket).map(|()| true),
            // Removed for good meanwhile, or damaged.
            None => Ok(false),
        });
        match restored {
            Ok(true) => {
                log::warn!("copy can be read again serial={serial}");
                shared.aside.note_back();
            }
            Ok(false) => {}
            Err(error) => {
                log::debug!("copy still aside serial={serial} error={}", with_causes(&error));
                shared.aside.add(serial);
            }
        }
        if shared.stops_within(Duration::ZERO) {
            return false;
        }
    }
    true
}

/// What a step did.
enum Step {
    Read(u64),
    End,
    Trouble,
}

/// One step; `None` when the node stops.
fn step(shared: &Shared, cursor: &mut ScrubCursor) -> Option<Step> {
    // Held only while it reads: a store that somebody has cannot be closed.
    let member = shared.member()?;
    let step = match member.store.scrub(*cursor, STEP_BYTES) {
        Ok(step) => step,
        Err(error) => {
            log::warn!("scrub waits error={}", with_causes(&error));
            return Some(Step::Trouble);
        }
    };
    *cursor = step.cursor;
    shared.report_lost(&step.lost);
    if step.healed > 0 {
        log::warn!("scrub mended what was damaged and is no chunk places={}", step.healed);
    }
    shared.scrub.advance(step.bytes, step.is_end);
    if step.is_end {
        let ScrubState { passes, done_bytes, .. } = shared.scrub.state();
        log::info!("scrub ended pass={passes} bytes={done_bytes}");
    }
    Some(if step.is_end { Step::End } else { Step::Read(step.bytes) })
}

/// Waits for a moment. False when the node stops.
fn wait_until(shared: &Shared, due: Moment) -> bool {
    loop {
        let left = due.since(shared.clock.now());
        if shared.stops_within(left) {
            return false;
        }
        if left.is_zero() {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_its_time_by_the_rate_and_more_while_the_disk_is_in_use() {
        let rate = ScrubRate::BytesPerSecond(8 << 20);
        let eighth = Duration::from_millis(125);
        assert_eq!(span_of_step(rate, 1 << 20, false), eighth);
        assert_eq!(span_of_step(rate, 1 << 20, true), 4 * eighth);
        assert_eq!(span_of_step(ScrubRate::Unlimited, 1 << 20, true), Duration::ZERO);
    }

    #[test]
    fn a_pass_that_met_more_than_was_there_at_its_start_is_still_a_whole_one() {
        let scrub = Scrub::default();
        scrub.begin(0, 10);
        scrub.advance(6, false);
        let state =
            |passes, done_bytes, total_bytes| ScrubState { passes, done_bytes, total_bytes };
        assert_eq!(scrub.state(), state(0, 6, 10));
        scrub.advance(7, true);
        assert_eq!(scrub.state(), state(1, 13, 13));
        scrub.begin(0, 20);
        assert_eq!(scrub.state(), state(1, 0, 20));
    }
}
