//! New contents of files: staged in parts, checked, made visible.

use std::collections::BTreeSet;

use rusqlite::OptionalExtension;

use super::chunks::refer;
use super::names::{SERIALS_IN_PART, add_entry, child, find_directory, make_directories};
use super::nodes::left;
use super::rows::{
    ChunkRow, Done, Stop, chunk_by_id, id_bytes, id_from_bytes, signed, time, time_before,
};
use super::tree::end_version;
use super::writer::Books;
use crate::catalog::{
    Committed, Condition, LiveNodes, MAX_NAMED_CHUNKS, MAX_PART_CHUNKS, MAX_PARTS, Manifest,
    NewFile, PARTS_KEPT, Refusal,
};
use crate::clock::WallTime;
use crate::ids::{AccountId, ChunkId, RequestId, Serial, Version, min_copies};

/// A manifest of at most so many chunks stands in its version's row.
const MAX_INLINE_SERIALS: usize = 128;

pub(super) fn stage_part(
    books: &mut Books,
    account: AccountId,
    upload: RequestId,
    part: u32,
    chunks: &[ChunkId],
    now: WallTime,
) -> Done<()> {
    if part >= MAX_PARTS || chunks.len() > MAX_PART_CHUNKS {
        let what = format!("part {part} with {} chunks is above the limits", chunks.len());
        return Err(Refusal::BadManifest(what).into());
    }
    let mut missing = Missing::default();
    let mut bytes = Vec::with_capacity(chunks.len() * (1 + ID_BYTES));
    for id in chunks {
        if chunk_by_id(&books.conn, account, id)?.is_none() {
            missing.add(*id);
        }
        let id = id_bytes(id);
        bytes.push(id.len() as u8);
        bytes.extend_from_slice(&id);
    }
    missing.check()?;
    let key = (account.0, upload.as_bytes(), part);
    let sql = "DELETE FROM staged WHERE account = ? AND upload = ? AND part = ?";
    books.conn.prepare_cached(sql)?.execute(key)?;
    let sql = "INSERT INTO staged (account, upload, part, staged_at, ids) VALUES (?, ?, ?, ?, ?)";
    let now_ms = time(now);
    books.conn.prepare_cached(sql)?.execute((key.0, key.1, key.2, now_ms, bytes))?;
    // Parts of uploads that were given up go a few at a time; a part sent again is a new row.
    let sql = "DELETE FROM staged WHERE staged_at <= ?
               AND number IN (SELECT number FROM staged ORDER BY number LIMIT 4)";
    books.conn.prepare_cached(sql)?.execute((time_before(now, PARTS_KEPT),))?;
    Ok(())
}

/// The most bytes of an id in the tables.
const ID_BYTES: usize = 33;

/// The ids that keep a file from being stored, each once, in the order of the file.
#[derive(Default)]
struct Missing {
    named: Vec<ChunkId>,
    seen: BTreeSet<ChunkId>,
}

impl Missing {
    fn add(&mut self, id: ChunkId) {
        if self.named.len() < MAX_NAMED_CHUNKS && self.seen.insert(id) {
            self.named.push(id);
        }
    }

    fn check(self) -> Result<(), Refusal> {
        match self.named.is_empty() {
            true => Ok(()),
            false => Err(Refusal::NotStored { chunks: self.named }),
        }
    }
}

pub(super) fn commit_files(
    books: &mut Books,
    account: AccountId,
    now: WallTime,
    live: &LiveNodes,
    files: &[NewFile],
) -> Done<Vec<Result<Committed, Refusal>>> {
    // Whoever asked may not have heard yet that a node was struck off.
    let left = left(&books.conn)?;
    let live: LiveNodes = live.difference(&left).copied().collect();
    // Most of the time no file is refused. A savepoint for each of many costs as much as the files:
    // SQLite keeps every page that is changed under it once more, and walks that list at its end.
    let all = |books: &mut Books| -> Done<Vec<Committed>> {
        files.iter().map(|file| commit_file(books, account, now, &live, file)).collect()
    };
    match books.whole(all) {
        Ok(committed) => Ok(committed.into_iter().map(Ok).collect()),
        Err(Stop::Refused(refusal)) if files.len() == 1 => Ok(vec![Err(refusal)]),
        Err(Stop::Refused(_)) => commit_apart(books, account, now, &live, files),
        Err(stop) => Err(stop),
    }
}

