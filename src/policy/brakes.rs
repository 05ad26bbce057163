//! What keeps the main server from acting on what may be a mistake: a clock that jumped, and deletes
//! that nobody's removal explains.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{Moment, WallTime};

/// How far apart two clocks may be before nothing is expired by either.
pub const MAX_APART: Duration = Duration::from_secs(24 * 3600);
/// Unexplained deletes are counted over this time.
pub const BRAKE_SPAN: Duration = Duration::from_secs(3600);
/// So many unexplained deletes are nothing to worry about, however few chunks there are.
pub const HARMLESS_DELETES: u64 = 1000;

/// Why the main server's time is not to be expired by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// At its start the machine's clock was so far after the latest time noted: nothing ran for that
    /// long, or the clock is wrong.
    Ahead { by: Duration },
    /// At its start the machine's clock was so far before the latest time noted.
    Behind { by: Duration },
    /// So many of all nodes have clocks that say otherwise.
    Nodes { differ: usize, of: usize },
}

/// Whether the main server's time can be relied on. That time goes on with the monotonic clock from
/// where it was at the start: jumps of the machine's clock never reach it, so the start itself is the
/// one moment at which it can go wrong.
#[derive(Debug, Clone, Default)]
pub struct ClockJudge {
    doubt: Option<Doubt>,
    /// A person has said that the nodes are wrong; good until they agree again.
    is_confirmed: bool,
}

/// What the nodes' clocks say of a time.
#[derive(Debug, Clone, Copy)]
struct Opinions {
    agree: usize,
    differ: usize,
    of: usize,
}

impl ClockJudge {
    /// The judge, and the time to start with: never before the latest time noted, and not a day after
    /// it either, until somebody confirms the machine's clock. What is noted meanwhile by the main
    /// server's time is then not wrong for ever.
    pub fn start(machine: WallTime, latest: Option<WallTime>) -> (ClockJudge, WallTime) {
        let Some(latest) = latest else { return (ClockJudge::default(), machine) };
        let doubt = match apart(machine, latest) {
            by if by <= MAX_APART => None,
            by if machine > latest => Some(Doubt::Ahead { by }),
            by => Some(Doubt::Behind { by }),
        };
        let time = if doubt.is_some() { latest } else { machine.max(latest) };
        (ClockJudge { doubt, is_confirmed: false }, time)
    }

    /// Why nothing is to be expired now.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// Judges anew. `time` is the main server's, `said` what each node's clock says now, where it is
    /// known. Returns the time to go on with when that is another one.
    pub fn judge(
        &mut self,
        time: WallTime,
        machine: WallTime,
        said: &[Option<WallTime>],
    ) -> Option<WallTime> {
        let of_time = Opinions::of(time, said);
        if let Some(Doubt::Ahead { .. } | Doubt::Behind { .. }) = self.doubt {
            let is_machine_right = Opinions::of(machine, said).most_agree();
            // Only forward: back to a time before what was noted takes a person.
            if apart(machine, time) <= MAX_APART || machine > time && is_machine_right {
                self.doubt = None;
                return (machine > time).then_some(machine);
            }
            if of_time.most_agree() {
                self.doubt = None;
            }
            return None;
        }
        if !of_time.most_differ() {
            self.is_confirmed = false;
            self.doubt = None;
        } else if !self.is_confirmed {
            self.doubt = Some(Doubt::Nodes { differ: of_time.differ, of: of_time.of });
        }
        None
    }

    /// A person has said that the machine's clock is right.
    pub fn confirm(&mut self) {
        (self.doubt, self.is_confirmed) = (None, true);
    }
}

impl Opinions {
    fn of(time: WallTime, said: &[Option<WallTime>]) -> Opinions {
        let is_close = |said: &WallTime| apart(*said, time) <= MAX_APART;
        let known = said.iter().flatten().count();
        let agree = said.iter().flatten().filter(|said| is_close(said)).count();
        Opinions { agree, differ: known - agree, of: said.len() }
    }

    fn most_agree(self) -> bool {
        self.agree * 2 > self.of
    }

