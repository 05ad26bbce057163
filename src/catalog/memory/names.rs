//! Names and contents of the model: a map from whole paths to what stands there.

use std::collections::BTreeSet;

use super::Model;
use super::restoring::Removed;
use crate::catalog::{
    ChunkRecord, Committed, Condition, Entry, EntryKind, FileInfo, LiveNodes, MAX_NAMED_CHUNKS,
    MAX_PART_CHUNKS, MAX_PARTS, Manifest, NewFile, PARTS_KEPT, Refusal,
};
use crate::clock::WallTime;
use crate::ids::{AccountId, ChunkId, RequestId, Serial, Version, min_copies};
use crate::remote_path::RemotePath;

/// What stands at a path other than the root.
#[derive(Clone)]
pub(super) enum Thing {
    Directory,
    /// The versions, the current one last.
    File {
        versions: Vec<Version>,
        /// Its number.
        id: u64,
    },
}

impl Thing {
    pub(super) fn current(&self) -> Option<Version> {
        match self {
            Thing::Directory => None,
            Thing::File { versions, .. } => versions.last().copied(),
        }
    }
}

#[derive(Clone)]
pub(super) struct FileVersion {
    account: AccountId,
    pub(super) info: FileInfo,
    pub(super) chunks: Vec<Serial>,
    pub(super) is_removed: bool,
    /// The beginning of time when it was removed for good.
    pub(super) ended_at: Option<WallTime>,
}

impl Model {
    pub(super) fn thing(&self, account: AccountId, path: &RemotePath) -> Option<&Thing> {
        match path.is_root() {
            true => Some(&Thing::Directory),
            false => self.tree.get(&(account, path.clone())),
        }
    }

    /// Refuses unless all that leads to `path` is there and a directory.
    fn check_above(&self, account: AccountId, path: &RemotePath) -> Result<(), Refusal> {
        let Some(parent) = path.parent() else { return Ok(()) };
        self.check_above(account, &parent)?;
        match self.thing(account, &parent) {
            None => Err(Refusal::NotFound(parent.to_string())),
            Some(Thing::File { .. }) => Err(Refusal::NotADirectory(parent.to_string())),
            Some(Thing::Directory) => Ok(()),
        }
    }

    pub(super) fn find(&self, account: AccountId, path: &RemotePath) -> Result<Thing, Refusal> {
        self.check_above(account, path)?;
        let thing = self.thing(account, path);
        thing.cloned().ok_or_else(|| Refusal::NotFound(path.to_string()))
    }

    pub(super) fn make_above(
        &mut self,
        account: AccountId,
        path: &RemotePath,
    ) -> Result<(), Refusal> {
        let Some(parent) = path.parent() else { return Ok(()) };
        self.make_above(account, &parent)?;
        match self.thing(account, &parent) {
            Some(Thing::Directory) => Ok(()),
            Some(Thing::File { .. }) => Err(Refusal::NotADirectory(parent.to_string())),
            None => {
                self.add_thing(account, &parent, Thing::Directory);
                Ok(())
            }
        }
    }

    /// Each new name takes a number, as it does on disk, so that all numbers can be compared.
    fn add_thing(&mut self, account: AccountId, path: &RemotePath, mut thing: Thing) {
        let number = self.draw();
        if let Thing::File { id, .. } = &mut thing {
            *id = number;
        }
        self.tree.insert((account, path.clone()), thing);
    }

    /// The paths below a directory, at whatever depth.
    fn below(&self, account: AccountId, path: &RemotePath) -> Vec<RemotePath> {
        let keys = self.tree.keys().filter(|(owner, _)| *owner == account);
        let below = keys.filter(|(_, other)| other != path && other.is_within(path));
        below.map(|(_, other)| other.clone()).collect()
    }

    pub(super) fn make_directory(
        &mut self,
        account: AccountId,
        path: &RemotePath,
        parents: bool,
    ) -> Result<(), Refusal> {
        match parents {
            true => self.make_above(account, path)?,
            false => self.check_above(account, path)?,
        }
        match self.thing(account, path) {
            None => {
                self.add_thing(account, path, Thing::Directory);
                Ok(())
            }
            Some(Thing::Directory) if parents => Ok(()),
            Some(_) => Err(Refusal::Exists(path.to_string())),
        }
    }

