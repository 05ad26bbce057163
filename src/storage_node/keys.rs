//! The keys by which this node checks tokens, kept in `keys.json`, so that tokens are good across a
//! restart, also while the main server is away; and the main server's time, by which they expire.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Moment, WallTime};
use crate::durable;
use crate::ids::{KeyId, NodeId, Secret};
use crate::token::{Claims, Token, TokenError};
use crate::wire::node_to_main::TokenKey;

use super::error::NodeError;

/// The file's name.
pub(super) const FILE: &str = "keys.json";
/// How long a key is good after the main server has announced others without it. A token lives 15
/// minutes, and the main server goes on with the old key until it hears that the new one is safe.
const KEPT_AFTER: Duration = Duration::from_secs(30 * 60);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct HeldKey {
    id: KeyId,
    key: Secret,
    /// When, by the main server's clock, keys were announced of which it was none.
    superseded: Option<WallTime>,
}

impl HeldKey {
    fn is_good(&self, now: WallTime) -> bool {
        self.superseded.is_none_or(|at| now < at + KEPT_AFTER)
    }
}

/// The token keys. One thread at a time adds to them.
#[derive(Debug)]
pub(super) struct Keys {
    path: PathBuf,
    /// Held for memory only: what is in it is on disk already.
    held: Mutex<Vec<HeldKey>>,
}

impl Keys {
    /// Reads the keys of a node's directory; there are none before it has joined.
    pub fn open(directory: &Path) -> Result<Keys, NodeError> {
        let path = directory.join(FILE);
        let held = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| NodeError::BadFile {
                path: path.clone(),
                what: error.to_string(),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(NodeError::io("read", &path)(error)),
        };
        Ok(Keys { path, held: Mutex::new(held) })
    }

    /// Takes in what the main server announced: these keys are good, and others only for as long as
    /// tokens made with them may be about. Durable when this returns.
    pub fn announce(&self, announced: &[TokenKey], now: WallTime) -> Result<(), NodeError> {
        if announced.is_empty() {
            return Ok(());
        }
        let before = self.lock().clone();
        let is_announced = |held: &HeldKey| announced.iter().any(|key| key.id == held.id);
        let mut keys: Vec<HeldKey> = before.iter().filter(|k| !is_announced(k)).cloned().collect();
        for held in &mut keys {
            held.superseded.get_or_insert(now);
        }
        keys.retain(|held| held.is_good(now));
        let fresh = |key: &TokenKey| HeldKey { id: key.id, key: key.key, superseded: None };
        keys.extend(announced.iter().map(fresh));
        keys.sort_by_key(|held| held.id);
        if keys != before {
            let text = serde_json::to_vec_pretty(&keys).expect("keys are plain data");
            durable::replace_file(&self.path, &text).map_err(NodeError::io("write", &self.path))?;
            *self.lock() = keys;
        }
        Ok(())
    }

    /// The newest key of those that are good without end.
    pub fn newest(&self) -> Option<KeyId> {
        self.lock().iter().filter(|held| held.superseded.is_none()).map(|held| held.id).max()
    }

    /// What the token says, if it allows what is asked on `node` at `now`.
    pub fn check(
        &self,
        token: &Token,
        node: NodeId,
        allows: impl FnOnce(&Claims) -> bool,
        now: WallTime,
    ) -> Result<Claims, TokenError> {
        token.check(node, |id| self.find(id, now), allows, now)
    }

    /// What the token allowed when it was made, for orders: these come from the main server itself.
    pub fn check_proof(
        &self,
        token: &Token,
        node: NodeId,
        now: WallTime,
    ) -> Result<Claims, TokenError> {
        token.check_proof(node, |id| self.find(id, now))
    }

    fn find(&self, id: KeyId, now: WallTime) -> Option<Secret> {
        let keys = self.lock();
        keys.iter().find(|held| held.id == id && held.is_good(now)).map(|held| held.key)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HeldKey>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The main server's clock, as told by its replies and carried on by our monotonic one: a jump of
/// this machine's wall clock does not change it.
#[derive(Debug)]
pub(super) struct MainTime {
    clock: Clock,
    told: Mutex<Option<(WallTime, Moment)>>,
}

impl MainTime {
    /// Not told yet.
    pub fn new(clock: Clock) -> MainTime {
        MainTime { clock, told: Mutex::new(None) }
    }

    /// Takes the time from a reply that came just now.
    pub fn tell(&self, time: WallTime) {
        let at = self.clock.now();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, at));
    }

    /// The main server's time now; before it was told once, this machine's own.
    pub fn now(&self) -> WallTime {
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Some((time, at)) => time + self.clock.now().since(at),
            None => self.clock.wall(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AccountId, ChunkId, HashAlgorithm, Serial};
    use crate::token::Operation;

    fn key(id: u32) -> TokenKey {
        TokenKey { id: KeyId(id), key: Secret::from_bytes([id as u8; 32]) }
    }

    fn token(key: &TokenKey) -> Token {
        let claims = Claims {
            key: key.id,
            operation: Operation::Fetch,
            node: NodeId(1),
            id: ChunkId::of(HashAlgorithm::Blake3, b"x"),
            serial: Serial(1),
            length: 1,
            account: AccountId(1),
            wanted: 1,
            reason: 0,
            expires: WallTime(u64::MAX),
        };
        claims.mint(&key.key)
    }

    #[test]
    fn an_old_key_is_good_for_a_while_after_a_new_one_is_announced_and_then_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::open(directory.path()).unwrap();
        keys.announce(&[key(1)], WallTime(0)).unwrap();
        keys.announce(&[key(2)], WallTime(1000)).unwrap();
        assert_eq!(keys.newest(), Some(KeyId(2)));
        let end = WallTime(1000) + KEPT_AFTER;
        let check =
            |keys: &Keys, id, now| keys.check(&token(&key(id)), NodeId(1), |_| true, now).is_ok();
        assert!(check(&keys, 1, end - Duration::from_millis(1)));
        assert!(!check(&keys, 1, end));
        assert!(check(&keys, 2, end + KEPT_AFTER));
        // The same after a restart.
        let keys = Keys::open(directory.path()).unwrap();
        assert!(check(&keys, 1, WallTime(2000)) && check(&keys, 2, WallTime(2000)));
        assert!(!check(&keys, 1, end));
    }

    #[test]
    fn the_keys_are_readable_by_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        Keys::open(directory.path()).unwrap().announce(&[key(1)], WallTime(0)).unwrap();
        let mode = directory.path().join(FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_main_servers_time_goes_on_whatever_the_machines_wall_clock_does() {
        let clock = Clock::manual(WallTime(50));
        let time = MainTime::new(clock.clone());
        assert_eq!(time.now(), WallTime(50));
        time.tell(WallTime(1_000_000));
        clock.set_wall(WallTime(999_999_999));
        clock.advance(Duration::from_secs(2));
        assert_eq!(time.now(), WallTime(1_002_000));
    }
}
