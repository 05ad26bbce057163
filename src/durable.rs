//! Making things durable: every sync of the program goes through here and has a name.
//!
//! A debug build can leave one out by name (`P2PDFS_LEAVE_OUT_SYNC=segment-data`), so that the
//! power-cut tests can show that each one is needed. It can also keep a journal of new directory
//! entries and directory syncs (`P2PDFS_ENTRY_JOURNAL=FILE`): ext4 happens to make a new file's
//! entry durable together with the file, POSIX promises it only after a sync of the directory, and
//! with the journal a test can take away what POSIX does not promise. A release build has neither.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

/// The syncs of the program, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPoint {
    /// The records of a segment, before any of them is confirmed.
    SegmentData,
    /// The directory entry of a new segment, before anything in it is confirmed.
    SegmentDirectory,
    /// The content of a small file (identity, keys, marker), before it takes its name.
    StateData,
    /// The name of such a file, before anybody relies on it.
    StateDirectory,
    /// The catalog's log, before an operation is answered.
    CatalogCommit,
    /// What a node keeps of the catalog's journal, before it says so.
    JournalData,
}

impl SyncPoint {
    /// All of them, for the test that leaves each out in turn.
    pub const ALL: [SyncPoint; 6] = [
        SyncPoint::SegmentData,
        SyncPoint::SegmentDirectory,
        SyncPoint::StateData,
        SyncPoint::StateDirectory,
        SyncPoint::CatalogCommit,
        SyncPoint::JournalData,
    ];

    /// The name by which it can be left out.
    pub fn name(self) -> &'static str {
        match self {
            SyncPoint::SegmentData => "segment-data",
            SyncPoint::SegmentDirectory => "segment-directory",
            SyncPoint::StateData => "state-data",
            SyncPoint::StateDirectory => "state-directory",
            SyncPoint::CatalogCommit => "catalog-commit",
            SyncPoint::JournalData => "journal-data",
        }
    }

    /// True in a debug build that was told to leave this sync out.
    pub fn is_left_out(self) -> bool {
        cfg!(debug_assertions)
            && std::env::var_os("P2PDFS_LEAVE_OUT_SYNC").is_some_and(|name| name == self.name())
    }
}

/// Waits until the file's data, and the metadata needed to read it back, are on the disk.
#[expect(clippy::disallowed_methods, reason = "the one place that syncs a file")]
pub fn sync_file(file: &File, point: SyncPoint) -> io::Result<()> {
    if point.is_left_out() { Ok(()) } else { file.sync_data() }
}

/// Waits until the entries of a directory are on the disk.
#[expect(clippy::disallowed_methods, reason = "the one place that syncs a directory")]
pub fn sync_directory(directory: &Path, point: SyncPoint) -> io::Result<()> {
    if point.is_left_out() {
        return Ok(());
    }
    File::open(directory)?.sync_all()?;
    journal("synced", directory);
    Ok(())
}

/// Makes the next read of a file that another process may have left unsynced come from the disk.
///
/// Linux marks pages clean whose writeback failed, and keeps them: a later process reads them as if
/// they were stored, and its own sync of them succeeds without writing anything, since the failure
/// was reported to the process before it (fsync(2); A. Rebello et al., Can Applications Recover from
/// fsync Failures?, USENIX ATC 2020). So what is still dirty is written first, and then all is
/// dropped that the cache holds.
pub fn drop_cached(file: &File, point: SyncPoint) -> io::Result<()> {
    if point.is_left_out() {
        return Ok(());
    }
    sync_file(file, point)?;
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}

/// Makes a directory and those above it that are missing, readable by their owner alone. Each new
/// one is durable when this returns; one that is there already stays as it is.
pub fn make_directories(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    make_directories(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => entry_created(path),
        // Another process was faster; whether it has synced the entry nobody knows.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync_directory(parent, SyncPoint::StateDirectory)
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Notes that `path` is a new directory entry, whose directory is yet to be synced.
pub fn entry_created(path: &Path) {
    journal("created", path);
}

fn journal(event: &str, path: &Path) {
    if !cfg!(debug_assertions) {
        return;
    }
    let Some(file) = std::env::var_os("P2PDFS_ENTRY_JOURNAL") else { return };
    let line = format!("{event} {}\n", path.display());
    let written = OpenOptions::new().create(true).append(true).open(PathBuf::from(file));
    if let Err(error) = written.and_then(|mut file| file.write_all(line.as_bytes())) {
        log::error!("the journal of directory entries cannot be written: {error}");
    }
}

/// Gives `path` this content, whole or not at all: after a crash it holds either the old content or
/// the new one. The file is readable by its owner alone. Durable when this returns.
///
/// There must be one writer of `path` at a time: the content goes through `path` with `.new` added.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    sync_file(&file, SyncPoint::StateData)?;
    let is_new = !path.exists();
    std::fs::rename(&temporary, path)?;
    if is_new {
        entry_created(path);
    }
    sync_directory(parent_of(path), SyncPoint::StateDirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn missing_directories_are_made_at_every_level_and_others_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (top, deepest) = (directory.path().join("a"), directory.path().join("a/b/c"));
        make_directories(&deepest).unwrap();
        assert!(deepest.is_dir());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&top), mode(&deepest)), (0o700, 0o700));
        std::fs::set_permissions(&top, PermissionsExt::from_mode(0o755)).unwrap();
        make_directories(&deepest).unwrap();
        assert_eq!(mode(&top), 0o755);
    }

    #[test]
    fn no_directory_is_made_in_the_place_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = make_directories(&file).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(make_directories(&file.join("below")).is_err());
    }
}
