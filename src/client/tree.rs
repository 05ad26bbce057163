//! Trees of files, here and in the store.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::{Client, ClientError};
use crate::remote_path::{PathError, RemotePath};
use crate::wire::to_main::FileFacts;

const NOT_UNICODE: ClientError =
    ClientError::Unsuitable("its name is not UTF-8, as names in the store are");

/// Something that stands in a local tree.
#[derive(Debug)]
pub struct LocalEntry {
    pub path: PathBuf,
    pub kind: LocalKind,
}

#[derive(Debug)]
pub enum LocalKind {
    /// A regular file, and where it goes.
    File { to: RemotePath, bytes: u64 },
    /// A directory with nothing in it, and where it goes.
    EmptyDirectory { to: RemotePath },
    /// What the store does not keep, with the reason.
    Skipped(&'static str),
    /// What cannot be stored.
    Failed(ClientError),
}

/// Everything below the directory `root`, which goes to `to`, in the order of the names.
pub fn walk_local(root: &Path, to: &RemotePath) -> Vec<LocalEntry> {
    let mut entries = Vec::new();
    let mut directories = vec![(root.to_path_buf(), to.clone())];
    while let Some((directory, to)) = directories.pop() {
        let names = match names_in(&directory) {
            Ok(names) => names,
            Err(source) => {
                let kind = LocalKind::Failed(cannot_read(&directory, source));
                entries.push(LocalEntry { path: directory, kind });
                continue;
            }
        };
        if names.is_empty() {
            entries.push(LocalEntry { path: directory, kind: LocalKind::EmptyDirectory { to } });
            continue;
        }
        let mut below = Vec::new();
        for name in names {
            let path = directory.join(&name);
            match look_at(&path, &name, &to) {
                Ok(Found::Directory(to)) => below.push((path, to)),
                Ok(Found::Entry(kind)) => entries.push(LocalEntry { path, kind }),
                Err(error) => entries.push(LocalEntry { path, kind: LocalKind::Failed(error) }),
            }
        }
        directories.extend(below.into_iter().rev());
    }
    entries
}

enum Found {
    Directory(RemotePath),
    Entry(LocalKind),
}

fn names_in(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name());
    }
    names.sort();
    Ok(names)
}

fn look_at(path: &Path, name: &OsString, to: &RemotePath) -> Result<Found, ClientError> {
    let facts = std::fs::symlink_metadata(path).map_err(|source| cannot_read(path, source))?;
    let kind = facts.file_type();
    if kind.is_symlink() {
        return Ok(Found::Entry(LocalKind::Skipped("it is a symbolic link")));
    }
    if !kind.is_dir() && !kind.is_file() {
        return Ok(Found::Entry(LocalKind::Skipped("it is neither a file nor a directory")));
    }
    let text = name.to_str().ok_or(NOT_UNICODE)?;
    let to = to.join(text)?;
    if kind.is_dir() {
        return Ok(Found::Directory(to));
    }
    Ok(Found::Entry(LocalKind::File { to, bytes: facts.len() }))
}

fn cannot_read(path: &Path, source: io::Error) -> ClientError {
    ClientError::Io { doing: "read", path: path.to_path_buf(), source }
}

/// Something that stands in a tree of the store.
#[derive(Debug, Clone)]
pub struct RemoteEntry {
    pub path: RemotePath,
    /// A directory when it is missing.
    pub file: Option<FileFacts>,
}

impl RemoteEntry {
    /// Where this, found below `root`, goes when `root` goes to `to`.
    pub fn below(&self, root: &RemotePath, to: &Path) -> PathBuf {
        let depth = root.components().count();
        // Each component of a `RemotePath` is a plain name: none leads upwards or elsewhere.
        let mut local = to.to_path_buf();
        local.extend(self.path.components().skip(depth));
        local
    }
}

