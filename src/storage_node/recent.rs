//! The copies that were confirmed in the last minute. A main server answers some confirmations
//! before they are on its disk; one that started anew since is told of them again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Moment};
use crate::token::Token;

/// A main server syncs what it answered early well within this.
const KEPT: Duration = Duration::from_secs(60);
/// The most copies that are remembered: the latest.
const MAX_TOKENS: usize = 4096;

/// Tokens of copies that the main server said count.
#[derive(Debug)]
pub(super) struct Recent {
    clock: Clock,
    /// By age.
    tokens: Mutex<VecDeque<(Moment, Token)>>,
}

impl Recent {
    pub fn new(clock: Clock) -> Recent {
        Recent { clock, tokens: Mutex::default() }
    }

    /// These were confirmed just now.
    pub fn note(&self, confirmed: impl IntoIterator<Item = Token>) {
        let now = self.clock.now();
        let mut tokens = self.lock();
        tokens.extend(confirmed.into_iter().map(|token| (now, token)));
        let surplus = tokens.len().saturating_sub(MAX_TOKENS);
        tokens.drain(..surplus);
    }

    /// Those of the last minute, by age.
    pub fn tokens(&self) -> Vec<Token> {
        self.trim();
        self.lock().iter().map(|(_, token)| token.clone()).collect()
    }

    /// Forgets those that are older.
    pub fn trim(&self) {
        let now = self.clock.now();
        let mut tokens = self.lock();
        while tokens.front().is_some_and(|(at, _)| now.since(*at) >= KEPT) {
            tokens.pop_front();
        }
        if tokens.is_empty() {
            tokens.shrink_to_fit();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Moment, Token)>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;

    #[test]
    fn confirmations_are_remembered_for_a_minute_and_never_more_than_so_many() {
        let clock = Clock::manual(WallTime(0));
        let recent = Recent::new(clock.clone());
        let token = |n: usize| Token::from_text(n.to_string());
        recent.note([token(1)]);
        clock.advance(KEPT - Duration::from_millis(1));
        recent.note([token(2)]);
        assert_eq!(recent.tokens(), [token(1), token(2)]);
        clock.advance(Duration::from_millis(1));
        assert_eq!(recent.tokens(), [token(2)]);
        recent.note((0..MAX_TOKENS).map(token));
        assert_eq!(recent.tokens().len(), MAX_TOKENS);
        assert_eq!(recent.tokens()[0], token(0));
        clock.advance(KEPT);
        recent.trim();
        assert_eq!(recent.lock().capacity(), 0);
    }
}