/// Commits the files each on its own, so that one that is refused takes no other with it.
fn commit_apart(
    books: &mut Books,
    account: AccountId,
    now: WallTime,
    live: &LiveNodes,
    files: &[NewFile],
) -> Done<Vec<Result<Committed, Refusal>>> {
    let mut answers = Vec::with_capacity(files.len());
    for file in files {
        match books.whole(|books| commit_file(books, account, now, live, file)) {
            Ok(committed) => answers.push(Ok(committed)),
            Err(Stop::Refused(refusal)) => answers.push(Err(refusal)),
            Err(stop) => return Err(stop),
        }
    }
    Ok(answers)
}

fn commit_file(
    books: &mut Books,
    account: AccountId,
    now: WallTime,
    live: &LiveNodes,
    file: &NewFile,
) -> Done<Committed> {
    let place = place(books, account, file)?;
    let entry = place.entry.unwrap_or_else(|| books.draw());
    let version = Version(books.draw());
    match place.entry {
        Some(entry) => set_version(books, entry, version)?,
        None => add_entry(books, entry, account, place.parent, place.name, Some(version))?,
    }
    let mut packer = Packer::new(version, file.copies, live);
    match &file.manifest {
        Manifest::Inline(chunks) => packer.add_all(books, account, chunks)?,
        Manifest::Staged { upload, parts } => {
            add_staged(books, account, now, &mut packer, *upload, *parts)?;
        }
    }
    let content = packer.finish(books)?;
    let sql = "INSERT INTO versions (version, account, entry, previous, committed_at, size,
               chunk_count, copies, mtime_ms, is_executable, serials)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    books.conn.prepare_cached(sql)?.execute((
        signed(version.0),
        account.0,
        signed(entry),
        place.current.map(|version| signed(version.0)),
        time(now),
        signed(content.size),
        signed(content.chunk_count),
        file.copies,
        file.mtime_ms,
        file.executable,
        content.inline,
    ))?;
    match place.current {
        Some(previous) => end_version(books, previous, now)?,
        None => books.sums.files += 1,
    }
    Ok(Committed { version, size: content.size, under_copied: content.under_copied })
}

fn set_version(books: &Books, entry: u64, version: Version) -> Done<()> {
    let sql = "UPDATE entries SET version = ? WHERE id = ?";
    books.conn.prepare_cached(sql)?.execute((signed(version.0), signed(entry)))?;
    Ok(())
}

/// Where a file goes.
struct Place<'a> {
    parent: u64,
    name: &'a str,
    entry: Option<u64>,
    current: Option<Version>,
}

/// Judges the names of a new file, and makes the directories above it.
fn place<'a>(books: &mut Books, account: AccountId, file: &'a NewFile) -> Done<Place<'a>> {
    let path = &file.path;
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
        return Err(Refusal::IsADirectory(path.to_string()).into());
    };
    let parent = match file.parents {
        true => make_directories(books, account, &parent)?,
        false => find_directory(&books.conn, account, &parent)?,
    };
    let there = child(&books.conn, account, parent, name)?;
    if there.is_some_and(|node| node.is_directory()) {
        return Err(Refusal::IsADirectory(path.to_string()).into());
    }
    let current = there.and_then(|node| node.version);
    let is_met = match file.condition {
        Condition::Any => true,
        Condition::Absent => current.is_none(),
        Condition::Version(version) => current == Some(version),
    };
    if !is_met {
        return Err(Refusal::Conflict { path: path.to_string(), current }.into());
    }
    Ok(Place { parent, name, entry: there.map(|node| node.id), current })
}

/// Reads the staged parts of an upload in order, and clears them.
fn add_staged(
    books: &mut Books,
    account: AccountId,
    now: WallTime,
    packer: &mut Packer<'_>,
    upload: RequestId,
    parts: u32,
) -> Done<()> {
    for part in 0..parts {
        let sql = "SELECT ids FROM staged WHERE account = ? AND upload = ? AND part = ?
                   AND staged_at > ?";
        let oldest = time_before(now, PARTS_KEPT);
        let key = (account.0, upload.as_bytes(), part, oldest);
        let bytes: Option<Vec<u8>> =
            books.conn.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()?;
        let bytes = bytes.ok_or_else(|| {
            Refusal::BadManifest(format!("part {part} of {parts} of upload {upload} is not there"))
        })?;
        let ids = staged_ids(&bytes)
            .ok_or_else(|| Stop::Damaged(format!("part {part} of upload {upload}")))?;
        packer.add_all(books, account, &ids)?;
    }
    let sql = "DELETE FROM staged WHERE account = ? AND upload = ?";
    books.conn.prepare_cached(sql)?.execute((account.0, upload.as_bytes()))?;
    Ok(())
}