    pub(super) fn move_entry(
        &mut self,
        account: AccountId,
        now: WallTime,
        from: &RemotePath,
        to: &RemotePath,
        replace: bool,
    ) -> Result<(), Refusal> {
        refuse_root(from)?;
        let thing = self.find(account, from)?;
        if from == to {
            return Ok(());
        }
        refuse_root(to)?;
        if matches!(thing, Thing::Directory) && to.is_within(from) {
            return Err(Refusal::IntoItself { from: from.to_string(), to: to.to_string() });
        }
        self.check_above(account, to)?;
        match self.thing(account, to) {
            None => {}
            Some(Thing::File { .. }) if replace => self.end_file(account, now, to, false),
            Some(_) => return Err(Refusal::Exists(to.to_string())),
        }
        for old in self.below(account, from) {
            let rest = &old.as_str()[from.as_str().len()..];
            let new = format!("{to}{rest}").parse();
            let new = new.map_err(|_| Refusal::PathTooLong(to.to_string()))?;
            let thing = self.tree.remove(&(account, old)).expect("just listed");
            self.tree.insert((account, new), thing);
        }
        self.tree.remove(&(account, from.clone()));
        self.tree.insert((account, to.clone()), thing);
        Ok(())
    }

    /// Takes a file out of the tree; its versions stay.
    fn end_file(&mut self, account: AccountId, now: WallTime, path: &RemotePath, purge: bool) {
        let thing = self.tree.remove(&(account, path.clone())).expect("the caller found it");
        let Thing::File { versions, .. } = &thing else { return };
        for version in versions {
            if let Some(version) = self.versions.get_mut(version) {
                version.is_removed = true;
                match purge {
                    true => version.ended_at = Some(WallTime(0)),
                    false => version.ended_at = version.ended_at.or(Some(now)),
                }
            }
        }
        if !purge {
            let current = thing.current().expect("a file has one");
            let removed = Removed { account, path: path.clone(), at: now, thing };
            self.removed.insert(current, removed);
        }
    }

    pub(super) fn remove(
        &mut self,
        account: AccountId,
        now: WallTime,
        path: &RemotePath,
        recursive: bool,
        if_version: Option<Version>,
        purge: bool,
    ) -> Result<u64, Refusal> {
        refuse_root(path)?;
        let thing = self.find(account, path)?;
        let current = thing.current();
        if if_version.is_some() && current != if_version {
            return Err(Refusal::Conflict { path: path.to_string(), current });
        }
        let mut doomed = self.below(account, path);
        if !doomed.is_empty() && !recursive {
            return Err(Refusal::NotEmpty(path.to_string()));
        }
        doomed.push(path.clone());
        let mut files = 0;
        for path in doomed {
            match self.thing(account, &path) {
                Some(Thing::File { .. }) => {
                    self.end_file(account, now, &path, purge);
                    files += 1;
                }
                _ => drop(self.tree.remove(&(account, path))),
            }
        }
        Ok(files)
    }

    fn entry(&self, path: &RemotePath, thing: &Thing) -> Entry {
        let kind = match thing.current() {
            None => EntryKind::Directory,
            Some(version) => EntryKind::File(self.versions[&version].info.clone()),
        };
        Entry { name: path.name().unwrap_or_default().to_string(), kind }
    }

    pub(super) fn look_up(&self, account: AccountId, path: &RemotePath) -> Result<Entry, Refusal> {
        Ok(self.entry(path, &self.find(account, path)?))
    }

    pub(super) fn list(
        &self,
        account: AccountId,
        path: &RemotePath,
    ) -> Result<Vec<Entry>, Refusal> {
        if let Thing::File { .. } = self.find(account, path)? {
            return Err(Refusal::NotADirectory(path.to_string()));
        }
        let mut entries = Vec::new();
        for ((owner, other), thing) in &self.tree {
            if *owner == account && other.parent().as_ref() == Some(path) {
                entries.push(self.entry(other, thing));
            }
        }
        entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(entries)
    }

    pub(super) fn version(
        &self,
        account: AccountId,
        version: Version,
    ) -> Result<FileInfo, Refusal> {
        match self.versions.get(&version) {
            Some(found) if found.account == account && !found.is_removed => Ok(found.info.clone()),
            _ => Err(Refusal::NotFound(format!("version {version}"))),
        }
    }

    pub(super) fn manifest(
        &self,
        account: AccountId,
        version: Version,
    ) -> Result<Vec<ChunkRecord>, Refusal> {
        match self.versions.get(&version) {
            Some(found) if found.account == account && !found.is_removed => {
                let records = found.chunks.iter().map(|serial| self.chunks[serial].record.clone());
                Ok(records.collect())
            }
            _ => Err(Refusal::NotFound(format!("version {version}"))),
        }
    }