    fn most_differ(self) -> bool {
        self.differ * 2 > self.of
    }
}

fn apart(a: WallTime, b: WallTime) -> Duration {
    Duration::from_millis(a.0.abs_diff(b.0))
}

/// Holds deletes that nobody's removal explains when they become many. Those that are explained, by a
/// removal, an expiry or verified copies elsewhere, never come here.
#[derive(Debug, Clone, Default)]
pub struct DeleteBrake {
    /// Those that were let go of late, beyond what was granted.
    lately: VecDeque<(Moment, u64)>,
    /// How many more a person has let go.
    granted: u64,
    is_held: bool,
}

impl DeleteBrake {
    /// True when unexplained deletes may be ordered, where `waiting` are condemned and not let go
    /// yet. Once it says no, it does so until a person lets them go, or none is left.
    pub fn lets_go(&mut self, now: Moment, chunks: u64, waiting: u64) -> bool {
        while self.lately.front().is_some_and(|(at, _)| now.since(*at) >= BRAKE_SPAN) {
            self.lately.pop_front();
        }
        let lately: u64 = self.lately.iter().map(|(_, count)| count).sum();
        if waiting == 0 {
            // What was granted was let go, or vanished otherwise.
            (self.granted, self.is_held) = (0, false);
        } else if waiting.saturating_sub(self.granted) + lately > DeleteBrake::limit(chunks) {
            self.is_held = true;
        }
        !self.is_held
    }

    /// The most in any hour.
    pub fn limit(chunks: u64) -> u64 {
        (chunks / 100).max(HARMLESS_DELETES)
    }

    /// True while they are held.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// So many were let go, which nothing takes back.
    pub fn let_go(&mut self, now: Moment, count: u64) {
        let granted = self.granted.min(count);
        self.granted -= granted;
        if count > granted {
            self.lately.push_back((now, count - granted));
        }
    }

