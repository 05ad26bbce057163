//! Removed files of the model, and changes of the copies wanted.

use std::collections::{BTreeMap, BTreeSet};

use super::Model;
use super::names::Thing;
use crate::catalog::{CopiesSet, MAX_PART_CHUNKS, Refusal, RemovedEntry, SeenFile};
use crate::clock::WallTime;
use crate::ids::{AccountId, Serial, Version};
use crate::remote_path::RemotePath;

/// A file that was removed, as it was.
#[derive(Clone)]
pub(super) struct Removed {
    pub(super) account: AccountId,
    pub(super) path: RemotePath,
    pub(super) at: WallTime,
    pub(super) thing: Thing,
}

impl Model {
    /// The removed files at or below a path, the latest first.
    fn removed_below(&self, account: AccountId, path: &RemotePath) -> Vec<(Version, &Removed)> {
        let mut found: Vec<_> = self
            .removed
            .iter()
            .filter(|(_, removed)| removed.account == account && removed.path.is_within(path))
            .map(|(version, removed)| (*version, removed))
            .collect();
        found.sort_by_key(|(version, removed)| std::cmp::Reverse((removed.at, *version)));
        found
    }

    pub(super) fn removed(
        &self,
        account: AccountId,
        path: &RemotePath,
        after: Option<Version>,
        limit: usize,
    ) -> Vec<RemovedEntry> {
        let start = match after {
            None => (WallTime(u64::MAX), Version(u64::MAX)),
            Some(version) => match self.removed.get(&version) {
                Some(removed) if removed.account == account => (removed.at, version),
                _ => return Vec::new(),
            },
        };
        let mut found = self.removed_below(account, path);
        found.retain(|(version, removed)| (removed.at, *version) < start);
        let entry = |(version, removed): (Version, &Removed)| RemovedEntry {
            path: removed.path.clone(),
            info: self.versions[&version].info.clone(),
            removed_at: removed.at,
        };
        found.into_iter().take(limit).map(entry).collect()
    }

    pub(super) fn undelete(
        &mut self,
        account: AccountId,
        path: &RemotePath,
        version: Option<Version>,
    ) -> Result<Version, Refusal> {
        let mut found = self.removed_below(account, path);
        found.retain(|(other, removed)| {
            removed.path == *path && version.is_none_or(|version| version == *other)
        });
        let found = found.first().map(|(version, _)| *version);
        let version = found.ok_or_else(|| Refusal::NotFound(path.to_string()))?;
        self.make_above(account, path)?;
        if self.thing(account, path).is_some() {
            return Err(Refusal::Exists(path.to_string()));
        }
        let thing = self.removed.remove(&version).expect("just found").thing;
        if let Thing::File { versions, .. } = &thing {
            for version in versions {
                if let Some(version) = self.versions.get_mut(version) {
                    version.is_removed = false;
                }
            }
        }
        self.versions.get_mut(&version).expect("it did not expire").ended_at = None;
        self.tree.insert((account, path.clone()), thing);
        Ok(version)
    }

    pub(super) fn seen_files(&self, after: Option<u64>, limit: usize) -> Vec<SeenFile> {
        let mut files = BTreeMap::new();
        for ((account, path), thing) in &self.tree {
            let Thing::File { id: position, .. } = *thing else { continue };
            let version = thing.current().expect("a file has one");
            let chunk_count = self.versions[&version].info.chunk_count;
            let (account, path) = (*account, path.clone());
            files.insert(position, SeenFile { position, account, path, version, chunk_count });
        }
        let mut files: Vec<_> = files.into_values().collect();
        files.retain(|file| Some(file.position) > after);
        files.truncate(limit);
        files
    }

    pub(super) fn set_copies(
        &mut self,
        account: AccountId,
        path: &RemotePath,
        copies: u8,
        after: Option<u64>,
        limit: usize,
    ) -> Result<CopiesSet, Refusal> {
        self.find(account, path)?;
        let mut files = self.seen_files(None, usize::MAX);
        files.retain(|file| file.account == account && file.path.is_within(path));
        files.sort_by_key(|file| file.path.components().map(String::from).collect::<Vec<_>>());
        let start = files.iter().position(|file| Some(file.position) == after);
        let mut set = CopiesSet::default();
        let mut changed = BTreeSet::new();
        let (mut looked_at, mut last) = (0, None);
        for file in files.into_iter().skip(start.map_or(0, |start| start + 1)) {
            if looked_at >= limit.max(1) {
                set.next = last;
                break;
            }
            last = Some(file.position);
            looked_at += (file.chunk_count as usize).max(1);
            set.files += 1;
            self.set_copies_of(file.version, copies, &mut set, &mut changed);
        }
        set.changed = changed.into_iter().take(MAX_PART_CHUNKS).collect();
        Ok(set)
    }

    fn set_copies_of(
        &mut self,
        version: Version,
        copies: u8,
        set: &mut CopiesSet,
        changed: &mut BTreeSet<Serial>,
    ) {
        let facts = self.versions.get_mut(&version).expect("a file's current one");
        facts.info.copies = copies;
        let named = facts.chunks.clone();
        for serial in named.iter().copied().collect::<BTreeSet<_>>() {
            let own = named.iter().filter(|other| **other == serial).count();
            let is_shared = self.places(serial) > own;
            let record = &mut self.chunks.get_mut(&serial).expect("a version names it").record;
            let wanted = if is_shared { record.wanted.max(copies) } else { copies };
            if wanted != record.wanted {
                changed.insert(serial);
            }
            record.wanted = wanted;
            set.chunks += 1;
            set.kept += u64::from(wanted > copies);
        }
    }
}
