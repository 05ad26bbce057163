//! Whether a node counts, from the signs of life that the main server has of it.

use std::time::Duration;

use crate::clock::Moment;

/// Intervals of silence after which a node is suspect.
pub const SUSPECT_AFTER: u32 = 3;
/// Intervals of silence after which a node is dead.
pub const DEAD_AFTER: u32 = 12;
/// Intervals of silence after which a node that still counts gets nothing new.
pub const SLOW_AFTER: u32 = 2;

/// How long a node that is back from a planned stop may take to say what it holds.
pub const COMPARED_WITHIN: Duration = Duration::from_secs(600);

/// What the main server makes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Its copies count, and it gets new ones.
    Alive,
    /// It is there, but what it holds was not compared with the books yet.
    Returning,
    /// Its control connection broke, or it was silent for some intervals. It may be back soon.
    Suspect,
    /// Silent for long.
    Dead,
    /// It said that it goes and is to be back soon.
    Stopped,
    /// It is back from that in time, and what it holds was not compared with the books yet.
    Rejoining,
}

/// What the copies on a node are worth now. The one place where this is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// They count, and can be read.
    Counts,
    /// They can be read, and do not count: they are to be moved off.
    Leaving,
    /// They cannot be relied on now, and may be back soon.
    Away,
    /// Their node has stopped for a while, by its own word, and is waited for.
    Expected,
    /// They are not expected back. They may come all the same, and count again then.
    Gone,
}

impl State {
    /// The word for it, on the wire and in logs.
    pub fn name(self) -> &'static str {
        match self {
            State::Alive => "alive",
            State::Returning | State::Rejoining => "returning",
            State::Suspect => "suspect",
            State::Dead => "dead",
            State::Stopped => "stopped",
        }
    }

    /// What copies on a node in this state are worth. `is_leaving` says that they are to be moved
    /// off it: such copies are worth nothing more once they cannot be read.
    pub fn presence(self, is_leaving: bool) -> Presence {
        match (self, is_leaving) {
            (State::Alive, false) => Presence::Counts,
            (State::Alive, true) => Presence::Leaving,
            (State::Returning | State::Suspect, false) => Presence::Away,
            (State::Stopped | State::Rejoining, false) => Presence::Expected,
            (State::Dead, _) | (_, true) => Presence::Gone,
        }
    }
}

/// The signs of life of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    /// When it was last heard, or else since when it could have been: the main server's start.
    pub heard: Moment,
    /// Its control connection stands.
    pub connected: bool,
    /// What it holds was compared with the books since it came up.
    pub compared: bool,
    /// It said that it goes, and until when it is to be waited for.
    pub stopped: Option<Stop>,
}

/// A planned stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// From then on its silence is as good as any other.
    pub back_by: Moment,
    /// It has started again since.
    pub is_back: bool,
}

impl Signs {
    /// The node's state at `now`, where `interval` is the time between heartbeats.
    pub fn state(&self, interval: Duration, now: Moment) -> State {
        let silent = now.since(self.heard);
        let stop = self.stopped.filter(|stop| now < stop.back_by);
        if stop.is_some_and(|stop| !stop.is_back) {
            State::Stopped
        } else if silent >= interval * DEAD_AFTER {
            State::Dead
        } else if !self.connected || silent >= interval * SUSPECT_AFTER {
            State::Suspect
        } else if !self.compared {
            // Were it waited for no more, the comparison would have everything copied that it saves.
            stop.map_or(State::Returning, |_| State::Rejoining)
        } else {
            State::Alive
        }
    }

    /// True when an answer of the node is overdue, though it is not suspect yet.
    pub fn is_slow(&self, interval: Duration, now: Moment) -> bool {
        now.since(self.heard) >= interval * SLOW_AFTER
    }

    /// When time alone will change the state next, if it ever will.
    pub fn next_change(&self, interval: Duration, now: Moment) -> Option<Moment> {
        let (suspect, dead) =
            (self.heard + interval * SUSPECT_AFTER, self.heard + interval * DEAD_AFTER);
        match self.state(interval, now) {
            State::Alive | State::Returning => Some(suspect),
            State::Suspect => Some(dead),
            State::Stopped => self.stopped.map(|stop| stop.back_by),
            State::Rejoining => self.stopped.map(|stop| stop.back_by.min(suspect)),
            State::Dead => None,
        }
    }