    /// A person lets all go that wait now.
    pub fn release(&mut self, waiting: u64) {
        (self.granted, self.is_held) = (waiting, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_800_000_000_000);
    const DAY: Duration = MAX_APART;
    const HOUR: Duration = BRAKE_SPAN;

    fn started(machine: WallTime) -> (ClockJudge, WallTime) {
        ClockJudge::start(machine, Some(NOW))
    }

    #[test]
    fn a_start_within_a_day_of_the_latest_time_is_not_doubted_and_never_goes_back() {
        for machine in [NOW - HOUR, NOW, NOW + HOUR, NOW + DAY] {
            let (judge, time) = started(machine);
            assert_eq!((judge.doubt(), time), (None, machine.max(NOW)));
        }
        let (judge, time) = ClockJudge::start(NOW, None);
        assert_eq!((judge.doubt(), time), (None, NOW));
    }

    #[test]
    fn a_clock_that_moved_forward_is_taken_when_most_of_all_nodes_agree() {
        let later = NOW + DAY * 10;
        let (mut judge, time) = started(later);
        assert_eq!((judge.doubt(), time), (Some(Doubt::Ahead { by: DAY * 10 }), NOW));
        // Two of four are not most, and one that was not heard says nothing.
        assert_eq!(judge.judge(time, later, &[Some(later), Some(later), None, None]), None);
        assert!(judge.doubt().is_some());
        let said = [Some(later), Some(later - HOUR), Some(NOW), None, Some(later + HOUR)];
        assert_eq!(judge.judge(time, later, &said), Some(later));
        assert_eq!(judge.doubt(), None);
    }

    #[test]
    fn a_clock_that_moved_back_is_taken_by_no_number_of_nodes() {
        let before = NOW - DAY * 10;
        let (mut judge, time) = started(before);
        assert_eq!((judge.doubt(), time), (Some(Doubt::Behind { by: DAY * 10 }), NOW));
        assert_eq!(judge.judge(time, before, &[Some(before); 3]), None);
        assert!(judge.doubt().is_some());
        judge.confirm();
        assert_eq!(judge.doubt(), None);
    }

    #[test]
    fn when_most_nodes_say_what_was_noted_the_time_goes_on_from_there() {
        for machine in [NOW - DAY * 10, NOW + DAY * 10] {
            let (mut judge, time) = started(machine);
            assert_eq!(judge.judge(time, machine, &[Some(NOW), Some(NOW), Some(machine)]), None);
            assert_eq!(judge.doubt(), None);
        }
    }

    #[test]
    fn a_clock_that_is_put_right_while_the_main_server_runs_is_doubted_no_more() {
        let (mut judge, time) = started(NOW + DAY * 10);
        assert_eq!(judge.judge(time, NOW + HOUR, &[None]), Some(NOW + HOUR));
        assert_eq!(judge.doubt(), None);
    }

    #[test]
    fn a_running_main_server_stops_expiring_while_most_nodes_say_another_time() {
        let (mut judge, time) = started(NOW);
        let later = Some(NOW + DAY * 2);
        assert_eq!(judge.judge(time, NOW, &[later, later, Some(NOW)]), None);
        assert_eq!(judge.doubt(), Some(Doubt::Nodes { differ: 2, of: 3 }));
        // All jumped together: nobody's word makes the time jump with them.
        assert_eq!(judge.judge(time, NOW + DAY * 2, &[later, later, later]), None);
        assert_eq!(judge.doubt(), Some(Doubt::Nodes { differ: 3, of: 3 }));
        judge.judge(time, NOW, &[later, Some(NOW), Some(NOW)]);
        assert_eq!(judge.doubt(), None);
    }

    #[test]
    fn what_a_person_confirmed_is_not_asked_again_until_the_nodes_agreed_once() {
        let (mut judge, time) = started(NOW);
        let (later, now) = ([Some(NOW + DAY * 2)], [Some(NOW)]);
        judge.judge(time, NOW, &later);
        judge.confirm();
        judge.judge(time, NOW, &later);
        assert_eq!(judge.doubt(), None);
        judge.judge(time, NOW, &now);
        judge.judge(time, NOW, &later);
        assert!(judge.doubt().is_some());
    }

    fn at(hours: u32) -> Moment {
        Moment(0) + HOUR * hours
    }

    #[test]
    fn a_thousand_or_one_in_a_hundred_unexplained_deletes_may_go_in_an_hour() {
        let mut brake = DeleteBrake::default();
        assert!(brake.lets_go(at(0), 10, 1000));
        assert!(brake.lets_go(at(0), 1_000_000, 10_000));
        assert!(!brake.lets_go(at(0), 1_000_000, 10_001));
    }

    #[test]
    fn deletes_that_come_a_few_at_a_time_are_held_when_they_add_up_within_an_hour() {
        let mut brake = DeleteBrake::default();
        brake.let_go(at(0), 600);
        assert!(brake.lets_go(at(0), 0, 400));
        assert!(!brake.lets_go(at(0), 0, 401));
        assert!(!brake.lets_go(at(5), 0, 401), "an hour's rest lets nothing go");
        let mut brake = DeleteBrake::default();
        brake.let_go(at(0), 600);
        assert!(brake.lets_go(at(1), 0, 600), "they were done in another hour");
    }

    #[test]
    fn a_person_lets_go_what_waits_now_and_no_more() {
        let mut brake = DeleteBrake::default();
        assert!(!brake.lets_go(at(0), 0, 5000));
        brake.release(5000);
        for left in (0..5).rev() {
            assert!(brake.lets_go(at(0), 0, (left + 1) * 1000));
            brake.let_go(at(0), 1000);
        }
        assert!(brake.lets_go(at(0), 0, 1000));
        assert!(!brake.lets_go(at(0), 0, 1001));
        assert!(brake.lets_go(at(0), 0, 0) && !brake.is_held(), "none is left to be held");
    }

    #[test]
    fn what_a_person_let_go_and_vanished_otherwise_lets_nothing_else_go() {
        let mut brake = DeleteBrake::default();
        brake.release(5000);
        assert!(brake.lets_go(at(0), 0, 5000) && brake.lets_go(at(0), 0, 0));
        assert!(!brake.lets_go(at(0), 0, 1001));
    }
}