impl Client {
    /// Everything below the directory `root`; a directory comes before what is in it.
    pub fn walk(&self, root: &RemotePath) -> Result<Vec<RemoteEntry>, ClientError> {
        let mut entries = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            let mut below = Vec::new();
            self.for_each_in(&directory, |path, file| {
                if file.is_none() {
                    below.push(path.clone());
                }
                entries.push(RemoteEntry { path, file });
            })?;
            directories.extend(below.into_iter().rev());
        }
        Ok(entries)
    }

    /// Shows what is in a directory, page by page, in the order of the names' bytes.
    pub fn for_each_in(
        &self,
        directory: &RemotePath,
        mut seen: impl FnMut(RemotePath, Option<FileFacts>),
    ) -> Result<(), ClientError> {
        let mut after = None;
        loop {
            let page = self.list(directory, after)?;
            let entries = page.entries.into_vec();
            after = entries.last().map(|entry| entry.name.clone());
            for entry in entries {
                // The server checked the name when it came in, but not for our sake.
                let path = directory.join(&entry.name)?;
                seen(path, entry.file);
            }
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }
}

/// The files below some paths of the store, asked for page by page as they are wanted: of a tree of
/// any size, little is in memory. After an error there are no more.
pub struct Files<'a> {
    client: &'a Client,
    roots: VecDeque<RemotePath>,
    /// Those that are still to be looked into; the last comes next.
    directories: Vec<RemotePath>,
    /// The directory that is being listed, and the last name seen in it.
    listing: Option<(RemotePath, String)>,
    ready: VecDeque<(RemotePath, FileFacts)>,
}

impl Client {
    /// The files at and below `roots`, in their order.
    pub fn files(&self, roots: &[RemotePath]) -> Files<'_> {
        Files {
            client: self,
            roots: roots.iter().cloned().collect(),
            directories: Vec::new(),
            listing: None,
            ready: VecDeque::new(),
        }
    }
}

impl Files<'_> {
    fn look_further(&mut self) -> Result<bool, ClientError> {
        let page = match (self.listing.take(), self.directories.pop()) {
            (Some((directory, after)), next) => {
                self.directories.extend(next);
                Some((directory, Some(after)))
            }
            (None, Some(directory)) => Some((directory, None)),
            (None, None) => None,
        };
        if let Some((directory, after)) = page {
            return self.list(directory, after).map(|()| true);
        }
        let Some(root) = self.roots.pop_front() else { return Ok(false) };
        match self.client.stat(&root)?.file {
            Some(facts) => self.ready.push_back((root, facts)),
            None => self.directories.push(root),
        }
        Ok(true)
    }

    fn list(&mut self, directory: RemotePath, after: Option<String>) -> Result<(), ClientError> {
        let page = self.client.list(&directory, after)?;
        let entries = page.entries.into_vec();
        let last = entries.last().map(|entry| entry.name.clone());
        for entry in entries {
            let path = directory.join(&entry.name)?;
            match entry.file {
                Some(facts) => self.ready.push_back((path, facts)),
                None => self.directories.push(path),
            }
        }
        self.listing = last.filter(|_| page.more).map(|last| (directory, last));
        Ok(())
    }
}

impl Iterator for Files<'_> {
    type Item = Result<(RemotePath, FileFacts), ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(file) = self.ready.pop_front() {
                return Some(Ok(file));
            }
            match self.look_further() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    (self.roots, self.listing) = (VecDeque::new(), None);
                    self.directories.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Makes a directory inside of a target tree, unless it is there. What is there under its name
/// must be a directory itself: a symbolic link could lead out of the tree.
pub fn make_local_directory(path: &Path) -> Result<(), ClientError> {
    let failed =
        |source| ClientError::Io { doing: "make the directory", path: path.into(), source };
    match std::fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => Ok(()),
        Ok(_) => Err(failed(io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// A local file's name as a name in the store.
pub fn stored_name(path: &Path) -> Result<String, ClientError> {
    let name = path.file_name().ok_or(PathError::BadComponent(path.display().to_string()))?;
    let text = name.to_str().ok_or(NOT_UNICODE)?;
    crate::remote_path::check_name(text)?;
    Ok(text.to_string())
}