    /// The node has started: what it holds is to be compared. A stop that it is back from already is
    /// no reason to wait for it a second time.
    pub fn start(&mut self, now: Moment) {
        let stopped = self.stopped.filter(|stop| !(stop.is_back && self.compared));
        // However long it might have stayed away.
        let back_by = |stop: Stop| stop.back_by.min(now + COMPARED_WITHIN);
        self.stopped = stopped.map(|stop| Stop { back_by: back_by(stop), is_back: true });
        self.compared = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    const ALL: [State; 6] = [
        State::Alive,
        State::Returning,
        State::Suspect,
        State::Dead,
        State::Stopped,
        State::Rejoining,
    ];

    fn signs() -> Signs {
        Signs { heard: Moment(100_000), connected: true, compared: true, stopped: None }
    }

    fn state_after(signs: Signs, silence_s: u64) -> State {
        signs.state(INTERVAL, signs.heard + Duration::from_secs(silence_s))
    }

    #[test]
    fn a_silent_node_is_suspect_after_15_s_and_dead_after_60_s() {
        assert_eq!(state_after(signs(), 14), State::Alive);
        assert_eq!(state_after(signs(), 15), State::Suspect);
        assert_eq!(state_after(signs(), 59), State::Suspect);
        assert_eq!(state_after(signs(), 60), State::Dead);
    }

    #[test]
    fn a_broken_control_connection_makes_a_node_suspect_at_once() {
        let cut = Signs { connected: false, ..signs() };
        assert_eq!(state_after(cut, 0), State::Suspect);
        assert_eq!(state_after(cut, 60), State::Dead);
    }

    #[test]
    fn a_node_counts_only_after_its_inventory_was_compared() {
        let back = Signs { compared: false, ..signs() };
        assert_eq!(state_after(back, 0), State::Returning);
    }

    #[test]
    fn a_planned_stop_is_no_silence_until_the_node_should_be_back() {
        let stop = Stop { back_by: signs().heard + Duration::from_secs(600), is_back: false };
        let gone = Signs { stopped: Some(stop), connected: false, ..signs() };
        assert_eq!(state_after(gone, 599), State::Stopped);
        assert_eq!(state_after(gone, 600), State::Dead);
        let short = Stop { back_by: signs().heard + Duration::from_secs(5), is_back: false };
        assert_eq!(state_after(Signs { stopped: Some(short), ..gone }, 5), State::Suspect);
    }

    // It was waited for until it came, and then everything on it was copied while it was compared.
    #[test]
    fn a_node_that_is_back_in_time_is_waited_for_until_it_was_compared() {
        let stop = Stop { back_by: signs().heard + Duration::from_secs(10), is_back: false };
        let mut back = Signs { stopped: Some(stop), ..signs() };
        back.start(signs().heard);
        assert_eq!(state_after(back, 0).presence(false), Presence::Expected);
        // Not for as long as it might have stayed away.
        let long = Stop { back_by: Moment(u64::MAX), is_back: false };
        let mut early = Signs { stopped: Some(long), ..signs() };
        early.start(signs().heard);
        let stopped = early.stopped.expect("it had said so");
        assert_eq!(stopped.back_by, signs().heard + COMPARED_WITHIN);
        assert_eq!(state_after(back, 10), State::Returning);
        assert_eq!(state_after(Signs { connected: false, ..back }, 0), State::Suspect);
        back.start(signs().heard);
        assert_eq!(state_after(back, 0), State::Rejoining);
        back.compared = true;
        assert_eq!(state_after(back, 0), State::Alive);
        back.start(signs().heard);
        assert_eq!(state_after(back, 0), State::Returning);
    }

    #[test]
    fn copies_on_a_node_that_leaves_can_be_read_and_are_worth_nothing_else() {
        for state in ALL {
            let counts = state.presence(false) == Presence::Counts;
            assert_eq!(counts, state == State::Alive);
            let readable = state.presence(true) == Presence::Leaving;
            assert_eq!(readable, state == State::Alive);
            assert_ne!(state.presence(true), Presence::Away);
        }
    }

    proptest! {
        #[test]
        fn silence_changes_the_state_exactly_when_it_was_said_to(
            connected: bool, compared: bool,
            stop in prop::option::of((0u64..100_000, any::<bool>())), silence in 0u64..100_000,
        ) {
            let stopped = stop.map(|(after, is_back)| {
                Stop { back_by: Moment(signs().heard.0 + after), is_back }
            });
            let signs = Signs { connected, compared, stopped, ..signs() };
            let now = Moment(signs.heard.0 + silence);
            let state = signs.state(INTERVAL, now);
            match signs.next_change(INTERVAL, now) {
                None => prop_assert_eq!(signs.state(INTERVAL, Moment(u64::MAX)), state),
                Some(at) => {
                    prop_assert!(at > now);
                    prop_assert_eq!(signs.state(INTERVAL, Moment(at.0 - 1)), state);
                    prop_assert_ne!(signs.state(INTERVAL, at), state);
                }
            }
        }
    }
}
