//! Where a fetched file arrives: a temporary file beside its target, which takes the target's name
//! when it is whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::{NamedTempFile, TempPath};

use crate::client::ClientError;
use crate::wire::to_main::FileFacts;

/// What a target becomes, apart from its bytes.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub path: PathBuf,
    pub mtime_ms: i64,
    pub executable: bool,
}

impl Target {
    pub fn new(path: PathBuf, facts: &FileFacts) -> Target {
        Target { path, mtime_ms: facts.mtime_ms, executable: facts.executable }
    }

    /// Writes a file that is whole already.
    pub fn write_whole(&self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut file = self.temporary()?;
        file.write_all(bytes).map_err(self.failed("write"))?;
        self.set_times(file.as_file())?;
        file.persist(&self.path).map_err(|error| self.failed("replace")(error.error))?;
        Ok(())
    }

    fn temporary(&self) -> Result<NamedTempFile, ClientError> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match std::fs::symlink_metadata(&self.path).map(|facts| facts.file_type()) {
            Ok(kind) if kind.is_dir() => {
                return Err(self.failed("replace")(io::ErrorKind::IsADirectory.into()));
            }
            // To put a file in the place of a device would be a bad surprise.
            Ok(kind) if !kind.is_file() && !kind.is_symlink() => {
                return Err(ClientError::Unsuitable("its target is a device, a socket or a pipe"));
            }
            Ok(_) | Err(_) => {}
        }
        // The umask of the process takes away from these what its user wants taken away.
        let mode = if self.executable { 0o777 } else { 0o666 };
        tempfile::Builder::new()
            .prefix(".p2pdfs-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory)
            .map_err(self.failed("write"))
    }

    fn set_times(&self, file: &File) -> Result<(), ClientError> {
        let span = Duration::from_millis(self.mtime_ms.unsigned_abs());
        let time = if self.mtime_ms < 0 {
            UNIX_EPOCH.checked_sub(span)
        } else {
            UNIX_EPOCH.checked_add(span)
        };
        // A time that this system cannot express says nothing of use.
        file.set_modified(time.unwrap_or(SystemTime::now())).map_err(self.failed("write"))
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> ClientError {
        let path = self.path.clone();
        move |source| ClientError::Io { doing, path, source }
    }
}

/// A file on its way, and where its chunks are put.
pub(super) enum Landing {
    /// One chunk or none: written in one go.
    Whole(Target),
    /// Written chunk by chunk, in any order.
    Parts(Target, TempPath),
    /// Handed on in order, what lies in the range.
    Stream(Range<u64>),
}

impl Landing {
    /// Prepares for a file of `chunk_count` chunks.
    pub fn prepare(target: Target, chunk_count: u64) -> Result<Landing, ClientError> {
        if chunk_count <= 1 {
            return Ok(Landing::Whole(target));
        }
        // Only its name is kept: thousands of files can be under way, and each would be open.
        let temporary = target.temporary()?.into_temp_path();
        Ok(Landing::Parts(target, temporary))
    }

    /// The local name.
    pub fn path(&self) -> &Path {
        match self {
            Landing::Whole(target) | Landing::Parts(target, _) => &target.path,
            Landing::Stream(_) => Path::new("-"),
        }
    }

    /// All chunks are in their places: the file takes its name.
    pub fn complete(&mut self, size: u64) -> Result<(), ClientError> {
        let Landing::Parts(target, temporary) = self else { return Ok(()) };
        let file = OpenOptions::new().write(true).open(&*temporary);
        let file = file.map_err(target.failed("write"))?;
        file.set_len(size).map_err(target.failed("write"))?;
        target.set_times(&file)?;
        let target = target.clone();
        let Landing::Parts(_, temporary) = std::mem::replace(self, Landing::Whole(target.clone()))
        else {
            return Ok(());
        };
        temporary.persist(&target.path).map_err(|error| target.failed("replace")(error.error))
    }
}

/// Writes bytes to their place in a temporary file.
pub(super) fn write_part(temporary: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).open(temporary)?.write_all_at(bytes, offset)
}