fn staged_ids(mut bytes: &[u8]) -> Option<Vec<ChunkId>> {
    let mut ids = Vec::new();
    while let Some((&length, rest)) = bytes.split_first() {
        let (id, rest) = rest.split_at_checked(length.into())?;
        ids.push(id_from_bytes(id)?);
        bytes = rest;
    }
    Some(ids)
}

/// Checks the chunks of a new version and writes its manifest, part by part: a file may have more
/// chunks than should be in memory at once.
struct Packer<'a> {
    version: Version,
    copies: u8,
    live: &'a LiveNodes,
    size: u64,
    chunk_count: u64,
    under_copied: BTreeSet<Serial>,
    missing: Missing,
    /// The serials that are not written yet.
    packed: Vec<u8>,
    parts_written: u64,
}

/// What the packer found and did not write itself.
struct Content {
    size: u64,
    chunk_count: u64,
    under_copied: Vec<Serial>,
    inline: Option<Vec<u8>>,
}

impl<'a> Packer<'a> {
    fn new(version: Version, copies: u8, live: &'a LiveNodes) -> Packer<'a> {
        Packer {
            version,
            copies,
            live,
            size: 0,
            chunk_count: 0,
            under_copied: BTreeSet::new(),
            missing: Missing::default(),
            packed: Vec::new(),
            parts_written: 0,
        }
    }

    fn add_all(&mut self, books: &mut Books, account: AccountId, ids: &[ChunkId]) -> Done<()> {
        for id in ids {
            match chunk_by_id(&books.conn, account, id)? {
                Some(row) if self.live_copies(&row) >= min_copies(self.copies).into() => {
                    self.add(books, &row)?;
                }
                _ => self.missing.add(*id),
            }
        }
        Ok(())
    }

    fn live_copies(&self, row: &ChunkRow) -> usize {
        row.record.copies.iter().filter(|copy| self.live.contains(&copy.node)).count()
    }

    fn add(&mut self, books: &mut Books, row: &ChunkRow) -> Done<()> {
        // What a refusal takes back anyway need not be written.
        if !self.missing.named.is_empty() {
            return Ok(());
        }
        let live_copies = self.live_copies(row);
        let row = refer(books, row, self.copies)?;
        if live_copies < row.record.wanted.into() {
            self.under_copied.insert(row.record.serial);
            if self.under_copied.len() > MAX_PART_CHUNKS {
                self.under_copied.pop_last();
            }
        }
        self.size += u64::from(row.record.length);
        self.chunk_count += 1;
        self.packed.extend_from_slice(&row.record.serial.0.to_be_bytes());
        if self.packed.len() == SERIALS_IN_PART * 8 {
            self.write_part(books)?;
        }
        Ok(())
    }

    fn write_part(&mut self, books: &Books) -> Done<()> {
        let sql = "INSERT INTO manifests (version, part, serials) VALUES (?, ?, ?)";
        let key = (signed(self.version.0), signed(self.parts_written));
        books.conn.prepare_cached(sql)?.execute((key.0, key.1, &self.packed))?;
        self.packed.clear();
        self.parts_written += 1;
        Ok(())
    }

    fn finish(mut self, books: &Books) -> Done<Content> {
        let missing = std::mem::take(&mut self.missing);
        missing.check()?;
        let is_short = self.parts_written == 0 && self.packed.len() <= MAX_INLINE_SERIALS * 8;
        if !is_short && !self.packed.is_empty() {
            self.write_part(books)?;
        }
        let inline = is_short.then_some(self.packed);
        let (size, chunk_count) = (self.size, self.chunk_count);
        let under_copied = self.under_copied.into_iter().collect();
        Ok(Content { size, chunk_count, under_copied, inline })
    }
}
