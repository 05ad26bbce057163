//! How much more may be stored: within the space offered, and without touching the reserve that is
//! kept free on the file system.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::{Clock, Moment};

use super::error::StoreError;
use super::format::FIRST_RECORD_AT;
use super::store::{Store, StoreOptions, lock};

/// How long a look at the file system is relied on: others write there too.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the store holds and what it could still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The bytes offered, as configured.
    pub offered: u64,
    /// The bytes that segments take, removed chunks included.
    pub used: u64,
    /// The bytes that can still be appended as it is, headers included: without what compaction
    /// could free.
    pub free: u64,
    /// The chunks held.
    pub chunks: u64,
    /// Their bytes.
    pub chunk_bytes: u64,
    /// The bytes of removed chunks that can be restored and are not to be given up yet.
    pub trash_held: u64,
    /// The bytes of those that can be restored until their space is needed.
    pub trash_due: u64,
    /// The bytes of records that nobody will read again: these can be freed.
    pub dead: u64,
}

impl Space {
    /// The bytes of all that can be restored.
    pub fn trash(&self) -> u64 {
        self.trash_held + self.trash_due
    }
}

impl Store {
    /// What is held and what still fits. Asks the file system.
    pub fn space(&self) -> Space {
        let on_disk = self.meter.look().unwrap_or_else(|error| {
            log::warn!("free space unknown directory={} error={error}", self.directory.display());
            0
        });
        self.pass_time();
        let offered = self.options.offered_bytes;
        let state = lock(&self.state);
        let used = state.used;
        let index = self.index();
        let (trash_held, trash_due) = index.remains.trash_bytes();
        let headers = FIRST_RECORD_AT * (state.open.len() + state.sealed.len()) as u64;
        let kept = headers + index.record_bytes() + trash_held + trash_due;
        Space {
            offered,
            used,
            free: offered.saturating_sub(used).min(on_disk),
            chunks: index.len() as u64,
            chunk_bytes: index.bytes(),
            trash_held,
            trash_due,
            dead: used.saturating_sub(kept),
        }
    }

    /// Makes trash due that was held long enough.
    pub(super) fn pass_time(&self) {
        let passed = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let now = passed(self.options.clock.now().since(self.opened));
        self.index_mut().remains.pass_time(now, passed(self.options.trash_hold));
    }
}

/// What must stay free on a file system of `total` bytes: the larger of 5 % and 1 GiB, but at most a
/// tenth of the space offered.
fn reserve(total: u64, offered: u64) -> u64 {
    (total / 20).max(1 << 30).min(offered / 10)
}

/// Watches the free space of the file system without a system call for each chunk.
#[derive(Debug)]
pub(super) struct Meter {
    directory: PathBuf,
    offered: u64,
    reserve: Option<u64>,
    clock: Clock,
    /// Never held across the system call.
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Moment,
    /// What was free above the reserve, less what was admitted since.
    free: u64,
}

impl Meter {
    pub fn new(directory: &Path, options: &StoreOptions) -> Result<Meter, StoreError> {
        let clock = options.clock.clone();
        let meter = Meter {
            directory: directory.to_path_buf(),
            offered: options.offered_bytes,
            reserve: options.reserve_bytes,
            seen: Mutex::new(Seen { at: clock.now(), free: 0 }),
            clock,
        };
        meter.look()?;
        Ok(meter)
    }

    /// Takes `bytes` from what is free on the file system, or says `NoSpace`.
    pub fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        if self.take(bytes) {
            return Ok(());
        }
        let free = self.look()?;
        if self.take(bytes) { Ok(()) } else { Err(StoreError::NoSpace { needed: bytes, free }) }
    }

    fn take(&self, bytes: u64) -> bool {
        let mut seen = lock(&self.seen);
        if self.clock.now().since(seen.at) >= LOOK_AGAIN_AFTER || seen.free < bytes {
            return false;
        }
        seen.free -= bytes;
        true
    }

    /// The bytes free with the reserve, which compaction may use, as of now.
    pub fn look_below(&self) -> Result<u64, StoreError> {
        let found = rustix::fs::statvfs(&self.directory).map_err(|error| {
            StoreError::io("look at the free space of", &self.directory)(error.into())
        })?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// The bytes free above the reserve, as of now.
    pub fn look(&self) -> Result<u64, StoreError> {
        let found = rustix::fs::statvfs(&self.directory).map_err(|error| {
            StoreError::io("look at the free space of", &self.directory)(error.into())
        })?;
        let total = found.f_blocks.saturating_mul(found.f_frsize);
        let kept = self.reserve.unwrap_or_else(|| reserve(total, self.offered));
        let free = found.f_bavail.saturating_mul(found.f_frsize).saturating_sub(kept);
        *lock(&self.seen) = Seen { at: self.clock.now(), free };
        Ok(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_the_larger_of_5_percent_and_1_gib_within_a_tenth_of_the_space_offered() {
        const GIB: u64 = 1 << 30;
        assert_eq!(reserve(100 * GIB, 1000 * GIB), 5 * GIB);
        assert_eq!(reserve(10 * GIB, 1000 * GIB), GIB);
        assert_eq!(reserve(100 * GIB, 20 * GIB), 2 * GIB);
        assert_eq!(reserve(10 * GIB, 5 * GIB), GIB / 2);
    }
}