    pub(super) fn stage(
        &mut self,
        account: AccountId,
        upload: RequestId,
        part: u32,
        chunks: &[ChunkId],
        now: WallTime,
    ) -> Result<(), Refusal> {
        if part >= MAX_PARTS || chunks.len() > MAX_PART_CHUNKS {
            let what = format!("part {part} with {} chunks is above the limits", chunks.len());
            return Err(Refusal::BadManifest(what));
        }
        refuse_if_any(chunks, |id| self.locate(account, id).is_none())?;
        self.staged.insert((account, upload, part), (now, chunks.to_vec()));
        Ok(())
    }

    fn contents(
        &mut self,
        account: AccountId,
        now: WallTime,
        manifest: &Manifest,
    ) -> Result<Vec<ChunkId>, Refusal> {
        let (upload, parts) = match manifest {
            Manifest::Inline(chunks) => return Ok(chunks.clone()),
            Manifest::Staged { upload, parts } => (*upload, *parts),
        };
        let mut all = Vec::new();
        for part in 0..parts {
            match self.staged.get(&(account, upload, part)) {
                Some((at, chunks)) if *at + PARTS_KEPT > now => all.extend_from_slice(chunks),
                _ => {
                    let what = format!("part {part} of {parts} of upload {upload} is not there");
                    return Err(Refusal::BadManifest(what));
                }
            }
        }
        self.staged.retain(|&(owner, id, _), _| (owner, id) != (account, upload));
        Ok(all)
    }

    pub(super) fn commit(
        &mut self,
        account: AccountId,
        now: WallTime,
        live: &LiveNodes,
        file: &NewFile,
    ) -> Result<Committed, Refusal> {
        refuse_root(&file.path)?;
        match file.parents {
            true => self.make_above(account, &file.path)?,
            false => self.check_above(account, &file.path)?,
        }
        let there = self.thing(account, &file.path).cloned();
        if let Some(Thing::Directory) = there {
            return Err(Refusal::IsADirectory(file.path.to_string()));
        }
        let current = there.as_ref().and_then(Thing::current);
        let conflict = Refusal::Conflict { path: file.path.to_string(), current };
        match file.condition {
            Condition::Absent if current.is_some() => return Err(conflict),
            Condition::Version(version) if current != Some(version) => return Err(conflict),
            _ => {}
        }
        if there.is_none() {
            self.add_thing(account, &file.path, Thing::File { versions: Vec::new(), id: 0 });
        }
        let version = Version(self.draw());
        let ids = self.contents(account, now, &file.manifest)?;
        let on_live = |record: &ChunkRecord| {
            record.copies.iter().filter(|copy| live.contains(&copy.node)).count()
        };
        refuse_if_any(&ids, |id| match self.locate(account, id) {
            Some(record) => on_live(record) < min_copies(file.copies).into(),
            None => true,
        })?;
        let mut size = 0;
        let mut chunks = Vec::new();
        let mut under_copied = BTreeSet::new();
        for id in &ids {
            let serial = self.locate(account, id).expect("judged above").serial;
            let chunk = self.chunks.get_mut(&serial).expect("located above");
            chunk.record.wanted = chunk.record.wanted.max(file.copies);
            if on_live(&chunk.record) < chunk.record.wanted.into() {
                under_copied.insert(serial);
            }
            size += u64::from(chunk.record.length);
            chunks.push(serial);
        }
        let info = FileInfo {
            version,
            size,
            chunk_count: chunks.len() as u64,
            copies: file.copies,
            mtime_ms: file.mtime_ms,
            executable: file.executable,
        };
        let (is_removed, ended_at) = (false, None);
        self.versions.insert(version, FileVersion { account, info, chunks, is_removed, ended_at });
        if let Some(previous) = current.and_then(|previous| self.versions.get_mut(&previous)) {
            previous.ended_at = Some(now);
        }
        if let Some(Thing::File { versions, .. }) = self.tree.get_mut(&(account, file.path.clone()))
        {
            versions.push(version);
        }
        let under_copied = under_copied.into_iter().take(MAX_PART_CHUNKS).collect();
        Ok(Committed { version, size, under_copied })
    }
}

fn refuse_root(path: &RemotePath) -> Result<(), Refusal> {
    match path.is_root() {
        true => Err(Refusal::IsADirectory(path.to_string())),
        false => Ok(()),
    }
}

/// Refuses with the ids that are missing, each once, in the order given.
fn refuse_if_any(ids: &[ChunkId], is_missing: impl Fn(&ChunkId) -> bool) -> Result<(), Refusal> {
    let mut chunks: Vec<ChunkId> = Vec::new();
    for id in ids {
        if chunks.len() < MAX_NAMED_CHUNKS && is_missing(id) && !chunks.contains(id) {
            chunks.push(*id);
        }
    }
    if chunks.is_empty() { Ok(()) } else { Err(Refusal::NotStored { chunks }) }
}
