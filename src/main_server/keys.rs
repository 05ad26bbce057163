//! Which token key of a node is used: the newest that the node acknowledged, and a new one
//! announced every hour. The keys themselves are derived (see `token::node_key`).

use std::time::Duration;

use crate::clock::Moment;
use crate::ids::KeyId;

/// How long a key is used before a new one is announced.
pub const KEY_LIFE: Duration = Duration::from_secs(3600);

/// The keys of one node.
#[derive(Debug, Clone, Copy)]
pub struct KeyRing {
    acknowledged: Option<KeyId>,
    /// The newest that the node is told of; never below `acknowledged`.
    announced: KeyId,
    announced_at: Moment,
}

impl KeyRing {
    /// The keys of a node of which the catalog knows this one.
    pub fn new(acknowledged: Option<KeyId>, now: Moment) -> KeyRing {
        let announced = acknowledged.unwrap_or(KeyId(1));
        KeyRing { acknowledged, announced, announced_at: now }
    }

    /// The key to make tokens with; `None` before the node acknowledged any.
    pub fn minting(&self) -> Option<KeyId> {
        self.acknowledged
    }

    /// The keys that the node must have.
    pub fn announced(&self) -> Vec<KeyId> {
        let older = self.acknowledged.filter(|&key| key != self.announced);
        older.into_iter().chain([self.announced]).collect()
    }

    /// True when a node whose newest key is `newest` lacks one.
    pub fn lacks(&self, newest: Option<KeyId>) -> bool {
        newest.is_none_or(|newest| newest < self.announced)
    }

    /// Announces a new key when the one in use is old enough and the node has it.
    pub fn renew(&mut self, now: Moment) {
        let is_known = self.acknowledged == Some(self.announced);
        if is_known && now.since(self.announced_at) >= KEY_LIFE {
            self.announced = KeyId(self.announced.0.saturating_add(1));
            self.announced_at = now;
        }
    }

    /// True when the acknowledgement of this key is new.
    pub fn is_news(&self, newest: KeyId) -> bool {
        self.acknowledged.is_none_or(|known| known < newest)
    }

    /// The node has this key on its disk. It can be above what was announced when this main server
    /// was restored from a backup: the node forgets old keys, so the newest that it has it is.
    pub fn acknowledge(&mut self, newest: KeyId) {
        if self.is_news(newest) {
            self.acknowledged = Some(newest);
            self.announced = self.announced.max(newest);
        }
    }

    /// True for a key with which tokens for the node may have been made: as proof of what was once
    /// allowed, old ones are good too.
    pub fn is_known(&self, key: KeyId) -> bool {
        key <= self.announced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_used_only_after_it_was_acknowledged() {
        let mut keys = KeyRing::new(None, Moment(0));
        assert_eq!(keys.minting(), None);
        assert_eq!(keys.announced(), [KeyId(1)]);
        keys.acknowledge(KeyId(1));
        assert_eq!(keys.minting(), Some(KeyId(1)));

        keys.renew(Moment(0) + KEY_LIFE);
        assert_eq!(keys.minting(), Some(KeyId(1)));
        assert_eq!(keys.announced(), [KeyId(1), KeyId(2)]);
        assert!(keys.lacks(Some(KeyId(1))) && !keys.lacks(Some(KeyId(2))));
        keys.acknowledge(KeyId(2));
        assert_eq!(keys.minting(), Some(KeyId(2)));
        assert!(keys.is_known(KeyId(1)) && !keys.is_known(KeyId(3)));
    }

    #[test]
    fn no_further_key_is_announced_before_the_last_one_is_acknowledged() {
        let mut keys = KeyRing::new(Some(KeyId(4)), Moment(0));
        keys.renew(Moment(0) + KEY_LIFE);
        keys.renew(Moment(0) + KEY_LIFE * 5);
        assert_eq!(keys.announced(), [KeyId(4), KeyId(5)]);
    }

    #[test]
    fn a_node_that_has_a_newer_key_than_the_books_is_believed() {
        let mut keys = KeyRing::new(Some(KeyId(4)), Moment(0));
        keys.acknowledge(KeyId(7));
        assert_eq!(keys.minting(), Some(KeyId(7)));
        keys.acknowledge(KeyId(6));
        assert_eq!(keys.minting(), Some(KeyId(7)));
    }
}
