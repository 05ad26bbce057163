//! What was read of late, in memory: files that are read again and again cost no query.
//!
//! It is good for one *epoch*, which ends with every early answer and with every commit: after what was
//! changed can be read, and before anybody is told of it. What was read is kept for the epoch that began
//! before the reading and goes on after it. So whoever was told of a change finds nothing here from
//! before it. A catalog that is written to all the time gains nothing, one that is read much.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::catalog::{ChunkRecord, Entry};
use crate::ids::{AccountId, Version};
use crate::remote_path::RemotePath;

/// How many names, and how many manifests, are kept: some 500 bytes each.
const MOST: usize = 16 * 1024;
/// Longer paths are not kept: a few would be as large as all others.
const MOST_PATH_BYTES: usize = 256;
/// Files of more chunks are large enough not to be in a hurry.
const MOST_CHUNKS: usize = 4;

/// Rows that were read in the current epoch.
#[derive(Debug, Default)]
pub(super) struct Hot(RwLock<Rows>);

#[derive(Debug, Default)]
struct Rows {
    epoch: u64,
    names: HashMap<AccountId, HashMap<RemotePath, Entry>>,
    count: usize,
    /// Whole ones.
    manifests: HashMap<(AccountId, Version), Vec<ChunkRecord>>,
}

impl Hot {
    /// What stands at a path, if that is known in this epoch.
    pub fn name(&self, epoch: u64, account: AccountId, path: &RemotePath) -> Option<Entry> {
        let rows = self.rows();
        let entry = rows.names.get(&account)?.get(path)?;
        (rows.epoch == epoch).then(|| entry.clone())
    }

    /// The chunks of a version, if they are known in this epoch.
    pub fn manifest(&self, epoch: u64, of: (AccountId, Version)) -> Option<Vec<ChunkRecord>> {
        let rows = self.rows();
        let manifest = rows.manifests.get(&of)?;
        (rows.epoch == epoch).then(|| manifest.clone())
    }

    /// Keeps what was read. The epoch is that from before, and still that after the reading.
    pub fn keep_name(&self, epoch: u64, account: AccountId, path: &RemotePath, entry: &Entry) {
        if path.as_str().len() > MOST_PATH_BYTES {
            return;
        }
        self.change(epoch, |rows| {
            if rows.count >= MOST {
                (rows.names, rows.count) = (HashMap::new(), 0);
            }
            let names = rows.names.entry(account).or_default();
            rows.count += usize::from(names.insert(path.clone(), entry.clone()).is_none());
        });
    }

    /// The same of all chunks of a version.
    pub fn keep_manifest(&self, epoch: u64, of: (AccountId, Version), chunks: &[ChunkRecord]) {
        if chunks.len() > MOST_CHUNKS {
            return;
        }
        self.change(epoch, |rows| {
            if rows.manifests.len() >= MOST {
                rows.manifests = HashMap::new();
            }
            rows.manifests.insert(of, chunks.to_vec());
        });
    }

    fn change(&self, epoch: u64, change: impl FnOnce(&mut Rows)) {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if rows.epoch < epoch {
            // Also the memory: an epoch may be the last in which anything is read.
            *rows = Rows { epoch, ..Rows::default() };
        }
        if rows.epoch == epoch {
            change(&mut rows);
        }
    }

    fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}
